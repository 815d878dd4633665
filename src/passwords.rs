//! Passwords of instances: none is stored, each follows from the operators' key. Pure.
//!
//! Each instance has three users at its nodes, each with passwords of its own:
//!
//! | user | who | may |
//! |---|---|---|
//! | `redisctl` | operators: probes and commands | ask what a node is, change its role and settings; read no key |
//! | `redisctl-replica` | replicas at their master | replicate |
//! | `default` | clients | everything but what changes a node's role, settings or users |
//!
//! A password is HMAC-SHA-256 of the instance's name, when it was created, the user and a generation, which
//! rises when passwords are rotated. Records hold generations, tasks hold SHA-256 of passwords (Redis takes
//! that in the place of a password, and nobody finds 256 random bits from it), and so no secret is in the
//! store but the key itself, and none in Mesos.

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
            User::Operator => {
                &["+info", "+ping", "+client", "+config", "+replicaof", "+acl", "+multi", "+exec", "+role", "+wait"]
            }
            User::Replica => &["+ping", "+psync", "+replconf"],
            User::Client => &[
                "~*",
                "&*",
                "+@all",
                "-acl",
                "+acl|whoami",
                "-config",
                "-debug",
                "-failover",
                "-module",
                "-psync",
                "-replconf",
                "-replicaof",
                "-shutdown",
                "-slaveof",
                "-sync",
            ],
        }
    }
}

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

    /// The password of a user of that generation.
    pub fn password(&self, of: &Owner, user: User, generation: u64) -> Password {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&self.0).expect("a key of any length will do");
        // Names have no spaces: no two owners write the same.
        mac.update(format!("{} {} {} {generation}", of.instance, of.created_at.0, user.name()).as_bytes());
        Password(URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }
}

/// The words after `ACL SETUSER` that make a user what it shall be, whatever it was, with these passwords.
/// Nothing of it is secret.
pub fn acl(user: User, passwords: &[Password]) -> Vec<String> {
    let fixed = [user.name(), "reset", "on"].map(String::from);
    let rules = user.rules().iter().map(ToString::to_string);
    fixed.into_iter().chain(passwords.iter().map(Password::hash)).chain(rules).collect()
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
        let words = acl(User::Client, std::slice::from_ref(&password)).join(" ");
        assert!(words.starts_with("default reset on #") && !words.contains(password.reveal()), "{words}");
    }
}
