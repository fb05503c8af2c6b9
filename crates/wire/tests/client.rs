//! A real client, the mariadb command line, against a server made of this crate: greeting, every way to log in,
//! commands, result sets.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command as Process, Output};
use std::sync::Arc;
use std::time::Duration;

use usher_wire::Caps;
use usher_wire::auth::{AuthTerms, CACHING_SHA2, NATIVE, Secret, ServerAuth, ServerKey, Step};
use usher_wire::command::Command;
use usher_wire::frame::{message, write_packet};
use usher_wire::handshake::{ClientHello, Greeting, Salt};
use usher_wire::packet::OkPacket;
use usher_wire::result::{Answer, Column, Format, Value};
use usher_wire::sqlerr::{ErrorId, Failure};
use usher_wire::status::Status;

const PASSWORD: &str = "secret";

/// How one client is to be served.
#[derive(Clone)]
struct Rule {
    plugin: &'static [u8],
    secret: Secret,
    key: Option<Arc<ServerKey>>,
    fast: bool,
    offered: Caps,
}

struct Peer {
    socket: TcpStream,
    buf: Vec<u8>,
    seq: u8,
}

impl Peer {
    fn read(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(message) = message(&self.buf, 1 << 20).unwrap() {
                let (len, payload) = (message.wire_len, message.payload.to_vec());
                self.seq = message.next_seq;
                self.buf.drain(..len);
                return Some(payload);
            }
            let mut chunk = [0; 4096];
            let n = self.socket.read(&mut chunk).unwrap();
            if n == 0 {
                return None;
            }
            self.buf.extend_from_slice(&chunk[..n]);
        }
    }

    fn write(&mut self, payload: &[u8]) {
        let mut out = Vec::new();
        write_packet(&mut out, &mut self.seq, |o| o.extend_from_slice(payload));
        self.socket.write_all(&out).unwrap();
    }

    fn answer(&mut self, caps: Caps, fill: impl FnOnce(Answer<'_>)) {
        let mut out = Vec::new();
        fill(Answer::new(&mut out, self.seq, caps));
        self.socket.write_all(&out).unwrap();
    }
}

/// Serves one connection to its end; tells the login's outcome and the statements.
fn serve(listener: &TcpListener, rule: Rule) -> (bool, Vec<String>) {
    let (socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut peer = Peer { socket, buf: Vec::new(), seq: 0 };
    let salt = Salt::random().unwrap();
    let (caps, plugin) = (rule.offered, rule.plugin);
    let mut out = Vec::new();
    Greeting {
        server_version: b"8.0.36-usher",
        thread_id: 5,
        salt,
        caps,
        collation: 45,
        status: Status::AUTOCOMMIT,
        plugin,
    }
    .encode(&mut out);
    peer.write(&out);
    let hello = peer.read().unwrap();
    let ClientHello::Login(hello) = ClientHello::parse(&hello, rule.offered).unwrap() else { panic!() };
    assert_eq!(hello.user, b"app");
    assert!(hello.attributes.value(b"_client_name").is_some());
    let terms = AuthTerms { salt, secure: false, key: rule.key, fast: rule.fast, allow_native: true };
    let mut step = ServerAuth::start(terms, rule.secret, hello.plugin, hello.auth);
    loop {
        match step {
            Step::Send(payload, machine) => {
                peer.write(&payload);
                step = match peer.read() {
                    Some(answer) => machine.handle(&answer),
                    None => return (false, Vec::new()),
                };
            }
            Step::Deny => {
                peer.answer(hello.caps, |mut answer| answer.failure(&ErrorId::AccessDenied.into()));
                return (false, Vec::new());
            }
            Step::Accept(accepted) => {
                if let Some(first) = accepted.first {
                    peer.write(&first);
                }
                peer.answer(hello.caps, |mut answer| answer.ok(&OkPacket::default()));
                return (true, commands(&mut peer, hello.caps));
            }
        }
    }
}

fn commands(peer: &mut Peer, caps: Caps) -> Vec<String> {
    let mut statements = Vec::new();
    while let Some(payload) = peer.read() {
        match Command::parse(&payload, caps).unwrap() {
            Command::Quit => break,
            Command::Query(query) => {
                let text = String::from_utf8(query.text.to_vec()).unwrap();
                reply(peer, caps, &text);
                statements.push(text);
            }
            other => panic!("{other:?}"),
        }
    }
    statements
}

fn reply(peer: &mut Peer, caps: Caps, text: &str) {
    peer.answer(caps, |mut answer| match text {
        "SELECT rows" => {
            let columns = [Column::text("name"), Column::bigint("n"), Column::double("d")];
            let mut rows = answer.rows(Format::Text, &columns, Status::AUTOCOMMIT).unwrap();
            rows.row(&[Value::from("ann"), Value::Int(-1), Value::Double(0.5)]).unwrap();
            rows.row(&[Value::Null, Value::UInt(2), Value::Null]).unwrap();
            rows.end(Status::AUTOCOMMIT, 0);
        }
        "SELECT failure" => answer.failure(&Failure::new(ErrorId::NoKey).field("table", "t")),
        _ => answer.ok(&OkPacket { affected_rows: 3, ..OkPacket::default() }),
    });
}

fn run(rule: Rule, password: &str, statements: &str) -> (bool, Vec<String>, Output) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || serve(&listener, rule));
    let client = Process::new("mariadb")
        .args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--skip-ssl", "--batch", "--user=app"])
        .arg(format!("--port={port}"))
        .arg(format!("--password={password}"))
        .arg(format!("--execute={statements}"))
        .output()
        .expect("the mariadb client is needed for this test");
    let (accepted, seen) = server.join().unwrap();
    (accepted, seen, client)
}

#[test]
fn every_way_to_log_in() {
    let key = Arc::new(ServerKey::generate(2048).unwrap());
    let both = Secret::from_password(PASSWORD.as_bytes());
    let sha2 = Secret::from_hashes(both.sha256_sha256, None);
    let native = Secret::from_hashes(None, both.native);
    let rule = |plugin, secret: &Secret, fast| {
        let (secret, key) = (secret.clone(), Some(key.clone()));
        Rule { plugin, secret, key, fast, offered: Caps::offer(false) }
    };
    for (plugin, secret, fast) in [
        (NATIVE, &both, true),
        (CACHING_SHA2, &both, true),
        (CACHING_SHA2, &both, false),
        (NATIVE, &sha2, true),
        (NATIVE, &sha2, false),
        (CACHING_SHA2, &native, true),
    ] {
        let (accepted, seen, client) = run(rule(plugin, secret, fast), PASSWORD, "DO 1");
        assert!(accepted && client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
        assert_eq!(seen, ["DO 1"]);
        let (accepted, _, client) = run(rule(plugin, secret, fast), "wrong", "DO 1");
        let stderr = String::from_utf8_lossy(&client.stderr);
        assert!(!accepted && stderr.contains("1045 (28000)") && stderr.contains("USHER-0103"), "{stderr}");
    }
}

#[test]
fn result_sets_and_errors() {
    for offered in [Caps::offer(false), Caps::offer(false).without(Caps::DEPRECATE_EOF | Caps::SESSION_TRACK)]
    {
        let secret = Secret::from_password(PASSWORD.as_bytes());
        let rule = Rule { plugin: NATIVE, secret, key: None, fast: true, offered };
        let (_, seen, client) = run(rule, PASSWORD, "SELECT rows; SELECT failure");
        assert_eq!(seen, ["SELECT rows", "SELECT failure"]);
        assert_eq!(String::from_utf8_lossy(&client.stdout), "name\tn\td\nann\t-1\t0.5\nNULL\t2\tNULL\n");
        let stderr = String::from_utf8_lossy(&client.stderr);
        assert!(stderr.contains("ERROR 1235 (42000)") && stderr.contains("[USHER-0303] table=t"), "{stderr}");
    }
}
