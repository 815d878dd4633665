//! etcd with TLS and with users: wrong ones are told in words, files are read again, logins outlive their tokens. I/O.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use redisctl::store::{Candidate, Credentials, Guard, Leadership, Op, Store, Txn};
use support::{Etcd, Home, Ports, wait_until};

/// For what takes a second at most, on a loaded machine.
const SOON: Duration = Duration::from_secs(30);
/// A token of etcd that nobody uses is void after so many seconds.
const TOKEN_TTL_S: u64 = 2;
const BINARY: &str = env!("CARGO_BIN_EXE_redisctl");

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for that name and address, valid until the end of that year, in `NAME.pem` and `NAME-key.pem`.
fn certify(folder: &Path, file: &str, by: &Authority, (name, address): (&str, &str), until: i32) {
    let mut params = CertificateParams::new(vec![address.to_string()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 12, 31);
    let key = KeyPair::generate().unwrap();
    let made = params.signed_by(&key, by).unwrap();
    std::fs::write(folder.join(format!("{file}-key.pem")), key.serialize_pem()).unwrap();
    std::fs::write(folder.join(format!("{file}.pem")), made.pem()).unwrap();
}

/// An etcd that wants a client's certificate, and the files of both sides.
struct Secured {
    etcd: Etcd,
    files: Home,
    ours: Authority,
}

impl Secured {
    async fn start() -> Secured {
        let (files, ours) = (Home::new("etcd-tls"), authority("ours"));
        let folder = files.path().to_path_buf();
        std::fs::write(folder.join("ca.pem"), ours.pem()).unwrap();
        certify(&folder, "server", &ours, ("etcd", "127.0.0.1"), 2090);
        certify(&folder, "client", &ours, ("redisctl", "client"), 2090);
        let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
        let etcd = Etcd::start_secured(&[
            "--cert-file",
            &path("server.pem"),
            "--key-file",
            &path("server-key.pem"),
            "--trusted-ca-file",
            &path("ca.pem"),
            "--client-cert-auth",
        ])
        .await;
        Secured { etcd, files, ours }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn credentials(&self, ca: Option<&str>, client: Option<&str>) -> Credentials {
        Credentials {
            ca: ca.map(|name| self.path(name)),
            certificate: client.map(|name| self.path(&format!("{name}.pem"))),
            key: client.map(|name| self.path(&format!("{name}-key.pem"))),
            ..Credentials::default()
        }
    }
}

async fn write(store: &Store, key: &str) -> Result<i64, String> {
    let ops = vec![Op::Put { key: key.into(), value: b"x".to_vec() }];
    store.commit(Txn { guards: Vec::new(), ops }).await.map_err(|error| error.to_string())
}

/// What is said when the store is asked for something.
async fn refusal(url: &str, credentials: Credentials) -> String {
    let store = Store::open_as(url, credentials).await.expect("what is wrong shows at the first call");
    store.list("").await.expect_err(url).to_string()
}

#[tokio::test]
async fn wrong_certificates_and_schemes_are_told_in_words_that_name_the_setting() {
    let at = Secured::start().await;
    let folder = at.files.path();
    let theirs = authority("theirs");
    std::fs::write(folder.join("theirs.pem"), theirs.pem()).unwrap();
    certify(folder, "foreign", &theirs, ("redisctl", "client"), 2090);
    certify(folder, "expired", &at.ours, ("redisctl", "client"), 2001);
    let url = at.etcd.url("test");
    let good = at.credentials(Some("ca.pem"), Some("client"));
    write(&Store::open_as(&url, good.clone()).await.unwrap(), "a").await.unwrap();

    let plain = url.replace("etcds://", "etcd://");
    let wrong: [(&str, &str, Credentials, &str); 6] = [
        ("plain", &plain, Credentials::default(), "etcds://"),
        ("no authority", &url, at.credentials(None, Some("client")), "by --etcd-ca"),
        ("another authority", &url, at.credentials(Some("theirs.pem"), Some("client")), "no authority in --etcd-ca"),
        ("no certificate", &url, at.credentials(Some("ca.pem"), None), "set --etcd-certificate and --etcd-key"),
        ("a foreign one", &url, at.credentials(Some("ca.pem"), Some("foreign")), "ours (--etcd-certificate)"),
        ("an old one", &url, at.credentials(Some("ca.pem"), Some("expired")), "ours (--etcd-certificate)"),
    ];
    for (what, url, credentials, words) in wrong {
        let told = refusal(url, credentials).await;
        assert!(told.contains(words), "{what}: {told}");
        assert!(told.contains(&at.etcd.endpoint()), "{what}: {told}");
    }
    // etcd reads its own certificate at each handshake.
    certify(folder, "server", &at.ours, ("etcd", "elsewhere.example"), 2090);
    let told = refusal(&url, good.clone()).await;
    assert!(told.contains("its certificate is for other names"), "{told}");
    certify(folder, "server", &at.ours, ("etcd", "127.0.0.1"), 2001);
    let told = refusal(&url, good.clone()).await;
    assert!(told.contains("its certificate has expired"), "{told}");
    let without = Etcd::start().await;
    let told = refusal(&without.url("test").replace("etcd://", "etcds://"), good).await;
    assert!(told.contains("etcd:// is without TLS"), "{told}");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_refused_at_the_start_and_named() {
    let home = Home::new("etcd-files");
    let folder = home.path();
    let (ours, path) = (authority("ours"), |name: &str| Some(folder.join(name)));
    std::fs::write(folder.join("ca.pem"), ours.pem()).unwrap();
    std::fs::write(folder.join("empty"), "").unwrap();
    std::fs::write(folder.join("lines"), "a\nb\n").unwrap();
    std::fs::write(folder.join("bytes"), [0xff, 0xfe]).unwrap();
    for name in ["a", "b"] {
        certify(folder, name, &ours, ("redisctl", "client"), 2090);
    }
    let none = Credentials::default;
    let pair = |certificate, key| Credentials { certificate: path(certificate), key: path(key), ..none() };
    let password = |file| Credentials { user: Some("u".into()), password_file: path(file), ..none() };
    let wrong = [
        (Credentials { ca: path("absent"), ..none() }, "--etcd-ca"),
        (Credentials { ca: path("empty"), ..none() }, "--etcd-ca"),
        (Credentials { ca: path(""), ..none() }, "--etcd-ca"),
        (Credentials { ca: path("a-key.pem"), ..none() }, "--etcd-ca"),
        (pair("absent", "a-key.pem"), "--etcd-certificate"),
        (pair("a.pem", "absent"), "--etcd-key"),
        (pair("a.pem", "a.pem"), "--etcd-key"),
        (pair("a.pem", "b-key.pem"), "does not fit --etcd-certificate"),
        (password("absent"), "--etcd-password-file"),
        (password("empty"), "--etcd-password-file"),
        (password("lines"), "--etcd-password-file"),
        (password("bytes"), "--etcd-password-file"),
    ];
    for (credentials, words) in wrong {
        let shown = format!("{credentials:?}");
        let error = Store::open_as("etcds://127.0.0.1:1/test", credentials).await.err().expect(&shown);
        assert!(format!("{error:#}").contains(words), "{shown}: {error:#}");
    }
}

#[tokio::test]
async fn certificates_rotate_under_a_running_store() {
    let mut at = Secured::start().await;
    let folder = at.files.path().to_path_buf();
    let store = Store::open_as(&at.etcd.url("test"), at.credentials(Some("ca.pem"), Some("client"))).await.unwrap();
    write(&store, "a").await.unwrap();
    // A file that is half written changes nothing.
    std::fs::write(folder.join("client.pem"), "-----BEGIN").unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await; // Longer than between two looks at the files.
    write(&store, "b").await.unwrap();
    // All of it is new: the authority, etcd's certificate, ours.
    let newer = authority("newer");
    certify(&folder, "client", &newer, ("redisctl", "client"), 2090);
    certify(&folder, "server", &newer, ("etcd", "127.0.0.1"), 2090);
    std::fs::write(folder.join("ca.pem"), newer.pem()).unwrap();
    at.etcd.stop();
    at.etcd.start_again().await;
    wait_until("the new certificates are used", SOON, async || write(&store, "c").await).await;
}

/// An etcd whose users have passwords, and a file with that of `redisctl`.
struct Guarded {
    etcd: Etcd,
    files: Home,
}

/// The commands of docs/etcd.md, as they stand there, after the line that begins with `# WHAT`.
fn documented(what: &str) -> Vec<Vec<String>> {
    let page = include_str!("../docs/etcd.md");
    let mut block = page.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    let block = block.find(|block| block.starts_with(&format!("# {what}"))).expect(what);
    let commands = block.lines().filter_map(|line| line.strip_prefix("etcdctl "));
    commands.map(|line| line.split_whitespace().map(|word| word.trim_matches('\'').to_string()).collect()).collect()
}

impl Guarded {
    /// With the roles of docs/etcd.md, and tokens that end when nobody uses them.
    async fn start() -> Guarded {
        Guarded::start_with(Home::new("etcd-users"), &["--auth-token-ttl", &TOKEN_TTL_S.to_string()]).await
    }

    async fn start_with(files: Home, args: &[&str]) -> Guarded {
        let mut etcd = Etcd::start_secured(args).await;
        for command in [documented("The operators"), documented("People"), documented("Last")].concat() {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            match words.as_slice() {
                // The password is asked for; here it is on the line.
                ["user", "add", name] => etcd.ctl(&["user", "add", &format!("{name}:first")]).await,
                words => etcd.ctl(words).await,
            };
        }
        etcd.speak(&["--user", "root:first"]);
        std::fs::write(files.path().join("password"), "first\n").unwrap();
        Guarded { etcd, files }
    }

    fn credentials(&self, user: &str) -> Credentials {
        let password_file = Some(self.files.path().join("password"));
        Credentials { user: Some(user.into()), password_file, ..Credentials::default() }
    }

    async fn open(&self, user: &str) -> Store {
        Store::open_as(&self.etcd.url("redisctl"), self.credentials(user)).await.unwrap()
    }
}

fn candidate() -> Candidate {
    Candidate { id: "a".into(), api: "http://a:1".into(), process: None, frozen: false }
}

/// Writes as the leader every now and then, with pauses in which tokens end, for so long.
async fn lead_for(store: &Store, leadership: &Leadership, time: Duration) {
    let (until, mut round) = (Instant::now() + time, 0);
    while Instant::now() < until {
        let ops = vec![Op::Put { key: "state/a".into(), value: round.to_string().into_bytes() }];
        let guards = vec![Guard::Leader(leadership.token.clone())];
        store.commit(Txn { guards, ops }).await.unwrap();
        tokio::time::sleep(Duration::from_secs(TOKEN_TTL_S) + Duration::from_millis(600)).await;
        assert!(leadership.is_held(), "round {round}");
        round += 1;
    }
}

#[tokio::test]
async fn leading_and_watching_outlive_tokens_restarts_of_etcd_and_a_new_password() {
    let mut at = Guarded::start().await;
    let store = at.open("redisctl").await;
    let leadership = store.campaign(&candidate(), Duration::from_secs(5)).await.unwrap();
    let revision = store.list("").await.unwrap().revision;
    let mut watch = store.watch("state/", revision).await.unwrap();
    lead_for(&store, &leadership, Duration::from_secs(12)).await;
    for round in 0..3 {
        let changes = watch.next().await.unwrap().expect("the watch goes on");
        assert_eq!(changes.changes.len(), 1, "round {round}: {changes:?}");
    }
    // A crowd whose token is void logs in once, and nobody is refused.
    let tries = (0..50).map(|i| {
        let store = store.clone();
        async move { write(&store, &format!("crowd/{i}")).await }
    });
    for outcome in futures::future::join_all(tries).await {
        outcome.unwrap();
    }
    // etcd forgets its tokens.
    at.etcd.stop();
    at.etcd.start_again().await;
    wait_until("it writes after etcd's restart", SOON, async || write(&store, "b").await).await;
    // A new password: refused until the file has it.
    at.etcd.ctl_with_input(&["user", "passwd", "redisctl", "--interactive=false"], b"second\n").await;
    let told = wait_until("the old password is refused", SOON, async || write(&store, "c").await.err()).await;
    assert!(told.contains("--etcd-password-file"), "{told}");
    assert!(!told.contains("first") && !told.contains("second"), "{told}");
    std::fs::write(at.files.path().join("password"), "second\n").unwrap();
    wait_until("the new password is used", SOON, async || write(&store, "c").await).await;
}

#[tokio::test]
async fn signed_tokens_that_end_in_use_or_are_older_than_the_newest_right_are_renewed() {
    let files = Home::new("etcd-users");
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_string();
    let (private, public) = (path("jwt.pem"), path("jwt-public.pem"));
    support::process::run("openssl", &["genrsa", "-out", &private, "2048"], b"", SOON).await.unwrap();
    support::process::run("openssl", &["rsa", "-in", &private, "-pubout", "-out", &public], b"", SOON).await.unwrap();
    let tokens = format!("jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl={TOKEN_TTL_S}s");
    let at = Guarded::start_with(files, &["--auth-token", &tokens]).await;
    let store = at.open("redisctl").await;
    let leadership = store.campaign(&candidate(), Duration::from_secs(5)).await.unwrap();
    let until = Instant::now() + Duration::from_secs(3 * TOKEN_TTL_S);
    for round in 0.. {
        write(&store, "a").await.unwrap();
        assert!(leadership.is_held());
        if Instant::now() > until {
            break;
        }
        if round % 10 == 0 {
            // Each change of users, roles and rights makes all tokens void.
            at.etcd.ctl(&["role", "add", &format!("other-{round}")]).await;
        }
    }
}

#[tokio::test]
async fn a_right_that_is_taken_away_is_said_and_ends_the_leadership() {
    let at = Guarded::start().await;
    let store = at.open("redisctl").await;
    let leadership = store.campaign(&candidate(), Duration::from_secs(2)).await.unwrap();
    at.etcd.ctl(&["user", "revoke-role", "redisctl", "redisctl"]).await;
    let told = wait_until("writes are refused", SOON, async || write(&store, "a").await.err()).await;
    assert!(told.contains("user redisctl needs a role with `readwrite --prefix /redisctl/`"), "{told}");
    let mut held = leadership.held.clone();
    tokio::time::timeout(SOON, held.wait_for(|held| !held)).await.expect("it steps down").unwrap();
    at.etcd.ctl(&["user", "grant-role", "redisctl", "redisctl"]).await;
    wait_until("writes are taken again", SOON, async || write(&store, "a").await).await;
}

#[tokio::test]
async fn users_who_are_wrong_are_told_what_is_missing_and_passwords_are_never_shown() {
    let at = Guarded::start().await;
    let url = at.etcd.url("redisctl");
    let told = refusal(&url, Credentials::default()).await;
    assert!(told.contains("set --etcd-user and --etcd-password-file"), "{told}");
    let told = refusal(&url, at.credentials("nobody")).await;
    assert!(told.contains("there is no such user"), "{told}");
    let told = refusal(&url, at.credentials("alice")).await;
    assert!(told.contains("user alice needs a role with"), "{told}");
    std::fs::write(at.files.path().join("password"), "hunter2\n").unwrap();
    let told = refusal(&url, at.credentials("redisctl")).await;
    assert!(told.contains("--etcd-password-file") && !told.contains("hunter2"), "{told}");
    // Where nobody has to log in, a user does no harm; and when that changes, it does not either.
    let mut open = Etcd::start().await;
    std::fs::write(at.files.path().join("password"), "first\n").unwrap();
    let store = Store::open_as(&open.url("redisctl"), at.credentials("root")).await.unwrap();
    write(&store, "a").await.unwrap();
    for command in documented("Last") {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["user", "add", name] => open.ctl(&["user", "add", &format!("{name}:first")]).await,
            words => open.ctl(words).await,
        };
    }
    open.speak(&["--user", "root:first"]);
    wait_until("it logs in when that is asked for", SOON, async || write(&store, "b").await).await;
}

#[tokio::test]
async fn the_roles_of_the_documentation_suffice_and_allow_no_more() {
    let mut at = Guarded::start().await;
    let home = Home::new("etcd-operator");
    let ports = Ports::lease(2);
    let (listen, sentinel) = (format!("127.0.0.1:{}", ports.next()), format!("127.0.0.1:{}", ports.next()));
    let password = at.files.path().join("password");
    let mut command = std::process::Command::new(BINARY);
    command.args(["operator", "--mesos", "http://127.0.0.1:1", "--listen", &listen, "--sentinel-listen", &sentinel]);
    command.args(["--store", &at.etcd.url("redisctl"), "--etcd-user", "redisctl"]);
    command.args(["--etcd-password-file", password.to_str().unwrap()]);
    let _operator = home.spawn("operator", &mut command);
    at.etcd.speak(&["--user", "alice:first"]);
    at.etcd.put("/redisctl/instances/orders", include_str!("../examples/orders.yaml")).await;
    wait_until("alice reads the status", SOON, async || {
        let status = at.etcd.try_ctl(&["get", "/redisctl/status/orders"], b"").await?;
        if status.contains("phase") { Ok(()) } else { Err(status + &home.log("operator")) }
    })
    .await;
    at.etcd.ctl(&["get", "/redisctl/events/orders"]).await;
    let refused = async |args: &[&str]| {
        let told = at.etcd.try_ctl(args, b"x").await.expect_err(&args.join(" "));
        assert!(told.contains("permission denied"), "{args:?}: {told}");
    };
    let others =
        ["operator/key", "operator/framework", "operator/leader", "secrets/a", "nodes/orders/0", "state/orders"];
    for key in others.map(|key| format!("/redisctl/{key}")) {
        refused(&["get", &key]).await;
        refused(&["put", &key]).await;
    }
    refused(&["get", "--prefix", "/redisctl/"]).await;
    refused(&["put", "/redisctl/status/orders"]).await;
    refused(&["put", "/redisctl/requests/orders/delete"]).await;
    at.etcd.speak(&["--user", "redisctl:first"]);
    let refused = async |args: &[&str]| at.etcd.try_ctl(args, b"x").await.expect_err(&args.join(" "));
    for args in [["get", "/other"], ["put", "/redisctl"], ["get", "/redisctl0"], ["role", "list"]] {
        let told = refused(&args).await;
        assert!(told.contains("permission denied"), "{args:?}: {told}");
    }
    // Reading alone does not suffice.
    at.etcd.speak(&["--user", "root:first"]);
    at.etcd.ctl(&["role", "grant-permission", "redisctl", "--prefix=true", "read", "/redisctl/"]).await;
    let store = at.open("redisctl").await;
    store.list("").await.unwrap();
    assert!(write(&store, "a").await.unwrap_err().contains("readwrite"));
}

#[tokio::test]
async fn endpoints_that_are_down_or_not_ours_are_passed_over_and_each_is_told_when_none_is_good() {
    let (mut ours, other, web) = (Etcd::start().await, Etcd::start().await, Secured::start().await);
    let dead = format!("127.0.0.1:{}", Ports::lease(1).next());
    let (a, b, c) = (ours.endpoint(), other.endpoint(), web.etcd.endpoint());
    let url = |endpoints: &[&str]| format!("etcd://{}/test", endpoints.join(","));
    let store = Store::open(&url(&[&dead, &c, &a, &b])).await.unwrap();
    wait_until("one is found", SOON, async || write(&store, "a").await).await;
    assert_eq!(ours.get("/test/a").await.as_deref(), Some("x"));
    ours.stop();
    let told = wait_until("none is left", SOON, async || store.list("").await.err()).await.to_string();
    assert!(told.contains(&format!("etcd at {b}: it is of another cluster")), "{told}");
    for endpoint in [&dead, &a, &c] {
        assert!(told.contains(&format!("etcd at {endpoint}: ")), "{told}");
    }
    assert!(write(&store, "b").await.is_err());
    assert_eq!(other.get("/test/b").await, None);
    ours.start_again().await;
    wait_until("ours is used again", SOON, async || write(&store, "b").await).await;
    assert_eq!(ours.get("/test/b").await.as_deref(), Some("x"));
}
