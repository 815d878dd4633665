//! What is asked of masters: SENTINEL and its subcommands, INFO, ROLE. I/O (reads the board).

use std::fmt::Write as _;
use std::sync::Arc;

use super::commands::{Command, Outcome, REDIS_VERSION, Sight, command, error, fits, unknown_subcommand};
use super::connection::Client;
use super::view::{self, Down, master_down, parts};
use super::wire::Reply;
use crate::access::Level;
use crate::board::InstanceView;

/// The subcommands of SENTINEL, with how many words each has (at least, if negative).
pub(super) const SUBCOMMANDS: [Command; 12] = [
    command("ckquorum", 3, ckquorum),
    command("failover", 3, failover),
    command("get-master-addr-by-name", 3, address),
    command("help", 2, |_, _, _| help()),
    command("is-master-down-by-addr", 6, is_down),
    command("master", 3, master),
    command("masters", 2, masters),
    command("myid", 2, |sight, _, _| Reply::text(sight.id).into()),
    command("pending-scripts", 2, |_, _, _| Reply::List(Vec::new()).into()),
    command("replicas", 3, replicas),
    command("sentinels", 3, sentinels),
    command("slaves", 3, replicas),
];

/// Answers ROLE.
pub fn role(sight: &Sight<'_>, client: &mut Client, _: &[String]) -> Outcome {
    let names = named(sight, client).into_iter().map(|view| view.name.clone());
    Reply::List(vec![Reply::text("sentinel"), Reply::texts(names)]).into()
}

/// Answers INFO.
pub fn info(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    let wanted = |section: &str| {
        let all = ["all", "default", "everything"];
        words.len() == 1
            || words[1..].iter().any(|word| {
                let word = word.to_lowercase();
                word == section || all.contains(&word.as_str())
            })
    };
    let mut sections = Vec::new();
    if wanted("server") {
        sections.push(format!(
            "# Server\r\nredis_version:{REDIS_VERSION}\r\nredisctl_version:{}\r\nredis_mode:sentinel\r\nrun_id:{}\r\n\
             tcp_port:{}\r\n",
            env!("CARGO_PKG_VERSION"),
            sight.id,
            sight.port
        ));
    }
    if wanted("sentinel") {
        sections.push(sentinel_section(sight, client));
    }
    Reply::Text(sections.join("\r\n")).into()
}

fn sentinel_section(sight: &Sight<'_>, client: &Client) -> String {
    let views = named(sight, client);
    // A Sentinel's word for not trusting what it knows: it goes on to answer, and its clients go on.
    let doubted = [sight.operator.stale_since, sight.operator.frozen_since].into_iter().flatten().min();
    let tilt_s = doubted.map(|since| i64::try_from(sight.now.since_ms(since) / 1000).unwrap_or(0));
    let mut text = format!(
        "# Sentinel\r\nsentinel_masters:{}\r\nsentinel_tilt:{}\r\nsentinel_tilt_since_seconds:{}\r\n\
         sentinel_running_scripts:0\r\nsentinel_scripts_queue_length:0\r\nsentinel_simulate_failure_flags:0\r\n",
        views.len(),
        u8::from(tilt_s.is_some()),
        tilt_s.unwrap_or(-1)
    );
    for (i, view) in views.iter().enumerate() {
        let status = match master_down(view) {
            Down::No => "ok",
            Down::Subjectively => "sdown",
            Down::Objectively => "odown",
        };
        let (name, address) = (&view.name, view.status.master.as_deref().unwrap_or_default());
        let (replicas, sentinels) = (view::replicas(view).count(), sight.others() + 1);
        let _ = write!(
            text,
            "master{i}:name={name},status={status},address={address},slaves={replicas},sentinels={sentinels}\r\n"
        );
    }
    text
}

/// The instances that have a master to tell of.
fn named(sight: &Sight<'_>, client: &Client) -> Vec<Arc<InstanceView>> {
    let views = sight.board.list().into_iter().filter(|view| client.may(Level::Read, &view.name));
    views.filter_map(|view| with_master(sight, view)).collect()
}

/// The view with the master that clients are told of; none: there has been none. A client that is told of nobody
/// while the role is on its way may give up for good, and Redis' own Sentinels go on to name the old one.
fn with_master(sight: &Sight<'_>, view: Arc<InstanceView>) -> Option<Arc<InstanceView>> {
    if view.status.master.is_some() {
        return Some(view);
    }
    let named = sight.board.named_master(&view.name)?;
    let mut view = InstanceView::clone(&view);
    view.status.master = Some(named);
    Some(Arc::new(view))
}

/// Answers SENTINEL.
pub fn sentinel(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    let name = words[1].to_lowercase();
    match SUBCOMMANDS.iter().find(|command| command.name == name) {
        None => unknown_subcommand("SENTINEL", &words[1]),
        Some(command) if !fits(command.arity, words.len()) => {
            error(format!("ERR wrong number of arguments for 'sentinel|{name}' command"))
        }
        Some(command) => (command.answer)(sight, client, words),
    }
}

/// The instance that is named, if it has a master to tell of.
fn find(sight: &Sight<'_>, client: &Client, name: &str) -> Result<Arc<InstanceView>, Outcome> {
    let view = sight.board.get(name).filter(|_| client.may(Level::Read, name));
    let view = view.and_then(|view| with_master(sight, view));
    view.ok_or_else(|| error("ERR No such master with that name"))
}

fn with(sight: &Sight<'_>, client: &Client, name: &str, answer: impl FnOnce(&InstanceView) -> Outcome) -> Outcome {
    find(sight, client, name).map_or_else(|missing| missing, |view| answer(&view))
}

fn address(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    let Ok(view) = find(sight, client, &words[2]) else { return Reply::NoList.into() };
    let (ip, port) = view.status.master.as_deref().map_or(("", ""), parts);
    Reply::texts([ip, port]).into()
}

fn masters(sight: &Sight<'_>, client: &mut Client, _: &[String]) -> Outcome {
    let views = named(sight, client);
    Reply::List(views.iter().filter_map(|view| view::master(view, sight.board, sight.others(), sight.now)).collect())
        .into()
}

fn master(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    with(sight, client, &words[2], |view| {
        view::master(view, sight.board, sight.others(), sight.now).unwrap_or(Reply::NoList).into()
    })
}

fn replicas(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    with(sight, client, &words[2], |view| {
        Reply::List(view::replicas(view).map(|node| view::replica(view, node, sight.board, sight.now)).collect()).into()
    })
}

fn sentinels(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    with(sight, client, &words[2], |_| {
        Reply::List(sight.operator.others.iter().filter_map(view::sentinel).collect()).into()
    })
}

fn ckquorum(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    with(sight, client, &words[2], |_| {
        let usable = sight.others() + 1;
        if sight.operator.leader.is_none() {
            let text =
                format!("NOQUORUM {usable} usable Sentinels. Not enough available Sentinels to reach the majority");
            return error(text + " and authorize a failover");
        }
        let text = format!("OK {usable} usable Sentinels. Quorum and failover authorization can be reached");
        Reply::Status(text).into()
    })
}

fn failover(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    with(sight, client, &words[2], |view| {
        if !client.may(Level::Write, &view.name) {
            return error("NOPERM this user has no permissions to run the 'sentinel|failover' command");
        }
        if !view::replicas(view).any(|node| node.link.as_deref() == Some("up")) {
            return error("NOGOODSLAVE No suitable replica to promote");
        }
        match client.caller() {
            Some(caller) => Outcome::Failover(view.name.clone(), caller.clone()),
            None => error("NOAUTH Authentication required."),
        }
    })
}

/// Sentinels ask each other this to agree on a master's death; ours have one leader who decides.
fn is_down(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    if words[3].parse::<u16>().is_err() || words[4].parse::<i64>().is_err() {
        return error("ERR value is not an integer or out of range");
    }
    let asked = |view: &Arc<InstanceView>| {
        view.status.master.as_deref().is_some_and(|master| parts(master) == (&words[2], &words[3]))
    };
    let down = named(sight, client).iter().any(|view| asked(view) && master_down(view) > Down::No);
    Reply::List(vec![Reply::Number(i64::from(down)), Reply::text("*"), Reply::Number(0)]).into()
}

fn help() -> Outcome {
    let lines = [
        "SENTINEL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "CKQUORUM <master-name>",
        "    Check if the current Sentinel configuration is able to reach the quorum.",
        "FAILOVER <master-name>",
        "    Hand the master's role over to a replica; no acknowledged write is lost.",
        "GET-MASTER-ADDR-BY-NAME <master-name>",
        "    Return the ip and port number of the master with that name.",
        "IS-MASTER-DOWN-BY-ADDR <ip> <port> <current-epoch> <runid>",
        "    Check if the master specified by ip:port is down from current Sentinel's point of view.",
        "MASTER <master-name>",
        "    Show the state and info of the specified master.",
        "MASTERS",
        "    Show a list of monitored masters and their state.",
        "MYID",
        "    Return the ID of the Sentinel instance.",
        "REPLICAS <master-name>",
        "    Show a list of replicas for this master and their state.",
        "SENTINELS <master-name>",
        "    Show a list of Sentinel instances for this master and their state.",
    ];
    Reply::List(lines.map(|line| Reply::Status(line.to_string())).into()).into()
}
