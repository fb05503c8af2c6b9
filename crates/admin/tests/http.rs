//! The API over real sockets, with a global master that is not there: what is asked of nobody must work, the rest
//! must fail with the right status.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use usher_admin::{Admin, Sessions, bind};
use usher_config::{BackendTls, Endpoint, GlobalMaster, Http, Limits};
use usher_directory::{Directory, Global, Metrics};
use usher_failover::Flips;
use usher_mover::Mover;
use usher_session::Peers;

const TOKEN: &str = "0123456789abcdef";

struct Api {
    address: SocketAddr,
    serving: Arc<AtomicBool>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

async fn api(token: Option<&str>, metrics_open: bool) -> Api {
    // A port that was free a moment ago: connections to it are refused.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = GlobalMaster {
        writer_hint: None,
        user: "nobody".into(),
        password: "nothing".into(),
        members: vec![Endpoint { name: "g1".into(), host: "127.0.0.1".into(), port: unused }],
    };
    let global = Global::new(&config, &BackendTls::default(), &Limits::default());
    let mut registry = Registry::default();
    let statements = Counter::<u64>::default();
    statements.inc_by(7);
    registry.register("usher_statements", "Statements", statements);
    let serving = Arc::new(AtomicBool::new(true));
    let directory =
        Directory::new(global.clone(), &Default::default(), &Limits::default(), Metrics::default());
    let peers = Arc::new(Peers::new(global.clone(), token.unwrap_or_default(), None, 1_000));
    let admin = Admin {
        sessions: Sessions { own: None, peers },
        mover: Mover::new(directory, Limits::default(), "test"),
        flips: Flips::new(global.clone(), Limits::default()),
        global,
        registry: Arc::new(registry),
        http: Http { token: token.map(str::to_owned), metrics_open },
        serving: {
            let serving = Arc::clone(&serving);
            Arc::new(
                move || if serving.load(Ordering::Relaxed) { Ok(()) } else { Err("stopping".to_owned()) },
            )
        },
        sight: Arc::new(|_| None),
        name: "test".into(),
    };
    let bound = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = bound.address();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(bound.serve(Arc::new(admin), async { drop(stopped.await) }));
    Api { address, serving, _stop: stop }
}

impl Api {
    async fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The server may close before it has read a body that it refuses.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or("0").parse().unwrap();
        (status, body.to_owned())
    }

    async fn call(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}Content-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await
    }
}

fn error_id(body: &str) -> String {
    let json: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("not JSON: {body:?}"));
    assert!(json["error"]["message"].as_str().is_some_and(|text| !text.is_empty()));
    json["error"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn health_and_the_page_need_no_token() {
    let api = api(Some(TOKEN), false).await;
    assert_eq!(api.call("GET", "/healthz", None, "").await, (200, "ok\n".into()));
    api.serving.store(false, Ordering::Relaxed);
    assert_eq!(api.call("GET", "/healthz", None, "").await, (503, "stopping\n".into()));
    let (status, page) = api.call("GET", "/", None, "").await;
    assert_eq!(status, 200);
    assert!(page.contains("sessionStorage") && !page.contains("://"), "nothing is loaded from elsewhere");
}

#[tokio::test]
async fn everything_else_needs_it() {
    let api = api(Some(TOKEN), false).await;
    for (method, path) in [
        ("GET", "/metrics"),
        ("GET", "/v1/topology"),
        ("GET", "/v1/moves"),
        ("POST", "/v1/moves"),
        ("POST", "/v1/shards/s1/writer"),
        ("POST", "/v1/shards/s1/flip"),
        ("GET", "/v1/users/1"),
        ("GET", "/nothing"),
    ] {
        for token in [None, Some(""), Some("0123456789abcdeX"), Some("0123456789abcdef0")] {
            let (status, body) = api.call(method, path, token, "").await;
            assert_eq!(
                (status, error_id(&body).as_str()),
                (401, "unauthorized"),
                "{method} {path} {token:?}"
            );
        }
    }
    assert_eq!(api.call("GET", "/nothing", Some(TOKEN), "").await.0, 404);
    assert_eq!(api.call("DELETE", "/v1/moves", Some(TOKEN), "").await.0, 405);
}

#[tokio::test]
async fn without_a_token_in_the_configuration_calls_are_off() {
    let api = api(None, true).await;
    let (status, body) = api.call("GET", "/v1/topology", Some(""), "").await;
    assert_eq!((status, error_id(&body).as_str()), (403, "api-off"));
    let (status, metrics) = api.call("GET", "/metrics", None, "").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("usher_statements_total 7"), "{metrics}");
}

#[tokio::test]
async fn a_missing_global_master_is_503_and_bad_input_is_400() {
    let api = api(Some(TOKEN), false).await;
    for path in ["/v1/topology", "/v1/moves", "/v1/proxies", "/v1/history", "/v1/users/623"] {
        let (status, body) = api.call("GET", path, Some(TOKEN), "").await;
        assert_eq!((status, error_id(&body).as_str()), (503, "global-unavailable"), "{path}");
    }
    for (path, body) in [
        ("/v1/moves", "{"),
        ("/v1/moves", "{\"user\": 1}"),
        ("/v1/moves", "{\"user\": [1], \"to\": \"s2\"}"),
        ("/v1/moves", "{\"user\": 1, \"to\": \"s2\", \"mode\": \"slow\"}"),
        ("/v1/moves", "{\"user\": 1, \"to\": \"s2\", \"typo\": 1}"),
        ("/v1/moves/x/abort", ""),
        ("/v1/shards/s1/writer", "{\"writer\": \"s1b\"}"),
        ("/v1/shards/s1/flip", "[]"),
    ] {
        let (status, answer) = api.call("POST", path, Some(TOKEN), body).await;
        assert_eq!((status, error_id(&answer).as_str()), (400, "bad-request"), "{path} {body}");
    }
    assert_eq!(api.call("POST", "/v1/moves/1/explode", Some(TOKEN), "").await.0, 404);
    let (status, _) = api.call("POST", "/v1/moves", Some(TOKEN), &"x".repeat(100_000)).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn rubbish_is_answered_or_closed_and_the_next_one_is_served() {
    let api = api(Some(TOKEN), false).await;
    for rubbish in ["\0\u{1}\u{2}\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        let (status, _) = api.raw(rubbish).await;
        assert!(status == 400 || status == 0 || status == 505, "{rubbish:?}: {status}");
    }
    assert_eq!(api.call("GET", "/healthz", None, "").await.0, 200);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let api = api(Some(TOKEN), false).await;
    let error = bind(api.address).await.unwrap_err().to_string();
    assert!(error.contains(&api.address.to_string()) && error.contains("in use"), "{error}");
}
