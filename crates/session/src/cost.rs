//! What a statement costs of the processor, apart from sockets and the runtime: each test here is a loop that
//! `cargo xtask instructions` counts the instructions of, for two numbers of rounds, and divides the difference.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use usher_sql::{Catalog, KeySource, KeyType, Literal, Mode, Plan, Sharded, Table, Target};
use usher_topology::Key;
use usher_wire::caps::Caps;
use usher_wire::command::Command;
use usher_wire::frame::message;
use usher_wire::packet::TrackSet;
use usher_wire::relay::{ClientForm, Kind, Progress, Relay};
use usher_wire::result::{Answer, Column, Format, Value};
use usher_wire::status::Status;
use usher_wire::stmt::{Execute, Param, write_execute};

use crate::metrics::SessionMetrics;
use crate::plans::Plans;
use crate::query::packet;
use crate::route::Values;

/// The environment variable that says how often to do it.
const ROUNDS: &str = "USHER_ROUNDS";
const PACKET_BYTES_MAX: usize = 64 << 20;
const POINT: &str =
    "SELECT id, user_id, title, body, created_at FROM posts WHERE user_id = 12345 AND id = 6789012 LIMIT 1";
const PREPARED: &str = "SELECT id, title FROM posts WHERE user_id = ? AND id = ?";

fn rounds(mut one: impl FnMut()) {
    let rounds: u32 = std::env::var(ROUNDS).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    (0..rounds).for_each(|_| one());
}

/// What a session has at hand.
struct Desk {
    plans: Plans,
    catalog: Catalog,
    metrics: SessionMetrics,
    literals: Vec<Literal>,
    settings: std::sync::Arc<usher_backend::Settings>,
}

impl Desk {
    fn new() -> Self {
        let mut catalog = Catalog::new(1, false);
        let posts = Sharded {
            key_column: "user_id".into(),
            key_type: KeyType::BIGINT,
            sequence: Some("id".into()),
            columns: ["id", "user_id", "title", "body", "created_at"].map(Into::into).to_vec(),
        };
        catalog.insert("app", "posts", Table::Sharded(posts));
        let (plans, metrics) = (Plans::new(1000), SessionMetrics::default());
        let settings = usher_backend::Settings::at_login(false);
        Self { plans, catalog, metrics, literals: Vec::new(), settings }
    }

    fn plan(&mut self, text: &[u8]) -> std::sync::Arc<Plan> {
        let digest = usher_sql::digest(text, Mode::default(), &mut self.literals);
        let schema = (Some("app"), self.plans.schema_hash(Some("app")));
        self.plans.plan(text, &digest, schema, Mode::default(), &self.catalog, &self.metrics)
    }

    fn key(&self, plan: &Plan, text: &[u8], params: &[Param<'_>]) -> Option<Key> {
        let mode = Mode::default();
        let values = Values {
            text,
            literals: &self.literals,
            params,
            mode,
            last_insert_id: 0,
            settings: &self.settings,
            others: false,
        };
        values.one_key(sources(plan)).unwrap()
    }
}

fn sources(plan: &Plan) -> &[KeySource] {
    match &plan.target {
        Target::User { sources } => sources,
        other => panic!("{other:?}"),
    }
}

fn answer(rows: u64) -> Vec<u8> {
    let columns = [Column::bigint("id"), Column::text("name")];
    let name = "x".repeat(100);
    let mut out = Vec::new();
    let answer = Answer::new(&mut out, 1, Caps::offer(false));
    let mut set = answer.rows(Format::Text, &columns, Status::AUTOCOMMIT).unwrap();
    for n in 0..rows {
        set.row(&[Value::UInt(1000 + n % 1000), Value::from(name.as_str())]).unwrap();
    }
    set.end(Status::AUTOCOMMIT, 0);
    out
}

fn relay(buf: &mut Vec<u8>, form: ClientForm) {
    let mut relay = Relay::new(Kind::Query, form);
    while let Progress::Ok(_) = relay.advance(buf).unwrap() {
        relay.pass(buf).unwrap();
    }
    assert!(relay.is_done());
}

fn point_select(form: ClientForm) {
    let (mut desk, came, canned) = (Desk::new(), packet(POINT.as_bytes()), answer(1));
    let caps = Caps::offer(false).without(Caps::QUERY_ATTRIBUTES);
    let mut buf = Vec::with_capacity(16 << 10);
    rounds(|| {
        let found = message(black_box(&came), PACKET_BYTES_MAX).unwrap().unwrap();
        let Ok(Command::Query(query)) = Command::parse(&found.payload, caps) else { panic!() };
        let text = found.payload.get(query.text_at..).unwrap();
        let plan = desk.plan(text);
        assert_eq!(desk.key(&plan, text, &[]), Some(Key::Int(12345)));
        buf.clear();
        buf.extend_from_slice(&canned);
        relay(black_box(&mut buf), form);
    });
}

#[test]
#[ignore = "counted by cargo xtask instructions"]
fn point_select_text() {
    point_select(ClientForm::SAME);
}

#[test]
#[ignore = "counted by cargo xtask instructions"]
fn point_select_old_client() {
    point_select(ClientForm { deprecate_eof: false, track: TrackSet::NONE, status: Status::AUTOCOMMIT });
}

#[test]
#[ignore = "counted by cargo xtask instructions"]
fn point_select_prepared() {
    let (mut desk, canned) = (Desk::new(), answer(1));
    let plan = desk.plan(PREPARED.as_bytes());
    let mut came = Vec::new();
    write_execute(&mut came, &mut 0, 1, 0, &[Param::Int(12345), Param::Int(6_789_012)]);
    let mut buf = Vec::with_capacity(16 << 10);
    rounds(|| {
        let found = message(black_box(&came), PACKET_BYTES_MAX).unwrap().unwrap();
        let execute = Execute::parse(&found.payload, 2, &[], &[], false).unwrap();
        let mut params = [Param::Null; 2];
        execute.params().zip(&mut params).for_each(|((_, param), place)| *place = param);
        assert_eq!(desk.key(&plan, PREPARED.as_bytes(), &params), Some(Key::Int(12345)));
        buf.clear();
        buf.extend_from_slice(&canned);
        relay(black_box(&mut buf), ClientForm::SAME);
    });
}

#[test]
#[ignore = "counted by cargo xtask instructions"]
fn thousand_rows() {
    let canned = answer(1000);
    let mut buf = Vec::with_capacity(canned.len() + 64);
    rounds(|| {
        buf.clear();
        buf.extend_from_slice(&canned);
        relay(black_box(&mut buf), ClientForm::SAME);
    });
}
