//! What became of the statement before: warnings, errors, numbers of rows.

use std::ops::Range;

use usher_backend::{Fault, Lent};
use usher_sql::{Kind, Lexer, Mode, Plan, ShowKind, Token, TokenKind, user_variable_name};
use usher_topology::ShardId;
use usher_wire::collation;
use usher_wire::result::{Column, Format, NOT_NULL, UNSIGNED, Value};

use crate::execute::{Body, Order};
use crate::own_variables::with_values;
use crate::query::{Text, packet, unsupported};
use crate::route::Place;
use crate::session::{Bound, Served, Session, Stop, Turn};

/// A statement that leaves nothing to tell. MariaDB forgets warnings only where a table is named.
const CLEAR: &str = "SELECT 1 FROM (SELECT 1) AS t LIMIT 0";
/// ER_UNKNOWN_ERROR, for warnings that no server has.
const UNKNOWN_ERROR: u16 = 1105;
/// Expressions that leave one warning, or end with an error.
const ONE_WARNING: &str = "CAST('x' AS SIGNED)";
const ONE_ERROR: &str = "EXP(9999)";
/// Warnings that are taken off their connection, the first of all. MySQL keeps 1,024 for a session unless told otherwise,
/// MariaDB 64.
const CONDITIONS_MAX: usize = 1024;
/// Characters of a message that SIGNAL takes.
const SIGNAL_MESSAGE_MAX: usize = 128;

/// Whether a statement asks what became of the one before.
pub(crate) fn asks_of_the_one_before(plan: &Plan) -> bool {
    plan.uses.diagnostics
        || matches!(plan.kind, Kind::Show(ShowKind::Warnings | ShowKind::Errors) | Kind::GetDiagnostics)
}

impl Session {
    /// Warnings and errors of the statement before: asked where it ran, if there are any.
    pub(crate) async fn ask_of_the_one_before(
        &mut self,
        statement: Text<'_>,
        plan: &Plan,
        turn: Turn,
    ) -> Served {
        if !self.notices.is_empty()
            && let Some(range) = shown_range(statement, plan)
        {
            let warnings = plan.kind == Kind::Show(ShowKind::Warnings);
            return self.show_notices(if warnings { range } else { 0..0 }, turn).await;
        }
        if self.failure.is_none()
            && let Some(told) = self.told.take()
        {
            let served = self.ask_told(&told, statement, plan, turn).await;
            self.told = Some(told);
            return served;
        }
        if self.failure.is_none() && self.kept.is_some() {
            return self.ask_kept(statement, plan, turn).await;
        }
        let place = match (&self.failure, self.ran_on) {
            (None, Some(shard)) => Place::writer(shard),
            (None, None) => self.any_place(),
            (Some(_), _) => match shown_range(statement, plan) {
                Some(range) => return self.show_failure(range, turn).await,
                None => self.any_place(),
            },
        };
        if self.failure.is_some() || self.ran_on.is_none() {
            let upper = statement.text.to_ascii_uppercase();
            let counts = upper.windows(9).any(|word| word == b"ROW_COUNT");
            if plan.kind == Kind::GetDiagnostics && counts && self.row_count != 0 {
                return Err(unsupported("ROW_COUNT in GET DIAGNOSTICS; use ROW_COUNT()"));
            }
            // Nothing is asked of its own connection, which may be let go of.
            self.settle_debts().await;
            self.prelude = Some(self.same_diagnostics().into());
        }
        let body = Body::Text(statement.packets);
        let order = Order { plan, place, key: None, body, insert_id: None, writer_hint: true };
        let served = self.run_aside(order, turn).await;
        self.prelude = None;
        served
    }

    async fn ask_kept(&mut self, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        let Some(kept) = self.kept.take() else { return Err(unsupported("diagnostics of no statement")) };
        let place = Place::writer(kept.shard);
        // In front, to be found first. It is only borrowed for this statement: asking does not clear what is asked for.
        self.bound.insert(0, kept);
        let body = Body::Text(statement.packets);
        let order = Order { plan, place, key: None, body, insert_id: None, writer_hint: true };
        self.keeps = true;
        let served = self.run_aside(order, turn).await;
        self.keeps = false;
        served
    }

    /// Takes what there is to be told of the statement before off its connection, which somebody else waits for.
    #[cold]
    pub(crate) async fn remember_diagnostics(&mut self) {
        if let Some(mut kept) = self.kept.take() {
            self.remember(&mut kept).await;
            self.kept = Some(kept);
        }
        if self.kept.as_ref().is_some_and(|kept| !kept.lent.is_discarded()) {
            self.settle_debts().await;
        }
        self.owed = None;
        self.let_go_of_kept();
    }

    /// As [`Session::remember_diagnostics`], of this connection.
    pub(crate) async fn remember(&mut self, bound: &mut Bound) {
        if self.owed.as_ref().is_some_and(|owed| owed.found_rows) {
            // Either question spoils the answer to the other. That for rows comes often.
            self.told = self.failure.is_none().then(|| Box::new(Told::gone()));
        } else if self.failure.is_none() {
            match Told::of(&mut bound.lent).await {
                Ok(told) => self.told = Some(Box::new(told)),
                Err(fault) => {
                    let server = &bound.lent.server().name;
                    tracing::debug!(%server, %fault, "lost with what there was to be told");
                    bound.lent.discard();
                }
            }
        }
    }

    /// As [`Session::ask_of_the_one_before`], where that has been taken off its connection.
    async fn ask_told(&mut self, told: &Told, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        if told.gone {
            return Err(unsupported(
                "warnings of a statement with SQL_CALC_FOUND_ROWS when other sessions wait for its connection; ask for \
                 them at once",
            ));
        }
        if let Some(range) = shown_range(statement, plan) {
            let errors = plan.kind == Kind::Show(ShowKind::Errors);
            let rows = told.conditions.iter().filter(|condition| !errors || condition.is_error());
            let rows: Vec<&Condition> = rows.skip(range.start).take(range.len()).collect();
            return self.show_conditions(&rows, turn).await;
        }
        if let Some((name, count)) = told.shown_count(statement, plan) {
            return self.answer_number(Column::unsigned(name), count, turn).await;
        }
        if let Some(name) =
            number_wanted(statement.text.get(..statement.digest.end).unwrap_or_default(), self.mode)
        {
            return self.tell_number(&name, told.count, turn).await;
        }
        let Some(same) = told.same_again(statement.text, plan) else {
            if let Some(text) = told.with_counts(statement, plan, self.mode)? {
                return self.anywhere(plan, &packet(&text), turn).await;
            }
            return Err(unsupported(
                "this question about a statement that was some time ago; SHOW WARNINGS tells all",
            ));
        };
        self.prelude = Some(same.into());
        let body = Body::Text(statement.packets);
        let order =
            Order { plan, place: self.any_place(), key: None, body, insert_id: None, writer_hint: true };
        let served = self.run_aside(order, turn).await;
        self.prelude = None;
        served
    }

    /// GET DIAGNOSTICS of nothing but the number of conditions: the variable is set, and nothing else changes.
    async fn tell_number(&mut self, name: &str, count: usize, turn: Turn) -> Served {
        let rows = self.row_count;
        let text = format!("SET {} = {count}", usher_backend::quoted_user_variable(name));
        let mut literals = Vec::new();
        let digest = usher_sql::digest(text.as_bytes(), self.mode, &mut literals);
        let packets = packet(text.as_bytes());
        let text = Text { text: text.as_bytes(), packets: &packets, digest: &digest, literals: &literals };
        let served = Box::pin(self.statement(text, turn)).await;
        self.row_count = rows;
        served
    }

    /// A statement that leaves a connection with what this session has to tell: an error, or nothing.
    fn same_diagnostics(&self) -> String {
        let Some((code, message)) = self.failure.as_deref() else { return CLEAR.to_owned() };
        signal("HY000", &code.to_string(), message)
    }

    /// Of the texts in answers.
    fn results_collation(&self) -> u16 {
        let names = self.settings.names();
        let found = match self.settings.variable("character_set_results") {
            Some("NULL") => collation::default_of("utf8mb3"),
            Some(charset) => collation::default_of(charset.trim_matches('\'')),
            None => match names.split_once(" COLLATE ") {
                Some((_, name)) => collation::by_name(name),
                None => collation::default_of(names),
            },
        };
        match found.unwrap_or(collation::UTF8MB4_GENERAL_CI) {
            collation::UTF8MB4_GENERAL_CI if !self.shared.server_version.contains("MariaDB") => {
                collation::by_name("utf8mb4_0900_ai_ci").unwrap_or(collation::UTF8MB4_GENERAL_CI)
            }
            found => found,
        }
    }

    /// SHOW WARNINGS and SHOW ERRORS after an error that the session itself has told.
    async fn show_failure(&mut self, range: Range<usize>, turn: Turn) -> Served {
        let Some((code, message)) = self.failure.as_deref().cloned() else {
            return Err(unsupported("diagnostics of no statement"));
        };
        let condition = Condition {
            level: b"Error".to_vec(),
            code: code.to_string().into_bytes(),
            message: message.into_bytes(),
        };
        let all = [&condition];
        self.show_conditions(if range.contains(&0) { &all } else { &[] }, turn).await
    }

    /// After a statement of the session's own that had something to remark.
    async fn show_notices(&mut self, range: Range<usize>, turn: Turn) -> Served {
        let notice = |text: &String| Condition {
            level: b"Warning".to_vec(),
            code: UNKNOWN_ERROR.to_string().into_bytes(),
            message: text.clone().into_bytes(),
        };
        let shown = self.notices.iter().take(range.end).skip(range.start);
        let notices: Vec<_> = shown.map(notice).collect();
        self.show_conditions(&notices.iter().collect::<Vec<_>>(), turn).await
    }

    async fn show_conditions(&mut self, conditions: &[&Condition], turn: Turn) -> Served {
        let collation = self.results_collation();
        // No fixed number of them, as each kind of server says it.
        let decimals = if self.shared.server_version.contains("MariaDB") { 39 } else { 31 };
        let text = |name: &'static str, characters: u32| Column {
            collation,
            length: characters * 4,
            flags: NOT_NULL,
            decimals,
            ..Column::text(name)
        };
        let code_column = Column {
            length: if self.shared.server_version.contains("MariaDB") { 4 } else { 5 },
            flags: NOT_NULL | UNSIGNED | 0x80,
            ty: 3,
            decimals: 0,
            ..Column::bigint("Code")
        };
        let columns = [text("Level", 7), code_column, text("Message", 512)];
        self.row_count = -1;
        self.answer(turn, |answer, status| {
            let mut table = answer.rows(Format::Text, &columns, status)?;
            for condition in conditions {
                table.row(&[
                    Value::Bytes(&condition.level),
                    Value::Bytes(&condition.code),
                    Value::Bytes(&condition.message),
                ])?;
            }
            Ok(table.end(status, 0).seq())
        })
        .await
    }
}

/// Which rows of SHOW WARNINGS or SHOW ERRORS are asked for; `None` if something else is.
fn shown_range(statement: Text<'_>, plan: &Plan) -> Option<Range<usize>> {
    if !matches!(plan.kind, Kind::Show(ShowKind::Warnings | ShowKind::Errors)) {
        return None;
    }
    let text = std::str::from_utf8(statement.text).ok()?.to_ascii_uppercase();
    let words: Vec<&str> = text
        .split(|c: char| c.is_ascii_whitespace() || c == ',' || c == ';')
        .filter(|w| !w.is_empty())
        .collect();
    let number = |word: &str| word.parse::<usize>().ok();
    match words.get(2..)? {
        [] => Some(0..usize::MAX),
        ["LIMIT", count] => Some(0..number(count)?),
        ["LIMIT", from, count] | ["LIMIT", count, "OFFSET", from] => {
            let from = number(from)?;
            Some(from..from.saturating_add(number(count)?))
        }
        _ => None,
    }
}

/// A statement that leaves this one condition behind.
fn signal(state: &str, code: &str, message: &str) -> String {
    let message: String = message.chars().take(SIGNAL_MESSAGE_MAX).collect();
    let message = message.replace('\\', "/").replace('\'', "''");
    format!("SIGNAL SQLSTATE '{state}' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = '{message}'")
}

/// A row of SHOW WARNINGS, in the character set of the session's results.
#[derive(Debug)]
pub(crate) struct Condition {
    level: Vec<u8>,
    code: Vec<u8>,
    message: Vec<u8>,
}

impl Condition {
    fn is_error(&self) -> bool {
        self.level == b"Error"
    }
}

/// What there is to be told of a statement, off the connection that it ran on.
#[derive(Debug)]
pub(crate) struct Told {
    conditions: Vec<Condition>,
    /// How many there were; servers keep `max_error_count` of them.
    count: usize,
    /// It could not be asked for.
    gone: bool,
}

impl Told {
    /// Of a statement that there is nothing to be told of any more.
    fn gone() -> Self {
        Self { conditions: Vec::new(), count: 0, gone: true }
    }

    /// Asks for it, which does not clear it.
    async fn of(lent: &mut Lent) -> Result<Self, Fault> {
        let reply = lent.query(b"SHOW COUNT(*) WARNINGS").await?;
        let count = reply.cell().and_then(|cell| cell.parse().ok()).unwrap_or(0);
        let reply = lent.query(format!("SHOW WARNINGS LIMIT {CONDITIONS_MAX}").as_bytes()).await?;
        let conditions = reply.rows.into_iter().map(|row| {
            let mut cells = row.into_iter().map(Option::unwrap_or_default);
            let mut cell = || cells.next().unwrap_or_default();
            Condition { level: cell(), code: cell(), message: cell() }
        });
        Ok(Self { conditions: conditions.collect(), count, gone: false })
    }

    /// The answer to SHOW COUNT(*) WARNINGS or ERRORS, and what it is called.
    fn shown_count(&self, statement: Text<'_>, plan: &Plan) -> Option<(&'static str, i64)> {
        let words = statement.text.split(|byte| byte.is_ascii_whitespace() || *byte == b';');
        let mut words = words.filter(|word| !word.is_empty()).skip(1);
        let counts = words.next()?.eq_ignore_ascii_case(b"COUNT(*)");
        if !counts || words.count() != 1 {
            return None;
        }
        let errors = self.conditions.iter().filter(|condition| condition.is_error()).count();
        let (name, count) = match plan.kind {
            Kind::Show(ShowKind::Warnings) => ("@@session.warning_count", self.count),
            Kind::Show(ShowKind::Errors) => ("@@session.error_count", errors),
            _ => return None,
        };
        Some((name, i64::try_from(count).ok()?))
    }

    /// The text with the counts in it, where it asks for nothing else; `None` if it asks for none.
    fn with_counts(&self, statement: Text<'_>, plan: &Plan, mode: Mode) -> Result<Option<Vec<u8>>, Stop> {
        let errors = self.conditions.iter().filter(|condition| condition.is_error()).count();
        let counts = [("warning_count", self.count), ("error_count", errors)];
        let text = statement.text.get(..statement.digest.end).unwrap_or(statement.text);
        let asked = counts.iter().filter(|(name, _)| plan.uses.system_vars.iter().any(|asked| asked == name));
        // As of a variable, it may be NULL for all that is known of it.
        let values = asked.map(|(name, count)| (*name, format!("CAST(NULLIF({count}, -1) AS UNSIGNED)")));
        match plan.kind {
            Kind::Read => with_values(text, values, mode),
            _ => Ok(None),
        }
    }

    /// A statement that leaves a connection with the same, as far as it is asked for; `None` if there is none.
    fn same_again(&self, text: &[u8], plan: &Plan) -> Option<String> {
        let upper = text.to_ascii_uppercase();
        let says = |what: &[u8]| upper.windows(what.len()).any(|word| word == what);
        let details = plan.kind == Kind::GetDiagnostics && (says(b"CONDITION") || says(b"EXCEPTION"));
        match &self.conditions[..] {
            [only] if self.count == 1 => {
                let (code, message) =
                    (std::str::from_utf8(&only.code).ok()?, String::from_utf8_lossy(&only.message));
                let fits = !details || message.chars().count() <= SIGNAL_MESSAGE_MAX;
                fits.then(|| signal(if only.is_error() { "HY000" } else { "01000" }, code, &message))
            }
            several if !details && self.count <= CONDITIONS_MAX => {
                let errors = several.iter().filter(|condition| condition.is_error()).count();
                let mut made = vec![ONE_WARNING; self.count.checked_sub(errors)?];
                match errors {
                    0 if made.is_empty() => return Some(CLEAR.to_owned()),
                    0 => {}
                    1 => made.push(ONE_ERROR),
                    _ => return None,
                }
                Some(format!("DO {}", made.join(", ")))
            }
            _ => None,
        }
    }
}

/// The variable of `GET [CURRENT] DIAGNOSTICS @x = NUMBER`.
fn number_wanted(text: &[u8], mode: Mode) -> Option<String> {
    let tokens: Vec<Token> = Lexer::new(text, mode).collect();
    let is = |at: usize, word: &[u8]| {
        tokens.get(at).is_some_and(|token| token.bytes(text).eq_ignore_ascii_case(word))
    };
    let at = 1 + usize::from(is(1, b"CURRENT"));
    let fits = is(0, b"GET")
        && is(at, b"DIAGNOSTICS")
        && is(at + 2, b"=")
        && is(at + 3, b"NUMBER")
        && (tokens.len() == at + 4 || is(at + 4, b";"));
    let variable = tokens.get(at + 1).filter(|token| fits && token.kind == TokenKind::UserVar)?;
    Some(user_variable_name(variable.bytes(text)))
}

/// Where the statement before ran and has left what may be asked for, if its connection is still held.
pub(crate) type RanOn = Option<ShardId>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_alone_is_told_apart() {
        let wanted = |text: &str| number_wanted(text.as_bytes(), Mode::default());
        assert_eq!(wanted("get diagnostics @N = number"), Some("n".to_owned()));
        assert_eq!(wanted("GET CURRENT DIAGNOSTICS @`a b`=NUMBER;"), Some("a b".to_owned()));
        for other in [
            "GET DIAGNOSTICS @n = NUMBER, @r = ROW_COUNT",
            "GET DIAGNOSTICS CONDITION 1 @n = MYSQL_ERRNO",
            "GET DIAGNOSTICS n = NUMBER",
        ] {
            assert_eq!(wanted(other), None, "{other}");
        }
    }
}
