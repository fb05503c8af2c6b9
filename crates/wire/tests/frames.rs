//! Compressed frames and PROXY protocol headers of any bytes: refused or read, never more than was said.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use usher_wire::compress::{Algorithm, HEADER_LEN, Header, PIECE, Press};
use usher_wire::proxy_header::{self, Front};

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop_oneof![Just(Algorithm::Zlib), (1u8..10).prop_map(Algorithm::Zstd)]
}

/// How headers begin, and how they do not.
const STARTS: &[&[u8]] =
    &[b"PROXY TCP4 ", b"PROXY UNKNOWN", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", b"\r\n\r\n\0\r\nQUIT\n", b""];

proptest! {
    #[test]
    fn what_is_packed_is_unpacked(
        algorithm in algorithm(),
        plain in proptest::collection::vec(0u8..4, 0..PIECE),
        seq in any::<u8>(),
    ) {
        let (mut press, mut frame, mut back) = (Press::default(), Vec::new(), Vec::new());
        press.pack(algorithm, seq, &plain, &mut frame).unwrap();
        let header = Header::peek(&frame).unwrap();
        prop_assert!(frame.len() <= HEADER_LEN + plain.len());
        press.unpack(algorithm, header, frame.get(HEADER_LEN..).unwrap(), &mut back).unwrap();
        prop_assert_eq!(back, plain);
    }

    /// A sound frame of which some bytes are others, the header among them.
    #[test]
    fn spoilt_frames_hold_what_they_say_or_nothing(
        algorithm in algorithm(),
        plain in proptest::collection::vec(0u8..4, 50..3000),
        spoilt in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (mut press, mut frame) = (Press::default(), Vec::new());
        press.pack(algorithm, 0, &plain, &mut frame).unwrap();
        for (at, byte) in spoilt {
            let at = at.index(frame.len());
            *frame.get_mut(at).unwrap() = byte;
        }
        let header = Header::peek(&frame).unwrap();
        let body = frame.get(HEADER_LEN..).unwrap();
        let mut out = b"x".to_vec();
        match press.unpack(algorithm, header, body, &mut out) {
            Ok(()) if header.plain == 0 => prop_assert_eq!(out.len(), 1 + body.len()),
            Ok(()) => prop_assert_eq!(out.len(), 1 + header.plain),
            Err(_) => prop_assert_eq!(out, b"x"),
        }
        // The press is as good as before.
        let mut again = Vec::new();
        press.pack(algorithm, 0, &plain, &mut again).unwrap();
        let mut back = Vec::new();
        press.unpack(algorithm, Header::peek(&again).unwrap(), again.get(HEADER_LEN..).unwrap(), &mut back).unwrap();
        prop_assert_eq!(back, plain);
    }

    #[test]
    fn headers_of_balancers_are_read_in_any_pieces(
        start in prop::sample::select(STARTS),
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [start, &rest].concat();
        let mut taken = 0;
        loop {
            match proxy_header::read(bytes.get(..taken).unwrap()) {
                Ok(Front::Missing(missing)) => {
                    prop_assert!(missing > 0);
                    taken += missing;
                    if taken > bytes.len() {
                        break;
                    }
                }
                Ok(Front::Header { len, .. }) => {
                    prop_assert_eq!(len, taken);
                    break;
                }
                Ok(Front::Absent) | Err(_) => break,
            }
        }
    }
}
