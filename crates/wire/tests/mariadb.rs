//! Against a real MariaDB server: our login, and the relay's output for old clients against what the server itself
//! sends to an old client.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use usher_wire::Caps;
use usher_wire::auth::native_scramble;
use usher_wire::frame::{self, write_packet};
use usher_wire::handshake::{ConnectAttributes, Greeting, HandshakeResponse};
use usher_wire::login::{ClientAuth, LoggedIn, Login, LoginStep, Refusal};
use usher_wire::packet::{Change, EofPacket, ErrPacket, TrackSet};
use usher_wire::relay::{ClientForm, End, Kind, Prepared, Progress, Relay};
use usher_wire::rows::{BinaryRow, TextRow};
use usher_wire::status::Status;
use usher_wire::stmt::{Param, ParamType, write_execute};

const OLD: ClientForm =
    ClientForm { deprecate_eof: false, track: TrackSet::NONE, status: Status::AUTOCOMMIT };

/// A server of its own, in a folder of its own; both are gone when it is dropped.
struct Server {
    child: Child,
    folder: PathBuf,
    port: u16,
}

const SETUP: &str = "
    CREATE DATABASE shop;
    CREATE USER app@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('secret');
    GRANT ALL ON *.* TO app@'%';
    CREATE TABLE shop.items (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(40), price DECIMAL(8,2) DEFAULT 1.50);
    INSERT INTO shop.items (name) VALUES ('tea'), (NULL), ('');
";

impl Server {
    fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("usher-wire-{}", std::process::id()));
        let data = folder.join("data");
        fs::create_dir_all(&data).unwrap();
        // A starting MariaDB removes the temporary files of all others that share the folder.
        let install = Command::new("mariadb-install-db")
            .env("TMPDIR", &folder)
            .arg("--no-defaults")
            .arg(format!("--datadir={}", data.display()))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(install.expect("mariadb-install-db is needed for this test").success());
        // An init file takes one statement a line.
        let setup: String = SETUP.trim().lines().map(|line| format!("{}\n", line.trim())).collect();
        fs::write(folder.join("setup.sql"), setup).unwrap();
        let port =
            (20_000..30_000).step_by(7).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let child = Command::new("mariadbd")
            .env("TMPDIR", &folder)
            .arg("--no-defaults")
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", folder.join("socket").display()))
            .arg(format!("--port={port}"))
            .arg(format!("--init-file={}", folder.join("setup.sql").display()))
            .args(["--bind-address=127.0.0.1", "--user=root", "--max-allowed-packet=64M"])
            .args(["--innodb-buffer-pool-size=16M", "--session-track-system-variables=*"])
            .stderr(log)
            .spawn()
            .expect("mariadbd is needed for this test");
        let server = Self { child, folder, port };
        server.wait();
        server
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while Conn::login(self.port, b"secret").is_err() {
            assert!(Instant::now() < until, "{}", fs::read_to_string(self.folder.join("log")).unwrap());
            // Between two tries to connect: there is nothing to wait on.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

struct Conn {
    socket: TcpStream,
    buf: Vec<u8>,
}

/// What came of one command.
#[derive(Default)]
struct Answer {
    sent: Vec<u8>,
    ends: Vec<End>,
    changes: Vec<String>,
    errors: Vec<u16>,
    prepared: Option<Prepared>,
    rows: u64,
}

#[derive(Debug)]
enum NoLogin {
    Socket(#[expect(dead_code)] std::io::Error),
    Refused(Refusal),
}

impl Conn {
    fn open(port: u16) -> std::io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self { socket, buf: Vec::new() })
    }

    /// Reads one packet of the login.
    fn packet(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = frame::frame(&self.buf) {
                let (seq, payload, len) = (frame.seq, frame.payload.to_vec(), frame.wire_len());
                self.buf.drain(..len);
                return Ok((seq, payload));
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> std::io::Result<()> {
        let mut chunk = [0; 4096];
        match self.socket.read(&mut chunk)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.buf.extend_from_slice(&chunk[..n]);
                Ok(())
            }
        }
    }

    fn send(&mut self, mut seq: u8, payload: &[u8]) -> std::io::Result<()> {
        let mut out = Vec::new();
        write_packet(&mut out, &mut seq, |o| o.extend_from_slice(payload));
        self.socket.write_all(&out)
    }

    fn login(port: u16, password: &[u8]) -> Result<(Self, LoggedIn), NoLogin> {
        let mut attributes = Vec::new();
        ConnectAttributes::put(&mut attributes, b"program_name", b"usher-wire");
        let login = Login {
            user: b"app",
            password,
            database: Some(b"shop"),
            attributes: ConnectAttributes::new(&attributes),
            collation: 45,
            options: Caps(0),
            tls: false,
            secure: false,
            trust_key: false,
        };
        let mut conn = Self::open(port).map_err(NoLogin::Socket)?;
        let (mut seq, greeting) = conn.packet().map_err(NoLogin::Socket)?;
        let mut step = ClientAuth::start(&greeting, &login).unwrap();
        loop {
            let machine = match step {
                LoginStep::Send(payload, machine) => {
                    conn.send(seq.wrapping_add(1), &payload).map_err(NoLogin::Socket)?;
                    machine
                }
                LoginStep::Wait(machine) => machine,
                LoginStep::Done(done) => return Ok((conn, done)),
                LoginStep::Refused(refusal) => return Err(NoLogin::Refused(refusal)),
                LoginStep::StartTls(..) => panic!("TLS was not asked for"),
            };
            let (next, payload) = conn.packet().map_err(NoLogin::Socket)?;
            seq = next;
            step = machine.handle(&payload, &login).unwrap();
        }
    }

    /// Logs in as a client without DEPRECATE_EOF and SESSION_TRACK.
    fn login_old(port: u16) -> Self {
        let mut conn = Self::open(port).unwrap();
        let (_, payload) = conn.packet().unwrap();
        let greeting = Greeting::parse(&payload).unwrap();
        let caps = Caps::ask(Caps::CONNECT_WITH_DB).without(Caps::DEPRECATE_EOF | Caps::SESSION_TRACK);
        let mut out = Vec::new();
        HandshakeResponse {
            caps,
            max_packet: 1 << 30,
            collation: 45,
            user: b"app",
            auth: &native_scramble(b"secret", &greeting.salt),
            database: Some(b"shop"),
            plugin: Some(b"mysql_native_password"),
            attributes: ConnectAttributes::default(),
            zstd_level: 0,
        }
        .encode(&mut out);
        conn.send(1, &out).unwrap();
        assert_eq!(conn.packet().unwrap().1[0], 0);
        conn
    }

    fn ask(&mut self, payload: &[u8], kind: Kind, form: ClientForm) -> Answer {
        self.send(0, payload).unwrap();
        let (mut relay, mut answer) = (Relay::new(kind, form), Answer::default());
        loop {
            match relay.advance(&mut self.buf).unwrap() {
                Progress::More => {
                    let ready = relay.ready();
                    answer.sent.extend(self.buf.drain(..ready));
                    relay.sent(ready);
                    self.fill().unwrap();
                    continue;
                }
                Progress::Done => break,
                Progress::Ok(end) => {
                    answer.changes.extend(end.changes(&self.buf).map(|change| describe(&change)));
                    answer.ends.push(end);
                }
                Progress::Err(at) => answer.errors.push(ErrPacket::parse(&self.buf[at]).unwrap().code),
                Progress::Prepared(prepared) => answer.prepared = Some(prepared),
                Progress::LocalInfile(_) => panic!("not asked for"),
            }
            relay.pass(&mut self.buf).unwrap();
        }
        answer.sent.append(&mut self.buf);
        answer.rows = relay.rows();
        answer
    }

    fn query(&mut self, text: &str, form: ClientForm) -> Answer {
        self.ask(&[b"\x03", text.as_bytes()].concat(), Kind::Query, form)
    }
}

fn describe(change: &Change<'_>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match change {
        Change::Variable { name, value } => format!("{}={}", text(name), text(value)),
        Change::Schema(name) => format!("schema={}", text(name)),
        other => format!("{other:?}"),
    }
}

fn payloads(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some(frame) = frame::frame(bytes) {
        found.push(frame.payload);
        bytes = &bytes[frame.wire_len()..];
    }
    found
}

fn ids(mut bytes: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    while let Some(frame) = frame::frame(bytes) {
        found.push(frame.seq);
        bytes = &bytes[frame.wire_len()..];
    }
    found
}

fn statement(command: u8, id: u32, rest: &[u8]) -> Vec<u8> {
    [&[command][..], &id.to_le_bytes(), rest].concat()
}

#[test]
fn a_real_server() {
    let server = Server::start();
    logins(&server);
    let (mut conn, _) = Conn::login(server.port, b"secret").unwrap();
    texts(&mut conn);
    state_changes(&mut conn);
    prepared_statements(&mut conn);
    other_commands(&mut conn);
    old_clients(&server);
}

fn logins(server: &Server) {
    let (_, done) = Conn::login(server.port, b"secret").unwrap();
    assert!(done.caps.has(Caps::SERVER_NEEDED) && done.status.has(Status::AUTOCOMMIT));
    for wrong in [&b"wrong"[..], b""] {
        match Conn::login(server.port, wrong) {
            Err(NoLogin::Refused(refusal)) => assert_eq!(refusal.code, 1045),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
}

fn texts(conn: &mut Conn) {
    let answer = conn.query("SELECT id, name FROM items ORDER BY id", ClientForm::SAME);
    assert_eq!((answer.rows, answer.ends.len()), (3, 1));
    let packets = payloads(&answer.sent);
    let cells: Vec<_> = TextRow::new(packets[4]).map(Result::unwrap).collect();
    assert_eq!(cells, [Some(&b"2"[..]), None]);

    let insert = conn.query("INSERT INTO items (name) VALUES ('a'), ('b')", ClientForm::SAME);
    assert_eq!((insert.ends[0].affected_rows, insert.ends[0].last_insert_id), (2, 4));
    assert!(!insert.ends[0].rows_end);
    conn.query("DELETE FROM items WHERE id > 3", ClientForm::SAME);

    assert_eq!(conn.query("SELEC 1", ClientForm::SAME).errors, [1064]);
    let procedure = "CREATE PROCEDURE two() BEGIN SELECT 1 AS one; SELECT id, name FROM items; END";
    assert_eq!(conn.query(procedure, ClientForm::SAME).ends.len(), 1);
    let call = conn.query("CALL two()", ClientForm::SAME);
    let shape: Vec<_> = call.ends.iter().map(|end| (end.rows_end, end.more_results())).collect();
    assert_eq!(shape, [(true, true), (true, true), (false, false)]);
    let warned = conn.query("SELECT CAST('x' AS INT)", ClientForm::SAME);
    assert_eq!(warned.ends[0].warnings, 1);
}

fn state_changes(conn: &mut Conn) {
    assert!(conn.query("USE mysql", ClientForm::SAME).changes.contains(&"schema=mysql".to_owned()));
    let answer = conn.query("SET autocommit = 0, sql_mode = ''", ClientForm::SAME);
    assert!(answer.changes.contains(&"autocommit=OFF".to_owned()), "{:?}", answer.changes);
    assert!(answer.changes.contains(&"sql_mode=".to_owned()), "{:?}", answer.changes);
    let plain = conn.query("SET autocommit = 1, sql_mode = DEFAULT", OLD);
    assert_eq!(plain.sent[4..], [0, 0, 0, 2, 0, 0, 0]);
    conn.query("USE shop", ClientForm::SAME);
}

fn prepared_statements(conn: &mut Conn) {
    let prepared = conn.ask(
        b"\x16SELECT id, name FROM items WHERE id >= ? AND ? IS NOT NULL",
        Kind::Prepare,
        ClientForm::SAME,
    );
    let head = prepared.prepared.unwrap();
    assert_eq!((head.params, head.columns), (2, 2));
    let mut execute = Vec::new();
    write_execute(&mut execute, &mut 0, head.statement_id, 0, &[Param::Int(2), Param::Bytes(b"x")]);
    let answer = conn.ask(&execute[4..], Kind::Query, ClientForm::SAME);
    assert_eq!(answer.rows, 2);
    let types = [ParamType::new(ParamType::LONG), ParamType::new(ParamType::VAR_STRING)];
    let cells: Vec<_> =
        BinaryRow::new(payloads(&answer.sent)[4], &types).unwrap().map(Result::unwrap).collect();
    assert_eq!(cells, [Param::Int(3), Param::Bytes(b"")]);
    conn.send(0, &statement(0x19, head.statement_id, b"")).unwrap();
}

fn other_commands(conn: &mut Conn) {
    assert_eq!(conn.ask(b"\x0e", Kind::Simple, ClientForm::SAME).ends.len(), 1);
    let statistics = conn.ask(b"\x09", Kind::Statistics, OLD);
    assert!(statistics.sent[4..].starts_with(b"Uptime"));
    assert_eq!(conn.ask(b"\x1b\x00\x00", Kind::Simple, ClientForm::SAME).ends.len(), 1);
    assert_eq!(conn.ask(b"\x04items\0", Kind::FieldList, ClientForm::SAME).rows, 3);
    assert_eq!(conn.ask(b"\x04nothing\0", Kind::FieldList, ClientForm::SAME).errors, [1146]);
    let big = conn.query("SELECT REPEAT('x', 17000000), 1", ClientForm::SAME);
    assert_eq!((big.rows, big.ends.len()), (1, 1));
    assert!(big.sent.len() > 17_000_000);
}

fn difference(made: &[&[u8]], told: &[&[u8]]) -> String {
    let short = |packet: &[u8]| packet.iter().take(80).copied().collect::<Vec<_>>();
    let pair = made.iter().zip(told).find(|(a, b)| a != b);
    format!("{:?}", pair.map(|(a, b)| (short(a), short(b))))
}

/// Before the rows the relay cannot know yet whether the server will have used an index.
fn are_both_eof_before_rows(a: &[u8], b: &[u8]) -> bool {
    let hints = Status::NO_INDEX.with(Status::NO_GOOD_INDEX).with(Status::MORE_RESULTS);
    match (EofPacket::parse(a), EofPacket::parse(b)) {
        // Of a short answer the relay tells all warnings there, a server only those that the rows have not brought.
        (Ok(a), Ok(b)) => a.warnings >= b.warnings && a.status.without(hints) == b.status.without(hints),
        _ => false,
    }
}

/// Asks both connections the same; what the relay makes of the new answer must be the old one, byte for byte.
fn old_clients(server: &Server) {
    // Two fresh connections, so that both number their statements alike.
    let (mut conn, _) = Conn::login(server.port, b"secret").unwrap();
    let mut old = Conn::login_old(server.port);
    let mut status = Status::AUTOCOMMIT;
    let mut same = |payload: &[u8], kind: Kind| {
        let ours = conn.ask(payload, kind, ClientForm { status, ..OLD });
        status = ours.ends.last().map_or(status, |end| end.status.of_session());
        old.send(0, payload).unwrap();
        let mut theirs = vec![0; ours.sent.len()];
        old.socket.read_exact(&mut theirs).unwrap();
        let what = String::from_utf8_lossy(payload);
        let (made, told) = (payloads(&ours.sent), payloads(&theirs));
        let like = made.iter().zip(&told).all(|(a, b)| a == b || are_both_eof_before_rows(a, b));
        assert!(like && made.last() == told.last(), "{what}: {}", difference(&made, &told));
        assert_eq!(ids(&ours.sent), ids(&theirs), "{what}");
        ours
    };
    for text in [
        "SELECT id, name, price FROM items",
        "SELECT * FROM items WHERE id < 0",
        "CALL two()",
        "SELECT CAST('x' AS INT)",
        "SELECT nothing",
        "USE mysql",
        "USE shop",
        "UPDATE items SET price = price + 1 WHERE id = 1",
        "SET sql_mode = 'ANSI'",
        "SELECT REPEAT('x', 17000000), 1",
        "SHOW WARNINGS",
    ] {
        same(&[b"\x03", text.as_bytes()].concat(), Kind::Query);
    }
    same(b"\x04items\0", Kind::FieldList);
    same(b"\x1b\x01\x00", Kind::Simple);
    same(b"\x02shop", Kind::Simple);

    let prepared = same(b"\x16SELECT id, name FROM items WHERE id > ?", Kind::Prepare).prepared.unwrap();
    let id = prepared.statement_id;
    let mut execute = Vec::new();
    write_execute(&mut execute, &mut 0, id, 0, &[Param::Int(0)]);
    assert_eq!(same(&execute[4..], Kind::Query).rows, 3);
    let mut with_cursor = Vec::new();
    write_execute(&mut with_cursor, &mut 0, id, 1, &[Param::Int(0)]);
    let opened = same(&with_cursor[4..], Kind::Cursor);
    assert!(opened.ends[0].status.has(Status::CURSOR_EXISTS));
    assert_eq!(same(&statement(0x1c, id, &2u32.to_le_bytes()), Kind::Fetch).rows, 2);
    let last = same(&statement(0x1c, id, &2u32.to_le_bytes()), Kind::Fetch);
    assert!(last.ends[0].status.has(Status::LAST_ROW_SENT));
    same(&statement(0x1a, id, b""), Kind::Simple);
    same(b"\x16INSERT INTO items (name) VALUES (?)", Kind::Prepare);
    same(b"\x16SELECT 1", Kind::Prepare);
    same(b"\x16COMMIT", Kind::Prepare);
    same(b"\x0e", Kind::Simple);
}
