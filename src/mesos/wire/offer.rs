//! Offers and inverse offers exactly as their JSON has them, and what they are in our words. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::Id;
use crate::model::{Amount, InverseOffer, Offer, Piece, Timestamp};
use crate::plain::{NAME_CHARS_MAX, is_name, plain};

/// Attributes of an agent that are looked at: more say no more.
const ATTRIBUTES_MAX: usize = 256;
/// Pieces of an offer that are looked at: a few for each of its resources.
const PIECES_MAX: usize = 1024;
/// Ranges of a piece that are looked at: with so many holes there are as many free ports.
const RANGES_MAX: usize = 4096;
/// The most bytes of the reservations of a piece, which are sent back as they came.
const RESERVATIONS_BYTES_MAX: usize = 16 << 10;

/// An offer.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct WireOffer {
    id: Id,
    agent_id: Id,
    hostname: String,
    url: Url,
    domain: Domain,
    allocation_info: AllocationInfo,
    attributes: Vec<Attribute>,
    unavailability: Option<Unavailability>,
    resources: Vec<Resource>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Url {
    address: UrlAddress,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct UrlAddress {
    ip: String,
}

/// Where an agent is.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Domain {
    /// The region and the zone.
    pub fault_domain: FaultDomain,
}

/// Its region and zone.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct FaultDomain {
    /// The region.
    pub region: Name,
    /// The zone.
    pub zone: Name,
}

/// One of them.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Name {
    /// As the agent says it.
    pub name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AllocationInfo {
    role: String,
}

/// A maintenance window.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Unavailability {
    start: Time,
}

impl Unavailability {
    /// When it begins.
    pub fn from(&self) -> Timestamp {
        timestamp(self.start.nanoseconds)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Time {
    nanoseconds: i64,
}

/// `Attribute` and `Resource` share Mesos' ways to give a value: of these, one is set.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Attribute {
    name: String,
    text: Option<Text>,
    scalar: Option<Scalar>,
    ranges: Option<Ranges>,
    set: Option<Set>,
}

/// A resource, offered or had.
#[derive(Clone, Deserialize, Default)]
#[serde(default)]
pub struct Resource {
    name: String,
    scalar: Option<Scalar>,
    ranges: Option<Ranges>,
    reservations: Option<Value>,
    /// The former form of `reservations`; `*` when unreserved.
    role: String,
    revocable: Option<Value>,
    shared: Option<Value>,
    disk: Option<Value>,
}

/// A text.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Text {
    value: String,
}

/// An amount.
#[derive(Clone, Deserialize, Default)]
#[serde(default)]
pub struct Scalar {
    value: f64,
}

/// Ranges.
#[derive(Clone, Deserialize, Default)]
#[serde(default)]
pub struct Ranges {
    range: Vec<Range>,
}

/// A range, both ends in it.
#[derive(Clone, Deserialize, Default)]
#[serde(default)]
pub struct Range {
    begin: u64,
    end: u64,
}

/// A set.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Set {
    item: Vec<String>,
}

/// An inverse offer.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct WireInverseOffer {
    id: Id,
    agent_id: Id,
    unavailability: Unavailability,
}

impl WireInverseOffer {
    /// None: it cannot be answered.
    pub fn convert(self) -> Option<InverseOffer> {
        let from = self.unavailability.from();
        Some(InverseOffer { id: self.id.sound()?, agent_id: self.agent_id.sound()?, from })
    }
}

impl WireOffer {
    /// None: it cannot be accepted or declined.
    pub fn convert(self) -> Option<Offer> {
        let (ip, hostname) = (name(&self.url.address.ip), name(&self.hostname));
        Some(Offer {
            id: self.id.sound()?,
            agent_id: self.agent_id.sound()?,
            host: if ip.is_empty() { hostname.clone() } else { ip },
            hostname,
            role: name(&self.allocation_info.role),
            attributes: attributes(self.attributes, self.domain.fault_domain),
            unavailable_from: self.unavailability.as_ref().map(Unavailability::from),
            pieces: self.resources.into_iter().take(PIECES_MAX).filter_map(Resource::convert).collect(),
        })
    }
}

fn name(text: &str) -> String {
    plain(text, NAME_CHARS_MAX)
}

/// Attributes as text. An attribute may be there twice: the first counts, as for Mesos itself.
pub fn attributes(attributes: Vec<Attribute>, fault_domain: FaultDomain) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for attribute in attributes.into_iter().take(ATTRIBUTES_MAX) {
        let text = name(&attribute.text());
        texts.entry(name(&attribute.name)).or_insert(text);
    }
    for (key, domain) in [("region", fault_domain.region.name), ("zone", fault_domain.zone.name)] {
        let name = name(&domain);
        if !name.is_empty() {
            texts.entry(key.to_string()).or_insert_with(|| name.clone());
            texts.insert(format!("@{key}"), name);
        }
    }
    texts
}

impl Attribute {
    /// In Mesos' notation: `ssd`, `2.5`, `[1-5, 7-9]`, `{a, b}`.
    fn text(&self) -> String {
        if let Some(text) = &self.text {
            text.value.clone()
        } else if let Some(scalar) = &self.scalar {
            scalar.value.to_string()
        } else if let Some(ranges) = &self.ranges {
            let ranges: Vec<String> =
                ranges.range.iter().take(NAME_CHARS_MAX).map(|r| format!("{}-{}", r.begin, r.end)).collect();
            format!("[{}]", ranges.join(", "))
        } else if let Some(set) = &self.set {
            format!("{{{}}}", set.item[..set.item.len().min(NAME_CHARS_MAX)].join(", "))
        } else {
            String::new()
        }
    }
}

impl Resource {
    /// `None` for what a database must not be put on, or what we do not use: revocable and shared
    /// resources, volumes and disks of their own, sets.
    pub fn convert(self) -> Option<Piece> {
        // A reservation in the former form could not be echoed as it came.
        let former_reservation = self.reservations.is_none() && !matches!(self.role.as_str(), "" | "*");
        if self.revocable.is_some() || self.shared.is_some() || self.disk.is_some() || former_reservation {
            return None;
        }
        let amount = match (self.scalar, self.ranges) {
            (Some(scalar), _) => Amount::Milli(milli(scalar.value)),
            (None, Some(ranges)) => {
                Amount::Ranges(ranges.range.iter().take(RANGES_MAX).filter_map(Range::convert).collect())
            }
            (None, None) => return None,
        };
        let reservations = self.reservations.filter(|list| list.as_array().is_some_and(|list| !list.is_empty()));
        let fits = reservations.as_ref().is_none_or(|list| list.to_string().len() <= RESERVATIONS_BYTES_MAX);
        (fits && is_name(&self.name)).then_some(())?;
        Some(Piece { name: self.name, amount, reservations: reservations.unwrap_or_default() })
    }
}

impl Range {
    /// The part of the range that can be a port.
    fn convert(&self) -> Option<(u16, u16)> {
        let begin = u16::try_from(self.begin).ok()?;
        let end = u16::try_from(self.end).unwrap_or(u16::MAX);
        (begin <= end).then_some((begin, end))
    }
}

/// The largest amount that is believed, in thousandths: sums of many stay far from overflow.
const MILLI_MAX: f64 = 1e15;

/// Mesos' floating point amount in thousandths: it keeps three decimals. Rubbish is 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Clamped before; NaN is 0.
fn milli(value: f64) -> u64 {
    (value * 1000.0).round().clamp(0.0, MILLI_MAX) as u64
}

fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp(u64::try_from(nanoseconds / 1_000_000).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_offer(offer: &Value) -> Offer {
        serde_json::from_value::<WireOffer>(offer.clone()).unwrap().convert().unwrap()
    }

    fn read_pieces(resources: &Value) -> Vec<Piece> {
        read_offer(&json!({"resources": resources})).pieces
    }

    #[test]
    fn an_offer_is_read_with_all_that_placement_needs() {
        let offer = read_offer(&json!({
            "id": {"value": "O812"}, "framework_id": {"value": "F"}, "agent_id": {"value": "S4"}, "hostname": "n7",
            "url": {"scheme": "http", "address": {"hostname": "n7", "ip": "10.0.1.7", "port": 5051}},
            "domain": {"fault_domain": {"region": {"name": "eu-1"}, "zone": {"name": "rack-b"}}},
            "allocation_info": {"role": "redis/prod"},
            "attributes": [
                {"name": "rack", "type": "TEXT", "text": {"value": "r2"}},
                {"name": "rack", "type": "TEXT", "text": {"value": "second"}},
                {"name": "speed", "type": "SCALAR", "scalar": {"value": 2.5}},
                {"name": "level", "type": "SCALAR", "scalar": {"value": 4.0}},
                {"name": "rows", "type": "RANGES", "ranges": {"range": [{"begin": 1, "end": 5}, {"begin": 7, "end": 9}]}},
                {"name": "disks", "type": "SET", "set": {"item": ["ssd", "hdd"]}},
                {"name": "zone", "type": "TEXT", "text": {"value": "here"}},
                {"name": "odd", "type": "NEW"}],
            "unavailability": {"start": {"nanoseconds": 1_767_225_600_123_456_789_i64}},
            "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 3.5}}]}));
        let attributes = [
            ("@region", "eu-1"),
            ("@zone", "rack-b"),
            ("disks", "{ssd, hdd}"),
            ("level", "4"),
            ("odd", ""),
            ("rack", "r2"),
            ("region", "eu-1"),
            ("rows", "[1-5, 7-9]"),
            ("speed", "2.5"),
            ("zone", "here"),
        ];
        assert_eq!(
            offer,
            Offer {
                id: "O812".into(),
                agent_id: "S4".into(),
                hostname: "n7".into(),
                host: "10.0.1.7".into(),
                role: "redis/prod".into(),
                attributes: attributes.map(|(key, value)| (key.to_string(), value.to_string())).into(),
                unavailable_from: Some(Timestamp(1_767_225_600_123)),
                pieces: vec![Piece { name: "cpus".into(), amount: Amount::Milli(3500), reservations: Value::Null }],
            }
        );
    }

    #[test]
    fn the_hostname_stands_in_for_an_address_that_is_not_given() {
        assert_eq!(read_offer(&json!({"hostname": "n7"})).host, "n7");
    }

    #[test]
    fn pieces_of_one_resource_stay_apart_and_keep_their_reservations() {
        let reservations = json!([{"type": "STATIC", "role": "redis"}]);
        let pieces = read_pieces(&json!([
            {"name": "mem", "scalar": {"value": 1024.0}, "reservations": [], "role": "*"},
            {"name": "mem", "scalar": {"value": 512.001}, "reservations": reservations},
        ]));
        assert_eq!(pieces[0].reservations, Value::Null);
        assert_eq!(pieces[1].reservations, reservations);
        assert_eq!(
            pieces.iter().map(|piece| piece.amount.clone()).collect::<Vec<_>>(),
            [Amount::Milli(1_024_000), Amount::Milli(512_001)]
        );
    }

    #[test]
    fn resources_that_a_database_must_not_use_are_left_out() {
        let pieces = read_pieces(&json!([
            {"name": "cpus", "scalar": {"value": 1.0}, "revocable": {}},
            {"name": "disk", "scalar": {"value": 1.0}, "disk": {"persistence": {"id": "v"}}},
            {"name": "disk", "scalar": {"value": 1.0}, "disk": {"source": {"type": "MOUNT"}}},
            {"name": "disk", "scalar": {"value": 1.0}, "shared": {}},
            {"name": "mem", "scalar": {"value": 1.0}, "role": "other"},
            {"name": "zones", "type": "SET", "set": {"item": ["a"]}},
            {"name": "disk", "scalar": {"value": 7.0}},
        ]));
        assert_eq!(pieces.len(), 1);
        assert_eq!(pieces[0].amount, Amount::Milli(7000));
    }

    #[test]
    fn port_ranges_are_clipped_to_what_can_be_a_port() {
        let ranges = json!([{"begin": 31000, "end": 31009}, {"begin": 65530, "end": 70000},
            {"begin": 70000, "end": 80000}, {"begin": 9, "end": 8}]);
        let pieces = read_pieces(&json!([{"name": "ports", "ranges": {"range": ranges}}]));
        assert_eq!(pieces[0].amount, Amount::Ranges(vec![(31000, 31009), (65530, 65535)]));
    }

    #[test]
    fn amounts_that_make_no_sense_are_nothing() {
        let amounts = [0.1, 0.0004, -1.0, f64::NAN, f64::INFINITY].map(milli);
        assert_eq!(amounts, [100, 0, 0, 0, 1_000_000_000_000_000]);
    }
}
