//! Rules that no plan may break, written apart from the planner: a second opinion. Pure.
//!
//! Every plan is checked before it is performed, in tests, in the simulation and in production. A
//! plan that breaks a rule is refused whole: doing nothing is safe, doing wrong is not.

mod succession;

use std::collections::{BTreeMap, BTreeSet};

use succession::data_is_not_abandoned;

use crate::model::{Answer, InstanceRecord, Meaning, NodeRecord, Role};
use crate::reconcile::action::{Action, Plan, Write};
use crate::reconcile::draft::Observed;
use crate::reconcile::world::{Node, Session};

/// A rule that a plan would break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The rule, in a word, for metrics.
    pub rule: &'static str,
    /// What of the plan would break it.
    pub what: String,
}

type Rule = fn(&Observed, &Plan, &After, &mut Vec<String>);

const RULES: [(&str, Rule); 10] = [
    ("frozen_means_still", frozen_means_still),
    ("epochs_only_rise", epochs_only_rise),
    ("launches_are_recorded", launches_are_recorded),
    ("the_master_is_not_killed", the_master_is_not_killed),
    ("the_last_copy_is_not_killed", the_last_copy_is_not_killed),
    ("data_is_not_abandoned", data_is_not_abandoned),
    ("roles_follow_the_record", roles_follow_the_record),
    ("records_of_the_living_stay", records_of_the_living_stay),
    ("distribution_is_kept", distribution_is_kept),
    ("only_the_recorded_master_is_followed", only_the_recorded_master_is_followed),
];

/// The rules' names.
pub fn rules() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|(name, _)| *name)
}

/// What the plan would break; empty: it may be performed.
pub fn check(o: &Observed, plan: &Plan) -> Vec<Broken> {
    let after = After::of(o, plan);
    let broken = |(rule, judge): &(&'static str, Rule)| {
        let mut found = Vec::new();
        judge(o, plan, &after, &mut found);
        let rule = *rule;
        found.into_iter().map(move |what| Broken { rule, what })
    };
    RULES.iter().flat_map(broken).collect()
}

/// What would be recorded after the plan's writes.
struct After {
    record: Option<InstanceRecord>,
    nodes: BTreeMap<u32, NodeRecord>,
    forgotten: bool,
}

impl After {
    fn of(o: &Observed, plan: &Plan) -> After {
        let mut after = After {
            record: o.instance.record.as_ref().map(|record| record.value.clone()),
            nodes: o.instance.nodes.iter().map(|(k, node)| (*k, node.record.value.clone())).collect(),
            forgotten: false,
        };
        for write in &plan.writes {
            match write {
                Write::State(record) => after.record = Some(record.clone()),
                Write::Node(record) => drop(after.nodes.insert(record.ordinal, record.clone())),
                Write::ForgetNode(ordinal) => drop(after.nodes.remove(ordinal)),
                Write::Forget { .. } => after.forgotten = true,
                Write::Event(_) | Write::RequestDone(_) => {}
            }
        }
        after
    }

    fn deleting(&self) -> bool {
        self.record.as_ref().is_none_or(|record| record.deleting)
    }
}

fn frozen_means_still(o: &Observed, plan: &Plan, _: &After, broken: &mut Vec<String>) {
    if o.frozen.is_some() && !(plan.writes.is_empty() && plan.steps.is_empty()) {
        broken.push("a frozen operator plans to write or act".to_string());
    }
    let calls = plan.steps.iter().any(|step| matches!(step.action, Action::Launch(_) | Action::Kill { .. }));
    if calls && !matches!(o.session, Session::Subscribed { .. }) {
        broken.push("a launch or kill is planned without a subscription".to_string());
    }
}

fn epochs_only_rise(o: &Observed, _: &Plan, after: &After, broken: &mut Vec<String>) {
    let (Some(before), Some(after)) = (o.instance.record.as_ref().map(|r| &r.value), after.record.as_ref()) else {
        return;
    };
    if after.epoch < before.epoch {
        broken.push(format!("the epoch falls from {} to {}", before.epoch, after.epoch));
    }
    let new_master = after.master.is_some() && after.master != before.master;
    if new_master && after.epoch <= before.epoch {
        broken.push(format!("the master changes to {:?} within epoch {}", after.master, after.epoch));
    }
    if after.next_ordinal < before.next_ordinal {
        broken.push("the count of nodes falls: an ordinal would be used twice".to_string());
    }
}

fn launches_are_recorded(o: &Observed, plan: &Plan, after: &After, broken: &mut Vec<String>) {
    let mut ports = BTreeSet::new();
    let want = after.record.as_ref().map_or(0, |record| record.spec.nodes() as usize);
    for launch in plan.launches() {
        let recorded = plan.writes.iter().any(|w| matches!(w, Write::Node(node) if node.task_id == launch.task_id));
        if !recorded {
            broken.push(format!("{} is launched without a record", launch.task_id));
        }
        let known = o.instance.nodes.values().any(|node| node.record.value.task_id == launch.task_id);
        if known {
            broken.push(format!("{} is launched a second time", launch.task_id));
        }
        if launch.argv.is_empty() || after.deleting() {
            broken.push(format!("{} is launched for an instance that goes away, or with no command", launch.task_id));
        }
    }
    for node in after.nodes.values().filter(|node| !node.task.is_dead()) {
        if !ports.insert((&node.agent_id, node.address.port)) {
            broken.push(format!("{} shares its port with another node", node.name()));
        }
    }
    let launched = plan.launches().count();
    let sound = o.instance.nodes.values().filter(|node| is_sound_replica(node, after)).count();
    if launched > 0 && sound + launched > want {
        broken.push(format!(
            "{launched} launches beside {sound} replicas in sync are more than the {want} nodes declared"
        ));
    }
}

/// Follows the recorded master, link up, and stays.
fn is_sound_replica(node: &Node, after: &After) -> bool {
    let master =
        after.record.as_ref().and_then(|record| after.nodes.get(&record.master?)).map(|master| &master.address);
    let record = after.nodes.get(&node.record.value.ordinal);
    let stays = record.is_some_and(|record| record.stop.is_none() && !record.task.is_dead());
    let follows = |answer: &Answer| answer.link_up && answer.role == Role::Replica && answer.follows.as_ref() == master;
    stays && node.silent.is_none() && node.answer.as_ref().is_some_and(|(answer, _)| follows(answer))
}

fn the_master_is_not_killed(o: &Observed, plan: &Plan, after: &After, broken: &mut Vec<String>) {
    if after.deleting() {
        return;
    }
    let Some(master) = after.record.as_ref().and_then(|record| record.master) else { return };
    for step in &plan.steps {
        let Action::Kill { task_id } = &step.action else { continue };
        let node = after.nodes.values().find(|node| node.task_id == *task_id);
        match node {
            None => broken.push(format!("{task_id} is killed, but not recorded")),
            Some(node) if node.stop.is_none() => {
                broken.push(format!("{task_id} is killed, but its record does not say so"));
            }
            Some(node) if node.ordinal == master => {
                broken.push(format!("{task_id} is the recorded master and would be killed"));
            }
            Some(_) => {}
        }
    }
    let before = o.instance.nodes.get(&master).is_some_and(|node| node.record.value.stop.is_some());
    if !before && after.nodes.get(&master).is_some_and(|node| node.stop.is_some()) {
        broken.push("the recorded master would be stopped".to_string());
    }
}

/// As long as the master does not answer, a node that may have its data may be the only one.
fn the_last_copy_is_not_killed(o: &Observed, plan: &Plan, after: &After, broken: &mut Vec<String>) {
    let Some(record) = after.record.as_ref().filter(|record| record.initialized && !record.deleting) else { return };
    let answer = |node: &Node| node.answer.as_ref().filter(|_| node.silent.is_none()).map(|(answer, _)| answer.clone());
    let dead = |ordinal: u32| after.nodes.get(&ordinal).is_none_or(|node| node.task.is_dead());
    let master = record.master.filter(|ordinal| !dead(*ordinal)).and_then(|ordinal| o.instance.nodes.get(&ordinal));
    if master.and_then(answer).is_some_and(|answer| answer.role == Role::Master && !answer.loading) {
        return;
    }
    for step in &plan.steps {
        let Action::Kill { task_id } = &step.action else { continue };
        let node = o.instance.nodes.values().find(|node| node.record.value.task_id == *task_id);
        let blank = node.and_then(answer).is_some_and(|answer| answer.is_blank());
        if !blank {
            broken.push(format!("{task_id} may hold the last copy of the data and would be killed"));
        }
    }
}

/// Roles are changed as the record says, and after it does.
fn roles_follow_the_record(o: &Observed, plan: &Plan, after: &After, broken: &mut Vec<String>) {
    let master = after.record.as_ref().and_then(|record| after.nodes.get(&record.master?));
    let is_master = |task: &str| master.is_some_and(|master| master.task_id == task);
    let is_gone =
        |task: &str| after.nodes.values().any(|node| node.task_id == task && node.task.gone_since().is_some());
    let is_to_end = |task: &str| after.nodes.values().any(|node| node.task_id == task && node.stop.is_some());
    for step in &plan.steps {
        match &step.action {
            Action::Promote { task_id, .. } | Action::SwitchOver { task_id, .. } if !is_master(task_id) => {
                broken.push(format!("{task_id} would be made the master, and is not the recorded one"));
            }
            // What Mesos calls gone, and answers, is fenced whatever it was.
            Action::Detach { task_id, .. } if is_gone(task_id) => {}
            // Who is to end confirms nothing more before it does.
            Action::Detach { task_id, .. } if is_to_end(task_id) => {}
            Action::Detach { task_id, .. } if is_master(task_id) => {
                broken.push(format!("{task_id} is the recorded master and would be made to follow nobody"));
            }
            Action::Detach { task_id, .. } => {
                let follows_well = o.instance.nodes.values().any(|node| {
                    let replica = node.answer.as_ref().is_some_and(|(answer, _)| answer.role == Role::Replica);
                    node.record.value.task_id == *task_id && replica && node.silent.is_none()
                });
                let living = master.filter(|master| !master.task.is_dead());
                let answers = living.and_then(|m| o.instance.nodes.get(&m.ordinal)).is_some_and(|m| m.silent.is_none());
                if follows_well && answers {
                    broken.push(format!("{task_id} would be taken from a master that answers"));
                }
            }
            _ => {}
        }
    }
}

fn records_of_the_living_stay(o: &Observed, plan: &Plan, after: &After, broken: &mut Vec<String>) {
    for (ordinal, node) in &o.instance.nodes {
        let gone = after.forgotten || !after.nodes.contains_key(ordinal);
        let dead_before = node.record.value.task.is_dead();
        let dead_now = node.update.as_ref().is_some_and(|u| u.state.meaning() == Meaning::Dead);
        if gone && !dead_before && !dead_now {
            broken.push(format!("the record of {} would go, though it is not seen dead", node.record.value.name()));
        }
    }
    if after.forgotten && plan.launches().next().is_some() {
        broken.push("the instance would be forgotten and launched at once".to_string());
    }
}

fn distribution_is_kept(o: &Observed, plan: &Plan, after: &After, broken: &mut Vec<String>) {
    let Some(record) = &after.record else { return };
    let launched: BTreeSet<&str> = plan.launches().map(|launch| launch.task_id.as_str()).collect();
    let mut on_agent: BTreeMap<&str, u32> = BTreeMap::new();
    for node in after.nodes.values().filter(|node| !node.task.is_dead()) {
        *on_agent.entry(&node.agent_id).or_default() += 1;
    }
    for node in after.nodes.values().filter(|node| launched.contains(node.task_id.as_str())) {
        if on_agent.get(node.agent_id.as_str()).is_some_and(|count| *count > record.spec.distribution) {
            broken.push(format!(
                "{} would be one more than {} nodes of {} on its agent",
                node.name(),
                record.spec.distribution,
                o.name
            ));
        }
    }
}

fn only_the_recorded_master_is_followed(o: &Observed, plan: &Plan, after: &After, broken: &mut Vec<String>) {
    let master = after.record.as_ref().and_then(|record| after.nodes.get(&record.master?));
    for step in &plan.steps {
        let (Action::Follow { task_id, master: to, .. } | Action::Kick { task_id, master: to, .. }) = &step.action
        else {
            continue;
        };
        let Some(master) = master else {
            broken.push(format!("{task_id} would follow {to}, and there is no master"));
            continue;
        };
        if master.address != *to || master.task_id == *task_id {
            broken.push(format!("{task_id} would follow {to}, which is not the recorded master, or itself"));
        }
        let answer = |task: &str| {
            let node = o.instance.nodes.values().find(|node| node.record.value.task_id == task);
            node.and_then(|node| node.answer.as_ref()).map(|(answer, _)| answer)
        };
        let full = answer(task_id).is_some_and(|answer| answer.keys > 0);
        let hollow = answer(&master.task_id).is_none_or(|answer| answer.keys == 0 && answer.offset <= 1);
        if full && hollow {
            broken.push(format!("{task_id} has data and would follow an empty master"));
        }
    }
}
