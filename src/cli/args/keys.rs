//! The grammar of commands about passwords, secrets and tokens. Pure.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::access::Level;
use crate::spec::Period;

/// Arguments of `password`.
#[derive(Args, Debug)]
pub struct PasswordArgs {
    /// What to do
    #[command(subcommand)]
    pub command: PasswordCommand,
}

/// What is done with passwords.
#[derive(Debug, Subcommand)]
pub enum PasswordCommand {
    /// Print the newest password
    Show {
        /// The instance
        #[arg(value_parser = super::instance)]
        name: String,
    },
    /// Make new ones on all nodes; the former ones stay valid for a while, and no client is cut off
    Rotate {
        /// The instance
        #[arg(value_parser = super::instance)]
        name: String,
        /// How long the former ones stay valid; 0s, when one has leaked: all former ones end at once, whatever was
        /// asked for before, and clients are cut
        #[arg(long, value_name = "PERIOD", default_value = "24h")]
        keep_former: Period,
    },
}

/// Arguments of `secret`.
#[derive(Args, Debug)]
pub struct SecretArgs {
    /// What to do
    #[command(subcommand)]
    pub command: SecretCommand,
}

/// What is done with secrets.
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Write one: a password on each line, the newest first; any of them lets clients in
    Set {
        /// Its name
        name: String,
        /// A file with the passwords, or - for the standard input
        #[arg(short, long, value_name = "FILE|-", default_value = "-")]
        file: PathBuf,
    },
    /// Delete one that no instance names any more
    Delete {
        /// Its name
        name: String,
    },
}

/// Arguments of `token`.
#[derive(Args, Debug)]
#[command(
    after_help = "Prints a line for the file of `redisctl operator --auth-tokens` and, on the standard error, the\n\
    token. The file is a list of such lines; a line `tokens:` before them is allowed:\n\n  redisctl token alice --access write --instances 'orders*' >>tokens.yaml"
)]
pub struct TokenArgs {
    /// Whose it is, for events and logs
    pub name: String,
    /// What it allows: to look; to declare, change and switch over; or everything
    #[arg(long, value_name = "LEVEL")]
    pub access: Level,
    /// With which instances: names, in which * and ? stand for any letters
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', default_value = "*")]
    pub instances: Vec<String>,
}

/// Arguments of `framework`.
#[derive(Debug, Args)]
pub struct FrameworkArgs {
    /// What to do; nothing: show it
    #[command(subcommand)]
    pub command: Option<FrameworkCommand>,
}

/// What is done with the framework.
#[derive(Debug, Subcommand)]
pub enum FrameworkCommand {
    /// Begin again under a new id, when Mesos has removed the framework and nothing of it runs. Documents
    /// stay; what becomes of instances that have lost their data is for their `onDataLoss`
    Reset {
        /// The id of the framework that is given up, as `redisctl framework` shows it
        #[arg(long, value_name = "ID")]
        yes: String,
    },
}
