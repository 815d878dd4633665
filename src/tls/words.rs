//! What is wrong with a server's certificate, and what mends it. Pure.

/// The settings by which a server is asked.
pub struct Settings<'a> {
    /// The flag that names whom to trust: `--ca-file`.
    pub authorities: &'a str,
    /// It is given; if not, those are trusted that the system trusts.
    pub given: bool,
    /// The flag that names the server: `--server`.
    pub server: &'a str,
}

/// Why its certificate is not trusted; None: the error is about something else. `error` is what rustls says.
pub fn distrust(error: &str, by: &Settings) -> Option<String> {
    let Settings { authorities, given, server } = by;
    let has = |words: &[&str]| words.iter().any(|word| error.contains(word));
    let why = if has(&["CaUsedAsEndEntity"]) {
        format!(
            "its certificate is an authority's own (`openssl req -x509` alone makes such): make one that the authority \
             signs, as docs/security.md shows, and name the authority's by {authorities}"
        )
    } else if has(&["UnknownIssuer"]) && *given {
        format!("no authority in {authorities} has signed its certificate")
    } else if has(&["UnknownIssuer"]) {
        format!(
            "no authority that the system trusts has signed its certificate: name the authority's certificate by \
             {authorities}"
        )
    } else if has(&["BadSignature"]) {
        format!("its certificate is not signed by the authority in {authorities}, but by one of the same name")
    } else if has(&["not valid for name", "NotValidForName"]) {
        format!("its certificate is for other names or addresses than {server} says")
    } else if has(&["certificate expired", "invalid peer certificate: Expired"]) {
        "its certificate has expired, or a clock is wrong".to_string()
    } else if has(&["not valid yet", "NotValidYet"]) {
        "its certificate is not valid yet, or a clock is wrong".to_string()
    } else {
        return None;
    };
    Some(why)
}
