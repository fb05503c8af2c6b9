//! Compressed connections: what drivers and command line clients send and get, and what a bad client gets.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures_util::StreamExt as _;
use mysql_async::prelude::Queryable;
use mysql_async::{ChangeUserOpts, Conn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use usher_config::Compression;
use usher_integration_tests::raw::{self, error_code};
use usher_integration_tests::{Bed, Login, Output, Proxy, admin, program};
use usher_playground::Server;
use usher_wire::compress::{Algorithm, HEADER_LEN, Header, Press};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_on_mariadb() {
    compressed(Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_on_mysql() {
    compressed(Server::Mysql).await;
}

async fn compressed(kind: Server) {
    let bed = Bed::up_with(&format!("packed-{kind:?}").to_lowercase(), 1, 0, kind, false).await;
    for server in bed.endpoints.servers() {
        let mut conn = admin(server).await;
        conn.query_drop("SET GLOBAL max_allowed_packet = 64 << 20").await.unwrap();
        conn.query_drop("SET GLOBAL local_infile = 1").await.unwrap();
    }
    let change = |config: &mut usher_config::Config| {
        config.users[0].schemas.clear();
        let nobody = usher_config::User { name: "nobody".to_owned(), ..usher_config::User::default() };
        config.users.push(nobody);
    };
    let proxy = bed.proxy(1, change).await;
    let mut conn = packed(&proxy.login()).connect().await.unwrap();
    conn.query_drop("CREATE TABLE parcels (id INT PRIMARY KEY, body LONGTEXT)").await.unwrap();
    small_and_large(&mut conn).await;
    files(&mut conn).await;
    another_user(&proxy, conn).await;
    command_lines(&proxy, kind).await;
    for algorithm in [Algorithm::Zlib, Algorithm::Zstd(3)] {
        bad_frames(&proxy, algorithm).await;
        slow_frames(&proxy, algorithm).await;
    }
    proxy.stop().await;
    let off = |config: &mut usher_config::Config| {
        config.proxy.as_mut().unwrap().compression = Compression::Off;
    };
    let proxy = bed.proxy(1, off).await;
    let shown = command_line(&["mariadb"], &proxy, &["--compress"], "\\s").await.stdout;
    assert!(!shown.contains("Compressed"), "{shown}");
    proxy.stop().await;
}

fn packed(login: &Login) -> Login {
    login.clone().with(|builder| builder.compression(mysql_async::Compression::fast()))
}

async fn small_and_large(conn: &mut Conn) {
    // Over 16 MiB, in more than one packet; half of it can't be made smaller.
    let mut noise = String::new();
    let mut x = 88_172_645_463_325_252_u64;
    while noise.len() < 9 << 20 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        noise.push_str(&format!("{x:x}"));
    }
    let body = noise + &"all the same ".repeat(700_000);
    for id in 0..20 {
        conn.exec_drop("INSERT INTO parcels VALUES (?, ?)", (id, format!("no {id}"))).await.unwrap();
    }
    conn.query_drop(format!("INSERT INTO parcels VALUES (20, '{body}')")).await.unwrap();
    conn.exec_drop("INSERT INTO parcels VALUES (21, ?)", (&body,)).await.unwrap();
    let back: Vec<(i32, String)> = conn.query("SELECT id, body FROM parcels ORDER BY id").await.unwrap();
    assert_eq!((back.len(), back[7].1.as_str()), (22, "no 7"));
    assert!(back[20].1 == body && back[21].1 == body);
    let back: Option<String> = conn.exec_first("SELECT body FROM parcels WHERE id = ?", (21,)).await.unwrap();
    assert!(back.unwrap() == body);
    for _ in 0..300 {
        conn.query_drop("SELECT 1").await.unwrap();
    }
    let several: Option<String> = conn.query_first("SELECT REPEAT('x', 200); SELECT 2").await.unwrap();
    assert_eq!(several.unwrap().len(), 200);
    conn.ping().await.unwrap();
    let error = conn.query_drop("SELECT * FROM nowhere").await.unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

async fn files(conn: &mut Conn) {
    let rows: Vec<_> = (100..4100).map(|id| Bytes::from(format!("{id}\tline {id}\n"))).collect();
    let count = rows.len() as u64;
    conn.set_infile_handler(async move { Ok(futures_util::stream::iter(rows.into_iter().map(Ok)).boxed()) });
    conn.query_drop("LOAD DATA LOCAL INFILE 'lines' INTO TABLE parcels").await.unwrap();
    assert_eq!(conn.affected_rows(), count);
    let line: Option<String> = conn.query_first("SELECT body FROM parcels WHERE id = 4099").await.unwrap();
    assert_eq!(line.as_deref(), Some("line 4099"));
}

async fn another_user(proxy: &Proxy, mut conn: Conn) {
    conn.reset().await.unwrap();
    let other = ChangeUserOpts::new().with_user(Some("nobody".into())).with_pass(None);
    conn.change_user(other.with_db_name(Some("app".into()))).await.unwrap();
    let rows: Option<u64> = conn.query_first("SELECT COUNT(*) FROM parcels").await.unwrap();
    assert!(rows > Some(4000));
    // With a password it is asked for by a packet of its own.
    let state = conn.change_user(ChangeUserOpts::new().with_pass(Some("wrong".into()))).await;
    assert!(state.is_err());
    let mut conn = packed(&proxy.login().tls()).connect().await.unwrap();
    let text: Option<String> = conn.query_first("SELECT REPEAT('tls ', 50000)").await.unwrap();
    assert_eq!(text.unwrap().len(), 200_000);
}

async fn command_line(client: &[&str], proxy: &Proxy, options: &[&str], input: &str) -> Output {
    let port = format!("--port={}", proxy.port());
    let fixed = ["--no-defaults", "--host=127.0.0.1", &port, "--user=nobody", "--protocol=tcp", "app"];
    program(&[client, &fixed[..1], options, &fixed[1..]].concat(), input).await
}

async fn command_lines(proxy: &Proxy, kind: Server) {
    let sql = "\\s\nSELECT id, body FROM parcels WHERE id BETWEEN 100 AND 2000;\nSELECT LENGTH(body) FROM parcels WHERE id = 21;\n";
    let mysql = usher_playground::mysql_client().unwrap_or_default();
    let mysql: Vec<_> = mysql.iter().map(String::as_str).collect();
    let mut clients = vec![(&["mariadb"][..], "--compress", "--force")];
    if kind == Server::Mysql {
        for algorithm in ["--compression-algorithms=zstd", "--compression-algorithms=zlib"] {
            clients.push((&mysql, algorithm, "--commands"));
        }
    }
    for (client, option, more) in clients {
        let said = command_line(client, proxy, &[option, more], sql).await;
        assert!(said.stdout.contains("Compressed"), "{option}: {} {}", said.stdout, said.stderr);
        assert!(said.stdout.contains("line 1999"), "{option}: {}", said.stderr);
        let plain = command_line(client, proxy, &[more], sql).await;
        let rows = |output: &Output| output.stdout.lines().filter(|l| l.contains("line")).count();
        assert_eq!((rows(&said), said.code), (rows(&plain), plain.code));
    }
    if kind == Server::Mysql {
        let wide = ["--compression-algorithms=zstd", "--zstd-compression-level=22"];
        let said = command_line(&mysql, proxy, &wide, "SELECT COUNT(*) FROM parcels").await;
        assert_eq!(said.code, Some(0), "{}", said.stderr);
    }
}

/// A compressed connection of its own.
struct Packed {
    stream: TcpStream,
    press: Press,
    algorithm: Algorithm,
}

impl Packed {
    async fn new(proxy: &Proxy, algorithm: Algorithm) -> Self {
        let flag = if algorithm == Algorithm::Zlib { 1 << 5 } else { 1 << 26 };
        let stream = raw::logged_in_with(proxy.port(), "nobody", flag, &[3]).await;
        Self { stream, press: Press::default(), algorithm }
    }

    fn frame(&mut self, seq: u8, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.press.pack(self.algorithm, seq, plain, &mut out).unwrap();
        out
    }

    /// Sends these bytes; the first packet of the answer, or what was said before the connection ended.
    async fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        // The proxy may have closed before it has taken all.
        let _ = self.stream.write_all(bytes).await;
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head).await.ok()?;
        let header = Header::peek(&head)?;
        assert_ne!(header.seq, 0, "an answer goes on from the question");
        let mut body = vec![0; header.packed];
        self.stream.read_exact(&mut body).await.ok()?;
        let mut plain = Vec::new();
        self.press.unpack(self.algorithm, header, &body, &mut plain).unwrap();
        Some(plain.split_off(4))
    }

    /// It is told this and nothing more.
    async fn refused(&mut self, what: &str, bytes: &[u8], code: u16) {
        let told = self.answer(bytes).await.unwrap_or_else(|| panic!("{what}: told nothing"));
        assert_eq!(error_code(&told), code, "{what}");
        let mut rest = Vec::new();
        let end =
            tokio::time::timeout(std::time::Duration::from_secs(20), self.stream.read_to_end(&mut rest));
        assert!(end.await.is_ok() && rest.is_empty(), "{what}: the connection ends");
    }
}

/// A command as a packet.
fn query(text: &str) -> Vec<u8> {
    let mut packet = u32::try_from(text.len() + 1).unwrap().to_le_bytes().to_vec();
    packet.push(3);
    packet.extend(text.as_bytes());
    packet
}

/// Makes a sound frame a bad one.
type Spoil = fn(&mut Vec<u8>);

async fn bad_frames(proxy: &Proxy, algorithm: Algorithm) {
    let sound = query(&format!("SELECT '{}'", "well ".repeat(40)));
    let cases: [(&str, Spoil, u16); 5] = [
        ("less than said", |frame| frame[4] += 1, 1157),
        ("more than said", |frame| frame[4] -= 1, 1157),
        ("a lie of 16 MiB", |frame| frame[4..7].fill(0xff), 1157),
        ("another sequence id", |frame| frame[3] = 3, 1156),
        ("no stream at all", |frame| frame[HEADER_LEN..].fill(0x55), 1157),
    ];
    for (what, spoil, code) in cases {
        let mut client = Packed::new(proxy, algorithm).await;
        let mut frame = client.frame(0, &sound);
        spoil(&mut frame);
        client.refused(what, &frame, code).await;
    }
    // Second frames go on from the first.
    let mut client = Packed::new(proxy, algorithm).await;
    let (first, again) = (client.frame(0, &sound[..100]), client.frame(0, &sound[100..]));
    client.refused("the first sequence id twice", &[first, again].concat(), 1156).await;
    // A packet of over limits.packet_bytes_max in small frames.
    let mut client = Packed::new(proxy, algorithm).await;
    let mut huge = b"\xff\xff\xff\0\x03".to_vec();
    huge.resize(0xff_ffff + 4, b' ');
    let mut bytes = Vec::new();
    let mut seq = 0;
    for part in 0..5 {
        huge[3] = part;
        for piece in huge.chunks(1 << 20) {
            bytes.extend(client.frame(seq, piece));
            seq = seq.wrapping_add(1);
        }
    }
    client.refused("too much", &bytes, 1153).await;
}

/// A frame byte by byte, several in one piece, one command in many.
async fn slow_frames(proxy: &Proxy, algorithm: Algorithm) {
    let mut client = Packed::new(proxy, algorithm).await;
    let packet = query("SELECT 'a'");
    let frame = client.frame(0, &packet);
    let (last, rest) = frame.split_last().unwrap();
    for byte in rest {
        client.stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer(&[*last]).await.unwrap().first(), Some(&1));
    let mut client = Packed::new(proxy, algorithm).await;
    let mut pieces = Vec::new();
    for (seq, byte) in packet.iter().enumerate() {
        pieces.extend(client.frame(u8::try_from(seq).unwrap(), &[*byte]));
    }
    assert_eq!(client.answer(&pieces).await.unwrap().first(), Some(&1));
    // COM_STMT_CLOSE has no answer: another command comes right behind it.
    let mut client = Packed::new(proxy, algorithm).await;
    let close = client.frame(0, b"\x05\0\0\0\x19\x09\0\0\0");
    let both = [close.clone(), close, client.frame(0, &packet)].concat();
    assert_eq!(client.answer(&both).await.unwrap().first(), Some(&1));
}
