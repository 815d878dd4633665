//! How a workload of the crash test is disturbed: steps and pieces of news are counted, and at a given
//! one something goes wrong. Pure.

use redisctl::model::MesosEvent;

use super::History;

/// How a workload of the crash test is disturbed: by the number of the step or of the news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// The operator is killed before the step.
    Before(u64),
    /// The operator is killed after it.
    After(u64),
    /// From the step on, the watch brings nothing until all else has come to rest.
    Lag(u64),
    /// News of a task or a node are lost.
    Lost(u64),
    /// They come twice.
    Doubled(u64),
    /// The first switchover is lost after this stage, and the operator with it.
    Cut(u64),
}

impl History {
    pub fn disturb(&mut self, disturbance: Option<Disturbance>) {
        (self.disturbance, self.counted) = (disturbance, (0, 0));
    }

    pub fn counted(&self) -> (u64, u64) {
        self.counted
    }

    /// Lets all come to rest; then a watch that lagged catches up, and again.
    pub fn settle_quiet(&mut self) {
        self.settle();
        if std::mem::take(&mut self.lagging) {
            self.settle();
        }
    }

    /// A step that can be seen from outside is about to be done. False: the operator dies before it.
    pub(super) fn begin_step(&mut self) -> bool {
        let dies = self.disturbance == Some(Disturbance::Before(self.counted.0));
        self.lagging |= self.disturbance == Some(Disturbance::Lag(self.counted.0));
        if dies {
            self.counted.0 += 1;
            self.crash_operator();
        }
        !dies
    }

    pub(super) fn end_step(&mut self) {
        let cut = matches!(self.disturbance, Some(Disturbance::Cut(_)))
            && self.operator.as_mut().is_some_and(|operator| std::mem::take(&mut operator.switch_lost));
        if cut {
            self.disturbance = None;
        }
        let dies = cut || self.disturbance == Some(Disturbance::After(self.counted.0));
        self.counted.0 += 1;
        if dies {
            self.crash_operator();
        }
    }

    /// How often news reach the operator: once, unless they are the ones that are lost or doubled.
    pub(super) fn news(&mut self) -> usize {
        let nth = self.counted.1;
        self.counted.1 += 1;
        match self.disturbance {
            Some(Disturbance::Lost(lost)) if lost == nth => 0,
            Some(Disturbance::Doubled(doubled)) if doubled == nth => 2,
            _ => 1,
        }
    }

    /// Mesos' news of tasks are lost or doubled, if it is their turn.
    pub(super) fn examine_events(&mut self) {
        let known = self.examined.min(self.mesos.events.len());
        for event in self.mesos.events.split_off(known) {
            let times = if matches!(event, MesosEvent::Update(_)) { self.news() } else { 1 };
            if times == 2 {
                self.mesos.events.push_back(event.clone());
            }
            if times > 0 {
                self.mesos.events.push_back(event);
            }
        }
    }
}
