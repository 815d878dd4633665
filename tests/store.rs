//! The two stores behave alike; each stands its own faults: etcd's death and freeze, a file's damage. I/O.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt;
use redisctl::store::{Candidate, Change, Changes, Error, Guard, LEADER_KEY, LeaderToken, Leadership};
use redisctl::store::{Op, Process, Store, TXN_OPS_MAX, Txn, Watch};
use support::{Etcd, holds_for, wait_until};

/// For what should take milliseconds, on a loaded machine.
const SOON: Duration = Duration::from_secs(5);
/// Within this a fault of etcd must be noticed, and a standby must have taken over.
const NOTICED: Duration = Duration::from_secs(5);
/// What the operator uses.
const TTL: Duration = Duration::from_secs(3);

/// A store, and what it runs on.
struct Rig {
    store: Store,
    etcd: Option<Etcd>,
    folder: tempfile::TempDir,
}

impl Rig {
    async fn etcd() -> Rig {
        let etcd = Etcd::start().await;
        let store = Store::open(&etcd.url("test")).await.unwrap();
        Rig { store, etcd: Some(etcd), folder: tempfile::tempdir().unwrap() }
    }

    async fn file() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&file_url(&folder.path().join("store"))).await.unwrap();
        Rig { store, etcd: None, folder }
    }

    /// A handle as another operator has it.
    async fn another(&self) -> Store {
        match &self.etcd {
            Some(etcd) => Store::open(&etcd.url("test")).await.unwrap(),
            None => self.store.clone(),
        }
    }

    /// Makes the store forget its history up to now.
    async fn compact(&self) {
        match &self.etcd {
            Some(etcd) => etcd.compact().await,
            None => {
                for _ in 0..6 {
                    put(&self.store, "zz-ballast", &"x".repeat(1 << 20)).await;
                }
            }
        }
    }
}

fn file_url(path: &std::path::Path) -> String {
    format!("file:{}", path.display())
}

fn candidate(id: &str) -> Candidate {
    Candidate { id: id.into(), api: format!("http://{id}:5656"), process: None, frozen: false }
}

fn put_op(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: value.into() }
}

fn delete_op(key: &str) -> Op {
    Op::Delete { key: key.into() }
}

fn at(key: &str, revision: i64) -> Guard {
    Guard::Revision { key: key.into(), revision }
}

fn txn(guards: &[Guard], ops: &[Op]) -> Txn {
    Txn { guards: guards.to_vec(), ops: ops.to_vec() }
}

async fn put(store: &Store, key: &str, value: &str) -> i64 {
    store.commit(txn(&[], &[put_op(key, value)])).await.unwrap()
}

async fn value(store: &Store, key: &str) -> Option<String> {
    store.get(key).await.unwrap().map(|kv| String::from_utf8(kv.value).unwrap())
}

async fn next(watch: &mut Watch) -> Result<Changes, Error> {
    tokio::time::timeout(SOON, watch.next()).await.expect("the watch says something").expect("the watch goes on")
}

/// As text: `key=value@revision` and `-key@revision`.
fn told(changes: &[Change]) -> Vec<String> {
    let tell = |change: &Change| match change {
        Change::Put(kv) => format!("{}={}@{}", kv.key, String::from_utf8_lossy(&kv.value), kv.revision),
        Change::Delete { key, revision } => format!("-{key}@{revision}"),
    };
    changes.iter().map(tell).collect()
}

/// The next `count` changes.
async fn next_changes(watch: &mut Watch, count: usize) -> Vec<Change> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(next(watch).await.unwrap().changes);
    }
    assert_eq!(all.len(), count, "{:?}", told(&all));
    all
}

/// The error that ends a watch, whether it comes at its opening or later.
async fn end_of(store: &Store, prefix: &str, revision: i64) -> Error {
    match store.watch(prefix, revision).await {
        Err(error) => error,
        Ok(mut watch) => match next(&mut watch).await {
            Err(error) => error,
            Ok(changes) => panic!("the watch should have ended, and told {:?}", told(&changes.changes)),
        },
    }
}

async fn lead(store: &Store, id: &str) -> Leadership {
    tokio::time::timeout(SOON, store.campaign(&candidate(id), TTL)).await.expect("nobody else leads").unwrap()
}

async fn until_lost(leadership: &Leadership, limit: Duration) {
    let mut held = leadership.held.clone();
    tokio::time::timeout(limit, held.wait_for(|held| !held)).await.expect("it is noticed").unwrap();
    assert!(!leadership.is_held());
}

/// Each behaviour becomes a test on etcd and a test on a file.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod on_etcd {
            $(#[tokio::test] async fn $name() { super::$name(super::Rig::etcd().await).await; })*
        }
        mod on_file {
            $(#[tokio::test] async fn $name() { super::$name(super::Rig::file().await).await; })*
        }
    };
}

on_both! {
    a_list_has_all_keys_of_a_prefix_in_order_at_one_revision
    a_key_knows_when_it_came_to_be_and_when_it_was_written
    a_transaction_is_carried_out_when_its_guards_hold_and_not_at_all_otherwise
    a_conflict_names_the_key_and_what_happened_to_it
    a_transaction_that_changes_nothing_has_no_revision_of_its_own
    a_transaction_that_breaks_the_limits_is_refused
    nobody_overwrites_what_another_one_wrote_meanwhile
    a_watch_tells_every_change_after_its_revision_in_order
    a_watch_tells_a_transaction_whole_and_other_prefixes_not_at_all
    a_list_and_its_watch_together_miss_nothing_while_many_write
    a_watch_that_is_not_read_for_a_while_misses_nothing
    a_watch_from_a_forgotten_or_an_unknown_revision_asks_for_a_new_list
    one_candidate_leads_and_the_next_takes_over_when_it_resigns
    a_dropped_leadership_is_free_at_once
    a_waiting_candidate_that_gives_up_leaves_nothing_behind
    writes_of_a_former_leader_are_refused
    all_handles_are_of_the_same_store
}

async fn a_list_has_all_keys_of_a_prefix_in_order_at_one_revision(rig: Rig) {
    let store = &rig.store;
    let empty = store.list("").await.unwrap();
    assert!(empty.items.is_empty());
    for key in ["nodes/b/0", "nodes/a/1", "nodes/a/0", "nodesx", "instances/a", "nodes", "ä/ö"] {
        put(store, key, key).await;
    }
    let keys = async |prefix: &str| -> Vec<String> {
        let listing = store.list(prefix).await.unwrap();
        assert_eq!(listing.revision, empty.revision + 7);
        assert_eq!(listing.store_id, empty.store_id);
        listing.items.into_iter().map(|kv| kv.key).collect()
    };
    assert_eq!(keys("nodes/a/").await, ["nodes/a/0", "nodes/a/1"]);
    assert_eq!(keys("nodes/").await, ["nodes/a/0", "nodes/a/1", "nodes/b/0"]);
    assert_eq!(keys("no-such/").await, Vec::<String>::new());
    assert_eq!(keys("ä").await, ["ä/ö"]);
    let all = keys("").await;
    assert_eq!(all, ["instances/a", "nodes", "nodes/a/0", "nodes/a/1", "nodes/b/0", "nodesx", "ä/ö"]);
}

async fn a_key_knows_when_it_came_to_be_and_when_it_was_written(rig: Rig) {
    let store = &rig.store;
    assert_eq!(store.get("a").await.unwrap(), None);
    let first = put(store, "a", "1").await;
    put(store, "b", "1").await;
    let second = put(store, "a", "2").await;
    assert!(second > first + 1);
    let kv = store.get("a").await.unwrap().unwrap();
    assert_eq!((kv.created, kv.revision, kv.value.as_slice()), (first, second, b"2".as_slice()));
    store.commit(txn(&[], &[delete_op("a")])).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), None);
    let third = put(store, "a", "").await;
    let kv = store.get("a").await.unwrap().unwrap();
    assert_eq!((kv.created, kv.revision, kv.value.as_slice()), (third, third, b"".as_slice()));
}

async fn a_transaction_is_carried_out_when_its_guards_hold_and_not_at_all_otherwise(rig: Rig) {
    let store = &rig.store;
    let made = store.commit(txn(&[at("a", 0), at("b", 0)], &[put_op("a", "1"), put_op("b", "1")])).await.unwrap();
    let listing = store.list("").await.unwrap();
    assert!(listing.items.iter().all(|kv| kv.revision == made && kv.created == made), "{listing:?}");
    assert_eq!(listing.revision, made);

    let changed = store.commit(txn(&[at("a", made)], &[put_op("a", "2"), delete_op("b")])).await.unwrap();
    assert_eq!(changed, made + 1);
    assert_eq!((value(store, "a").await.as_deref(), value(store, "b").await), (Some("2"), None));

    for guards in [vec![at("a", made)], vec![at("a", 0)], vec![at("a", changed), at("b", made)], vec![at("c", 1)]] {
        let refused = store.commit(txn(&guards, &[put_op("a", "3"), put_op("d", "3")])).await;
        assert!(matches!(refused, Err(Error::Conflict(_))), "{guards:?}: {refused:?}");
    }
    assert_eq!(store.list("").await.unwrap().revision, changed);
    assert_eq!(value(store, "a").await.as_deref(), Some("2"));
}

async fn a_conflict_names_the_key_and_what_happened_to_it(rig: Rig) {
    let store = &rig.store;
    let made = put(store, "state/a", "1").await;
    let again = put(store, "state/a", "2").await;
    let why = async |guards: &[Guard]| store.commit(txn(guards, &[put_op("x", "")])).await.unwrap_err().to_string();
    assert_eq!(
        why(&[at("x", 0), at("state/a", made)]).await,
        format!("the store has changed meanwhile: state/a has revision {again}, and had {made}")
    );
    assert_eq!(
        why(&[at("state/a", 0)]).await,
        format!("the store has changed meanwhile: state/a exists, since revision {made}")
    );
    store.commit(txn(&[], &[delete_op("state/a")])).await.unwrap();
    assert_eq!(
        why(&[at("state/a", again)]).await,
        format!("the store has changed meanwhile: state/a was deleted, and had revision {again}")
    );
}

async fn a_transaction_that_changes_nothing_has_no_revision_of_its_own(rig: Rig) {
    let store = &rig.store;
    let made = put(store, "a", "1").await;
    assert_eq!(store.commit(txn(&[at("b", 0)], &[delete_op("b")])).await.unwrap(), made);
    assert_eq!(store.commit(txn(&[at("a", made)], &[])).await.unwrap(), made);
    // The same value again is a change, however.
    assert_eq!(put(store, "a", "1").await, made + 1);
}

async fn a_transaction_that_breaks_the_limits_is_refused(rig: Rig) {
    let store = &rig.store;
    let keys: Vec<String> = (0..=TXN_OPS_MAX).map(|n| format!("k{n:03}")).collect();
    let ops: Vec<Op> = keys.iter().map(|key| put_op(key, "")).collect();
    let guards: Vec<Guard> = keys.iter().map(|key| at(key, 0)).collect();
    for refused in [txn(&[], &ops), txn(&guards, &[]), txn(&[], &[put_op("a", ""), delete_op("a")])] {
        let error = store.commit(refused).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
    }
    assert!(store.list("").await.unwrap().items.is_empty());
    store.commit(txn(&guards[1..], &ops[1..])).await.unwrap();
    assert_eq!(store.list("").await.unwrap().items.len(), TXN_OPS_MAX);
}

async fn nobody_overwrites_what_another_one_wrote_meanwhile(rig: Rig) {
    put(&rig.store, "count", "0").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = rig.another().await;
        tasks.spawn(async move {
            let mut done = 0;
            while done < 15 {
                let kv = store.get("count").await.unwrap().unwrap();
                let count: u32 = String::from_utf8(kv.value).unwrap().parse().unwrap();
                let plus_one = txn(&[at("count", kv.revision)], &[put_op("count", &(count + 1).to_string())]);
                match store.commit(plus_one).await {
                    Ok(_) => done += 1,
                    Err(Error::Conflict(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(value(&rig.store, "count").await.as_deref(), Some("60"));
}

async fn a_watch_tells_every_change_after_its_revision_in_order(rig: Rig) {
    let store = &rig.store;
    let r = put(store, "a", "1").await;
    put(store, "a", "2").await;
    put(store, "b", "1").await;
    let mut early = store.watch("", r).await.unwrap();
    let mut late = store.watch("", r + 2).await.unwrap();
    store.commit(txn(&[], &[delete_op("a")])).await.unwrap();
    put(store, "a", "3").await;
    let expected =
        [format!("a=2@{}", r + 1), format!("b=1@{}", r + 2), format!("-a@{}", r + 3), format!("a=3@{}", r + 4)];
    let seen = next_changes(&mut early, 4).await;
    assert_eq!(told(&seen), expected);
    assert_eq!(told(&next_changes(&mut late, 2).await), expected[2..]);
    let Some(Change::Put(kv)) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(kv.created, r + 4);
}

async fn a_watch_tells_a_transaction_whole_and_other_prefixes_not_at_all(rig: Rig) {
    let store = &rig.store;
    let mut watch = store.watch("a/", store.list("").await.unwrap().revision).await.unwrap();
    let mut revisions = Vec::new();
    for _ in 0..3 {
        let mut ops: Vec<Op> = (0..100).map(|n| put_op(&format!("a/{n:03}"), "1")).collect();
        ops.push(put_op("b", "1"));
        revisions.push(store.commit(txn(&[], &ops)).await.unwrap());
        put(store, "b", "2").await;
    }
    let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
    while seen.len() < 3 {
        let batch = next(&mut watch).await.unwrap();
        for change in &batch.changes {
            let Change::Put(kv) = change else { panic!("{change:?}") };
            assert!(kv.key.starts_with("a/"));
            assert!(kv.revision <= batch.revision);
            *seen.entry(kv.revision).or_default() += 1;
        }
        assert!(seen.values().all(|count| *count == 100), "a part of a transaction: {seen:?}");
    }
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), revisions);
}

async fn a_list_and_its_watch_together_miss_nothing_while_many_write(rig: Rig) {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let store = rig.another().await;
        writers.spawn(async move {
            for n in 0..40 {
                let key = format!("k{}", (writer * 7 + n) % 11);
                let op = if n % 5 == 4 { delete_op(&key) } else { put_op(&key, &format!("{writer}-{n}")) };
                store.commit(txn(&[], &[op])).await.unwrap();
            }
        });
    }
    // One fold that starts at once, and one that starts in the middle.
    let mut folds = Vec::new();
    for _ in 0..2 {
        let listing = rig.store.list("k").await.unwrap();
        let watch = rig.store.watch("k", listing.revision).await.unwrap();
        folds.push((listing.items.into_iter().map(|kv| (kv.key.clone(), kv)).collect::<BTreeMap<_, _>>(), watch));
        tokio::time::sleep(Duration::from_millis(20)).await; // Not waited for: only a later moment.
    }
    writers.join_all().await;
    let end = put(&rig.store, "k-end", "").await;
    let truth = rig.store.list("k").await.unwrap();
    for (mut state, mut watch) in folds {
        let mut seen = 0;
        while seen < end {
            let batch = next(&mut watch).await.unwrap();
            for change in batch.changes {
                let revision = match change {
                    Change::Put(kv) => {
                        let revision = kv.revision;
                        state.insert(kv.key.clone(), kv);
                        revision
                    }
                    Change::Delete { key, revision } => {
                        state.remove(&key);
                        revision
                    }
                };
                assert!(revision > seen, "told twice or out of order");
                seen = revision;
            }
            assert_eq!(seen, batch.revision);
        }
        assert_eq!(state.into_values().collect::<Vec<_>>(), truth.items);
    }
}

async fn a_watch_that_is_not_read_for_a_while_misses_nothing(rig: Rig) {
    let store = &rig.store;
    let start = store.list("").await.unwrap().revision;
    let mut watch = store.watch("", start).await.unwrap();
    let other = store.watch("", start).await.unwrap();
    for n in 0..50 {
        put(store, "a", &n.to_string()).await;
    }
    // Longer than etcd may take for a sign of life.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let seen = next_changes(&mut watch, 50).await;
    assert_eq!(told(&seen)[49], format!("a=49@{}", start + 50));
    drop(other);
    put(store, "a", "50").await;
    assert_eq!(told(&next_changes(&mut watch, 1).await), [format!("a=50@{}", start + 51)]);
}

async fn a_watch_from_a_forgotten_or_an_unknown_revision_asks_for_a_new_list(rig: Rig) {
    let store = &rig.store;
    let first = put(store, "a", "1").await;
    for n in 0..5 {
        put(store, "a", &n.to_string()).await;
    }
    rig.compact().await;
    let error = end_of(store, "a", first).await;
    assert!(matches!(error, Error::Compacted(revision) if revision == first), "{error}");
    let listing = store.list("").await.unwrap();
    let error = end_of(store, "a", listing.revision + 10).await;
    assert!(matches!(error, Error::Compacted(_)), "{error}");
    let mut watch = store.watch("a", listing.revision).await.unwrap();
    put(store, "a", "new").await;
    assert_eq!(told(&next_changes(&mut watch, 1).await), [format!("a=new@{}", listing.revision + 1)]);
}

async fn one_candidate_leads_and_the_next_takes_over_when_it_resigns(rig: Rig) {
    let (store, other) = (&rig.store, rig.another().await);
    let first = lead(store, "one").await;
    assert!(first.is_held());
    let kv = store.get(LEADER_KEY).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Candidate>(&kv.value).unwrap(), candidate("one"));
    assert_eq!(kv.created, first.token.created);

    let waiting = tokio::spawn(async move { other.campaign(&candidate("two"), TTL).await.unwrap() });
    holds_for("the second one waits", Duration::from_millis(500), async || !waiting.is_finished()).await;
    let (held, resigned) = (first.held.clone(), Instant::now());
    first.resign().await;
    assert!(!*held.borrow());
    let second = tokio::time::timeout(SOON, waiting).await.expect("it takes over").unwrap();
    let took = resigned.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let kv = store.get(LEADER_KEY).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Candidate>(&kv.value).unwrap(), candidate("two"));
    assert!(second.is_held());
}

async fn a_dropped_leadership_is_free_at_once(rig: Rig) {
    let first = lead(&rig.store, "one").await;
    let (token, held) = (first.token.clone(), first.held.clone());
    drop(first);
    wait_until("nobody leads", SOON, async || rig.store.get(LEADER_KEY).await.unwrap().is_none()).await;
    assert!(!*held.borrow());
    let second = lead(&rig.store, "two").await;
    assert_ne!(second.token, token);
}

async fn a_waiting_candidate_that_gives_up_leaves_nothing_behind(rig: Rig) {
    let first = lead(&rig.store, "one").await;
    let given_up = rig.another().await;
    let waiting = tokio::time::timeout(Duration::from_millis(300), given_up.campaign(&candidate("two"), TTL)).await;
    assert!(waiting.is_err(), "two lead");
    first.resign().await;
    let third = lead(&rig.another().await, "three").await;
    assert!(third.is_held());
}

async fn writes_of_a_former_leader_are_refused(rig: Rig) {
    let (store, other) = (&rig.store, rig.another().await);
    let first = lead(store, "one").await;
    let old = Guard::Leader(first.token.clone());
    let made = store.commit(txn(std::slice::from_ref(&old), &[put_op("state/a", "1")])).await.unwrap();
    let write = txn(&[at("state/a", made), old.clone()], &[put_op("state/a", "2")]);
    first.resign().await;
    assert!(matches!(store.commit(write.clone()).await, Err(Error::NotLeader)), "nobody leads");
    let second = lead(&other, "two").await;
    assert!(matches!(store.commit(write).await, Err(Error::NotLeader)), "another one leads");
    // It matters more to know that one does not lead than that something changed.
    let both = txn(&[at("state/a", made + 100), old], &[put_op("state/a", "2")]);
    assert!(matches!(store.commit(both).await, Err(Error::NotLeader)));
    let never = Guard::Leader(LeaderToken { created: 0 });
    assert!(matches!(store.commit(txn(&[never], &[])).await, Err(Error::NotLeader)));
    let new = Guard::Leader(second.token.clone());
    other.commit(txn(&[new, at("state/a", made)], &[put_op("state/a", "2")])).await.unwrap();
    assert_eq!(value(store, "state/a").await.as_deref(), Some("2"));
}

async fn all_handles_are_of_the_same_store(rig: Rig) {
    let other = rig.another().await;
    put(&rig.store, "a", "1").await;
    assert_eq!(rig.store.list("").await.unwrap(), other.list("").await.unwrap());
    let elsewhere = Rig::file().await;
    assert_ne!(
        rig.store.list("").await.unwrap().store_id,
        elsewhere.store.list("").await.unwrap().store_id,
        "two stores have two ids"
    );
    drop(rig.folder);
}

#[tokio::test]
async fn a_wrong_url_is_refused_and_says_what_is_allowed() {
    for (url, expected) in [
        (
            "redis://a:1",
            "--store \"redis://a:1\": allowed are etcd://HOST:PORT[,HOST:PORT...]/PREFIX, the same with TLS",
        ),
        ("etcd://localhost/x", "endpoint \"localhost\" has no port: allowed is HOST:PORT, as in 127.0.0.1:2379"),
        ("etcd://a:1,/x", "endpoint \"\" has no port"),
        ("etcd://a:70000", "endpoint \"a:70000\" has no valid port"),
        ("etcd://user:pw@a:1/x", "--store: user and password do not belong into an address"),
        ("etcds://user:pw@a:1/x", "--store: user and password do not belong into an address"),
        ("etcd://::1:2379/x", "endpoint \"::1:2379\" has no valid host"),
        ("file:", "--store file:PATH has no path"),
        ("file:/no/such/folder/store", "open the store's file /no/such/folder/store: No such file"),
    ] {
        let error = Store::open(url).await.err().unwrap_or_else(|| panic!("{url} was taken"));
        let error = format!("{error:#}");
        assert!(error.contains(expected), "{url}: {error}");
    }
    for url in ["etcd://127.0.0.1:1,[::1]:2/a/b/", "etcd://etcd.example:2379", "etcd://a:1/"] {
        Store::open(url).await.unwrap();
    }
}

mod etcd_alone {
    use super::*;

    async fn start() -> (Etcd, Store) {
        let etcd = Etcd::start().await;
        let store = Store::open(&etcd.url("test")).await.unwrap();
        (etcd, store)
    }

    async fn watch_all(store: &Store) -> Watch {
        store.watch("", store.list("").await.unwrap().revision).await.unwrap()
    }

    fn unavailable<T>(result: Result<T, Error>) -> String {
        match result {
            Err(Error::Unavailable(error)) => format!("{error:#}"),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it should have failed"),
        }
    }

    #[tokio::test]
    async fn what_etcdctl_puts_and_deletes_is_seen() {
        let (etcd, store) = start().await;
        let mut watch = watch_all(&store).await;
        etcd.put("/test/instances/orders", "kind: RedisInstance\n").await;
        etcd.put("/tests/instances/other", "not ours").await;
        etcd.del("/test/instances/orders").await;
        let seen = next_changes(&mut watch, 2).await;
        let revision = etcd.revision().await;
        assert_eq!(
            told(&seen),
            [
                format!("instances/orders=kind: RedisInstance\n@{}", revision - 2),
                format!("-instances/orders@{revision}")
            ]
        );
        put(&store, "instances/mine", "text").await;
        assert_eq!(etcd.get("/test/instances/mine").await.as_deref(), Some("text"));
        etcd.ctl(&["put", "/test/\u{fffd}", "text"]).await;
        assert_eq!(store.list("").await.unwrap().items.len(), 2);
    }

    #[tokio::test]
    async fn the_prefix_is_redisctl_unless_the_url_says_otherwise() {
        let (etcd, _) = start().await;
        put(&Store::open(&format!("etcd://{}", etcd.endpoint())).await.unwrap(), "a", "1").await;
        put(&Store::open(&format!("etcd://{}/deep/er/", etcd.endpoint())).await.unwrap(), "b", "2").await;
        assert_eq!(etcd.keys("/").await, ["/deep/er/b", "/redisctl/a"]);
    }

    #[tokio::test]
    async fn two_thousand_keys_are_listed_in_pages_while_others_are_written() {
        let (_etcd, store) = start().await;
        let mut last = 0;
        for hundred in 0..20 {
            let ops: Vec<Op> = (0..100).map(|n| put_op(&format!("k/{:04}", hundred * 100 + n), "v")).collect();
            last = store.commit(txn(&[], &ops)).await.unwrap();
        }
        let writer = store.clone();
        let writing = tokio::spawn(async move {
            for n in 0.. {
                // All keys at once in each of these: a list that mixes revisions would show it.
                let ops: Vec<Op> = (0..20).map(|k| put_op(&format!("k/{:04}", k * 100), &n.to_string())).collect();
                writer.commit(txn(&[], &ops)).await.unwrap();
            }
        });
        wait_until("the writer writes", SOON, async || store.list("k/0000").await.unwrap().revision > last).await;
        for _ in 0..5 {
            let listing = store.list("k/").await.unwrap();
            let keys: Vec<String> = listing.items.iter().map(|kv| kv.key.clone()).collect();
            assert_eq!(keys, (0..2000).map(|n| format!("k/{n:04}")).collect::<Vec<_>>());
            let written: Vec<i64> = listing.items.iter().step_by(100).map(|kv| kv.revision).collect();
            assert!(written.iter().all(|revision| *revision == written[0]), "not one revision: {written:?}");
        }
        writing.abort();
    }

    #[tokio::test]
    async fn a_page_of_large_values_is_read() {
        let (_etcd, store) = start().await;
        let megabyte = "x".repeat(1 << 20);
        let start = store.list("").await.unwrap().revision;
        for n in 0..12 {
            put(&store, &format!("k{n}"), &megabyte).await;
        }
        assert_eq!(store.list("").await.unwrap().items.len(), 12);
        let mut watch = store.watch("", start).await.unwrap();
        next_changes(&mut watch, 12).await;
    }

    /// etcd cuts connections that ping more often than it likes, the fourth time.
    #[tokio::test]
    async fn an_idle_watch_and_an_idle_leadership_last() {
        let (_etcd, store) = start().await;
        let leader = lead(&store, "one").await;
        let mut watch = watch_all(&store).await;
        let quiet = tokio::time::timeout(Duration::from_secs(14), watch.next()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        assert!(leader.is_held());
        put(&store, "a", "1").await;
        assert_eq!(next_changes(&mut watch, 1).await.len(), 1);
    }

    #[tokio::test]
    async fn after_a_kill_and_a_restart_the_same_handle_works() {
        let (mut etcd, store) = start().await;
        let made = put(&store, "a", "1").await;
        let mut watch = watch_all(&store).await;
        let leader = lead(&store, "one").await;
        next_changes(&mut watch, 1).await;
        let id = store.list("").await.unwrap().store_id;
        etcd.stop();
        let stopped = Instant::now();
        unavailable(next(&mut watch).await);
        assert!(watch.next().await.is_none(), "a watch ends after its error");
        let why = unavailable(store.list("").await);
        assert!(why.contains("Connection refused") && why.contains(&etcd.endpoint()), "{why}");
        unavailable(store.commit(txn(&[], &[put_op("a", "2")])).await);
        unavailable(store.watch("", made).await);
        unavailable(store.campaign(&candidate("two"), TTL).await);
        until_lost(&leader, NOTICED.saturating_sub(stopped.elapsed())).await;
        assert!(stopped.elapsed() < NOTICED);

        etcd.start_again().await;
        let listing = wait_until("the store answers", SOON, async || store.list("").await).await;
        assert_eq!((listing.store_id, value(&store, "a").await.as_deref()), (id, Some("1")));
        let mut watch = store.watch("a", made).await.unwrap();
        let second = put(&store, "a", "2").await;
        assert_eq!(told(&next_changes(&mut watch, 1).await), [format!("a=2@{second}")]);
        let again = tokio::time::timeout(Duration::from_secs(10), store.campaign(&candidate("one"), TTL)).await;
        assert!(again.expect("the lease lapsed").unwrap().is_held());
    }

    #[tokio::test]
    async fn a_frozen_server_is_noticed_by_all_within_seconds_and_served_again_after() {
        let (etcd, store) = start().await;
        let leader = lead(&store, "one").await;
        let listing = store.list("").await.unwrap();
        let mut watch = store.watch("", listing.revision).await.unwrap();
        etcd.freeze();
        let frozen = Instant::now();
        let list = async { unavailable(store.list("").await) };
        let get = async { unavailable(store.get("a").await) };
        let commit = async { unavailable(store.commit(txn(&[], &[put_op("a", "1")])).await) };
        let open = async { unavailable(store.watch("", listing.revision).await) };
        let watch = async { unavailable(watch.next().await.expect("an error before the end")) };
        let held = until_lost(&leader, NOTICED);
        let (list, get, commit, open, watch, ()) = tokio::join!(list, get, commit, open, watch, held);
        assert!(frozen.elapsed() < NOTICED, "{:?}", frozen.elapsed());
        for why in [list, get, commit, open] {
            assert!(why.contains("no answer within 2.0 s"), "{why}");
        }
        assert_eq!(watch, "watch: no sign of life within 2 s");

        etcd.thaw();
        wait_until("the store answers", SOON, async || store.list("").await).await;
        let made = put(&store, "b", "1").await;
        let mut watch = store.watch("b", made - 1).await.unwrap();
        assert_eq!(told(&next_changes(&mut watch, 1).await), [format!("b=1@{made}")]);
        let again = tokio::time::timeout(Duration::from_secs(10), lead_somehow(&store, "two")).await;
        let again = again.expect("the lease has lapsed");
        assert_ne!(again.token, leader.token);
        let old = Guard::Leader(leader.token.clone());
        assert!(matches!(store.commit(txn(&[old], &[])).await, Err(Error::NotLeader)));
    }

    /// As the operator does: after an error it campaigns again.
    async fn lead_somehow(store: &Store, id: &str) -> Leadership {
        loop {
            match store.campaign(&candidate(id), TTL).await {
                Ok(leadership) => return leadership,
                Err(error) => println!("campaign of {id}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// etcd gives each lease its whole time again when it starts.
    #[tokio::test]
    async fn a_leader_that_stepped_down_as_etcd_was_away_leads_again_as_soon_as_it_is_back() {
        let (mut etcd, store) = start().await;
        let first = lead(&store, "one").await;
        etcd.stop();
        until_lost(&first, NOTICED).await;
        let again = tokio::spawn(async move { (lead_somehow(&store, "one").await, store) });
        etcd.start_again().await;
        let back = Instant::now();
        let (second, store) = tokio::time::timeout(SOON, again).await.expect("nobody else leads").unwrap();
        println!("leads again {:?} after etcd's return", back.elapsed());
        assert!(second.is_held() && back.elapsed() < TTL, "its old lease was waited for");
        assert!(second.token.created > first.token.created);
        let late = txn(&[Guard::Leader(first.token.clone())], &[put_op("a", "1")]);
        assert!(matches!(store.commit(late).await, Err(Error::NotLeader)));
    }

    #[tokio::test]
    async fn a_standby_takes_over_within_seconds_of_the_leaders_death() {
        let (etcd, store) = start().await;
        // What runs on a runtime of its own dies with it as with its process: nobody says goodbye.
        let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url = etcd.url("test");
        let leader = process
            .spawn(async move {
                let store = Store::open(&url).await.unwrap();
                (store.campaign(&candidate("one"), TTL).await.unwrap(), store)
            })
            .await
            .unwrap();
        let standby = tokio::spawn(async move { (lead_somehow(&store, "two").await, store) });
        holds_for("one leads for longer than its lease", 2 * TTL, async || {
            !standby.is_finished() && leader.0.is_held()
        })
        .await;
        let (died, old) = (Instant::now(), leader.0.token.clone());
        process.shutdown_background();
        let (second, store) = tokio::time::timeout(NOTICED, standby).await.expect("it takes over in time").unwrap();
        println!("taken over after {:?}", died.elapsed());
        assert!(second.is_held());
        assert!(!leader.0.is_held(), "the first one knows by its clock alone");
        let late = txn(&[Guard::Leader(old)], &[put_op("a", "1")]);
        assert!(matches!(store.commit(late).await, Err(Error::NotLeader)));
    }

    /// The lease itself is kept alive here, so nothing but the proof can end it.
    #[tokio::test]
    async fn a_leader_whose_process_on_this_machine_is_gone_is_not_waited_for() {
        let (etcd, store) = start().await;
        let mut process = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let gone = Process::of(i32::try_from(process.id()).unwrap());
        let first = store.campaign(&Candidate { process: gone, ..candidate("one") }, TTL).await.unwrap();
        let other = Store::open(&etcd.url("test")).await.unwrap();
        let standby = tokio::spawn(async move { lead_somehow(&other, "two").await });
        holds_for("it leads as long as its process runs", Duration::from_secs(1), async || {
            !standby.is_finished() && first.is_held()
        })
        .await;
        process.kill().unwrap();
        process.wait().unwrap();
        let second = tokio::time::timeout(SOON, standby).await.expect("its lease has not ended").unwrap();
        assert!(second.is_held());
        let late = txn(&[Guard::Leader(first.token.clone())], &[put_op("a", "1")]);
        assert!(matches!(store.commit(late).await, Err(Error::NotLeader)));
    }

    #[tokio::test]
    async fn a_leaders_key_that_is_deleted_or_whose_lease_is_revoked_ends_the_leadership() {
        let (etcd, store) = start().await;
        let first = lead(&store, "one").await;
        etcd.del("/test/operator/leader").await;
        until_lost(&first, NOTICED).await;
        let second = lead(&store, "two").await;
        let lease = etcd.ctl(&["lease", "list"]).await.lines().last().unwrap().to_owned();
        etcd.ctl(&["lease", "revoke", &lease]).await;
        until_lost(&second, NOTICED).await;
    }

    #[tokio::test]
    async fn a_leaders_key_that_is_overwritten_by_hand_stays_the_leaders_and_is_freed_by_it() {
        let (etcd, store) = start().await;
        let leader = lead(&store, "one").await;
        etcd.put("/test/operator/leader", "rubbish").await;
        wait_until("the leader has mended its key", SOON, async || {
            serde_json::from_slice::<Candidate>(&store.get(LEADER_KEY).await.unwrap().unwrap().value)
        })
        .await;
        assert!(leader.is_held());
        leader.resign().await;
        assert!(store.get(LEADER_KEY).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn compaction_under_a_watch_that_keeps_up_does_not_disturb_it() {
        let (etcd, store) = start().await;
        let mut watch = watch_all(&store).await;
        for n in 0..10 {
            let made = put(&store, "a", &n.to_string()).await;
            etcd.compact().await;
            assert_eq!(told(&next_changes(&mut watch, 1).await), [format!("a={n}@{made}")]);
        }
    }

    #[tokio::test]
    async fn with_several_endpoints_a_dead_one_is_passed_over() {
        let (etcd, _) = start().await;
        let ports = support::Ports::lease(1);
        let dead = format!("127.0.0.1:{}", ports.next());
        for endpoints in [format!("{dead},{}", etcd.endpoint()), format!("{},{dead}", etcd.endpoint())] {
            let url = format!("etcd://{endpoints}/test");
            // Each first call meets the dead one.
            let fresh = async || Store::open(&url).await.unwrap();
            put(&fresh().await, "a", "1").await;
            let listing = fresh().await.list("").await.unwrap();
            let mut watch = fresh().await.watch("", listing.revision).await.unwrap();
            let store = fresh().await;
            let leader = lead(&store, "one").await;
            assert_eq!(next_changes(&mut watch, 1).await.len(), 1);
            tokio::time::sleep(TTL).await;
            assert!(leader.is_held());
            leader.resign().await;
        }
    }

    #[tokio::test]
    async fn with_several_endpoints_a_frozen_one_delays_a_read_once_and_a_write_is_not_sent_twice() {
        let (etcd, _) = start().await;
        // Takes connections, as the kernel does for a stopped process, and never answers.
        let frozen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("etcd://{},{}/test", frozen.local_addr().unwrap(), etcd.endpoint());
        let store = Store::open(&url).await.unwrap();
        let started = Instant::now();
        let revision = store.list("").await.unwrap().revision;
        assert!(started.elapsed() < NOTICED);
        let second = Instant::now();
        put(&store, "a", "1").await;
        let _watch = store.watch("", revision).await.unwrap();
        assert!(second.elapsed() < Duration::from_secs(1), "the good one is used from then on");

        // A write for which there is no connection goes to the next one; one that was sent is not sent twice.
        let store = Store::open(&url).await.unwrap();
        put(&store, "a", "2").await;
        etcd.freeze();
        unavailable(store.commit(txn(&[], &[put_op("a", "3")])).await);
        etcd.thaw();
        put(&store, "a", "4").await;
        let store = Store::open(&url).await.unwrap();
        let leader = lead(&store, "one").await;
        tokio::time::sleep(2 * TTL).await;
        assert!(leader.is_held());
    }
}

mod file_alone {
    use super::*;
    use proptest::prelude::*;

    fn path(rig: &Rig) -> PathBuf {
        rig.folder.path().join("store")
    }

    async fn reopen(rig: Rig) -> Rig {
        let Rig { store, etcd, folder } = rig;
        drop(store);
        let store = Store::open(&file_url(&folder.path().join("store"))).await.unwrap();
        Rig { store, etcd, folder }
    }

    #[tokio::test]
    async fn reopened_it_has_the_same_id_keys_and_revisions() {
        let mut rig = Rig::file().await;
        let first = put(&rig.store, "a", "1").await;
        for n in 2..5 {
            put(&rig.store, "a", &n.to_string()).await;
            let before = rig.store.list("").await.unwrap();
            rig = reopen(rig).await;
            assert_eq!(rig.store.list("").await.unwrap(), before);
        }
        let kv = rig.store.get("a").await.unwrap().unwrap();
        assert_eq!((kv.created, kv.revision), (first, first + 3));
        assert_eq!(put(&rig.store, "a", "5").await, first + 4);
        // Its history went with the process.
        let error = end_of(&rig.store, "a", first).await;
        assert!(matches!(error, Error::Compacted(_)), "{error}");
    }

    #[tokio::test]
    async fn a_watch_ends_when_the_store_is_closed_and_does_not_keep_it_open() {
        let rig = Rig::file().await;
        let mut watch = rig.store.watch("", 1).await.unwrap();
        put(&rig.store, "a", "1").await;
        let _rig = reopen(rig).await;
        assert_eq!(told(&next_changes(&mut watch, 1).await), ["a=1@2"]);
        assert!(matches!(next(&mut watch).await, Err(Error::Unavailable(_))));
        assert!(watch.next().await.is_none());
    }

    #[tokio::test]
    async fn a_file_in_use_is_refused_by_name() {
        let rig = Rig::file().await;
        let error = format!("{:#}", Store::open(&file_url(&path(&rig))).await.err().expect("it is locked"));
        assert_eq!(
            error,
            format!(
                "open the store's file {}: it is in use by another process, and one at a time is allowed",
                path(&rig).display()
            )
        );
        // What was written by who has it is not harmed.
        put(&rig.store, "a", "1").await;
    }

    #[tokio::test]
    async fn a_leaders_key_left_by_a_killed_process_is_replaced_at_once() {
        let rig = Rig::file().await;
        let leader = lead(&rig.store, "one").await;
        let copy = rig.folder.path().join("copy");
        std::fs::copy(path(&rig), &copy).unwrap(); // As a kill leaves it.
        let store = Store::open(&file_url(&copy)).await.unwrap();
        assert!(store.get(LEADER_KEY).await.unwrap().is_some());
        let second = lead(&store, "two").await;
        assert!(second.token.created > leader.token.created);
        let old = Guard::Leader(leader.token.clone());
        assert!(matches!(store.commit(txn(&[old], &[])).await, Err(Error::NotLeader)));
        assert_eq!(store.get(LEADER_KEY).await.unwrap().unwrap().created, second.token.created);
    }

    #[tokio::test]
    async fn a_thousand_commits_at_once_are_all_done_each_with_a_revision_of_its_own() {
        let rig = Rig::file().await;
        let started = Instant::now();
        let commits = (0..1000).map(|n| put_owned(rig.store.clone(), format!("k{n}")));
        let mut revisions = futures::future::join_all(commits).await;
        println!("1000 commits at once: {:?}", started.elapsed());
        revisions.sort_unstable();
        assert_eq!(revisions, (2..1002).collect::<Vec<i64>>());
        assert_eq!(reopen(rig).await.store.list("").await.unwrap().items.len(), 1000);
    }

    async fn put_owned(store: Store, key: String) -> i64 {
        put(&store, &key, "v").await
    }

    #[tokio::test]
    async fn another_database_is_not_taken_for_a_store() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("other");
        let db = redb::Database::create(&file).unwrap();
        let write = db.begin_write().unwrap();
        write.open_table(redb::TableDefinition::<u64, u64>::new("keys")).unwrap().insert(1, 1).unwrap();
        write.commit().unwrap();
        drop(db);
        let error = format!("{:#}", Store::open(&file_url(&file)).await.err().expect("it is not a store"));
        assert!(error.contains("it is a database, but not a store of redisctl"), "{error}");
    }

    /// A store with 200 keys, as bytes.
    fn good_file() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store");
        block_on(async {
            let store = Store::open(&file_url(&file)).await.unwrap();
            for _ in 0..3 {
                let ops: Vec<Op> = (0..100).map(|n| put_op(&format!("k/{n}"), &"v".repeat(100))).collect();
                store.commit(txn(&[], &ops)).await.unwrap();
            }
        });
        std::fs::read(&file).unwrap()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(future)
    }

    /// Opens a file with these bytes and uses it: whatever comes out, it comes as an answer in time.
    fn use_file(bytes: &[u8]) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store");
        std::fs::write(&file, bytes).unwrap();
        let using = async {
            let store = Store::open(&file_url(&file)).await.map_err(|e| format!("{e:#}"))?;
            let listing = store.list("").await.map_err(|e| e.to_string())?;
            store.get("k/1").await.map_err(|e| e.to_string())?;
            store.commit(txn(&[], &[put_op("k/1", "new")])).await.map_err(|e| e.to_string())?;
            let _ = store.watch("", listing.revision).await.map_err(|e| e.to_string())?;
            Ok(())
        };
        block_on(async { tokio::time::timeout(Duration::from_secs(20), using).await.expect("an answer in time") })
    }

    #[test]
    fn rubbish_in_the_file_is_an_error_that_names_it() {
        for bytes in
            [b"hello".to_vec(), vec![0; 5000], vec![0xff; 100_000], b"redb".to_vec(), good_file()[..5000].to_vec()]
        {
            let error = use_file(&bytes).expect_err("it is rubbish");
            assert!(error.starts_with("open the store's file /"), "{error}");
        }
        use_file(&[]).expect("an empty file becomes a store");
        use_file(&good_file()).expect("it is good");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_damaged_file_gives_answers_or_errors_and_nothing_hangs(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            static GOOD: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(good_file);
            let mut bytes = GOOD.clone();
            for (place, byte) in damage {
                // Most of the file is empty: the first pages hold what matters.
                let place = place.index(bytes.len().min(1 << 17));
                bytes[place] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let _ = use_file(&bytes);
        }
    }
}
