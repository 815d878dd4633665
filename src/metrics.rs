//! The operator's own metrics, for Prometheus. Pure.
use std::time::Duration;
/// All metrics.
#[derive(Default)]
pub struct Metrics {}
#[allow(missing_docs, unused, clippy::unused_self)]
impl Metrics {
    pub fn store_call(&self, op: &str, took: Duration, ok: bool) {}
    pub fn action(&self, kind: &str, ok: bool) {}
    pub fn offers(&self, outcome: &str, reason: &str, count: usize) {}
    pub fn pass(&self, ok: bool, took: Duration) {}
    pub fn plan_refused(&self) {}
    pub fn queue(&self, dirty: usize, busy: usize) {}
    pub fn session(&self, state: &str, age: Option<Duration>) {}
    pub fn frozen(&self, frozen: bool) {}
    pub fn leader(&self, leading: bool) {}
}
