//! A server's answer on its way to the client: what the client gets and what the session learns must not depend on how
//! the bytes were cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use usher_fuzz::{Input, pieces};
use usher_wire::frame::{HEADER_LEN, frame, write_packet};
use usher_wire::packet::{EOF_LEN, TrackSet};
use usher_wire::relay::{ClientForm, Kind, OkEdit, Progress, Relay};
use usher_wire::status::Status;

const KINDS: [Kind; 7] =
    [Kind::Query, Kind::Cursor, Kind::Prepare, Kind::FieldList, Kind::Fetch, Kind::Simple, Kind::Statistics];

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let kind = KINDS[usize::from(input.byte()) % KINDS.len()];
    let choices = input.byte();
    let form = ClientForm {
        deprecate_eof: choices & 1 == 1,
        track: TrackSet(input.byte()),
        status: Status::AUTOCOMMIT,
    };
    let session = Session { drops: choices & 2 != 0, replaces: choices & 4 != 0, edits: choices & 8 != 0 };
    let cuts = input.cuts();
    let mut stream = Vec::new();
    if choices & 16 == 0 {
        let mut seq = 1;
        while !input.is_empty() {
            let payload = input.string();
            write_packet(&mut stream, &mut seq, |out| out.extend_from_slice(payload));
        }
    } else {
        stream.extend_from_slice(input.rest());
    }
    let whole = session.relay(kind, form, &[&stream]);
    let cut = session.relay(kind, form, &pieces(&stream, &cuts));
    assert_eq!(whole, cut);
});

/// What came out of a relay.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    learnt: Vec<String>,
    /// What the client got, but for the status in EOF packets behind definitions: what is to be said there of OUT
    /// parameters is known only if the row has come along.
    sent: Vec<u8>,
    rows: u64,
    end: String,
}

/// What a session does with packets that are held.
#[derive(Clone, Copy)]
struct Session {
    drops: bool,
    replaces: bool,
    edits: bool,
}

impl Session {
    fn relay(self, kind: Kind, form: ClientForm, pieces: &[&[u8]]) -> Seen {
        let (mut relay, mut buf, mut seen) = (Relay::new(kind, form), Vec::new(), Seen::default());
        let (mut came, mut left) = (0, 0);
        'stream: for piece in pieces {
            buf.extend_from_slice(piece);
            came += piece.len();
            loop {
                match self.step(&mut relay, &mut buf, &mut seen) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(end) => {
                        seen.end = end;
                        // What was ready may have gone to the client before the fault came to light, or not.
                        seen.sent.clear();
                        break 'stream;
                    }
                }
            }
            let ready = relay.ready();
            seen.sent.extend(buf.drain(..ready));
            relay.sent(ready);
            left = buf.len();
            assert!(left <= came);
        }
        seen.rows = relay.rows();
        if relay.is_done() {
            seen.end = format!("done, {left} left");
        }
        blank_eofs(&mut seen.sent);
        seen
    }

    /// One step; false where bytes lack or all is done.
    fn step(self, relay: &mut Relay, buf: &mut Vec<u8>, seen: &mut Seen) -> Result<bool, String> {
        let progress = relay.advance(buf).map_err(|error| error.to_string())?;
        let held = match progress {
            Progress::More | Progress::Done => return Ok(false),
            Progress::Ok(end) => {
                let changes: Vec<_> = end.changes(buf).collect();
                seen.learnt.push(format!("{} {:?} {} {changes:?}", end.rows_end, end.status, end.warnings));
                if self.edits {
                    let edit = OkEdit {
                        affected_rows: Some(1 << 20),
                        warnings: Some(9),
                        info: Some(b"edited"),
                        ..OkEdit::default()
                    };
                    relay.pass_ok(buf, &edit).map_err(|error| error.to_string())?;
                    return Ok(true);
                }
                end.at
            }
            Progress::Err(at) => at,
            Progress::LocalInfile(at) => at,
            Progress::Prepared(prepared) => {
                seen.learnt.push(format!("{} {}", prepared.params, prepared.columns));
                prepared.set_id(buf, 5);
                prepared.at
            }
        };
        seen.learnt.push(format!("{:?}", buf.get(held).expect("the held packet is there")));
        let done = match (self.drops, self.replaces) {
            (true, _) => relay.drop_held(buf),
            (_, true) => relay.replace(buf, b"\x00\x00\x00\x02\x00\x00\x00"),
            _ => relay.pass(buf),
        };
        done.map(|()| true).map_err(|error| error.to_string())
    }
}

/// Packets to the client follow each other in their ids; EOF packets are blanked.
fn blank_eofs(sent: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = sent.get(at..).and_then(frame) {
        let (body, len) = (at + HEADER_LEN, found.wire_len());
        if found.payload.len() == EOF_LEN && found.payload[0] == 0xfe {
            sent[body + 1..body + EOF_LEN].fill(0);
        }
        at += len;
    }
}
