//! What clients and drivers ask every server when they connect. The answers are those of a server that has no data
//! and changes nothing.

use super::statement::{Cursor, is_word};
use super::table::Cell;
use super::words::Kind;

/// What the console calls itself; drivers read the number in front.
pub(super) const VERSION: &str = concat!("8.0.11-usher-", env!("CARGO_PKG_VERSION"));

/// Variables and their values.
const VARIABLES: &[(&str, &str)] = &[
    ("auto_increment_increment", "1"),
    ("autocommit", "1"),
    ("character_set_client", "utf8mb4"),
    ("character_set_connection", "utf8mb4"),
    ("character_set_database", "utf8mb4"),
    ("character_set_results", "utf8mb4"),
    ("character_set_server", "utf8mb4"),
    ("collation_connection", "utf8mb4_general_ci"),
    ("collation_database", "utf8mb4_general_ci"),
    ("collation_server", "utf8mb4_general_ci"),
    ("init_connect", ""),
    ("interactive_timeout", "3600"),
    ("license", "Apache-2.0"),
    ("lower_case_table_names", "0"),
    ("max_allowed_packet", "65536"),
    ("net_write_timeout", "30"),
    ("performance_schema", "0"),
    ("query_cache_size", "0"),
    ("query_cache_type", "OFF"),
    ("read_only", "1"),
    ("socket", ""),
    ("sql_auto_is_null", "0"),
    ("sql_mode", ""),
    ("system_time_zone", "UTC"),
    ("time_zone", "+00:00"),
    ("transaction_isolation", "REPEATABLE-READ"),
    ("transaction_read_only", "0"),
    ("tx_isolation", "REPEATABLE-READ"),
    ("tx_read_only", "0"),
    ("version", VERSION),
    ("version_comment", "usher admin console"),
    ("wait_timeout", "3600"),
];

/// A column of a `SELECT` without a table: its name and what stands for its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) value: Asked,
}

/// What an item asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    Is(Cell),
    User,
    ConnectionId,
}

/// The items of a `SELECT`; `None` if one of them is not known.
pub(super) fn items(cursor: &mut Cursor<'_>) -> Option<Vec<Item>> {
    let mut items = Vec::new();
    loop {
        items.push(item(cursor)?);
        if !cursor.is_sign(",") {
            break;
        }
    }
    if cursor.is_word("limit") {
        cursor.next()?.text.parse::<u64>().ok()?;
    }
    Some(items)
}

fn item(cursor: &mut Cursor<'_>) -> Option<Item> {
    let first = cursor.next()?;
    let mut end = first.end;
    let value = match first.kind {
        Kind::Quoted => Asked::Is(Cell::text(first.text.clone())),
        Kind::Sign => return None,
        Kind::Word if cursor.is_sign("(") => {
            end = cursor.rest.first()?.end;
            if !cursor.is_sign(")") {
                return None;
            }
            function(&first.text)?
        }
        Kind::Word => plain(&first.text)?,
    };
    let named = cursor.is_word("as");
    let alias = cursor.rest.first().filter(|token| token.kind != Kind::Sign && !is_word(token, "limit"));
    let name = match alias {
        Some(token) => {
            cursor.next();
            token.text.clone()
        }
        None if named => return None,
        None => cursor.text.get(first.start..end)?.to_owned(),
    };
    Some(Item { name, value })
}

fn function(name: &str) -> Option<Asked> {
    Some(match name.to_ascii_lowercase().as_str() {
        "database" | "schema" => Asked::Is(Cell::Null),
        "version" => Asked::Is(Cell::text(VERSION)),
        "user" | "current_user" | "session_user" => Asked::User,
        "connection_id" => Asked::ConnectionId,
        _ => return None,
    })
}

fn plain(word: &str) -> Option<Asked> {
    if let Ok(number) = word.parse() {
        return Some(Asked::Is(Cell::Int(number)));
    }
    let lower = word.to_ascii_lowercase();
    match lower.as_str() {
        "null" => return Some(Asked::Is(Cell::Null)),
        "current_user" => return Some(Asked::User),
        _ => {}
    }
    let name = lower.strip_prefix("@@")?;
    let name =
        ["session.", "local.", "global."].iter().find_map(|scope| name.strip_prefix(scope)).unwrap_or(name);
    let value = VARIABLES.iter().find(|(known, _)| *known == name)?.1;
    Some(Asked::Is(cell(value)))
}

fn cell(value: &str) -> Cell {
    value.parse().map_or_else(|_| Cell::text(value), Cell::Int)
}

/// Variables whose name is like the pattern.
pub(super) fn variables(like: Option<&str>) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    VARIABLES.iter().filter(move |(name, _)| is_like(name, like))
}

/// Whether a text matches a pattern of `LIKE`, cases aside; no pattern matches all.
pub(super) fn is_like(text: &str, pattern: Option<&str>) -> bool {
    let Some(pattern) = pattern else { return true };
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let pattern = pattern_of(&pattern.to_lowercase());
    let (mut t, mut p) = (0, 0);
    // Where to go on if the last `%` takes one character more.
    let mut again = None;
    while let Some(c) = text.get(t) {
        match pattern.get(p) {
            Some(Part::Any) => {
                again = Some((p + 1, t + 1));
                p += 1;
            }
            Some(Part::One) => (t, p) = (t + 1, p + 1),
            Some(Part::Char(wanted)) if wanted == c => (t, p) = (t + 1, p + 1),
            _ => match again {
                Some((behind, from)) => {
                    (p, t) = (behind, from);
                    again = Some((behind, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|part| *part == Part::Any)
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Char(char),
}

fn pattern_of(pattern: &str) -> Vec<Part> {
    let mut chars = pattern.chars();
    let mut parts = Vec::new();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '%' => Part::Any,
            '_' => Part::One,
            '\\' => Part::Char(chars.next().unwrap_or('\\')),
            c => Part::Char(c),
        });
    }
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::statement::{Statement, parse};
    use super::*;

    fn select(text: &str) -> Vec<(String, Asked)> {
        match parse(text).unwrap() {
            Statement::Select(items) => items.into_iter().map(|item| (item.name, item.value)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_clients_ask_at_connect() {
        let comment = Asked::Is(Cell::text("usher admin console"));
        assert_eq!(
            select("select @@version_comment limit 1"),
            [("@@version_comment".to_owned(), comment.clone())]
        );
        assert_eq!(
            select("SELECT DATABASE(), USER() limit 1"),
            [("DATABASE()".to_owned(), Asked::Is(Cell::Null)), ("USER()".to_owned(), Asked::User)]
        );
        let jdbc = "/* mysql-connector-j */SELECT  @@session.auto_increment_increment AS auto_increment_increment, \
                    @@character_set_client AS `cs`, @@init_connect init_connect, @@sql_mode";
        let names: Vec<String> = select(jdbc).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["auto_increment_increment", "cs", "init_connect", "@@sql_mode"]);
        assert_eq!(select("SELECT 1")[0].1, Asked::Is(Cell::Int(1)));
        assert_eq!(select("select 'ping' as x")[0], ("x".to_owned(), Asked::Is(Cell::text("ping"))));
        assert_eq!(select("SELECT CONNECTION_ID()")[0].1, Asked::ConnectionId);
        for text in
            ["select @@nothing_such", "select", "select 1,", "select 1 from x", "select f(1)", "select 1 as"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn like() {
        for (text, pattern, is) in [
            ("usher_clients", "%clients", true),
            ("usher_clients", "USHER%", true),
            ("usher_clients", "usher_", false),
            ("usher_clients", "%e%e%", true),
            ("usher_clients", "%e%e%e%", false),
            ("ab", "a\\_", false),
            ("a_", "a\\_", true),
            ("", "%", true),
            ("", "", true),
            ("a", "", false),
            ("aaab", "%aab", true),
        ] {
            assert_eq!(is_like(text, Some(pattern)), is, "{text} like {pattern}");
        }
        assert!(is_like("x", None));
    }
}
