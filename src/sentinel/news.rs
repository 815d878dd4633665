//! What a Sentinel publishes when something has changed of an instance. Pure.

use std::collections::BTreeMap;

use super::view::{Down, QUORUM, master_down, parts, replica_down, replicas};
use crate::board::InstanceView;
use crate::status::NodeState;

/// A publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The instance that it is about.
    pub instance: String,
    /// `+switch-master`.
    pub channel: &'static str,
    /// `orders 10.0.0.7 31007 10.0.0.8 31020`.
    pub message: String,
}

/// What was published of an instance so far.
#[derive(Debug, Default)]
pub struct Told {
    /// The last master that was named, also while there is none.
    master: Option<String>,
    down: Down,
    replicas: BTreeMap<String, Down>,
    epoch: u64,
}

impl Told {
    /// What there is to publish now; none: the instance is gone.
    pub fn news(&mut self, name: &str, view: Option<&InstanceView>) -> Vec<News> {
        let mut out = Vec::new();
        match view {
            Some(view) => self.compare(view, &mut out),
            None => out.extend(self.master.take().map(|master| of_master("-monitor", name, &master))),
        }
        out
    }

    fn compare(&mut self, view: &InstanceView, out: &mut Vec<News>) {
        let name = &view.name;
        let Some(before) = self.master.clone() else {
            if let Some(master) = &view.status.master {
                let quorum = format!(" quorum {QUORUM}");
                out.push(with(of_master("+monitor", name, master), &quorum));
                self.take(master, view, out);
            }
            return;
        };
        match &view.status.master {
            Some(master) if *master != before => {
                // A view with the death alone may have been passed over.
                if node_down(view, &before) == Down::Objectively {
                    self.set_master_down(name, &before, Down::Objectively, out);
                }
                let (old_ip, old_port) = parts(&before);
                let (ip, port) = parts(master);
                let message = format!("{name} {old_ip} {old_port} {ip} {port}");
                out.push(News { instance: name.clone(), channel: "+switch-master", message });
                self.take(master, view, out);
            }
            Some(master) if view.status.epoch < self.epoch => {
                out.push(of_master("+reset-master", name, master)); // It was deleted and declared again.
                self.take(master, view, out);
            }
            Some(master) => {
                self.set_master_down(name, master, master_down(view), out);
                self.set_replicas(name, master, view, out);
            }
            // The role is on its way: only what is known of the old master itself is told.
            None => self.set_master_down(name, &before, node_down(view, &before), out),
        }
        self.epoch = view.status.epoch;
    }

    /// Begins with a master, all of whose replicas are news.
    fn take(&mut self, master: &str, view: &InstanceView, out: &mut Vec<News>) {
        *self = Told { master: Some(master.to_string()), epoch: view.status.epoch, ..Told::default() };
        self.set_replicas(&view.name, master, view, out);
        self.set_master_down(&view.name, master, master_down(view), out);
    }

    fn set_master_down(&mut self, name: &str, master: &str, down: Down, out: &mut Vec<News>) {
        let was = std::mem::replace(&mut self.down, down);
        if was < Down::Subjectively && down >= Down::Subjectively {
            out.push(of_master("+sdown", name, master));
        }
        if was < Down::Objectively && down >= Down::Objectively {
            out.push(with(of_master("+odown", name, master), &format!(" #quorum {QUORUM}/{QUORUM}")));
        }
        if was >= Down::Subjectively && down < Down::Subjectively {
            out.push(of_master("-sdown", name, master));
        }
        if was >= Down::Objectively && down < Down::Objectively {
            out.push(of_master("-odown", name, master));
        }
    }

    fn set_replicas(&mut self, name: &str, master: &str, view: &InstanceView, out: &mut Vec<News>) {
        let now: BTreeMap<String, Down> =
            replicas(view).map(|node| (node.address.clone(), replica_down(node))).collect();
        for (replica, down) in &now {
            let was = self.replicas.get(replica);
            if was.is_none() {
                out.push(of_replica("+slave", replica, name, master));
            }
            match (was.copied().unwrap_or_default(), *down) {
                (Down::No, Down::Subjectively) => out.push(of_replica("+sdown", replica, name, master)),
                (Down::Subjectively, Down::No) => out.push(of_replica("-sdown", replica, name, master)),
                _ => {}
            }
        }
        self.replicas = now;
    }
}

/// How far a former master is gone.
fn node_down(view: &InstanceView, address: &str) -> Down {
    match view.status.nodes.iter().find(|node| node.address == address).map(|node| node.state) {
        None | Some(NodeState::Dead) => Down::Objectively,
        Some(NodeState::NotAnswering | NodeState::Unreachable) => Down::Subjectively,
        Some(_) => Down::No,
    }
}

fn of_master(channel: &'static str, name: &str, master: &str) -> News {
    let (ip, port) = parts(master);
    News { instance: name.to_string(), channel, message: format!("master {name} {ip} {port}") }
}

fn of_replica(channel: &'static str, replica: &str, name: &str, master: &str) -> News {
    let ((ip, port), (master_ip, master_port)) = (parts(replica), parts(master));
    let message = format!("slave {replica} {ip} {port} @ {name} {master_ip} {master_port}");
    News { instance: name.to_string(), channel, message }
}

fn with(news: News, more: &str) -> News {
    News { message: news.message + more, ..news }
}
