//! `framework`: what we are to Mesos, and a new beginning. I/O.

use anyhow::Result;
use reqwest::Method;

use super::args::FrameworkCommand;
use super::client::Client;
use super::outcome::Exit;
use super::text::print;
use crate::api::FrameworkView;
use crate::mesos::Standing;

impl Client {
    /// What we are to Mesos.
    pub async fn framework(&self) -> Result<FrameworkView> {
        self.answer(self.request(Method::GET, &["v1", "framework"])).await
    }

    /// Gives the framework up.
    pub async fn reset_framework(&self, id: &str) -> Result<()> {
        self.done(self.request(Method::POST, &["v1", "framework", "reset"]).query(&[("framework", id)])).await
    }
}

/// Runs `framework`.
pub async fn framework(client: &Client, command: Option<FrameworkCommand>) -> Result<Exit> {
    match command {
        None => print(&shown(&client.framework().await?))?,
        Some(FrameworkCommand::Reset { yes }) => {
            client.reset_framework(&yes).await?;
            print(&format!(
                "framework {yes} is given up: the leader begins again under a new id. Nodes on agents that Mesos does not \
                 see are waited for; `redisctl get` shows what became of each instance\n"
            ))?;
        }
    }
    Ok(Exit::Ok)
}

fn shown(view: &FrameworkView) -> String {
    let Some(id) = &view.id else { return "none is registered yet\n".to_string() };
    let standing = match view.standing {
        Standing::Registered => "registered",
        Standing::Removed => "removed by Mesos, with all its tasks",
        Standing::Unknown => "not known to Mesos, or not shown to us",
    };
    let list = |title: &str, items: &[String]| {
        if items.is_empty() { String::new() } else { format!("  {title}: {}\n", items.join(", ")) }
    };
    let reset = if view.obstacles.is_empty() {
        format!("  it can be given up: redisctl framework reset --yes {id}\n")
    } else {
        format!("  it cannot be given up: {}\n", view.obstacles.join("; "))
    };
    format!("framework {id}: {standing}\n")
        + &list("tasks that run", &view.running)
        + &list("tasks that may run, on agents out of sight", &view.unreachable)
        + &list("nodes that have just answered", &view.answering)
        + &reset
}
