//! Why a call to etcd failed, and what that says of the call. Pure.

use std::error::Error as _;
use std::time::Duration;

use anyhow::anyhow;

use crate::store::Error;

/// Why a call failed, and where.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) endpoint: String,
    pub(super) cause: Cause,
    pub(super) advice: Option<String>,
    /// There was a connection to send it on.
    pub(super) was_sent: bool,
    /// What became of it at other members.
    pub(super) before: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Cause {
    Silence(Duration),
    Error(etcd_client::Error),
    /// A login, a moment ago.
    Refused(String),
    /// Another cluster's id, and that of ours.
    Foreign {
        id: u64,
        ours: u64,
    },
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cause::Silence(limit) => write!(f, "no answer within {:.1} s", limit.as_secs_f32()),
            Cause::Error(error) => f.write_str(&explain(error)),
            Cause::Refused(why) => f.write_str(why),
            Cause::Foreign { id, ours } => {
                write!(f, "it is of another cluster ({id:x}) than the others that --store names ({ours:x})")
            }
        }
    }
}

/// gRPC codes with which a working member refuses a request: another one would say the same. The
/// other codes mean that the member cannot serve, or that the connection broke. In order: invalid
/// argument, not found, permission denied, resource exhausted, failed precondition, out of range,
/// unauthenticated.
const REFUSALS: [i32; 7] = [3, 5, 7, 8, 9, 11, 16];

/// Whether a member has refused a call. A server that is no etcd answers in HTTP, whose codes the
/// library makes those of gRPC.
pub(super) fn is_answer(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            REFUSALS.contains(&(status.code() as i32)) && !status.message().contains("mapped from HTTP status code")
        }
        etcd_client::Error::LeaseKeepAliveError(_) => true,
        _ => false,
    }
}

impl Failure {
    /// Whether the member is well and has refused the call itself.
    pub(super) fn is_answer(&self) -> bool {
        match &self.cause {
            Cause::Error(error) => is_answer(error),
            Cause::Refused(_) => true,
            Cause::Silence(_) | Cause::Foreign { .. } => false,
        }
    }

    /// Whether no connection could be made: the call was certainly not carried out.
    pub(super) fn never_sent(&self) -> bool {
        use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
        let Cause::Error(etcd_client::Error::GRpcStatus(status)) = &self.cause else {
            return !self.was_sent;
        };
        let Some(innermost) = innermost(status.source()) else { return !self.was_sent };
        let io = innermost.downcast_ref::<std::io::Error>();
        !self.was_sent
            || io.is_some_and(|io| matches!(io.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable))
            || matches!(innermost.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
    }

    /// Whether the revision that was asked for is compacted.
    pub(super) fn is_compacted(&self) -> bool {
        match &self.cause {
            Cause::Error(etcd_client::Error::GRpcStatus(status)) => {
                status.message().contains("required revision has been compacted")
            }
            _ => false,
        }
    }

    /// Whether a keep-alive was answered with: there is no such lease.
    pub(super) fn is_lease_gone(&self) -> bool {
        matches!(self.cause, Cause::Error(etcd_client::Error::LeaseKeepAliveError(_)))
    }

    /// As the store's error; `what` was being done.
    pub(super) fn during(self, what: &str) -> Error {
        Error::Unavailable(anyhow!("{self}").context(what.to_owned()))
    }
}

impl Failure {
    /// What happened at the last member.
    pub(super) fn one(&self) -> String {
        let advice = self.advice.as_ref().map_or(String::new(), |advice| format!(" ({advice})"));
        format!("etcd at {}: {}{advice}", self.endpoint, self.cause)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for before in &self.before {
            write!(f, "{before}; ")?;
        }
        f.write_str(&self.one())
    }
}

/// What went wrong, in one line: the message, and the error that began it all.
pub(super) fn explain(error: &etcd_client::Error) -> String {
    let (told, source) = match error {
        etcd_client::Error::GRpcStatus(status) => (status.message().to_owned(), innermost(status.source())),
        etcd_client::Error::TransportError(error) => (error.to_string(), innermost(error.source())),
        other => (other.to_string(), None),
    };
    match source.map(ToString::to_string) {
        Some(source) if !told.contains(&source) => format!("{told}: {source}"),
        _ => told,
    }
}

/// The error that began it all.
fn innermost<'a>(
    error: Option<&'a (dyn std::error::Error + 'static)>,
) -> Option<&'a (dyn std::error::Error + 'static)> {
    let mut last = error?;
    while let Some(source) = last.source() {
        last = source;
    }
    Some(last)
}
