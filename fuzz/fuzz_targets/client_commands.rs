//! What a client sends once it is in: packets of commands, in whatever pieces, and the parameters of statements.
#![no_main]

use libfuzzer_sys::fuzz_target;
use usher_fuzz::{Input, pieces};
use usher_wire::caps::Caps;
use usher_wire::command::{Command, strip_attributes};
use usher_wire::frame::{HEADER_LEN, frame, message, missing, write_packet};
use usher_wire::stmt::{Execute, LongData, Param, ParamType};

/// As `limits.packet_bytes_max`, but smaller.
const PACKET_MAX: usize = 1 << 12;
/// A connection's statement.
const STATEMENT: u32 = 7;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let choices = input.byte();
    let caps = if choices & 1 == 1 { Caps::QUERY_ATTRIBUTES } else { Caps(0) };
    let params = u16::from(input.byte());
    let cuts = input.cuts();
    let mut stream = Vec::new();
    if choices & 2 == 0 {
        while !input.is_empty() {
            let payload = input.string();
            write_packet(&mut stream, &mut 0, |out| out.extend_from_slice(payload));
        }
    } else {
        stream.extend_from_slice(input.rest());
    }
    let whole = served(&[&stream], caps, params);
    let cut = served(&pieces(&stream, &cuts), caps, params);
    assert_eq!(whole, cut);
});

/// What a session makes of a stream: a line for each message, and why it ended.
fn served(pieces: &[&[u8]], caps: Caps, params: u16) -> Vec<String> {
    let (mut buf, mut seen) = (Vec::new(), Vec::new());
    let mut statement = Statement { params, ..Statement::default() };
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            let found = match message(&buf, PACKET_MAX) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            };
            assert!(found.payload.len() <= PACKET_MAX && found.wire_len <= buf.len());
            let command = Command::parse(&found.payload, caps);
            seen.push(format!("{} {command:?}", found.seq));
            if let Ok(command) = command {
                seen.extend(statement.serve(&command, caps));
                strip(&buf, &command);
            }
            let len = found.wire_len;
            buf.drain(..len);
        }
        // Nothing that a piece can bring makes it wait for more than a packet.
        assert!(missing(&buf) <= HEADER_LEN + PACKET_MAX + 1 || frame(&buf).is_none());
    }
    seen
}

/// A server without query attributes gets the statement alone.
fn strip(buf: &[u8], command: &Command<'_>) {
    let Command::Query(query) = command else { return };
    let mut packet = buf.to_vec();
    let Some(kept) = strip_attributes(&mut packet, query.text_at) else { return };
    let stripped = frame(&packet[kept]).expect("a whole packet");
    assert_eq!(stripped.payload[0], 3);
    assert_eq!(&stripped.payload[1..], query.text);
}

/// What a session keeps of a prepared statement.
#[derive(Default)]
struct Statement {
    params: u16,
    types: Vec<ParamType>,
    long: Vec<(u16, Vec<u8>)>,
}

impl Statement {
    fn serve(&mut self, command: &Command<'_>, caps: Caps) -> Option<String> {
        match command {
            Command::StmtSendLongData { param, data, .. } if *param < self.params => {
                match self.long.iter_mut().find(|(number, _)| number == param) {
                    Some((_, kept)) => kept.extend_from_slice(data),
                    None => self.long.push((*param, data.to_vec())),
                }
                None
            }
            Command::StmtReset(_) => {
                self.long.clear();
                None
            }
            Command::StmtExecute { payload, .. } => self.execute(payload, caps.has(Caps::QUERY_ATTRIBUTES)),
            _ => None,
        }
    }

    fn execute(&mut self, payload: &[u8], attributes: bool) -> Option<String> {
        let numbers: Vec<u16> = self.long.iter().map(|(number, _)| *number).collect();
        let parsed = Execute::parse(payload, self.params, &self.types, &numbers, attributes);
        let Ok(execute) = parsed else { return Some(format!("{parsed:?}")) };
        let params: Vec<(ParamType, Param<'_>)> = execute.params().collect();
        assert_eq!(params.len(), usize::from(self.params));
        assert!(execute.attributes().iter().count() <= payload.len());
        let long: Vec<LongData<'_>> = self.long.iter().map(|(number, data)| (*number, &data[..])).collect();
        let mut out = Vec::new();
        execute.rewrite(&mut out, &mut 0, STATEMENT, &long, |_| None);
        let packet = frame(&out).expect("a packet of ours");
        assert_eq!(packet.wire_len(), out.len());
        let sent =
            Execute::parse(packet.payload, self.params, &[], &[], false).expect("an execution of ours");
        assert_eq!((sent.id, sent.flags), (STATEMENT, execute.flags));
        for (at, ((_, from), (_, to))) in params.iter().zip(sent.params()).enumerate() {
            let data = self.long.iter().find(|(number, _)| usize::from(*number) == at);
            match (from, data) {
                (Param::Long, Some((_, data))) => assert!(is_same(&Param::Bytes(data), &to)),
                (Param::Long, None) => panic!("data that never came"),
                (from, _) => assert!(is_same(from, &to), "{from:?} became {to:?}"),
            }
        }
        let seen = format!("{params:?}");
        if execute.block.has_types() {
            self.types = params.iter().map(|(ty, _)| *ty).collect();
        }
        self.long.clear();
        Some(seen)
    }
}

/// Equal to the bit, as NaN is not to itself.
fn is_same(from: &Param<'_>, to: &Param<'_>) -> bool {
    match (from, to) {
        (Param::Float(from), Param::Float(to)) => from.to_bits() == to.to_bits(),
        (Param::Double(from), Param::Double(to)) => from.to_bits() == to.to_bits(),
        _ => from == to,
    }
}
