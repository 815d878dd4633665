//! What an error of etcd, of TLS or of gRPC means, and what mends it. Pure.

use crate::tls;

/// What is known of how etcd was asked.
pub(super) struct Asked<'a> {
    /// With TLS.
    pub tls: bool,
    /// `--etcd-ca` is given.
    pub has_ca: bool,
    /// `--etcd-certificate` is given.
    pub has_certificate: bool,
    /// `--etcd-user`.
    pub user: Option<&'a str>,
    /// What our keys begin with.
    pub root: &'a str,
}

/// Says what to do about an error. None: the error says it all, or nobody knows.
pub(super) fn advice(error: &str, asked: &Asked) -> Option<String> {
    // The same condition is told in capitals by the system ("Connection reset by peer"), and not by libraries.
    let lower = error.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| error.contains(word) || lower.contains(word));
    let who = asked.user.map_or("the user of our certificate".to_string(), |user| format!("user {user}"));
    let settings = tls::words::Settings { authorities: "--etcd-ca", given: asked.has_ca, server: "--store" };
    let advice = if let Some(why) = tls::words::distrust(error, &settings) {
        why
    } else if has(&["received fatal alert"]) {
        let ours = if asked.has_certificate {
            "it refuses ours (--etcd-certificate)"
        } else {
            "set --etcd-certificate and --etcd-key"
        };
        format!("it wants a client's certificate of an authority that it trusts: {ours}")
    } else if asked.tls && has(&["InvalidContentType", "tls handshake eof", "HTTP/2 was not negotiated"]) {
        "it does not speak TLS, or is no etcd: etcd:// is without TLS".to_string()
    } else if asked.tls
        && has(&["connection closed", "connection reset", "broken pipe", "closed before message completed"])
    {
        // What TLS 1.3 says of a certificate can get lost when the connection is closed with it.
        let ours = if asked.has_certificate {
            "refuse ours (--etcd-certificate)"
        } else {
            "want one: set --etcd-certificate and --etcd-key"
        };
        format!("it has gone away, or is about certificates: it may {ours}")
    } else if has(&["invalid user ID or password"]) {
        format!("the password in --etcd-password-file is not that of {who}, or there is no such user")
    } else if has(&["user name is empty"]) {
        "it wants to know who asks: set --etcd-user and --etcd-password-file".to_string()
    } else if has(&["etcdserver: permission denied"]) {
        format!("{who} needs a role with `readwrite --prefix {}`", asked.root)
    } else if has(&["invalid auth token"]) {
        "it does not take the login that it has just given: are its clocks and members in order?".to_string()
    } else if has(&["mapped from HTTP status code", "invalid compression flag", "invalid content-type"]) {
        "it is no etcd".to_string()
    } else if !asked.tls
        && has(&[
            "connection reset",
            "broken pipe",
            "unexpected end of file",
            "frame with invalid size",
            "h2 protocol error",
            "http2 error",
        ])
    {
        "it may speak TLS (etcds:// does), or be no etcd".to_string()
    } else {
        return None;
    };
    Some(advice)
}

/// Whether etcd refuses the login of the connection, and a new one may do.
pub(super) fn login_is_void(error: &str, asked: &Asked) -> bool {
    let void = ["invalid auth token", "revision of auth store is old", "user name is empty"];
    asked.user.is_some() && void.iter().any(|word| error.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_ends_is_told_alike_whoever_words_it() {
        let asked = |tls| Asked { tls, has_ca: true, has_certificate: true, user: None, root: "/redisctl" };
        for error in ["Connection reset by peer (os error 104)", "connection reset", "Broken pipe (os error 32)"] {
            let told = advice(error, &asked(true)).expect("it is known");
            assert!(told.contains("ours (--etcd-certificate)"), "{error}: {told}");
            let told = advice(error, &asked(false)).expect("it is known");
            assert!(told.contains("etcds:// does"), "{error}: {told}");
        }
    }
}
