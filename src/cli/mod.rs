//! The command line: reads it, runs the command, turns the outcome into an exit code. I/O.
//!
//! `operator` and `local` run the operator in this process; every other command talks to a running
//! one over its HTTP API and knows nothing of stores or Mesos.
// Text is made here once for each command: what a line costs does not matter, how it reads does.
#![allow(clippy::format_push_string, clippy::format_collect)]

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser as _};

mod answer;
mod apply;
mod args;
mod client;
mod connect;
mod create;
mod describe;
mod diff;
mod documents;
mod events;
mod failover;
mod follow;
mod framework;
mod get;
mod notes;
mod outcome;
mod password;
mod scale;
mod serve;
mod sse;
mod text;
mod token;
mod unreachable;
mod view;
mod wait;
mod watch;

use args::{Cli, Color, Command, Form};
use client::{Client, VERSION};
use outcome::{Exit, exit_of, is_broken_pipe};
use text::print;

/// The hidden command by which the local cluster's agents start a task. Its arguments are the task's
/// own: clap must not look at them.
const TASK: &str = "__task";

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|command| command == TASK) {
        return crate::local::task_main(args);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = if error.use_stderr() { as_typed(error) } else { error };
            let _ = error.print(); // Help to a closed pipe: nobody is there to be told.
            return ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { Exit::Ok as u8 });
        }
    };
    set_colours(cli.color);
    let exit = run(cli).unwrap_or_else(|error| report(&error));
    ExitCode::from(exit as u8)
}

/// The error as it would be without our variables in the environment: what they say would be shown in the usage as if
/// it had been typed, or had to be. An error that is theirs stays as it is.
fn as_typed(error: clap::Error) -> clap::Error {
    let typed = without_variables(Cli::command()).try_get_matches_from(std::env::args_os());
    typed.err().filter(|typed| typed.kind() == error.kind()).unwrap_or(error)
}

fn without_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
    command.mut_subcommands(without_variables)
}

fn set_colours(color: Color) {
    match color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
}

/// Says what went wrong.
fn report(error: &anyhow::Error) -> Exit {
    if is_broken_pipe(error) {
        return Exit::Ok;
    }
    anstream::eprintln!("{} {}", text::styled("error:", text::BAD), answer::lines(&format!("{error:#}")));
    exit_of(error)
}

fn run(cli: Cli) -> Result<Exit> {
    match cli.command {
        Command::Operator(args) => serve::operator(*args),
        Command::Local(args) => serve::local(args),
        Command::Token(args) => token::token(&args),
        Command::Schema => schema(),
        Command::Completion(args) => completion(args.shell),
        Command::Man(args) => man(&args.directory),
        command => {
            // Commands mostly wait for one server: a thread of our own is enough, and starts faster.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let client = Client::new(&cli.server, cli.token_file.as_deref(), cli.ca_file.as_deref())?;
            let outcome = runtime.context("start the runtime")?.block_on(ask(&client, command));
            client.notes.tell();
            outcome
        }
    }
}

/// The commands that talk to an operator.
async fn ask(client: &Client, command: Command) -> Result<Exit> {
    match command {
        Command::Apply(args) => apply::apply(client, &args).await,
        Command::Create(args) => create::create(client, &args).await,
        Command::Connect(args) => connect::connect(client, &args).await,
        Command::Diff(args) => diff::diff(client, &args).await,
        Command::Get(args) => get::get(client, &args).await,
        Command::Describe(args) => describe::describe(client, &args.name).await,
        Command::Plan(args) => plan(client, &args.name, args.output).await,
        Command::Events(args) => events::events(client, &args).await,
        Command::Wait(args) => wait::wait_for(client, &args).await,
        Command::Failover(args) => failover::failover(client, &args).await,
        Command::Scale(args) => scale::scale(client, &args).await,
        Command::Password(args) => password::password(client, &args).await,
        Command::Secret(args) => password::secret(client, &args).await,
        Command::Delete(args) => delete(client, &args).await,
        Command::Recreate(args) => recreate(client, &args.name).await,
        Command::Framework(args) => framework::framework(client, args.command).await,
        Command::Version => version(client).await,
        Command::Operator(_)
        | Command::Local(_)
        | Command::Token(_)
        | Command::Schema
        | Command::Completion(_)
        | Command::Man(_) => {
            unreachable!("run() does these itself")
        }
    }
}

async fn plan(client: &Client, name: &str, form: Form) -> Result<Exit> {
    let plan = client.plan(name).await?;
    match form {
        Form::Json => print(&(serde_json::to_string_pretty(&plan)? + "\n"))?,
        Form::Yaml => print(&serde_yaml::to_string(&plan)?)?,
        Form::Text if plan.steps.is_empty() && plan.waiting.is_empty() => {
            print(&format!("{name}: nothing to do, nothing to wait for\n"))?;
        }
        Form::Text => {
            let steps = plan.steps.iter().enumerate().map(|(i, step)| format!("  {}. {step}\n", i + 1));
            let waiting = plan.waiting.iter().map(|reason| format!("  - {reason}\n"));
            let section = |title: &str, lines: String| {
                if lines.is_empty() { format!("{title}: nothing\n") } else { format!("{title}:\n{lines}") }
            };
            print(&(section("Would do", steps.collect()) + &section("Waits for", waiting.collect())))?;
        }
    }
    Ok(Exit::Ok)
}

async fn delete(client: &Client, args: &args::DeleteArgs) -> Result<Exit> {
    let mut failed = None;
    let mut targets = Vec::new();
    for name in &args.names {
        match client.delete(name).await {
            Ok(()) => {
                print(&format!(
                    "redisinstance/{name} deletion asked for: its nodes are killed, then its records go\n"
                ))?;
                targets.push(wait::Target::accepted(name, 0));
            }
            // The others are deleted all the same; the first error decides how we end.
            Err(error) => {
                let exit = report(&error);
                failed = failed.or(Some(exit));
            }
        }
    }
    if args.wait && !targets.is_empty() {
        wait::wait(client, &wait::Goal::Deleted, targets, args.timeout, true).await?;
    }
    Ok(failed.unwrap_or(Exit::Ok))
}

async fn recreate(client: &Client, name: &str) -> Result<Exit> {
    client.recreate(name).await?;
    print(&format!("redisinstance/{name} recreation asked for: it starts again, empty\n"))?;
    Ok(Exit::Ok)
}

async fn version(client: &Client) -> Result<Exit> {
    print(&format!("client: {VERSION}\n"))?;
    print(&describe::operator(client.server(), &client.operator().await?))?;
    Ok(Exit::Ok)
}

fn schema() -> Result<Exit> {
    print(&(serde_json::to_string_pretty(&crate::spec::schema())? + "\n"))?;
    Ok(Exit::Ok)
}

fn man(directory: &std::path::Path) -> Result<Exit> {
    let written = clap_mangen::generate_to(Cli::command(), directory);
    written.with_context(|| format!("write man pages into {}", directory.display()))?;
    Ok(Exit::Ok)
}

fn completion(shell: clap_complete::Shell) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "redisctl", &mut script);
    print(&String::from_utf8(script).context("the completion script")?)?;
    Ok(Exit::Ok)
}
