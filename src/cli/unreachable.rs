//! Why an operator could not be asked, in words. Pure.

use super::outcome::{Exit, failure};
use crate::tls::words;

/// What is known of a request that got no answer.
pub struct Unanswered<'a> {
    /// Who was asked: `http://host:port`.
    pub server: &'a str,
    /// A connection stood.
    pub connected: bool,
    /// `--ca-file` is given.
    pub given_ca: bool,
    /// All that the HTTP client says.
    pub causes: &'a str,
}

/// The error that it is.
pub fn unreachable(of: &Unanswered) -> anyhow::Error {
    failure(Exit::Unreachable, told(of))
}

fn told(of: &Unanswered) -> String {
    let Unanswered { server, connected, given_ca, causes } = of;
    let has = |word: &str| causes.contains(word);
    let innermost = causes.rsplit(": ").next().unwrap_or(causes);
    let tls = server.starts_with("https:");
    if has("dns error") {
        return format!("the name in --server {server} cannot be looked up: {innermost}");
    }
    let settings = words::Settings { authorities: "--ca-file", given: *given_ca, server: "--server" };
    if let Some(why) = words::distrust(causes, &settings) {
        return format!("what answers at {server} cannot be trusted: {why}");
    }
    if tls && has("InvalidContentType") {
        return format!("what answers at {server} does not speak TLS: http:// is without");
    }
    if *connected {
        return format!(
            "something takes connections at {server}, and does not answer as an operator: name its API with --server, \
             https:// if it has --tls-certificate ({innermost})"
        );
    }
    format!(
        "no operator answers at {server}: start one with `redisctl local` or `redisctl operator ...`, or name another \
         with --server ({innermost})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_what_can_be_done() {
        for (server, connected, causes, words) in [
            (
                "http://nohost.invalid:5656",
                false,
                "error sending request: dns error: no such host",
                "cannot be looked up",
            ),
            (
                "https://a:1",
                false,
                "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))",
                "docs/security.md",
            ),
            ("https://a:1", false, "invalid peer certificate: UnknownIssuer", "--ca-file"),
            ("https://a:1", false, "certificate not valid for name \"a\"", "other names or addresses"),
            ("https://a:1", false, "received corrupt message of type InvalidContentType", "http:// is without"),
            ("http://a:1", true, "connection closed before message completed", "https:// if it has --tls-certificate"),
            ("http://a:1", false, "Connection refused (os error 111)", "redisctl local"),
        ] {
            let told = told(&Unanswered { server, connected, given_ca: false, causes });
            assert!(told.contains(words) && told.contains(server), "{told}");
        }
    }
}
