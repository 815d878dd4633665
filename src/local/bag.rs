//! Resource arithmetic: scalars in thousandths, ranges as sets. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::json::{items, number};

/// Mesos keeps three decimals.
const MILLI: f64 = 1000.0;
/// The smallest allocation that Mesos offers: this much CPU, in thousandths, ...
const MIN_CPUS_MILLI: i64 = 10;
/// ... or this much memory, in thousandths of a MiB.
const MIN_MEM_MILLI: i64 = 32_000;

/// Amounts of resources by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bag {
    scalars: BTreeMap<String, i64>,
    /// Inclusive ranges, sorted and apart.
    ranges: BTreeMap<String, Vec<(u64, u64)>>,
}

impl Bag {
    /// A machine's resources; memory and disk in MiB.
    pub fn machine(cpus: f64, mem: u64, disk: u64, ports: (u16, u16)) -> Bag {
        let mut bag = Bag::default();
        bag.scalars.insert("cpus".to_string(), milli(cpus));
        #[allow(clippy::cast_possible_wrap)] // A machine has less than 2^53 MiB.
        for (name, mib) in [("mem", mem), ("disk", disk)] {
            bag.scalars.insert(name.to_string(), mib as i64 * 1000);
        }
        bag.ranges.insert("ports".to_string(), vec![(u64::from(ports.0), u64::from(ports.1))]);
        bag
    }

    /// From a list of Mesos' `Resource`. Reserved, revocable and volume resources are of a kind of
    /// their own, which no agent here has.
    pub fn from_json(resources: &Value) -> Bag {
        let mut bag = Bag::default();
        for resource in items(resources) {
            let plain = items(&resource["reservations"]).next().is_none()
                && resource["disk"].is_null()
                && resource["revocable"].is_null();
            let name = resource["name"].as_str().unwrap_or_default();
            let name = if plain { name.to_string() } else { format!("{name}(special)") };
            if let Some(value) = number(&resource["scalar"]["value"]) {
                *bag.scalars.entry(name).or_default() += milli(value);
            } else {
                let ranges = items(&resource["ranges"]["range"])
                    .filter_map(|r| Some((r["begin"].as_u64()?, r["end"].as_u64()?)))
                    .filter(|(begin, end)| begin <= end);
                let mine = bag.ranges.entry(name).or_default();
                *mine = union(mine.iter().copied().chain(ranges).collect());
            }
        }
        bag.tidy();
        bag
    }

    /// As a list of Mesos' `Resource`, each with `more` merged into it.
    pub fn to_json(&self, more: &Value) -> Value {
        let ranges = self.ranges.iter().map(|(name, ranges)| {
            let ranges: Vec<Value> = ranges.iter().map(|(b, e)| json!({"begin": b, "end": e})).collect();
            json!({"name": name, "type": "RANGES", "ranges": {"range": ranges}})
        });
        let scalars = self.scalars.iter().map(|(name, milli)| {
            #[allow(clippy::cast_precision_loss)] // Less than 2^53 thousandths.
            let value = *milli as f64 / MILLI;
            json!({"name": name, "type": "SCALAR", "scalar": {"value": value}})
        });
        let list = ranges.chain(scalars).map(|mut resource| {
            for (key, value) in more.as_object().into_iter().flatten() {
                resource[key] = value.clone();
            }
            resource
        });
        Value::Array(list.collect())
    }

    /// As Mesos words it in messages: `cpus(allocated: redis):3; ports(allocated: redis):[80-80]`.
    pub fn text(&self, role: &str) -> String {
        let mut parts = Vec::new();
        for (name, milli) in &self.scalars {
            #[allow(clippy::cast_precision_loss)]
            let value = *milli as f64 / MILLI;
            parts.push(format!("{name}(allocated: {role}):{value}"));
        }
        for (name, ranges) in &self.ranges {
            let mut text = String::new();
            for (begin, end) in ranges {
                let comma = if text.is_empty() { "" } else { ", " };
                let _ = write!(text, "{comma}{begin}-{end}"); // Writing to a String cannot fail.
            }
            parts.push(format!("{name}(allocated: {role}):[{text}]"));
        }
        parts.join("; ")
    }

    /// Whether `other` is a part of this.
    pub fn contains(&self, other: &Bag) -> bool {
        other.scalars.iter().all(|(name, amount)| self.scalars.get(name).is_some_and(|mine| mine >= amount))
            && other.ranges.iter().all(|(name, ranges)| {
                let mine = self.ranges.get(name).map_or(&[][..], Vec::as_slice);
                ranges.iter().all(|(begin, end)| mine.iter().any(|(b, e)| b <= begin && end <= e))
            })
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Bag) {
        for (name, amount) in &other.scalars {
            *self.scalars.entry(name.clone()).or_default() += amount;
        }
        for (name, ranges) in &other.ranges {
            let mine = self.ranges.entry(name.clone()).or_default();
            *mine = union(mine.iter().chain(ranges).copied().collect());
        }
    }

    /// Takes `other` away; what is not here is not missed.
    pub fn subtract(&mut self, other: &Bag) {
        for (name, amount) in &other.scalars {
            if let Some(mine) = self.scalars.get_mut(name) {
                *mine -= amount;
            }
        }
        for (name, ranges) in &other.ranges {
            if let Some(mine) = self.ranges.get_mut(name) {
                *mine = ranges.iter().fold(std::mem::take(mine), |mine, cut| without(&mine, *cut));
            }
        }
        self.tidy();
    }

    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        self.scalars.is_empty() && self.ranges.is_empty()
    }

    /// Enough to be worth an offer.
    pub fn allocatable(&self) -> bool {
        let has = |name: &str, min| self.scalars.get(name).is_some_and(|amount| *amount >= min);
        has("cpus", MIN_CPUS_MILLI) || has("mem", MIN_MEM_MILLI)
    }

    /// The larger of the shares of `total`'s CPUs and memory, in millionths.
    pub fn dominant_share(&self, total: &Bag) -> i64 {
        let share = |name: &str| {
            let of = |bag: &Bag| bag.scalars.get(name).copied().unwrap_or(0);
            of(self).saturating_mul(1_000_000) / of(total).max(1)
        };
        share("cpus").max(share("mem"))
    }

    /// All ports, one by one.
    pub fn ports(&self) -> Vec<u16> {
        let ranges = self.ranges.get("ports").into_iter().flatten();
        ranges.flat_map(|(begin, end)| *begin..=*end).filter_map(|port| u16::try_from(port).ok()).collect()
    }

    fn tidy(&mut self) {
        self.scalars.retain(|_, amount| *amount > 0);
        self.ranges.retain(|_, ranges| !ranges.is_empty());
    }
}

#[allow(clippy::cast_possible_truncation)] // Saturates; an amount that large fits nowhere.
fn milli(value: f64) -> i64 {
    (value * MILLI).round() as i64
}

fn union(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (begin, end) in ranges {
        match merged.last_mut() {
            Some(last) if begin <= last.1.saturating_add(1) => last.1 = last.1.max(end),
            _ => merged.push((begin, end)),
        }
    }
    merged
}

fn without(ranges: &[(u64, u64)], cut: (u64, u64)) -> Vec<(u64, u64)> {
    let mut left = Vec::with_capacity(ranges.len() + 1);
    for &(begin, end) in ranges {
        if cut.0 > end || cut.1 < begin {
            left.push((begin, end));
            continue;
        }
        if begin < cut.0 {
            left.push((begin, cut.0 - 1));
        }
        if end > cut.1 {
            left.push((cut.1 + 1, end));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(ranges: &[(u64, u64)]) -> Bag {
        Bag { ranges: BTreeMap::from([("ports".to_string(), ranges.to_vec())]), ..Bag::default() }
    }

    #[test]
    fn what_is_taken_away_can_be_put_back() {
        let whole = Bag::machine(4.0, 4096, 10_000, (25_000, 25_099));
        let part = Bag::machine(0.1, 32, 0, (25_010, 25_011));
        let mut bag = whole.clone();
        bag.subtract(&part);
        assert!(whole.contains(&bag));
        assert!(!bag.contains(&whole));
        bag.add(&part);
        assert_eq!(bag, whole);
    }

    #[test]
    fn ranges_split_and_join() {
        let mut bag = ports(&[(1, 10)]);
        bag.subtract(&ports(&[(4, 5)]));
        assert_eq!(bag, ports(&[(1, 3), (6, 10)]));
        assert!(!bag.contains(&ports(&[(3, 4)])));
        bag.add(&ports(&[(4, 5)]));
        assert_eq!(bag, ports(&[(1, 10)]));
    }

    #[test]
    fn a_reserved_resource_is_not_the_plain_one() {
        let reserved =
            json!([{"name": "cpus", "type": "SCALAR", "scalar": {"value": 1}, "reservations": [{"role": "r"}]}]);
        assert!(!Bag::machine(4.0, 4096, 0, (1, 2)).contains(&Bag::from_json(&reserved)));
    }
}
