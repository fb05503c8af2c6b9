//! Schema changes: what concerns sharded tables and databases happens on the global master and on every shard, and
//! the catalog follows.
//!
//! One at a time, and none beside a move: a row in the global master sees to that ([`rows::begin_schema_change`]). A
//! new table is in the catalog, as one that is being created, before it is on any server, and every proxy knows it by
//! then: none can take it for an unsharded one. The change runs in a task of its own, so that a client who leaves does
//! not end it half-way.

use std::sync::Arc;
use std::time::Duration;

use usher_backend::{BackendError, Lent, Reply, Settings};
use usher_directory::barrier::{self, Patience, Scope};

use usher_directory::rows::{self, KeyType, TableKind, TableRow, TableState};
use usher_directory::{Error, State, end_abandoned_schema_change, server};
use usher_sql::ddl::{self, Ddl};
use usher_sql::{DdlKind, Declaration, KeyType as SqlKeyType, Mode, Plan, Sharded, Table};
use usher_topology::{Server, ShardId};
use usher_wire::packet::OkPacket;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};

use crate::execute::{Body, Order, Start, checkout_failure, said};
use crate::pins::Pins;
use crate::query::{Text, is_temporary, unsupported};
use crate::route::{Place, directory_failure};
use crate::session::{Bound, Served, Session, Stop, Turn};
use crate::shared::Shared;

/// How long the other proxies are waited for to have read the catalog anew. One that takes longer serves the table
/// by its old shape for a moment more, as it would have just before.
const CATALOG_WAIT: Duration = Duration::from_secs(2);
/// How often what could not be ended is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// The table is there already.
const TABLE_EXISTS: u16 = 1050;
/// So is the database.
const DATABASE_EXISTS: u16 = 1007;
/// There is none of that name.
const NO_DATABASE: u16 = 1008;

/// What happens to the catalog once the servers have done their part.
enum Catalog {
    Stays,
    Created(Box<TableRow>),
    Reread(Vec<(String, String)>),
    Dropped(Vec<(String, String)>),
    CreatedSchema,
    DroppedSchema(String),
}

impl Session {
    /// A schema change.
    pub(crate) async fn ddl(
        &mut self,
        statement: Text<'_>,
        plan: &Plan,
        kind: DdlKind,
        turn: Turn,
    ) -> Served {
        let place = Place::writer(ShardId::GLOBAL);
        let body = Body::Text(statement.packets);
        let order = Order { plan, place, key: None, body, insert_id: None, writer_hint: false };
        if is_temporary(kind) {
            return self.run(order, turn).await;
        }
        let end = statement.digest.end.min(statement.text.len());
        let text = statement.text.get(..end).unwrap_or_default();
        let parsed = ddl::parse(text, self.settings.schema(), self.mode)
            .map_err(|error| unsupported(&error.to_string()))?;
        // A schema change commits what is open, on a server as here.
        self.end_open(b"COMMIT").await?;
        self.end_transaction();
        let Some(parsed) = parsed else { return self.run(order, turn).await };
        let state = self.shared.directory.state();
        match self.effect(&parsed)? {
            None => self.run(order, turn).await,
            Some(catalog) => {
                check_open(&state)?;
                let left = match &catalog {
                    Catalog::DroppedSchema(name) => self.settings.schema() == Some(name),
                    _ => false,
                };
                self.let_go_of_kept();
                let change = Change {
                    shared: Arc::clone(&self.shared),
                    settings: Arc::clone(&self.settings),
                    text: text.to_vec(),
                    lost: None,
                    held: Held(std::mem::take(&mut self.bound)),
                };
                let work = tokio::spawn(change.make(catalog)).await;
                let (made, mut held) =
                    work.map_err(|error| Failure::new(ErrorId::Bug).note(error.to_string()))?;
                self.bound = std::mem::take(&mut held.0);
                let (lent, reply) = made?;
                let global = lent.map(|lent| Bound { shard: ShardId::GLOBAL, lent, pins: Pins::default() });
                self.changed(global, left);
                self.answer_change(&reply, turn).await
            }
        }
    }

    /// What the session has of a change that was made: the global master's connection with what there is to be asked
    /// about it, and no schema if that is the one that was dropped.
    fn changed(&mut self, global: Option<Bound>, left: bool) {
        let held = self.bound.iter().position(|bound| bound.shard.is_global());
        let mut global = global.or_else(|| held.map(|at| self.bound.swap_remove(at)));
        if left {
            self.settings = self.settings.edit().leave_schema().build();
            self.schema_hash = self.shared.plans.schema_hash(None);
            if let Some(bound) = &mut global {
                bound.lent.settings = Arc::clone(&self.settings);
            }
        }
        match global {
            Some(bound) => self.put(bound, true),
            None => self.let_go_of_kept(),
        }
    }

    /// The global master's answer is the client's.
    async fn answer_change(&mut self, reply: &Reply, turn: Turn) -> Served {
        self.row_count = i64::try_from(reply.affected_rows).unwrap_or(i64::MAX);
        self.answer(turn, |mut answer, status| {
            answer.ok(&OkPacket {
                status,
                affected_rows: reply.affected_rows,
                warnings: reply.warnings,
                ..OkPacket::default()
            });
            Ok(answer.seq())
        })
        .await
    }

    /// Whether a schema change concerns unsharded tables alone.
    pub(crate) fn changes_unsharded(&self, text: &[u8], mode: Mode) -> bool {
        let parsed = ddl::parse(text, self.settings.schema(), mode);
        matches!(parsed, Ok(Some(parsed)) if matches!(self.effect(&parsed), Ok(None)))
    }

    /// Whether a schema change is made on every shard, and not on the global master alone.
    ///
    /// # Errors
    /// As it would be refused now.
    pub(crate) fn changes_every_server(&self, text: &[u8]) -> Result<bool, Stop> {
        let parsed = ddl::parse(text, self.settings.schema(), self.mode)
            .map_err(|error| unsupported(&error.to_string()))?;
        let Some(parsed) = parsed else { return Ok(false) };
        let everywhere = self.effect(&parsed)?.is_some();
        if everywhere {
            check_open(&self.shared.directory.state())?;
        }
        Ok(everywhere)
    }

    /// What a change means for the catalog; `None` if it concerns the global master alone.
    fn effect(&self, ddl: &Ddl) -> Result<Option<Catalog>, Stop> {
        let catalog = self.shared.catalog.load();
        let named: Vec<(String, String)> = ddl
            .tables
            .iter()
            .map(|table| (table.schema.clone().unwrap_or_default(), table.name.clone()))
            .collect();
        let is_sharded = |(schema, name): &(String, String)| {
            matches!(catalog.table(schema, name), Some(Table::Sharded(_)))
        };
        let sharded = named.iter().filter(|table| is_sharded(table)).count();
        if ddl
            .like
            .as_ref()
            .is_some_and(|like| is_sharded(&(like.schema.clone().unwrap_or_default(), like.name.clone())))
        {
            return Err(unsupported("CREATE TABLE .. LIKE a sharded table; write its columns and comment"));
        }
        match (ddl.kind, &ddl.declaration) {
            (DdlKind::CreateDatabase, _) => Ok(Some(Catalog::CreatedSchema)),
            (DdlKind::AlterDatabase, _) => Ok(Some(Catalog::Stays)),
            (DdlKind::DropDatabase, _) => {
                Ok(Some(Catalog::DroppedSchema(ddl.database.clone().unwrap_or_default())))
            }
            (_, Some(Declaration::Reference)) => Err(unsupported("reference tables, so far")),
            (DdlKind::CreateTable, Some(Declaration::Sharded { key, sequence, parent })) => {
                if parent.is_some() {
                    return Err(unsupported("parent= in a table comment, so far; name the key column"));
                }
                self.created(ddl, key, sequence.as_deref()).map(Some)
            }
            (DdlKind::CreateTable, None) => Ok(None),
            (_, Some(_)) if sharded == 0 => Err(unsupported(
                "sharding a table that exists; create it anew with its comment and copy the rows",
            )),
            _ if sharded == 0 => Ok(None),
            _ if sharded < named.len() => {
                Err(unsupported("sharded and unsharded tables in one schema change"))
            }
            (DdlKind::DropTable, _) => Ok(Some(Catalog::Dropped(named))),
            (DdlKind::TruncateTable, _) => Ok(Some(Catalog::Stays)),
            (DdlKind::AlterTable | DdlKind::CreateIndex | DdlKind::DropIndex, _) => {
                Ok(Some(Catalog::Reread(named)))
            }
            (DdlKind::RenameTable, _) => Err(unsupported("RENAME of a sharded table")),
            _ => Err(unsupported("views, triggers and routines over sharded tables")),
        }
    }

    fn created(&self, ddl: &Ddl, key: &str, sequence: Option<&str>) -> Result<Catalog, Stop> {
        let (Some(create), Some(table)) = (&ddl.create, ddl.tables.first()) else {
            return Err(unsupported("this form of CREATE TABLE for a sharded table; write its columns"));
        };
        if create.from_query {
            return Err(unsupported("CREATE TABLE .. SELECT of a sharded table; create it, then insert"));
        }
        let Some(schema) = table.schema.clone() else {
            return Err(Failure::new(ErrorId::UnknownDatabase).note("No database selected").into());
        };
        let entry = create
            .sharded(key, sequence, None)
            .map_err(|error| unsupported(&format!("table {}: {error}", table.name)))?;
        if !is_kept(entry.key_type) {
            let reason = format!(
                "table {}: the catalog cannot keep yet how the collation of column {} tells keys apart by case and \
                 trailing spaces; use VARBINARY, a _nopad_bin or _0900_bin collation, or a padding _ci one",
                table.name, entry.key_column
            );
            return Err(unsupported(&reason));
        }
        Ok(Catalog::Created(Box::new(table_row(schema, table.name.clone(), &entry))))
    }
}

/// Every shard must take the change.
fn check_open(state: &State) -> Result<(), Stop> {
    match state.topology.shards.iter().find(|shard| shard.state != usher_topology::ShardState::Rw) {
        Some(shard) => Err(refused(&format!("shard {} is not open for writes", shard.name))),
        None => Ok(()),
    }
}

/// One change on its way.
struct Change {
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    text: Vec<u8>,
    /// Where the change may still be running although nobody hears of it: server and connection.
    lost: Option<(Server, u64)>,
    held: Held,
}

/// The connections that the session holds, while a change goes on. It waits for no lock of theirs if it is made on
/// them.
struct Held(Vec<Bound>);

impl Drop for Held {
    /// The session has gone meanwhile.
    fn drop(&mut self) {
        for bound in &mut self.0 {
            bound.lent.dirty = true;
        }
    }
}

impl Change {
    /// Makes it, alone.
    async fn make(mut self, catalog: Catalog) -> (Result<(Option<Lent>, Reply), Stop>, Held) {
        let ticket = match self.begin().await {
            Ok(ticket) => ticket,
            Err(stop) => return (Err(stop), self.held),
        };
        let made = self.everywhere(catalog).await;
        let lost = self.lost.take();
        if lost.is_some() || end(&self.shared, ticket, None).await.is_err() {
            tokio::spawn(end_at_last(self.shared, ticket, lost));
        }
        (made, self.held)
    }

    async fn begin(&self) -> Result<u64, Stop> {
        let (global, account) = (self.shared.directory.global(), &self.shared.account);
        let text = String::from_utf8_lossy(&self.text);
        let mut begun = rows::begin_schema_change(global, account, &text).await;
        if matches!(begun, Err(Error::SchemaChange { .. }))
            && let Ok(true) = end_abandoned_schema_change(global, Patience::of(&self.shared.limits)).await
        {
            begun = rows::begin_schema_change(global, account, &text).await;
        }
        match begun {
            Ok(change) => Ok(change.ticket),
            Err(error @ (Error::SchemaChange { .. } | Error::Conflict(_))) => {
                Err(refused(&error.to_string()))
            }
            Err(error) => Err(directory_failure(&error).into()),
        }
    }

    /// The global master's answer, and its connection if the session did not hold one there.
    async fn everywhere(&mut self, catalog: Catalog) -> Result<(Option<Lent>, Reply), Stop> {
        let (mut resumed, mut announced) = (false, None);
        if let Catalog::Created(row) = &catalog {
            let tables = rows::list_tables(self.shared.directory.global()).await;
            let tables = tables.map_err(|error| directory_failure(&error))?;
            let before = tables.iter().find(|other| (&other.schema, &other.name) == (&row.schema, &row.name));
            resumed = before.is_some_and(|other| other.state == TableState::Creating);
            if before.is_none() && self.is_on_global(row).await? {
                return Err(unsupported(
                    "sharding a table that exists; create it anew with its comment and copy the rows",
                ));
            }
            if before.is_none_or(|other| other.state == TableState::Creating) {
                announced = before.is_none().then(|| row.clone());
                if let Err(error) = self.announce(row).await {
                    self.withdraw(announced.as_deref()).await;
                    return Err(refused(&error.to_string()));
                }
            }
        }
        let mut done: Vec<String> = Vec::new();
        let mut answer = None;
        let state = self.shared.directory.state();
        for shard in &state.topology.shards {
            let is_done: &[u16] = match &catalog {
                Catalog::Created(_) if resumed => &[TABLE_EXISTS],
                // A database that was there before usher is on the global master alone, this one or the session's.
                Catalog::CreatedSchema | Catalog::DroppedSchema(_) if !shard.id.is_global() => {
                    self.settings = self.settings.edit().leave_schema().build();
                    &[DATABASE_EXISTS, NO_DATABASE]
                }
                _ => &[],
            };
            match self.on_shard(shard.id, is_done).await {
                Ok(told) => {
                    done.push(shard.name.clone());
                    if shard.id.is_global() {
                        answer = Some(told);
                    }
                }
                Err(stop) if done.is_empty() => {
                    // Nothing was created: the name stays free.
                    if self.lost.is_none() {
                        self.withdraw(announced.as_deref()).await;
                    }
                    return Err(stop);
                }
                Err(stop) => return Err(partly(&stop, &done, &shard.name)),
            }
        }
        self.record(catalog).await.map_err(|error| Stop::from(directory_failure(&error)))?;
        answer.ok_or_else(|| {
            Failure::new(ErrorId::ShardUnreachable).note("the topology has no global master").into()
        })
    }

    /// Every proxy knows of the table, and nothing that was planned without it is under way, before it is anywhere.
    async fn announce(&self, row: &TableRow) -> Result<(), Error> {
        let global = self.shared.directory.global();
        let begun = TableRow { state: TableState::Creating, ..row.clone() };
        let version = rows::upsert_table(global, &begun).await?;
        let scope = Scope { shards: vec![ShardId::GLOBAL], dead: Vec::new() };
        barrier::pass(global, version, Patience::of(&self.shared.limits), &scope, &mut |_| ()).await?;
        Ok(())
    }

    /// Whether there is an unsharded table of that name, whose rows would be out of sight.
    async fn is_on_global(&self, row: &TableRow) -> Result<bool, Stop> {
        let columns = self.columns_of(&row.schema, &row.name).await;
        let failed = |reason| Failure::new(ErrorId::ShardUnreachable).note(reason).safe_to_retry();
        Ok(!columns.map_err(failed)?.is_empty())
    }

    async fn withdraw(&self, announced: Option<&TableRow>) {
        if let Some(row) = announced {
            // Left there, it is taken up by the next CREATE TABLE of that name.
            let _ = rows::delete_table(self.shared.directory.global(), &row.schema, &row.name).await;
        }
    }

    /// On the connection that the session holds there, which is not returned, or on another.
    async fn on_shard(&mut self, shard: ShardId, is_done: &[u16]) -> Result<(Option<Lent>, Reply), Stop> {
        if let Some(at) = self.held.0.iter().position(|bound| bound.shard == shard) {
            let mut bound = self.held.0.swap_remove(at);
            let told = match bound.lent.bring_to(&self.settings).await {
                Ok(()) => self.change_on(&mut bound.lent, is_done).await,
                Err(error) => Err(not_lent(error)),
            };
            if !bound.lent.is_discarded() {
                self.held.0.push(bound);
            }
            return told.map(|reply| (None, reply));
        }
        let state = self.shared.directory.state();
        let writer = state.topology.shard(shard).map(|shard| shard.writer);
        let writer = writer.ok_or_else(|| Failure::new(ErrorId::ShardUnreachable))?;
        let pool = self.shared.pools.of(writer).map_err(|error| checkout_failure(&error))?;
        let mut lent = pool.checkout(&self.settings).await.map_err(not_lent)?;
        let reply = self.change_on(&mut lent, is_done).await?;
        Ok((Some(lent), reply))
    }

    /// The errors `is_done` tell that nothing is left to do here.
    async fn change_on(&mut self, lent: &mut Lent, is_done: &[u16]) -> Result<Reply, Stop> {
        match said(lent.query(&self.text).await) {
            Ok(reply) => Ok(reply),
            Err(Start::Refused(code, _)) if is_done.contains(&code) => Ok(Reply::default()),
            Err(Start::Refused(_, payload)) => Err(Stop::Pass(payload)),
            Err(Start::Lost(fault)) => {
                let failure = Failure::new(ErrorId::OutcomeUnknown)
                    .field("server", &lent.server().name)
                    .note(fault.to_string())
                    .executed(Executed::Unknown);
                self.lost = Some((lent.server().clone(), u64::from(lent.thread_id())));
                lent.discard();
                Err(failure.into())
            }
        }
    }

    /// The servers have done their part: the catalog follows, and this proxy and the others learn of it.
    async fn record(&self, catalog: Catalog) -> Result<(), Error> {
        let global = self.shared.directory.global();
        let mut version = 0;
        match catalog {
            Catalog::Stays | Catalog::CreatedSchema => return Ok(()),
            Catalog::Created(row) => {
                if row.sequence_column.is_some() {
                    rows::ensure_sequence(global, &row.sequence(), 1).await?;
                }
                version = rows::upsert_table(global, &row).await?;
            }
            Catalog::Reread(tables) => {
                for (schema, name) in &tables {
                    version = self.reread(schema, name).await?.unwrap_or(version);
                }
            }
            Catalog::Dropped(tables) => {
                for (schema, name) in &tables {
                    version = rows::delete_table(global, schema, name).await?.unwrap_or(version);
                }
            }
            Catalog::DroppedSchema(schema) => {
                for table in rows::list_tables(global).await?.iter().filter(|table| table.schema == schema) {
                    version =
                        rows::delete_table(global, &table.schema, &table.name).await?.unwrap_or(version);
                }
            }
        }
        let pause = Duration::from_millis(self.shared.limits.poll_ms);
        let all_know = async {
            loop {
                // A proxy writes what it has seen once it works by it, this one too.
                let proxies = rows::proxies(global).await?;
                if proxies.iter().all(|proxy| proxy.revoked || proxy.seen_version >= version) {
                    return Ok::<(), Error>(());
                }
                tokio::time::sleep(pause).await;
            }
        };
        match tokio::time::timeout(CATALOG_WAIT, all_know).await {
            Ok(known) => known,
            Err(_) => {
                tracing::warn!(version, "some proxy has not read the catalog anew yet");
                Ok(())
            }
        }
    }

    /// A table's columns may have changed: the global master's own copy of the table tells.
    async fn reread(&self, schema: &str, name: &str) -> Result<Option<u64>, Error> {
        let global = self.shared.directory.global();
        let tables = rows::list_tables(global).await?;
        let Some(row) = tables.into_iter().find(|row| row.schema == schema && row.name == name) else {
            return Ok(None);
        };
        match self.columns_of(schema, name).await {
            Ok(columns) if !columns.is_empty() => {
                rows::upsert_table(global, &TableRow { columns, ..row }).await.map(Some)
            }
            Ok(_) => Ok(None),
            Err(reason) => Err(Error::GlobalUnavailable(reason)),
        }
    }

    async fn columns_of(&self, schema: &str, name: &str) -> Result<Vec<String>, String> {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "''");
        let ask = format!(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = '{}' AND table_name = '{}' \
             ORDER BY ordinal_position",
            quoted(schema),
            quoted(name)
        );
        let state = self.shared.directory.state();
        let writer =
            state.topology.shard(ShardId::GLOBAL).map(|shard| shard.writer).ok_or("no global master")?;
        let pool = self.shared.pools.of(writer).map_err(|error| error.to_string())?;
        let settings = usher_backend::Settings::at_login(false);
        let mut lent = pool.checkout(&settings).await.map_err(|error| error.to_string())?;
        let reply = lent.query(ask.as_bytes()).await.map_err(|fault| fault.to_string())?;
        let cells = reply.rows.into_iter().filter_map(|row| row.into_iter().next().flatten());
        Ok(cells.map(|name| String::from_utf8_lossy(&name).into_owned()).collect())
    }
}

/// The change is over: nothing of it runs anywhere.
async fn end(shared: &Shared, ticket: u64, lost: Option<&(Server, u64)>) -> Result<(), Error> {
    let global = shared.directory.global();
    if let Some((server, connection)) = lost {
        let mut conn = global.server_conn(server).await?;
        let processes = global.server_bounded(&server.name, server::processes(&mut conn)).await?;
        let runs = |process: &server::Process| {
            process.id == *connection && process.user == shared.account && process.command != "Sleep"
        };
        if processes.iter().any(runs) {
            return Err(Error::Conflict(format!("it still runs on {}", server.name)));
        }
    }
    rows::end_schema_change(global, ticket).await
}

/// Until then no move and no other change may begin; where this process ends first, theirs finds that out.
async fn end_at_last(shared: Arc<Shared>, ticket: u64, lost: Option<(Server, u64)>) {
    while let Err(error) = end(&shared, ticket, lost.as_ref()).await {
        tracing::warn!(%error, "a schema change is not over yet");
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whether the catalog has a type for these keys. Another one would take two users for one, and a move of that one
/// would find no rows.
fn is_kept(key_type: SqlKeyType) -> bool {
    match key_type {
        SqlKeyType::Int { .. } => true,
        SqlKeyType::Text(rule) => rule == usher_sql::TextRule::BINARY || rule.fold_case && rule.pad,
    }
}

fn not_lent(error: BackendError) -> Stop {
    match error {
        BackendError::Settings { payload, .. } => Stop::Pass(payload),
        error => checkout_failure(&error).into(),
    }
}

fn table_row(schema: String, name: String, entry: &Sharded) -> TableRow {
    TableRow {
        schema,
        name,
        kind: TableKind::Sharded,
        entity: "user".to_owned(),
        key_column: Some(entry.key_column.clone()),
        key_type: Some(match entry.key_type {
            SqlKeyType::Int { .. } => KeyType::Int,
            SqlKeyType::Text(rule) if rule == usher_sql::TextRule::BINARY => KeyType::Text,
            SqlKeyType::Text(_) => KeyType::TextCi,
        }),
        sequence_column: entry.sequence.clone(),
        columns: entry.columns.clone(),
        state: TableState::Ready,
    }
}

fn refused(note: &str) -> Stop {
    Failure::new(ErrorId::Unsupported)
        .note(format!("schema changes of sharded tables have to wait: {note}"))
        .safe_to_retry()
        .into()
}

/// The change stands on some servers and not on others.
fn partly(stop: &Stop, done: &[String], failed: &str) -> Stop {
    let why = match stop {
        Stop::Fail(failure) => failure.message(),
        Stop::Pass(payload) => usher_wire::packet::ErrPacket::parse(payload)
            .map_or_else(|e| e.to_string(), |error| error.to_string()),
        Stop::End(end) => end.to_string(),
        Stop::Told(_) => "its answer broke off".to_owned(),
    };
    Failure::new(ErrorId::PartialCommit)
        .field("done", done.join(","))
        .field("failed", failed)
        .note(format!("the schema change is not on every shard yet: {why}"))
        .advice(
            "mend the cause, then run it on the shards that lack it; CREATE TABLE can simply be run again",
        )
        .into()
}
