//! What a page of somebody else, open in a browser that reaches us, may not do. I/O (HTTP types).
//!
//! A page may send requests wherever its browser reaches, but cannot hide where it comes from: a browser says
//! so by `Origin` (with all but simple reads) and `Sec-Fetch-Site` (to HTTPS and loopback), and names the host
//! that the page asked for. A page whose own name was pointed at us ("DNS rebinding") is of our origin for its
//! browser, but asks for that name. And without asking us first, which we never allow, it sends no body but
//! text and forms. Other clients send none of these headers, and addresses or names that we know as the host.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::Response;

use super::problem::Problem;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Says nothing that anybody would ask for.
const HARMLESS: &str = "/healthz";
/// Bodies here are no documents. A page cannot send them: PUT is asked for first.
const PLAIN_BODIES: &str = "/v1/secrets/";

/// Why a request is not done, whoever asks. `hosts`: the names that we have; none where tokens are needed, for
/// a page has none.
pub(super) fn refusal(request: &Request, hosts: Option<&[String]>) -> Option<Problem> {
    if request.uri().path() == HARMLESS {
        return None;
    }
    let headers = request.headers();
    let wrong_host = hosts.and_then(|hosts| wrong_host(request, hosts));
    wrong_host.or_else(|| foreign_page(headers)).or_else(|| wrong_body(request))
}

/// A name that is not ours: the one who asks was led here. An address is no name, and nobody else's.
fn wrong_host(request: &Request, hosts: &[String]) -> Option<Problem> {
    let named = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let named = named.chain(request.uri().authority().map(axum::http::uri::Authority::as_str));
    let unknown = named.into_iter().find(|host| !is_ours(host, hosts))?;
    let detail = format!(
        "Host {unknown:?}: without tokens, allowed are IP addresses, localhost, and the names of --advertise and \
         --allowed-hosts"
    );
    Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail))
}

fn is_ours(host: &str, hosts: &[String]) -> bool {
    let name = name_of(host).to_ascii_lowercase();
    name == "localhost" || name.parse::<IpAddr>().is_ok() || hosts.contains(&name)
}

/// The host without its port and brackets; what is no host stays as it is, and is nobody's name.
fn name_of(host: &str) -> &str {
    let host = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or_else(|| host.strip_suffix('.').unwrap_or(host))
}

/// A page of another origin.
fn foreign_page(headers: &HeaderMap) -> Option<Problem> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let of_ours = |origin: &HeaderValue| {
        let authority = origin.to_str().ok().and_then(|text| text.split_once("://")).map(|(_, authority)| authority);
        authority.is_some() && authority.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
    };
    let refuse = |header: &HeaderName, value: &HeaderValue| {
        let detail = format!("{header} {value:?}: pages of other origins may ask for nothing here");
        Problem::new(StatusCode::FORBIDDEN, detail)
    };
    if let Some(origin) = headers.get_all(header::ORIGIN).iter().find(|origin| !of_ours(origin)) {
        return Some(refuse(&header::ORIGIN, origin));
    }
    let near = |site: &HeaderValue| site == "same-origin" || site == "none";
    let site = headers.get_all(SEC_FETCH_SITE).iter().find(|site| !near(site))?;
    Some(refuse(&SEC_FETCH_SITE, site))
}

/// A body of a kind that a page can send without asking first.
fn wrong_body(request: &Request) -> Option<Problem> {
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH);
    let empty = length.is_none_or(|length| length == "0") && !headers.contains_key(header::TRANSFER_ENCODING);
    if empty || matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let plain = request.uri().path().starts_with(PLAIN_BODIES);
    let kind = headers.get_all(header::CONTENT_TYPE).iter().find(|kind| !is_allowed(kind, plain))?;
    let also = if plain { ", text/plain" } else { "" };
    let detail = format!("Content-Type {kind:?}: allowed are application/yaml, application/json{also}");
    Some(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

fn is_allowed(kind: &HeaderValue, plain: bool) -> bool {
    let Ok(text) = kind.to_str() else { return false };
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" | "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => true,
        "text/plain" | "application/octet-stream" => plain,
        other => other.starts_with("application/") && (other.ends_with("+json") || other.ends_with("+yaml")),
    }
}

/// What answers tell a browser: to take nothing for what it is not, to keep nothing, and to show it nowhere.
pub(super) fn guard(response: &mut Response) {
    const GUARDS: [(HeaderName, &str); 6] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in GUARDS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use proptest::prelude::*;

    use super::*;

    fn code(method: &Method, path: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let names = ["op-1.example".to_string()];
        refusal(&request.body(Body::empty()).unwrap(), Some(&names)).map(|problem| problem.status)
    }

    #[test]
    fn hosts_are_addresses_loopback_and_what_is_allowed() {
        for (host, ours) in [
            ("127.0.0.1:5656", true),
            ("127.0.0.1", true),
            ("[::1]:5656", true),
            ("[::1]", true),
            ("10.0.0.1:80", true),
            ("localhost:5656", true),
            ("LOCALHOST", true),
            ("localhost.", true),
            ("op-1.example:5656", true),
            ("OP-1.EXAMPLE.:5656", true),
            ("evil.example", false),
            ("evil.example:5656", false),
            ("op-1.example.evil", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:5656", false),
            ("evil.localhost", false),
            ("user@localhost", false),
            ("localhost:5656:5656", false),
            ("", false),
            (":5656", false),
        ] {
            let expected = if ours { None } else { Some(421) };
            assert_eq!(code(&Method::GET, "/v1/instances", &[("host", host)]), expected, "{host:?}");
            assert_eq!(code(&Method::GET, "/healthz", &[("host", host)]), None);
        }
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(code(&Method::GET, "/metrics", &two), Some(421));
        assert_eq!(code(&Method::GET, "http://evil.example/metrics", &[("host", "localhost")]), Some(421));
    }

    proptest! {
        /// Whatever stands there: a name is ours only if it is one of ours, letter by letter.
        #[test]
        fn no_other_name_is_taken_for_ours(host in "[a-z0-9.:@\\[\\]-]{0,24}") {
            let name = name_of(&host).to_string();
            let known = name == "localhost" || name == "op-1.example" || name.parse::<IpAddr>().is_ok();
            prop_assert_eq!(is_ours(&host, &["op-1.example".to_string()]), known);
        }
    }
}
