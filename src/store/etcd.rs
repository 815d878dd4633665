//! The store on etcd v3. I/O.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, TxnOp, TxnOpResponse};

use super::{Candidate, Error, Guard, KeyValue, LEADER_KEY, Leadership, Listing, Op, Txn, Watch};
use door::Door;
use failure::Failure;
use members::{Link, Members, Patience};

pub use door::Credentials;

mod door;
mod election;
mod failure;
mod members;
mod presence;
mod tail;
mod words;

/// How a store is named.
pub const STORE_FORMS: &str =
    "allowed are etcd://HOST:PORT[,HOST:PORT...]/PREFIX, the same with TLS by etcds://, and file:PATH";
/// Whoever puts a password into an address is not shown it again.
pub const NO_PASSWORDS: &str = "--store: user and password do not belong into an address, which everybody on this machine \
                                can read: set --etcd-user and --etcd-password-file";
/// Used when the URL names no prefix.
const DEFAULT_PREFIX: &str = "redisctl";
/// Keys in one page of a list: at 10 KB each a page has 5 MB, and a frozen server is noticed at the
/// next page.
const PAGE_KEYS: i64 = 500;
/// Bytes of one answer: the library's 4 MiB are less than a page of large values.
const DECODE_MAX: usize = 64 << 20;
/// A list starts again when its revision is compacted between two pages: once is rare.
const LIST_TRIES: u32 = 3;

/// etcd v3, below a key prefix.
#[derive(Clone)]
pub struct EtcdStore {
    members: Arc<Members>,
    keys: Keys,
}

/// Our keys among etcd's.
#[derive(Clone)]
struct Keys {
    /// `/PREFIX/`.
    root: Arc<str>,
}

impl Keys {
    fn full(&self, key: &str) -> Vec<u8> {
        [self.root.as_bytes(), key.as_bytes()].concat()
    }

    /// From the first key that starts with `prefix` to before the first one after all of these.
    fn range(&self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        let from = self.full(prefix);
        let mut to = from.clone();
        // The root ends with a slash, and no byte of UTF-8 is 0xff.
        *to.last_mut().expect("a key of ours is never empty") += 1;
        (from, to)
    }

    /// Without the prefix. None for keys that nobody can have meant for us: they are not text.
    fn read(&self, kv: etcd_client::KeyValue) -> Option<KeyValue> {
        let (revision, created) = (kv.mod_revision(), kv.create_revision());
        let (key, value) = kv.into_key_value();
        let key = String::from_utf8(key).ok()?;
        Some(KeyValue { key: key.strip_prefix(&*self.root)?.to_owned(), value, revision, created })
    }
}

impl EtcdStore {
    /// `HOST:PORT[,HOST:PORT...]/PREFIX`. Connects at the first call.
    pub fn open(rest: &str, tls: bool, credentials: Credentials) -> anyhow::Result<EtcdStore> {
        let (endpoints, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = match prefix.trim_matches('/') {
            "" => DEFAULT_PREFIX,
            prefix => prefix,
        };
        let root: Arc<str> = format!("/{prefix}/").into();
        let members = Arc::new(Members::open(endpoints, Door::new(tls, credentials)?, root.clone())?);
        Ok(EtcdStore { members, keys: Keys { root } })
    }

    /// See [`super::Store::list`].
    pub async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.list_pages(prefix).await {
                Err(failure) if failure.is_compacted() && tries < LIST_TRIES => {}
                done => return done.map_err(|failure| failure.during(&format!("list {prefix:?}"))),
            }
        }
    }

    async fn list_pages(&self, prefix: &str) -> Result<Listing, Failure> {
        let (mut from, to) = self.keys.range(prefix);
        let mut listing = Listing { items: Vec::new(), revision: 0, store_id: 0 };
        loop {
            let options =
                GetOptions::new().with_range(to.clone()).with_limit(PAGE_KEYS).with_revision(listing.revision);
            let mut page = self.read(&from, options).await?;
            if let (0, Some(header)) = (listing.revision, page.header()) {
                (listing.revision, listing.store_id) = (header.revision(), header.cluster_id());
            }
            let (more, items) = (page.more(), page.take_kvs());
            let last = items.last().map(|kv| kv.key().to_vec());
            listing.items.extend(items.into_iter().filter_map(|kv| self.keys.read(kv)));
            match last {
                // The first key after the last one.
                Some(last) if more => from = [last.as_slice(), &[0]].concat(),
                _ => return Ok(listing),
            }
        }
    }

    /// See [`super::Store::get`].
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let mut answer = self
            .read(&self.keys.full(key), GetOptions::new())
            .await
            .map_err(|failure| failure.during(&format!("get {key}")))?;
        Ok(answer.take_kvs().into_iter().find_map(|kv| self.keys.read(kv)))
    }

    async fn read(&self, key: &[u8], options: GetOptions) -> Result<GetResponse, Failure> {
        let call = |member: Link| {
            let (key, options) = (key.to_vec(), options.clone());
            async move { member.client().kv_client().max_decoding_message_size(DECODE_MAX).get(key, Some(options)).await }
        };
        self.members.call(Patience::READ, call).await
    }

    /// See [`super::Store::commit`].
    pub async fn commit(&self, txn: Txn) -> Result<i64, Error> {
        let Txn { guards, ops } = txn;
        let look = Some(GetOptions::new().with_keys_only());
        let request = etcd_client::Txn::new()
            .when(guards.iter().map(|guard| self.compare(guard)).collect::<Vec<_>>())
            .and_then(ops.into_iter().map(|op| self.op(op)).collect::<Vec<_>>())
            // When a guard does not hold: which one, as of the same moment.
            .or_else(
                guards
                    .iter()
                    .map(|guard| TxnOp::get(self.keys.full(guarded_key(guard)), look.clone()))
                    .collect::<Vec<_>>(),
            );
        let answer = self
            .members
            .call(Patience::WRITE, |member| {
                let request = request.clone();
                async move { member.client().kv_client().txn(request).await }
            })
            .await
            .map_err(|failure| failure.during("commit"))?;
        if !answer.succeeded() {
            return Err(why_refused(&guards, &answer.op_responses()));
        }
        answer
            .header()
            .map(etcd_client::ResponseHeader::revision)
            .ok_or_else(|| Error::Unavailable(anyhow!("commit: the answer has no header")))
    }

    fn compare(&self, guard: &Guard) -> Compare {
        let key = self.keys.full(guarded_key(guard));
        match guard {
            Guard::Revision { revision: 0, .. } => Compare::create_revision(key, CompareOp::Equal, 0),
            Guard::Revision { revision, .. } => Compare::mod_revision(key, CompareOp::Equal, *revision),
            Guard::Leader(token) => Compare::create_revision(key, CompareOp::Equal, token.created),
        }
    }

    fn op(&self, op: Op) -> TxnOp {
        match op {
            Op::Put { key, value } => TxnOp::put(self.keys.full(&key), value, None),
            Op::Delete { key } => TxnOp::delete(self.keys.full(&key), None),
        }
    }

    /// See [`super::Store::watch`].
    pub async fn watch(&self, prefix: &str, revision: i64) -> Result<Watch, Error> {
        tail::open(&self.members, self.keys.clone(), prefix, revision).await
    }

    /// See [`super::Store::campaign`].
    pub async fn campaign(&self, candidate: &Candidate, ttl: Duration) -> Result<Leadership, Error> {
        election::campaign(self, candidate, ttl).await
    }

    /// See [`super::Store::announce`].
    pub async fn announce(&self, key: &str, value: &[u8], ttl: Duration) {
        presence::keep(self, key, value, ttl).await;
    }
}

fn guarded_key(guard: &Guard) -> &str {
    match guard {
        Guard::Revision { key, .. } => key,
        Guard::Leader(_) => LEADER_KEY,
    }
}

/// Which guard did not hold; `seen` has one answer for each of them.
fn why_refused(guards: &[Guard], seen: &[TxnOpResponse]) -> Error {
    let found = guards.iter().zip(seen).map(|(guard, answer)| {
        let kv = match answer {
            TxnOpResponse::Get(answer) => answer.kvs().first(),
            _ => None,
        };
        (guard, kv.map_or((0, 0), |kv| (kv.create_revision(), kv.mod_revision())))
    });
    super::refusal(found).unwrap_or_else(|| Error::Conflict("a guard did not hold, and then did".to_owned()))
}
