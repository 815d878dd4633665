//! Who is let in at a listener: so many connections in all, and of one address. I/O (a lock).
//!
//! A connection *waits* as long as nothing whole has come on it (a request, a login), and whenever it has been
//! answered. One that waits costs its client nothing, so when there is no room, the one that has waited longest
//! makes it: whoever opens thousands of silent connections ends his own, and one that asks at once is served.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// One address may have one part of so many of all connections, ...
const ADDRESS_PART: usize = 2;
/// Connections that are on their way out while others come in.
const LEAVING_MAX: usize = 16;
/// Replies that are longer than this are counted, as long as clients read them: ...
pub const LONG_BYTES: usize = 64 << 10;
/// ... so many bytes of one address, ...
const ADDRESS_BYTES_MAX: usize = 32 << 20;
/// ... and so many of all. One reply is allowed always.
const BYTES_MAX: usize = 128 << 20;

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// This address has as many connections as it may have, and all are in use.
    Address,
    /// So has everybody together.
    All,
    /// Nobody is, but those who make room are still on their way out: see [`Gate::left`].
    Later,
}

/// The places of one listener.
#[derive(Debug)]
pub struct Gate {
    name: &'static str,
    max: usize,
    metrics: Arc<Metrics>,
    places: Mutex<Places>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Places {
    /// Places that are taken, those included whose connections are about to end.
    taken: usize,
    leaving: usize,
    /// Counts upwards: whoever has a lower number waits longer.
    clock: u64,
    bytes: usize,
    addresses: HashMap<IpAddr, Address>,
}

#[derive(Debug, Default)]
struct Address {
    taken: usize,
    bytes: usize,
    /// Those that wait, the longest first, with what ends them.
    waiting: BTreeMap<u64, CancellationToken>,
}

/// A connection's place; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
    waits: Mutex<Option<u64>>,
    /// Told when it is to end.
    pub ends: CancellationToken,
}

/// Bytes of a reply; given back when it is dropped.
#[derive(Debug)]
pub struct Bytes(Arc<Place>, usize);

impl Gate {
    /// With so many places.
    pub fn new(name: &'static str, max: usize, metrics: Arc<Metrics>) -> Arc<Gate> {
        Arc::new(Gate { name, max: max.max(2), metrics, places: Mutex::default(), left: Notify::new() })
    }

    /// The listener's name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The most connections of one address.
    pub fn of_one_address(&self) -> usize {
        self.max.div_ceil(ADDRESS_PART)
    }

    /// Lets somebody in, if need be in the place of one that waits.
    pub fn enter(self: &Arc<Gate>, from: IpAddr) -> Result<Arc<Place>, Refused> {
        let address = network(from);
        let mut places = self.places();
        let full = places.taken - places.leaving >= self.max;
        let of_address = places.addresses.get(&address).map_or(0, |known| known.taken);
        let crowded = of_address >= self.of_one_address();
        if crowded || full {
            let refused = if crowded { Refused::Address } else { Refused::All };
            let whose = if crowded { Some(address) } else { places.largest() };
            if places.leaving >= LEAVING_MAX {
                return Err(Refused::Later);
            }
            if !whose.is_some_and(|whose| places.end_one(whose)) {
                self.metrics.connection_refused(self.name, if crowded { "address" } else { "all" });
                return Err(refused);
            }
            self.metrics.connection_refused(self.name, "waiting");
        }
        let (since, ends) = (places.tick(), CancellationToken::new());
        places.taken += 1;
        let known = places.addresses.entry(address).or_default();
        known.taken += 1;
        known.waiting.insert(since, ends.clone());
        self.metrics.set_connections(self.name, places.taken);
        drop(places);
        Ok(Arc::new(Place { gate: self.clone(), address, waits: Mutex::new(Some(since)), ends }))
    }

    /// Returns when one of those who were to make room has gone.
    pub async fn left(&self) {
        self.left.notified().await;
    }

    /// Somebody was let go for this reason.
    pub fn count(&self, reason: &'static str) {
        self.metrics.connection_refused(self.name, reason);
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().expect("no holder panics")
    }
}

impl Places {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The address with the most connections of those of which one waits.
    fn largest(&self) -> Option<IpAddr> {
        let waiting = self.addresses.iter().filter(|(_, known)| !known.waiting.is_empty());
        waiting.max_by_key(|(_, known)| known.taken).map(|(address, _)| *address)
    }

    /// Ends the connection of that address that has waited longest.
    fn end_one(&mut self, address: IpAddr) -> bool {
        let Some(known) = self.addresses.get_mut(&address) else { return false };
        let Some((_, ends)) = known.waiting.pop_first() else { return false };
        ends.cancel();
        known.taken -= 1;
        self.leaving += 1;
        true
    }
}

impl Place {
    /// Something whole has come: it is not to end for others.
    pub fn works(&self) {
        if let Some(since) = self.waits().take()
            && let Some(known) = self.gate.places().addresses.get_mut(&self.address)
        {
            known.waiting.remove(&since);
        }
    }

    /// It waits from now on, as one that has come just now.
    pub fn waits_again(&self) {
        let mut waits = self.waits();
        let mut places = self.gate.places();
        if self.ends.is_cancelled() {
            return;
        }
        let since = places.tick();
        let Some(known) = places.addresses.get_mut(&self.address) else { return };
        if let Some(before) = waits.replace(since) {
            known.waiting.remove(&before);
        }
        known.waiting.insert(since, self.ends.clone());
    }

    /// Keeps account of a long reply; none: its address, or all, have too many bytes to read already.
    pub fn reply(self: &Arc<Place>, bytes: usize) -> Option<Bytes> {
        if bytes <= LONG_BYTES {
            return Some(Bytes(self.clone(), 0));
        }
        let mut places = self.gate.places();
        let all = places.bytes;
        let known = places.addresses.entry(self.address).or_default();
        if known.bytes > 0 && (known.bytes + bytes > ADDRESS_BYTES_MAX || all + bytes > BYTES_MAX) {
            drop(places);
            self.gate.count("bytes");
            return None;
        }
        known.bytes += bytes;
        places.bytes += bytes;
        drop(places);
        Some(Bytes(self.clone(), bytes))
    }

    fn waits(&self) -> MutexGuard<'_, Option<u64>> {
        self.waits.lock().expect("no holder panics")
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        let Bytes(place, bytes) = self;
        let mut places = place.gate.places();
        places.bytes -= *bytes;
        if let Some(known) = places.addresses.get_mut(&place.address) {
            known.bytes -= *bytes;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let waits = self.waits().take();
        let mut places = self.gate.places();
        places.taken -= 1;
        // One that was ended for another has left its address' count already.
        let ended = self.ends.is_cancelled();
        places.leaving -= usize::from(ended);
        if ended {
            self.gate.left.notify_one();
        }
        if let Some(known) = places.addresses.get_mut(&self.address) {
            known.taken -= usize::from(!ended);
            if let Some(since) = waits {
                known.waiting.remove(&since);
            }
            if known.taken == 0 && known.bytes == 0 {
                places.addresses.remove(&self.address);
            }
        }
        self.gate.metrics.set_connections(self.gate.name, places.taken);
    }
}

/// Whoever has an IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(i: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, i])
    }

    fn gate(max: usize) -> Arc<Gate> {
        Gate::new("api", max, Arc::default())
    }

    #[test]
    fn a_flood_of_silent_connections_ends_itself_and_one_that_asks_stays() {
        let gate = gate(8);
        let asks = gate.enter(address(1)).unwrap();
        asks.works();
        let silent: Vec<_> = (0..4).map(|_| gate.enter(address(1)).unwrap()).collect();
        assert!(silent[0].ends.is_cancelled() && !asks.ends.is_cancelled());
        assert!(silent[1..].iter().all(|place| !place.ends.is_cancelled()));
        let others: Vec<_> = (0..4).map(|_| gate.enter(address(2)).unwrap()).collect();
        assert!(others.iter().all(|place| !place.ends.is_cancelled()));
        let third = gate.enter(address(3)).expect("a place of those who wait");
        assert_eq!(others.iter().chain(&silent[1..]).filter(|place| place.ends.is_cancelled()).count(), 1);
        drop(third);
    }

    #[test]
    fn whoever_works_is_not_ended_and_one_address_leaves_room_for_others() {
        let gate = gate(8);
        let work = |i| {
            let place = gate.enter(address(i))?;
            place.works();
            Ok(place)
        };
        let busy: Vec<_> = (0..4).map(|_| work(1).unwrap()).collect();
        assert_eq!(work(1).err(), Some(Refused::Address));
        let more: Vec<_> = (0..4).map(|_| work(2).unwrap()).collect();
        assert_eq!(work(3).err(), Some(Refused::All));
        busy[0].waits_again();
        assert!(work(3).is_ok() && busy[0].ends.is_cancelled());
        drop((busy, more));
        assert_eq!(gate.places().taken, 0);
        assert!(gate.places().addresses.is_empty());
    }

    #[test]
    fn long_replies_are_bounded_for_one_address_and_for_all_and_one_is_always_allowed() {
        let gate = gate(64);
        let place = |i| gate.enter(address(i)).unwrap();
        let huge = place(1).reply(2 * BYTES_MAX).expect("the first");
        assert!(place(1).reply(LONG_BYTES + 1).is_none());
        assert!(place(1).reply(LONG_BYTES).is_some(), "short ones are not counted");
        assert!(place(2).reply(LONG_BYTES + 1).is_some());
        drop(huge);
        let some: Vec<_> = (0..4).map(|_| place(1).reply(ADDRESS_BYTES_MAX / 4).unwrap()).collect();
        assert!(place(1).reply(LONG_BYTES + 1).is_none());
        drop(some);
        assert_eq!(gate.places().bytes, 0);
    }

    #[test]
    fn addresses_of_one_network_are_one_caller() {
        let parse = |text: &str| network(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:1"));
        assert_ne!(parse("2001:db8:0:1::1"), parse("2001:db8:0:2::1"));
        assert_eq!(parse("::ffff:10.0.0.1"), parse("10.0.0.1"));
    }

    proptest! {
        #[test]
        fn the_counts_are_right_whatever_comes(steps in prop::collection::vec((0_u8..5, 0_u8..4, any::<prop::sample::Index>()), 0..200)) {
            let gate = gate(6);
            let (mut places, mut bytes): (Vec<Arc<Place>>, Vec<Bytes>) = Default::default();
            for (what, from, which) in steps {
                let some = (!places.is_empty()).then(|| which.index(places.len().max(1)));
                match (what, some) {
                    (0, _) => places.extend(gate.enter(address(from))),
                    (1, Some(i)) => drop(places.swap_remove(i)),
                    (2, Some(i)) => places[i].works(),
                    (3, Some(i)) => places[i].waits_again(),
                    (_, Some(i)) => bytes.extend(places[i].reply(ADDRESS_BYTES_MAX / 3)),
                    _ => bytes.clear(),
                }
                let held = gate.places();
                prop_assert!(held.taken - held.leaving <= 6 && held.leaving <= LEAVING_MAX);
                prop_assert!(held.addresses.values().all(|known| known.taken <= gate.of_one_address()));
                prop_assert_eq!(held.addresses.values().map(|known| known.taken).sum::<usize>(), held.taken - held.leaving);
                prop_assert!(held.addresses.values().map(|known| known.bytes).sum::<usize>() <= BYTES_MAX);
            }
            drop((places, bytes));
            let left = gate.places();
            prop_assert_eq!(left.taken + left.leaving + left.bytes, 0);
            prop_assert!(left.addresses.is_empty());
        }
    }
}
