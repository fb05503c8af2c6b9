//! Packets, commands, parameters and result sets: round trips, known bytes, arbitrary bytes.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use usher_wire::codec::{Reader, put_lenenc_bytes, put_lenenc_int};
use usher_wire::command::{Command, strip_attributes};
use usher_wire::frame::{self, HEADER_LEN, write_packet};
use usher_wire::packet::{Change, EofPacket, ErrPacket, OkPacket, put_change};
use usher_wire::result::{Answer, Column, Format, Value};
use usher_wire::rows::{BinaryRow, TextRow};
use usher_wire::status::Status;
use usher_wire::stmt::{Execute, Param, ParamType, PrepareOk, write_execute};
use usher_wire::{Caps, Error};

const ATTRS: Caps = Caps::QUERY_ATTRIBUTES;
const NONE: Caps = Caps(0);

#[test]
fn commands() {
    let parse = |bytes| Command::parse(bytes, NONE).unwrap();
    assert_eq!(parse(b"\x01"), Command::Quit);
    assert_eq!(parse(b"\x02shop"), Command::InitDb(b"shop"));
    assert_eq!(parse(b"\x04users\0na%"), Command::FieldList { table: b"users", wildcard: b"na%" });
    assert_eq!(parse(b"\x0c\x05\x00\x00\x00"), Command::ProcessKill(5));
    assert_eq!(parse(b"\x0e"), Command::Ping);
    assert_eq!(parse(b"\x16SELECT ?"), Command::StmtPrepare(b"SELECT ?"));
    let long = Command::StmtSendLongData { id: 1, param: 2, data: b"xyz" };
    assert_eq!(parse(b"\x18\x01\x00\x00\x00\x02\x00xyz"), long);
    assert_eq!(parse(b"\x1c\x01\x00\x00\x00\x0a\x00\x00\x00"), Command::StmtFetch { id: 1, rows: 10 });
    assert_eq!(parse(b"\x1b\x01\x00"), Command::SetOption(1));
    assert_eq!(parse(b"\x1f"), Command::ResetConnection);
    assert_eq!(parse(b"\x0d"), Command::Unknown(0x0d));
    assert_eq!(usher_wire::command::name(0x17), "COM_STMT_EXECUTE");
    assert!(Command::parse(b"", NONE).is_err());
    assert!(Command::parse(b"\x19\x01", NONE).is_err());
}

#[test]
fn query_attributes_are_read_and_stripped() {
    let Command::Query(plain) = Command::parse(b"\x03SELECT 1", NONE).unwrap() else { panic!() };
    assert_eq!((plain.text, plain.text_at), (&b"SELECT 1"[..], 1));

    let Command::Query(none) = Command::parse(b"\x03\x00\x01SELECT 1", ATTRS).unwrap() else { panic!() };
    assert_eq!((none.text, none.text_at, none.attributes.is_empty()), (&b"SELECT 1"[..], 3, true));

    // Two attributes: usher_user = 623 (LONGLONG) and a NULL string.
    let mut payload = b"\x03\x02\x01\x02\x01\x08\x00\x0ausher_user\xfd\x00\x01n".to_vec();
    payload.extend_from_slice(&623i64.to_le_bytes());
    let text_at = payload.len();
    payload.extend_from_slice(b"SELECT 2");
    let Command::Query(query) = Command::parse(&payload, ATTRS).unwrap() else { panic!() };
    assert_eq!((query.text, query.text_at), (&b"SELECT 2"[..], text_at));
    assert_eq!(query.attributes.value(b"usher_user"), Some(Param::Int(623)));
    assert_eq!(query.attributes.value(b"n"), Some(Param::Null));
    assert_eq!(query.attributes.value(b"x"), None);

    for (payload, text_at) in
        [(payload, text_at), (b"\x03\x00\x01SELECT 2".to_vec(), 3), (b"\x03SELECT 2".to_vec(), 1)]
    {
        let mut packet = Vec::new();
        write_packet(&mut packet, &mut 0, |o| o.extend_from_slice(&payload));
        packet.extend_from_slice(b"more");
        let part = strip_attributes(&mut packet, text_at).unwrap();
        assert_eq!(&packet[part], b"\x09\x00\x00\x00\x03SELECT 2");
    }
    // The types must be there.
    assert!(Command::parse(b"\x03\x01\x01\x00\x00SELECT 1", ATTRS).is_err());
    assert!(Command::parse(b"\x03\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", ATTRS).is_err());
}

/// COM_STMT_EXECUTE of `(-5 TINY, NULL, "abc", 2024-02-29 12:30:00)`.
const EXECUTE: &[u8] = b"\x17\x07\x00\x00\x00\x01\x01\x00\x00\x00\x02\x01\
    \x01\x00\x06\x00\xfd\x00\x0c\x00\xfb\x03abc\x07\xe8\x07\x02\x1d\x0c\x1e\x00";

fn types(codes: &[u8]) -> Vec<ParamType> {
    codes.iter().map(|code| ParamType::new(*code)).collect()
}

#[test]
fn execute_with_types() {
    let execute = Execute::parse(EXECUTE, 4, &[], &[], false).unwrap();
    assert_eq!((execute.id, execute.flags), (7, 1));
    let date = Param::Date { year: 2024, month: 2, day: 29, hour: 12, minute: 30, second: 0, micro: 0 };
    let values: Vec<_> = execute.params().map(|(_, value)| value).collect();
    assert_eq!(values, [Param::Int(-5), Param::Null, Param::Bytes(b"abc"), date]);
    assert!(execute.is_plain(false) && execute.block.has_types());
    let mut kept = Vec::new();
    execute.remember_types(&mut kept);
    assert_eq!(kept, types(&[1, 6, 0xfd, 0x0c]));

    // The same values again, without types.
    let mut again = EXECUTE[..11].to_vec();
    again.push(0);
    again.extend_from_slice(&EXECUTE[20..]);
    let second = Execute::parse(&again, 4, &kept, &[], false).unwrap();
    assert!(second.params().map(|(_, value)| value).eq(values));
    assert!(!second.is_plain(false));
    assert_eq!(Execute::parse(&again, 4, &[], &[], false), Err(Error::Malformed("parameters without types")));

    // Rewritten, it is the first packet under another id.
    let mut out = Vec::new();
    second.rewrite(&mut out, &mut 0, 7, &[], |_| None);
    assert_eq!(&out[HEADER_LEN..], EXECUTE);

    let mut patched = EXECUTE.to_vec();
    Execute::patch_id(&mut patched, 9).unwrap();
    assert_eq!(Execute::parse(&patched, 4, &[], &[], false).unwrap().id, 9);
    assert!(Execute::patch_id(&mut [0x17], 9).is_err());
}

#[test]
fn execute_with_long_data_and_replaced_values() {
    // Three strings; the second came ahead and so has no bytes here.
    let payload = b"\x17\x01\x00\x00\x00\x00\x01\x00\x00\x00\x00\x01\xfd\x00\xfc\x00\xfd\x00\x01a\x01c";
    let execute = Execute::parse(payload, 3, &[], &[1], false).unwrap();
    let values: Vec<_> = execute.params().map(|(_, value)| value).collect();
    assert_eq!(values, [Param::Bytes(b"a"), Param::Long, Param::Bytes(b"c")]);
    assert!(!execute.is_plain(false));

    let mut out = Vec::new();
    execute.rewrite(&mut out, &mut 0, 2, &[(1, b"ahead")], |n| (n == 0).then_some(Param::UInt(1 << 40)));
    let rewritten = Execute::parse(&out[HEADER_LEN..], 3, &[], &[], false).unwrap();
    let values: Vec<_> = rewritten.params().collect();
    assert_eq!(values[0], (ParamType { code: 8, unsigned: true }, Param::UInt(1 << 40)));
    assert_eq!(values[1], (ParamType::new(0xfc), Param::Bytes(b"ahead")));
    assert_eq!(values[2], (ParamType::new(0xfd), Param::Bytes(b"c")));
    assert_eq!(rewritten.id, 2);
}

#[test]
fn execute_with_query_attributes() {
    // As mysql2 and libmysqlclient send it: the count, a nameless placeholder, a named attribute.
    let payload = b"\x17\x01\x00\x00\x00\x08\x01\x00\x00\x00\x02\x00\x01\
        \xfd\x00\x00\x01\x00\x05trace\x05admin\x2a";
    let execute = Execute::parse(payload, 1, &[], &[], true).unwrap();
    assert_eq!(execute.flags, 0);
    assert!(execute.params().map(|(_, value)| value).eq([Param::Bytes(b"admin")]));
    assert_eq!(execute.attributes().value(b"trace"), Some(Param::Int(42)));
    assert!(!execute.is_plain(true));
    let mut out = Vec::new();
    execute.rewrite(&mut out, &mut 0, 1, &[], |_| None);
    assert_eq!(&out[HEADER_LEN..], b"\x17\x01\x00\x00\x00\x00\x01\x00\x00\x00\x00\x01\xfd\x00\x05admin");

    // No placeholders, no attributes: with and without the count.
    for payload in
        [&b"\x17\x01\x00\x00\x00\x08\x01\x00\x00\x00\x00"[..], b"\x17\x01\x00\x00\x00\x00\x01\x00\x00\x00"]
    {
        assert_eq!(Execute::parse(payload, 0, &[], &[], true).unwrap().block.len(), 0);
    }
    // Fewer values than placeholders.
    assert!(Execute::parse(b"\x17\x01\x00\x00\x00\x08\x01\x00\x00\x00\x00", 1, &[], &[], true).is_err());
}

fn param() -> impl Strategy<Value = Param<'static>> {
    prop_oneof![
        Just(Param::Null),
        any::<i64>().prop_map(Param::Int),
        any::<u64>().prop_map(Param::UInt),
        any::<i32>().prop_map(|v| Param::Float(v as f32)),
        any::<i64>().prop_map(|v| Param::Double(v as f64)),
        prop_oneof![Just(&b""[..]), Just(&b"text"[..]), Just(&[7u8; 300][..])].prop_map(Param::Bytes),
        (any::<u16>(), 0u8..13, 0u8..32, 0u8..24, 0u8..60, 0u8..60, 0u32..1_000_000).prop_map(
            |(year, month, day, hour, minute, second, micro)| Param::Date {
                year,
                month,
                day,
                hour,
                minute,
                second,
                micro
            }
        ),
        (any::<bool>(), any::<u32>(), 0u8..24, 0u8..60, 0u8..60, 0u32..1_000_000).prop_map(
            |(negative, days, hour, minute, second, micro)| Param::Time {
                negative,
                days,
                hour,
                minute,
                second,
                micro
            }
        ),
    ]
}

proptest! {
    #[test]
    fn executes_round_trip(params in proptest::collection::vec(param(), 0..20), id in any::<u32>()) {
        let mut out = Vec::new();
        write_execute(&mut out, &mut 0, id, 0, &params);
        let count = u16::try_from(params.len()).unwrap();
        let execute = Execute::parse(&out[HEADER_LEN..], count, &[], &[], false).unwrap();
        prop_assert_eq!(execute.id, id);
        prop_assert!(execute.params().map(|(_, value)| value).eq(params));
        let mut again = Vec::new();
        execute.rewrite(&mut again, &mut 0, id, &[], |_| None);
        prop_assert_eq!(again, out);
    }

    #[test]
    fn ok_packets_round_trip(
        numbers in any::<(u64, u64, u16, u16)>(),
        info in proptest::collection::vec(any::<u8>(), 0..300),
        schema in proptest::option::of("[a-z]{0,20}"),
        rows_end in any::<bool>(),
    ) {
        let mut state = Vec::new();
        if let Some(schema) = &schema {
            put_change(&mut state, &Change::Schema(schema.as_bytes()));
            put_change(&mut state, &Change::State(true));
            put_change(&mut state, &Change::TransactionState(b"T_______"));
            put_change(&mut state, &Change::TransactionCharacteristics(b"START TRANSACTION;"));
            put_change(&mut state, &Change::Other(9, b"raw"));
        }
        let changed = |on| if on { Status::SESSION_STATE_CHANGED } else { Status(0) };
        let status = Status(numbers.2).without(Status::SESSION_STATE_CHANGED).with(changed(!state.is_empty()));
        let ok = OkPacket {
            header: if rows_end { 0xfe } else { 0 },
            affected_rows: numbers.0,
            last_insert_id: numbers.1,
            status,
            warnings: numbers.3,
            info: &info,
            state: &state,
        };
        let mut out = Vec::new();
        ok.encode(&mut out, true);
        prop_assert_eq!(OkPacket::parse(&out), Ok(ok));
        prop_assert_eq!(ok.changes().count(), if state.is_empty() { 0 } else { 5 });
        prop_assert_eq!(EofPacket::parse(&ok.to_eof().bytes()).unwrap(), ok.to_eof());
    }

    #[test]
    fn err_packets_round_trip(code in any::<u16>(), state in any::<[u8; 5]>(), message in any::<Vec<u8>>()) {
        let err = ErrPacket { code, sqlstate: state, message: &message };
        let mut out = Vec::new();
        err.encode(&mut out);
        prop_assert_eq!(ErrPacket::parse(&out), Ok(err));
    }

    #[test]
    fn basic_types_round_trip(number in any::<u64>(), shift in 0u32..64, bytes in any::<Vec<u8>>()) {
        let number = number >> shift;
        let mut out = Vec::new();
        put_lenenc_int(&mut out, number);
        put_lenenc_bytes(&mut out, &bytes);
        let mut r = Reader::new(&out, "test");
        prop_assert_eq!(r.lenenc_int(), Ok(number));
        prop_assert_eq!(r.lenenc_bytes(), Ok(&bytes[..]));
        prop_assert!(r.is_empty());
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
        command in 0u8..0x24,
        params in 0u16..20,
        text_at in 0usize..100,
    ) {
        let mut payload = vec![command];
        payload.extend_from_slice(&bytes);
        for caps in [NONE, ATTRS] {
            let _ = Command::parse(&bytes, caps);
            if let Ok(Command::Query(query)) = Command::parse(&payload, caps) {
                let _ = query.attributes.iter().count();
            }
        }
        // A plausible head, so that the block is reached.
        let mut execute = b"\x17\x01\x00\x00\x00\x08\x01\x00\x00\x00".to_vec();
        execute.extend_from_slice(&bytes);
        let known = types(&[3; 20]);
        for (types, attributes) in [(&known[..], false), (&[][..], true)] {
            if let Ok(parsed) = Execute::parse(&execute, params, types, &[1], attributes) {
                let mut out = Vec::new();
                parsed.rewrite(&mut out, &mut 0, 1, &[], |_| None);
                let _ = parsed.attributes().iter().count();
            }
        }
        let _ = (OkPacket::parse(&bytes), ErrPacket::parse(&bytes), PrepareOk::parse(&bytes), Column::parse(&bytes));
        let _ = usher_wire::packet::Changes::new(&bytes).count();
        let _ = TextRow::new(&bytes).count();
        let all: Vec<ParamType> = (0..=255).map(ParamType::new).collect();
        let _ = BinaryRow::new(&bytes, &all).map(Iterator::count);
        let _ = frame::message(&bytes, 50);
        let _ = strip_attributes(&mut payload, text_at);
    }
}

/// The payloads of consecutive packets; their ids must follow each other from 1 on.
fn payloads(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some(frame) = frame::frame(bytes) {
        found.push(frame.payload);
        assert_eq!(usize::from(frame.seq), found.len());
        bytes = &bytes[frame.wire_len()..];
    }
    assert!(bytes.is_empty());
    found
}

#[test]
fn result_sets_in_both_formats_for_both_kinds_of_clients() {
    let columns = [Column::text("name"), Column::bigint("n"), Column::unsigned("u"), Column::double("d")];
    let row = [Value::from("ann"), Value::Int(-3), Value::Null, Value::Double(1.5)];
    for caps in [Caps::offer(false), Caps::offer(false).without(Caps::DEPRECATE_EOF)] {
        let eofs = usize::from(!caps.has(Caps::DEPRECATE_EOF));
        for format in [Format::Text, Format::Binary] {
            let mut out = Vec::new();
            let mut rows = Answer::new(&mut out, 1, caps).rows(format, &columns, Status::AUTOCOMMIT).unwrap();
            rows.row(&row).unwrap();
            assert!(rows.row(&row[..3]).is_err());
            rows.end(Status::AUTOCOMMIT, 2);
            let packets = payloads(&out);
            assert_eq!(packets.len(), 1 + 4 + eofs + 1 + 1);
            assert_eq!(Column::parse(packets[2]).unwrap(), columns[1]);
            let cells = packets[5 + eofs];
            match format {
                Format::Text => {
                    let cells: Vec<_> = TextRow::new(cells).map(Result::unwrap).collect();
                    assert_eq!(cells, [Some(&b"ann"[..]), Some(b"-3"), None, Some(b"1.5")]);
                }
                Format::Binary => {
                    let types: Vec<_> = columns.iter().map(|c| ParamType::new(c.ty)).collect();
                    let cells: Vec<_> = BinaryRow::new(cells, &types).unwrap().map(Result::unwrap).collect();
                    assert_eq!(
                        cells,
                        [Param::Bytes(b"ann"), Param::Int(-3), Param::Null, Param::Double(1.5)]
                    );
                }
            }
            let last = packets[6 + eofs];
            match eofs {
                0 => assert_eq!(OkPacket::parse(last).unwrap().warnings, 2),
                _ => assert_eq!(EofPacket::parse(last).unwrap().warnings, 2),
            }
        }
    }
}

#[test]
fn a_value_that_does_not_fit_leaves_no_trace() {
    let columns = [Column::bigint("n")];
    let mut out = Vec::new();
    let mut rows =
        Answer::new(&mut out, 1, Caps::offer(false)).rows(Format::Binary, &columns, Status(0)).unwrap();
    assert!(rows.row(&[Value::from("x")]).is_err());
    rows.row(&[Value::Int(1)]).unwrap();
    rows.fail(&usher_wire::sqlerr::ErrorId::ReadInterrupted.into());
    let packets = payloads(&out);
    assert_eq!(packets.len(), 4);
    assert_eq!(ErrPacket::parse(packets[3]).unwrap().code, 1159);
    assert!(Answer::new(&mut out, 1, NONE).rows(Format::Text, &[], Status(0)).is_err());
}

#[test]
fn session_variables_may_share_a_block() {
    let mut data = Vec::new();
    for text in [&b"autocommit"[..], b"ON", b"sql_mode", b""] {
        put_lenenc_bytes(&mut data, text);
    }
    let mut state = vec![0];
    put_lenenc_bytes(&mut state, &data);
    put_change(&mut state, &Change::Gtids(b"0-1-2"));
    let changes: Vec<_> = usher_wire::packet::Changes::new(&state).collect();
    assert_eq!(
        changes,
        [
            Change::Variable { name: b"autocommit", value: b"ON" },
            Change::Variable { name: b"sql_mode", value: b"" },
            Change::Gtids(b"0-1-2"),
        ]
    );
}
