//! Who may do what: tokens, as a file lists them. I/O (reads the file).
//!
//! ```yaml
//! tokens:
//! - name: alice                # who it is, in events and logs
//!   hash: sha256:9f86d0...     # of the token, which nothing but its owner keeps
//!   access: write              # read, write or admin
//!   instances: ["orders*"]     # by name; * and ? stand for any letters
//! ```
//!
//! The list alone, without `tokens:`, will do.
//!
//! A token is made by `redisctl token`, of 256 random bits: nobody finds it from its hash, so no slow hash
//! is needed. The file is followed ([`crate::files`]). Whoever is taken out of it, or may do less than before,
//! is a stranger from then on: rights are looked at whenever they are used, and what is open ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::files::{Followed, Source, Words};
use crate::glob::matches;

/// How a hash is written.
const HASH_FORM: &str = "sha256: and 64 hexadecimal digits, as `redisctl token` prints it";
/// Who asks where no tokens are needed.
const ANYBODY: &str = "anybody";
/// Bytes of a token.
const TOKEN_BYTES: usize = 32;
/// A longer text is no token, and is not worth its hash.
const TOKEN_LENGTH_MAX: usize = 1024;
/// What a token begins with, so that one that has leaked is found.
const TOKEN_PREFIX: &str = "rctl_";

/// What somebody may do with instances. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Look.
    Read,
    /// Declare, change, scale, switch over.
    Write,
    /// Delete, start again empty, fail over by force.
    Admin,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Level::Read => "read",
            Level::Write => "write",
            Level::Admin => "admin",
        })
    }
}

/// Somebody who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    grant: Arc<Grant>,
    /// Where it asks from, if that is known.
    from: Option<IpAddr>,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.from {
            Some(address) => write!(f, "{} at {address}", self.name()),
            None => f.write_str(self.name()),
        }
    }
}

impl Caller {
    fn new(grant: Arc<Grant>) -> Caller {
        Caller { grant, from: None }
    }

    /// The same, who asks from there.
    #[must_use]
    pub fn at(self, from: Option<IpAddr>) -> Caller {
        Caller { from, ..self }
    }

    /// Who it is, for events and logs.
    pub fn name(&self) -> &str {
        &self.grant.name
    }

    /// By whom what it uses is counted: a token, or an address where there are none.
    pub fn account(&self) -> String {
        match self.from {
            Some(address) if self.name() == ANYBODY => address.to_string(),
            _ => self.name().to_string(),
        }
    }

    /// Whether this may be done with any instance at all.
    pub fn holds(&self, level: Level) -> bool {
        self.grant.access >= level && !self.is_withdrawn() && !self.grant.instances.is_empty()
    }

    /// Whether this may be done with every instance, those of the future too.
    pub fn may_with_all(&self, level: Level) -> bool {
        self.grant.access >= level && self.sees_all()
    }

    /// Whether this may be done with that instance, now: never again once its token is withdrawn.
    pub fn may(&self, level: Level, instance: &str) -> bool {
        let fits = |pattern: &String| matches(pattern.as_bytes(), instance.as_bytes());
        self.grant.access >= level && !self.is_withdrawn() && self.grant.instances.iter().any(fits)
    }

    /// Whether this may be told what a secret of that name holds, and so may have an instance use it. Secrets
    /// are named by the same patterns as instances.
    pub fn may_use_secret(&self, secret: &str) -> bool {
        self.may(Level::Write, secret)
    }

    /// Whether it may look at whatever there is, and not only at some names.
    pub fn sees_all(&self) -> bool {
        !self.is_withdrawn() && self.grant.instances.iter().any(|pattern| pattern == "*")
    }

    /// Why it may not do what needs this, in words.
    pub fn lacks(&self, level: Level, to: &str) -> String {
        let Grant { name, access, instances, .. } = &*self.grant;
        let names = if instances.is_empty() { "no instance".to_string() } else { instances.join(", ") };
        format!("this needs access {level} to {to}: the token of {name} allows {access} to {names}")
    }

    /// The patterns of names that it may do anything with.
    pub fn patterns(&self) -> &[String] {
        &self.grant.instances
    }

    /// Its token is not in the file any more, or says something else there.
    pub fn is_withdrawn(&self) -> bool {
        self.grant.withdrawn.is_cancelled()
    }

    /// Returns when its token is withdrawn.
    pub async fn withdrawn(&self) {
        self.grant.withdrawn.cancelled().await;
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    name: String,
    hash: Hash,
    access: Level,
    #[serde(default = "all")]
    instances: Vec<String>,
    /// Cancelled when the file does not say this any more.
    #[serde(skip)]
    withdrawn: CancellationToken,
}

impl PartialEq for Grant {
    fn eq(&self, other: &Grant) -> bool {
        let says = |grant: &Grant| (grant.name.clone(), grant.access, grant.instances.clone());
        self.hash == other.hash && says(self) == says(other)
    }
}

impl Eq for Grant {}

fn all() -> Vec<String> {
    vec!["*".to_string()]
}

/// SHA-256 of a token.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Hash([u8; 32]);

impl TryFrom<String> for Hash {
    type Error = String;

    fn try_from(text: String) -> Result<Hash, String> {
        let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == 64 && digits.is_ascii());
        let byte = |digits: &str, i: usize| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok();
        let bytes: Option<Vec<u8>> = digits.and_then(|digits| (0..32).map(|i| byte(digits, i)).collect());
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Hash).ok_or_else(|| format!("{text:?}: allowed is {HASH_FORM}"))
    }
}

impl Hash {
    fn of(token: &str) -> Hash {
        Hash(Sha256::digest(token).into())
    }

    /// In the same time whatever differs.
    fn is(&self, other: &Hash) -> bool {
        self.0.iter().zip(&other.0).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tokens: Vec<Grant>,
}

fn parse(text: &str) -> Result<Vec<Arc<Grant>>> {
    // Lines of `redisctl token` one after the other are a file, too.
    let file: File = match serde_yaml::from_str(text)? {
        serde_yaml::Value::Sequence(_) => File { tokens: serde_yaml::from_str(text)? },
        _ => serde_yaml::from_str(text)?,
    };
    let (mut names, mut hashes) = (BTreeSet::new(), BTreeMap::new());
    for (i, grant) in file.tokens.iter().enumerate() {
        ensure!(!grant.name.trim().is_empty(), "tokens[{i}].name: is empty");
        ensure!(!grant.name.contains(char::is_control), "tokens[{i}].name: {:?} has control characters", grant.name);
        if let Some(pattern) = grant.instances.iter().find(|pattern| !is_pattern(pattern)) {
            anyhow::bail!(
                "tokens[{i}].instances: {pattern:?}: allowed are names, in which * and ? stand for any letters"
            );
        }
        ensure!(names.insert(&grant.name), "tokens[{i}].name: {:?} is there twice", grant.name);
        if let Some(other) = hashes.insert(grant.hash.0, &grant.name) {
            anyhow::bail!("tokens[{i}].hash: it is that of {other:?}, too: one token is one line");
        }
    }
    Ok(file.tokens.into_iter().map(Arc::new).collect())
}

/// Of what names are made, and what stands for it. Classes of letters have other meanings elsewhere (`[!a]`).
fn is_pattern(pattern: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '*' | '?');
    !pattern.is_empty() && pattern.chars().all(good)
}

/// What the file says now: who is in it as before stays, whoever is not is withdrawn.
fn renew(former: &[Arc<Grant>], text: &str) -> Result<Vec<Arc<Grant>>> {
    let mut grants = parse(text)?;
    for grant in &mut grants {
        if let Some(same) = former.iter().find(|old| **old == *grant) {
            *grant = same.clone();
        }
    }
    let gone = former.iter().filter(|old| !grants.iter().any(|grant| Arc::ptr_eq(grant, old)));
    gone.for_each(|old| old.withdrawn.cancel());
    Ok(grants)
}

/// The SHA-256 of a text, in 64 hexadecimal digits.
pub fn sha256_hex(of: impl AsRef<[u8]>) -> String {
    format!("{:x}", bytes::Bytes::copy_from_slice(&Sha256::digest(of)))
}

/// A new token, and its hash as the file has it.
pub fn new_token() -> (String, String) {
    use base64::Engine as _;
    let bytes: [u8; TOKEN_BYTES] = rand::random();
    let token = TOKEN_PREFIX.to_string() + &base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let hash = format!("sha256:{}", sha256_hex(&token));
    (token, hash)
}

/// Who is let in.
#[derive(Debug)]
pub enum Access {
    /// Everybody, to everything.
    Open,
    /// Those who have a token.
    Tokens(TokenFile),
}

/// The file of tokens, as it last was sound.
#[derive(Debug)]
pub struct TokenFile(Followed<Vec<Arc<Grant>>>);

/// What is said when the file has changed.
const WORDS: Words = Words { newer: "the tokens were read again", kept: "the tokens that were known stay in force" };

impl Access {
    /// Reads the file of tokens, and follows it; none: everybody is let in.
    pub fn read(path: Option<&Path>) -> Result<Access> {
        let Some(path) = path else { return Ok(Access::Open) };
        let source = Source { path: path.to_path_buf(), flag: "--auth-tokens", secret: true };
        let at = source.to_string();
        let read = move |former: Option<&Vec<Arc<Grant>>>, contents: &[Vec<u8>]| {
            let text = std::str::from_utf8(&contents[0]).context("it is not UTF-8");
            text.and_then(|text| renew(former.map_or(&[], Vec::as_slice), text)).with_context(|| at.clone())
        };
        Ok(Access::Tokens(TokenFile(Followed::new(vec![source], WORDS, read)?)))
    }

    /// Who has this token; without tokens it is whoever says so. None: nobody who is known.
    pub fn caller(&self, token: Option<&str>) -> Option<Caller> {
        match self {
            Access::Open => Some(Caller::new(Arc::new(Grant {
                name: ANYBODY.to_string(),
                hash: Hash([0; 32]),
                access: Level::Admin,
                instances: all(),
                withdrawn: CancellationToken::new(),
            }))),
            Access::Tokens(file) => file.find(token?).map(Caller::new),
        }
    }

    /// Whether a token is needed.
    pub fn is_open(&self) -> bool {
        matches!(self, Access::Open)
    }
}

impl TokenFile {
    fn find(&self, token: &str) -> Option<Arc<Grant>> {
        if token.len() > TOKEN_LENGTH_MAX {
            return None;
        }
        let hash = Hash::of(token);
        self.0.now().iter().find(|grant| grant.hash.is(&hash)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::NamedTempFile, Access) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let access = Access::read(Some(file.path())).unwrap();
        (file, access)
    }

    #[tokio::test]
    async fn a_token_gives_what_its_line_says_and_nothing_else() {
        let (token, hash) = new_token();
        let line = format!("tokens: [{{name: alice, hash: '{hash}', access: write, instances: ['orders*', cache]}}]");
        let (_file, access) = file(&line);
        let alice = access.caller(Some(&token)).unwrap();
        assert_eq!(alice.name(), "alice");
        assert!(alice.may(Level::Read, "orders-eu") && alice.may(Level::Write, "cache"));
        assert!(!alice.may(Level::Admin, "orders") && !alice.may(Level::Read, "caches"));
        let long = token.repeat(TOKEN_LENGTH_MAX);
        for other in [None, Some(""), Some(hash.as_str()), Some("rctl_"), Some(long.as_str())] {
            assert_eq!(access.caller(other), None);
        }
    }

    #[tokio::test]
    async fn a_token_is_withdrawn_when_its_line_is_gone_or_says_anything_else_and_by_nothing_else() {
        let (token, hash) = new_token();
        let (_, other) = new_token();
        let alice = |access: &str, instances: &str| {
            format!("{{name: alice, hash: '{hash}', access: {access}, instances: [{instances}]}}")
        };
        let before = format!("tokens: [{}]", alice("write", "'orders*', cache"));
        let bob = format!("{{name: bob, hash: '{other}', access: read}}");
        for (line, stays) in [
            (format!("{bob}, {}", alice("write", "'orders*', cache")), true),
            (alice("read", "'orders*', cache"), false),
            (alice("write", "'orders*'"), false),
            (alice("write", ""), false),
            (alice("admin", "'*'"), false),
            (bob.clone(), false),
            (String::new(), false),
            (format!("{{name: mallory, hash: '{hash}', access: write, instances: ['orders*', cache]}}"), false),
            (format!("{{name: alice, hash: '{other}', access: write, instances: ['orders*', cache]}}"), false),
        ] {
            let (file, access) = file(&before);
            let caller = access.caller(Some(&token)).unwrap();
            std::fs::write(file.path(), format!("tokens: [{line}] # changed")).unwrap();
            if stays {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            } else {
                let ended = tokio::time::timeout(std::time::Duration::from_secs(10), caller.withdrawn()).await;
                assert!(ended.is_ok(), "{line}");
            }
            assert_eq!((caller.may(Level::Read, "cache"), caller.is_withdrawn()), (stays, !stays), "{line}");
        }
    }

    #[tokio::test]
    async fn lines_one_after_the_other_without_a_heading_are_a_file_too() {
        let ((one, first), (other, second)) = (new_token(), new_token());
        let line = |name: &str, hash: &str| format!("- name: {name}\n  hash: {hash}\n  access: read\n");
        let (_file, access) = file(&(line("alice", &first) + &line("bob", &second)));
        assert_eq!(access.caller(Some(&one)).unwrap().name(), "alice");
        assert_eq!(access.caller(Some(&other)).unwrap().name(), "bob");
    }

    #[test]
    fn without_a_file_everybody_may_do_everything() {
        let anybody = Access::read(None).unwrap().caller(None).unwrap();
        assert!(anybody.may(Level::Admin, "orders"));
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_reason() {
        let (_, hash) = new_token();
        let twice =
            format!("tokens: [{{name: a, hash: '{hash}', access: read}}, {{name: a, hash: '{hash}', access: read}}]");
        for (text, why) in [
            ("tokens: [{name: a, hash: abc, access: read}]", "\"abc\": allowed is sha256: and 64 hexadecimal digits"),
            ("tokens: [{name: a, hash: 'sha256:éé', access: read}]", "allowed is sha256:"),
            (&format!("tokens: [{{name: a, hash: '{hash}', access: all}}]"), "unknown variant `all`"),
            (&format!("tokens: [{{name: ' ', hash: '{hash}', access: read}}]"), "tokens[0].name: is empty"),
            (&twice, "tokens[1].name: \"a\" is there twice"),
            (
                &format!(
                    "tokens: [{{name: a, hash: '{hash}', access: read}}, {{name: b, hash: '{hash}', access: admin}}]"
                ),
                "tokens[1].hash: it is that of \"a\", too",
            ),
            (&format!("tokens: [{{name: \"a\\nb\", hash: '{hash}', access: read}}]"), "has control characters"),
            (
                &format!("tokens: [{{name: a, hash: '{hash}', access: read, instances: ['[!a]*']}}]"),
                "tokens[0].instances: \"[!a]*\": allowed are names, in which * and ? stand for any letters",
            ),
            ("token: []", "unknown field `token`"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn tokens_are_read_in_time_that_grows_with_their_number() {
        let token = |n: usize| format!("- {{name: n{n}, access: read, hash: 'sha256:{n:064x}'}}\n");
        let tokens = |count: usize| "tokens:\n".to_string() + &(0..count).map(token).collect::<String>();
        crate::linear::assert_linear("tokens", 300, tokens, |text| {
            assert!(parse(text).is_ok());
        });
    }
}
