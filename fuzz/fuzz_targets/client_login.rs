//! What a client sends until it is in: its answer to the greeting, the request for TLS, and what authentication asks for.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use usher_fuzz::Input;
use usher_wire::auth::{AuthTerms, Secret, ServerAuth, ServerKey, Step, native_hash, sha2_digest};
use usher_wire::caps::Caps;
use usher_wire::handshake::{ChangeUser, ClientHello, HandshakeResponse, Salt};

/// A small key: what it protects is not at stake here.
static KEY: LazyLock<Arc<ServerKey>> = LazyLock::new(|| Arc::new(ServerKey::generate(512).expect("a key")));

/// More steps than any authentication takes.
const STEPS_MAX: usize = 4;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    match input.byte() % 3 {
        0 => greeted(&mut input),
        1 => changed(&mut input),
        _ => judged(&mut input),
    }
});

/// A hello, and the same once more from what was understood of it.
fn greeted(input: &mut Input<'_>) {
    let offered = Caps::offer(input.byte() & 1 == 1);
    let payload = input.rest();
    let Ok(ClientHello::Login(hello)) = ClientHello::parse(payload, offered) else { return };
    assert!(offered.has(hello.caps) && hello.caps.has(Caps::CLIENT_NEEDED));
    let attributes: usize = hello.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(hello.user.len() + hello.auth.len() + attributes <= payload.len());
    let mut again = Vec::new();
    hello.encode(&mut again);
    // Without LENENC an answer of over 250 bytes cannot be said.
    if hello.caps.has(Caps::PLUGIN_AUTH_LENENC) || hello.auth.len() <= 250 {
        let mut second = HandshakeResponse::parse(&again, offered).expect("our own hello");
        // An empty name and none are one.
        second.plugin = second.plugin.or(hello.plugin);
        assert_eq!(second, hello);
    }
}

fn changed(input: &mut Input<'_>) {
    let caps = Caps(input.long().into());
    let payload = input.rest();
    if let Ok(change) = ChangeUser::parse(payload, caps) {
        let attributes: usize = change.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(change.user.len() + change.auth.len() + attributes <= payload.len());
    }
}

/// Nobody gets in with bytes that do not hold the password.
fn judged(input: &mut Input<'_>) {
    const PASSWORD: &[u8] = b"a password that is nowhere in the corpus";
    let choices = input.byte();
    let secret = match choices & 3 {
        0 => Secret::from_password(PASSWORD),
        1 => Secret::from_hashes(None, Some(native_hash(PASSWORD))),
        2 => Secret::from_hashes(Some(sha2_digest(&sha2_digest(PASSWORD))), None),
        _ => Secret::decoy().expect("randomness"),
    };
    let terms = AuthTerms {
        salt: Salt([7; 20]),
        secure: choices & 4 != 0,
        key: (choices & 8 != 0).then(|| Arc::clone(&KEY)),
        fast: choices & 16 != 0,
        allow_native: choices & 32 != 0,
    };
    let plugin = (choices & 64 != 0).then(|| input.string());
    let mut step = ServerAuth::start(terms, secret, plugin, input.string());
    for _ in 0..STEPS_MAX {
        step = match step {
            Step::Send(_, auth) => auth.handle(input.string()),
            Step::Accept(_) => panic!("let in without a password"),
            Step::Deny => return,
        };
    }
    assert!(!matches!(step, Step::Send(..)), "it asks on and on");
}
