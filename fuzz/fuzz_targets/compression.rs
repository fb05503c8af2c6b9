//! Compressed frames of a client: opened whatever they hold and however they come, and never to more than they say.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use usher_fuzz::{Input, pieces};
use usher_wire::compress::{Algorithm, HEADER_LEN, Header, Press};

/// As a session's limit, but smaller.
const FRAME_MAX: usize = 1 << 16;

thread_local! {
    // Used for one frame after the other, as a thread's is for all its connections: what a bad one leaves must not
    // reach the next.
    static PRESS: RefCell<Press> = RefCell::default();
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let choices = input.byte();
    let algorithm = if choices & 1 == 0 { Algorithm::Zlib } else { Algorithm::Zstd(1 + choices % 9) };
    let cuts = input.cuts();
    let mut stream = Vec::new();
    if choices & 2 == 0 {
        // Frames that hold together, with bodies of anybody's making.
        let mut seq = 0;
        while !input.is_empty() {
            let plain = usize::from(input.short());
            let body = input.string();
            put(&mut stream, &mut seq, body, plain);
        }
    } else {
        stream.extend_from_slice(input.rest());
    }
    PRESS.with_borrow_mut(|press| {
        let whole = opened(press, algorithm, &[&stream]);
        assert_eq!(whole, opened(press, algorithm, &pieces(&stream, &cuts)));
        there_and_back(press, algorithm, &stream);
    });
});

fn put(stream: &mut Vec<u8>, seq: &mut u8, body: &[u8], plain: usize) {
    stream.extend_from_slice(&body.len().to_le_bytes()[..3]);
    stream.push(*seq);
    stream.extend_from_slice(&plain.to_le_bytes()[..3]);
    stream.extend_from_slice(body);
    *seq = seq.wrapping_add(1);
}

/// What a session gets out of a stream, and why it stops.
fn opened(press: &mut Press, algorithm: Algorithm, pieces: &[&[u8]]) -> (Vec<u8>, Option<String>) {
    let (mut raw, mut out, mut expected) = (Vec::new(), Vec::new(), 0_u8);
    for piece in pieces {
        raw.extend_from_slice(piece);
        while let Some(header) = Header::peek(&raw) {
            if header.seq != expected || header.packed.max(header.plain) > FRAME_MAX {
                return (out, Some(format!("{header:?}")));
            }
            let end = HEADER_LEN + header.packed;
            let Some(body) = raw.get(HEADER_LEN..end) else { break };
            let before = out.len();
            if let Err(error) = press.unpack(algorithm, header, body, &mut out) {
                assert_eq!(out.len(), before, "nothing of a bad frame is kept");
                return (out, Some(error.to_string()));
            }
            let held = if header.plain == 0 { header.packed } else { header.plain };
            assert_eq!(out.len(), before + held, "as much as the header says");
            expected = expected.wrapping_add(1);
            raw.drain(..end);
        }
    }
    (out, None)
}

fn there_and_back(press: &mut Press, algorithm: Algorithm, plain: &[u8]) {
    let (mut packed, mut back) = (Vec::new(), Vec::new());
    press.pack(algorithm, 5, plain, &mut packed).expect("a short frame");
    let header = Header::peek(&packed).expect("a frame of ours");
    assert!(packed.len() <= HEADER_LEN + plain.len() && header.packed == packed.len() - HEADER_LEN);
    press.unpack(algorithm, header, &packed[HEADER_LEN..], &mut back).expect("what was packed");
    assert_eq!(back, plain);
}
