//! The relay against answers built packet by packet, in every chunking, for every form of client.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use usher_wire::frame::{HEADER_LEN, MAX_PAYLOAD, frame, write_packet};
use usher_wire::packet::{Change, EofPacket, ErrPacket, OkPacket, TrackSet, put_change};
use usher_wire::relay::{ClientForm, End, Kind, OkEdit, Progress, Relay};
use usher_wire::result::{Answer, Column};
use usher_wire::status::Status;
use usher_wire::stmt::PrepareOk;
use usher_wire::{Caps, Error};

const OLD: ClientForm =
    ClientForm { deprecate_eof: false, track: TrackSet::NONE, status: Status::AUTOCOMMIT };
const NO_TRACK: ClientForm = ClientForm { deprecate_eof: true, ..OLD };

/// What the caller of the relay saw.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Seen {
    sent: Vec<u8>,
    ends: Vec<(bool, u64, u64, Status, u16)>,
    errors: usize,
    rows: u64,
    done: bool,
    left: usize,
}

fn note_end(seen: &mut Seen, end: &End) {
    seen.ends.push((end.rows_end, end.affected_rows, end.last_insert_id, end.status, end.warnings));
}

/// The loop that the relay's documentation shows.
fn drive(kind: Kind, form: ClientForm, chunks: &[&[u8]], edit: &OkEdit<'_>) -> Result<Seen, Error> {
    let mut relay = Relay::new(kind, form);
    let (mut seen, mut buf) = (Seen::default(), Vec::new());
    for chunk in chunks {
        buf.extend_from_slice(chunk);
        loop {
            match relay.advance(&mut buf)? {
                Progress::More => break,
                Progress::Done => {
                    seen.done = true;
                    break;
                }
                Progress::Ok(end) => {
                    note_end(&mut seen, &end);
                    relay.pass_ok(&mut buf, edit)?;
                }
                Progress::Err(_) => {
                    seen.errors += 1;
                    relay.pass(&mut buf)?;
                }
                Progress::Prepared(_) | Progress::LocalInfile(_) => relay.pass(&mut buf)?,
            }
        }
        let ready = relay.ready();
        assert!(ready <= buf.len());
        seen.sent.extend(buf.drain(..ready));
        relay.sent(ready);
    }
    seen.rows = relay.rows();
    seen.left = buf.len();
    Ok(seen)
}

fn whole(kind: Kind, form: ClientForm, bytes: &[u8]) -> Seen {
    drive(kind, form, &[bytes], &OkEdit::default()).unwrap()
}

/// One result of an answer, in a form free of any encoding.
#[derive(Debug, Clone)]
enum Part {
    Ok { affected: u64, id: u64, warnings: u16, info: Vec<u8>, schema: Option<String> },
    Rows { columns: usize, rows: Vec<Vec<u8>>, warnings: u16, schema: Option<String> },
    Cursor { columns: usize },
    Err,
}

fn state_of(schema: Option<&String>) -> Vec<u8> {
    let mut state = Vec::new();
    if let Some(schema) = schema {
        put_change(&mut state, &Change::Schema(schema.as_bytes()));
    }
    state
}

/// Writes the parts as a server would for a client of this form: the expectation, made without the relay.
fn encode(parts: &[Part], deprecate_eof: bool, track: bool) -> Vec<u8> {
    let (mut out, mut seq) = (Vec::new(), 1);
    for (n, part) in parts.iter().enumerate() {
        let more = if n + 1 < parts.len() { Status::MORE_RESULTS } else { Status(0) };
        let status = Status::AUTOCOMMIT.with(more);
        match part {
            Part::Ok { affected, id, warnings, info, schema } => {
                let state = state_of(schema.as_ref());
                let ok = OkPacket {
                    header: 0,
                    affected_rows: *affected,
                    last_insert_id: *id,
                    status,
                    warnings: *warnings,
                    info,
                    state: &state,
                };
                write_packet(&mut out, &mut seq, |o| ok.encode(o, track));
            }
            Part::Rows { columns, rows, warnings, schema } => {
                put_columns(&mut out, &mut seq, *columns);
                if !deprecate_eof {
                    let eof = EofPacket { warnings: 0, status: Status::AUTOCOMMIT };
                    write_packet(&mut out, &mut seq, |o| o.extend_from_slice(&eof.bytes()));
                }
                for row in rows {
                    write_packet(&mut out, &mut seq, |o| o.extend_from_slice(row));
                }
                let state = state_of(schema.as_ref());
                put_end(&mut out, &mut seq, status, *warnings, &state, (deprecate_eof, track));
            }
            Part::Cursor { columns } => {
                put_columns(&mut out, &mut seq, *columns);
                let status = status.with(Status::CURSOR_EXISTS);
                put_end(&mut out, &mut seq, status, 0, &[], (deprecate_eof, track));
            }
            Part::Err => {
                let err = ErrPacket { code: 1064, sqlstate: *b"42000", message: b"no" };
                write_packet(&mut out, &mut seq, |o| err.encode(o));
                break;
            }
        }
    }
    out
}

fn put_columns(out: &mut Vec<u8>, seq: &mut u8, columns: usize) {
    write_packet(out, seq, |o| usher_wire::codec::put_lenenc_int(o, columns as u64));
    for _ in 0..columns {
        write_packet(out, seq, |o| Column::text("c").encode(o));
    }
}

fn put_end(
    out: &mut Vec<u8>,
    seq: &mut u8,
    status: Status,
    warnings: u16,
    state: &[u8],
    (deprecate_eof, track): (bool, bool),
) {
    let ok = OkPacket { header: 0xfe, status, warnings, state, ..OkPacket::default() };
    write_packet(out, seq, |o| match deprecate_eof {
        true => ok.encode(o, track),
        false => o.extend_from_slice(&ok.to_eof().bytes()),
    });
}

fn part() -> impl Strategy<Value = Part> {
    let schema = || proptest::option::of("[a-z]{0,300}");
    let row = prop_oneof![
        Just(vec![0xfb]),
        Just(vec![0]),
        (0u8..0xfb, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(first, mut rest)| {
            rest.insert(0, first);
            rest
        }),
    ];
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<u16>(), proptest::collection::vec(any::<u8>(), 0..20), schema())
            .prop_map(|(affected, id, warnings, info, schema)| Part::Ok {
                affected,
                id,
                warnings,
                info,
                schema
            }),
        (1usize..5, proptest::collection::vec(row, 0..20), any::<u16>(), schema())
            .prop_map(|(columns, rows, warnings, schema)| Part::Rows { columns, rows, warnings, schema }),
        (1usize..4).prop_map(|columns| Part::Cursor { columns }),
        Just(Part::Err),
    ]
}

/// The number of warnings in an EOF before rows depends on what has come by then.
fn without_early_warnings(mut seen: Seen, form: ClientForm, parts: &[Part]) -> Seen {
    if form.deprecate_eof {
        return seen;
    }
    let mut early = parts.iter().flat_map(|part| match part {
        Part::Rows { .. } => vec![true, false],
        Part::Cursor { .. } => vec![false],
        _ => vec![],
    });
    let mut at = 0;
    while let Some(found) = frame(&seen.sent[at..]) {
        let (len, is_eof) = (found.wire_len(), found.payload.len() == 5 && found.payload[0] == 0xfe);
        if is_eof && early.next() == Some(true) {
            seen.sent[at + 5..at + 7].fill(0);
        }
        at += len;
    }
    seen
}

fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
    at.sort_unstable();
    at.push(bytes.len());
    let mut from = 0;
    at.into_iter().map(|to| &bytes[std::mem::replace(&mut from, to)..to]).collect()
}

proptest! {
    #[test]
    fn any_chunking_gives_what_the_client_expects(
        parts in proptest::collection::vec(part(), 1..4),
        cuts in proptest::collection::vec(any::<usize>(), 0..30),
    ) {
        let bytes = encode(&parts, true, true);
        for form in [ClientForm::SAME, NO_TRACK, OLD] {
            let expected = encode(&parts, form.deprecate_eof, form.track != TrackSet::NONE);
            let once = whole(Kind::Cursor, form, &bytes);
            let once = without_early_warnings(once, form, &parts);
            prop_assert_eq!(&once.sent, &expected);
            prop_assert!(once.done && once.left == 0);
            let chunked = drive(Kind::Cursor, form, &cut(&bytes, &cuts), &OkEdit::default()).unwrap();
            prop_assert_eq!(&without_early_warnings(chunked, form, &parts), &once);
            let singly: Vec<&[u8]> = bytes.chunks(1).collect();
            let singly = drive(Kind::Cursor, form, &singly, &OkEdit::default()).unwrap();
            prop_assert_eq!(&without_early_warnings(singly, form, &parts), &once);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        cuts in proptest::collection::vec(any::<usize>(), 0..5),
    ) {
        for kind in [Kind::Query, Kind::Cursor, Kind::Prepare, Kind::FieldList, Kind::Fetch, Kind::Simple, Kind::Statistics] {
            for form in [ClientForm::SAME, OLD] {
                let _ = drive(kind, form, &cut(&bytes, &cuts), &OkEdit::default());
            }
        }
    }

    #[test]
    fn arbitrary_packets_never_panic(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..12),
    ) {
        let (mut bytes, mut seq) = (Vec::new(), 1);
        for payload in &payloads {
            write_packet(&mut bytes, &mut seq, |o| o.extend_from_slice(payload));
        }
        for kind in [Kind::Query, Kind::Cursor, Kind::Prepare, Kind::FieldList, Kind::Fetch, Kind::Simple, Kind::Statistics] {
            let edit = OkEdit { warnings: Some(3), ..OkEdit::default() };
            let _ = drive(kind, OLD, &[&bytes], &edit);
        }
    }
}

#[test]
fn a_point_select_leaves_raw_in_one_piece() {
    let rows = vec![b"\x0242\x05alice".to_vec()];
    let bytes = encode(&[Part::Rows { columns: 2, rows, warnings: 0, schema: None }], true, true);
    let mut buf = bytes.clone();
    let mut relay = Relay::new(Kind::Query, ClientForm::SAME);
    let Progress::Ok(end) = relay.advance(&mut buf).unwrap() else { panic!() };
    assert!(end.rows_end && !end.more_results());
    relay.pass(&mut buf).unwrap();
    assert!(relay.is_done());
    assert_eq!((relay.ready(), relay.rows()), (bytes.len(), 1));
    assert_eq!(buf, bytes);
}

#[test]
fn rows_over_16_mib_pass_in_pieces_and_0xfe_does_not_end_them() {
    // First cell of 16 MiB: its length starts with 0xFE.
    let mut row = vec![0xfe];
    row.extend_from_slice(&(MAX_PAYLOAD as u64).to_le_bytes());
    row.resize(9 + MAX_PAYLOAD, b'x');
    let exact = vec![b'y'; 2 * MAX_PAYLOAD];
    let rows = vec![row, exact, b"\x01z".to_vec()];
    let parts = [Part::Rows { columns: 1, rows, warnings: 7, schema: None }];
    let bytes = encode(&parts, true, true);
    for form in [ClientForm::SAME, OLD] {
        let expected = encode(&parts, form.deprecate_eof, form.track != TrackSet::NONE);
        let chunks: Vec<&[u8]> = bytes.chunks(1_000_003).collect();
        let seen = drive(Kind::Query, form, &chunks, &OkEdit::default()).unwrap();
        assert!(seen.sent == expected);
        assert_eq!((seen.rows, seen.done), (3, true));
    }
}

#[test]
fn long_rows_are_ready_in_pieces_and_short_ones_whole() {
    for (len, ready) in [(100_000, 200), (1_000, 32)] {
        let rows = vec![vec![b'x'; len]];
        let bytes = encode(&[Part::Rows { columns: 1, rows, warnings: 0, schema: None }], true, true);
        let mut buf = bytes[..200].to_vec();
        let mut relay = Relay::new(Kind::Query, ClientForm::SAME);
        assert_eq!(relay.advance(&mut buf), Ok(Progress::More));
        assert_eq!((relay.ready(), relay.is_between_packets()), (ready, len == 1_000));
    }
}

#[test]
fn pipelined_answers_stop_at_their_end() {
    let one = encode(&[Part::Ok { affected: 1, id: 2, warnings: 0, info: vec![], schema: None }], true, true);
    let both = [one.clone(), one.clone()].concat();
    let seen = whole(Kind::Query, ClientForm::SAME, &both);
    assert_eq!((seen.sent, seen.left, seen.done), (one.clone(), one.len(), true));
}

#[test]
fn an_err_ends_rows_and_gets_the_id_that_the_client_expects() {
    let mut bytes = encode(
        &[Part::Rows { columns: 1, rows: vec![vec![1, b'a']], warnings: 0, schema: None }],
        true,
        true,
    );
    let end = bytes.len() - 7 - HEADER_LEN;
    bytes.truncate(end);
    // A dying server's own idea of the id.
    write_packet(&mut bytes, &mut 0, |o| {
        ErrPacket { code: 1053, sqlstate: *b"08S01", message: b"bye" }.encode(o)
    });
    let seen = whole(Kind::Query, OLD, &bytes);
    assert_eq!((seen.errors, seen.done), (1, true));
    // count, column, EOF, row, ERR.
    let err_at = seen.sent.len() - 12 - HEADER_LEN;
    assert_eq!(seen.sent[err_at + 3], 5);
}

#[test]
fn edits_change_the_ok_packet() {
    let bytes = encode(
        &[Part::Ok { affected: 1, id: 2, warnings: 3, info: b"i".to_vec(), schema: None }],
        true,
        true,
    );
    let edit = OkEdit {
        set_status: Status::MORE_RESULTS,
        clear_status: Status::AUTOCOMMIT,
        affected_rows: Some(300),
        last_insert_id: Some(70_000),
        warnings: Some(1),
        info: Some(b"text"),
        state: None,
    };
    let seen = drive(Kind::Query, ClientForm::SAME, &[&bytes], &edit).unwrap();
    let ok = OkPacket::parse(&seen.sent[HEADER_LEN..]).unwrap();
    assert_eq!((ok.affected_rows, ok.last_insert_id, ok.warnings, ok.info), (300, 70_000, 1, &b"text"[..]));
    assert_eq!(ok.status, Status::MORE_RESULTS);
    // What the server said decides where its answer ends.
    assert!(seen.done);
}

#[test]
fn state_changes_are_filtered_by_kind() {
    let mut state = Vec::new();
    put_change(&mut state, &Change::Gtids(b"0-1-9"));
    put_change(&mut state, &Change::Schema(b"app"));
    put_change(&mut state, &Change::Variable { name: b"autocommit", value: b"ON" });
    let mut bytes = Vec::new();
    let ok = OkPacket { state: &state, ..OkPacket::default() };
    write_packet(&mut bytes, &mut 1, |o| ok.encode(o, true));

    let form = ClientForm { track: TrackSet::SCHEMA.with(TrackSet::VARIABLES), ..ClientForm::SAME };
    let seen = whole(Kind::Query, form, &bytes);
    let sent = OkPacket::parse(&seen.sent[HEADER_LEN..]).unwrap();
    let kept: Vec<_> = sent.changes().collect();
    assert_eq!(kept, [Change::Schema(b"app"), Change::Variable { name: b"autocommit", value: b"ON" }]);

    let mut buf = bytes.clone();
    let Progress::Ok(end) = Relay::new(Kind::Query, NO_TRACK).advance(&mut buf).unwrap() else { panic!() };
    assert_eq!(end.changes(&buf).count(), 3);
    let sent = whole(Kind::Query, NO_TRACK, &bytes).sent;
    assert_eq!(sent[HEADER_LEN..], [0, 0, 0, 2, 0, 0, 0]);
}

#[test]
fn prepare_answers_end_by_count() {
    let mut all = Vec::new();
    let (params, columns) = ([Column::placeholder(); 2], [Column::bigint("a"); 3]);
    let full = Caps::offer(false);
    for (p, c) in [(0, 0), (1, 0), (0, 1), (2, 3)] {
        let (mut new, mut old) = (Vec::new(), Vec::new());
        Answer::new(&mut new, 1, full).prepared(9, &params[..p], &columns[..c], Status::AUTOCOMMIT).unwrap();
        let caps = full.without(Caps::DEPRECATE_EOF);
        Answer::new(&mut old, 1, caps).prepared(9, &params[..p], &columns[..c], Status::AUTOCOMMIT).unwrap();
        assert_eq!(whole(Kind::Prepare, ClientForm::SAME, &new).sent, new);
        assert_eq!(whole(Kind::Prepare, OLD, &new).sent, old);
        let singly: Vec<&[u8]> = new.chunks(1).collect();
        let seen = drive(Kind::Prepare, OLD, &singly, &OkEdit::default()).unwrap();
        assert_eq!((&seen.sent, seen.done), (&old, true));
        all.push(new);
    }
    let mut buf = all.remove(3);
    let mut relay = Relay::new(Kind::Prepare, ClientForm::SAME);
    let Progress::Prepared(prepared) = relay.advance(&mut buf).unwrap() else { panic!() };
    assert_eq!((prepared.statement_id, prepared.params, prepared.columns), (9, 2, 3));
    prepared.set_id(&mut buf, 77);
    assert_eq!(PrepareOk::parse(&buf[prepared.at.clone()]).unwrap().id, 77);
}

#[test]
fn other_kinds_of_answers() {
    let ok = encode(&[Part::Ok { affected: 0, id: 0, warnings: 0, info: vec![], schema: None }], true, true);
    assert!(whole(Kind::Simple, OLD, &ok).done);

    let mut eof = Vec::new();
    write_packet(&mut eof, &mut 1, |o| o.extend_from_slice(&EofPacket::default().bytes()));
    assert_eq!(whole(Kind::Simple, OLD, &eof).sent, eof);

    let mut text = Vec::new();
    write_packet(&mut text, &mut 1, |o| o.extend_from_slice(b"Uptime: 5  Threads: 1"));
    let seen = drive(Kind::Statistics, OLD, &[&text[..9], &text[9..]], &OkEdit::default()).unwrap();
    assert_eq!((seen.sent, seen.done), (text, true));

    // COM_STMT_FETCH: rows without a head.
    let status = Status::CURSOR_EXISTS.with(Status::LAST_ROW_SENT);
    let (mut new, mut seq) = (Vec::new(), 1);
    write_packet(&mut new, &mut seq, |o| o.extend_from_slice(b"\x00\x00\x01a"));
    let mut old = new.clone();
    let mut old_seq = seq;
    put_end(&mut new, &mut seq, status, 0, &[], (true, true));
    put_end(&mut old, &mut old_seq, status, 0, &[], (false, false));
    assert_eq!(whole(Kind::Fetch, OLD, &new).sent, old);
    assert_eq!(whole(Kind::Fetch, ClientForm::SAME, &new).sent, new);
}

#[test]
fn a_procedures_own_cursor_does_not_end_its_rows() {
    let rows = |deprecate_eof: bool| {
        let (mut out, mut seq) = (Vec::new(), 1);
        put_columns(&mut out, &mut seq, 1);
        if !deprecate_eof {
            write_packet(&mut out, &mut seq, |o| o.extend_from_slice(&EofPacket::default().bytes()));
        }
        write_packet(&mut out, &mut seq, |o| o.extend_from_slice(b"\x011"));
        put_end(&mut out, &mut seq, Status::CURSOR_EXISTS, 0, &[], (deprecate_eof, deprecate_eof));
        out
    };
    for kind in [Kind::Query, Kind::Cursor] {
        let bytes = rows(true);
        let seen = whole(kind, OLD, &bytes).sent;
        assert_eq!(seen.len(), rows(false).len());
        let singly: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(drive(kind, OLD, &singly, &OkEdit::default()).unwrap().sent, seen);
    }
}

#[test]
fn sequence_ids_continue_over_several_answers() {
    let ok = encode(&[Part::Ok { affected: 0, id: 0, warnings: 0, info: vec![], schema: None }], true, true);
    let mut buf = ok;
    let mut relay = Relay::with_seq(Kind::Query, ClientForm::SAME, 1, 6);
    relay.advance(&mut buf).unwrap();
    relay.pass(&mut buf).unwrap();
    assert_eq!((buf[3], relay.client_seq()), (6, 7));
}

#[test]
fn dropped_and_replaced_packets_keep_the_ids_in_step() {
    let parts = [
        Part::Ok { affected: 1, id: 0, warnings: 0, info: vec![], schema: None },
        Part::Ok { affected: 2, id: 0, warnings: 0, info: vec![], schema: None },
    ];
    let mut buf = encode(&parts, true, true);
    let mut relay = Relay::new(Kind::Query, ClientForm::SAME);
    relay.advance(&mut buf).unwrap();
    relay.drop_held(&mut buf).unwrap();
    relay.advance(&mut buf).unwrap();
    relay.replace(&mut buf, b"\xff\x01\x02new").unwrap();
    assert_eq!(buf, b"\x06\x00\x00\x01\xff\x01\x02new");
    assert!(relay.is_done());
}

#[test]
fn a_local_file_request_waits_for_the_clients_packets() {
    let (mut buf, mut relay) = (Vec::new(), Relay::new(Kind::Query, ClientForm::SAME));
    write_packet(&mut buf, &mut 1, |o| o.extend_from_slice(b"\xfbfile"));
    let Progress::LocalInfile(at) = relay.advance(&mut buf).unwrap() else { panic!() };
    assert_eq!(&buf[at], b"\xfbfile");
    relay.pass(&mut buf).unwrap();
    // Two data packets and the empty one had the ids 2, 3 and 4.
    relay.after_local_infile(5);
    write_packet(&mut buf, &mut 5, |o| OkPacket::default().encode(o, true));
    assert!(matches!(relay.advance(&mut buf), Ok(Progress::Ok(_))));
    relay.pass(&mut buf).unwrap();
    assert!(relay.is_done());
}

#[test]
fn a_server_out_of_step_is_noticed() {
    let bytes = encode(
        &[Part::Rows { columns: 1, rows: vec![vec![1, b'a']], warnings: 0, schema: None }],
        true,
        true,
    );
    let mut bad = bytes.clone();
    bad[3] = 9;
    assert_eq!(
        drive(Kind::Query, OLD, &[&bad], &OkEdit::default()),
        Err(Error::OutOfOrder { expected: 1, got: 9 })
    );
    let huge = b"\x00\x00\xf0\x01\x00";
    assert!(matches!(drive(Kind::Query, OLD, &[huge], &OkEdit::default()), Err(Error::Oversized { .. })));
    let empty = b"\x00\x00\x00\x01\x00";
    assert!(drive(Kind::Query, OLD, &[empty], &OkEdit::default()).is_err());
}
