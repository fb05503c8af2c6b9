//! Plans of many statements against `plans.txt`: a block is an optional `[mode]` line, a query and `=> plan`.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use usher_sql::{Catalog, KeyType, Mode, Sharded, Table, TextRule, plan};

fn sharded(key: &str, key_type: KeyType, sequence: Option<&str>, columns: &str) -> Table {
    Table::Sharded(Sharded {
        key_column: key.into(),
        key_type,
        sequence: sequence.map(Into::into),
        columns: columns.split(' ').map(Into::into).collect(),
    })
}

/// A photo-sharing application.
fn catalog() -> Catalog {
    let mut catalog = Catalog::new(1, false);
    let text = KeyType::Text(TextRule::from_collation("utf8mb4_general_ci").unwrap());
    let int = KeyType::BIGINT;
    catalog.insert("app", "users", sharded("user_id", int, Some("user_id"), "user_id name email"));
    catalog.insert("app", "photos", sharded("user_id", int, Some("id"), "id user_id title views"));
    catalog.insert("app", "comments", sharded("user_id", int, None, "user_id photo_id body"));
    catalog.insert("app", "followers", sharded("followed_id", int, None, "followed_id user_id"));
    catalog.insert("app", "names", sharded("name", text, None, "name user_id"));
    let columns = ["code", "name"].map(Into::into).to_vec();
    catalog.insert("app", "countries", Table::Reference { columns });
    catalog
}

fn run(block: &str) -> (String, String) {
    let (mut mode, mut schema) = (Mode::default(), Some("app"));
    let mut query = block;
    if let Some((settings, rest)) = block.strip_prefix('[').and_then(|rest| rest.split_once("]\n")) {
        for word in settings.split(' ') {
            match word {
                "no-schema" => schema = None,
                "other-schema" => schema = Some("other"),
                word => {
                    let more = Mode::from_sql_mode(word);
                    assert_ne!(more, Mode::default(), "unknown setting {word}");
                    mode.ansi_quotes |= more.ansi_quotes;
                    mode.no_backslash_escapes |= more.no_backslash_escapes;
                    mode.pipes_as_concat |= more.pipes_as_concat;
                }
            }
        }
        query = rest;
    }
    let plan = plan(query.as_bytes(), schema, mode, &catalog());
    (block.to_owned(), plan.to_string())
}

#[test]
fn plans_are_as_written_down() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plans.txt");
    let golden = std::fs::read_to_string(path).unwrap();
    let mut actual = String::new();
    for block in golden.split("\n\n").map(str::trim_end).filter(|block| !block.is_empty()) {
        if block.starts_with('#') {
            writeln!(actual, "{block}\n").unwrap();
            continue;
        }
        let query = block.split_once("\n=> ").map_or(block, |(query, _)| query).trim_start_matches('\n');
        let (query, plan) = run(query);
        writeln!(actual, "{query}\n=> {plan}\n").unwrap();
    }
    let actual = format!("{}\n", actual.trim_end());
    if actual != golden {
        let new = concat!(env!("CARGO_TARGET_TMPDIR"), "/plans.txt");
        std::fs::write(new, &actual).unwrap();
        let first = golden.lines().zip(actual.lines()).find(|(old, new)| old != new);
        panic!("plans differ, first at {first:#?}\nif the new ones are right: cp {new} {path}");
    }
}
