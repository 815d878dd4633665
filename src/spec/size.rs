//! Sizes, CPU shares and periods as people write them. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A size in bytes. Written as `256Mi`, `1Gi` (powers of 1024), `256M`, `1G` (powers of 1000), or a
/// plain number, which means mebibytes as it did in mr-redis (and does in Mesos).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 4] = [("Gi", 1 << 30), ("Mi", 1 << 20), ("G", 1_000_000_000), ("M", 1_000_000)];

/// What a size may look like, for messages.
pub const SIZE_FORMS: &str = "a size such as 256Mi, 1Gi, 256M, 1G, or a plain number of mebibytes";

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|digits| (digits, *unit)))
            .unwrap_or((text, 1 << 20));
        let number: u64 = whole(digits).ok_or_else(|| format!("{text:?} is not {SIZE_FORMS}"))?;
        number.checked_mul(unit).map(Size).ok_or_else(|| format!("{text:?} is too large"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit)) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}Mi", self.0.div_ceil(1 << 20)),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A YAML or JSON scalar as text; booleans as Redis has them. What is no scalar is refused with the
/// words of what was expected.
struct Scalar(&'static str);

impl Visitor<'_> for Scalar {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<String, E> {
        Ok(if v { "yes" } else { "no" }.to_string())
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<String, E> {
        Ok(v.to_string())
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<String, E> {
        Ok(v.to_string())
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<String, E> {
        Ok(v.to_string())
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<String, E> {
        Ok(v.to_string())
    }
}

impl<'de> DeserializeSeed<'de> for Scalar {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<String, D::Error> {
        d.deserialize_any(self)
    }
}

/// A whole number as people write it: digits only, where Rust would also take a sign.
pub(crate) fn whole<N: FromStr>(digits: &str) -> Option<N> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Scalar(SIZE_FORMS).deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Mi and Gi are powers of 1024, M and G powers of 1000; a plain number means mebibytes.",
            "anyOf": [
                {"type": "string", "pattern": "^[0-9]+(Mi|Gi|M|G)?$"},
                {"type": "integer", "minimum": 1}
            ]
        })
    }
}

/// A CPU share, in thousandths of a core. Written as a number of cores: `0.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(pub u64);

impl Default for Cpus {
    fn default() -> Self {
        Cpus(100)
    }
}

impl fmt::Display for Cpus {
    #[allow(clippy::cast_precision_loss)] // Thousandths of cores are small.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 as f64 / 1000.0)
    }
}

impl Serialize for Cpus {
    #[allow(clippy::cast_precision_loss)]
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(self.0 as f64 / 1000.0)
    }
}

/// What a CPU share may look like, for messages.
const CPUS_FORM: &str = "a number of cores such as 0.1";

impl FromStr for Cpus {
    type Err = String;

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Checked just before.
    fn from_str(text: &str) -> Result<Self, String> {
        let cores = text.parse().ok().filter(|cores: &f64| (0.0..=1e6).contains(cores));
        let cores = cores.ok_or_else(|| format!("{text:?} is not {CPUS_FORM}"))?;
        Ok(Cpus((cores * 1000.0).round() as u64))
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Scalar(CPUS_FORM).deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Cpus {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cpus".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "Cores; three decimals count.", "type": "number", "minimum": 0.01, "maximum": 256})
    }
}

/// A period in milliseconds. Written as `250ms`, `90s`, `5m`, `2h`, `3d`, `4w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub u64);

/// `ms` first: it ends in `s`. Then the longest first, as they are printed.
const PERIODS: [(&str, u64); 6] =
    [("ms", 1), ("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

/// What a period may look like, for messages.
const PERIOD_FORMS: &str = "a period such as 250ms, 90s, 5m, 2h, 3d or 4w";

impl Default for Period {
    /// The default of `replaceUnreachableAfter`.
    fn default() -> Self {
        Period(300_000)
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not {PERIOD_FORMS}");
        let (digits, unit) = PERIODS
            .iter()
            .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|digits| (digits, *unit)))
            .ok_or_else(form)?;
        let number: u64 = whole(digits).ok_or_else(form)?;
        number.checked_mul(unit).map(Period).ok_or_else(|| format!("{text:?} is too long"))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PERIODS[1..].iter().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit)) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}ms", self.0),
        }
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Scalar(PERIOD_FORMS).deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Period {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Period".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "A period: 250ms, 90s, 5m, 2h, 3d, 4w.", "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d|w)$"})
    }
}

/// `redis.config`: values may be written as numbers and booleans (`yes` and `no` to Redis).
pub fn config<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Config;

    impl<'de> Visitor<'de> for Config {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut config = BTreeMap::new();
            while let Some(key) = access.next_key()? {
                config.insert(key, access.next_value_seed(Scalar("text, a number, yes or no"))?);
            }
            Ok(config)
        }
    }

    d.deserialize_map(Config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_and_decimal_units_differ_and_a_plain_number_means_mebibytes() {
        let bytes = |text: &str| text.parse::<Size>().map(|size| size.0);
        assert_eq!(bytes("256Mi"), Ok(256 << 20));
        assert_eq!(bytes("1Gi"), Ok(1 << 30));
        assert_eq!(bytes("256M"), Ok(256_000_000));
        assert_eq!(bytes("1G"), Ok(1_000_000_000));
        assert_eq!(bytes("100"), Ok(100 << 20));
        for wrong in ["", "Mi", "12x", "1.5Gi", "-1", "+1Mi", "1 Mi", "1mi", "99999999999999999999"] {
            assert!(bytes(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_and_periods_print_as_they_are_read() {
        for text in ["256Mi", "1Gi", "256M", "1G", "3M"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for text in ["250ms", "90s", "5m", "2h", "3d", "4w"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_period_prints_in_the_largest_unit_that_fits_and_parses_back() {
        for (text, ms) in [("0ms", 0), ("250ms", 250), ("90s", 90_000), ("1h", 3_600_000), ("3d", 259_200_000)] {
            assert_eq!(text.parse(), Ok(Period(ms)));
            assert_eq!(Period(ms).to_string(), text);
        }
        assert_eq!("672h".parse::<Period>().map(|p| p.to_string()), Ok("4w".to_string()));
    }

    #[test]
    fn a_period_without_a_unit_or_too_long_is_refused() {
        for text in ["", "5", "s", "5 s", "-5s", "1.5h", "99999999999999999w"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }
}
