//! What answers say of the operator itself in their heads, told once on the standard error. I/O.
//!
//! It holds for whatever a command shows or does, so no command has to know of it: the client hears it, and it is told
//! when the command ends, or when it begins to wait for more.

use std::sync::{Arc, Mutex};

use reqwest::header::HeaderMap;

use super::text::{FAIR, styled};
use crate::api::{FROZEN, STALE_SINCE};
use crate::plain::{TOLD_CHARS_MAX, plain};

/// What was heard and is not told yet.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    stale_since: Option<String>,
    frozen: Option<String>,
    /// Something was written that a frozen operator does not carry out.
    wrote: bool,
    told: Vec<String>,
}

impl Notes {
    /// Hears what an answer says. `wrote`: it is the answer to something that was written.
    pub fn hear(&self, headers: &HeaderMap, wrote: bool) {
        let text = |name| headers.get(name)?.to_str().ok().map(|text| plain(text, TOLD_CHARS_MAX));
        let mut heard = self.0.lock().expect("no holder panics");
        heard.stale_since = text(STALE_SINCE).or(heard.stale_since.take());
        heard.frozen = text(FROZEN).or(heard.frozen.take());
        heard.wrote |= wrote && headers.contains_key(FROZEN);
    }

    /// Tells what is new.
    pub fn tell(&self) {
        let mut heard = self.0.lock().expect("no holder panics");
        for note in heard.notes() {
            if !heard.told.contains(&note) {
                anstream::eprintln!("{note}");
                heard.told.push(note);
            }
        }
    }
}

impl Heard {
    fn notes(&mut self) -> Vec<String> {
        let stale = self.stale_since.take().map(|since| {
            format!("as of {since}: the operator cannot read its store since then, and what has happened is not shown")
        });
        let asked = if self.wrote { "what you asked for is recorded, and not" } else { "nothing is" };
        let frozen = self.frozen.take().map(|why| {
            format!(
                "{} the operator is frozen: {why}; {asked} carried out until that is mended",
                styled("warning:", FAIR)
            )
        });
        stale.into_iter().chain(frozen).collect()
    }
}
