//! What became of the statement before: warnings, errors, numbers of rows.

use usher_sql::{Kind, Plan, ShowKind};
use usher_topology::ShardId;
use usher_wire::collation;
use usher_wire::result::{Column, Format, NOT_NULL, UNSIGNED, Value};

use crate::execute::{Body, Order};
use crate::query::{Text, unsupported};
use crate::route::Place;
use crate::session::{Served, Session, Turn};

/// A statement that leaves nothing to tell. MariaDB forgets warnings only where a table is named.
const CLEAR: &str = "SELECT 1 FROM (SELECT 1) AS t LIMIT 0";
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
        if self.failure.is_none() && self.kept.is_some() {
            return self.ask_kept(statement, plan, turn).await;
        }
        let place = match (&self.failure, self.ran_on) {
            (None, Some(shard)) => Place { shard, from_writer: true },
            (None, None) => self.any_place(),
            (Some(_), _) if is_simple_show(statement, plan) => return self.show_failure(turn).await,
            (Some(_), _) => self.any_place(),
        };
        if self.failure.is_some() || self.ran_on.is_none() {
            let upper = statement.text.to_ascii_uppercase();
            let counts = upper.windows(9).any(|word| word == b"ROW_COUNT");
            if plan.kind == Kind::GetDiagnostics && counts && self.row_count != 0 {
                return Err(unsupported("ROW_COUNT in GET DIAGNOSTICS; use ROW_COUNT()"));
            }
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
        let place = Place { shard: kept.shard, from_writer: true };
        // In front, to be found first. It is only borrowed for this statement: asking does not clear what is asked for.
        self.bound.insert(0, kept);
        let body = Body::Text(statement.packets);
        let order = Order { plan, place, key: None, body, insert_id: None, writer_hint: true };
        self.keeps = true;
        let served = self.run_aside(order, turn).await;
        self.keeps = false;
        served
    }

    /// A statement that leaves a connection with what this session has to tell: an error, or nothing.
    fn same_diagnostics(&self) -> String {
        let Some((code, message)) = self.failure.as_deref() else { return CLEAR.to_owned() };
        let message: String = message.chars().take(SIGNAL_MESSAGE_MAX).collect();
        let message = message.replace('\\', "/").replace('\'', "''");
        format!("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = '{message}'")
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
    async fn show_failure(&mut self, turn: Turn) -> Served {
        let Some((code, message)) = self.failure.as_deref().cloned() else {
            return Err(unsupported("diagnostics of no statement"));
        };
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
            let code = code.to_string();
            table.row(&[
                Value::from("Error"),
                Value::Bytes(code.as_bytes()),
                Value::Bytes(message.as_bytes()),
            ])?;
            Ok(table.end(status, 0).seq())
        })
        .await
    }
}

/// SHOW WARNINGS or SHOW ERRORS and no more: no count, no LIMIT.
fn is_simple_show(statement: Text<'_>, plan: &Plan) -> bool {
    let words = statement.text.split(|byte| byte.is_ascii_whitespace() || *byte == b';');
    matches!(plan.kind, Kind::Show(ShowKind::Warnings | ShowKind::Errors))
        && words.filter(|word| !word.is_empty()).count() == 2
}

/// Where the statement before ran and has left what may be asked for, if its connection is still held.
pub(crate) type RanOn = Option<ShardId>;
