//! Finding the leading master, in a real `ZooKeeper`; and speaking to one by TLS. I/O.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{Home, Mesos, Ports, Process, wait_until};
use redisctl::mesos::{Masters, Session, Settings, Timing};
use redisctl::model::MesosEvent;
use redisctl::tls::{Files, Server};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::Receiver;
use tokio_util::task::AbortOnDropHandle;
use zookeeper_client::{Acls, Client, CreateMode};

/// How long anything may take on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(40);
/// Debian's package `zookeeper`.
const JAR: &str = "/usr/share/java/zookeeper.jar";
const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";

/// A server of `ZooKeeper`.
struct ZooKeeper {
    process: Process,
    home: Home,
    _ports: Ports,
    port: u16,
}

impl ZooKeeper {
    async fn start() -> ZooKeeper {
        let ports = Ports::lease(1);
        let port = ports.next();
        let mut zookeeper = ZooKeeper { process: Process::none(), home: Home::new("zookeeper"), _ports: ports, port };
        zookeeper.spawn("first").await;
        zookeeper
    }

    /// A server with nothing in it, on the same port.
    async fn start_anew(&mut self) {
        self.process.kill();
        self.spawn("second").await;
    }

    async fn spawn(&mut self, data: &str) {
        let data = self.home.path().join(data);
        std::fs::create_dir_all(&data).expect("the home can be written");
        let config = self.home.path().join("zoo.cfg");
        let text = format!(
            "tickTime=200\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n",
            data.display(),
            self.port
        );
        std::fs::write(&config, text).expect("the home can be written");
        let mut java = Command::new("java");
        java.args(["-Xmx128m", "-Dzookeeper.jmx.log4j.disable=true", "-cp", JAR, MAIN]).arg(config);
        self.process = self.home.spawn("zookeeper", &mut java);
        wait_until("ZooKeeper answers", TIMEOUT, async || Client::connect(&self.address()).await.map(drop)).await;
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A client; with a password if there is one.
    async fn client(&self, auth: Option<&str>) -> Client {
        let connector = Client::connector();
        let connector = match auth {
            Some(auth) => connector.with_auth("digest", auth.as_bytes()),
            None => connector,
        };
        connector.connect(&self.address()).await.expect("ZooKeeper answers")
    }
}

/// What a master writes of itself.
fn announcement(mesos: &Mesos) -> Vec<u8> {
    let (ip, port) =
        mesos.master_address().rsplit_once(':').map(|(ip, port)| (ip.to_string(), port.to_string())).unwrap();
    let address = json!({"hostname": ip, "ip": ip, "port": port.parse::<u16>().unwrap()});
    json!({"id": "x", "ip": 16_777_343, "port": 1, "pid": "master@x", "address": address}).to_string().into_bytes()
}

async fn announce(client: &Client, name: &str, mesos: &Mesos, acls: Acls<'static>) {
    let node = format!("/mesos/{name}");
    let created = client.create(&node, &announcement(mesos), &CreateMode::Ephemeral.with_acls(acls));
    created.await.expect("it can be written");
}

fn settings(masters: Masters) -> Settings {
    let timing = Timing {
        backoff_min: Duration::from_millis(50),
        backoff_max: Duration::from_millis(200),
        slow: Duration::from_millis(500),
        ..Timing::default()
    };
    Settings { masters, timing, ..Settings::default() }
}

fn find(address: &str) -> Masters {
    Masters::find(&address.parse().expect("the address is right"), false).expect("it can be read")
}

/// The next subscription; what came before it is passed over.
async fn subscribed(events: &mut Receiver<MesosEvent>) {
    let subscribed =
        async { while !matches!(events.recv().await.expect("the session lives"), MesosEvent::Subscribed { .. }) {} };
    tokio::time::timeout(TIMEOUT, subscribed).await.expect("a subscription in time");
}

/// Waits until the session has said this of being disconnected.
async fn disconnected(events: &mut Receiver<MesosEvent>, why: &str) {
    let mut told = Vec::new();
    let said = async {
        loop {
            if let MesosEvent::Disconnected { reason } = events.recv().await.expect("the session lives") {
                let found = reason.contains(why);
                told.push(reason);
                if found {
                    return;
                }
            }
        }
    };
    let said = tokio::time::timeout(TIMEOUT, said).await.is_ok();
    assert!(said, "{why:?} in {told:?}");
}

#[tokio::test]
async fn the_leading_master_is_found_in_zookeeper_and_after_it_the_next() {
    let (zookeeper, first, second) = tokio::join!(ZooKeeper::start(), Mesos::start(&[]), Mesos::start(&[]));
    let mut first = first;
    let client = zookeeper.client(None).await;
    client.create("/mesos", b"", &CreateMode::Persistent.with_acls(Acls::anyone_all())).await.unwrap();
    let masters = find(&format!("zk://{}/mesos", zookeeper.address()));
    let (session, mut events) = Session::start(settings(masters), None).unwrap();
    disconnected(&mut events, "no master has announced itself below /mesos").await;

    announce(&client, "json.info_0000000009", &first, Acls::anyone_all()).await;
    subscribed(&mut events).await;
    assert_eq!(session.leader(), Some(first.master_address()));

    // Another contender changes nothing; nor does a leader that ZooKeeper has lost sight of, while it is heard.
    announce(&client, "json.info_0000000010", &second, Acls::anyone_all()).await;
    client.delete("/mesos/json.info_0000000009", None).await.unwrap();
    crate::support::holds_for("the subscription lives", Duration::from_secs(1), async || {
        session.leader() == Some(first.master_address())
    })
    .await;
    first.kill_master();
    subscribed(&mut events).await;
    assert_eq!(session.leader(), Some(second.master_address()));
}

#[tokio::test]
async fn a_session_that_zookeeper_has_forgotten_is_begun_anew() {
    let (zookeeper, first, second) = tokio::join!(ZooKeeper::start(), Mesos::start(&[]), Mesos::start(&[]));
    let (mut zookeeper, mut first) = (zookeeper, first);
    let client = zookeeper.client(None).await;
    client.create("/mesos", b"", &CreateMode::Persistent.with_acls(Acls::anyone_all())).await.unwrap();
    announce(&client, "json.info_0000000001", &first, Acls::anyone_all()).await;
    let masters = find(&format!("zk://{}/mesos", zookeeper.address()));
    let (session, mut events) = Session::start(settings(masters), None).unwrap();
    subscribed(&mut events).await;

    zookeeper.start_anew().await;
    let client = zookeeper.client(None).await;
    client.create("/mesos", b"", &CreateMode::Persistent.with_acls(Acls::anyone_all())).await.unwrap();
    announce(&client, "json.info_0000000000", &second, Acls::anyone_all()).await;
    first.kill_master();
    subscribed(&mut events).await;
    assert_eq!(session.leader(), Some(second.master_address()));
}

#[tokio::test]
async fn zookeeper_wants_a_password_and_a_file_with_another_one_is_read_again() {
    let (zookeeper, mesos) = tokio::join!(ZooKeeper::start(), Mesos::start(&[]));
    let client = zookeeper.client(Some("mesos:secret")).await;
    client.create("/mesos", b"", &CreateMode::Persistent.with_acls(Acls::creator_all())).await.unwrap();
    announce(&client, "json.info_0000000001", &mesos, Acls::creator_all()).await;

    let file = zookeeper.home.path().join("zk");
    let write = |password: &str| {
        std::fs::write(&file, format!("zk://mesos:{password}@{}/mesos\n", zookeeper.address())).unwrap();
    };
    write("wrong");
    let (_session, mut events) = Session::start(settings(find(&format!("file://{}", file.display()))), None).unwrap();
    disconnected(&mut events, "list /mesos").await;
    write("secret");
    subscribed(&mut events).await;
}

// --- TLS

/// A certificate for 127.0.0.1 that signs itself.
fn certificate(home: &Home) -> Files {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
    let files = Files { certificate: home.path().join("certificate.pem"), key: home.path().join("key.pem") };
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    files
}

/// Takes TLS off what comes, and passes it on to a master: what is not of the protocol in a master that
/// speaks TLS itself.
async fn front(mesos: &Mesos, files: Files) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tls = Server::new(files).unwrap();
    let master = mesos.master_address();
    let task = tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            // A client that does not know the authority breaks it off.
            let Ok(mut client) = tls.shake_hands(client).await else { continue };
            let mut server = TcpStream::connect(&master).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await; // Either end is the end.
            });
        }
    });
    (address, AbortOnDropHandle::new(task))
}

fn tls(address: &str, ca_file: Option<&Path>) -> Settings {
    let masters = find(&format!("https://{address}"));
    Settings { ca_file: ca_file.map(PathBuf::from), ..settings(masters) }
}

#[tokio::test]
async fn a_master_is_spoken_to_by_tls_when_its_authority_is_known_and_not_otherwise() {
    let (home, mesos) = (Home::new("tls"), Mesos::start(&[]).await);
    let files = certificate(&home);
    let (address, _front) = front(&mesos, files.clone()).await;
    let (_session, mut events) = Session::start(tls(&address, Some(&files.certificate)), None).unwrap();
    subscribed(&mut events).await;
    let (_session, mut events) = Session::start(tls(&address, None), None).unwrap();
    disconnected(&mut events, "certificate").await;
    assert!(Session::start(tls(&address, Some(Path::new("/nowhere"))), None).is_err());
}

#[tokio::test]
async fn a_master_with_the_ciphers_that_mesos_has_by_default_is_told_what_is_missing() {
    let (home, ports) = (Home::new("tls"), Ports::lease(1));
    let (files, address) = (certificate(&home), format!("127.0.0.1:{}", ports.next()));
    let mut openssl = Command::new("openssl");
    openssl.args(["s_server", "-accept", &address, "-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0", "-quiet"]);
    openssl.arg("-cert").arg(&files.certificate).arg("-key").arg(&files.key);
    let _server = home.spawn("openssl", &mut openssl);
    wait_until("it listens", TIMEOUT, async || TcpStream::connect(&address).await.map(drop)).await;
    let (_session, mut events) = Session::start(tls(&address, Some(&files.certificate)), None).unwrap();
    disconnected(&mut events, "LIBPROCESS_SSL_CIPHERS=ECDHE-").await;
}
