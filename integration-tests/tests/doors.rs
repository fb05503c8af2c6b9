//! How clients come in: load balancers that speak for them, limits for each address, certificates that are renewed.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Conn, Row, SslOpts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use usher_config::{Config, Network, Require, User};
use usher_integration_tests::raw::{error_code, log_in, logged_in, packet, send};
use usher_integration_tests::{Bed, Proxy, code, hang_up, message, program, until};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn nobody(config: &mut Config) {
    config.users[0].schemas.clear();
    let admin = User { name: "boss".to_owned(), admin: true, ..User::default() };
    config.users.extend([User { name: "nobody".to_owned(), ..User::default() }, admin]);
}

fn believe(config: &mut Config, network: &str, required: bool) {
    let proxy = config.proxy.as_mut().unwrap();
    proxy.proxy_protocol_networks = vec![network.parse::<Network>().unwrap()];
    proxy.proxy_protocol_required = required;
}

/// `PROXY TCP4` from this address.
fn line(from: &str) -> Vec<u8> {
    format!("PROXY TCP4 {from} 127.0.0.1 4711 3306\r\n").into_bytes()
}

async fn dial(port: u16, header: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(header).await.unwrap();
    stream
}

async fn query(stream: &mut TcpStream, text: &str) {
    send(stream, 0, format!("\x03{text}").as_bytes()).await;
    assert_ne!(packet(stream).await[0], 0xff);
}

/// Where the proxy says that its sessions come from.
async fn hosts(conn: &mut Conn) -> Vec<String> {
    let rows: Vec<Row> = conn.query("SHOW PROCESSLIST").await.unwrap();
    rows.iter().map(|row| row.get(2).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn balancers_speak_for_clients() {
    let bed = Bed::up("balancers", 1, 0).await;
    let proxy = bed
        .proxy(1, |config| {
            nobody(config);
            believe(config, "127.0.0.0/8", false);
        })
        .await;
    let mut boss = proxy.login().user("boss", "").connect().await.unwrap();
    let inet = [&[198, 51, 100, 7, 127, 0, 0, 1][..], &[0x12, 0x34, 0, 1], &[4, 0, 2, 1, 1]].concat();
    let v2 = [V2, &[0x21, 0x11, 0, 17], &inet].concat();
    let local = [V2, &[0x20, 0, 0, 0]].concat();
    for (header, shown) in [
        (line("203.0.113.9"), "203.0.113.9:4711"),
        (b"PROXY TCP6 2001:db8::9 ::1 4711 3306\r\n".to_vec(), "[2001:db8::9]:4711"),
        (v2, "198.51.100.7:4660"),
        (local, "127.0.0.1:"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1:"),
    ] {
        let mut client = dial(proxy.port(), &header).await;
        log_in(&mut client, "nobody", 0, &[]).await;
        query(&mut client, "DO 1").await;
        let hosts = hosts(&mut boss).await;
        assert!(hosts.iter().any(|host| host.starts_with(shown)), "{shown}: {hosts:?}");
        drop(client);
    }
    // The client's own address is in its errors, and what is no header ends the connection.
    for (header, expected) in [
        (line("203.0.113.9"), 1045),
        (b"PROXY TCP4 nonsense\r\n".to_vec(), 1835),
        (b"\r\n\r\nGET".to_vec(), 1835),
    ] {
        let mut client = dial(proxy.port(), &header).await;
        packet(&mut client).await;
        if expected == 1045 {
            wrong_login(&mut client).await;
        }
        let told = packet(&mut client).await;
        assert_eq!(error_code(&told), expected);
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(expected != 1045 || told.contains("'stranger'@'203.0.113.9'"), "{told}");
        assert_eq!(client.read(&mut [0; 9]).await.unwrap_or(0), 0);
    }
    let port = admin_port(&bed);
    let mut console = dial(port, &line("203.0.113.9")).await;
    packet(&mut console).await;
    wrong_login(&mut console).await;
    let told = String::from_utf8_lossy(&packet(&mut console).await).into_owned();
    assert!(told.contains("console from 203.0.113.9"), "{told}");
    proxy.stop().await;
    only_with_a_header(&bed).await;
    not_from_anybody(&bed).await;
}

fn admin_port(bed: &Bed) -> u16 {
    let config = usher_config::load(&bed.dir().join("px1.toml")).unwrap();
    config.proxy.unwrap().admin_listen.unwrap().port()
}

/// A handshake response with a password that fits nobody.
async fn wrong_login(client: &mut TcpStream) {
    let mut hello = 0x0008_8201_u32.to_le_bytes().to_vec();
    hello.extend((16_u32 << 20).to_le_bytes());
    hello.push(45);
    hello.extend([0; 23]);
    hello.extend(b"stranger\0\x20");
    hello.extend([7; 32]);
    hello.extend(b"caching_sha2_password\0");
    send(client, 1, &hello).await;
}

async fn only_with_a_header(bed: &Bed) {
    let proxy = bed
        .proxy(1, |config| {
            nobody(config);
            config.limits.login_ms = 1_000;
            believe(config, "127.0.0.2", true);
        })
        .await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut client = socket.connect(([127, 0, 0, 1], proxy.port()).into()).await.unwrap();
    client.write_all(&line("203.0.113.9")).await.unwrap();
    log_in(&mut client, "nobody", 0, &[]).await;
    query(&mut client, "DO 1").await;
    // Not a word before the header, and none instead of it.
    for (said, expected) in [(&b""[..], 1159), (b"\x20\0\0\x01\x85\xa6", 1835)] {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut client = socket.connect(([127, 0, 0, 1], proxy.port()).into()).await.unwrap();
        client.write_all(said).await.unwrap();
        assert_eq!(error_code(&packet(&mut client).await), expected);
    }
    proxy.stop().await;
}

async fn not_from_anybody(bed: &Bed) {
    let proxy = bed
        .proxy(1, |config| {
            nobody(config);
            believe(config, "10.0.0.0/8", false);
        })
        .await;
    let mut client = dial(proxy.port(), &line("203.0.113.9")).await;
    packet(&mut client).await;
    assert_eq!(error_code(&packet(&mut client).await), 1156);
    proxy.connect().await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_limits() {
    let bed = Bed::up("addresses", 1, 0).await;
    let proxy = bed
        .proxy(1, |config| {
            nobody(config);
            believe(config, "127.0.0.1", false);
            config.limits.clients_per_source_max = 3;
            config.limits.logins_max = 5;
            config.limits.login_failures_free = 1;
            config.limits.login_failure_delay_ms = 3_200;
            config.limits.login_failures_delayed_max = 1;
        })
        .await;
    let come = async |from: &str| {
        let mut client = dial(proxy.port(), &line(from)).await;
        log_in(&mut client, "nobody", 0, &[]).await;
        client
    };
    // So many at once.
    let mut three = Vec::new();
    for _ in 0..3 {
        three.push(come("203.0.113.1").await);
    }
    assert_eq!(refusal(&proxy, "203.0.113.1").await, 1040);
    come("203.0.113.2").await;
    drop(three.pop());
    until("the place is free", async || {
        let mut client = dial(proxy.port(), &line("203.0.113.1")).await;
        packet(&mut client).await;
        wrong_user(&mut client).await == 1045
    })
    .await;
    // Ever slower answers to wrong passwords.
    let mut waited = Duration::ZERO;
    let failing = |from: &'static str| {
        let port = proxy.port();
        async move {
            let mut client = dial(port, &line(from)).await;
            packet(&mut client).await;
            let start = Instant::now();
            wrong_login(&mut client).await;
            assert_eq!(error_code(&packet(&mut client).await), 1045);
            start.elapsed()
        }
    };
    for _ in 0..7 {
        waited = failing("203.0.113.3").await;
    }
    assert!(waited >= Duration::from_millis(1_600), "{waited:?}");
    let slow = tokio::spawn(failing("203.0.113.3"));
    until("an answer is put off", async || refusal(&proxy, "203.0.113.3").await == 1129).await;
    come("203.0.113.2").await;
    assert!(slow.await.unwrap() >= Duration::from_millis(3_200));
    come("203.0.113.3").await;
    // Callers that say nothing take a place for a while.
    let mut silent = Vec::new();
    let full = async || {
        silent.push(dial(proxy.port(), b"").await);
        packet(silent.last_mut().unwrap()).await.first() == Some(&0xff)
    };
    until("all places for logins are taken", full).await;
    drop(silent);
    proxy.stop().await;
}

async fn wrong_user(client: &mut TcpStream) -> u16 {
    wrong_login(client).await;
    error_code(&packet(client).await)
}

/// The error that a client from there gets before it has said anything of itself.
async fn refusal(proxy: &Proxy, from: &str) -> u16 {
    let mut client = dial(proxy.port(), &line(from)).await;
    packet(&mut client).await;
    let waiting = tokio::time::timeout(Duration::from_millis(300), packet(&mut client)).await;
    waiting.map_or(0, |told| error_code(&told))
}

/// An authority and a certificate of it, made by openssl.
async fn certificate(dir: &Path, name: &str) -> (PathBuf, PathBuf, PathBuf) {
    let path = |what: &str| dir.join(format!("{name}-{what}.pem"));
    let (ca, ca_key, cert, key) = (path("ca"), path("ca-key"), path("cert"), path("key"));
    let new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let ours = |cn: &str, out: &Path, key: &Path| {
        let own =
            ["-days", "2", "-subj", cn, "-out", out.to_str().unwrap(), "-keyout", key.to_str().unwrap()];
        own.map(str::to_owned).to_vec()
    };
    let run = async |arguments: Vec<String>| {
        let all: Vec<_> = new.iter().copied().chain(arguments.iter().map(String::as_str)).collect();
        let output = program(&all, "").await;
        assert_eq!(output.code, Some(0), "{}", output.stderr);
    };
    run(ours(&format!("/CN={name}-authority"), &ca, &ca_key)).await;
    let mut signed = ours(&format!("/CN={name}"), &cert, &key);
    let by = ["-CA", ca.to_str().unwrap(), "-CAkey", ca_key.to_str().unwrap()];
    signed.extend(by.map(str::to_owned));
    signed.extend(["-addext", "basicConstraints=critical,CA:FALSE"].map(str::to_owned));
    run(signed).await;
    (ca, cert, key)
}

/// What openssl says of a handshake with the proxy; `-ign_eof` would wait for the proxy to close.
async fn handshake(proxy: &Proxy, options: &[&str]) -> String {
    let address = format!("127.0.0.1:{}", proxy.port());
    let fixed = ["openssl", "s_client", "-starttls", "mysql", "-connect", &address];
    program(&[&fixed[..], options].concat(), "").await.stdout
}

async fn metric(bed: &Bed, name: &str) -> u64 {
    let config = usher_config::load(&bed.dir().join("px1.toml")).unwrap();
    let address = config.proxy.unwrap().http_listen.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let row = text.lines().find_map(|row| row.strip_prefix(name)?.strip_prefix(' '));
    row.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_and_asked_for() {
    let bed = Bed::up("certificates", 1, 0).await;
    let (_, first_cert, first_key) = certificate(bed.dir(), "first").await;
    let (_, second_cert, second_key) = certificate(bed.dir(), "second").await;
    let (client_ca, client_cert, client_key) = certificate(bed.dir(), "client").await;
    let (_, stranger_cert, stranger_key) = certificate(bed.dir(), "stranger").await;
    let (cert, key) = (bed.dir().join("now-cert.pem"), bed.dir().join("now-key.pem"));
    let show = |new_cert: &Path, new_key: &Path| {
        std::fs::copy(new_cert, &cert).unwrap();
        std::fs::copy(new_key, &key).unwrap();
    };
    show(&first_cert, &first_key);
    let change = |check_ms: u64| {
        let (cert, key, ca) = (cert.clone(), key.clone(), client_ca.clone());
        move |config: &mut Config| {
            nobody(config);
            let require = |name: &str, require| User { name: name.to_owned(), require, ..User::default() };
            config.users.extend([require("covered", Require::Tls), require("known", Require::X509)]);
            let proxy = config.proxy.as_mut().unwrap();
            (proxy.tls_cert, proxy.tls_key, proxy.tls_client_ca) = (Some(cert), Some(key), Some(ca));
            (config.limits.tls_check_ms, config.limits.login_ms) = (check_ms, 2_000);
        }
    };
    let proxy = bed.proxy(1, change(0)).await;
    let shows = async |proxy: &Proxy, name: &str| {
        let said = handshake(proxy, &[]).await;
        said.lines().any(|l| l.starts_with("subject=") && l.replace(' ', "").ends_with(&format!("CN={name}")))
    };
    assert!(shows(&proxy, "first").await);
    let mut old = proxy.login().tls().connect().await.unwrap();
    resumed(&bed, &proxy).await;
    // A bad file first: nothing changes but the log.
    std::fs::write(&cert, "no certificate").unwrap();
    hang_up(proxy.pid());
    until("the bad file is told of", async || proxy.log().contains("the old ones stay in use")).await;
    assert!(shows(&proxy, "first").await);
    show(&second_cert, &second_key);
    assert!(shows(&proxy, "first").await, "not before the signal");
    hang_up(proxy.pid());
    until("the new certificate is shown", async || shows(&proxy, "second").await).await;
    old.query_drop("DO 1").await.unwrap();
    assert_eq!(
        (metric(&bed, "usher_tls_reloads_total").await, metric(&bed, "usher_tls_reloads_failed_total").await),
        (2, 1)
    );
    let own = (client_cert.as_path(), client_key.as_path());
    clients_show_theirs(&proxy, own, (&stranger_cert, &stranger_key)).await;
    proxy.stop().await;
    // Without a signal.
    let proxy = bed.proxy(1, change(50)).await;
    show(&first_cert, &first_key);
    until("the files are looked at", async || shows(&proxy, "first").await).await;
    proxy.stop().await;
}

/// A session of TLS is taken up again, in both versions.
async fn resumed(bed: &Bed, proxy: &Proxy) {
    for version in ["-tls1_2", "-tls1_3"] {
        let kept = bed.dir().join(format!("session{version}"));
        let kept = kept.to_str().unwrap();
        // Until the proxy closes: in 1.3 what a session is taken up with comes behind the handshake.
        let first = handshake(proxy, &[version, "-ign_eof", "-sess_out", kept]).await;
        assert!(first.contains("New, TLSv1"), "{first}");
        let before = metric(bed, "usher_tls_resumed_total").await;
        let again = handshake(proxy, &[version, "-sess_in", kept]).await;
        assert!(again.contains("Reused, TLSv1"), "{version}: {again}");
        assert_eq!(metric(bed, "usher_tls_resumed_total").await, before + 1);
    }
}

async fn clients_show_theirs(proxy: &Proxy, own: (&Path, &Path), stranger: (&Path, &Path)) {
    let any =
        SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true);
    let with = |(cert, key): (&Path, &Path)| {
        any.clone()
            .with_client_identity(Some(ClientIdentity::new(cert.to_owned().into(), key.to_owned().into())))
    };
    let come = async |user: &str, ssl: Option<SslOpts>| {
        proxy.login().user(user, "").with(|builder| builder.ssl_opts(ssl)).connect().await
    };
    for user in ["covered", "known"] {
        let refused = come(user, None).await;
        assert_eq!(code(&refused), 1045);
        assert!(message(&refused).contains("requires TLS"), "{refused:?}");
    }
    come("covered", Some(any.clone())).await.unwrap();
    assert!(message(&come("known", Some(any.clone())).await).contains("certificate of the client"));
    let mut known = come("known", Some(with(own))).await.unwrap();
    known.query_drop("DO 1").await.unwrap();
    // Whose authority is not known is not even asked for a password; whose is may use any account.
    assert!(!matches!(come("known", Some(with(stranger))).await, Ok(_) | Err(mysql_async::Error::Server(_))));
    come("nobody", Some(with(own))).await.unwrap();
    drop(logged_in(proxy.port(), "nobody").await);
}
