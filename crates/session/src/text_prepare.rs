//! PREPARE, EXECUTE and DEALLOCATE in text. The session keeps the texts; a connection is made to know one when it is to
//! execute it. Statements of one user are executed as text with the variables' values in place.

use std::fmt::Display;
use std::sync::Arc;

use usher_backend::{BackendError, Fault, Lent, Settings, TEXT_VARIABLES};
use usher_sql::prepare::{Operand, Prepare, Source, parse};
use usher_sql::{Kind, Lexer, Literal, LiteralKind, Mode, Plan, Target};
use usher_topology::ShardId;
use usher_wire::packet::ErrPacket;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};

use crate::counts::Counted;
use crate::diagnostics::asks_of_the_one_before;
use crate::execute::{Body, Order, checkout_failure, under};
use crate::pins::Reason;
use crate::prepared::hash_of;
use crate::query::{Text, is_of_the_session, is_temporary, packet, unsupported};
use crate::route::Place;
use crate::session::{Bound, Served, Session, Stop, Transaction, Turn};
use crate::set::not_with_settings;
use crate::user_vars::Carried;

/// Bytes of a text in a long variable that is prepared.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// A statement that the client has prepared under a name.
#[derive(Debug)]
pub(crate) struct Named {
    name: Box<str>,
    text: Box<[u8]>,
    schema: Option<Box<str>>,
    /// Those in force when it was prepared decide what it means, whatever they are when it is executed.
    settings: Arc<Settings>,
    mode: Mode,
    hash: u128,
}

/// What a statement does to, or needs of, the names that a connection knows.
#[derive(Debug, Clone)]
pub(crate) enum Naming {
    /// It gives a name.
    Gives(Arc<Named>),
    /// It uses one.
    Uses(Arc<Named>),
}

impl Named {
    /// What the name stands for.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// How its text is read.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Of its text, its schema and its settings.
    pub(crate) fn hash(&self) -> u128 {
        self.hash
    }

    /// Those in force when it was prepared.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The statement that prepares it, to be said under its settings.
    pub(crate) fn prepare(&self) -> Vec<u8> {
        let mut out = format!("PREPARE `{}` FROM '", self.name.replace('`', "``")).into_bytes();
        escape(&self.text, self.mode, &mut out);
        out.push(b'\'');
        out
    }
}

/// The settings of a connection, but for those that decide what a text means.
pub(crate) fn meant_under(meant: &Settings, settings: &Settings) -> Arc<Settings> {
    let mut edit = settings.edit();
    if meant.names() != settings.names() {
        edit.names(meant.names());
    }
    for name in TEXT_VARIABLES {
        match meant.variable(name) {
            value if value == settings.variable(name) && meant.names() == settings.names() => {}
            Some(value) => _ = edit.variable(name, value),
            None => _ = edit.unset(name),
        }
    }
    edit.build()
}

/// How a server that reads a text again, while it is executed, is to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Under the settings of the moment.
    AsItIs,
    /// Under the `sql_mode` that it was prepared under.
    AsMeant,
    /// And with its literals' collation, which strings among the parameters would get, too.
    WithLiterals,
}

/// The plan of what is executed: a procedure may change the variables that it is given.
fn with_outputs(mut plan: Arc<Plan>, using: &[Operand]) -> Arc<Plan> {
    if plan.kind == Kind::Call && !using.is_empty() {
        let variables = using.iter().filter_map(|operand| match operand {
            Operand::Variable(name) => Some(name.clone()),
            Operand::Other(_) => None,
        });
        Arc::make_mut(&mut plan).uses.writes_user_vars.extend(variables);
    }
    plan
}

/// The settings of a connection, changed so that a text is read again as it was meant, and still runs under them.
pub(crate) fn read_again_under(
    (again, text): (Again, &[u8]),
    meant: &Settings,
    settings: &Settings,
) -> Arc<Settings> {
    let mut edit = settings.edit();
    let list =
        |settings: &Settings| settings.variable("sql_mode").map(|sql| sql.trim_matches('\'').to_owned());
    if again != Again::AsItIs
        && let (Some(meant), Some(own)) = (list(meant), list(settings))
    {
        edit.variable("sql_mode", &format!("'{}'", usher_sql::read_as(&meant, &own)));
    }
    // Texts of nothing but ASCII are the same in all character sets that there are for clients.
    if again == Again::WithLiterals
        && (text.is_ascii() || meant.client_charset() == settings.client_charset())
    {
        let of_literals = ["collation_connection", "character_set_connection"];
        let set = of_literals.into_iter().find_map(|name| Some((name, meant.variable(name)?)));
        let (name, value) = set.unwrap_or_else(|| match meant.names().split_once(" COLLATE ") {
            Some((_, collation)) => ("collation_connection", collation),
            None => ("character_set_connection", meant.names()),
        });
        edit.variable(name, value);
    }
    edit.build()
}

impl Session {
    /// PREPARE, EXECUTE, DEALLOCATE.
    pub(crate) async fn prepare_in_text(&mut self, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        match parse(statement.text.get(..statement.digest.end).unwrap_or(statement.text), self.mode) {
            Some(Prepare::Prepare { name, source }) => {
                self.count(&[Counted::PrepareSql, Counted::StmtPrepare]);
                self.give_name(name, source, statement, plan, turn).await
            }
            Some(Prepare::Execute { name, using }) => {
                check_operands(plan, &Source::Text(Vec::new()), &using)?;
                self.count(&[Counted::ExecuteSql, Counted::StmtExecute]);
                let Some(named) = self.named.get(name.as_str()).cloned() else {
                    return Err(unknown(&name, "EXECUTE"));
                };
                match self.execute_named(&named, using.clone(), (statement, plan.has_settings), turn).await {
                    Err(stop) if stop.is_of(ErrorId::CatalogChanged) => {
                        self.execute_named(&named, using, (statement, plan.has_settings), turn).await
                    }
                    served => served,
                }
            }
            _ if plan.has_settings => Err(not_with_settings()),
            Some(Prepare::Immediate { source, using }) => {
                use Counted::{ExecuteImmediate, StmtClose, StmtExecute, StmtPrepare};
                self.count(&[ExecuteImmediate, StmtPrepare, StmtExecute, StmtClose]);
                check_operands(plan, &source, &using)?;
                let evaluated = matches!(source, Source::Other(_));
                let text = self.source(source, statement.text).await?;
                match evaluated {
                    // What was looked at is what runs: a server would evaluate it once more.
                    true => self.expanded(&text, (using, statement.text), turn).await,
                    false => self.execute_at_once(&text, using, statement, turn).await,
                }
            }
            Some(Prepare::Deallocate { name }) => {
                self.count(&[Counted::DeallocSql]);
                if self.named.remove(name.as_str()).is_none() {
                    return Err(unknown(&name, "DEALLOCATE PREPARE"));
                }
                self.count(&[Counted::StmtClose]);
                self.answer_ok(turn).await
            }
            // A server words its own syntax errors; nothing is named.
            None => self.anywhere(plan, statement.packets, turn).await,
        }
    }

    fn count(&mut self, what: &[Counted]) {
        what.iter().for_each(|what| self.counts.add(*what));
    }

    async fn give_name(
        &mut self,
        name: String,
        source: Source,
        statement: Text<'_>,
        plan: &Plan,
        turn: Turn,
    ) -> Served {
        self.check_room(0, Some(&name))?;
        // The old one is gone, whatever becomes of the new.
        if self.named.remove(name.as_str()).is_some() {
            self.count(&[Counted::StmtClose]);
        }
        check_operands(plan, &source, &[])?;
        let evaluated = matches!(source, Source::Other(_));
        let text = self.source(source, statement.text).await?;
        self.check_room(text.len(), Some(&name))?;
        let inner = self.plan_to_prepare(&text)?;
        let schema = self.settings.schema().map(Into::into);
        let hash = under(hash_of(&text, schema.as_deref()), &self.settings);
        let named = Arc::new(Named {
            name: name.as_str().into(),
            text: text.into(),
            schema,
            settings: Arc::clone(&self.settings),
            mode: self.mode,
            hash,
        });
        let place = match inner.target {
            Target::AnyServer | Target::Session | Target::User { .. } => self.any_place(),
            _ => Place::writer(ShardId::GLOBAL),
        };
        self.naming = Some(Naming::Gives(Arc::clone(&named)));
        // What was looked at is what is prepared: a server would evaluate an expression once more.
        let own = evaluated.then(|| packet(&named.prepare()));
        let body = Body::Text(own.as_deref().unwrap_or(statement.packets));
        let order = Order { plan, place, key: None, body, insert_id: None, writer_hint: true };
        let served = self.run_aside(order, turn).await;
        self.naming = None;
        if matches!(&served, Ok(answered) if !answered.failed) {
            self.named.insert(name.into(), named);
        }
        served
    }

    /// The plan of what is to be prepared.
    ///
    /// # Errors
    /// It cannot be executed, or not by this account.
    pub(crate) fn plan_to_prepare(&self, text: &[u8]) -> Result<Arc<Plan>, Stop> {
        let (_, inner) = self.inner(text, self.mode);
        self.account.may(&inner, &self.shared.schemas)?;
        match &inner.target {
            Target::Unsupported { reason } => Err(unsupported(reason)),
            _ => Ok(inner),
        }
    }

    async fn execute_named(
        &mut self,
        named: &Arc<Named>,
        using: Vec<Operand>,
        (statement, has_settings): (Text<'_>, bool),
        turn: Turn,
    ) -> Served {
        let schema = named.schema.as_deref().filter(|name| Some(*name) != self.settings.schema());
        let own = schema.map(|schema| self.enter_schema(schema));
        let (_, inner) = self.inner(&named.text, named.mode);
        let mut inner = with_outputs(inner, &using);
        if has_settings {
            Arc::make_mut(&mut inner).has_settings = true;
        }
        let served = match self.is_relayed(&named.text, &inner, named.mode) {
            false if has_settings => Err(not_with_settings()),
            true => {
                self.naming = Some(Naming::Uses(Arc::clone(named)));
                let served = self.relayed(&inner, statement, turn).await;
                self.naming = None;
                served
            }
            false => self.expanded(&named.text, (using, statement.text), turn).await,
        };
        if let (Some(schema), Some(own)) = (schema, own) {
            self.leave_schema(schema, own);
        }
        served
    }

    /// Another default schema for one statement, which may change all the other settings, and the schema too. Returns
    /// the session's own, for [`Session::leave_schema`].
    pub(crate) fn enter_schema(&mut self, schema: &str) -> (Arc<Settings>, u64) {
        let own = (Arc::clone(&self.settings), self.schema_hash);
        self.settings = self.settings.edit().schema(schema).build();
        self.schema_hash = self.shared.plans.schema_hash(Some(schema));
        own
    }

    pub(crate) fn leave_schema(&mut self, schema: &str, own: (Arc<Settings>, u64)) {
        if self.settings.schema() != Some(schema) {
            return;
        }
        let mut edit = self.settings.edit();
        match own.0.schema() {
            Some(before) => edit.schema(before),
            None => edit.leave_schema(),
        };
        self.settings = edit.build();
        self.schema_hash = own.1;
    }

    async fn execute_at_once(
        &mut self,
        text: &[u8],
        using: Vec<Operand>,
        statement: Text<'_>,
        turn: Turn,
    ) -> Served {
        let (_, inner) = self.inner(text, self.mode);
        match self.is_relayed(text, &inner, self.mode) {
            true => self.relayed(&with_outputs(inner, &using), statement, turn).await,
            false => self.expanded(text, (using, statement.text), turn).await,
        }
    }

    fn inner(&self, text: &[u8], mode: Mode) -> (Vec<Literal>, Arc<Plan>) {
        let mut literals = Vec::new();
        let digest = usher_sql::digest(text, mode, &mut literals);
        let schema = (self.settings.schema(), self.schema_hash);
        let catalog = self.shared.catalog.load();
        let plan = self.shared.plans.plan(text, &digest, schema, mode, &catalog, &self.shared.metrics);
        (literals, plan)
    }

    /// Whether an EXECUTE runs a statement that asks what became of the one before, which must still be known then.
    #[cold]
    pub(crate) fn executes_what_asks(&self, statement: Text<'_>) -> bool {
        let text = statement.text.get(..statement.digest.end).unwrap_or(statement.text);
        let (text, mode) = match parse(text, self.mode) {
            Some(Prepare::Execute { name, .. }) => match self.named.get(name.as_str()) {
                Some(named) => (Vec::from(&*named.text), named.mode),
                None => return false,
            },
            Some(Prepare::Immediate { source, .. }) => match self.known_source(source) {
                Ok(text) => (text, self.mode),
                Err(_) => return false,
            },
            _ => return false,
        };
        asks_of_the_one_before(&self.inner(&text, mode).1)
    }

    /// Whether a statement goes to a server as it is: it changes nothing that the session keeps, and names no user.
    fn is_relayed(&self, text: &[u8], plan: &Plan, mode: Mode) -> bool {
        let uses = &plan.uses;
        let own_values =
            uses.row_count || uses.found_rows || uses.connection_id || asks_of_the_one_before(plan);
        // What waits for a table has to be looked at once the table is there.
        if own_values || plan.creating.is_some() {
            return false;
        }
        match plan.kind {
            Kind::Ddl(kind) if !is_temporary(kind) => self.changes_unsharded(text, mode),
            _ => {
                !is_of_the_session(plan)
                    && !matches!(plan.kind, Kind::Show(_))
                    && matches!(plan.target, Target::Global | Target::AnyServer)
            }
        }
    }

    /// The client's own words go to a server.
    async fn relayed(&mut self, inner: &Plan, statement: Text<'_>, turn: Turn) -> Served {
        // What the account may do can have changed since it was prepared; and schemas that there are.
        self.account.may(inner, &self.shared.schemas)?;
        self.check_branch(inner)?;
        match inner.target {
            _ if matches!(inner.kind, Kind::Ddl(kind) if !is_temporary(kind)) => {
                self.end_open(b"COMMIT").await?;
                self.end_transaction();
                Box::pin(self.global(inner, statement, turn)).await
            }
            Target::Global => Box::pin(self.global(inner, statement, turn)).await,
            _ => Box::pin(self.anywhere(inner, statement.packets, turn)).await,
        }
    }

    /// The statement itself, with the variables' values for its parameters.
    async fn expanded(&mut self, text: &[u8], (using, outer): (Vec<Operand>, &[u8]), turn: Turn) -> Served {
        let expressions = using.iter().filter_map(|operand| match operand {
            Operand::Variable(_) => None,
            Operand::Other(span) => outer.get(span.clone()),
        });
        let evaluated = self.evaluated(&expressions.collect::<Vec<_>>()).await?;
        let expanded = self.expand(text, &using, evaluated)?;
        let mut literals = Vec::new();
        let digest = usher_sql::digest(&expanded, self.mode, &mut literals);
        let packets = packet(&expanded);
        let statement = Text { text: &expanded, packets: &packets, digest: &digest, literals: &literals };
        Box::pin(self.statement(statement, turn)).await
    }

    /// A text with values for its parameters: those of variables, and of expressions what was evaluated.
    pub(crate) fn expand(
        &self,
        text: &[u8],
        using: &[Operand],
        evaluated: Vec<Carried>,
    ) -> Result<Vec<u8>, Stop> {
        let (literals, _) = self.inner(text, self.mode);
        let places: Vec<&Literal> =
            literals.iter().filter(|literal| matches!(literal.kind, LiteralKind::Param(_))).collect();
        if places.len() != using.len() {
            return Err(server_error(1210, *b"HY000", "Incorrect arguments to EXECUTE"));
        }
        let mut evaluated = evaluated.into_iter();
        let mut replacements = Vec::new();
        for (place, operand) in places.into_iter().zip(using) {
            let value = match operand {
                Operand::Variable(name) => self.carried(name)?,
                Operand::Other(_) => evaluated.next().ok_or_else(only_a_server_knows)?,
            };
            replacements.push((place.span(), value.literal(self.mode)));
        }
        let mut expanded = Vec::new();
        usher_sql::splice(text, &replacements, &mut expanded)
            .map_err(|error| Failure::new(ErrorId::Bug).note(error.to_string()))?;
        Ok(expanded)
    }

    /// The text of a statement, if it can be told without a server.
    pub(crate) fn known_source(&self, source: Source) -> Result<Vec<u8>, Stop> {
        match source {
            Source::Text(text) => Ok(text),
            Source::Variable(name) => Ok(bytes_of(self.carried(&name)?)),
            Source::Other(_) => Err(only_a_server_knows()),
        }
    }

    async fn source(&mut self, source: Source, outer: &[u8]) -> Result<Vec<u8>, Stop> {
        match source {
            Source::Other(span) => {
                let expression = outer.get(span).unwrap_or_default();
                Ok(bytes_of(self.evaluated(&[expression]).await?.pop().unwrap_or(Carried::Null)))
            }
            Source::Variable(name) => match self.carried(&name) {
                Ok(value) => Ok(bytes_of(value)),
                Err(unknown) => self.text_of_variable(&name).await?.ok_or(unknown),
            },
            known => self.known_source(known),
        }
    }

    /// The text in a variable that only the connection which holds it knows; `None` if no connection has one, or it is
    /// longer than is kept.
    async fn text_of_variable(&mut self, name: &str) -> Result<Option<Vec<u8>>, Stop> {
        let Some(at) = self.bound.iter().position(has_variables) else { return Ok(None) };
        let mut bound = self.bound.swap_remove(at);
        let text = format!("SELECT {}", usher_backend::quoted_user_variable(name));
        match bound.lent.query(text.as_bytes()).await {
            Ok(reply) => {
                self.put(bound, false);
                let cell = reply.rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
                Ok(cell.filter(|text| text.len() <= TEXT_BYTES_MAX))
            }
            Err(fault) => {
                bound.lent.discard();
                Err(self.lost_with_variables(&bound, &fault))
            }
        }
    }

    /// What the client is told when the connection that has its variables is gone.
    fn lost_with_variables(&mut self, bound: &Bound, why: &dyn Display) -> Stop {
        let id = match self.transaction {
            Transaction::Open(shard) if shard == bound.shard => {
                self.end_transaction();
                ErrorId::BackendLostInTransaction
            }
            _ => ErrorId::SessionStateLost,
        };
        let failure = Failure::new(id).field("server", &bound.lent.server().name).note(why.to_string());
        failure.executed(Executed::No).into()
    }

    /// What a server makes of expressions: with the session's settings and variables, and outside of its transaction, as
    /// they can have no query in them.
    ///
    /// # Errors
    /// The server's own; a value that is too long to be carried.
    async fn evaluated(&mut self, expressions: &[&[u8]]) -> Result<Vec<Carried>, Stop> {
        if expressions.is_empty() {
            return Ok(Vec::new());
        }
        let asks = |expression: &&[u8]| {
            let mut tokens = Lexer::new(expression, self.mode);
            tokens.any(|token| token.bytes(expression).eq_ignore_ascii_case(b"SELECT"))
        };
        if expressions.iter().any(asks) {
            return Err(unsupported("a query in this expression; put it into a @variable first"));
        }
        if let Some(at) = self.bound.iter().position(has_variables) {
            // Some variables only this connection has.
            let mut bound = self.bound.swap_remove(at);
            let settings = Arc::clone(&self.settings);
            let evaluated = match bound.lent.bring_to(&settings).await {
                Ok(()) => self.evaluated_on(&mut bound.lent, expressions).await,
                Err(BackendError::Settings { payload, .. }) => Err(Stop::Pass(payload)),
                Err(error) => {
                    bound.lent.discard();
                    Err(checkout_failure(&error).into())
                }
            };
            if !bound.lent.is_discarded() {
                self.put(bound, false);
                return evaluated;
            }
            return Err(self.lost_with_variables(&bound, &"lost while it evaluated an expression"));
        }
        let writer = self.shared.directory.state().topology.shard(ShardId::GLOBAL).map(|shard| shard.writer);
        let writer = writer.ok_or_else(|| Failure::new(ErrorId::Bug).note("no global master"))?;
        let pool = self.shared.pools.of(writer).map_err(|error| checkout_failure(&error))?;
        let mut lent = pool.checkout(&self.settings).await.map_err(|error| checkout_failure(&error))?;
        self.evaluated_on(&mut lent, expressions).await
    }

    async fn evaluated_on(&mut self, lent: &mut Lent, expressions: &[&[u8]]) -> Result<Vec<Carried>, Stop> {
        let names: Vec<String> = (0..expressions.len()).map(|n| format!("usher.operand{n}")).collect();
        let mut text = b"SET ".to_vec();
        for (n, (name, expression)) in names.iter().zip(expressions).enumerate() {
            text.extend_from_slice(if n == 0 { b"@`" } else { b", @`" });
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(b"` = ");
            text.extend_from_slice(expression);
        }
        let before = Arc::clone(&self.settings);
        let asked = async {
            let reply = lent.query(&text).await?;
            match reply.error {
                Some((_, payload)) => Ok(Err(payload)),
                None => self.read_back(lent, &names).await.map(Ok),
            }
        };
        let asked: Result<Result<bool, Vec<u8>>, Fault> = asked.await;
        let after = std::mem::replace(&mut self.settings, before);
        match asked {
            Ok(Ok(true)) => {
                Ok(names.iter().map(|name| Carried::of(after.variable(&format!("@{name}")))).collect())
            }
            Ok(Ok(false)) => {
                lent.dirty = true;
                Err(unsupported("an expression as long as this; put it into a @variable first"))
            }
            Ok(Err(payload)) => Err(Stop::Pass(payload)),
            Err(fault) => {
                lent.discard();
                let lost = Failure::new(ErrorId::BackendLost).note(fault.to_string());
                Err(lost.executed(Executed::No).into())
            }
        }
    }

    fn carried(&self, name: &str) -> Result<Carried, Stop> {
        if self.has_other_variables() && self.settings.variable(&format!("@{name}")).is_none() {
            return Err(unsupported("a variable whose value only the connection that holds it knows"));
        }
        Ok(Carried::of(self.settings.variable(&format!("@{name}"))))
    }
}

fn has_variables(bound: &Bound) -> bool {
    bound.pins.has(Reason::Variable, b"") || bound.pins.has(Reason::Procedure, b"")
}

/// A value as the text of a statement.
fn bytes_of(value: Carried) -> Vec<u8> {
    match value {
        Carried::Null => b"NULL".to_vec(),
        Carried::Number(number) => number.into_bytes(),
        Carried::Bytes { bytes, .. } => bytes,
    }
}

/// Expressions run beside the statement, on a connection that is not the session's: they must leave nothing there.
fn check_operands(plan: &Plan, source: &Source, using: &[Operand]) -> Result<(), Stop> {
    let evaluates = matches!(source, Source::Other(_))
        || using.iter().any(|operand| matches!(operand, Operand::Other(_)));
    let uses = &plan.uses;
    let leaves = uses.unknown_function.is_some()
        || uses.named_lock
        || uses.sets_last_insert_id
        || !uses.writes_user_vars.is_empty();
    match evaluates && leaves {
        true => Err(unsupported(
            "an expression here that calls a stored function, takes a lock or assigns; put it into a @variable first",
        )),
        false => Ok(()),
    }
}

fn only_a_server_knows() -> Stop {
    unsupported("an expression here, whose value only a server knows; put it into a @variable first")
}

/// The inside of a string literal.
pub(crate) fn escape(text: &[u8], mode: Mode, out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'\'' => out.extend_from_slice(b"''"),
            b'\\' if !mode.no_backslash_escapes => out.extend_from_slice(b"\\\\"),
            other => out.push(*other),
        }
    }
}

pub(crate) fn unknown(name: &str, command: &str) -> Stop {
    server_error(1243, *b"HY000", &format!("Unknown prepared statement handler ({name}) given to {command}"))
}

/// An error as a server words it.
pub(crate) fn server_error(code: u16, sqlstate: [u8; 5], message: &str) -> Stop {
    let mut payload = Vec::new();
    ErrPacket { code, sqlstate, message: message.as_bytes() }.encode(&mut payload);
    Stop::Pass(payload)
}
