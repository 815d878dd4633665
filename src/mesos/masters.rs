//! Where Mesos' masters are: named, or found in `ZooKeeper`. I/O.
//!
//! A master that is not the leading one redirects to it, so named masters need no detection. `ZooKeeper` is
//! believed only where there is no subscription: a stream that lives is the better evidence.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rand::seq::SliceRandom as _;
use reqwest::Url;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use zookeeper_client::{Client, SessionState};

use crate::offload::elsewhere;
use crate::plain::{NAME_CHARS_MAX, TEXT_CHARS_MAX, plain};

/// What may be written.
pub const FORMS: &str = "allowed are http://HOST:PORT[,HOST:PORT...], https://HOST:PORT[,HOST:PORT...], \
                         zk://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/PATH and file:///PATH of a file that holds one of them";
/// `ZooKeeper` forgets a session that is silent for so long.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// For a connection to one of its servers, and for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What its watches tell is looked at this often besides: a watch may be lost without a word.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_secs(1);
/// The newest kind of node that masters announce themselves by.
const LABEL: &str = "json.info_";
/// The longest such node that is read: the longest of Mesos' own has some hundred bytes.
const INFO_BYTES_MAX: usize = 64 << 10;

/// Where to look for masters, as `--mesos` says it.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port` of some of them, in any order.
    Named {
        /// They speak TLS.
        tls: bool,
        /// One or more.
        hosts: Vec<String>,
    },
    /// They announce themselves there.
    ZooKeeper(ZooKeeper),
    /// A file that holds one of the others; read at every connection.
    File(PathBuf),
}

/// A path in `ZooKeeper`.
#[derive(Clone, PartialEq, Eq)]
pub struct ZooKeeper {
    /// `host:port,host:port`.
    servers: String,
    /// `/mesos`.
    path: String,
    /// `user:password`, for digest authentication.
    auth: Option<String>,
}

impl std::str::FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Address> {
        let wrong = || format!("{:?}: {FORMS}", hidden(text));
        let (scheme, rest) = text.split_once("://").with_context(wrong)?;
        match scheme {
            "file" if rest.starts_with('/') => Ok(Address::File(PathBuf::from(rest))),
            "http" | "https" => {
                let other = format!("{scheme}://");
                let host = |host: &str| {
                    host.trim().strip_prefix(&other).unwrap_or(host.trim()).trim_end_matches('/').to_string()
                };
                let hosts: Vec<String> = rest.split(',').map(host).collect();
                ensure!(hosts.iter().all(|host| is_host_port(host)), wrong());
                Ok(Address::Named { tls: scheme == "https", hosts })
            }
            "zk" => {
                let (auth, rest) = match rest.rsplit_once('@') {
                    Some((auth, rest)) => (Some(auth.to_string()), rest),
                    None => (None, rest),
                };
                let (servers, path) = rest.split_once('/').with_context(wrong)?;
                let auth_ok =
                    auth.as_ref().is_none_or(|auth| auth.split_once(':').is_some_and(|(user, _)| !user.is_empty()));
                ensure!(auth_ok && !path.trim_matches('/').is_empty() && servers.split(',').all(is_host_port), wrong());
                let path = format!("/{}", path.trim_matches('/'));
                Ok(Address::ZooKeeper(ZooKeeper { servers: servers.to_string(), path, auth }))
            }
            _ => bail!(wrong()),
        }
    }
}

/// The text without what must not be shown.
fn hidden(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://***@{rest}"),
        _ => text.to_string(),
    }
}

/// `HOST:PORT`, `IP:PORT` or `[IPv6]:PORT`.
fn is_host_port(text: &str) -> bool {
    let port_ok = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
    let url = Url::parse(&format!("http://{text}/")).ok();
    port_ok
        && url.is_some_and(|url| {
            url.path() == "/" && url.username().is_empty() && url.query().is_none() && url.fragment().is_none()
        })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Named { tls, hosts } => write!(f, "http{}://{}", if *tls { "s" } else { "" }, hosts.join(",")),
            Address::ZooKeeper(zk) => zk.fmt(f),
            Address::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

impl fmt::Display for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zk://{}{}{}", if self.auth.is_some() { "***@" } else { "" }, self.servers, self.path)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Address {
    /// What stands in the file, if it is one; never a file again.
    fn resolved(&self) -> Result<Address> {
        let Address::File(path) = self else { return Ok(self.clone()) };
        let at = || format!("--mesos file://{}", path.display());
        let text = crate::files::read_text(path).with_context(at)?;
        let address: Address = text.trim().parse().with_context(at)?;
        ensure!(!matches!(address, Address::File(_)), "{}: it names another file", at());
        Ok(address)
    }
}

/// The masters to try.
#[derive(Clone, Debug)]
pub struct Masters {
    tls: bool,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Named(Arc<Vec<String>>),
    Detected(Arc<Detector>),
}

#[derive(Debug)]
struct Detector {
    /// The leading master; or why it is not known.
    leader: watch::Receiver<Result<String, String>>,
    _task: AbortOnDropHandle<()>,
}

impl Masters {
    /// The masters at an address. Where `ZooKeeper` has them, it is asked from now on; they are spoken to
    /// by TLS if `tls` says so, for it does not say how.
    pub fn find(address: &Address, tls: bool) -> Result<Masters> {
        if let Address::Named { tls, hosts } = address.resolved()? {
            return Ok(Masters { tls, source: Source::Named(Arc::new(hosts)) });
        }
        let (out, leader) = watch::channel(Err("ZooKeeper has not answered yet".to_string()));
        let task = AbortOnDropHandle::new(tokio::spawn(detect(address.clone(), out)));
        Ok(Masters { tls, source: Source::Detected(Arc::new(Detector { leader, _task: task })) })
    }

    /// These masters, without TLS.
    pub fn named(hosts: Vec<String>) -> Masters {
        Masters { tls: false, source: Source::Named(Arc::new(hosts)) }
    }

    /// Whether people or `ZooKeeper` have named this master.
    pub(super) fn knows(&self, master: &str) -> bool {
        let is_it = |named: &str| named.trim().eq_ignore_ascii_case(master);
        match &self.source {
            Source::Named(hosts) => hosts.iter().any(|host| is_it(host)),
            Source::Detected(detector) => detector.leader.borrow().as_ref().is_ok_and(|leader| is_it(leader)),
        }
    }

    /// Whether there is none, and there never will be.
    pub(super) fn is_none(&self) -> bool {
        matches!(&self.source, Source::Named(hosts) if hosts.is_empty())
    }

    /// `http` or `https`.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// Whom to try, in this order; or why nobody. Waits a moment for the first answer of `ZooKeeper`.
    pub(super) async fn candidates(&self) -> Result<Vec<String>, String> {
        match &self.source {
            Source::Named(hosts) => {
                let mut hosts = hosts.to_vec();
                hosts.shuffle(&mut rand::rng());
                Ok(hosts)
            }
            Source::Detected(detector) => {
                let mut leader = detector.leader.clone();
                let known = timeout(PATIENCE, leader.wait_for(Result::is_ok)).await;
                drop(known);
                let leader = leader.borrow().clone();
                leader.map(|leader| vec![leader])
            }
        }
    }

    /// Returns when another master leads than when this was called, as far as can be told.
    pub(super) async fn changed(&self) {
        let Source::Detected(detector) = &self.source else { return std::future::pending().await };
        let mut leader = detector.leader.clone();
        leader.mark_unchanged();
        while leader.changed().await.is_ok() {
            if leader.borrow_and_update().is_ok() {
                return;
            }
        }
        std::future::pending::<()>().await;
    }
}

// ---------------------------------------------------------------------------------------------
// ZooKeeper

/// What the file says now, read off the threads that lead.
async fn resolved(address: &Address) -> Result<Address> {
    let address = address.clone();
    elsewhere(move || address.resolved()).await
}

/// Follows who leads, for ever. A file that is broken or gone leaves what it last said in force.
async fn detect(address: Address, out: watch::Sender<Result<String, String>>) {
    let mut known: Option<Address> = None;
    loop {
        let found = match (resolved(&address).await, &known) {
            (Err(error), Some(known)) => {
                warn!("{error:#}; {known} stays in use");
                Ok(known.clone())
            }
            (found, _) => found,
        };
        known = found.as_ref().ok().filter(|found| matches!(found, Address::ZooKeeper(_))).cloned().or(known);
        let why = match found {
            Ok(Address::ZooKeeper(zk)) => {
                let Err(error) = session(&address, &zk, &out).await;
                format!("{error:#}")
            }
            Ok(_) => format!("{address} names masters now, and named ZooKeeper at the start: restart the operator"),
            Err(error) => format!("{error:#}"),
        };
        tell(&out, Err(why));
        sleep(PAUSE).await;
    }
}

fn tell(out: &watch::Sender<Result<String, String>>, found: Result<String, String>) {
    let found = found.map_err(|why| plain(&why, TEXT_CHARS_MAX));
    out.send_if_modified(|known| {
        let news = *known != found;
        if news {
            match &found {
                Ok(leader) => info!(leader, "ZooKeeper names the leading master"),
                Err(why) => warn!("the leading master is not known: {why}"),
            }
            *known = found;
        }
        news
    });
}

/// One session. It ends with an error: ZooKeeper refuses us or has forgotten the session, or the file
/// names other servers or another password.
async fn session(
    address: &Address,
    zk: &ZooKeeper,
    out: &watch::Sender<Result<String, String>>,
) -> Result<std::convert::Infallible> {
    let mut connector = Client::connector().with_session_timeout(SESSION_TIMEOUT).with_connection_timeout(PATIENCE);
    if let Some(auth) = &zk.auth {
        connector = connector.with_auth("digest", auth.as_bytes());
    }
    let connecting = timeout(PATIENCE, connector.connect(&zk.servers)).await;
    let client =
        connecting.with_context(|| format!("{zk} does not answer"))?.with_context(|| format!("connect to {zk}"))?;
    let mut states = client.state_watcher();
    loop {
        let looked = timeout(PATIENCE, look(&client, &zk.path)).await;
        let (found, changed) = match looked {
            Ok(Ok((found, watcher))) => (found, Some(watcher)),
            Ok(Err(error)) => (Err(format!("{zk}: {error:#}")), None),
            Err(_) => (Err(format!("{zk} does not answer")), None),
        };
        tell(out, found);
        let pause = if changed.is_some() { LOOK_EVERY } else { PAUSE };
        let changed = async {
            match changed {
                Some(watcher) => drop(watcher.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            state = states.changed() => if is_over(state) {
                bail!("{zk}: the session is over ({state})");
            },
            () = sleep(pause) => if is_over(states.state()) {
                bail!("{zk}: the session is over");
            },
        }
        // What cannot be read may be half written: the session goes on.
        if let Ok(now) = resolved(address).await {
            ensure!(matches!(&now, Address::ZooKeeper(now) if now == zk), "{address} names {now} now");
        }
    }
}

fn is_over(state: SessionState) -> bool {
    matches!(state, SessionState::Expired | SessionState::AuthFailed | SessionState::Closed)
}

type Look = (Result<String, String>, zookeeper_client::OneshotWatcher);

/// Who leads: the master whose node has the lowest number.
async fn look(client: &Client, path: &str) -> Result<Look> {
    let (children, _, watcher) = client.get_and_watch_children(path).await.with_context(|| format!("list {path}"))?;
    let Some(first) = leading(&children) else {
        return Ok((Err(format!("no master has announced itself below {path}")), watcher));
    };
    let (data, _) =
        client.get_data(&format!("{path}/{first}")).await.with_context(|| format!("read {path}/{first}"))?;
    let master = MasterInfo::read(&data).with_context(|| format!("understand {path}/{first}"))?;
    Ok((Ok(master.host_port()), watcher))
}

/// The node of the leading master. Others are no masters, or such as are too old for us.
fn leading(children: &[String]) -> Option<&String> {
    let number = |child: &&String| child.strip_prefix(LABEL)?.parse::<i64>().ok();
    children.iter().filter(|child| number(child).is_some()).min_by_key(number)
}

#[derive(Debug, Deserialize)]
struct MasterInfo {
    address: MasterAddress,
}

#[derive(Debug, Deserialize)]
struct MasterAddress {
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    ip: String,
    port: u16,
}

impl MasterInfo {
    /// From a node that whoever reaches `ZooKeeper` may have written: calls, with our secret, go where it says.
    fn read(data: &[u8]) -> Result<MasterInfo> {
        ensure!(data.len() <= INFO_BYTES_MAX, "it has {} bytes: allowed are {INFO_BYTES_MAX}", data.len());
        let master: MasterInfo = serde_json::from_slice(data)?;
        let at = master.host_port();
        ensure!(at.len() <= NAME_CHARS_MAX && is_host_port(&at), "{:?} is no HOST:PORT", plain(&at, NAME_CHARS_MAX));
        Ok(master)
    }

    /// The name, which certificates are made for; the address where there is none.
    fn host_port(&self) -> String {
        let MasterAddress { hostname, ip, port } = &self.address;
        let host = if hostname.is_empty() { ip } else { hostname };
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_each_form_and_passwords_are_not_shown() {
        for (text, shown) in [
            ("http://10.0.0.1:5050", "http://10.0.0.1:5050"),
            ("http://10.0.0.1:5050, http://mesos-2:5050/,[::1]:5050", "http://10.0.0.1:5050,mesos-2:5050,[::1]:5050"),
            ("https://m:5050,n:5050", "https://m:5050,n:5050"),
            ("zk://a:2181,b:2181/mesos/", "zk://a:2181,b:2181/mesos"),
            ("zk://user:p@ss:word@a:2181/my/mesos", "zk://***@a:2181/my/mesos"),
            ("file:///etc/mesos/zk", "file:///etc/mesos/zk"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        let Address::ZooKeeper(zk) = "zk://user:p@ss:word@a:2181/mesos".parse().unwrap() else { panic!() };
        assert_eq!(zk.auth.as_deref(), Some("user:p@ss:word"));
    }

    #[test]
    fn a_node_that_names_no_host_and_port_or_is_too_large_is_refused() {
        let read = |host: &str, port: u32| {
            let info =
                serde_json::json!({"address": {"hostname": host, "ip": "10.0.0.1", "port": port}, "version": "1.11.0"});
            MasterInfo::read(info.to_string().as_bytes()).map(|master| master.host_port())
        };
        assert_eq!(read("mesos-1", 5050).unwrap(), "mesos-1:5050");
        assert_eq!(read("", 5050).unwrap(), "10.0.0.1:5050");
        assert_eq!(read("::1", 5050).unwrap(), "[::1]:5050");
        let long = "m".repeat(300);
        for host in ["evil/x?", "user:pw@evil", "a b", "a\u{1b}[2J", "a#b", long.as_str()] {
            assert!(read(host, 5050).is_err(), "{host:?}");
        }
        assert!(read("m", 70_000).is_err());
        let mut large = br#"{"address": {"hostname": "m", "port": 1}}"#.to_vec();
        large.resize(INFO_BYTES_MAX + 1, b' ');
        assert!(MasterInfo::read(&large).unwrap_err().to_string().contains("allowed are 65536"));
        assert!(MasterInfo::read(&vec![b'['; 60_000]).is_err(), "depth is bounded");
    }

    #[test]
    fn addresses_that_cannot_be_are_refused_with_what_is_allowed() {
        for text in [
            "",
            "m:5050",
            "http://",
            "http://m",
            "http://m:0",
            "http://m:70000",
            "http://user:pw@m:5050",
            "http://m:5050/x",
            "zk://a:2181",
            "zk://a:2181/",
            "zk://a/mesos",
            "zk://:pw@a:2181/mesos",
            "zk://user@a:2181/mesos",
            "file://x",
            "etcd://a:2379/mesos",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("allowed are http://HOST:PORT") && !error.contains("pw"), "{text}: {error}");
        }
    }

    #[test]
    fn the_lowest_number_leads_whatever_else_is_there() {
        let children = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let some = children(&[
            "log_replicas",
            "info_0000000001",
            "json.info_0000000010",
            "json.info_0000000009",
            "json.info_x",
        ]);
        assert_eq!(leading(&some).unwrap(), "json.info_0000000009");
        assert_eq!(
            leading(&children(&["json.info_-2147483648", "json.info_2147483647"])).unwrap(),
            "json.info_-2147483648"
        );
        assert_eq!(leading(&children(&["log_replicas"])), None);
    }

    #[test]
    fn a_master_is_reached_by_its_name() {
        let of = |json: &str| serde_json::from_str::<MasterInfo>(json).unwrap().host_port();
        assert_eq!(of(r#"{"ip": 1, "address": {"hostname": "m1", "ip": "10.0.0.1", "port": 5050}}"#), "m1:5050");
        assert_eq!(of(r#"{"address": {"ip": "::1", "port": 5050}}"#), "[::1]:5050");
    }
}
