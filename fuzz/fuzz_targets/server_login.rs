//! What a server sends until we are in: its greeting, requests for another authentication, keys, refusals.
#![no_main]

use libfuzzer_sys::fuzz_target;
use usher_fuzz::Input;
use usher_wire::caps::Caps;
use usher_wire::handshake::{ConnectAttributes, Greeting};
use usher_wire::login::{ClientAuth, Login, LoginStep};

/// A server may ask for one authentication after the other; so often nobody does.
const PACKETS_MAX: usize = 16;
const PASSWORD: &[u8] = b"secret of the proxy";

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let choices = input.byte();
    let login = Login {
        user: b"usher",
        password: if choices & 1 == 1 { PASSWORD } else { b"" },
        database: (choices & 2 != 0).then_some(b"app"),
        collation: 45,
        attributes: ConnectAttributes::default(),
        options: Caps::FOUND_ROWS,
        tls: choices & 4 != 0,
        secure: choices & 8 != 0,
        trust_key: choices & 16 != 0,
    };
    let greeting = input.string();
    let _ = Greeting::parse(greeting).map(reread);
    let Ok(mut step) = ClientAuth::start(greeting, &login) else { return };
    let mut secure = login.secure;
    for _ in 0..PACKETS_MAX {
        let auth = match step {
            LoginStep::Send(payload, auth) => {
                // Only inside TLS or on a socket of the machine does the password go out as it is.
                assert!(secure || !holds(&payload, PASSWORD));
                auth
            }
            LoginStep::StartTls(payload, auth) => {
                assert!(login.tls && !holds(&payload, b"usher"));
                secure = true;
                step = auth.tls_started(&login);
                continue;
            }
            LoginStep::Wait(auth) => auth,
            LoginStep::Done(done) => {
                assert!(done.caps.has(Caps::SERVER_NEEDED));
                return;
            }
            LoginStep::Refused(_) => return,
        };
        let Ok(next) = auth.handle(input.string(), &login) else { return };
        step = next;
    }
});

fn holds(payload: &[u8], what: &[u8]) -> bool {
    payload.windows(what.len()).any(|window| window == what)
}

/// What we understood of a greeting, as a greeting of ours.
fn reread(greeting: Greeting<'_>) {
    let mut again = Vec::new();
    greeting.encode(&mut again);
    let second = Greeting::parse(&again).expect("our own greeting");
    assert_eq!(second, greeting);
}
