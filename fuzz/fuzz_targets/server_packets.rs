//! Packets of servers' answers that are looked into: OK, EOF, ERR, session state, columns, rows, prepared statements.
#![no_main]

use libfuzzer_sys::fuzz_target;
use usher_fuzz::Input;
use usher_wire::packet::{Change, Changes, EofPacket, ErrPacket, OkPacket, put_change};
use usher_wire::result::Column;
use usher_wire::rows::{BinaryRow, TextRow};
use usher_wire::stmt::{ParamType, PrepareOk};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    match input.byte() % 8 {
        0 => ok(input.rest()),
        1 => state(input.rest()),
        2 => {
            if let Ok(err) = ErrPacket::parse(input.rest()) {
                let mut out = Vec::new();
                err.encode(&mut out);
                assert_eq!(ErrPacket::parse(&out), Ok(err));
                assert!(err.text().len() <= 3 * err.message.len());
            }
        }
        3 => {
            if let Ok(eof) = EofPacket::parse(input.rest()) {
                assert_eq!(EofPacket::parse(&eof.bytes()), Ok(eof));
            }
        }
        4 => {
            if let Ok(column) = Column::parse(input.rest()) {
                let mut out = Vec::new();
                column.encode(&mut out);
                assert_eq!(Column::parse(&out), Ok(column));
            }
        }
        5 => {
            if let Ok(prepared) = PrepareOk::parse(input.rest()) {
                let mut out = Vec::new();
                prepared.encode(&mut out);
                assert_eq!(PrepareOk::parse(&out), Ok(prepared));
            }
        }
        6 => {
            let row = input.rest();
            let cells = TextRow::new(row).map_while(Result::ok).flatten();
            assert!(cells.map(<[u8]>::len).sum::<usize>() <= row.len());
        }
        _ => binary_row(&mut input),
    }
});

fn ok(payload: &[u8]) {
    let Ok(ok) = OkPacket::parse(payload) else { return };
    state(ok.state);
    let mut out = Vec::new();
    ok.encode(&mut out, true);
    let mut again = OkPacket::parse(&out).expect("an OK packet of ours");
    // The flag says whether there is a state, which servers may get wrong.
    again.status = ok.status;
    assert_eq!(again, ok);
}

/// What was understood of a block of changes is understood the same when it is written anew.
fn state(block: &[u8]) {
    let changes: Vec<Change<'_>> = Changes::new(block).collect();
    // Each takes a byte at least, of the block or of a list in it.
    assert!(changes.len() <= block.len());
    let mut out = Vec::new();
    changes.iter().for_each(|change| put_change(&mut out, change));
    let again: Vec<Change<'_>> = Changes::new(&out).collect();
    assert_eq!(again, changes);
}

fn binary_row(input: &mut Input<'_>) {
    let types: Vec<ParamType> =
        input.string().chunks_exact(2).map(|pair| ParamType::from_bytes([pair[0], pair[1]])).collect();
    if let Ok(row) = BinaryRow::new(input.rest(), &types) {
        assert!(row.count() <= types.len());
    }
}
