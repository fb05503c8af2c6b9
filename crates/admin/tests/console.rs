//! The console over real sockets and with the real command-line client. The global master is not there: what the
//! proxy knows by itself must be shown, the rest must fail with the right error.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::Command;
use usher_admin::console::{Console, Desk};
use usher_backend::{Account, BackendMetrics};
use usher_config::{BackendTls, Endpoint, GlobalMaster, Limits};
use usher_directory::{Directory, Global, Metrics};
use usher_session::{Accounts, SessionMetrics, Setup, Shared};
use usher_wire::auth::ServerKey;

const TOKEN: &str = "0123456789abcdef";

struct Bench {
    address: SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

async fn bench(token: &str) -> Bench {
    // A port that was free a moment ago: connections to it are refused.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = GlobalMaster {
        writer_hint: None,
        user: "nobody".into(),
        password: "nothing".into(),
        members: vec![Endpoint { name: "g1".into(), host: "127.0.0.1".into(), port: unused }],
    };
    let limits = Limits { lag_ms_max: 1234, ..Limits::default() };
    let global = Global::new(&config, &BackendTls::default(), &limits);
    let directory = Directory::new(global, &Default::default(), &limits, Metrics::default());
    let setup = Setup {
        limits: limits.clone(),
        accounts: Accounts::default(),
        backend: Account { user: "px1".into(), password: "secret".into(), tls: None, tls_optional: false },
        tls: None,
        compression: Default::default(),
        balancers: Default::default(),
        key: Arc::new(ServerKey::generate(512).unwrap()),
        server_version: "10.11.0".into(),
        address: ("here".to_owned(), 3306),
        proxy_id: "px1".into(),
        token: token.into(),
        metrics: SessionMetrics::default(),
        backend_metrics: BackendMetrics::default(),
    };
    let mut registry = Registry::default();
    let statements = Counter::<u64>::default();
    statements.inc_by(7);
    registry.register("usher_statements", "Statements", statements);
    let desk = Desk {
        shared: Shared::new(setup, Arc::clone(&directory)),
        directory,
        limits,
        registry: Arc::new(registry),
        token: token.into(),
        name: "px1".into(),
    };
    let console = Console::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = console.address().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(console.serve(Arc::new(desk), async { drop(stopped.await) }));
    Bench { address, stop, served }
}

impl Bench {
    async fn client(&self, arguments: &[&str]) -> Output {
        let client = Command::new("mariadb")
            .args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--connect-timeout=10"])
            .arg(format!("--port={}", self.address.port()))
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        tokio::time::timeout(Duration::from_secs(60), client).await.unwrap().unwrap()
    }

    /// The rows of a statement, tabs between columns.
    async fn rows(&self, statement: &str) -> String {
        let output = self.client(&["-uadmin", &format!("-p{TOKEN}"), "-B", "-e", statement]).await;
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The error of a statement or a login.
    async fn error(&self, user: &str, password: &str, statement: &str) -> String {
        let (user, password) = (format!("-u{user}"), format!("-p{password}"));
        let output = self.client(&[&user, &password, "-B", "-e", statement]).await;
        assert!(!output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_client_is_served() {
    let bench = bench(TOKEN).await;
    let help = bench.rows("show help").await;
    assert!(help.starts_with("statement\tshows\nSHOW SHARDS\t"), "{help}");
    assert_eq!(bench.rows("SHOW LIMITS LIKE 'lag%'").await, "limit\tvalue\nlag_ms_max\t1234\n");
    let metrics = bench.rows("SHOW METRICS LIKE 'usher_statements%'").await;
    assert_eq!(metrics, "metric\tvalue\nusher_statements_total\t7\n");
    // Several in one session, each sent by itself; empty sets print nothing.
    let many = "SET NAMES utf8mb4; BEGIN; SHOW SHARDS; SHOW SERVERS; SHOW TABLES; SHOW WARNINGS; COMMIT; SELECT 1 AS one";
    assert_eq!(bench.rows(many).await, "one\n1\n");
    let asked = bench.rows("SELECT DATABASE(), USER(), @@version_comment LIMIT 1").await;
    assert!(asked.ends_with("\nNULL\tadmin@127.0.0.1\tusher admin console\n"), "{asked}");
    // With a default schema and completion, as people start it, and the state command.
    let output =
        bench.client(&["-uadmin", &format!("-p{TOKEN}"), "-B", "-A", "-D", "usher", "-e", "status"]).await;
    let status = String::from_utf8(output.stdout).unwrap();
    assert!(status.contains("Server version:") && status.contains("Questions:"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_to_do() {
    let bench = bench(TOKEN).await;
    let error = bench.error("admin", TOKEN, "DROP TABLE users").await;
    assert!(error.contains("ERROR 1064 (42000)") && error.contains("[USHER-0804]"), "{error}");
    assert!(error.contains("DROP TABLE users") && error.contains("SHOW SHARDS"), "{error}");
    for statement in ["SHOW MOVES", "SHOW PROXIES", "SHOW USER 623", "SHOW SEQUENCES", "SHOW HISTORY"] {
        let error = bench.error("admin", TOKEN, statement).await;
        assert!(error.contains("[USHER-0601]"), "{statement}: {error}");
    }
    let error = bench.error("admin", TOKEN, "SHOW ROUTE FOR USER 623").await;
    assert!(error.contains("[USHER-0601]"), "{error}");
    let error = bench.error("admin", TOKEN, "SET SHARD s1 WRITER 's1b' EPOCH 12").await;
    assert!(error.contains("[USHER-0601]") && error.contains("repeating it is harmless"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_the_token() {
    let bench = bench(TOKEN).await;
    for (user, password) in [("admin", "wrong"), ("root", TOKEN), ("admin", ""), ("", "")] {
        let error = bench.error(user, password, "SHOW SHARDS").await;
        assert!(error.contains("ERROR 1045 (28000)") && error.contains("[USHER-0103]"), "{user}: {error}");
    }
    let open = self::bench("").await;
    for user in ["admin", ""] {
        let error = open.error(user, "", "SHOW SHARDS").await;
        assert!(error.contains("ERROR 1045"), "an empty token is no password: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_bounded_and_disconnected_at_the_end() {
    let bench = bench(TOKEN).await;
    let mut waiting = Vec::new();
    for _ in 0..16 {
        let mut client = TcpStream::connect(bench.address).await.unwrap();
        let mut greeting = [0; 64];
        assert!(client.read(&mut greeting).await.unwrap() > 0);
        waiting.push(client);
    }
    let error = bench.error("admin", TOKEN, "SHOW SHARDS").await;
    assert!(error.contains("1040") && error.contains("[USHER-0101]"), "{error}");
    drop(waiting.pop());
    // Its place is free once the console has seen that it went.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let login = ["-uadmin", &format!("-p{TOKEN}"), "-B", "-e", "SELECT 1"].map(str::to_owned);
    let login: Vec<&str> = login.iter().map(String::as_str).collect();
    while !bench.client(&login).await.status.success() {
        assert!(std::time::Instant::now() < deadline, "no place became free");
    }
    bench.stop.send(()).unwrap();
    bench.served.await.unwrap();
    let mut rest = Vec::new();
    let ended = waiting.first_mut().unwrap().read_to_end(&mut rest);
    let _ = tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the console hangs up");
}
