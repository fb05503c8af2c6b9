//! Whatever comes in at the door or goes wrong behind it: its own clear error or a clean close, and the proxy serves
//! on, on old connections and new ones.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use usher_integration_tests::raw::{self, error_code, packet, send};
use usher_integration_tests::{Bed, Proxy, admin, code, kill_9, make_tables, message, sign_up, until, usher};

/// Bytes of a packet that the proxy of this test takes.
const PACKET_MAX: usize = 1 << 20;

struct Ground {
    proxy: Proxy,
    old: Conn,
    user: u64,
}

impl Ground {
    /// An old connection and a new one still work, and the process is the same.
    async fn serves_on(&mut self, after: &str) {
        let sql = format!("SELECT name FROM users WHERE user_id = {}", self.user);
        let name: Option<String> = self
            .old
            .query_first(&sql)
            .await
            .unwrap_or_else(|error| panic!("old connection after {after}: {error}"));
        assert_eq!(name.as_deref(), Some("user 0"), "old connection after {after}");
        let mut new = self.proxy.connect().await;
        let name: Option<String> = new.query_first(&sql).await.unwrap();
        assert_eq!(name.as_deref(), Some("user 0"), "new connection after {after}");
        let sql = "UPDATE users SET visits = visits + 1 WHERE user_id = ?";
        new.exec_drop(sql, (self.user,)).await.unwrap_or_else(|error| panic!("write after {after}: {error}"));
        assert!(self.proxy.runs());
    }

    async fn raw(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.proxy.port())).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_bad_spreads() {
    let bed = Bed::up("bad-input", 1, 1).await;
    let small = |config: &mut usher_config::Config| {
        config.limits.packet_bytes_max = PACKET_MAX;
        config.limits.login_ms = 1_500;
        config.limits.prepared_bytes_per_session_max = 1 << 20;
        config.limits.statements_per_session_max = 20;
        config.users.push(usher_config::User {
            name: "nobody".to_owned(),
            schemas: vec!["app".to_owned()],
            ..usher_config::User::default()
        });
    };
    let proxy = bed.proxy(1, small).await;
    let mut old = proxy.connect().await;
    make_tables(&mut old).await;
    let user = sign_up(&bed, &mut old, 2).await.into_values().next().unwrap()[0];
    let mut ground = Ground { proxy, old, user };
    garbage(&mut ground).await;
    half_packets(&mut ground).await;
    nonsense_after_login(&mut ground).await;
    too_big(&mut ground).await;
    within_limits(&bed, user).await;
    refused_logins(&mut ground).await;
    too_much_prepared(&mut ground).await;
    unknown_names(&mut ground).await;
    unroutable(&mut ground).await;
    bad_configuration(&bed, &mut ground).await;
    a_server_dies_in_the_middle_of_rows(&bed, &mut ground).await;
}

/// Reads whatever comes until the other side closes; fails if it does not.
async fn read_to_close(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut bytes)).await;
    // A reset is a close, too.
    let _ = read.expect("the proxy closes");
    bytes
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}

async fn garbage(ground: &mut Ground) {
    for (bytes, id) in [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), "USHER-0203"),
        (vec![0xff; 5000], "USHER-0203"),
        (vec![0; 64], "USHER-0203"),
        ([&[0xff, 0xff, 0xff, 1][..], &[0; 300]].concat(), "USHER-0202"),
        ([&[0x20, 0, 0, 1][..], &[0; 32]].concat(), "USHER-0107"),
        // TLS without being asked.
        (vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc], "USHER-0203"),
        // It reads as a request for TLS, which never comes: then an error could not be read either.
        ([&[0x20, 0, 0, 1][..], &[0xff; 32]].concat(), ""),
    ] {
        let mut stream = ground.raw().await;
        stream.write_all(&bytes).await.unwrap();
        let answer = read_to_close(&mut stream).await;
        assert!(contains(&answer, id.as_bytes()), "{id}: {}", String::from_utf8_lossy(&answer));
        ground.serves_on("garbage").await;
    }
}

async fn half_packets(ground: &mut Ground) {
    for bytes in [&[][..], &[0x50], &[0x50, 0, 0, 1], &[0x50, 0, 0, 1, 0x8d, 0xa6]] {
        let mut stream = ground.raw().await;
        stream.write_all(bytes).await.unwrap();
        drop(stream);
        ground.serves_on("half a packet").await;
    }
    // One that neither goes on nor closes is not waited for longer than for any login.
    let mut stream = ground.raw().await;
    stream.write_all(&[0x50, 0, 0, 1, 0x8d]).await.unwrap();
    let answer = read_to_close(&mut stream).await;
    assert!(contains(&answer, b"USHER-0108"), "{}", String::from_utf8_lossy(&answer));
    ground.serves_on("a login that never ends").await;
}

/// A login as the oldest clients would do it, by an account without a password; the stream behind it.
async fn nonsense_after_login(ground: &mut Ground) {
    let mut stream = raw::logged_in(ground.proxy.port(), "nobody").await;
    for (command, expected) in [
        (&[0x77_u8][..], 1047),
        (&[0x12, 9], 1227),
        (&[0x1e; 30], 1227),
        (&[0x17, 1], 1835),
        (&[0x17; 20], 1243),
    ] {
        send(&mut stream, 0, command).await;
        assert_eq!(error_code(&packet(&mut stream).await), expected, "{command:?}");
    }
    send(&mut stream, 0, &[0x0e]).await;
    assert_eq!(packet(&mut stream).await.first(), Some(&0), "a ping after all that");
    send(&mut stream, 7, &[0x0e]).await;
    assert_eq!(error_code(&packet(&mut stream).await), 1156, "out of order");
    read_to_close(&mut stream).await;
    let mut stream = raw::logged_in(ground.proxy.port(), "nobody").await;
    stream.write_all(&[200, 0, 0, 0, 3, b'S', b'E']).await.unwrap();
    drop(stream);
    ground.serves_on("nonsense after the login").await;
}

async fn too_big(ground: &mut Ground) {
    let mut stream = raw::logged_in(ground.proxy.port(), "nobody").await;
    let mut bytes = vec![0xff, 0xff, 0xff, 0, 3];
    bytes.extend(vec![b'x'; (16 << 20) - 2]);
    bytes.extend([0x00, 0x00, 0x40, 1]);
    bytes.extend(vec![b'x'; 4 << 20]);
    let (mut reading, mut writing) = stream.split();
    let (mut header, mut answer) = ([0; 4], Vec::new());
    let sent = async {
        // The proxy stops reading when it has seen enough.
        let _ = writing.write_all(&bytes).await;
        std::future::pending::<()>().await;
    };
    let read = async {
        reading.read_exact(&mut header).await.unwrap();
        let _ = reading.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(Duration::from_secs(8), async {
        tokio::select! { () = sent => {}, () = read => {} }
    })
    .await
    .expect("the proxy answers and closes");
    assert_eq!(error_code(&answer), 1153, "{}", String::from_utf8_lossy(&answer));
    assert!(String::from_utf8_lossy(&answer).contains("USHER-0202"));
    ground.serves_on("a packet of 20 MB").await;
    let statement = format!("SELECT LENGTH('{}')", "x".repeat(PACKET_MAX - 100));
    let length: Option<usize> = ground.old.query_first(statement).await.unwrap();
    assert_eq!(length, Some(PACKET_MAX - 100), "what is under the limit passes");
}

/// With the usual limit, a statement of two packets; what the servers say to it is theirs.
async fn within_limits(bed: &Bed, user: u64) {
    let proxy = bed.proxy(2, |_| {}).await;
    let mut conn =
        proxy.login().with(|options| options.max_allowed_packet(Some(64 << 20))).connect().await.unwrap();
    let size = 20 << 20;
    let answer = conn.query_first::<usize, _>(format!("SELECT LENGTH('{}')", "x".repeat(size))).await;
    match &answer {
        Ok(length) => assert_eq!(*length, Some(size)),
        Err(_) => assert!(matches!(code(&answer), 1153 | 1158 | 1301), "{}", message(&answer)),
    }
    let mut conn = proxy.connect().await;
    let sql = format!("SELECT name FROM users WHERE user_id = {user}");
    assert!(conn.query_first::<String, _>(sql).await.unwrap().is_some());
    proxy.stop().await;
}

async fn refused_logins(ground: &mut Ground) {
    let login = ground.proxy.login();
    for (user, password) in
        [("app", "wrong"), ("app", ""), ("stranger", "wrong"), ("stranger", ""), ("usher_admin", "x")]
    {
        let login = login.clone().user(user, password);
        for login in [login.clone(), login.tls()] {
            let refused = login.connect().await;
            assert_eq!(code(&refused), 1045, "{user}");
            assert!(message(&refused).contains(&format!("'{user}'")), "{}", message(&refused));
        }
        ground.serves_on("a refused login").await;
    }
    let refused = ground.proxy.login().database(Some("mysql")).connect().await;
    assert_eq!(code(&refused), 1044, "a database that is not the application's");
    ground.serves_on("a refused database").await;
}

async fn unknown_names(ground: &mut Ground) {
    let user = ground.user;
    for (text, expected) in [
        ("SELECT * FROM nowhere".to_owned(), 1146),
        (format!("SELECT nothing FROM users WHERE user_id = {user}"), 1054),
        (format!("INSERT INTO users (user_id, nothing) VALUES ({user}, 1)"), 1054),
        (format!("INSERT INTO users (user_id, name) VALUES ({user}, 'twice')"), 1062),
        ("SELEC 1".to_owned(), 1064),
        ("SELECT name FORM users WHERE user_id = 1".to_owned(), 1064),
        (format!("SELECT name FROM users WHERE user_id = {user} AND"), 1064),
        ("SELECT name FROM users WHERE user_id = ".to_owned(), 1235),
        ("UPDATE users SET visits = 1 WHERE visits = 0".to_owned(), 1235),
        ("".to_owned(), 1065),
        ("USE mysql".to_owned(), 1044),
    ] {
        let refused = ground.old.query_drop(&text).await;
        assert_eq!(code(&refused), expected, "{text}: {}", message(&refused));
        let prepared = ground.old.exec_drop(&text, ()).await;
        if text != "USE mysql" {
            assert_eq!(code(&prepared), expected, "{text}, prepared: {}", message(&prepared));
        }
        ground.serves_on(&text).await;
    }
}

/// What a session may keep prepared is bounded in number and in bytes.
async fn too_much_prepared(ground: &mut Ground) {
    let builder = |opts: mysql_async::OptsBuilder| opts.stmt_cache_size(0);
    let mut conn = ground.proxy.login().with(builder).connect().await.unwrap();
    let long = |n: usize| format!("SELECT {n}, '{}'", "x".repeat(200_000));
    let mut kept = Vec::new();
    let refused = loop {
        match conn.prep(long(kept.len())).await {
            Ok(statement) => kept.push(statement),
            refused => break refused.map(drop),
        }
    };
    assert!((1..6).contains(&kept.len()) && code(&refused) == 1461, "{} {refused:?}", kept.len());
    assert!(message(&refused).contains("prepared_bytes_per_session_max"), "{refused:?}");
    let named = conn.query_drop(format!("PREPARE p FROM '{}'", long(0).replace('\'', "''"))).await;
    assert_eq!(code(&named), 1461);
    // Short ones, until there are too many.
    for n in kept.len()..20 {
        conn.query_drop(format!("PREPARE p{n} FROM 'SELECT {n}'")).await.unwrap();
    }
    assert_eq!(code(&conn.query_drop("PREPARE more FROM 'SELECT 1'").await), 1461);
    conn.query_drop("PREPARE p19 FROM 'SELECT 20'").await.unwrap();
    for statement in kept {
        conn.close(statement).await.unwrap();
    }
    conn.prep(long(0)).await.unwrap();
    conn.disconnect().await.unwrap();
    ground.serves_on("too much prepared").await;
}

/// What cannot be routed, by the id of its error; a hint says only what the statement does not say.
async fn unroutable(ground: &mut Ground) {
    let user = ground.user;
    let (mine, other) = (format!("/* usher: user={user} */ "), "/* usher: user=999999 */ ");
    for (text, id) in [
        ("SELECT COUNT(*) FROM users".to_owned(), "USHER-0303"),
        ("DELETE FROM photos".to_owned(), "USHER-0303"),
        ("/* usher: usr=5 */ SELECT COUNT(*) FROM users".to_owned(), "USHER-0307"),
        ("/* usher: shard=s9 */ SELECT COUNT(*) FROM users".to_owned(), "USHER-0307"),
        (format!("{other}SELECT name FROM users WHERE user_id = {user}"), "USHER-0307"),
        (format!("{mine}UPDATE users SET user_id = visits WHERE user_id = {user}"), "USHER-0301"),
        (format!("{mine}SELECT name FROM users JOIN words WHERE user_id = {user}"), "USHER-0301"),
        (format!("{other}SELECT p.title FROM users u, photos p WHERE u.user_id = {user}"), "USHER-0301"),
    ] {
        let refused = ground.old.query_drop(&text).await;
        assert_eq!(code(&refused), 1235, "{text}");
        assert!(message(&refused).contains(id), "{text}: {}", message(&refused));
        assert!(message(&refused).contains("not executed"), "{text}: {}", message(&refused));
    }
    let names: Vec<String> = ground.old.query(format!("{mine}SELECT name FROM users")).await.unwrap();
    assert!(names.contains(&"user 0".to_owned()), "{names:?}");
    ground.serves_on("what cannot be routed").await;
}

async fn bad_configuration(bed: &Bed, ground: &mut Ground) {
    let good = std::fs::read_to_string(ground.proxy.config_file()).unwrap();
    let bad = bed.dir().join("typo.toml");
    let line = good.lines().position(|line| line == "[proxy]").unwrap() + 2;
    std::fs::write(&bad, good.replace("[proxy]\n", "[proxy]\nlissten = \"127.0.0.1:1\"\n")).unwrap();
    let output = usher(&bad, &["proxy"]).await;
    assert!(matches!(output.code, Some(1 | 2)), "{output:?}");
    for part in ["typo.toml", "lissten", &format!("line {line}")] {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
    let output = usher(&bed.dir().join("absent.toml"), &["proxy"]).await;
    assert!(matches!(output.code, Some(1 | 2)) && output.stderr.contains("absent.toml"), "{output:?}");
    for (what, taken) in
        [("listen for clients", 0), ("listen for HTTP", 1), ("listen for the admin console", 2)]
    {
        let mut config = usher_config::load(ground.proxy.config_file()).unwrap();
        let proxy = config.proxy.as_mut().unwrap();
        let all = [proxy.listen, proxy.http_listen.unwrap(), proxy.admin_listen.unwrap()];
        let keep = |at: usize| if at == taken { all[at] } else { "127.0.0.1:0".parse().unwrap() };
        (proxy.listen, proxy.http_listen, proxy.admin_listen) = (keep(0), Some(keep(1)), Some(keep(2)));
        let file = bed.dir().join("taken.toml");
        std::fs::write(&file, toml::to_string_pretty(&config).unwrap()).unwrap();
        let output = usher(&file, &["proxy"]).await;
        assert_eq!(output.code, Some(1), "{output:?}");
        for part in [what, &all[taken].to_string(), "in use"] {
            assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
        }
    }
    ground.serves_on("a second process with the same port").await;
}

async fn a_server_dies_in_the_middle_of_rows(bed: &Bed, ground: &mut Ground) {
    let user = ground.user;
    for _ in 0..4 {
        let row = format!("({user}, '{}')", "x".repeat(180));
        let rows = vec![row; 250].join(", ");
        ground.old.query_drop(format!("INSERT INTO photos (user_id, title) VALUES {rows}")).await.unwrap();
    }
    // A million rows, far more than all buffers on the way hold.
    let sql = format!(
        "SELECT /*mark-endless*/ p.title, q.photo_id FROM photos p JOIN photos q ON q.user_id = p.user_id \
         WHERE p.user_id = {user}"
    );
    until("reads of the user leave the writer", || async {
        let mut conn = ground.proxy.connect().await;
        let rows: Vec<(String, String)> =
            conn.query(format!("EXPLAIN ROUTE SELECT name FROM users WHERE user_id = {user}")).await.unwrap();
        rows.iter().any(|(what, value)| {
            what == "server" && !value.starts_with(&format!("{} ", bed.shard("s1").writer))
        })
    })
    .await;
    let mut conn = ground.proxy.connect().await;
    let mut result = conn.query_iter(&sql).await.unwrap();
    for _ in 0..10 {
        assert!(result.next().await.unwrap().is_some());
    }
    let server = streaming_server(bed).await;
    assert_ne!(server, bed.shard("s1").writer);
    kill_9(bed.pid(&server)).await;
    let mut rows = 10;
    let end = loop {
        match result.next().await {
            Ok(Some(_)) => rows += 1,
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    let end = end.unwrap_or_else(|| panic!("{rows} of 1000000 rows, and no error"));
    eprintln!("  after {rows} rows: {end}");
    assert!(rows < 1_000_000);
    drop(result);
    if let mysql_async::Error::Server(error) = &end {
        assert_eq!(error.code, 1159, "{error}");
        assert!(error.message.contains("USHER-0507") && error.message.contains(&server), "{error}");
        let sql = format!("SELECT COUNT(*) FROM photos WHERE user_id = {user}");
        assert_eq!(conn.query_first::<i64, _>(sql).await.unwrap(), Some(1000), "the session goes on");
    }
    ground.serves_on("the end of a server").await;
}

/// The server that sends the endless rows.
async fn streaming_server(bed: &Bed) -> String {
    let sql = "SELECT COUNT(*) FROM information_schema.processlist \
               WHERE info LIKE '%mark-endless%' AND info NOT LIKE '%processlist%'";
    for server in bed.endpoints.servers() {
        if admin(server).await.query_first::<i64, _>(sql).await.unwrap() > Some(0) {
            return server.name.clone();
        }
    }
    panic!("no server sends the rows")
}
