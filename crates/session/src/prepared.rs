//! Prepared statements: the session's own ids, the servers' prepared when first needed.

mod on_server;
mod with_values;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use usher_backend::Settings;
use usher_sql::{Found, Kind, Literal, LiteralKind, Mode, Plan, ShowKind, Target};
use usher_topology::{Key, ShardId};
use usher_wire::caps::Caps;
use usher_wire::result::Format;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};
use usher_wire::stmt::{Execute, Param, ParamType};

use crate::buffers;
use crate::cursor::Cursor;
use crate::execute::{Body, Order};
use crate::insert::{RowId, insert_key, row_ids, with_placeholders};
use crate::long_data::{Fault, LongData};
use crate::own_values::with_variables;
use crate::own_variables::reads_own;
use crate::query::{
    LOCK_BESIDE_ROWS, Text, is_of_the_session, is_temporary, settled, unroutable, unsupported,
};
use crate::route::{Place, Values};
use crate::session::{Answered, Served, Session, Stop, Turn};
use crate::text_prepare::Again;

/// Bytes of a prepared text from which on it counts: the others are bounded by their number.
const LONG_TEXT: usize = 4_096;

/// Statements are told apart by a keyed 128-bit hash of their text and schema.
static HASH: LazyLock<(RandomState, RandomState)> = LazyLock::new(Default::default);

pub(crate) fn hash_of(text: &[u8], schema: Option<&str>) -> u128 {
    let by = |state: &RandomState| u128::from(state.hash_one((text, schema)));
    by(&HASH.0) << 64 | by(&HASH.1)
}

/// A statement that the client has prepared.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// As the client sent it.
    text: Box<[u8]>,
    literals: Box<[Literal]>,
    plan: Arc<Plan>,
    /// The catalog that the plan was made by.
    catalog: u64,
    schema: Option<Box<str>>,
    /// Those in force when it was prepared decide what it means.
    settings: Arc<Settings>,
    mode: Mode,
    params: u16,
    /// What servers prepare.
    server_text: Box<[u8]>,
    hash: u128,
    /// Placeholders that only the server's text has, for ids.
    added: Box<[u16]>,
    types: Vec<ParamType>,
    /// It has been executed with these under the settings that it was prepared under.
    typed: bool,
    /// Room for the types of the next execution.
    spare_types: Option<Vec<ParamType>>,
    /// Data that came ahead.
    ahead: Option<Box<LongData>>,
    /// The same during an execution, by parameter.
    long: Vec<(u16, Vec<u8>)>,
    /// Its rows that a server keeps.
    pub(crate) cursor: Option<Cursor>,
}

impl Prepared {
    /// As the client sent it.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }
}

impl Session {
    /// Whether there is room for one more prepared statement, by a number or in place of the one of this name.
    pub(crate) fn check_room(&self, bytes: usize, name: Option<&str>) -> Result<(), Failure> {
        let limits = &self.shared.limits;
        let full = |limit, value: usize| {
            Err(Failure::new(ErrorId::TooManyStatements).field(limit, value).executed(Executed::No))
        };
        let replaced = name.is_some_and(|name| self.named.contains_key(name));
        let count = self.statements.len() + self.named.len() - usize::from(replaced);
        if count >= limits.statements_per_session_max {
            return full("limits.statements_per_session_max", limits.statements_per_session_max);
        }
        if bytes <= LONG_TEXT {
            return Ok(());
        }
        let of_statement = |statement: &Prepared| statement.text.len() + statement.server_text.len();
        let others = self.named.iter().filter(|(other, _)| Some(other.as_ref()) != name);
        let named = others.map(|(_, named)| named.text().len());
        let texts = self.statements.values().map(|statement| of_statement(statement)).chain(named);
        let held: usize = texts.filter(|bytes| *bytes > LONG_TEXT).sum();
        match held.saturating_add(bytes) > limits.prepared_bytes_per_session_max {
            true => full("limits.prepared_bytes_per_session_max", limits.prepared_bytes_per_session_max),
            false => Ok(()),
        }
    }

    /// COM_STMT_PREPARE: a server prepares it, for what it says of parameters and columns.
    pub(crate) async fn prepare(&mut self, text: &[u8], turn: Turn) -> Served {
        self.last_prepared = None;
        self.check_room(text.len(), None)?;
        let mut literals = Vec::new();
        let digest = usher_sql::digest(text, self.mode, &mut literals);
        let mut plan = settled(self.plan(text, &digest), text, &literals);
        self.account.may(&plan, &self.shared.schemas)?;
        while plan.creating.is_some() {
            self.wait_for_table(&plan).await?;
            plan = settled(self.plan(text, &digest), text, &literals);
            self.account.may(&plan, &self.shared.schemas)?;
        }
        check_preparable(&plan)?;
        if plan.kind == Kind::SetStatement {
            self.check_set_statement(text, &plan)?;
        }
        // What is to be told from now on is of this.
        if self.owed.is_some() {
            self.settle_debts().await;
        }
        (self.failure, self.told, self.ran_on) = (None, None, None);
        self.let_go_of_kept();
        self.notices.clear();
        let (server_text, added) = match with_placeholders(text, &plan, &literals, self.mode)? {
            Some((text, added)) => (text.into_boxed_slice(), added.into_boxed_slice()),
            None => (text.into(), Box::default()),
        };
        let server_text = match with_variables(&server_text, self.mode, &plan.uses, self.client.id)? {
            Some(text) => text.into_boxed_slice(),
            None => server_text,
        };
        let server_text = match self.with_own_variables(&server_text, &plan)? {
            Some(text) => text.into_boxed_slice(),
            None => server_text,
        };
        let server_text = match plan.kind {
            Kind::Show(ShowKind::Databases) => self.visible_databases(&server_text).into_boxed_slice(),
            _ => server_text,
        };
        let schema: Option<Box<str>> = self.settings.schema().map(Into::into);
        let hash = hash_of(&server_text, schema.as_deref());
        let id = self.next_statement;
        self.next_statement = self.next_statement.wrapping_add(1).max(1);
        let prepared = Prepared {
            text: text.into(),
            literals: literals.into(),
            params: digest.params,
            catalog: plan.catalog,
            plan,
            schema,
            settings: Arc::clone(&self.settings),
            mode: self.mode,
            server_text,
            hash,
            added,
            types: Vec::new(),
            typed: false,
            spare_types: None,
            ahead: None,
            long: Vec::new(),
            cursor: None,
        };
        self.prepare_on_server(prepared, id, turn).await
    }

    /// The statement that an id in a command means. On MariaDB there is one for whichever was prepared last: drivers send
    /// COM_STMT_EXECUTE right behind COM_STMT_PREPARE, whose answer they have not seen.
    pub(crate) fn meant(&self, id: u32) -> u32 {
        const LAST: u32 = u32::MAX;
        match self.last_prepared {
            Some(last) if id == LAST && self.shared.server_version.contains("MariaDB") => last,
            _ => id,
        }
    }

    /// COM_STMT_EXECUTE.
    pub(crate) async fn execute_prepared(
        &mut self,
        raw: &mut [u8],
        joined: Option<&[u8]>,
        id: u32,
        turn: Turn,
    ) -> Served {
        let Some(mut prepared) = self.statements.remove(&id) else {
            return Err(unknown(id, "mysqld_stmt_execute"));
        };
        self.handle.says(&prepared.text);
        self.close_cursor(prepared.cursor.take()).await;
        let served = self.execute_taken(&mut prepared, raw, joined, turn).await;
        prepared.cursor = self.opened.take();
        prepared.long = Vec::new();
        self.statements.insert(id, prepared);
        served
    }

    async fn execute_taken(
        &mut self,
        prepared: &mut Prepared,
        raw: &mut [u8],
        joined: Option<&[u8]>,
        turn: Turn,
    ) -> Served {
        if let Some(mut ahead) = prepared.ahead.take() {
            prepared.long = ahead.take().await.map_err(|fault| self.long_data_failure(&fault))?;
        }
        if self.owed.is_some() {
            Box::pin(self.settle_debts()).await;
        }
        (self.failure, self.told) = (None, None);
        self.notices.clear();
        self.ran_on = None;
        if prepared.catalog != self.shared.catalog.load().version() {
            self.plan_again(prepared)?;
        }
        self.account.may(&prepared.plan, &self.shared.schemas)?;
        while prepared.plan.creating.is_some() {
            self.wait_for_table(&prepared.plan).await?;
            self.plan_again(prepared)?;
            self.account.may(&prepared.plan, &self.shared.schemas)?;
        }
        if self.branch.is_some() {
            self.check_branch(&prepared.plan)?;
        }
        if prepared.schema.as_deref() != self.settings.schema() {
            return Box::pin(self.execute_in_its_schema(prepared, raw, joined, turn)).await;
        }
        match self.execute_here(prepared, raw, joined, turn).await {
            Err(stop) if stop.is_of(ErrorId::CatalogChanged) => {
                self.plan_again(prepared)?;
                self.account.may(&prepared.plan, &self.shared.schemas)?;
                Box::pin(self.execute_here(prepared, raw, joined, turn)).await
            }
            served => served,
        }
    }

    /// A statement keeps the default schema that it was prepared in.
    async fn execute_in_its_schema(
        &mut self,
        prepared: &mut Prepared,
        raw: &mut [u8],
        joined: Option<&[u8]>,
        turn: Turn,
    ) -> Served {
        let Some(schema) = prepared.schema.clone() else {
            return Err(unsupported("a statement prepared before a schema was chosen, run in one"));
        };
        let own = self.enter_schema(&schema);
        let served = self.execute_here(prepared, raw, joined, turn).await;
        self.leave_schema(&schema, own);
        served
    }

    fn plan_again(&mut self, prepared: &mut Prepared) -> Result<(), Stop> {
        let mut literals = Vec::new();
        let digest = usher_sql::digest(&prepared.text, prepared.mode, &mut literals);
        let schema = (prepared.schema.as_deref(), self.shared.plans.schema_hash(prepared.schema.as_deref()));
        let catalog = self.shared.catalog.load();
        let plan = self.shared.plans.plan(
            &prepared.text,
            &digest,
            schema,
            prepared.mode,
            &catalog,
            &self.shared.metrics,
        );
        if with_placeholders(&prepared.text, &plan, &literals, prepared.mode)?.is_some()
            == prepared.added.is_empty()
        {
            // The table's sequence came or went: drivers prepare anew on this error.
            return Err(Failure::new(ErrorId::UnknownStatement)
                .note("the table has changed; prepare again")
                .into());
        }
        prepared.catalog = plan.catalog;
        prepared.plan = settled(plan, &prepared.text, &literals);
        Ok(())
    }

    async fn execute_here(
        &mut self,
        prepared: &mut Prepared,
        raw: &mut [u8],
        joined: Option<&[u8]>,
        turn: Turn,
    ) -> Served {
        let plan = Arc::clone(&prepared.plan);
        if matches!(plan.kind, Kind::Load { local: true }) && !self.client.caps.has(Caps::LOCAL_FILES) {
            return Err(Stop::Pass(self.local_files_refused()));
        }
        if !matches!(
            plan.kind,
            Kind::Read | Kind::LockingRead | Kind::Insert | Kind::Replace | Kind::Update | Kind::Delete
        ) && (is_of_the_session(&plan) || matches!(plan.kind, Kind::Ddl(_)))
            && !Box::pin(self.goes_as_prepared(prepared, &plan)).await?
        {
            return match prepared.params {
                0 => Box::pin(self.execute_as_text(prepared, turn)).await,
                _ => Box::pin(self.execute_with_values(prepared, raw, joined, turn)).await,
            };
        }
        if reads_own(&plan) {
            self.renew_values(prepared, &plan)?;
        }
        let Execution { key, insert, mut rewritten, cursor } =
            self.execution(prepared, &plan, raw, joined).await?;
        let packet = match &mut rewritten {
            Some(packet) => packet.as_mut_slice(),
            None => raw,
        };
        let again = match prepared.typed {
            true if prepared.types.iter().any(|ty| ty.is_text()) => Again::AsMeant,
            true => Again::WithLiterals,
            false => Again::AsItIs,
        };
        let (text, meant) = (&prepared.server_text, &*prepared.settings);
        let body = Body::Execute { text, hash: prepared.hash, packet, meant, again, cursor };
        if plan.uses.found_rows {
            Box::pin(self.settle_found_rows()).await;
        }
        self.prelude = self.own_values_prelude(&plan.uses);
        let served = self.run_execute(&plan, key, body, insert, turn).await;
        self.prelude = None;
        if let Some(packet) = rewritten {
            buffers::give_back(packet);
        }
        served
    }

    /// Puts usher's values of variables into the text again: they may have changed since it was prepared.
    #[cold]
    fn renew_values(&self, prepared: &mut Prepared, plan: &Plan) -> Result<(), Stop> {
        let own_values = with_variables(&prepared.text, prepared.mode, &plan.uses, self.client.id)?;
        let text = own_values.as_deref().unwrap_or(&prepared.text);
        if let Some(text) = self.with_own_variables(text, plan)?
            && prepared.added.is_empty()
        {
            prepared.hash = hash_of(&text, prepared.schema.as_deref());
            prepared.server_text = text.into();
        }
        Ok(())
    }

    /// Reads the parameters: whose statement it is, the ids of its rows, and what goes to the server. None of it is kept
    /// while the statement runs but what is returned: every connection has room for what is.
    async fn execution(
        &mut self,
        prepared: &mut Prepared,
        plan: &Plan,
        raw: &[u8],
        joined: Option<&[u8]>,
    ) -> Result<Execution, Stop> {
        let attributes = self.client.caps.has(Caps::QUERY_ATTRIBUTES);
        let numbers: Vec<u16> = prepared.long.iter().map(|(number, _)| *number).collect();
        let payload = joined.or_else(|| raw.get(4..)).unwrap_or_default();
        let execute = Execute::parse(payload, prepared.params, &prepared.types, &numbers, attributes)?;
        let types = execute.block.has_types().then(|| {
            // The packet's own types, for the executions after this one.
            let mut types = prepared.spare_types.take().unwrap_or_default();
            execute.remember_types(&mut types);
            types
        });
        let mut few = [Param::Null; FEW];
        let many: Vec<Param<'_>>;
        let params: &[Param<'_>] = if usize::from(prepared.params) <= FEW {
            let mut count = 0;
            for ((_, param), place) in execute.params().zip(&mut few) {
                *place = with_long(param, count, &prepared.long);
                count += 1;
            }
            few.get(..count).unwrap_or_default()
        } else {
            many = execute.params().enumerate().map(|(n, (_, p))| with_long(p, n, &prepared.long)).collect();
            &many
        };
        if plan.uses.named_lock {
            self.locks = self.lock_names(&prepared.text, params);
        }
        let settings = Arc::clone(&self.settings);
        let values = Values {
            text: &prepared.text,
            literals: &prepared.literals,
            params,
            mode: prepared.mode,
            last_insert_id: self.last_insert_id,
            settings: &settings,
            others: self.has_other_variables(),
        };
        if let Found::Behind(ordinal) = plan.uses.found {
            self.passed_over = values.count(ordinal);
        }
        let (key, insert, replaced) = match (&plan.insert, &plan.target) {
            (Some(shape), Target::User { .. }) => {
                let rows = row_ids(shape, &values);
                let insert = self.ids_for(shape, &rows).await?;
                let key = insert_key(plan, shape, &values, insert.first_id)?;
                (key, Some(insert), Some(rows))
            }
            (None, Target::User { sources }) => (values.one_key(sources)?, None, None),
            _ => (None, None, None),
        };
        let first_id = insert.and_then(|insert| insert.first_id);
        let goes_as_it_is = first_id.is_none() && joined.is_none() && execute.is_plain(attributes);
        let rewritten =
            (!goes_as_it_is).then(|| rewrite(&execute, prepared, plan, replaced.as_deref(), first_id));
        let cursor = execute.flags != 0;
        let own = prepared.settings.reads_as(&self.settings);
        prepared.typed = own || prepared.typed && types.as_ref().is_none_or(|types| *types == prepared.types);
        if let Some(types) = types {
            prepared.spare_types = Some(std::mem::replace(&mut prepared.types, types));
        }
        Ok(Execution { key, insert, rewritten, cursor })
    }

    async fn run_execute(
        &mut self,
        plan: &Plan,
        key: Option<Key>,
        body: Body<'_>,
        insert: Option<crate::insert::Insert>,
        turn: Turn,
    ) -> Served {
        match &plan.target {
            Target::User { .. } => self.of_user(plan, key, body, insert, turn).await,
            Target::Global => {
                let place = Place::writer(ShardId::GLOBAL);
                let order = Order { plan, place, key: None, body, insert_id: None, writer_hint: false };
                if plan.describes() {
                    return Box::pin(self.run_aside(order, turn)).await;
                }
                self.run(order, turn).await
            }
            Target::Unsupported { reason } => Err(unroutable(plan, reason)),
            _ if matches!(plan.kind, Kind::Ddl(_)) => {
                let place = Place::writer(ShardId::GLOBAL);
                let order = Order { plan, place, key: None, body, insert_id: None, writer_hint: true };
                self.run(order, turn).await
            }
            _ => {
                let (place, writer_hint) = self.place_without_table(plan);
                self.run_aside(Order { plan, place, key: None, body, insert_id: None, writer_hint }, turn)
                    .await
            }
        }
    }

    /// Whether a statement of the session goes to a server as it was prepared: it has parameters, or is a schema change
    /// of unsharded tables.
    async fn goes_as_prepared(&mut self, prepared: &Prepared, plan: &Plan) -> Result<bool, Stop> {
        match plan.kind {
            Kind::Ddl(kind) if !is_temporary(kind) => {
                if self.changes_unsharded(&prepared.text, self.mode) {
                    self.end_open(b"COMMIT").await?;
                    self.end_transaction();
                    return Ok(true);
                }
                match prepared.params {
                    0 => Ok(false),
                    _ => Err(unsupported("parameters in a schema change of sharded tables")),
                }
            }
            Kind::Set => Ok(false),
            _ => Ok(prepared.params > 0),
        }
    }

    /// BEGIN, SET and so on, prepared: they have no rows, so their answers are the same as to text.
    async fn execute_as_text(&mut self, prepared: &Prepared, turn: Turn) -> Served {
        let mut literals = Vec::new();
        let digest = usher_sql::digest(&prepared.text, self.mode, &mut literals);
        let packets = crate::query::packet(&prepared.text);
        let text = Text { text: &prepared.text, packets: &packets, digest: &digest, literals: &literals };
        if prepared.plan.kind == Kind::Xa {
            // XA RECOVER has rows.
            return self.xa(text, &prepared.plan, (None, Format::Binary), turn).await;
        }
        self.statement(text, turn).await
    }

    /// COM_STMT_CLOSE has no answer. Servers keep theirs for other sessions.
    pub(crate) async fn close_statement(&mut self, id: u32, turn: Turn) -> Served {
        if let Some(prepared) = self.statements.remove(&id) {
            self.close_cursor(prepared.cursor).await;
        }
        Ok(Answered { failed: false, seq: turn.seq })
    }

    /// COM_STMT_RESET: forgets data sent ahead and closes the cursor.
    pub(crate) async fn reset_statement(&mut self, id: u32, turn: Turn) -> Served {
        let Some(prepared) = self.statements.get_mut(&id) else {
            return Err(unknown(id, "mysqld_stmt_reset"));
        };
        prepared.ahead = None;
        let cursor = prepared.cursor.take();
        self.close_cursor(cursor).await;
        self.answer_ok(turn).await
    }

    /// COM_STMT_SEND_LONG_DATA has no answer; what is wrong is told when the statement is executed.
    pub(crate) async fn long_data(&mut self, id: u32, param: u16, data: &[u8], turn: Turn) -> Served {
        let held: usize =
            self.statements.values().filter_map(|held| Some(held.ahead.as_ref()?.bytes())).sum();
        let room = self.shared.limits.packet_bytes_max.saturating_sub(held);
        if let Some(prepared) = self.statements.get_mut(&id) {
            let ahead = prepared.ahead.get_or_insert_default();
            match param < prepared.params {
                true => ahead.add(param, data, room).await,
                false => ahead.fail(Fault::NoSuchParameter),
            }
        }
        Ok(Answered { failed: false, seq: turn.seq })
    }

    fn long_data_failure(&self, fault: &Fault) -> Failure {
        let failure = Failure::new(ErrorId::LongDataTooBig).executed(Executed::No);
        match fault {
            Fault::TooBig => failure.field("limits.packet_bytes_max", self.shared.limits.packet_bytes_max),
            Fault::NoSuchParameter => Failure::new(ErrorId::NoSuchParameter).executed(Executed::No),
            Fault::File(error) => {
                failure.note(format!("it could not be kept in a file of the proxy: {error}"))
            }
        }
    }
}

/// What an execution sends, and for whom.
struct Execution {
    key: Option<Key>,
    insert: Option<crate::insert::Insert>,
    /// In place of the client's packet.
    rewritten: Option<Vec<u8>>,
    cursor: bool,
}

/// Parameters that are held without an allocation.
const FEW: usize = 16;

fn with_long<'a>(param: Param<'a>, n: usize, long: &'a [(u16, Vec<u8>)]) -> Param<'a> {
    match param {
        Param::Long => {
            let data = long.iter().find(|(number, _)| usize::from(*number) == n);
            Param::Bytes(data.map_or(&[], |(_, bytes)| bytes.as_slice()))
        }
        other => other,
    }
}

/// The packet for servers, in a buffer of the free list: ids put in, types and data that came ahead put in place.
fn rewrite(
    execute: &Execute<'_>,
    prepared: &Prepared,
    plan: &Plan,
    rows: Option<&[RowId]>,
    first_id: Option<u64>,
) -> Vec<u8> {
    let mut added = Vec::new();
    let mut instead = Vec::new();
    if let (Some(rows), Some(mut id), Some(sequence)) =
        (rows, first_id, plan.insert.as_ref().and_then(|shape| shape.sequence.as_ref()))
    {
        for (_, value) in rows.iter().zip(&sequence.values).filter(|(row, _)| **row == RowId::Needed) {
            match placeholder(value, &prepared.literals) {
                Some(index) => instead.push((index, id)),
                None => added.push(id),
            }
            id += 1;
        }
    }
    let mut out = buffers::take();
    let long: Vec<(u16, &[u8])> = prepared.long.iter().map(|(n, bytes)| (*n, bytes.as_slice())).collect();
    let inserted: Vec<(u16, Param<'_>)> =
        prepared.added.iter().copied().zip(added.into_iter().map(Param::UInt)).collect();
    execute.rewrite_with(&mut out, &mut 0, 0, &long, &inserted, |n| {
        instead.iter().find(|(index, _)| usize::from(*index) == n).map(|(_, id)| Param::UInt(*id))
    });
    out
}

/// The placeholder that a row's id comes from, if it comes from one.
fn placeholder(value: &usher_sql::RowValue, literals: &[Literal]) -> Option<u16> {
    let usher_sql::RowValue::Given(usher_sql::KeyValue::Literal { ordinal, .. }) = value else { return None };
    match literals.get(*ordinal as usize)?.kind {
        LiteralKind::Param(index) => Some(index),
        _ => None,
    }
}

fn check_preparable(plan: &Plan) -> Result<(), Stop> {
    let refused = |what: &str| {
        Err(Failure::new(ErrorId::UnsupportedInPrepare)
            .note(format!("{what} as a prepared statement"))
            .into())
    };
    match &plan.kind {
        // USE is for the server to say: MariaDB takes it, MySQL does not.
        Kind::Prepare(_) | Kind::Execute(_) | Kind::Deallocate(_) => refused("this command is not supported"),
        Kind::Kill if plan.params > 0 => refused("usher does not support its parameters"),
        _ if plan.uses.named_lock && matches!(plan.target, Target::User { .. }) => {
            Err(unsupported(LOCK_BESIDE_ROWS))
        }
        _ => match &plan.target {
            Target::Unsupported { reason } => Err(unroutable(plan, reason)),
            _ => Ok(()),
        },
    }
}

/// A statement that the client has not prepared, or has closed.
pub(crate) fn unknown(id: u32, given_to: &str) -> Stop {
    let note = format!("Unknown prepared statement handler ({id}) given to {given_to}");
    Failure::new(ErrorId::UnknownStatement).as_server(note).into()
}
