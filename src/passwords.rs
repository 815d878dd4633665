//! Passwords of instances: none is stored, each follows from the operators' key. Pure.
//!
//! Each node has three users, each with passwords of its own, and a mark:
//!
//! | user | who | may | password |
//! |---|---|---|---|
//! | `redisctl` | operators: probes and commands | ask what a node is, change its role and settings; read no key | of this node's task alone |
//! | `redisctl-replica` | replicas at their master | replicate | of this node's task alone |
//! | `default` | clients | everything but what changes a node's role, settings or users, or stops it | of the instance; or none |
//! | `redisctl-task` | nobody: it is off | nothing | the mark |
//!
//! A password is HMAC-SHA-256 of the instance's name, when it was created, the task, the user and a generation,
//! which rises when passwords are rotated. Records hold generations, tasks hold SHA-256 of passwords (Redis takes
//! that in the place of a password, and nobody finds 256 random bits from it), and so no secret is in the
//! store but the key itself, and none in Mesos.
//!
//! Whoever takes the port of a node that has died is sent that node's passwords, which are worth nothing at any
//! other. The mark is how a node proves that it is the recorded task: it is set at the task's start, differs for
//! each, only the user `redisctl` can read or change it, and operators read it back on every new connection before
//! anything else. Only who has seen the task's arguments can pretend to have it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};

use crate::model::Timestamp;

/// Bytes of the key.
pub const KEY_BYTES: usize = 32;

/// What all passwords follow from; under `operator/key`.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

/// A password. It is written where it is used, and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

impl Password {
    /// A password that somebody else has chosen.
    pub fn new(text: impl Into<String>) -> Password {
        Password(text.into())
    }

    /// The password itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// `#` and its SHA-256, as Redis takes it in the place of a password.
    pub fn hash(&self) -> String {
        let digits = crate::access::sha256_hex(&self.0);
        format!("#{digits}")
    }
}

/// Somebody who logs in at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The operators.
    Operator,
    /// Replicas, at their master.
    Replica,
    /// Everybody else.
    Client,
}

impl User {
    /// All of them, clients last: when they need a password, the others have theirs.
    pub const ALL: [User; 3] = [User::Operator, User::Replica, User::Client];

    /// As Redis knows it.
    pub fn name(self) -> &'static str {
        match self {
            User::Operator => "redisctl",
            User::Replica => "redisctl-replica",
            User::Client => "default",
        }
    }

    /// What it may do, as Redis' ACL rules.
    fn rules(self) -> &'static [&'static str] {
        match self {
            User::Operator => OPERATOR_RULES,
            User::Replica => &["+ping", "+psync", "+replconf"],
            User::Client => CLIENT_RULES,
        }
    }
}

/// What operators do at nodes: `tests/redis/users.rs` tries each command that is in their code.
const OPERATOR_RULES: &[&str] = &[
    "+acl",
    "+client",
    "+config",
    "+exec",
    "+function|kill",
    "+info",
    "+multi",
    "+ping",
    "+replicaof",
    "+role",
    "+script|kill",
    "+wait",
];

/// Clients may do everything but this: docs/security.md says of each why, and `tests/redis/users.rs` tries it.
const CLIENT_RULES: &[&str] = &[
    "~*",
    "&*",
    "+@all",
    "-acl",
    "+acl|cat",
    "+acl|genpass",
    "+acl|help",
    "+acl|whoami",
    "-client|kill",
    "-client|no-evict",
    "-client|pause",
    "-client|unpause",
    "-cluster",
    "+cluster|countkeysinslot",
    "+cluster|getkeysinslot",
    "+cluster|help",
    "+cluster|info",
    "+cluster|keyslot",
    "+cluster|links",
    "+cluster|myid",
    "+cluster|nodes",
    "+cluster|replicas",
    "+cluster|shards",
    "+cluster|slaves",
    "+cluster|slots",
    "-config",
    "+config|help",
    "-debug",
    "-failover",
    "-migrate",
    "-module",
    "+module|help",
    "+module|list",
    "-pfdebug",
    "-pfselftest",
    "-psync",
    "-replconf",
    "-replicaof",
    "-restore-asking",
    "-save",
    "-script|debug",
    "-shutdown",
    "-slaveof",
    "-sync",
];

/// Digits of a hash by which two versions of the rights differ.
const RIGHTS_DIGITS: usize = 12;

/// The user whose password is a task's mark.
pub const MARK_USER: &str = "redisctl-task";

/// Passwords of clients that a user has chosen and put into the store, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Of the key in the store.
    pub revision: i64,
    /// Any of them lets clients in.
    pub passwords: Vec<Password>,
}

/// The most passwords of a secret: the newest, and such as clients still use.
const SECRET_PASSWORDS_MAX: usize = 8;
/// The longest password of a secret.
const SECRET_CHARS_MAX: usize = 512;

impl Secret {
    /// From what the store has: a password on each line.
    pub fn parse(text: &[u8], revision: i64) -> Result<Secret, String> {
        let wrong = || {
            format!(
                "no secret: allowed are 1 to {SECRET_PASSWORDS_MAX} lines with a password each, of 1 to \
                 {SECRET_CHARS_MAX} visible ASCII characters"
            )
        };
        let text = std::str::from_utf8(text).map_err(|_| wrong())?;
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let fits = |line: &&str| {
            (1..=SECRET_CHARS_MAX).contains(&line.len()) && line.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !(1..=SECRET_PASSWORDS_MAX).contains(&lines.len()) || !lines.iter().all(fits) {
            return Err(wrong());
        }
        Ok(Secret { revision, passwords: lines.into_iter().map(Password::new).collect() })
    }
}

/// Whose passwords: a name alone may be used again after a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The instance.
    pub instance: String,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Key {
    /// The key of these bytes.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Key {
        Key(bytes)
    }

    /// As the store has it.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// From what the store has; none: it is no key.
    pub fn from_text(text: &str) -> Option<Key> {
        Some(Key(URL_SAFE_NO_PAD.decode(text.trim()).ok()?.try_into().ok()?))
    }

    /// The password of a user of that generation, at all of the instance's nodes.
    pub fn password(&self, of: &Owner, user: User, generation: u64) -> Password {
        self.derive(of, &format!("{} {generation}", user.name()))
    }

    /// The password of a user of that generation, at the node of this task alone.
    pub fn password_at(&self, of: &Owner, task_id: &str, user: User, generation: u64) -> Password {
        self.derive(of, &format!("{task_id} {} {generation}", user.name()))
    }

    /// The mark of a task, as the hash of a password: `#` and 64 digits.
    pub fn mark(&self, of: &Owner, task_id: &str) -> String {
        self.derive(of, &format!("{task_id} {MARK_USER}")).hash()
    }

    fn derive(&self, of: &Owner, what: &str) -> Password {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&self.0).expect("a key of any length will do");
        // Names and ids have no spaces, and no user has the name of a task: no two write the same.
        mac.update(format!("{} {} {what}", of.instance, of.created_at.0).as_bytes());
        Password(URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }
}

/// The words after `ACL SETUSER` that make a user what it shall be, whatever it was, with these passwords; none:
/// it needs no password. Nothing of it is secret.
pub fn acl(user: User, passwords: Option<&[Password]>) -> Vec<String> {
    let fixed = [user.name(), "reset", "on"].map(String::from);
    let passwords = passwords.map_or_else(|| vec!["nopass".to_string()], |p| p.iter().map(Password::hash).collect());
    let rules = user.rules().iter().map(ToString::to_string);
    fixed.into_iter().chain(passwords).chain(rules).collect()
}

/// What all users may do, in a few letters: it differs where another version of ours gave other rights.
pub fn rights() -> String {
    let rules: Vec<&str> = User::ALL.iter().flat_map(|user| user.rules()).copied().collect();
    crate::access::sha256_hex(rules.join(" "))[..RIGHTS_DIGITS].to_string()
}

/// Gives a user these rights, and no others, and leaves its passwords as they are.
pub fn rights_acl(user: User) -> Vec<String> {
    let fixed = [user.name(), "resetkeys", "resetchannels", "nocommands"].into_iter();
    fixed.chain(user.rules().iter().copied()).map(String::from).collect()
}

/// The same of the user that bears the mark.
pub fn mark_acl(mark: &str) -> Vec<String> {
    [MARK_USER, "reset", "off", mark].map(String::from).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(instance: &str, created_at: u64) -> Owner {
        Owner { instance: instance.to_string(), created_at: Timestamp(created_at) }
    }

    #[test]
    fn every_user_of_every_generation_of_every_instance_has_a_password_of_its_own() {
        let key = Key::new([7; KEY_BYTES]);
        let mut all = std::collections::BTreeSet::new();
        for of in [owner("orders", 1), owner("orders", 2), owner("carts", 1)] {
            for user in User::ALL {
                for generation in 1..4 {
                    let password = key.password(&of, user, generation);
                    assert_eq!(password, key.password(&of, user, generation));
                    assert!(password.reveal().len() >= 43, "256 bits");
                    all.insert(password.reveal().to_string());
                }
            }
        }
        assert_eq!(all.len(), 27);
        for task_id in ["orders-0.1", "orders-0.2", "orders-1.1"] {
            for user in [User::Operator, User::Replica] {
                all.insert(key.password_at(&owner("orders", 1), task_id, user, 1).reveal().to_string());
            }
            all.insert(key.mark(&owner("orders", 1), task_id));
        }
        assert_eq!(all.len(), 36);
        let other = Key::new([8; KEY_BYTES]);
        assert!(!all.contains(other.password(&owner("orders", 1), User::Client, 1).reveal()));
    }

    #[test]
    fn a_key_is_read_as_it_was_written_and_nothing_else_is_one() {
        let key = Key::new([9; KEY_BYTES]);
        assert_eq!(Key::from_text(&key.to_text()), Some(key));
        for text in ["", "short", &"a".repeat(44)] {
            assert_eq!(Key::from_text(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_secret_is_a_password_on_each_line() {
        let of = |text: &str| Secret::parse(text.as_bytes(), 7).map(|secret| secret.passwords);
        assert_eq!(of("new\r\nold\n"), Ok(vec![Password::new("new"), Password::new("old")]));
        for text in ["", "\n", "a b", "a\n\nb", "é", &"a".repeat(513), &"a\n".repeat(9)] {
            assert!(of(text).is_err_and(|why| why.contains("allowed are 1 to 8 lines")), "{text:?}");
        }
    }

    #[test]
    fn neither_a_key_nor_a_password_is_shown_by_accident() {
        let key = Key::new([9; KEY_BYTES]);
        let password = key.password(&owner("orders", 1), User::Client, 1);
        let shown = format!("{key:?} {password:?}");
        assert_eq!(shown, "Key(***) Password(***)");
        let words = acl(User::Client, Some(std::slice::from_ref(&password))).join(" ");
        assert!(words.starts_with("default reset on #") && !words.contains(password.reveal()), "{words}");
    }
}
