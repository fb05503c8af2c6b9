//! What stands in front of a connection that a load balancer makes: read byte by byte or at once, it is the same, and not
//! a byte of what follows is taken.
#![no_main]

use libfuzzer_sys::fuzz_target;
use usher_fuzz::Input;
use usher_wire::proxy_header::{Front, read};

/// The longest header by far: nothing may make a connection wait for more.
const LEN_MAX: usize = 16 + 4096;
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let start = match input.byte() % 3 {
        0 => V1,
        1 => V2,
        _ => b"",
    };
    let stream = [start, input.rest()].concat();
    let whole = read(&stream);
    match whole {
        Ok(Front::Header { len, .. }) => {
            assert!(len <= stream.len() && len <= LEN_MAX);
            assert_eq!(read(&stream[..len]), whole, "what follows does not matter");
        }
        Ok(Front::Missing(missing)) => assert!(missing > 0 && stream.len() + missing <= LEN_MAX),
        Ok(Front::Absent) | Err(_) => {}
    }
    match (as_it_comes(&stream), whole) {
        // What cannot become a header may be waited for a little longer.
        (Ok(None), Err(_)) => {}
        (as_it_comes, whole) => assert_eq!(as_it_comes, whole.map(settled)),
    }
});

/// As a session reads: only as much as is asked for.
fn as_it_comes(stream: &[u8]) -> Result<Option<Front>, usher_wire::Error> {
    let mut taken = 0;
    loop {
        match read(&stream[..taken])? {
            Front::Missing(missing) if taken + missing <= stream.len() => taken += missing,
            Front::Missing(_) => return Ok(None),
            front => {
                if let Front::Header { len, .. } = front {
                    assert_eq!(len, taken, "a byte of what follows was taken");
                }
                return Ok(Some(front));
            }
        }
    }
}

/// A stream that ends too early tells nothing.
fn settled(front: Front) -> Option<Front> {
    (!matches!(front, Front::Missing(_))).then_some(front)
}
