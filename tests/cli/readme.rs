//! The commands of README.md, as they stand, in a network of their own. I/O.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// All of it: an instance of three nodes is made, failed over, scaled and deleted.
const LIMIT_S: u32 = 200;

/// The blocks of commands, in their order.
fn blocks(text: &str) -> Vec<&str> {
    text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// The one that contains this.
fn block<'a>(blocks: &[&'a str], words: &str) -> &'a str {
    blocks.iter().find(|block| block.contains(words)).unwrap_or_else(|| panic!("README has commands with {words}"))
}

/// Runs commands of bash where nobody else has a port, and nothing outlives them; what they told, and whether all went well.
fn in_a_network_of_its_own(script: &str) -> (bool, String) {
    let unshare = if rustix::process::getuid().is_root() { "" } else { "--user --map-root-user" };
    let program = format!(
        "timeout --kill-after=5 {LIMIT_S} unshare --net --pid --fork --kill-child --mount-proc {unshare} bash -c \"$SCRIPT\" 2>&1"
    );
    let folder = Path::new(env!("CARGO_BIN_EXE_redisctl")).parent().expect("it is in a folder");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").expect("there is a PATH"));
    let mut command = Command::new("bash");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("REDISCTL_")) {
        command.env_remove(name);
    }
    let command = command.args(["-c", &program]).env("SCRIPT", script).env("PATH", path);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("bash runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn what_readme_shows_without_a_cluster_goes_well_as_it_stands() {
    let text = include_str!("../../README.md");
    let blocks = blocks(text);
    let local = block(&blocks, "\nredisctl local").lines().find(|line| line.starts_with("redisctl local"));
    let local = local.and_then(|line| line.split('#').next());
    let mut script = "ip link set lo up\nlog=$(mktemp)\ntrap 'kill %1; wait; rm -f \"$log\"' EXIT\n".to_string();
    writeln!(script, "{} >\"$log\" 2>&1 &", local.expect("it stands on a line")).unwrap();
    script += "until grep -q '^Try: ' \"$log\"; do kill -0 %1 || { cat \"$log\"; exit 1; }; sleep 0.1; done\n";
    writeln!(script, "set -ex\n{}", block(&blocks, "apply -f examples/orders.yaml --wait")).unwrap();
    let (well, told) = in_a_network_of_its_own(&script);
    assert!(well, "{told}");
    for shown in ["redisinstance/orders ready", "is the master now", "redisinstance/orders deleted"] {
        assert!(told.contains(shown), "{shown:?} is not in:\n{told}");
    }
}

#[test]
fn the_certificates_that_docs_show_how_to_make_serve_and_one_of_an_authority_itself_is_told() {
    let text = include_str!("../../docs/security.md");
    let recipe = block(&blocks(text), "openssl x509 -req");
    let script = format!(
        "set -ex\nip link set lo up\nip addr add 10.0.0.1/32 dev lo\nwork=$(mktemp -d)\ncd \"$work\"\n\
         trap 'kill $(jobs -p); wait; rm -rf \"$work\"' EXIT\n{recipe}\n\
         redisctl token admin --access admin >>tokens.yaml 2>told\nsed 's/.*: //' told >token\n\
         export REDISCTL_SERVER=https://10.0.0.1:5656 REDISCTL_TOKEN_FILE=token\n\
         serve() {{ redisctl operator --store file:$1.redb --mesos http://10.0.0.1:5050 --listen 10.0.0.1:5656 \
             --sentinel-listen none --auth-tokens tokens.yaml --tls-certificate $1.pem --tls-key $1.key & }}\n\
         serve api\nuntil redisctl get --ca-file ca.pem; do kill -0 $!; sleep 0.1; done\n\
         kill %1; wait %1 || true\n\
         serve ca\nuntil redisctl get --ca-file ca.pem 2>&1 | grep \"an authority's own\"; do kill -0 $!; sleep 0.1; done\n\
         until redisctl get --server http://10.0.0.1:5656 2>&1 | grep 'https:// if it has'; do sleep 0.1; done"
    );
    let (well, told) = in_a_network_of_its_own(&script);
    assert!(well, "{told}");
}
