//! CONNECTION_ID(), ROW_COUNT() and FOUND_ROWS(): their values are the session's, whatever connection a statement runs on.
//! The functions stay in the statement, behind the values, since they tell types and lengths. IS_USED_LOCK() tells the
//! number of a session, if it is one of this proxy.

use std::ops::Range;

use usher_sql::{Lexer, Mode, Plan, Target, Token, Uses, find_calls, unnamed_columns};
use usher_wire::result::{Column, NOT_NULL};
use usher_wire::sqlerr::{ErrorId, Failure};

use crate::execute::Body;
use crate::query::{Text, packet, unsupported};
use crate::session::{Served, Session, Stop, Turn};

/// Sessions with named locks that a statement about them tells apart.
const HOLDERS_MAX: usize = 1000;
/// The variables that bring the values to a prepared statement.
const VARIABLES: [&str; 2] = ["@usher.row_count", "@usher.found_rows"];

impl Session {
    /// A statement with such calls.
    pub(crate) async fn with_own_values(&mut self, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        let end = statement.digest.end.min(statement.text.len());
        let text = statement.text.get(..end).unwrap_or_default();
        if plan.uses.found_rows {
            self.settle_found_rows().await;
        }
        let values = self.own_values();
        let locks = if plan.uses.named_lock { lock_calls(text, self.mode) } else { Vec::new() };
        // A lock that the statement itself takes is not known yet.
        let takes = !locks.is_empty() && !usher_sql::holds::lock_calls(text, self.mode).taken.is_empty();
        let holders = if takes { None } else { self.lock_holders(locks.is_empty()) };
        let uses = Uses { connection_id: plan.uses.connection_id && holders.is_some(), ..plan.uses.clone() };
        let (text_calls, uses) = (calls(text, self.mode, &uses), &uses);
        if let [(call, function)] = &text_calls[..]
            && is_bare_select(text, call)
            && !uses.found_rows
        {
            let label = String::from_utf8_lossy(text.get(call.clone()).unwrap_or_default()).into_owned();
            let column = match function {
                0 => self.connection_id_column(&label),
                _ => Column::bigint(&label),
            };
            let column = Column { flags: column.flags | NOT_NULL, ..column };
            return self.answer_number(column, values[*function], turn).await;
        }
        let given = values.map(|value| value.to_string());
        if plan.insert.is_some() && matches!(plan.target, Target::User { .. }) {
            // Its ids are put in as in any other.
            let text = instead_of_calls(text, &text_calls, &given)?;
            let mut literals = Vec::new();
            let digest = usher_sql::digest(&text, self.mode, &mut literals);
            let packets = packet(&text);
            let statement = Text { text: &text, packets: &packets, digest: &digest, literals: &literals };
            return Box::pin(self.statement(statement, turn)).await;
        }
        let mut instead = instead_of(text, &text_calls, &given);
        let holders = holders.unwrap_or_default();
        if !holders.is_empty() {
            instead.extend(locks.into_iter().map(|call| (call.clone(), holder(text, call, &holders))));
        }
        let packets = match with_replaced(text, self.mode, instead)? {
            Some(text) => packet(&text),
            None if uses.named_lock => statement.packets.to_vec(),
            None => return Err(unsupported("this use of CONNECTION_ID(), ROW_COUNT() or FOUND_ROWS()")),
        };
        let mut plan = plan.clone();
        (plan.uses.connection_id, plan.uses.row_count, plan.uses.found_rows) = (false, false, false);
        match &plan.target {
            Target::User { sources } => {
                let key = self.values(statement).one_key(sources)?;
                self.of_user(&plan, key, Body::Text(&packets), None, turn).await
            }
            Target::Global => self.global(&plan, Text { packets: &packets, ..statement }, turn).await,
            _ => self.anywhere(&plan, &packets, turn).await,
        }
    }

    /// What a server is to be told before it executes a prepared statement with such calls.
    pub(crate) fn own_values_prelude(&self, uses: &Uses) -> Option<Box<str>> {
        if !(uses.row_count || uses.found_rows) {
            return None;
        }
        let [_, values @ ..] = self.own_values();
        let assigned: Vec<String> =
            VARIABLES.iter().zip(values).map(|(name, value)| format!("{name} = {value}")).collect();
        Some(format!("SET {}", assigned.join(", ")).into())
    }

    /// The threads that have named locks and the sessions that they are held by; `None` if they are too many to tell.
    fn lock_holders(&self, unasked: bool) -> Option<Vec<(u32, u32)>> {
        if unasked {
            return Some(Vec::new());
        }
        let holders = self.shared.sessions.lock_holders(HOLDERS_MAX + 1);
        (holders.len() <= HOLDERS_MAX).then_some(holders)
    }

    fn own_values(&self) -> [i64; 3] {
        let found_rows = i64::try_from(self.found_rows).unwrap_or(i64::MAX);
        [i64::from(self.client.id), self.row_count, found_rows]
    }

    fn connection_id_column<'a>(&self, label: &'a str) -> Column<'a> {
        const LONG: u8 = 3;
        match self.shared.server_version.contains("MariaDB") {
            true => Column { ty: LONG, length: 10, ..Column::unsigned(label) },
            false => Column::unsigned(label),
        }
    }
}

/// The text of a prepared statement of session `id`, which finds the other values in variables.
///
/// # Errors
/// As [`with_values`].
pub(crate) fn with_variables(text: &[u8], mode: Mode, uses: &Uses, id: u32) -> Result<Option<Vec<u8>>, Stop> {
    if !(uses.connection_id || uses.row_count || uses.found_rows) {
        return Ok(None);
    }
    // The id is the session's to the end, so that it may be a literal, from which MariaDB tells the type.
    let [row_count, found_rows] = VARIABLES.map(|name| format!("CAST({name} AS SIGNED)"));
    let given = [id.to_string(), row_count, found_rows];
    // Prepared, IS_USED_LOCK() tells a server's id of the connection, and is compared with it.
    let connection_id = uses.connection_id && !(uses.named_lock && asks_who_locks(text, mode));
    let uses = Uses { connection_id, ..uses.clone() };
    with_replaced(text, mode, instead_of(text, &calls(text, mode, &uses), &given))
}

/// Whether IS_USED_LOCK() is in the text.
pub(crate) fn asks_who_locks(text: &[u8], mode: Mode) -> bool {
    Lexer::new(text, mode).any(|token| is_lock_call(text, &token))
}

fn is_lock_call(text: &[u8], token: &Token) -> bool {
    token.bytes(text).eq_ignore_ascii_case(b"IS_USED_LOCK")
}

/// Where IS_USED_LOCK() is called, from its name to the `)`.
fn lock_calls(text: &[u8], mode: Mode) -> Vec<Range<usize>> {
    let tokens: Vec<Token> = Lexer::new(text, mode).collect();
    let mut calls: Vec<Range<usize>> = Vec::new();
    for (at, name) in tokens.iter().enumerate().filter(|(_, token)| is_lock_call(text, token)) {
        let mut depth = 0;
        let end = tokens.iter().skip(at + 1).find(|token| {
            match token.bytes(text) {
                b"(" => depth += 1,
                b")" => depth -= 1,
                _ => {}
            }
            depth <= 0
        });
        let end = end.filter(|token| token.bytes(text) == b")").map(|token| token.span().end);
        let inside = calls.last().is_some_and(|before| name.span().start < before.end);
        calls.extend(end.filter(|_| !inside).map(|end| name.span().start..end));
    }
    calls
}

/// A call of IS_USED_LOCK() that tells sessions' numbers instead of threads'.
fn holder(text: &[u8], call: Range<usize>, holders: &[(u32, u32)]) -> String {
    let call = String::from_utf8_lossy(text.get(call).unwrap_or_default());
    let cases: String = holders.iter().map(|(thread, id)| format!(" WHEN {thread} THEN {id}")).collect();
    format!("CASE {call}{cases} ELSE {call} END")
}

/// Where the calls are, and which function each is of.
fn calls(text: &[u8], mode: Mode, uses: &Uses) -> Vec<(Range<usize>, usize)> {
    let names = ["CONNECTION_ID", "ROW_COUNT", "FOUND_ROWS"];
    let used = [uses.connection_id, uses.row_count, uses.found_rows];
    let used = names.into_iter().zip(used).enumerate().filter(|(_, (_, used))| *used);
    let mut calls: Vec<(Range<usize>, usize)> = used
        .flat_map(|(at, (name, _))| find_calls(text, mode, name).into_iter().map(move |call| (call, at)))
        .collect();
    calls.sort_by_key(|(call, _)| call.start);
    calls
}

/// The calls with values in front of them.
fn instead_of(
    text: &[u8],
    calls: &[(Range<usize>, usize)],
    values: &[String; 3],
) -> Vec<(Range<usize>, String)> {
    let instead = |(call, function): &(Range<usize>, usize)| {
        let value = values.get(*function).map_or("NULL", String::as_str);
        let word = String::from_utf8_lossy(text.get(call.clone()).unwrap_or_default());
        let instead = match function {
            0 => format!("COALESCE(CAST({value} AS UNSIGNED), {word})"),
            _ => format!("COALESCE({value}, {word})"),
        };
        (call.clone(), instead)
    };
    calls.iter().map(instead).collect()
}

/// The text with these calls replaced, and its columns named as they were; `None` if there is no call.
///
/// # Errors
/// A call or a column is not where it was found.
fn with_replaced(
    text: &[u8],
    mode: Mode,
    mut replacements: Vec<(Range<usize>, String)>,
) -> Result<Option<Vec<u8>>, Stop> {
    if replacements.is_empty() {
        return Ok(None);
    }
    let calls: Vec<Range<usize>> = replacements.iter().map(|(call, _)| call.clone()).collect();
    for column in unnamed_columns(text, mode) {
        let changed = calls.iter().any(|call| column.start <= call.start && call.end <= column.end);
        let name = text.get(column.clone()).and_then(|name| std::str::from_utf8(name).ok());
        if let Some(name) = name.filter(|_| changed) {
            replacements.push((column.end..column.end, format!(" AS `{}`", name.replace('`', "``"))));
        }
    }
    replacements.sort_by_key(|(span, _)| (span.end, span.start));
    let mut out = Vec::new();
    usher_sql::splice(text, &replacements, &mut out)
        .map_err(|error| Failure::new(ErrorId::Bug).note(error.to_string()))?;
    Ok(Some(out))
}

/// The text with values in the places of the calls.
///
/// # Errors
/// There is none: the session's value would be a server's.
fn instead_of_calls(
    text: &[u8],
    calls: &[(Range<usize>, usize)],
    values: &[String; 3],
) -> Result<Vec<u8>, Stop> {
    let value = |function: usize| values.get(function).map_or("NULL", String::as_str);
    let replacements: Vec<(Range<usize>, &str)> =
        calls.iter().map(|(call, function)| (call.clone(), value(*function))).collect();
    let mut out = Vec::new();
    match replacements.is_empty() || usher_sql::splice(text, &replacements, &mut out).is_err() {
        true => Err(unsupported("this use of CONNECTION_ID(), ROW_COUNT() or FOUND_ROWS()")),
        false => Ok(out),
    }
}

/// Whether a statement asks for nothing but one of them that needs no server.
pub(crate) fn answers_alone(text: &[u8], mode: Mode, uses: &Uses) -> bool {
    matches!(&calls(text, mode, uses)[..], [(call, _)] if is_bare_select(text, call)) && !uses.found_rows
}

/// Whether the text is `SELECT call` and no more.
fn is_bare_select(text: &[u8], call: &Range<usize>) -> bool {
    let before = text.get(..call.start).unwrap_or_default().trim_ascii();
    call.end == text.len() && before.eq_ignore_ascii_case(b"select")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_front_and_columns_keep_their_names() {
        let uses = Uses { row_count: true, connection_id: true, ..Uses::default() };
        let text = b"SELECT hex(row_count()), CONNECTION_ID() AS id, 'row_count()'";
        let found = calls(text, Mode::default(), &uses);
        let values = ["7", "-1", "0"].map(str::to_owned);
        let changed =
            with_replaced(text, Mode::default(), instead_of(text, &found, &values)).unwrap_or_default();
        assert_eq!(
            String::from_utf8_lossy(&changed.unwrap_or_default()),
            "SELECT hex(COALESCE(-1, row_count())) AS `hex(row_count())`, \
             COALESCE(CAST(7 AS UNSIGNED), CONNECTION_ID()) AS id, 'row_count()'"
        );
    }

    #[test]
    fn whose_a_lock_is_is_told_by_the_session() {
        let text = b"SELECT is_used_lock(CONCAT('a', (1))), IS_USED_LOCK('b') = 3, IS_USED_LOCK";
        let found = lock_calls(text, Mode::default());
        let replaced = found.into_iter().map(|call| (call.clone(), holder(text, call, &[(5, 70)]))).collect();
        let changed = with_replaced(text, Mode::default(), replaced).unwrap_or_default();
        assert_eq!(
            String::from_utf8_lossy(&changed.unwrap_or_default()),
            "SELECT CASE is_used_lock(CONCAT('a', (1))) WHEN 5 THEN 70 ELSE \
             is_used_lock(CONCAT('a', (1))) END AS `is_used_lock(CONCAT('a', (1)))`, \
             CASE IS_USED_LOCK('b') WHEN 5 THEN 70 ELSE IS_USED_LOCK('b') END = 3 \
             AS `IS_USED_LOCK('b') = 3`, IS_USED_LOCK"
        );
    }
}
