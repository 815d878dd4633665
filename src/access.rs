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
//! A token is made by `redisctl token`, of 256 random bits: nobody finds it from its hash, so no slow hash
//! is needed. The file is read again when it changes; one that cannot be read leaves the former in force.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tracing::{error, info};

use crate::glob::matches;

/// Between two looks at whether the file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How a hash is written.
const HASH_FORM: &str = "sha256: and 64 hexadecimal digits, as `redisctl token` prints it";
/// Bytes of a token.
const TOKEN_BYTES: usize = 32;
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

    /// Whether this may be done with every instance, those of the future too.
    pub fn may_with_all(&self, level: Level) -> bool {
        self.grant.access >= level && self.grant.instances.iter().any(|pattern| pattern == "*")
    }

    /// Whether this may be done with that instance.
    pub fn may(&self, level: Level, instance: &str) -> bool {
        let fits = |pattern: &String| matches(pattern.as_bytes(), instance.as_bytes());
        self.grant.access >= level && self.grant.instances.iter().any(fits)
    }
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    name: String,
    hash: Hash,
    access: Level,
    #[serde(default = "all")]
    instances: Vec<String>,
}

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
    let file: File = serde_yaml::from_str(text)?;
    for (i, grant) in file.tokens.iter().enumerate() {
        ensure!(!grant.name.trim().is_empty(), "tokens[{i}].name: is empty");
        let named = file.tokens[..i].iter().any(|other| other.name == grant.name);
        ensure!(!named, "tokens[{i}].name: {:?} is there twice", grant.name);
    }
    Ok(file.tokens.into_iter().map(Arc::new).collect())
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

/// The file of tokens, and what it said last.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    grants: Vec<Arc<Grant>>,
    /// What told this version of the file from others.
    version: Option<(SystemTime, u64)>,
    looked: Instant,
}

impl Access {
    /// Reads the file of tokens; none: everybody is let in.
    pub fn read(path: Option<&Path>) -> Result<Access> {
        let Some(path) = path else { return Ok(Access::Open) };
        let version = version(path);
        let grants = read(path)?;
        let known = Mutex::new(Known { grants, version, looked: Instant::now() });
        Ok(Access::Tokens(TokenFile { path: path.to_path_buf(), known }))
    }

    /// Who has this token; without tokens it is whoever says so. None: nobody who is known.
    pub fn caller(&self, token: Option<&str>) -> Option<Caller> {
        match self {
            Access::Open => Some(Caller::new(Arc::new(Grant {
                name: "anybody".to_string(),
                hash: Hash([0; 32]),
                access: Level::Admin,
                instances: all(),
            }))),
            Access::Tokens(file) => file.find(&Hash::of(token?)).map(Caller::new),
        }
    }

    /// Whether a token is needed.
    pub fn is_open(&self) -> bool {
        matches!(self, Access::Open)
    }
}

impl TokenFile {
    fn find(&self, hash: &Hash) -> Option<Arc<Grant>> {
        let mut known = self.known.lock().expect("no holder panics");
        if known.looked.elapsed() >= LOOK_EVERY {
            self.look(&mut known);
        }
        known.grants.iter().find(|grant| grant.hash.is(hash)).cloned()
    }

    fn look(&self, known: &mut Known) {
        known.looked = Instant::now();
        let version = version(&self.path);
        if version == known.version {
            return;
        }
        match read(&self.path) {
            Ok(grants) => {
                info!(tokens = grants.len(), "the tokens were read again");
                known.grants = grants;
            }
            Err(error) => error!("{error:#}; the tokens that were known stay in force"),
        }
        known.version = version; // A wrong file is told of once.
    }
}

fn version(path: &Path) -> Option<(SystemTime, u64)> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

fn read(path: &Path) -> Result<Vec<Arc<Grant>>> {
    let read = || parse(&std::fs::read_to_string(path)?);
    read().with_context(|| format!("--auth-tokens {}", path.display()))
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

    #[test]
    fn a_token_gives_what_its_line_says_and_nothing_else() {
        let (token, hash) = new_token();
        let line = format!("tokens: [{{name: alice, hash: '{hash}', access: write, instances: ['orders*', cache]}}]");
        let (_file, access) = file(&line);
        let alice = access.caller(Some(&token)).unwrap();
        assert_eq!(alice.name(), "alice");
        assert!(alice.may(Level::Read, "orders-eu") && alice.may(Level::Write, "cache"));
        assert!(!alice.may(Level::Admin, "orders") && !alice.may(Level::Read, "caches"));
        for other in [None, Some(""), Some(hash.as_str()), Some("rctl_")] {
            assert_eq!(access.caller(other), None);
        }
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
            ("token: []", "unknown field `token`"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
