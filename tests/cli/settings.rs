//! Settings of the operator: where they come from, what wins, and what is refused. I/O.

use std::collections::BTreeMap;
use std::io::Write as _;

use crate::fake::Fake;
use crate::run::{Ended, Live, ended, redisctl, run};

const GIVEN: [&str; 6] = [
    "operator",
    "--print-config",
    "--store",
    "etcd://10.0.0.1:2379,10.0.0.2:2379/redisctl",
    "--mesos",
    "http://m1:5050,m2:5050",
];

fn print_config(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Ended {
    let mut config = tempfile::NamedTempFile::new().unwrap();
    config.write_all(file.as_bytes()).unwrap();
    let mut command = redisctl(&[&GIVEN[..], &["--config", config.path().to_str().unwrap()], flags].concat());
    ended(command.envs(environment.iter().copied()))
}

fn settings(shown: &Ended) -> BTreeMap<String, serde_json::Value> {
    assert_eq!(shown.code, 0, "{shown:?}");
    serde_yaml::from_str(&shown.out).unwrap()
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file = "role: of-file\nprobe-interval: 9s\nlog-format: json\nredis-timeout: 2s\n";
    let shown = print_config(
        file,
        &[("REDISCTL_ROLE", "of-environment"), ("REDISCTL_PROBE_INTERVAL", "8s")],
        &["--role", "of-flag"],
    );
    let settings = settings(&shown);
    assert_eq!(settings["role"], "of-flag");
    assert_eq!(settings["probe-interval"], "8s");
    assert_eq!(settings["redis-timeout"], "2s");
    assert_eq!(settings["log-format"], "json");
    assert_eq!(settings["leader-ttl"], "3s");
}

#[test]
fn a_settings_file_of_any_editor_is_read_and_one_that_cannot_be_is_refused_in_words() {
    let mark = "\u{feff}";
    for file in [
        "role: r\r\nredis-timeout: 2s\r\n",
        "---\nrole: r\nredis-timeout: 2s\n...\n",
        "%YAML 1.2\n---\nrole: r\nredis-timeout: 2s\n",
    ] {
        for file in [file.to_string(), format!("{mark}{file}")] {
            let settings = settings(&print_config(&file, &[], &[]));
            assert_eq!((&settings["role"], &settings["redis-timeout"]), (&"r".into(), &"2s".into()), "{file:?}");
        }
    }
    assert_eq!(print_config(mark, &[], &[]).code, 0);
    let refused = print_config("<<: {role: r}\n", &[], &[]);
    assert!(refused.code == 2 && refused.err.contains("merge keys (<<) are not known in this file"), "{refused:?}");
    let long = print_config(&"# a\n".repeat(300_000), &[], &[]);
    assert!(long.code == 2 && long.err.contains("allowed are 1048576 bytes"), "{long:?}");
}

#[test]
fn what_is_printed_can_be_read_back() {
    let shown = print_config(
        "failover-timeout: 672h\nsecret-file: /etc/secret\nprincipal: us\n",
        &[],
        &["--listen", "[::1]:80"],
    );
    let again = print_config(&shown.out, &[], &[]);
    assert_eq!(again.out, shown.out);
    let settings = settings(&again);
    assert_eq!(settings["failover-timeout"], "4w");
    assert_eq!(settings["mesos"], "http://m1:5050,m2:5050");
    assert_eq!(settings["advertise"], "http://[::1]:80");
}

#[test]
fn help_names_the_default_and_the_variable_of_each_setting() {
    let help = run(&["operator", "--help"]).out;
    // One line for each setting, whatever the width of the terminal.
    let help: String = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = run(&GIVEN);
    for (name, value) in settings(&shown) {
        let variable = format!("[env: REDISCTL_{}=]", name.to_uppercase().replace('-', "_"));
        let start = [" <", "[=<"].iter().find_map(|after| help.find(&format!("--{name}{after}")));
        let start = start.unwrap_or_else(|| panic!("--{name} in {help}"));
        let about = &help[start..];
        let about = &about[..about.find("[env: ").unwrap() + variable.len()];
        assert!(about.ends_with(&variable), "{variable} in {about}");
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        if !["store", "mesos", "user", "advertise"].contains(&name.as_str()) {
            assert!(about.contains(&format!("[default: {value}]")), "[default: {value}] in {about}");
        }
    }
}

#[test]
fn a_wrong_file_is_refused_with_the_key_and_the_line() {
    let unknown = print_config("role: a\nprobe-intervall: 5s\n", &[], &[]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(
        unknown.err.contains("unknown field `probe-intervall`") && unknown.err.contains("at line 2"),
        "{unknown:?}"
    );
    let wrong = print_config("role: a\n\nprobe-interval: 5 s\n", &[], &[]);
    assert!(
        wrong.err.contains("probe-interval: \"5 s\" is not a period such as") && wrong.err.contains("at line 3"),
        "{wrong:?}"
    );
    assert_eq!(run(&["operator", "--config", "/nowhere"]).code, 2);
    assert_eq!(print_config("", &[], &[]).code, 0, "an empty file says nothing");
}

#[test]
fn a_wrong_setting_is_refused_with_the_flag_the_value_and_what_is_allowed() {
    for (flags, expected) in [
        (
            ["--store", "redis://a"],
            "--store \"redis://a\": allowed are etcd://HOST:PORT[,HOST:PORT...]/PREFIX, the same with TLS by etcds://, and file:PATH",
        ),
        (["--store", "etcd://a:1"], "--store \"etcd://a:1\": allowed are"),
        (["--store", "file:"], "--store \"file:\": allowed are"),
        (["--mesos", "m1:5050"], "--mesos: \"m1:5050\": allowed are http://HOST:PORT[,HOST:PORT...], https://"),
        (["--mesos", "http://m1:5050,m2"], "--mesos: \"http://m1:5050,m2\": allowed are http://HOST:PORT"),
        (["--listen", "0.0.0.0:5656"], "set --advertise http://HOST:PORT too"),
        (["--listen", "localhost"], "invalid value 'localhost' for '--listen <IP:PORT>'"),
        (["--advertise", "ftp://x"], "--advertise \"ftp://x\": allowed is http://HOST:PORT"),
        (["--role", "a b"], "--role \"a b\": allowed are names"),
        (["--probe-interval", "1ms"], "--probe-interval 1ms: allowed is 100ms to 10m"),
        (["--leader-ttl", "7"], "\"7\" is not a period such as 250ms"),
        (["--reconcile-concurrency", "0"], "--reconcile-concurrency 0: allowed is 1 to 10000"),
        (["--containerizer", "podman"], "[possible values: mesos, docker]"),
        (["--log-level", "loud=much"], "--log-level: \"loud=much\": allowed are error, warn"),
        (["--log-level", "loud"], "--log-level: \"loud\": allowed are error, warn"),
        (["--secret-file", "/x"], "--secret-file /x: it needs --principal"),
    ] {
        let mut given = GIVEN.to_vec();
        if let Some(i) = given.iter().position(|g| *g == flags[0]) {
            given.drain(i..i + 2);
        }
        let shown = run(&[&given[..], &flags].concat());
        assert_eq!(shown.code, 2, "{flags:?}: {shown:?}");
        assert!(shown.err.contains(expected), "{expected:?} in {shown:?}");
    }
    let missing = run(&["operator", "--mesos", "http://m:1"]);
    assert!(missing.code == 2 && missing.err.contains("--store is not set: allowed are etcd://"), "{missing:?}");
}

#[test]
fn what_etcd_is_told_of_us_is_checked_as_a_whole_and_passwords_are_not_repeated() {
    let config = |args: &[&str]| {
        let store = if args.contains(&"--store") { &[][..] } else { &["--store", "etcds://h:2379/p"] };
        run(&[&["operator", "--print-config", "--mesos", "http://m1:5050"], store, args].concat())
    };
    for (args, words) in [
        (&["--store", "etcd://u:hunter2@h:2379/p"][..], "--store: user and password do not belong into an address"),
        (&["--store", "etcds://hunter2@h:2379/p"], "--etcd-user and --etcd-password-file"),
        (&["--store", "https://u:hunter2@h:2379/p"], "--etcd-user and --etcd-password-file"),
        (&["--store", "https://h:2379/p"], "etcd with TLS is written etcds://"),
        (&["--store", "http://h:2379/p"], "etcd without TLS is written etcd://"),
        (&["--store", "etcds://h:2379"], "--store \"etcds://h:2379\": allowed are etcd://"),
        (&["--store", "ETCDS://h:2379/p"], "allowed are etcd://"),
        (&["--store", "etcd://h:2379/p", "--etcd-ca", "f"], "--etcd-ca: it is for TLS"),
        (&["--store", "etcd://h:2379/p", "--etcd-key", "f"], "--etcd-key: it is for TLS"),
        (&["--store", "file:/f", "--etcd-user", "u"], "--etcd-user: --store is a file"),
        (&["--etcd-certificate", "f"], "--etcd-certificate and --etcd-key: one is set, and both are needed"),
        (&["--etcd-user", "u"], "--etcd-user u: it needs --etcd-password-file"),
        (&["--etcd-user", "u:hunter2"], "--etcd-user: allowed is a name without a colon"),
        (&["--etcd-user", "", "--etcd-password-file", "f"], "--etcd-user \"\": allowed is the name"),
        (&["--etcd-password-file", "f"], "--etcd-password-file f: it needs --etcd-user"),
    ] {
        let shown = config(args);
        assert_eq!(shown.code, 2, "{args:?}: {shown:?}");
        assert!(shown.err.contains(words), "{args:?}: {shown:?}");
        assert!(!format!("{shown:?}").contains("hunter2"), "{args:?}: {shown:?}");
    }
    let all =
        "etcd-ca: /a\netcd-certificate: /b\netcd-key: /c\netcd-user: d\netcd-password-file: /e\nstore: etcds://h:1/p\n";
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(all.as_bytes()).unwrap();
    let shown =
        run(&["operator", "--print-config", "--mesos", "http://m:1", "--config", file.path().to_str().unwrap()]);
    let settings = settings(&shown);
    for (key, value) in
        [("etcd-ca", "/a"), ("etcd-user", "d"), ("etcd-password-file", "/e"), ("store", "etcds://h:1/p")]
    {
        assert_eq!(settings[key], value);
    }
}

#[test]
fn a_file_that_cannot_be_used_ends_the_operator_at_its_start_also_one_that_is_for_etcd() {
    let start = |flags: &[&str]| {
        let given =
            ["operator", "--mesos", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--sentinel-listen", "none"];
        run(&[&given[..], flags].concat())
    };
    let etcd = ["--store", "etcds://127.0.0.1:1/p"];
    for (flags, name) in [
        (&["--etcd-ca", "/nofile"][..], "--etcd-ca /nofile: No such file"),
        (&["--etcd-certificate", "/nofile", "--etcd-key", "/nofile"], "--etcd-certificate /nofile: No such file"),
        (&["--etcd-user", "u", "--etcd-password-file", "/nofile"], "--etcd-password-file /nofile: No such file"),
    ] {
        let ended = start(&[&etcd[..], flags].concat());
        assert_eq!(ended.code, 1, "{flags:?}: {ended:?}");
        assert!(ended.err.starts_with(&format!("error: {name}")) && ended.err.lines().count() == 1, "{ended:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().join("store").display());
    let ended = start(&["--store", &store, "--auth-tokens", "/nofile"]);
    assert!(ended.code == 1 && ended.err.contains("--auth-tokens /nofile: No such file"), "{ended:?}");
}

#[test]
fn a_local_cluster_whose_redis_server_cannot_be_run_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "no program").unwrap();
    for (given, words) in [
        ("nope-redis", "no program of that name is in PATH; allowed are such a name and a path"),
        ("", "no program of that name is in PATH"),
        ("./nope/redis-server", "there is no program at that path"),
        (text.to_str().unwrap(), "there is no program at that path"),
        (folder.path().to_str().unwrap(), "there is no program at that path"),
    ] {
        let ended = run(&["local", "--listen", "127.0.0.1:0", "--sentinel-listen", "none", "--redis-server", given]);
        let expected = format!("error: --redis-server {given:?}: {words}");
        assert!(ended.code == 2 && ended.err.starts_with(&expected), "{ended:?}");
    }
}

#[test]
fn a_token_file_of_several_lines_is_refused_in_words() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"one\ntwo\n").unwrap();
    let shown = run(&["get", "--token-file", file.path().to_str().unwrap()]);
    let expected = "what it holds is no token: allowed is one line, as `redisctl token` shows it, and nothing else\n";
    assert!(shown.code == 2 && shown.err.ends_with(expected), "{shown:?}");
}

#[test]
fn what_the_environment_says_is_not_shown_as_if_it_had_to_be_typed() {
    let variables =
        [("REDISCTL_SERVER", "http://127.0.0.1:1"), ("REDISCTL_TOKEN_FILE", "/t"), ("REDISCTL_CA_FILE", "/c")];
    for wrong in [&["describe"][..], &["get", "--nope"], &["scale", "orders"], &["secret", "set"]] {
        let with = ended(redisctl(wrong).envs(variables));
        assert_eq!((with.code, &with.err), (2, &run(wrong).err), "{wrong:?}");
        assert!(!with.err.contains("<URL>"), "{}", with.err);
    }
    let theirs = ended(redisctl(&["local"]).env("REDISCTL_LISTEN", "nowhere"));
    assert!(theirs.code == 2 && theirs.err.contains("invalid value 'nowhere'"), "{theirs:?}");
}

#[test]
fn a_local_cluster_that_begins_again_in_its_folder_says_that_no_data_has_outlived_the_one_before() {
    let (folder, nobody) = (tempfile::tempdir().unwrap(), Fake::start());
    let dir = folder.path().join("local");
    let local = ["local", "--listen", "127.0.0.1:0", "--sentinel-listen", "none", "--dir", dir.to_str().unwrap()];
    let document = folder.path().join("orders.yaml");
    // More than any agent has: what is declared counts here, not what runs.
    std::fs::write(&document, crate::sample::document("orders").replace("256Mi", "900Gi")).unwrap();
    let first = Live::start(&nobody, &local);
    let told = first.until("! Try: ");
    assert!(!told.iter().any(|line| line.contains("declared before")), "{told:?}");
    let url = told.last().unwrap().rsplit(' ').next().unwrap().to_string();
    let applied = run(&["apply", "-f", document.to_str().unwrap(), "--server", &url]);
    assert_eq!(applied.code, 0, "{applied:?}");
    drop(first); // As kill -9 does.
    let told = Live::start(&nobody, &local).until("! Try: ");
    let words = "! 1 declared before: launched again, empty and with new passwords";
    assert!(told.iter().any(|line| line.starts_with(words)), "{told:?}");
}
