//! How long instances took no writes, as the operator saw it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::Timestamp;
use crate::reconcile::action::Cause;
use crate::status::{ConditionStatus, ConditionType, InstanceStatus};

/// Masters that were available, and are not now; since when, and why another takes their place, if one does.
#[derive(Debug, Default)]
pub struct Gaps(BTreeMap<String, (Timestamp, Option<Cause>)>);

impl Gaps {
    /// Looks at an instance's new status beside the one before; answers a gap that has ended.
    pub fn see(
        &mut self,
        name: &str,
        before: Option<&InstanceStatus>,
        status: &InstanceStatus,
        failover: Option<Cause>,
        now: Timestamp,
    ) -> Option<(Duration, Option<Cause>)> {
        if is_available(status) {
            return self.0.remove(name).map(|(since, cause)| (Duration::from_millis(now.since_ms(since)), cause));
        }
        if before.is_some_and(is_available) {
            self.0.entry(name.to_string()).or_insert((now, None));
        }
        if let Some((_, cause)) = self.0.get_mut(name) {
            *cause = failover.or(*cause);
        }
        None
    }

    /// The instance is gone.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }
}

fn is_available(status: &InstanceStatus) -> bool {
    status.condition(ConditionType::MasterAvailable).is_some_and(|c| c.status == ConditionStatus::True)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Condition;

    fn status(available: ConditionStatus) -> InstanceStatus {
        let condition = Condition {
            kind: ConditionType::MasterAvailable,
            status: available,
            reason: String::new(),
            message: String::new(),
            last_transition_time: Timestamp(0),
        };
        InstanceStatus { conditions: vec![condition], ..InstanceStatus::default() }
    }

    #[test]
    fn a_gap_lasts_from_the_loss_of_an_available_master_to_the_next() {
        let (up, unknown, down) =
            (status(ConditionStatus::True), status(ConditionStatus::Unknown), status(ConditionStatus::False));
        let mut gaps = Gaps::default();
        assert_eq!(gaps.see("orders", None, &down, None, Timestamp(0)), None); // It is being created.
        assert_eq!(gaps.see("orders", Some(&down), &up, None, Timestamp(5)), None);
        assert_eq!(gaps.see("orders", Some(&up), &unknown, None, Timestamp(10)), None);
        assert_eq!(gaps.see("orders", Some(&unknown), &down, Some(Cause::Died), Timestamp(20)), None);
        assert_eq!(
            gaps.see("orders", Some(&down), &up, None, Timestamp(30)),
            Some((Duration::from_millis(20), Some(Cause::Died)))
        );
        assert_eq!(gaps.see("orders", Some(&up), &up, None, Timestamp(40)), None);
        gaps.see("orders", Some(&up), &down, None, Timestamp(50));
        gaps.forget("orders");
        assert_eq!(gaps.see("orders", None, &up, None, Timestamp(60)), None);
    }
}
