//! Secrets of users' own in the world: which there are, and whose clients log in with them. Pure.

use std::sync::Arc;

use crate::passwords::Secret;
use crate::reconcile::world::{Dirty, Instance, World};

impl World {
    /// The secret that the instance's clients log in with, if it is one of the user's own and the store has it.
    pub fn secret(&self, instance: &Instance) -> Option<&Arc<Secret>> {
        self.secrets.get(instance.record.as_ref()?.value.spec.secret()?)
    }

    /// A secret has changed: answers whose clients log in with it. What cannot be read is none.
    pub(super) fn keep_secret(&mut self, secret: &str, value: Option<Secret>) -> Dirty {
        match value {
            Some(value) => drop(self.secrets.insert(secret.to_string(), Arc::new(value))),
            None => drop(self.secrets.remove(secret)),
        }
        let uses = |instance: &Instance| {
            instance.record.as_ref().is_some_and(|record| record.value.spec.secret() == Some(secret))
        };
        let names = self.instances.iter().filter(|(_, instance)| uses(instance)).map(|(name, _)| name.clone());
        Dirty { all: false, names: names.collect() }
    }
}
