//! The crash test, exhaustive: each workload once undisturbed, then again and again, with the operator
//! killed before and after each step that can be seen from outside, with each piece of news lost once
//! and doubled once, and with a watch that lags from each step on. Pure.

use redisctl::model::{Leaving, Request, RequestKind};
use redisctl::status::Phase;
use redisctl::store::{instance_key, request_key};

use crate::history::{Disturbance, History};
use crate::redis::Data;

/// What happens to a settled instance.
struct Workload {
    name: &'static str,
    replicas: usize,
    act: fn(&mut History),
    /// How it ends.
    phase: Option<Phase>,
}

fn workloads() -> Vec<Workload> {
    let ready = Some(Phase::Ready);
    let work = |name, replicas, act, phase| Workload { name, replicas, act, phase };
    vec![
        work("create", 0, |h| h.declare_quiet("b", 2), ready),
        work("scale up", 1, |h| h.scale("a", 3), ready),
        work("scale down", 3, |h| h.scale("a", 1), ready),
        work("the master dies", 2, |h| h.kill_master("a"), ready),
        work("the machine of the master dies", 2, |h| h.crash_machine_of_master("a"), ready),
        work("the master hangs", 2, |h| h.hang_master("a"), ready),
        work("the agent of the master is drained", 2, |h| h.empty_machine_of_master("a", Leaving::Drained), ready),
        work(
            "the agent of the master is deactivated",
            2,
            |h| h.empty_machine_of_master("a", Leaving::Deactivated),
            ready,
        ),
        work("maintenance", 1, |h| h.empty_machine_of_master("a", Leaving::Maintenance(h.now())), ready),
        work("switchover", 2, |h| h.ask("a", RequestKind::Failover), ready),
        work("roll", 2, |h| h.resize("a", "96Mi"), ready),
        work("roll of a single node", 0, |h| h.resize("a", "96Mi"), ready),
        work("delete", 2, |h| h.ask("a", RequestKind::Delete), None),
    ]
}

/// All that matters of the end: what is there, and the data.
#[derive(Debug, PartialEq)]
struct End {
    phases: Vec<(String, Option<Phase>, usize)>,
    data: Vec<(String, Data)>,
    keys: usize,
    running: usize,
    /// Tasks on agents that are to be emptied.
    staying: usize,
}

fn end(h: &History) -> End {
    let names = ["a", "b"];
    let phase = |name: &&str| {
        let stored = h.store().instances.get(*name);
        let nodes = stored.map_or(0, |s| s.nodes.values().filter(|node| !node.task.is_dead()).count());
        (name.to_string(), stored.and_then(|s| s.status.as_ref()).map(|status| status.phase), nodes)
    };
    let data = |name: &&str| (name.to_string(), h.master_data(name));
    let ours = |key: &&String| !key.starts_with("operator/") && !key.starts_with("events/");
    End {
        phases: names.iter().map(phase).collect(),
        data: names.iter().map(data).collect(),
        keys: h.store().items.keys().filter(ours).count(),
        running: h.running(),
        staying: h.staying(),
    }
}

/// Plays the workload; how it ended, and how many steps and pieces of news there were.
fn play(workload: &Workload, disturbance: Option<Disturbance>, told: bool) -> Result<(End, u64, u64, String), String> {
    let mut h = History::quiet(told);
    h.declare_quiet("a", workload.replicas);
    h.settle_quiet();
    h.write_confirmed("a", 3);
    h.settle_quiet();
    h.disturb(disturbance);
    (workload.act)(&mut h);
    h.settle_quiet();
    h.go_on_all();
    h.settle_quiet();
    let story = h.story();
    if let Some(what) = &h.broken {
        return Err(format!("{story}\n{what}"));
    }
    let (steps, news) = h.counted();
    Ok((end(&h), steps, news, story))
}

/// Disturbs each workload in every way; what went wrong, if anything did, and how many plays it took.
pub fn exhaust() -> Result<usize, String> {
    let mut plays = 0;
    for workload in workloads() {
        let (clean, steps, news, story) = play(&workload, None, true)?;
        let ended = clean.phases.iter().rev().find(|(_, phase, _)| phase.is_some()).and_then(|(_, phase, _)| *phase);
        if ended != workload.phase || clean.staying > 0 {
            return Err(format!("{story}\n{}: undisturbed, it ends {clean:?}", workload.name));
        }
        let crashes = (0..steps).flat_map(|n| [Disturbance::Before(n), Disturbance::After(n), Disturbance::Lag(n)]);
        let losses = (0..news).flat_map(|n| [Disturbance::Lost(n), Disturbance::Doubled(n)]);
        let disturbances: Vec<Disturbance> = crashes.chain(losses).chain((0..3).map(Disturbance::Cut)).collect();
        plays += disturbances.len();
        let wrong = |disturbance: &Disturbance| match play(&workload, Some(*disturbance), false) {
            Ok((end, ..)) if end == clean => None,
            Ok((end, ..)) => Some((*disturbance, format!("it ends {end:?}, undisturbed {clean:?}"))),
            Err(what) => Some((*disturbance, what)),
        };
        if let Some((disturbance, what)) = first_wrong(&disturbances, wrong) {
            let story = play(&workload, Some(disturbance), true).map_or_else(|story| story, |(.., story)| story);
            return Err(format!(
                "{story}\n{}, {disturbance:?} of {steps} steps and {news} news: {what}",
                workload.name
            ));
        }
    }
    Ok(plays)
}

/// On all cores.
fn first_wrong<T: Send>(disturbances: &[Disturbance], wrong: impl Fn(&Disturbance) -> Option<T> + Sync) -> Option<T> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = disturbances.len().div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let shares: Vec<_> =
            disturbances.chunks(share).map(|chunk| scope.spawn(|| chunk.iter().find_map(&wrong))).collect();
        shares.into_iter().find_map(|share| share.join().expect("no play panics"))
    })
}

/// What a user asks for, as the API writes it.
pub fn request(h: &mut History, name: &str, kind: RequestKind) {
    let revision = h.store().items.get(&instance_key(name)).map_or(0, |item| item.revision);
    let request = Request { at: h.now(), revision, ..Request::default() };
    let text = serde_json::to_vec(&request).expect("plain");
    h.store_mut().put(&request_key(name, kind), text);
}
