//! Sessions of two proxies, seen and ended from either.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use usher_config::{Config, User};
use usher_integration_tests::{Bed, Login, Proxy, code, message, resume, suspend, until, usher};
use usher_playground::Server;

const NOT_OWNER: u16 = 1095;
const UNKNOWN_THREAD: u16 = 1094;
const UNREACHED: u16 = 1429;
const PASSWORD: &str = "secret";

fn users(config: &mut Config) {
    let user = |name: &str, admin| User {
        name: name.to_owned(),
        password: Some(PASSWORD.to_owned()),
        admin,
        ..User::default()
    };
    config.users.extend([user("web", false), user("root", true)]);
}

async fn login(proxy: &Proxy, user: &str) -> Conn {
    proxy.login().user(user, PASSWORD).connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_proxies_are_one_server() {
    on("sessions", Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_proxies_are_one_server_on_mysql() {
    on("sessions-mysql", Server::Mysql).await;
}

async fn on(name: &str, server: Server) {
    let bed = Bed::up_with(name, 1, 0, server, false).await;
    let (one, two) = (bed.proxy(1, users).await, bed.proxy(2, users).await);
    let sleeper = sleep(&one).await;
    let mut app = two.connect().await;
    let mut root = login(&two, "root").await;
    let row = seen(&mut app, sleeper.id).await.unwrap();
    let state: String = row.get("State").unwrap();
    assert!(state.contains("on ") && state.contains(", server ") && state.contains("thread"), "{state}");
    assert_eq!(row.get::<String, _>("User").unwrap(), "app");
    assert_eq!(sleeper.id >> 24, 1, "the first proxy's number");
    accounts_see_their_own(&two, &sleeper).await;
    console_and_http(&two, &sleeper).await;
    kill(&one, &mut app, &mut root, sleeper).await;
    silent_proxy(&one, &two, &mut app).await;
    numbers_are_unique(&bed).await;
    one.stop().await;
    two.stop().await;
}

/// A session at a proxy that runs a long statement.
struct Sleeper {
    id: u32,
    task: tokio::task::JoinHandle<(Result<Option<i64>, mysql_async::Error>, Conn)>,
}

async fn sleep(proxy: &Proxy) -> Sleeper {
    let mut conn = proxy.connect().await;
    let id = conn.id();
    let task = tokio::spawn(async move {
        let slept = conn.query_first("SELECT SLEEP(60)").await;
        (slept, conn)
    });
    Sleeper { id, task }
}

/// The session's row, once its statement runs on a server.
async fn seen(conn: &mut Conn, id: u32) -> Option<Row> {
    let mut found = None;
    until("the session is shown with its statement", async || {
        let rows: Vec<Row> = conn.query("SHOW FULL PROCESSLIST").await.unwrap();
        found = rows.into_iter().find(|row| row.get::<u32, _>("Id") == Some(id));
        found.as_ref().is_some_and(|row| {
            let text = |name| row.get::<Option<String>, _>(name).unwrap().unwrap_or_default();
            text("Info").contains("SLEEP") && text("State").contains("thread")
        })
    })
    .await;
    found
}

async fn accounts_see_their_own(two: &Proxy, sleeper: &Sleeper) {
    let mut web = login(two, "web").await;
    let rows: Vec<Row> = web.query("SHOW PROCESSLIST").await.unwrap();
    assert!(rows.iter().all(|row| row.get::<String, _>("User").unwrap() == "web"), "{rows:?}");
    for what in ["KILL", "KILL QUERY"] {
        assert_eq!(code(&web.query_drop(format!("{what} {}", sleeper.id)).await), NOT_OWNER);
    }
    assert_eq!(code(&web.query_drop("KILL 4294967295").await), UNKNOWN_THREAD);
    assert_eq!(code(&web.query_drop(format!("KILL {}", 0x0100_ffff)).await), UNKNOWN_THREAD);
}

async fn console_and_http(two: &Proxy, sleeper: &Sleeper) {
    let config = usher_config::load(two.config_file()).unwrap();
    let (proxy, token) = (config.proxy.unwrap(), config.http.token.unwrap());
    let port = proxy.admin_listen.unwrap().port();
    let mut console = Login::new(port, "admin", &token).database(None).connect().await.unwrap();
    let rows: Vec<Row> = console.query("SHOW SESSIONS").await.unwrap();
    let of = |id: u32| rows.iter().find(|row| row.get::<Option<u32>, _>("id").unwrap() == Some(id));
    assert_eq!(of(sleeper.id).unwrap().get::<String, _>("proxy").unwrap(), "px1");
    assert!(rows.iter().any(|row| row.get::<String, _>("proxy").unwrap() == "px2"));
    let http = proxy.http_listen.unwrap();
    let mut stream = TcpStream::connect(http).await.unwrap();
    let request = format!(
        "GET /v1/sessions HTTP/1.1\r\nHost: {http}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let list: serde_json::Value = serde_json::from_str(body).unwrap();
    let ids: Vec<_> =
        list["sessions"].as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect();
    assert!(
        ids.contains(&u64::from(sleeper.id)) && list["unreached"].as_array().unwrap().is_empty(),
        "{body}"
    );
}

async fn kill(one: &Proxy, app: &mut Conn, root: &mut Conn, sleeper: Sleeper) {
    app.query_drop(format!("KILL QUERY {}", sleeper.id)).await.unwrap();
    let (slept, mut conn) =
        tokio::time::timeout(Duration::from_secs(20), sleeper.task).await.unwrap().unwrap();
    // SLEEP says 1 where it is interrupted, or its statement fails.
    assert!(!matches!(slept, Ok(Some(0))), "{slept:?}");
    conn.query_drop("SELECT 1").await.unwrap();
    root.query_drop(format!("KILL {}", conn.id())).await.unwrap();
    until("the session has ended", async || conn.query_drop("SELECT 1").await.is_err()).await;
    let other = sleep(one).await;
    seen(app, other.id).await;
    app.query_drop(format!("KILL CONNECTION {}", other.id)).await.unwrap();
    let (slept, _) = tokio::time::timeout(Duration::from_secs(20), other.task).await.unwrap().unwrap();
    assert!(!matches!(slept, Ok(Some(0))), "{slept:?}");
}

/// A proxy that does not answer is named, and nobody waits for it long.
async fn silent_proxy(one: &Proxy, two: &Proxy, app: &mut Conn) {
    let there = one.connect().await;
    suspend(one.pid());
    let began = Instant::now();
    let rows: Vec<Row> = app.query("SHOW PROCESSLIST").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(rows.iter().any(|row| row.get::<u32, _>("Id").unwrap() == app.id()));
    let warnings: Vec<(String, u16, String)> = app.query("SHOW WARNINGS").await.unwrap();
    assert!(
        matches!(&warnings[..], [(level, _, text)] if level == "Warning" && text.contains("px1")),
        "{warnings:?}"
    );
    let killed = app.query_drop(format!("KILL {}", there.id())).await;
    resume(one.pid());
    assert_eq!(code(&killed), UNREACHED);
    assert!(message(&killed).contains("USHER-0806"), "{killed:?}");
    until("it answers again", async || {
        let _: Vec<Row> = app.query("SHOW PROCESSLIST").await.unwrap();
        let warnings: Vec<Row> = app.query("SHOW WARNINGS").await.unwrap();
        warnings.is_empty()
    })
    .await;
    assert!(two.log().contains("proxy"));
}

async fn numbers_are_unique(bed: &Bed) {
    let mut config = bed.config();
    let proxy = config.proxy.as_mut().unwrap();
    (proxy.id, proxy.number, proxy.backend_user) = ("px3".to_owned(), 1, "usher_px3".to_owned());
    proxy.listen.set_port(0);
    (proxy.http_listen, proxy.admin_listen) = (None, None);
    let file = bed.dir().join("twice.toml");
    std::fs::write(&file, toml::to_string_pretty(&config).unwrap()).unwrap();
    let refused = usher(&file, &["proxy"]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("that of proxy px1"), "{refused:?}");
}
