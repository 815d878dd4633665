//! Why an operator could not be asked, in words. Pure.

use super::outcome::{Exit, failure};

/// What is known of a request that got no answer.
pub struct Unanswered<'a> {
    /// Who was asked: `http://host:port`.
    pub server: &'a str,
    /// A connection stood.
    pub connected: bool,
    /// All that the HTTP client says.
    pub causes: &'a str,
}

/// The error that it is.
pub fn unreachable(of: &Unanswered) -> anyhow::Error {
    failure(Exit::Unreachable, told(of))
}

fn told(of: &Unanswered) -> String {
    let Unanswered { server, connected, causes } = of;
    let has = |word: &str| causes.contains(word);
    let innermost = causes.rsplit(": ").next().unwrap_or(causes);
    let tls = server.starts_with("https:");
    if has("dns error") {
        return format!("the name in --server {server} cannot be looked up: {innermost}");
    }
    if let Some(why) = certificate(causes) {
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

/// What is wrong with a certificate, and what mends it.
fn certificate(causes: &str) -> Option<&'static str> {
    const WORDS: [(&str, &str); 6] = [
        (
            "CaUsedAsEndEntity",
            "its certificate is an authority's own (`openssl req -x509` alone makes such): make one that the authority \
             signs, as docs/security.md shows, and name the authority's by --ca-file",
        ),
        (
            "UnknownIssuer",
            "no authority that is trusted has signed its certificate: name the authority's certificate by --ca-file",
        ),
        ("BadSignature", "its certificate is not signed by the authority in --ca-file, but by one of the same name"),
        ("not valid for name", "its certificate is for other names or addresses than --server says"),
        ("certificate expired", "its certificate has expired, or a clock is wrong"),
        ("not valid yet", "its certificate is not valid yet, or a clock is wrong"),
    ];
    WORDS.iter().find(|(word, _)| causes.contains(word)).map(|(_, words)| *words)
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
            let told = told(&Unanswered { server, connected, causes });
            assert!(told.contains(words) && told.contains(server), "{told}");
        }
    }
}
