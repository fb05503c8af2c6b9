//! Logins: the client's machine against the server's, and both against an independent implementation.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use usher_wire::auth::{
    AuthTerms, CACHING_SHA2, CLEAR, NATIVE, Secret, ServerAuth, ServerKey, Step, encrypt_password,
    native_hash, native_matches, native_scramble, sha2_digest, sha2_matches, sha2_scramble,
};
use usher_wire::handshake::{
    AuthSwitch, ChangeUser, ClientHello, ConnectAttributes, Greeting, HandshakeResponse, Salt,
};
use usher_wire::login::{ClientAuth, Login, LoginStep};
use usher_wire::packet::{ErrPacket, OkPacket};
use usher_wire::status::Status;
use usher_wire::{Caps, Error};

fn key() -> Arc<ServerKey> {
    static KEY: OnceLock<Arc<ServerKey>> = OnceLock::new();
    KEY.get_or_init(|| Arc::new(ServerKey::generate(2048).unwrap())).clone()
}

fn login(password: &[u8]) -> Login<'_> {
    Login {
        user: b"app",
        password,
        database: Some(b"shop"),
        attributes: ConnectAttributes::default(),
        collation: 45,
        options: Caps::FOUND_ROWS,
        tls: false,
        secure: false,
        trust_key: true,
    }
}

fn greeting(salt: Salt, plugin: &[u8]) -> Greeting<'_> {
    let caps = Caps::offer(true);
    let server_version = b"8.4.0-usher";
    Greeting { server_version, thread_id: 77, salt, caps, collation: 45, status: Status::AUTOCOMMIT, plugin }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    In { round_trips: usize, digest: bool },
    Denied,
    Gave(Error),
}

/// Runs a whole login between the two machines.
fn dance(terms: AuthTerms, secret: Secret, plugin: &[u8], login: &Login<'_>) -> Outcome {
    let mut payload = Vec::new();
    greeting(terms.salt, plugin).encode(&mut payload);
    let mut step = ClientAuth::start(&payload, login).unwrap();
    if let LoginStep::StartTls(request, client) = step {
        assert!(matches!(ClientHello::parse(&request, Caps::offer(true)), Ok(ClientHello::Ssl(_))));
        step = client.tls_started(login);
    }
    let LoginStep::Send(hello, mut client) = step else { panic!() };
    let ClientHello::Login(hello) = ClientHello::parse(&hello, Caps::offer(true)).unwrap() else { panic!() };
    assert_eq!((hello.user, hello.database, hello.collation), (login.user, login.database, 45));
    let mut step = ServerAuth::start(terms, secret, hello.plugin, hello.auth);
    for round_trips in 0..5 {
        match step {
            Step::Deny => return Outcome::Denied,
            Step::Accept(accepted) => {
                if let Some(first) = accepted.first {
                    let LoginStep::Wait(waiting) = client.handle(&first, login).unwrap() else { panic!() };
                    client = waiting;
                }
                let mut ok = Vec::new();
                OkPacket::default().encode(&mut ok, true);
                assert!(matches!(client.handle(&ok, login), Ok(LoginStep::Done(_))));
                return Outcome::In {
                    round_trips,
                    digest: accepted.digest == Some(sha2_digest(login.password)),
                };
            }
            Step::Send(payload, server) => match client.handle(&payload, login) {
                Ok(LoginStep::Send(answer, waiting)) => {
                    client = waiting;
                    step = server.handle(&answer);
                }
                Err(error) => return Outcome::Gave(error),
                other => panic!("{other:?}"),
            },
        }
    }
    panic!("no end of it");
}

fn terms() -> AuthTerms {
    AuthTerms {
        salt: Salt::random().unwrap(),
        secure: false,
        key: Some(key()),
        fast: true,
        allow_native: true,
    }
}

const PASSWORD: &[u8] = b"correct horse";
const IN: Outcome = Outcome::In { round_trips: 0, digest: false };

#[test]
fn fast_logins() {
    let secret = Secret::from_password(PASSWORD);
    for plugin in [CACHING_SHA2, NATIVE] {
        assert_eq!(dance(terms(), secret.clone(), plugin, &login(PASSWORD)), IN);
        assert_eq!(dance(terms(), secret.clone(), plugin, &login(b"wrong")), Outcome::Denied);
        assert_eq!(dance(terms(), secret.clone(), plugin, &login(b"")), Outcome::Denied);
        assert_eq!(dance(terms(), Secret::decoy().unwrap(), plugin, &login(PASSWORD)), Outcome::Denied);
    }
}

#[test]
fn full_logins_by_key_and_by_tls() {
    let secret = Secret::from_password(PASSWORD);
    let cold = AuthTerms { fast: false, ..terms() };
    // AskedPassword, key; the key's answer is judged in the third step.
    let by_key = Outcome::In { round_trips: 2, digest: true };
    assert_eq!(dance(cold.clone(), secret.clone(), CACHING_SHA2, &login(PASSWORD)), by_key);
    assert_eq!(dance(cold.clone(), secret.clone(), CACHING_SHA2, &login(b"wrong")), Outcome::Denied);

    let tls = AuthTerms { secure: true, ..cold.clone() };
    let over_tls = Login { tls: true, ..login(PASSWORD) };
    let by_tls = Outcome::In { round_trips: 1, digest: true };
    assert_eq!(dance(tls.clone(), secret.clone(), CACHING_SHA2, &over_tls), by_tls);
    let wrong = Login { password: b"wrong", ..over_tls.clone() };
    assert_eq!(dance(tls.clone(), secret.clone(), CACHING_SHA2, &wrong), Outcome::Denied);

    // A native hash alone serves a caching_sha2 client by full authentication.
    let native_only = Secret::from_hashes(None, Some(native_hash(PASSWORD)));
    let no_native = AuthTerms { allow_native: false, ..tls };
    assert_eq!(dance(no_native, native_only, CACHING_SHA2, &over_tls), by_tls);

    let no_key = AuthTerms { key: None, ..cold.clone() };
    assert_eq!(dance(no_key, secret.clone(), CACHING_SHA2, &login(PASSWORD)), Outcome::Denied);
    let careful = Login { trust_key: false, ..login(PASSWORD) };
    assert!(matches!(dance(cold, secret, CACHING_SHA2, &careful), Outcome::Gave(Error::Unsupported(_))));
}

#[test]
fn switches() {
    let sha2_only = Secret::from_hashes(Some(sha2_digest(PASSWORD)), None);
    let native_only = Secret::from_hashes(None, Some(native_hash(PASSWORD)));
    let switched = Outcome::In { round_trips: 1, digest: false };
    assert_eq!(dance(terms(), sha2_only.clone(), NATIVE, &login(PASSWORD)), switched);
    assert_eq!(dance(terms(), native_only, CACHING_SHA2, &login(PASSWORD)), switched);
    assert_eq!(dance(terms(), sha2_only.clone(), b"auth_gssapi_client", &login(PASSWORD)), switched);
    assert_eq!(dance(terms(), sha2_only.clone(), NATIVE, &login(b"wrong")), Outcome::Denied);
    let no_native = AuthTerms { allow_native: false, ..terms() };
    let both = Secret::from_password(PASSWORD);
    assert_eq!(dance(no_native, both, NATIVE, &login(PASSWORD)), switched);
    // A client that knows no plugins cannot be switched.
    assert!(matches!(ServerAuth::start(terms(), sha2_only, None, &[1; 20]), Step::Deny));
}

#[test]
fn accounts_without_password() {
    let empty = Secret::from_password(b"");
    for plugin in [CACHING_SHA2, NATIVE] {
        assert_eq!(dance(terms(), empty.clone(), plugin, &login(b"")), IN);
        assert_eq!(dance(terms(), empty.clone(), plugin, &login(PASSWORD)), Outcome::Denied);
    }
    assert!(matches!(ServerAuth::start(terms(), empty, Some(CACHING_SHA2), &[0]), Step::Accept(_)));
}

#[test]
fn empty_plugin_names_and_clear_passwords() {
    let (terms, secret) = (terms(), Secret::from_password(PASSWORD));
    let answer = native_scramble(PASSWORD, &terms.salt);
    for plugin in [None, Some(&b""[..]), Some(NATIVE)] {
        assert!(matches!(ServerAuth::start(terms.clone(), secret.clone(), plugin, &answer), Step::Accept(_)));
    }
    let secure = AuthTerms { secure: true, ..terms.clone() };
    let clear = b"correct horse\0";
    assert!(matches!(ServerAuth::start(secure, secret.clone(), Some(CLEAR), clear), Step::Accept(_)));
    let Step::Send(switch, server) = ServerAuth::start(terms, secret, Some(CLEAR), clear) else { panic!() };
    assert_eq!(AuthSwitch::parse(&switch).unwrap().plugin, CACHING_SHA2);
    assert!(matches!(server.handle(b"junk"), Step::Deny));
}

#[test]
fn the_client_side_refuses_what_is_unsafe_or_broken() {
    let salt = Salt::random().unwrap();
    let mut hello = Vec::new();
    greeting(salt, CACHING_SHA2).encode(&mut hello);
    let start = |login: &Login<'_>| match ClientAuth::start(&hello, login).unwrap() {
        LoginStep::Send(_, client) => client,
        other => panic!("{other:?}"),
    };
    let login = login(PASSWORD);
    let clear = AuthSwitch::payload(CLEAR, &salt);
    assert!(matches!(start(&login).handle(&clear, &login), Err(Error::Unsupported(_))));
    assert!(matches!(start(&login).handle(b"\xfe", &login), Err(Error::Unsupported(_))));
    assert!(matches!(start(&login).handle(b"\xfeclient_ed25519\0abc", &login), Err(Error::Unsupported(_))));
    // A key unasked for; then a key that is none.
    assert!(start(&login).handle(b"\x01-----BEGIN", &login).is_err());
    let LoginStep::Send(ask, client) = start(&login).handle(b"\x01\x04", &login).unwrap() else { panic!() };
    assert_eq!(ask, [2]);
    let broken = b"\x01-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    assert_eq!(client.handle(broken, &login).unwrap_err(), Error::Malformed("public key of the server"));

    let mut err = Vec::new();
    ErrPacket { code: 1040, sqlstate: *b"08004", message: b"Too many" }.encode(&mut err);
    let Ok(LoginStep::Refused(refusal)) = ClientAuth::start(&err, &login) else { panic!() };
    assert_eq!(refusal.to_string(), "1040: Too many");

    let mut old = Vec::new();
    let caps = Caps::offer(false).without(Caps::SESSION_TRACK);
    Greeting { caps, ..greeting(salt, NATIVE) }.encode(&mut old);
    assert!(matches!(ClientAuth::start(&old, &login), Err(Error::Unsupported(_))));
    let with_tls = Login { tls: true, ..login };
    let mut plain = Vec::new();
    Greeting { caps: Caps::offer(false), ..greeting(salt, NATIVE) }.encode(&mut plain);
    assert!(matches!(ClientAuth::start(&plain, &with_tls), Err(Error::Unsupported(_))));
}

#[test]
fn scrambles_agree_with_mysql_common() {
    use mysql_common::scramble::{scramble_native, scramble_sha256};
    let salt = Salt::random().unwrap();
    assert_eq!(scramble_native(&salt.0, PASSWORD), Some(native_scramble(PASSWORD, &salt)));
    assert_eq!(scramble_sha256(&salt.0, PASSWORD), Some(sha2_scramble(PASSWORD, &salt)));
    // mysql_native_password's well-known hash of "password".
    let hex: String = native_hash(b"password").iter().map(|b| format!("{b:02X}")).collect();
    assert_eq!(hex, "2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19");
}

#[test]
fn handshake_packets_agree_with_mysql_common() {
    use mysql_common::io::ParseBuf;
    use mysql_common::packets::{HandshakePacket, HandshakeResponse as Theirs};
    use mysql_common::proto::MySerialize;

    let salt = Salt::random().unwrap();
    let mut payload = Vec::new();
    greeting(salt, CACHING_SHA2).encode(&mut payload);
    let theirs: HandshakePacket<'_> = ParseBuf(&payload).parse(()).unwrap();
    assert_eq!(theirs.connection_id(), 77);
    assert_eq!(theirs.nonce(), salt.0);
    assert_eq!(theirs.auth_plugin_name_ref(), Some(CACHING_SHA2));
    assert_eq!(u64::from(theirs.capabilities().bits()), Caps::offer(true).0);
    assert_eq!(Greeting::parse(&payload).unwrap(), greeting(salt, CACHING_SHA2));

    let mut attributes = Vec::new();
    ConnectAttributes::put(&mut attributes, b"program_name", b"test");
    let caps = Caps::offer(true) & Caps::ask(Caps::CONNECT_WITH_DB);
    let ours = HandshakeResponse {
        caps,
        max_packet: 1 << 24,
        collation: 45,
        user: b"app",
        auth: &[7; 20],
        database: Some(b"shop"),
        plugin: Some(NATIVE),
        attributes: ConnectAttributes::new(&attributes),
        zstd_level: 0,
    };
    let mut payload = Vec::new();
    ours.encode(&mut payload);
    let theirs: Theirs<'_> = ParseBuf(&payload).parse(()).unwrap();
    assert_eq!((theirs.user(), theirs.db_name()), (&b"app"[..], Some(&b"shop"[..])));
    assert_eq!(theirs.scramble_buf(), [7; 20]);
    let mut again = Vec::new();
    theirs.serialize(&mut again);
    let parsed = HandshakeResponse::parse(&again, Caps::offer(true)).unwrap();
    assert_eq!((parsed.user, parsed.auth, parsed.database), (ours.user, ours.auth, ours.database));
    assert_eq!(parsed.attributes.value(b"program_name"), Some(&b"test"[..]));
    assert_eq!(HandshakeResponse::parse(&payload, Caps::offer(true)).unwrap(), ours);
}

#[test]
fn a_16_bit_collation_and_missing_last_fields_are_understood() {
    let mut payload = Vec::new();
    let caps = Caps::CLIENT_NEEDED | Caps::LONG_PASSWORD | Caps::PLUGIN_AUTH | Caps::CONNECT_WITH_DB;
    payload.extend_from_slice(&caps.low());
    payload.extend_from_slice(&[0, 0, 0, 1, 0x35, 0x01]);
    payload.extend_from_slice(&[0; 22]);
    payload.extend_from_slice(b"bob\0\x00");
    let parsed = HandshakeResponse::parse(&payload, Caps::offer(false)).unwrap();
    assert_eq!((parsed.collation, parsed.user, parsed.database), (0x135, &b"bob"[..], None));
    assert_eq!(parsed.plugin, Some(&b""[..]));

    let too_old = &[0u8; 40];
    assert!(matches!(HandshakeResponse::parse(too_old, Caps::offer(false)), Err(Error::Unsupported(_))));
}

#[test]
fn change_user_is_parsed_with_and_without_its_tail() {
    let caps = Caps::offer(false);
    let full = b"\x11bob\0\x03abcshop\0\x2d\x00mysql_native_password\0\x04\x01k\x01v";
    let parsed = ChangeUser::parse(full, caps).unwrap();
    assert_eq!((parsed.user, parsed.auth, parsed.database), (&b"bob"[..], &b"abc"[..], Some(&b"shop"[..])));
    assert_eq!((parsed.collation, parsed.plugin), (Some(45), Some(NATIVE)));
    assert_eq!(parsed.attributes.value(b"k"), Some(&b"v"[..]));
    let short = ChangeUser::parse(b"\x11bob\0\x00\0", caps).unwrap();
    assert_eq!((short.auth, short.database, short.collation, short.plugin), (&b""[..], None, None, None));
}

#[test]
fn encrypted_passwords_fit_their_key() {
    let salt = Salt::random().unwrap();
    let key = key();
    let pem = key.public_pem().as_bytes();
    assert_eq!(encrypt_password(PASSWORD, &salt, pem).unwrap().len(), 256);
    assert!(encrypt_password(&[b'x'; 300], &salt, pem).is_err());
    assert!(encrypt_password(PASSWORD, &salt, &pem[..100]).is_err());
    assert!(encrypt_password(PASSWORD, &salt, b"\xff\xfe").is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), bits in any::<u32>()) {
        let caps = Caps(bits.into());
        let _ = ClientHello::parse(&bytes, caps);
        let _ = ClientHello::parse(&bytes, Caps(u64::MAX));
        let _ = ChangeUser::parse(&bytes, caps);
        let _ = Greeting::parse(&bytes);
        let _ = ClientAuth::start(&bytes, &login(PASSWORD));
        let mut hello = Vec::new();
        greeting(Salt([9; 20]), CACHING_SHA2).encode(&mut hello);
        if let Ok(LoginStep::Send(_, client)) = ClientAuth::start(&hello, &login(PASSWORD)) {
            let _ = client.handle(&bytes, &login(PASSWORD));
        }
        for (secure, fast, allow_native) in [(false, true, true), (true, false, false), (false, false, true)] {
            let terms = AuthTerms { secure, fast, allow_native, ..terms() };
            for plugin in [None, Some(CACHING_SHA2), Some(NATIVE), Some(CLEAR), Some(&bytes[..])] {
                let step = ServerAuth::start(terms.clone(), Secret::from_password(PASSWORD), plugin, &bytes);
                if let Step::Send(_, server) = step {
                    prop_assert!(!matches!(server.handle(&bytes), Step::Accept(_)));
                } else {
                    prop_assert!(matches!(step, Step::Deny));
                }
            }
        }
        // Past the fixed head, where the fields are.
        let mut response = (Caps::offer(true) | Caps::ZSTD).low().to_vec();
        response.extend_from_slice(&[0; 28]);
        response.extend_from_slice(&bytes);
        let _ = HandshakeResponse::parse(&response, Caps(u64::MAX));
    }

    #[test]
    fn only_the_right_answer_matches(
        password in proptest::collection::vec(any::<u8>(), 1..40),
        salt in any::<[u8; 20]>(),
        flip in 0usize..160,
    ) {
        let salt = Salt(salt);
        let mut native = native_scramble(&password, &salt);
        let mut sha2 = sha2_scramble(&password, &salt);
        prop_assert!(native_matches(&native, &salt, &native_hash(&password)));
        prop_assert!(sha2_matches(&sha2, &salt, &sha2_digest(&password)));
        native[flip / 8] ^= 1 << (flip % 8);
        sha2[flip / 8] ^= 1 << (flip % 8);
        prop_assert!(!native_matches(&native, &salt, &native_hash(&password)));
        prop_assert!(!sha2_matches(&sha2, &salt, &sha2_digest(&password)));
    }
}
