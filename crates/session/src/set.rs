//! SET and USE. Settings are values of the session; a server says whether a value is right, and its own tracking says
//! what became of an expression.

use std::sync::Arc;

use usher_backend::{Lent, Settings};
use usher_sql::effects::{Assignment, Constant, Scope, Set, Value};
use usher_sql::{Kind, Mode, Plan, ShowKind, Target, effects};
use usher_topology::ShardId;
use usher_wire::caps::Caps;
use usher_wire::collation;
use usher_wire::packet::{Change, ErrPacket};
use usher_wire::sqlerr::{ErrorId, Executed, Failure};

use crate::execute::{Body, checkout_failure};
use crate::query::{Text, is_temporary, packet, unsupported};
use crate::session::{Served, Session, Stop, Transaction, Turn};
use crate::set_global::is_global;
use crate::text_prepare::server_error;
use crate::tracking::TRACKING;

/// Variables whose setting has no lasting value, or is the server's own business.
const NOT_SETTINGS: &[&str] = &[
    "last_gtid",
    "last_insert_id",
    "identity",
    "pseudo_thread_id",
    "in_transaction",
    "warning_count",
    "error_count",
    "gtid_seq_no",
    "gtid_domain_id",
    "server_id",
    "statement_id",
];

/// Variables that a client must not set: they would hide writes from copies or from usher itself.
const FORBIDDEN: &[&str] = &[
    "sql_log_bin",
    "skip_replication",
    "gtid_next",
    "gtid_seq_no",
    "gtid_domain_id",
    "server_id",
    "binlog_format",
    "binlog_row_image",
    "pseudo_slave_mode",
    "pseudo_replica_mode",
    // For the next statement only, of whoever has the connection then.
    "insert_id",
    "rand_seed1",
    "rand_seed2",
];

/// Sets `sql_big_selects`, too, and no server tells of that.
const MAX_JOIN_SIZE: &str = "max_join_size";
/// Variables whose setting is not all that there is to say: of `optimizer_switch` it names some flags only.
const DEPENDS: &[&str] = &[MAX_JOIN_SIZE, "optimizer_switch"];

/// A server's error for a schema that it has not.
const UNKNOWN_DATABASE: u16 = 1049;

/// The character set in which a server reads statements.
const CLIENT_CHARSET: &str = "character_set_client";

/// SET TRANSACTION statements remembered for the next transaction: one each for isolation and access, and to spare.
const NEXT_TRANSACTION_MAX: usize = 4;

/// Settings and user variables of one session.
const SETTINGS_MAX: usize = 2048;

impl Session {
    /// USE and COM_INIT_DB. The schema takes effect on the next connection that is used.
    pub(crate) async fn use_schema(&mut self, name: &[u8], turn: Turn) -> Served {
        let Ok(name) = std::str::from_utf8(name) else {
            return Err(Failure::new(ErrorId::UnknownDatabase).into());
        };
        self.account.may_use(name)?;
        if self.settings.schema() != Some(name) {
            let wanted = self.settings.edit().schema(name).build();
            self.try_settings(wanted).await?;
            self.schema_hash = self.shared.plans.schema_hash(Some(name));
        }
        self.answer_changes(&[Change::Schema(name.as_bytes())], turn).await
    }

    /// Takes new settings once a server has taken them.
    async fn try_settings(&mut self, wanted: Arc<Settings>) -> Result<(), Stop> {
        if let Some(bound) = self.bound.first_mut() {
            match bound.lent.bring_to(&wanted).await {
                Ok(()) => {}
                Err(usher_backend::BackendError::Settings { payload, .. }) => {
                    // The connection keeps what the session had.
                    bound.lent.dirty = true;
                    return Err(Stop::Pass(payload));
                }
                Err(error) => return Err(checkout_failure(&error).into()),
            }
        } else {
            // Whoever waits for a connection keeps none.
            self.let_go_of_kept();
            let place = self.any_place();
            match self.try_settings_on(place.shard, &wanted).await {
                Err(Stop::Pass(payload)) if !place.shard.is_global() && is_unknown_database(&payload) => {
                    self.try_settings_on(ShardId::GLOBAL, &wanted).await?;
                    self.shared.schemas.found_global_only(wanted.schema().unwrap_or_default());
                }
                tried => tried?,
            }
        }
        self.settings = wanted;
        Ok(())
    }

    async fn try_settings_on(&self, shard: ShardId, wanted: &Arc<Settings>) -> Result<(), Stop> {
        let state = self.shared.directory.state();
        let Some(shard) = state.topology.shard(shard) else {
            return Err(Failure::new(ErrorId::ShardUnreachable).into());
        };
        let health = self.shared.monitor.health();
        let up = |server: &&usher_topology::Server| health.get(&server.id).is_some_and(|seen| seen.up);
        let server = shard.servers.iter().find(up).map_or(shard.writer, |server| server.id);
        drop(health);
        let pool = self.shared.pools.of(server).map_err(|error| checkout_failure(&error))?;
        match pool.checkout(wanted).await {
            Ok(_) => Ok(()),
            Err(usher_backend::BackendError::Settings { payload, .. }) => Err(Stop::Pass(payload)),
            Err(error) => Err(checkout_failure(&error).into()),
        }
    }

    /// SET.
    pub(crate) async fn set(&mut self, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        let assignments = match effects::parse(statement.text, self.mode) {
            Ok(Some(Set::Assignments(assignments))) => assignments,
            Ok(Some(Set::Statement { .. })) => return Err(unsupported("SET STATEMENT .. FOR")),
            Ok(Some(Set::Account)) => return Err(unsupported("SET of accounts and roles through the proxy")),
            // A server words its own syntax errors. What it takes all the same stays where it was said.
            Ok(None) | Err(_) => {
                self.obscure = true;
                let served = self.anywhere(plan, statement.packets, turn).await;
                self.obscure = false;
                return served;
            }
        };
        if is_global(&assignments) {
            return Box::pin(self.set_global(statement, &assignments, turn)).await;
        }
        let end = statement.digest.end.min(statement.text.len());
        let text = statement.text.get(..end).unwrap_or_default();
        if let Some(rest) = effects::without(text, self.mode, |name| name.starts_with(TRACKING)) {
            let told = self.track(&assignments)?;
            return match rest.is_empty() {
                true => self.answer_changes(&told, turn).await,
                false => self.set_rest(&rest, turn).await,
            };
        }
        check_allowed(&assignments, statement.text)?;
        self.check_branch_set(&assignments)?;
        if self.settings.edit().len() + assignments.len() > SETTINGS_MAX {
            return Err(unsupported("that many settings and variables in one session"));
        }
        if usher_sql::depends_on_version(statement.text, self.mode) {
            // Only the server knows whether it sets anything, and tells.
            return self.set_by_server(statement, plan, (&assignments, Vec::new()), turn).await;
        }
        let (mut autocommit, mut last_insert_id) = (None, None);
        let mut edits = Vec::new();
        let constant = assignments.iter().all(|assignment| {
            if let Some(id) = last_insert_id_of(assignment) {
                last_insert_id = Some(id);
                return true;
            }
            if let Assignment::Variable { name, value, .. } = assignment
                && name == "autocommit"
            {
                autocommit = self.truth(value);
                return autocommit.is_some();
            }
            let typed = matches!(assignment, Assignment::UserVar { name, value }
                if value.constant == Some(Constant::Null) && self.has_typed(name));
            // NULL has the type of the value before.
            !typed && edit(&mut edits, assignment, statement.text)
        });
        if !constant {
            edits.clear();
        }
        if !constant || (autocommit.is_none() && last_insert_id.is_none()) {
            return self.set_by_server(statement, plan, (&assignments, edits), turn).await;
        }
        if let Some(on) = autocommit {
            // Turning it on commits what is open; turning it off begins with the next statement.
            if on && !self.autocommit {
                self.end_open(b"COMMIT").await?;
                self.end_transaction();
            }
            edits.push(match on {
                true => Edit::Unset("autocommit".to_owned()),
                false => Edit::Variable("autocommit".to_owned(), "0".to_owned()),
            });
        }
        let mut settings = self.settings.edit();
        edits.iter().for_each(|edit| edit.apply(&mut settings));
        self.try_settings(settings.build()).await?;
        self.last_insert_id = last_insert_id.unwrap_or(self.last_insert_id);
        self.autocommit = autocommit.unwrap_or(self.autocommit);
        self.mode_from_settings();
        let told: Vec<(String, String)> = edits.iter().flat_map(Edit::told).collect();
        let changes: Vec<Change<'_>> = told
            .iter()
            .map(|(name, value)| Change::Variable { name: name.as_bytes(), value: value.as_bytes() })
            .collect();
        self.answer_changes(&changes, turn).await
    }

    /// Whether a variable has a value with a type.
    fn has_typed(&self, name: &str) -> bool {
        let value = self.settings.variable(&format!("@{name}"));
        value.is_some_and(|sql| sql != usher_backend::NULL_USER_VARIABLE)
    }

    /// Whether autocommit is turned on or off; `None` if that is not plain to see.
    fn truth(&self, value: &Value) -> Option<bool> {
        match value.constant {
            Some(Constant::Default) => {
                Some(self.shared.monitor.defaults().is_none_or(|defaults| defaults.autocommit()))
            }
            _ => truth(value),
        }
    }

    /// What a SET says besides what is not for the servers.
    #[cold]
    async fn set_rest(&mut self, rest: &[u8], turn: Turn) -> Served {
        let mut literals = Vec::new();
        let digest = usher_sql::digest(rest, self.mode, &mut literals);
        let packets = packet(rest);
        let text = Text { text: rest, packets: &packets, digest: &digest, literals: &literals };
        Box::pin(self.statement(text, turn)).await
    }

    /// SET STATEMENT .. FOR: its settings hold for the one statement, so that it passes as it is.
    pub(crate) async fn set_statement(&mut self, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        let end = statement.digest.end.min(statement.text.len());
        let text = statement.text.get(..end).unwrap_or_default();
        let inner = match effects::parse(text, self.mode) {
            Ok(Some(Set::Statement { assignments, statement })) => {
                check_allowed(&assignments, text)?;
                text.get(statement..).unwrap_or_default()
            }
            // A server words its own syntax errors.
            _ => return self.anywhere(plan, statement.packets, turn).await,
        };
        let of_inner = self.plan_of(inner);
        let kind = of_inner.kind.clone();
        let plan = &Plan { kind: kind.clone(), tables: of_inner.tables.clone(), ..plan.clone() };
        match (kind, &plan.target) {
            (Kind::Ddl(kind), _) if is_temporary(kind) || !self.changes_every_server(inner)? => {
                let statement = Text { text: inner, ..statement };
                return self.ddl(statement, plan, kind, turn).await;
            }
            (Kind::Load { local: true }, _) if !self.client.caps.has(Caps::LOCAL_FILES) => {
                return Err(Stop::Pass(self.local_files_refused()));
            }
            (Kind::Handler | Kind::Ddl(_) | Kind::Set | Kind::SetStatement | Kind::Kill | Kind::Xa, _)
            | (Kind::Show(ShowKind::Databases | ShowKind::Processlist), _) => {
                return Err(not_with_settings());
            }
            (Kind::Execute(_), _) => {
                let digest = usher_sql::Digest { end: inner.len(), ..statement.digest.clone() };
                let statement = Text { text: inner, digest: &digest, ..statement };
                return Box::pin(self.prepare_in_text(statement, plan, turn)).await;
            }
            (Kind::UnlockTables, _) => {
                self.put_locked_first();
                return self.anywhere(plan, statement.packets, turn).await;
            }
            _ => {}
        }
        match &plan.target {
            Target::Global => self.global(plan, statement, turn).await,
            Target::AnyServer => self.anywhere(plan, statement.packets, turn).await,
            Target::User { sources } if plan.insert.is_none() => {
                let key = self.values(statement).one_key(sources)?;
                self.of_user(plan, key, Body::Text(statement.packets), None, turn).await
            }
            _ => Err(not_with_settings()),
        }
    }

    fn plan_of(&self, text: &[u8]) -> Arc<Plan> {
        let digest = usher_sql::digest(text, self.mode, &mut Vec::new());
        self.plan(text, &digest)
    }

    /// # Errors
    /// Its settings, or what it is for, are not for usher to have prepared.
    pub(crate) fn check_set_statement(&self, text: &[u8], plan: &Plan) -> Result<(), Stop> {
        if let Ok(Some(Set::Statement { assignments, .. })) = effects::parse(text, self.mode) {
            check_allowed(&assignments, text)?;
        }
        match plan.target {
            Target::User { .. } if plan.insert.is_some() => Err(not_with_settings()),
            _ => Ok(()),
        }
    }

    /// A server evaluates it, warns of it, and tells what the variables are now. What is plain to see need not be told.
    async fn set_by_server(
        &mut self,
        statement: Text<'_>,
        plan: &Plan,
        (assignments, edits): (&[Assignment], Vec<Edit>),
        turn: Turn,
    ) -> Served {
        if assignments.iter().all(is_for_next_transaction)
            && !matches!(self.transaction, Transaction::Open(_))
        {
            return self.set_next_transaction(statement.text, turn).await;
        }
        let mut plan = plan.clone();
        plan.uses.sets_last_insert_id |= assignments.iter().any(is_last_insert_id);
        plan.uses.writes_user_vars.extend(assignments.iter().filter_map(|assignment| match assignment {
            Assignment::UserVar { name, .. } => Some(name.clone()),
            _ => None,
        }));
        if plan.uses.unknown_function.is_some() {
            // MariaDB's functions may have OUT parameters.
            let reads = plan.uses.reads_user_vars.clone();
            plan.uses.writes_user_vars.extend(reads);
        }
        if edits.is_empty() && !usher_sql::depends_on_version(statement.text, self.mode) {
            self.unknown_settings = assignments.iter().filter_map(unknown_setting).collect();
            if self.unknown_settings.iter().any(|name| name == MAX_JOIN_SIZE) {
                self.unknown_settings.push("sql_big_selects".to_owned());
            }
        }
        self.edits = edits;
        // A value must not bind a transaction to a server: it is not asked for in one.
        let served = match plan.target {
            Target::Global => Box::pin(self.global(&plan, statement, turn)).await,
            _ => self.anywhere(&plan, statement.packets, turn).await,
        };
        self.edits.clear();
        self.unknown_settings.clear();
        if served.as_ref().is_ok_and(|answered| !answered.failed) {
            self.set_for_session(assignments);
        }
        served
    }

    /// A SET has been carried out on this connection: what it plainly says holds there and for the session.
    pub(crate) fn take_over_edits(&mut self, lent: &mut Lent) {
        let edits = std::mem::take(&mut self.edits);
        let (mut ours, mut theirs) = (self.settings.edit(), lent.settings.edit());
        for edit in &edits {
            edit.apply(&mut ours);
            edit.apply(&mut theirs);
        }
        self.edits = edits;
        self.settings = ours.build();
        lent.settings = theirs.build();
        self.mode_from_settings();
    }

    /// SET TRANSACTION without a scope holds for the next transaction: it goes ahead of it, to wherever it begins.
    async fn set_next_transaction(&mut self, text: &[u8], turn: Turn) -> Served {
        if let Transaction::Pending { begun: true, .. } = self.transaction {
            let message = "Transaction characteristics can't be changed while a transaction is in progress";
            return Err(server_error(1568, *b"25001", message));
        }
        if self.next_transaction.len() >= NEXT_TRANSACTION_MAX {
            self.next_transaction.remove(0);
        }
        self.next_transaction.push(text.into());
        self.answer_ok(turn).await
    }

    /// What a server reports as changed becomes the session's, and the connection is known to have it.
    pub(crate) fn take_over(&mut self, lent: &mut Lent, changed: &[(String, String)]) {
        let (mut ours, mut theirs) = (self.settings.edit(), lent.settings.edit());
        // SET NAMES says all that its variables do.
        let by_names = self.edits.iter().any(|edit| matches!(edit, Edit::Names(_)));
        // The server tells the time that this very statement still has.
        let is_clock_let_go =
            self.edits.iter().any(|edit| matches!(edit, Edit::Unset(name) if name == "timestamp"));
        for (name, value) in changed {
            if NOT_SETTINGS.contains(&name.as_str())
                || by_names && usher_backend::NAMES_VARIABLES.contains(&name.as_str())
                || name == "timestamp" && is_clock_let_go
            {
                continue;
            }
            if name == "autocommit" {
                self.autocommit = !matches!(value.as_str(), "OFF" | "0");
                if self.autocommit {
                    ours.unset(name);
                    theirs.unset(name);
                    continue;
                }
            }
            let sql = as_sql(name, value);
            theirs.variable(name, &sql);
            // A procedure may have set one that statements cannot be read in: that stays with the connection, which has
            // the session's again before the next statement.
            if name != CLIENT_CHARSET || collation::is_safe_to_scan(value) {
                ours.variable(name, &sql);
            }
        }
        self.settings = ours.build();
        lent.settings = theirs.build();
        self.mode_from_settings();
    }

    fn mode_from_settings(&mut self) {
        self.mode = mode_of(&self.settings);
    }
}

/// How statements are read under these settings.
pub(crate) fn mode_of(settings: &Settings) -> Mode {
    let sql_mode = settings.variable("sql_mode").unwrap_or("''");
    let mut mode = Mode::from_sql_mode(sql_mode.trim_matches('\''));
    let charset = match settings.variable("character_set_client") {
        Some(set) => set.trim_matches('\''),
        None => settings.names().split(' ').next().unwrap_or("utf8mb4"),
    };
    mode.foreign_charset = !usher_sql::is_utf8(charset);
    mode
}

/// Whether it holds for the next transaction only.
pub(crate) fn is_for_next_transaction(assignment: &Assignment) -> bool {
    matches!(
        assignment,
        Assignment::Transaction { scope: Scope::NextTransaction, .. }
            | Assignment::Variable { scope: Scope::NextTransaction, .. }
    )
}

/// What is left for the servers; `None` if that is nothing.
pub(crate) fn without_tracking(mut assignments: Vec<Assignment>) -> Option<Vec<Assignment>> {
    assignments.retain(
        |assignment| !matches!(assignment, Assignment::Variable { name, .. } if name.starts_with(TRACKING)),
    );
    (!assignments.is_empty()).then_some(assignments)
}

pub(crate) fn not_with_settings() -> Stop {
    unsupported("SET STATEMENT .. FOR this statement; set the variable before it")
}

fn is_unknown_database(payload: &[u8]) -> bool {
    ErrPacket::parse(payload).is_ok_and(|error| error.code == UNKNOWN_DATABASE)
}

/// # Errors
/// A variable or a character set that must not be set through the proxy.
pub(crate) fn check_allowed(assignments: &[Assignment], text: &[u8]) -> Result<(), Stop> {
    for assignment in assignments {
        let (scope, name) = match assignment {
            Assignment::Variable { name, value, .. }
                if name == CLIENT_CHARSET && !is_safe_charset(value, text) =>
            {
                return Err(Failure::new(ErrorId::UnsafeCharset).field("variable", name).into());
            }
            Assignment::Variable { scope, name, .. } => (*scope, name.as_str()),
            Assignment::Transaction { scope, .. } => (*scope, "transaction"),
            Assignment::Names { charset: Some(charset), .. } | Assignment::CharacterSet(Some(charset))
                if !collation::is_safe_to_scan(charset) =>
            {
                return Err(Failure::new(ErrorId::UnsafeCharset).field("charset", charset).into());
            }
            _ => continue,
        };
        if scope == Scope::Global || FORBIDDEN.contains(&name) || name.starts_with(TRACKING) {
            let failure = Failure::new(ErrorId::CommandRefused).field("variable", name);
            return Err(failure.note("not to be set through the proxy").executed(Executed::No).into());
        }
    }
    Ok(())
}

/// Whether this is known to be a character set that statements can be read in.
fn is_safe_charset(value: &Value, text: &[u8]) -> bool {
    match &value.constant {
        Some(Constant::Text(name)) => std::str::from_utf8(name).is_ok_and(collation::is_safe_to_scan),
        Some(Constant::Int(id)) => {
            u16::try_from(*id).ok().and_then(collation::charset).is_none_or(collation::is_safe_to_scan)
        }
        // Refused by the server, or the default.
        Some(_) => true,
        // Of a variable the server tells what it was, and it counts only if it is safe: dumps end with such.
        None => text.get(value.span.clone()).is_some_and(|value| value.starts_with(b"@")),
    }
}

/// A setting whose value may have to be asked for: trackers are silent about some, MariaDB's about all that are set as
/// `@@x` without a scope.
fn unknown_setting(assignment: &Assignment) -> Option<String> {
    match assignment {
        Assignment::Variable { scope: Scope::Session, name, .. }
            if is_word(name)
                && !name.contains('.')
                && name != "autocommit"
                && !NOT_SETTINGS.contains(&name.as_str()) =>
        {
            Some(name.clone())
        }
        _ => None,
    }
}

fn is_last_insert_id(assignment: &Assignment) -> bool {
    matches!(assignment, Assignment::Variable { name, .. } if name == "last_insert_id" || name == "identity")
}

/// What LAST_INSERT_ID() is set to, if that is plain to see.
fn last_insert_id_of(assignment: &Assignment) -> Option<u64> {
    let Assignment::Variable { scope: Scope::Session, value, .. } = assignment else { return None };
    match value.constant {
        Some(Constant::Int(id)) if is_last_insert_id(assignment) => u64::try_from(id).ok(),
        _ => None,
    }
}

/// A change of the settings.
#[derive(Debug)]
pub(crate) enum Edit {
    Names(String),
    Variable(String, String),
    Unset(String),
}

impl Edit {
    /// Variables and their values, as a server tells of the change. Defaults are not known here; but the only one that
    /// comes without a server is autocommit.
    fn told(&self) -> Vec<(String, String)> {
        match self {
            Self::Names(names) => {
                let charset = names.split(' ').next().unwrap_or_default();
                let set = ["character_set_client", "character_set_connection", "character_set_results"];
                set.map(|name| (name.to_owned(), charset.to_owned())).to_vec()
            }
            Self::Variable(name, _) if name.starts_with('@') => Vec::new(),
            Self::Variable(name, _) if name == "autocommit" => vec![(name.clone(), "OFF".to_owned())],
            Self::Variable(name, value) => vec![(name.clone(), value.trim_matches('\'').to_owned())],
            Self::Unset(name) if name == "autocommit" => vec![(name.clone(), "ON".to_owned())],
            Self::Unset(_) => Vec::new(),
        }
    }

    fn apply(&self, settings: &mut usher_backend::SettingsBuilder) {
        match self {
            Self::Names(names) => settings.names(names),
            Self::Variable(name, value) => settings.variable(name, value),
            Self::Unset(name) => settings.unset(name),
        };
    }
}

/// What an assignment plainly changes; `false` if only a server can tell.
fn edit(edits: &mut Vec<Edit>, assignment: &Assignment, text: &[u8]) -> bool {
    let edit = match assignment {
        Assignment::Names { charset, collation } => names_edit(charset.as_deref(), collation.as_deref()),
        // A string's character set is the connection's at this moment: a server tells what came of it.
        Assignment::UserVar { value: Value { constant: Some(Constant::Text(_)), .. }, .. } => None,
        Assignment::UserVar { name, value: Value { constant: Some(Constant::Null), .. } } => {
            Some(Edit::Variable(format!("@{name}"), usher_backend::NULL_USER_VARIABLE.to_owned()))
        }
        Assignment::UserVar { name, value } => {
            literal(value, text).map(|sql| Edit::Variable(format!("@{name}"), sql))
        }
        Assignment::Variable { scope: Scope::Session, name, value } if is_word(name) => {
            variable_edit(name, value, text)
        }
        Assignment::Transaction { scope: Scope::Session, isolation: Some(isolation), read_only: None } => {
            Some(Edit::Variable("transaction_isolation".to_owned(), format!("'{isolation}'")))
        }
        _ => None,
    };
    let Some(edit) = edit else { return false };
    edits.push(edit);
    true
}

fn names_edit(charset: Option<&str>, collation: Option<&str>) -> Option<Edit> {
    let charset = charset.unwrap_or("utf8mb4");
    let names = match collation {
        Some(collation) => format!("{charset} COLLATE {collation}"),
        None => charset.to_owned(),
    };
    // Names of character sets and collations are words; anything else is for a server to refuse.
    let plain = names.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b' '));
    plain.then_some(Edit::Names(names))
}

fn variable_edit(name: &str, value: &Value, text: &[u8]) -> Option<Edit> {
    let is_mode_by_number = name == "sql_mode" && !matches!(value.constant, Some(Constant::Text(_)));
    if NOT_SETTINGS.contains(&name) || is_mode_by_number || DEPENDS.contains(&name) {
        return None;
    }
    match (&value.constant, literal(value, text)) {
        // Each session says its own: a server tells what this one has become.
        (Some(Constant::Default), _) if name == "sql_mode" => None,
        (Some(Constant::Default), _) => Some(Edit::Unset(name.to_owned())),
        (_, Some(sql)) => Some(Edit::Variable(name.to_owned(), sql)),
        _ => None,
    }
}

/// The value as SQL to be said again, if it is a constant.
fn literal(value: &Value, text: &[u8]) -> Option<String> {
    match value.constant.as_ref()? {
        Constant::Default => None,
        Constant::Null => Some("NULL".to_owned()),
        Constant::Int(number) => Some(number.to_string()),
        Constant::Real(number) => Some(number.clone()),
        // Said again in whatever sql_mode: only what means the same in all of them.
        Constant::Text(word) => {
            let word = std::str::from_utf8(word).ok()?;
            let plain =
                word.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'\'' | b'\\'));
            let is_quoted = matches!(text.get(value.span.start), Some(b'\'' | b'"'));
            match is_quoted {
                true if plain => Some(format!("'{word}'")),
                false if is_word(word) => Some(word.to_owned()),
                _ => None,
            }
        }
    }
}

fn truth(value: &Value) -> Option<bool> {
    match value.constant.as_ref()? {
        Constant::Int(number) => Some(*number != 0),
        Constant::Text(word) if word.eq_ignore_ascii_case(b"on") || word.eq_ignore_ascii_case(b"true") => {
            Some(true)
        }
        Constant::Text(word) if word.eq_ignore_ascii_case(b"off") || word.eq_ignore_ascii_case(b"false") => {
            Some(false)
        }
        _ => None,
    }
}

fn is_word(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.'))
}

/// A value that a server reports, as SQL: numbers bare, all else quoted.
fn as_sql(name: &str, value: &str) -> String {
    if value.is_empty() && name == "character_set_results" {
        return "NULL".to_owned();
    }
    if !value.is_empty() && value.parse::<f64>().is_ok() {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_values_can_be_said_again() {
        assert_eq!(as_sql("sql_mode", ""), "''");
        assert_eq!(as_sql("character_set_results", ""), "NULL");
        assert_eq!(as_sql("sort_buffer_size", "262144"), "262144");
        assert_eq!(as_sql("time_zone", "+00:00"), "'+00:00'");
        assert_eq!(as_sql("x", "it's"), "'it''s'");
    }
}
