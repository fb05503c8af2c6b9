//! What the relay costs: nanoseconds a row of a long result, and a point select from end to end.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use usher_wire::Caps;
use usher_wire::packet::TrackSet;
use usher_wire::relay::{ClientForm, Kind, Progress, Relay};
use usher_wire::result::{Answer, Column, Format, Value};
use usher_wire::status::Status;

const ROUNDS: u32 = 9;

fn answer(rows: usize) -> Vec<u8> {
    let columns = [Column::bigint("id"), Column::text("name")];
    let name = "x".repeat(100);
    let mut out = Vec::new();
    let answer = Answer::new(&mut out, 1, Caps::offer(false));
    let mut set = answer.rows(Format::Text, &columns, Status::AUTOCOMMIT).unwrap();
    for n in 0..rows {
        set.row(&[Value::UInt(1000 + n as u64 % 1000), Value::from(name.as_str())]).unwrap();
    }
    set.end(Status::AUTOCOMMIT, 0);
    out
}

/// Relays once; gives the bytes ready.
fn relay(buf: &mut Vec<u8>, form: ClientForm) -> usize {
    let mut relay = Relay::new(Kind::Query, form);
    while let Progress::Ok(_) = relay.advance(buf).unwrap() {
        relay.pass(buf).unwrap();
    }
    assert!(relay.is_done());
    relay.ready()
}

fn best_ns(bytes: &[u8], times: u32, form: ClientForm) -> f64 {
    let mut buf = Vec::with_capacity(bytes.len() + 64);
    let round = |buf: &mut Vec<u8>| {
        let mut spent = 0;
        for _ in 0..times {
            buf.clear();
            buf.extend_from_slice(bytes);
            let start = Instant::now();
            relay(buf, form);
            spent += start.elapsed().as_nanos();
        }
        spent as f64 / f64::from(times)
    };
    (0..ROUNDS).map(|_| round(&mut buf)).fold(f64::INFINITY, f64::min)
}

fn main() {
    let old = ClientForm { deprecate_eof: false, track: TrackSet::NONE, status: Status::AUTOCOMMIT };
    let (long, rows) = (answer(100), 100.0);
    let point = answer(1);
    for (name, form) in [("same form", ClientForm::SAME), ("old client", old)] {
        let one = best_ns(&point, 20_000, form);
        let many = best_ns(&long, 2_000, form);
        println!("{name}: point select {one:.0} ns, each further row {:.1} ns", (many - one) / (rows - 1.0));
    }
}
