//! Requests as browsers send them for pages of others: byte by byte. I/O.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Api;

/// The head and the body of the answer to these bytes.
async fn raw(api: &Api, request: &str) -> String {
    let mut stream = TcpStream::connect(api.base.trim_start_matches("http://")).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    stream.read_to_end(&mut told).await.unwrap();
    String::from_utf8(told).unwrap()
}

fn request(method: &str, path: &str, host: &str, more: &[(&str, &str)], body: &str) -> String {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    let more = more.iter().filter(|(_, value)| !value.is_empty());
    let more: Vec<String> = more.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{head}{}{length}\r\n{body}", more.concat())
}

const DOCUMENT: &str = "{apiVersion: redisctl/v1, kind: RedisInstance, metadata: {name: orders}, spec: {memory: 8Mi}}";

#[tokio::test]
async fn what_a_page_of_others_sends_is_refused_whatever_it_is_and_changes_nothing() {
    let api = Api::start().await;
    let own = api.base.trim_start_matches("http://").to_string();
    let hosts =
        [(own.as_str(), true), ("localhost:1", true), ("evil.example", false), ("127.0.0.1.evil.example:80", false)];
    let sites = [("", true), ("none", true), ("same-origin", true), ("same-site", false), ("cross-site", false)];
    let kinds = [
        ("application/yaml", true),
        ("application/json; charset=utf-8", true),
        ("", true),
        ("text/plain", false),
        ("text/plain;application/json", false),
        ("application/x-www-form-urlencoded", false),
        ("multipart/form-data; boundary=x", false),
    ];
    let routes = [
        ("GET", "/v1/instances", ""),
        ("GET", "/metrics", ""),
        ("GET", "/readyz", ""),
        ("POST", "/v1/instances", DOCUMENT),
        ("PUT", "/v1/instances/orders", DOCUMENT),
        ("POST", "/v1/CREATE/orders/10/1/0", "{\"Distribution\": 1}"),
        ("POST", "/v1/CREATE/orders/10/1/0", ""),
        ("POST", "/v1/instances/orders/failover", "{}"),
        ("DELETE", "/v1/instances/orders", ""),
        ("OPTIONS", "/v1/instances", ""),
    ];
    let mut tried = 0;
    for (method, path, body) in routes {
        for (host, host_ok) in hosts {
            let origins = ["", &format!("http://{host}"), "http://evil.example", "null", &format!("http://{host}:9")];
            for (i, origin) in origins.iter().enumerate() {
                for (site, site_ok) in sites {
                    for (kind, kind_ok) in kinds {
                        let more = [("Origin", *origin), ("Sec-Fetch-Site", site), ("Content-Type", kind)];
                        let fits = host_ok && i < 2 && site_ok && (kind_ok || body.is_empty());
                        if fits && method != "GET" {
                            continue; // The other test's.
                        }
                        let told = raw(&api, &request(method, path, host, &more, body)).await;
                        let code: u16 = told[9..12].parse().unwrap();
                        let refused = [403, 415, 421].contains(&code);
                        assert_eq!(refused, !fits, "{method} {path} at {host} {more:?}: {told}");
                        assert!(!told.to_lowercase().contains("access-control-"), "{told}");
                        tried += 1;
                    }
                }
            }
        }
    }
    assert!(tried > 2000, "{tried}");
    assert_eq!(api.store.list("").await.unwrap().items, []);
}

#[tokio::test]
async fn what_people_and_programs_send_is_taken() {
    let api = Api::start().await;
    let own = api.base.trim_start_matches("http://").to_string();
    for (kind, more) in [
        ("application/yaml", &[][..]),
        ("", &[]),
        ("Application/JSON", &[("Origin", format!("http://{own}"))]),
        ("application/x-yaml", &[("Sec-Fetch-Site", "same-origin".to_string())]),
        ("application/merge-patch+json", &[("Sec-Fetch-Site", "none".to_string())]),
    ] {
        let mut headers = vec![("Content-Type", kind)];
        headers.extend(more.iter().map(|(name, value)| (*name, value.as_str())));
        let told = raw(&api, &request("POST", "/v1/instances?dryRun", &own, &headers, DOCUMENT)).await;
        assert!(told.starts_with("HTTP/1.1 200"), "{kind}: {told}");
    }
    let told =
        raw(&api, &request("PUT", "/v1/secrets/orders", &own, &[("Content-Type", "text/plain")], "a-password-of-ours"))
            .await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    assert!(raw(&api, "GET /healthz HTTP/1.0\r\n\r\n").await.contains("200 OK"));
    let foreign = [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site")];
    assert!(raw(&api, &request("GET", "/healthz", "evil.example", &foreign, "")).await.contains("200 OK"));
}

#[tokio::test]
async fn every_answer_tells_browsers_to_keep_nothing_and_to_guess_nothing() {
    let api = Api::start().await;
    for path in ["/v1/instances", "/healthz", "/readyz", "/metrics", "/nowhere", "/openapi.json", "/v1/STATUS"] {
        let told = raw(&api, &request("GET", path, "localhost", &[], "")).await.to_lowercase();
        for line in [
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'",
            "x-frame-options: deny",
        ] {
            assert!(told.contains(line), "{path}: {told}");
        }
    }
}
