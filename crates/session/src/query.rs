//! Statements in text: digest, plan, and which way each goes.

use std::sync::Arc;

use usher_sql::{DdlKind, Digest, Found, Kind, Literal, Plan, ShowKind, Target};
use usher_topology::{Key, Shard, ShardId};
use usher_wire::caps::Caps;
use usher_wire::command::{COM_FIELD_LIST, COM_QUERY, COM_REFRESH, strip_attributes};
use usher_wire::frame::write_packet;
use usher_wire::result::Format;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};

use crate::diagnostics::asks_of_the_one_before;
use crate::execute::{Body, Order};
use crate::hold::Hold;
use crate::insert::{Insert, null_user};
use crate::own_values::asks_who_locks;
use crate::own_variables::{reads_of_one_server, reads_own};
use crate::route::{Place, Values, directory_failure};
use crate::session::{Served, Session, Stop, Transaction, Turn};

/// How much of a statement a syntax error shows.
const SHOWN_CHARS: usize = 80;

/// A statement as it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) text: &'a [u8],
    /// The packets that carry it.
    pub(crate) packets: &'a [u8],
    pub(crate) digest: &'a Digest,
    pub(crate) literals: &'a [Literal],
}

impl Session {
    /// Serves a COM_QUERY of one packet; the text starts at `at` of the payload.
    pub(crate) async fn query(&mut self, raw: &mut [u8], at: usize, turn: Turn) -> Served {
        let range = match at {
            1 => 0..raw.len(),
            _ => strip_attributes(raw, at).ok_or(usher_wire::Error::Malformed("query attributes"))?,
        };
        let packets = raw.get(range).unwrap_or_default();
        let text = packets.get(5..).unwrap_or_default();
        self.texts(text, packets, turn).await
    }

    /// Serves a COM_QUERY that came in several packets.
    #[cold]
    pub(crate) async fn query_joined(&mut self, payload: Vec<u8>, at: usize, turn: Turn) -> Served {
        let text = payload.get(at..).unwrap_or_default();
        let packets = packet(text);
        self.texts(text, &packets, turn).await
    }

    async fn texts(&mut self, text: &[u8], packets: &[u8], turn: Turn) -> Served {
        let mut literals = std::mem::take(&mut self.literals);
        let digest = usher_sql::digest(text, self.mode, &mut literals);
        let served = match digest.second_statement {
            None => {
                let whole = Text { text, packets, digest: &digest, literals: &literals };
                self.statement(whole, turn).await
            }
            Some(next) => Box::pin(self.several(text, &digest, &mut literals, next, turn)).await,
        };
        self.literals = literals;
        served
    }

    /// A multi-statement: one after the other, up to the first error.
    #[cold]
    async fn several(
        &mut self,
        text: &[u8],
        first: &Digest,
        literals: &mut Vec<Literal>,
        second: usize,
        turn: Turn,
    ) -> Served {
        if !self.client.caps.has(Caps::MULTI_STATEMENTS) {
            return Err(self.syntax_error(text, second).into());
        }
        if usher_sql::explain_route(text, self.mode).is_some() {
            return self.explain_route(text, turn).await;
        }
        let (mut at, mut digest, mut next) = (0, first.clone(), Some(second));
        let mut seq = turn.seq;
        loop {
            let one = text.get(at..at + digest.end.min(text.len() - at)).unwrap_or_default();
            let packets = packet(one);
            let more = next.is_some();
            let statement = Text { text: one, packets: &packets, digest: &digest, literals };
            let answered = match Box::pin(self.statement(statement, Turn { seq, more })).await {
                Ok(answered) => answered,
                // The error must carry on the sequence of the answers before it.
                Err(stop) => return self.tell(stop, seq).await.map_err(Stop::End),
            };
            seq = self.client.channel.next_seq().unwrap_or(answered.seq);
            let Some(offset) = next.filter(|_| !answered.failed) else { return Ok(answered) };
            at += offset;
            digest = usher_sql::digest(text.get(at..).unwrap_or_default(), self.mode, literals);
            next = digest.second_statement;
        }
    }

    /// As a server words it, whose parser stops where the second statement begins.
    fn syntax_error(&self, text: &[u8], at: usize) -> Failure {
        let (before, rest) = text.split_at(at.min(text.len()));
        // Servers take what ends a text away before they read it.
        let ends = |byte: &u8| *byte == b';' || byte.is_ascii_whitespace();
        let len = rest.len() - rest.iter().rev().take_while(|byte| ends(byte)).count();
        let rest = String::from_utf8_lossy(rest.get(..len).unwrap_or_default());
        let is_mariadb = self.shared.server_version.contains("MariaDB");
        let near: String = match is_mariadb && rest.chars().nth(SHOWN_CHARS).is_some() {
            true => rest.chars().take(SHOWN_CHARS - 3).chain("...".chars()).collect(),
            false => rest.chars().take(SHOWN_CHARS).collect(),
        };
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let server = if is_mariadb { "MariaDB" } else { "MySQL" };
        Failure::new(ErrorId::Syntax).as_server(format!(
            "You have an error in your SQL syntax; check the manual that corresponds to your {server} server \
             version for the right syntax to use near '{near}' at line {line}"
        ))
    }

    /// Serves one statement.
    pub(crate) async fn statement(&mut self, statement: Text<'_>, turn: Turn) -> Served {
        let plan = settled(self.plan(statement.text, statement.digest), statement.text, statement.literals);
        let asks = asks_of_the_one_before(&plan)
            || matches!(plan.kind, Kind::Execute(_)) && self.executes_what_asks(statement);
        if (self.owed.is_some() || self.failure.is_some()) && !asks {
            self.failure = None;
            self.settle_debts().await;
        }
        if !asks {
            (self.ran_on, self.told) = (None, None);
            self.notices.clear();
        }
        self.account.may(&plan, &self.shared.schemas)?;
        if self.branch.is_some() {
            self.check_branch(&plan)?;
        }
        if plan.creating.is_some() {
            return Box::pin(self.once_created(statement, plan, turn)).await;
        }
        if let Found::Behind(ordinal) = plan.uses.found {
            self.passed_over = self.values(statement).count(ordinal);
        }
        let hints = &statement.digest.hints;
        if !hints.is_empty() && plan.kind != Kind::ExplainRoute {
            return Box::pin(self.hinted(statement, &plan, turn)).await;
        }
        match (&plan.kind, &plan.target) {
            _ if is_of_its_session(&plan) => Box::pin(self.unusual(statement, plan, turn)).await,
            (Kind::Read | Kind::LockingRead | Kind::Update | Kind::Delete, Target::User { sources }) => {
                let values = self.values(statement);
                let key = values.one_key(sources)?;
                self.of_user(&plan, key, Body::Text(statement.packets), None, turn).await
            }
            (Kind::Insert | Kind::Replace, Target::User { .. }) => {
                self.insert_text(statement, &plan, turn).await
            }
            (kind, Target::Global) if is_plain(kind) => match self.global(&plan, statement, turn).await {
                Err(stop) if stop.is_of(ErrorId::CatalogChanged) => {
                    Box::pin(self.statement(statement, turn)).await
                }
                served => served,
            },
            _ => Box::pin(self.unusual(statement, plan, turn)).await,
        }
    }

    pub(crate) fn plan(&self, text: &[u8], digest: &Digest) -> Arc<Plan> {
        let schema = (self.settings.schema(), self.schema_hash);
        let catalog = self.shared.catalog.load();
        self.shared.plans.plan(text, digest, schema, self.mode, &catalog, &self.shared.metrics)
    }

    /// A statement on a table that is not on every server yet.
    #[cold]
    async fn once_created(&mut self, statement: Text<'_>, plan: Arc<Plan>, turn: Turn) -> Served {
        self.wait_for_table(&plan).await?;
        self.statement(statement, turn).await
    }

    /// Waits until the table that the plan waits for is there, or is not being created any more.
    ///
    /// # Errors
    /// The statement's failure when its time is up.
    #[cold]
    pub(crate) async fn wait_for_table(&self, plan: &Plan) -> Result<(), Failure> {
        let Some(table) = plan.creating.as_deref() else { return Ok(()) };
        let note = format!(
            "table {table} is being created; if that has failed, send the CREATE TABLE again or DROP TABLE IF EXISTS"
        );
        let why = Failure::new(ErrorId::HoldExpired).note(note);
        let mut hold = Hold::new(&self.shared, &self.handle, self.transaction != Transaction::None);
        let schema = table.schema.as_deref().unwrap_or_default();
        loop {
            let version = self.shared.directory.state().version;
            if !self.shared.catalog.load().is_creating(schema, &table.name) {
                return Ok(());
            }
            // The catalog follows the state a moment later.
            hold.wait_moment(version, &why).await?;
        }
    }

    pub(crate) fn values<'a>(&'a self, statement: Text<'a>) -> Values<'a> {
        Values {
            text: statement.text,
            literals: statement.literals,
            params: &[],
            mode: self.mode,
            last_insert_id: self.last_insert_id,
            settings: &self.settings,
            others: self.has_other_variables(),
        }
    }

    /// A statement of one user, or of none if the key is NULL or not known.
    pub(crate) async fn of_user(
        &mut self,
        plan: &Plan,
        key: Option<Key>,
        body: Body<'_>,
        insert: Option<Insert>,
        turn: Turn,
    ) -> Served {
        let located = match &key {
            Some(key) if insert.is_none() && (plan.is_write || plan.needs_writer) => {
                self.locate_to_change(key).await?
            }
            Some(key) => self.locate(key).await?,
            None => None,
        };
        let insert_id = insert.as_ref().and_then(|insert| insert.first_id);
        let place = match (located, &key, &insert) {
            (Some(located), ..) => Place::of(located),
            (None, Some(key), Some(_)) => {
                let placed = Box::pin(self.shared.directory.place(key)).await;
                Place::of(placed.map_err(|error| directory_failure(&error))?)
            }
            (None, None, Some(_)) => return Err(null_user()),
            (None, _, None) => {
                let place = self.nowhere();
                let order = Order { plan, place, key: None, body, insert_id, writer_hint: false };
                return Box::pin(self.run_aside(order, turn)).await;
            }
        };
        let order = Order { plan, place, key: key.as_ref(), body, insert_id, writer_hint: false };
        self.run(order, turn).await
    }

    pub(crate) async fn global(&mut self, plan: &Plan, statement: Text<'_>, turn: Turn) -> Served {
        let place = Place::writer(ShardId::GLOBAL);
        let body = Body::Text(statement.packets);
        let order = Order { plan, place, key: None, body, insert_id: None, writer_hint: false };
        if plan.describes() {
            // What tables look like must not bind a transaction to the global master.
            return Box::pin(self.run_aside(order, turn)).await;
        }
        self.run(order, turn).await
    }

    /// COM_FIELD_LIST: the global master has every table, if only its shape.
    pub(crate) async fn field_list(&mut self, table: &[u8], wildcard: &[u8], turn: Turn) -> Served {
        let mut out = Vec::new();
        write_packet(&mut out, &mut 0, |out| {
            out.push(COM_FIELD_LIST);
            out.extend_from_slice(table);
            out.push(0);
            out.extend_from_slice(wildcard);
        });
        let plan = usher_sql::plan(b"SHOW COLUMNS FROM t", None, self.mode, &usher_sql::Catalog::default());
        let place = Place::writer(ShardId::GLOBAL);
        let body = Body::FieldList(&out);
        let order = Order { plan: &plan, place, key: None, body, insert_id: None, writer_hint: false };
        self.run_aside(order, turn).await
    }

    /// COM_REFRESH, an administrator's FLUSH: the global master's, as that is. What would end replication is refused.
    pub(crate) async fn refresh(&mut self, what: u8, turn: Turn) -> Served {
        const SLAVE_AND_MASTER: u8 = 0xc0;
        if !self.account.is_admin() || what & SLAVE_AND_MASTER != 0 {
            let failure = Failure::new(ErrorId::CommandRefused).field("command", "COM_REFRESH");
            return Err(failure.executed(Executed::No).into());
        }
        let mut out = Vec::new();
        write_packet(&mut out, &mut 0, |out| out.extend_from_slice(&[COM_REFRESH, what]));
        let plan = usher_sql::plan(b"FLUSH STATUS", None, self.mode, &usher_sql::Catalog::default());
        let place = Place::writer(ShardId::GLOBAL);
        let body = Body::Simple(&out);
        let order = Order { plan: &plan, place, key: None, body, insert_id: None, writer_hint: true };
        self.run_aside(order, turn).await
    }

    /// The kinds that are not relayed as they are.
    #[cold]
    async fn unusual(&mut self, statement: Text<'_>, plan: Arc<Plan>, turn: Turn) -> Served {
        let plan = &*plan;
        if let Target::Unsupported { reason } = &plan.target {
            return Err(unroutable(plan, reason));
        }
        if reads_own(plan) && plan.kind != Kind::Set {
            return self.with_variables_of_usher(statement, plan, turn).await;
        }
        if plan.kind == Kind::Kill {
            let end = statement.digest.end.min(statement.text.len());
            return self.kill_by_statement(statement.text.get(..end).unwrap_or_default(), turn).await;
        }
        if plan.uses.named_lock && matches!(plan.target, Target::User { .. }) {
            return Err(unsupported(LOCK_BESIDE_ROWS));
        }
        if plan.uses.connection_id
            || plan.uses.row_count
            || plan.uses.found_rows
            || plan.uses.named_lock && asks_who_locks(statement.text, self.mode)
        {
            return self.with_own_values(statement, plan, turn).await;
        }
        if asks_of_the_one_before(plan) {
            return self.ask_of_the_one_before(statement, plan, turn).await;
        }
        match &plan.kind {
            Kind::UnlockTables => {
                self.put_locked_first();
                self.anywhere(plan, statement.packets, turn).await
            }
            Kind::Begin { .. } => self.begin(statement.text, turn).await,
            Kind::Commit { .. } | Kind::Rollback { .. } => self.end_by_statement(statement, plan, turn).await,
            Kind::Savepoint(_) | Kind::RollbackTo(_) | Kind::ReleaseSavepoint(_) => {
                self.savepoint(statement, plan, turn).await
            }
            Kind::Set => self.set(statement, plan, turn).await,
            Kind::Use(name) => self.use_schema(name.as_bytes(), turn).await,
            Kind::Ddl(kind) => self.ddl(statement, plan, *kind, turn).await,
            Kind::ExplainRoute => self.explain_route(statement.text, turn).await,
            Kind::Prepare(_) | Kind::Execute(_) | Kind::Deallocate(_) => {
                Box::pin(self.prepare_in_text(statement, plan, turn)).await
            }
            Kind::Xa => Box::pin(self.xa(statement, plan, (None, Format::Text), turn)).await,
            Kind::Load { local: true } if !self.client.caps.has(Caps::LOCAL_FILES) => {
                Err(Stop::Pass(self.local_files_refused()))
            }
            Kind::SetStatement => self.set_statement(statement, plan, turn).await,
            Kind::Show(ShowKind::Databases) => self.show_databases(statement, plan, turn).await,
            Kind::Show(ShowKind::Processlist) => {
                let mut words = statement.text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
                let full = words.nth(1).is_some_and(|word| word.eq_ignore_ascii_case(b"FULL"));
                self.show_processlist(full, turn).await
            }
            Kind::Show(ShowKind::Variables | ShowKind::Status) => {
                self.beside(plan, statement.packets, turn).await
            }
            _ => match &plan.target {
                Target::AnyServer | Target::Session => self.anywhere(plan, statement.packets, turn).await,
                Target::User { sources } => {
                    let key = self.values(statement).one_key(sources)?;
                    self.of_user(plan, key, Body::Text(statement.packets), None, turn).await
                }
                Target::Global => self.global(plan, statement, turn).await,
                Target::Everywhere | Target::Unsupported { .. } => {
                    Err(unsupported("this statement on all shards"))
                }
            },
        }
    }

    /// A statement without a table: on the connection at hand, or on some server.
    pub(crate) async fn anywhere(&mut self, plan: &Plan, packets: &[u8], turn: Turn) -> Served {
        let (place, writer_hint) = self.place_without_table(plan);
        let body = Body::Text(packets);
        self.run_aside(Order { plan, place, key: None, body, insert_id: None, writer_hint }, turn).await
    }

    /// Where a statement without a table runs, and whether it is for a writer only.
    pub(crate) fn place_without_table(&mut self, plan: &Plan) -> (Place, bool) {
        if plan.uses.named_lock {
            // Everybody's locks have to meet.
            return (Place::writer(ShardId::GLOBAL), plan.needs_writer);
        }
        if matches!(plan.kind, Kind::Show(ShowKind::Variables | ShowKind::Status)) {
            return (self.place_of_lists(plan), true);
        }
        let of_writers = plan.needs_writer || !plan.uses.system_vars.is_empty();
        if reads_of_one_server(plan) || of_writers && self.bound.is_empty() {
            // What a server says of itself has to be the same each time, and copies say that they are read-only.
            let state = self.shared.directory.state();
            let health = self.shared.monitor.health();
            let is_up = |shard: &&Shard| health.get(&shard.writer).is_some_and(|seen| seen.up);
            let shards = &state.topology.shards;
            let global = shards.iter().find(|shard| shard.id.is_global()).filter(is_up);
            let shard =
                global.or_else(|| shards.iter().find(is_up)).map_or(ShardId::GLOBAL, |shard| shard.id);
            return (Place { or_another: !self.is_in_global_schema(), ..Place::writer(shard) }, true);
        }
        (self.any_place(), plan.needs_writer)
    }

    /// A statement that reads variables whose values are usher's.
    async fn with_variables_of_usher(&mut self, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        let end = statement.digest.end.min(statement.text.len());
        let text = statement.text.get(..end).unwrap_or_default();
        let Some(changed) = self.with_own_variables(text, plan)? else {
            return self.anywhere(plan, statement.packets, turn).await;
        };
        let mut literals = Vec::new();
        let digest = usher_sql::digest(&changed, self.mode, &mut literals);
        let packets = packet(&changed);
        let text = Text { text: &changed, packets: &packets, digest: &digest, literals: &literals };
        Box::pin(self.statement(text, turn)).await
    }

    /// Where a server tells of itself: the global master speaks for all. What it has counted for the session is told by
    /// the connection that the session holds, if there is one, and so are variables that only that connection has.
    pub(crate) fn place_of_lists(&self, plan: &Plan) -> Place {
        let counts = plan.kind == Kind::Show(ShowKind::Status);
        match self.bound.first().filter(|_| counts || self.has_other_variables()) {
            Some(held) => Place::writer(held.shard),
            None => Place { or_another: !self.is_in_global_schema(), ..Place::writer(ShardId::GLOBAL) },
        }
    }

    async fn beside(&mut self, plan: &Plan, packets: &[u8], turn: Turn) -> Served {
        let place = self.place_of_lists(plan);
        let body = Body::Text(packets);
        self.run_aside(Order { plan, place, key: None, body, insert_id: None, writer_hint: true }, turn).await
    }

    /// Where a statement without a table runs: on the connection that the session holds, or on a shard whose writer
    /// is up, which spares the global master.
    pub(crate) fn any_place(&mut self) -> Place {
        if let Some(bound) = self.bound.first() {
            return Place::writer(bound.shard);
        }
        if self.is_in_global_schema() {
            return Place::any_server(ShardId::GLOBAL);
        }
        let state = self.shared.directory.state();
        let health = self.shared.monitor.health();
        self.turn = self.turn.wrapping_add(1);
        let shards = &state.topology.shards;
        let rotated = shards.iter().cycle().skip(self.turn % shards.len().max(1)).take(shards.len());
        let healthy = rotated.filter(|shard| !shard.id.is_global()).find(|shard| {
            shard.servers.iter().any(|server| health.get(&server.id).is_some_and(|seen| seen.up))
        });
        Place { or_another: true, ..Place::any_server(healthy.map_or(ShardId::GLOBAL, |shard| shard.id)) }
    }

    /// Whether its schema is one that only the global master has.
    fn is_in_global_schema(&self) -> bool {
        self.settings.schema().is_some_and(|name| self.shared.schemas.is_global_only(name))
    }

    /// A statement behind `/* usher: .. */`.
    #[cold]
    async fn hinted(&mut self, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        let (place, key) = self.hinted_place(statement, plan).await?;
        if plan.kind == Kind::Xa && statement.digest.hints.shard.is_some() {
            return Box::pin(self.xa(statement, plan, (Some(place.shard), Format::Text), turn)).await;
        }
        let body = Body::Text(statement.packets);
        let key = key.as_ref().filter(|_| !place.shard.is_global());
        let writer_hint = statement.digest.hints.writer;
        self.run(Order { plan, place, key, body, insert_id: None, writer_hint }, turn).await
    }

    /// Where hints send a statement, and whose it is.
    ///
    /// # Errors
    /// They are not understood, or the statement is none that they are for.
    pub(crate) async fn hinted_place(
        &mut self,
        statement: Text<'_>,
        plan: &Plan,
    ) -> Result<(Place, Option<Key>), Stop> {
        let hints = &statement.digest.hints;
        let word = |span: &std::ops::Range<usize>| {
            String::from_utf8_lossy(statement.text.get(span.clone()).unwrap_or_default()).into_owned()
        };
        if let Some(unknown) = &hints.unknown {
            let note = format!("hint {:?} is not known; user=, shard= and writer are", word(unknown));
            return Err(Failure::new(ErrorId::BadHint).note(note).executed(Executed::No).into());
        }
        if let (Kind::Xa, Some(span)) = (&plan.kind, &hints.shard) {
            let state = self.shared.directory.state();
            let shard = state.topology.shard_named(&word(span)).map(|shard| shard.id);
            let Some(shard) = shard else { return Err(no_shard(&word(span))) };
            return Ok((Place::writer(shard), None));
        }
        // A hint says what the statement does not; it makes nothing else possible.
        if let Target::Unsupported { reason } = &plan.target
            && !plan.needs_hint
        {
            return Err(unroutable(plan, reason));
        }
        let told = match &plan.target {
            Target::User { sources } => self.values(statement).one_key(sources)?,
            _ => None,
        };
        let key = match (&hints.user, told) {
            (Some(span), told) => {
                let hinted = Key::from_stored(&word(span));
                if told.as_ref().is_some_and(|told| *told != hinted) {
                    let note = format!("the hint says user {hinted}, but the statement names another one");
                    return Err(Failure::new(ErrorId::BadHint).note(note).executed(Executed::No).into());
                }
                Some(hinted)
            }
            (None, told) => told,
        };
        let mut place = match (&hints.shard, &key, &plan.target) {
            (Some(span), ..) => self.named_shard(&word(span), plan, &key).await?,
            (None, Some(key), Target::User { .. } | Target::Unsupported { .. } | Target::AnyServer) => {
                match self.locate(key).await? {
                    Some(located) => Place::of(located),
                    None => self.nowhere(),
                }
            }
            (None, _, Target::Global) => Place::writer(ShardId::GLOBAL),
            (None, None, Target::Unsupported { reason }) => return Err(unroutable(plan, reason)),
            _ => self.any_place(),
        };
        if plan.insert.is_some() || !is_plain(&plan.kind) {
            return Err(unsupported("a hint in front of this kind of statement"));
        }
        if plan.is_write || plan.needs_writer {
            self.check_hinted_write(statement, plan, &key)?;
        }
        place.from_writer |= hints.writer;
        Ok((place, key))
    }

    /// A hint does not narrow what a write touches: the statement itself must name the user.
    fn check_hinted_write(&self, statement: Text<'_>, plan: &Plan, hinted: &Option<Key>) -> Result<(), Stop> {
        match &plan.target {
            Target::User { sources } => match self.values(statement).one_key(sources)? {
                named if named == *hinted => Ok(()),
                _ => {
                    let note = "the hint names another user than the statement";
                    Err(Failure::new(ErrorId::BadHint).note(note).executed(Executed::No).into())
                }
            },
            Target::Unsupported { .. } => Err(unsupported(
                "a write that only its hint confines to a user; name the user in the statement",
            )),
            _ => Ok(()),
        }
    }

    async fn named_shard(&self, name: &str, plan: &Plan, key: &Option<Key>) -> Result<Place, Stop> {
        let state = self.shared.directory.state();
        let Some(shard) = state.topology.shard_named(name) else {
            return Err(no_shard(name));
        };
        let here = match key {
            Some(key) => self.locate(key).await?.is_some_and(|located| located.shard == shard.id),
            None => false,
        };
        if (plan.is_write || plan.needs_writer) && !here {
            return Err(unsupported("a write to a shard by name; name the user"));
        }
        Ok(Place::any_server(shard.id))
    }
}

fn no_shard(name: &str) -> Stop {
    let note = format!("no shard is called {name:?}");
    Failure::new(ErrorId::BadHint).note(note).executed(Executed::No).into()
}

/// Locks are all on the global master, to meet there.
pub(crate) const LOCK_BESIDE_ROWS: &str =
    "named locks in a statement on sharded tables; take the lock in a statement of its own";

/// The plan for these literals: it may be one that finds nothing wherever it runs.
pub(crate) fn settled(plan: Arc<Plan>, text: &[u8], literals: &[Literal]) -> Arc<Plan> {
    match plan.nothing.iter().any(|nothing| nothing.holds(text, literals)) {
        true => Arc::new(plan.finding_nothing()),
        false => plan,
    }
}

/// Whether a statement asks for what usher keeps of the session, or for a lock that has to be where all others are.
fn is_of_its_session(plan: &Plan) -> bool {
    let uses = &plan.uses;
    uses.connection_id
        || uses.row_count
        || uses.found_rows
        || uses.named_lock
        || !uses.system_vars.is_empty() && reads_own(plan)
}

fn is_plain(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Read
            | Kind::LockingRead
            | Kind::Insert
            | Kind::Replace
            | Kind::Update
            | Kind::Delete
            | Kind::Describe
            | Kind::Explain
            | Kind::Show(ShowKind::Other | ShowKind::Variables | ShowKind::Status | ShowKind::Processlist)
    )
}

/// A COM_QUERY of this text.
pub(crate) fn packet(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    write_packet(&mut out, &mut 0, |out| {
        out.push(COM_QUERY);
        out.extend_from_slice(text);
    });
    out
}

/// Error 1235 with its reason.
pub(crate) fn unsupported(reason: &str) -> Stop {
    Failure::new(ErrorId::Unsupported)
        .note(format!("usher does not support: {reason}"))
        .executed(Executed::No)
        .into()
}

/// Why a statement without a target cannot be served.
pub(crate) fn unroutable(plan: &Plan, reason: &str) -> Stop {
    match plan.needs_hint {
        true => Failure::new(ErrorId::NoKey).note(reason).executed(Executed::No).into(),
        false => unsupported(reason),
    }
}

/// Whether a schema change stays on the session's own connection.
pub(crate) fn is_temporary(kind: DdlKind) -> bool {
    matches!(kind, DdlKind::CreateTemporaryTable | DdlKind::DropTemporaryTable)
}

/// Whether a statement changes what the session keeps, so that it is served here and not sent on as it is.
pub(crate) fn is_of_the_session(plan: &Plan) -> bool {
    matches!(
        plan.kind,
        Kind::Begin { .. }
            | Kind::Commit { .. }
            | Kind::Rollback { .. }
            | Kind::Savepoint(_)
            | Kind::RollbackTo(_)
            | Kind::ReleaseSavepoint(_)
            | Kind::Set
            | Kind::Use(_)
            | Kind::Kill
            | Kind::Xa
    )
}
