//! Time of a digest and of a plan: `cargo run --release -p usher-sql --example timing`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use usher_sql::{Catalog, KeyType, Lexer, Mode, Sharded, Table, digest, plan};

/// Best of nine rounds of about 20 ms, in nanoseconds a call.
fn best(mut call: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..9 {
        let (start, mut calls) = (Instant::now(), 0u32);
        while start.elapsed() < Duration::from_millis(20) {
            (0..64).for_each(|_| call());
            calls += 64;
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(calls));
    }
    best
}

fn main() {
    let mut catalog = Catalog::new(1, false);
    let columns = ["id", "user_id", "title", "body", "created_at"].map(Into::into).to_vec();
    let entry = Sharded {
        key_column: "user_id".into(),
        key_type: KeyType::BIGINT,
        sequence: Some("id".into()),
        columns,
    };
    catalog.insert("app", "posts", Table::Sharded(entry));
    let row = "(623, 'a title', 'some text', '2026-01-01 00:00:00')";
    let insert =
        format!("INSERT INTO posts (user_id, title, body, created_at) VALUES {}", [row; 10].join(", "));
    let texts = [
        ("short", "SELECT * FROM posts WHERE user_id = 123456789"),
        (
            "point",
            "SELECT id, user_id, title, body, created_at FROM posts WHERE user_id = 12345 AND id = 6789012 LIMIT 1",
        ),
        (
            "join",
            "SELECT p.id, p.title, q.id, q.title FROM posts p JOIN posts q ON q.user_id = p.user_id AND q.title IN \
             ('open', 'paid') WHERE p.user_id = 42 AND q.created_at > NOW() - INTERVAL 7 DAY ORDER BY q.created_at DESC LIMIT 20",
        ),
        ("insert of 10 rows", &insert),
    ];
    let mut literals = Vec::with_capacity(64);
    for (name, text) in texts {
        let text = text.as_bytes();
        let mode = Mode::default();
        let digests = best(|| {
            black_box(digest(black_box(text), mode, &mut literals));
        });
        let tokens = best(|| {
            black_box(Lexer::new(black_box(text), mode).count());
        });
        let plans = best(|| {
            black_box(plan(black_box(text), Some("app"), mode, &catalog));
        });
        println!(
            "{name} ({} bytes): tokens {tokens:.0} ns, digest {digests:.0} ns, plan {plans:.0} ns",
            text.len()
        );
    }
}
