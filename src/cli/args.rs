//! The command line's grammar. I/O: clap looks into the environment.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

pub use self::keys::{
    FrameworkArgs, FrameworkCommand, PasswordArgs, PasswordCommand, SecretArgs, SecretCommand, TokenArgs,
};
pub use self::serve::{LocalArgs, OperatorArgs};
use super::outcome::EXIT_HELP;
use super::wait::Goal;
use crate::spec::{Cpus, Period, Size};

mod keys;
mod serve;

/// redisctl: replicated Redis on Apache Mesos, kept as declared
#[derive(Debug, Parser)]
#[command(name = "redisctl", version, after_help = EXIT_HELP, max_term_width = 100, subcommand_required = true)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// The operator's API
    #[arg(long, global = true, env = "REDISCTL_SERVER", value_name = "URL", default_value = "http://127.0.0.1:5656")]
    pub server: String,
    /// A file that holds the token to show to the API, and nothing else
    #[arg(long, global = true, env = "REDISCTL_TOKEN_FILE", value_name = "FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// The authorities that have signed the API's certificate, PEM [default: those of the system]
    #[arg(long, global = true, env = "REDISCTL_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// When to colour; `auto`: on a terminal, unless `NO_COLOR` is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub color: Color,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Also into pipes and files.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator: bring Redis on Mesos to what the store declares, and serve the API
    Operator(Box<OperatorArgs>),
    /// Run everything in one process, to try it out: operator, store and a local cluster
    Local(LocalArgs),
    /// Declare instances: create them, or change them to what the files say
    Apply(ApplyArgs),
    /// Declare one instance without a file
    Create(CreateArgs),
    /// Open redis-cli on an instance's master, or print where that is
    Connect(ConnectArgs),
    /// Show how files differ from what is declared now
    Diff(DiffArgs),
    /// List instances
    Get(GetArgs),
    /// Show everything about one instance
    Describe(NameArgs),
    /// Show what the operator would do now for an instance, and what it waits for
    Plan(PlanArgs),
    /// Show what happened to an instance, or to all
    Events(EventsArgs),
    /// Wait until an instance is ready, deleted, or has a condition
    Wait(WaitArgs),
    /// Make another node the master, without losing an acknowledged write
    Failover(FailoverArgs),
    /// Change the size of an instance: its memory, its replicas, its CPU share
    Scale(ScaleArgs),
    /// Delete instances and their data, at once and without asking
    ///
    /// Their nodes are ended, and all that they hold is lost: there is no way back. Nobody is asked before.
    Delete(DeleteArgs),
    /// Start an instance whose data is lost again, empty (`onDataLoss: hold` waits for this)
    Recreate(NameArgs),
    /// Show what clients of an instance log in with, or make a new one
    Password(PasswordArgs),
    /// Put passwords of your own into the store, for instances with `auth: {secretRef: NAME}`
    Secret(SecretArgs),
    /// Make a token for somebody who shall use the API
    Token(TokenArgs),
    /// Print the JSON Schema of documents
    Schema,
    /// Show what we are to Mesos, or begin again when Mesos has removed the framework
    Framework(FrameworkArgs),
    /// Print the versions of this program and of the operator
    Version,
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man(ManArgs),
}

/// The name of an instance, also as we print it.
#[allow(clippy::unnecessary_wraps)] // clap asks for a Result.
pub(super) fn instance(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.strip_prefix("redisinstance/").unwrap_or(text).to_string())
}

/// A number as people mean it: with a sign it could be meant as a change.
fn whole(text: &str) -> Result<u32, String> {
    crate::spec::whole(text).ok_or_else(|| "allowed is a whole number, without a sign".to_string())
}

/// Arguments of `apply`.
#[derive(Args, Debug)]
pub struct ApplyArgs {
    /// A file, a directory (its *.yaml, *.yml and *.json, by name) or - for the standard input; may
    /// be given several times. All documents are applied, or none
    #[arg(short, long = "file", value_name = "FILE|DIR|-", required = true)]
    pub files: Vec<PathBuf>,
    /// Check the documents and say what would be done, but do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until all of the instances are ready, and show each step
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_name = "PERIOD", default_value = "5m")]
    pub timeout: Period,
}

/// Arguments of `create`.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// The instance
    pub name: String,
    /// Redis' maxmemory, such as 256Mi; a plain number is mebibytes
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Size,
    /// How many replicas
    #[arg(short, long, visible_alias = "slaves", value_name = "NUMBER", default_value_t = 0, value_parser = whole)]
    pub replicas: u32,
    /// At most so many of its nodes on one agent [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = whole)]
    pub distribution: Option<u32>,
    /// Do nothing but say what would be done, or print the document
    #[arg(long)]
    pub dry_run: bool,
    /// Print the document
    #[arg(short, long, value_name = "FORM")]
    pub output: Option<DocumentForm>,
    /// Wait until it is ready, and show each step
    #[arg(short, long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_name = "PERIOD", default_value = "5m")]
    pub timeout: Period,
}

/// How a document is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DocumentForm {
    /// As files for `apply` mostly are.
    Yaml,
    /// The same.
    Json,
}

/// Arguments of `connect`.
#[derive(Args, Debug)]
pub struct ConnectArgs {
    /// The instance
    #[arg(value_parser = instance)]
    pub name: String,
    /// Print this instead of opening redis-cli
    #[arg(long, value_name = "WHAT")]
    pub print: Option<Print>,
    /// The redis-cli to run: a path, or a name that is looked up in PATH
    #[arg(long, env = "REDISCTL_REDIS_CLI", value_name = "PATH", default_value = "redis-cli")]
    pub redis_cli: PathBuf,
    /// More arguments of redis-cli, such as a command
    #[arg(last = true, value_name = "ARGUMENT", conflicts_with = "print")]
    pub arguments: Vec<String>,
}

/// What is printed of a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Print {
    /// `redis://HOST:PORT`, with the password if there is one.
    Url,
    /// `HOST:PORT`.
    Address,
}

/// Arguments of `diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// As for `apply`
    #[arg(short, long = "file", value_name = "FILE|DIR|-", required = true)]
    pub files: Vec<PathBuf>,
}

/// Arguments of `get`.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// Names of instances [default: all]
    #[arg(value_name = "NAME", value_parser = instance)]
    pub names: Vec<String>,
    /// How to print them
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Output,
    /// Go on, and print each change
    #[arg(short, long)]
    pub watch: bool,
    /// Only those with these labels: KEY=VALUE[,KEY=VALUE...]
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "names")]
    pub selector: Option<String>,
}

/// How instances are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// One line each.
    Table,
    /// One line each, with more columns.
    Wide,
    /// As the API has them; with --watch one line each.
    Json,
    /// As the API has them.
    Yaml,
    /// As `redisinstance/NAME`.
    Name,
}

/// How everything else is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Text,
    /// As the API has it.
    Json,
    /// As the API has it.
    Yaml,
}

/// The name of an instance.
#[derive(Args, Debug)]
pub struct NameArgs {
    /// The instance
    #[arg(value_parser = instance)]
    pub name: String,
}

/// Arguments of `plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// The instance
    #[arg(value_parser = instance)]
    pub name: String,
    /// How to print it
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub output: Form,
}

/// Arguments of `events`.
#[derive(Args, Debug)]
pub struct EventsArgs {
    /// The instance [default: all]
    #[arg(value_parser = instance)]
    pub name: Option<String>,
    /// Go on, and print each new event
    #[arg(short, long)]
    pub watch: bool,
    /// How to print them
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub output: Form,
}

/// Arguments of `wait`.
#[derive(Args, Debug)]
pub struct WaitArgs {
    /// The instances
    #[arg(value_name = "NAME", required = true, value_parser = instance)]
    pub names: Vec<String>,
    /// What to wait for: `ready`, `deleted`, or `condition=TYPE[=STATUS]` with a type that `describe` shows, such
    /// as `MasterAvailable` or `NoSafeCandidate`, and the statuses `True` (the default), `False` and `Unknown`
    #[arg(long = "for", value_name = "WHAT")]
    pub goal: Goal,
    /// How long to wait
    #[arg(long, value_name = "PERIOD", default_value = "60s")]
    pub timeout: Period,
}

/// Arguments of `failover`.
#[derive(Args, Debug)]
pub struct FailoverArgs {
    /// The instance
    #[arg(value_parser = instance)]
    pub name: String,
    /// The node that shall be the master, such as orders-1 [default: the operator chooses]
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
    /// Do it though writes may be lost, also such as were confirmed: when the master is gone and the
    /// operator says that no replica is safe. Shows what is known of the loss, and asks
    #[arg(long, requires = "to")]
    pub force: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// How long to wait until the new master takes writes
    #[arg(long, value_name = "PERIOD", default_value = "60s")]
    pub timeout: Period,
    /// Ask for it, and do not wait
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `scale`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("size").required(true).multiple(true).args(["memory", "replicas", "cpus"]))]
pub struct ScaleArgs {
    /// The instance
    #[arg(value_parser = instance)]
    pub name: String,
    /// Redis' maxmemory, such as 512Mi
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// How many replicas
    #[arg(long, value_name = "NUMBER", value_parser = whole)]
    pub replicas: Option<u32>,
    /// The CPU share of each node, such as 0.5
    #[arg(long, value_name = "CORES")]
    pub cpus: Option<Cpus>,
    /// Check the change and say what would be done, but do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until the instance is ready, and show each step
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_name = "PERIOD", default_value = "5m")]
    pub timeout: Period,
}

/// Arguments of `delete`.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// The instances
    #[arg(value_name = "NAME", required = true, value_parser = instance)]
    pub names: Vec<String>,
    /// Wait until they are gone, and show each step
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_name = "PERIOD", default_value = "5m")]
    pub timeout: Period,
}

/// Arguments of `man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// Where they are written
    pub directory: PathBuf,
}

/// Arguments of `completion`.
#[derive(Args, Debug)]
pub struct CompletionArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}
