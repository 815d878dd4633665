//! How many requests an address may send in a second. I/O (a clock).
//!
//! A bucket for each address: it holds what may be spent in one second, and fills as time goes by.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::Method;

/// What a request costs that may change something: each is a transaction of the store.
const CHANGE_COST: f64 = 100.0;
/// Buckets that are kept. When there are more, the full ones go: they say nothing.
const BUCKETS_MAX: usize = 10_000;

/// The buckets.
#[derive(Debug)]
pub struct Limit {
    /// Reads in a second.
    rate: f64,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, rate: f64, now: Instant) {
        self.left = (self.left + rate * now.saturating_duration_since(self.at).as_secs_f64()).min(rate);
        self.at = now;
    }
}

impl Limit {
    /// So many reads in a second.
    pub fn new(rate: u32) -> Limit {
        Limit { rate: f64::from(rate), buckets: Mutex::default() }
    }

    /// Takes a request out of the address' bucket; an error is how long to wait.
    pub fn take(&self, address: IpAddr, method: &Method) -> Result<(), Duration> {
        self.take_at(address, method, Instant::now())
    }

    fn take_at(&self, address: IpAddr, method: &Method, now: Instant) -> Result<(), Duration> {
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let cost = if reads { 1.0 } else { CHANGE_COST.min(self.rate) };
        let mut buckets = self.buckets.lock().expect("no holder panics");
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&address) {
            buckets.retain(|_, bucket| {
                bucket.fill(self.rate, now);
                bucket.left < self.rate
            });
        }
        let bucket = buckets.entry(address).or_insert(Bucket { left: self.rate, at: now });
        bucket.fill(self.rate, now);
        if bucket.left < cost {
            return Err(Duration::from_secs_f64((cost - bucket.left) / self.rate));
        }
        bucket.left -= cost;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn an_address_gets_its_share_and_no_more_and_takes_nothing_from_others() {
        let (limit, now) = (Limit::new(200), Instant::now());
        for _ in 0..100 {
            assert_eq!(limit.take_at(A, &Method::GET, now), Ok(()));
        }
        assert_eq!(limit.take_at(A, &Method::PUT, now), Ok(()));
        assert_eq!(limit.take_at(A, &Method::GET, now), Err(Duration::from_millis(5)));
        assert_eq!(limit.take_at(B, &Method::DELETE, now), Ok(()));
        assert_eq!(limit.take_at(A, &Method::GET, now + Duration::from_millis(5)), Ok(()));
        assert_eq!(limit.take_at(A, &Method::POST, now + Duration::from_secs(9)), Ok(()));
    }

    #[test]
    fn addresses_that_ask_no_more_are_forgotten() {
        let (limit, now) = (Limit::new(100), Instant::now());
        for i in 0..u32::try_from(BUCKETS_MAX).unwrap() {
            let _ = limit.take_at(IpAddr::from(i.to_be_bytes()), &Method::GET, now);
        }
        assert_eq!(limit.take_at(A, &Method::GET, now + Duration::from_secs(1)), Ok(()));
        assert_eq!(limit.buckets.lock().unwrap().len(), 1);
    }
}
