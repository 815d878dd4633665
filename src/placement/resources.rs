//! Exact arithmetic on what agents offer: scalars in thousandths, and ranges of ports. Pure.
//!
//! Mesos may offer one resource in several pieces (reserved and not, or from several offers), and
//! wants each piece back with its own reservations. Pieces with equal reservations are one share
//! here; shares add up to what is free, and reserved ones are used first, because nobody else can.

use serde_json::Value;

use crate::model::{Amount, Piece};

/// Thousandths in one unit.
pub const MILLI: u64 = 1000;

/// What an agent has left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Free {
    cpus: Scalar,
    mem: Scalar,
    ports: Ports,
}

impl Free {
    /// Thousandths of a CPU.
    pub fn cpus_milli(&self) -> u64 {
        self.cpus.total()
    }

    /// Thousandths of a MiB.
    pub fn mem_milli(&self) -> u64 {
        self.mem.total()
    }

    /// Ports.
    pub fn ports(&self) -> u64 {
        self.ports.count()
    }

    /// Adds an offered piece; other resources than CPUs, memory and ports are left alone.
    pub fn add(&mut self, piece: &Piece) {
        match (piece.name.as_str(), &piece.amount) {
            ("cpus", Amount::Milli(milli)) => self.cpus.add(&piece.reservations, *milli),
            ("mem", Amount::Milli(milli)) => self.mem.add(&piece.reservations, *milli),
            ("ports", Amount::Ranges(ranges)) => self.ports.add(&piece.reservations, ranges),
            _ => {}
        }
    }

    /// Takes away a piece that [`Free::claim`] gave out, as far as it is there.
    pub fn subtract(&mut self, piece: &Piece) {
        match (piece.name.as_str(), &piece.amount) {
            ("cpus", Amount::Milli(milli)) => self.cpus.subtract(&piece.reservations, *milli),
            ("mem", Amount::Milli(milli)) => self.mem.subtract(&piece.reservations, *milli),
            ("ports", Amount::Ranges(ranges)) => self.ports.subtract(&piece.reservations, ranges),
            _ => {}
        }
    }

    /// Takes CPUs, memory and one port; nothing when not all of it is there. `pick` chooses among
    /// the ports.
    pub fn claim(&mut self, cpus_milli: u64, mem_milli: u64, pick: u64) -> Option<(u16, Vec<Piece>)> {
        if self.cpus_milli() < cpus_milli || self.mem_milli() < mem_milli || self.ports() == 0 {
            return None;
        }
        let mut pieces = self.cpus.take("cpus", cpus_milli);
        pieces.extend(self.mem.take("mem", mem_milli));
        let (port, piece) = self.ports.take(pick)?;
        pieces.push(piece);
        Some((port, pieces))
    }
}

/// A scalar resource: thousandths by reservations, reserved shares first.
#[derive(Clone, Debug, Default, PartialEq)]
struct Scalar(Vec<(Value, u64)>);

impl Scalar {
    fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, milli)| sum.saturating_add(*milli))
    }

    fn add(&mut self, reservations: &Value, milli: u64) {
        let share = share(&mut self.0, reservations);
        *share = share.saturating_add(milli);
    }

    fn subtract(&mut self, reservations: &Value, milli: u64) {
        let share = share(&mut self.0, reservations);
        *share = share.saturating_sub(milli);
    }

    /// Takes `milli` in all, or whatever there is, share by share.
    fn take(&mut self, name: &str, milli: u64) -> Vec<Piece> {
        let mut missing = milli;
        let mut pieces = Vec::with_capacity(1);
        for (reservations, share) in &mut self.0 {
            let part = missing.min(*share);
            if part > 0 {
                *share -= part;
                missing -= part;
                pieces.push(Piece {
                    name: name.to_string(),
                    amount: Amount::Milli(part),
                    reservations: reservations.clone(),
                });
            }
        }
        pieces
    }
}

/// Ports by reservations, reserved shares first.
#[derive(Clone, Debug, Default, PartialEq)]
struct Ports(Vec<(Value, PortSet)>);

impl Ports {
    fn count(&self) -> u64 {
        self.0.iter().map(|(_, set)| set.count()).sum()
    }

    fn add(&mut self, reservations: &Value, ranges: &[(u16, u16)]) {
        let set = share(&mut self.0, reservations);
        for (first, last) in ranges {
            set.insert(*first, *last);
        }
    }

    fn subtract(&mut self, reservations: &Value, ranges: &[(u16, u16)]) {
        let set = share(&mut self.0, reservations);
        for (first, last) in ranges {
            set.remove(*first, *last);
        }
    }

    fn take(&mut self, pick: u64) -> Option<(u16, Piece)> {
        let (reservations, set) = self.0.iter_mut().find(|(_, set)| set.count() > 0)?;
        let port = set.nth(pick % set.count())?;
        set.remove(port, port);
        let piece = Piece {
            name: "ports".to_string(),
            amount: Amount::Ranges(vec![(port, port)]),
            reservations: reservations.clone(),
        };
        Some((port, piece))
    }
}

/// The share with these reservations; a new one is put behind the others of its kind.
fn share<'a, T: Default>(shares: &'a mut Vec<(Value, T)>, reservations: &Value) -> &'a mut T {
    let at = shares.iter().position(|(r, _)| r == reservations).unwrap_or_else(|| {
        let at = if is_reserved(reservations) { shares.partition_point(|(r, _)| is_reserved(r)) } else { shares.len() };
        shares.insert(at, (reservations.clone(), T::default()));
        at
    });
    &mut shares[at].1
}

/// Mesos sends no reservations, or an empty list, for what is not reserved.
fn is_reserved(reservations: &Value) -> bool {
    match reservations {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        _ => true,
    }
}

/// A set of ports as sorted, inclusive ranges that neither overlap nor touch: equal sets are equal
/// values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    /// The `n`th port, counted from 0.
    fn nth(&self, mut n: u64) -> Option<u16> {
        for (first, last) in &self.0 {
            let count = u64::from(last - first) + 1;
            if n < count {
                return u16::try_from(u64::from(*first) + n).ok();
            }
            n -= count;
        }
        None
    }

    fn insert(&mut self, first: u16, last: u16) {
        if first > last {
            return; // Rubbish of somebody else's making.
        }
        let (mut first, mut last) = (first, last);
        // All ranges that overlap or touch the new one melt into it.
        self.0.retain(|(a, b)| {
            let apart = u32::from(*b) + 1 < u32::from(first) || u32::from(last) + 1 < u32::from(*a);
            if !apart {
                (first, last) = (first.min(*a), last.max(*b));
            }
            apart
        });
        let at = self.0.partition_point(|(a, _)| *a < first);
        self.0.insert(at, (first, last));
    }

    fn remove(&mut self, first: u16, last: u16) {
        let overlaps = |(a, b): &(u16, u16)| *a <= last && first <= *b;
        let Some(from) = self.0.iter().position(overlaps) else { return };
        let to = self.0.iter().rposition(overlaps).map_or(from, |at| at + 1);
        let (low, high) = (self.0[from].0, self.0[to - 1].1);
        let before = first.checked_sub(1).filter(|end| low <= *end).map(|end| (low, end));
        let after = last.checked_add(1).filter(|start| *start <= high).map(|start| (start, high));
        self.0.splice(from..to, before.into_iter().chain(after));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn scalar(name: &str, milli: u64, reservations: Value) -> Piece {
        Piece { name: name.to_string(), amount: Amount::Milli(milli), reservations }
    }

    fn ports(ranges: &[(u16, u16)], reservations: Value) -> Piece {
        Piece { name: "ports".to_string(), amount: Amount::Ranges(ranges.to_vec()), reservations }
    }

    fn members(set: &PortSet) -> BTreeSet<u16> {
        set.0.iter().flat_map(|(a, b)| *a..=*b).collect()
    }

    #[test]
    fn a_tenth_of_a_cpu_fits_ten_times_into_one() {
        let mut free = Free::default();
        free.add(&scalar("cpus", 1000, Value::Null));
        free.add(&ports(&[(1, 20)], Value::Null));
        for _ in 0..10 {
            assert!(free.claim(100, 0, 0).is_some());
        }
        assert_eq!(free.claim(100, 0, 0), None);
        assert_eq!(free.cpus_milli(), 0);
    }

    #[test]
    fn reserved_shares_go_first_and_each_part_keeps_its_reservations() {
        let ours = json!([{"type": "STATIC", "role": "redis"}]);
        let mut free = Free::default();
        free.add(&scalar("cpus", 500, Value::Null));
        free.add(&scalar("cpus", 50, ours.clone()));
        free.add(&scalar("mem", 100_000, json!([])));
        free.add(&scalar("mem", 64_000, ours.clone()));
        free.add(&ports(&[(31000, 31001)], Value::Null));
        free.add(&ports(&[(32000, 32000)], ours.clone()));
        let (port, pieces) = free.claim(100, 100_000, 7).unwrap();
        assert_eq!(port, 32000);
        assert_eq!(
            pieces,
            [
                scalar("cpus", 50, ours.clone()),
                scalar("cpus", 50, Value::Null),
                scalar("mem", 64_000, ours.clone()),
                scalar("mem", 36_000, json!([])),
                ports(&[(32000, 32000)], ours),
            ]
        );
        assert_eq!((free.cpus_milli(), free.mem_milli(), free.ports()), (450, 64_000, 2));
    }

    #[test]
    fn nothing_is_taken_when_something_is_missing() {
        let mut free = Free::default();
        free.add(&scalar("cpus", 1000, Value::Null));
        free.add(&scalar("mem", 1000, Value::Null));
        let before = free.clone();
        assert_eq!(free.claim(100, 1000, 0), None);
        assert_eq!(free, before);
    }

    #[test]
    fn other_resources_and_rubbish_are_left_alone() {
        let mut free = Free::default();
        free.add(&scalar("disk", 1000, Value::Null));
        free.add(&scalar("ports", 1000, Value::Null));
        free.add(&Piece { name: "mem".into(), amount: Amount::Ranges(vec![(1, 2)]), reservations: Value::Null });
        free.add(&ports(&[(9, 3)], Value::Null));
        free.add(&scalar("mem", u64::MAX, Value::Null));
        free.add(&scalar("mem", u64::MAX, json!([{"role": "x"}])));
        assert_eq!((free.cpus_milli(), free.mem_milli(), free.ports()), (0, u64::MAX, 0));
    }

    proptest! {
        #[test]
        fn a_port_set_is_a_set(steps in prop::collection::vec((any::<bool>(), 65500u16.., 0u16..8), 0..40)) {
            let (mut set, mut model) = (PortSet::default(), BTreeSet::new());
            for (insert, first, length) in steps {
                let last = first.saturating_add(length);
                if insert {
                    set.insert(first, last);
                    model.extend(first..=last);
                } else {
                    set.remove(first, last);
                    model.retain(|port| !(first..=last).contains(port));
                }
                prop_assert_eq!(members(&set), model.clone());
                prop_assert_eq!(set.count(), model.len() as u64);
                prop_assert!(set.0.windows(2).all(|w| u32::from(w[0].1) + 1 < u32::from(w[1].0)));
                let counted: Vec<u16> = (0..=set.count()).filter_map(|n| set.nth(n)).collect();
                prop_assert_eq!(counted, model.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
