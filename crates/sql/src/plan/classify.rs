//! The first words of a statement: its kind, and its target where no sharded table is named.

use std::ops::Range;

use crate::catalog::{Catalog, Table};
use crate::ddl;
use crate::digest::is_stored_program;
use crate::lex::{Lexer, TokenKind, unquote_name};
use crate::mode::Mode;
use crate::plan::analyse::{self, Context, Routed};
use crate::plan::insert;
use crate::plan::nothing;
use crate::plan::query::Refusal;
use crate::plan::reach::Collector;
use crate::plan::tokens::Tokens;
use crate::plan::uses::Watch;
use crate::plan::{DdlKind, Kind, Plan, ShowKind, Target, Uses};

/// Tokens that settle the kind of a statement that names no sharded table.
const HEAD_TOKENS: usize = 64;

/// Schemas that tell what the server and its tables look like.
const CATALOGS: &[&str] = &["information_schema", "performance_schema"];
/// Their tables of system variables and of figures.
const VARIABLES: &[&str] =
    &["global_status", "global_variables", "session_status", "session_variables", "system_variables"];

fn names_any(word: &[u8], names: &[&str]) -> bool {
    names.iter().any(|other| word.eq_ignore_ascii_case(other.as_bytes()))
}

/// What one pass over all tokens tells.
struct Survey<'t> {
    watch: Watch,
    reach: Collector<'t>,
    names_sharded: bool,
    names_catalog: bool,
    names_variables: bool,
    literals: u32,
    params: u16,
}

fn survey<'t>(text: &'t [u8], mode: Mode, catalog: &Catalog) -> Survey<'t> {
    let reach = Collector::new(text, mode);
    let mut survey = Survey {
        watch: Watch::default(),
        reach,
        names_sharded: false,
        names_catalog: false,
        names_variables: false,
        literals: 0,
        params: 0,
    };
    let program = crate::digest::is_stored_program(text, mode);
    for token in Lexer::new(text, mode) {
        match token.kind {
            TokenKind::Op if token.bytes(text) == b";" && !program => break,
            TokenKind::Word | TokenKind::Dotted => {
                let word = token.bytes(text);
                survey.names_sharded |= catalog.names_sharded(word);
                survey.names_catalog |= names_any(word, CATALOGS);
                survey.names_variables |= names_any(word, VARIABLES);
            }
            TokenKind::Quoted => {
                let name = unquote_name(token.bytes(text));
                survey.names_sharded |= catalog.names_sharded(&name);
                survey.names_catalog |= names_any(&name, CATALOGS);
                survey.names_variables |= names_any(&name, VARIABLES);
            }
            TokenKind::Literal(kind) => {
                survey.literals = survey.literals.saturating_add(1);
                if let crate::lex::LiteralKind::Param(index) = kind {
                    survey.params = index.saturating_add(1);
                }
            }
            _ => {}
        }
        survey.watch.see(text, token);
        survey.reach.see(token);
    }
    survey
}

pub(crate) fn plan(text: &[u8], default_schema: Option<&str>, mode: Mode, catalog: &Catalog) -> Plan {
    let survey = survey(text, mode, catalog);
    let head = Tokens::up_to(text, mode, HEAD_TOKENS);
    let named = survey.names_sharded || survey.names_catalog;
    let whole = named || head.is_word(0, "WITH") || ddl::is_ddl(&head);
    let tokens = if whole { Tokens::new(text, mode) } else { head };
    let head_is_call = tokens.is_word(0, "CALL");
    let mut uses = survey.watch.uses();
    let context = Context { tokens: &tokens, default_schema, catalog, uses: &uses };
    let all = 0..tokens.len();
    let mut plan = statement(context, all, &survey);
    if plan.kind == Kind::ExplainRoute {
        // What it explains is not run.
        uses = Uses::default();
    }
    if plan.is_write {
        // Lists of columns look like calls, and the writer runs it anyway.
        uses.unknown_function = None;
    }
    match &plan.kind {
        // What a body or a default calls is for whoever sets it off later.
        Kind::Ddl(kind) if !makes_table_from_query(*kind, &tokens) => uses = Uses::default(),
        // In a compound statement they are asked of the statements in it.
        Kind::Call if !head_is_call => {
            (uses.row_count, uses.found_rows, uses.calc_found_rows) = (false, false, false);
            uses.writes_user_vars.clone_from(&uses.reads_user_vars);
        }
        _ => {}
    }
    if plan.kind == Kind::GetDiagnostics {
        uses.writes_user_vars = std::mem::take(&mut uses.reads_user_vars);
    }
    plan.of_variables = matches!(plan.kind, Kind::Show(ShowKind::Variables | ShowKind::Status))
        || survey.names_variables && plan.of_catalog;
    plan.needs_writer |= plan.is_write || uses.needs_writer();
    plan.reach = survey.reach.finish(&tokens, &plan, default_schema);
    plan.uses = uses;
    plan.literals = survey.literals;
    plan.params = survey.params;
    plan
}

/// Plans the statement in a range of tokens: all of them, or what stands behind EXPLAIN.
fn statement(context: Context<'_, '_>, range: Range<usize>, survey: &Survey<'_>) -> Plan {
    let tokens = context.tokens;
    let first = (range.start..range.end).find(|at| !tokens.is_op(*at, "(")).unwrap_or(range.end);
    if range.is_empty() {
        return Plan::simple(Kind::Empty, Target::Session);
    }
    let word = if tokens.kind(first) == Some(TokenKind::Word) {
        tokens.bytes(first).to_ascii_uppercase()
    } else {
        Vec::new()
    };
    match word.as_slice() {
        b"SELECT" | b"VALUES" | b"TABLE" => read(context, range, survey),
        b"WITH" => with(context, range, survey),
        b"INSERT" | b"REPLACE" => insert(context, range, survey),
        b"UPDATE" | b"DELETE" => change(context, range.clone(), range.start, survey),
        b"EXPLAIN" | b"DESCRIBE" | b"DESC" => explain(context, range, survey),
        b"ANALYZE"
            if tokens.is_any(
                first + 1,
                &["SELECT", "UPDATE", "DELETE", "INSERT", "REPLACE", "FORMAT", "WITH"],
            ) =>
        {
            explain(context, range, survey)
        }
        b"SET" => set(context, range, survey),
        b"CREATE" | b"ALTER" | b"DROP" | b"TRUNCATE" | b"RENAME" => ddl_statement(context, range, survey),
        _ => transaction(tokens, first, &word).unwrap_or_else(|| other(context, first, &word, survey)),
    }
}

/// The plan of a data statement from what its analysis gave.
fn routed(kind: Kind, routed: Routed) -> Plan {
    match routed {
        Ok((target, tables)) => Plan { tables, ..Plan::simple(kind, target) },
        Err(refusal) => refused(kind, refusal),
    }
}

fn refused(kind: Kind, Refusal { reason, needs_hint }: Refusal) -> Plan {
    Plan { needs_hint, ..Plan::simple(kind, Target::Unsupported { reason }) }
}

fn read(context: Context<'_, '_>, range: Range<usize>, survey: &Survey<'_>) -> Plan {
    let kind = if survey.watch.locking { Kind::LockingRead } else { Kind::Read };
    let mut plan = if survey.names_sharded {
        routed(kind, analyse::read(context, range.clone()))
    } else {
        let touches = survey.watch.reads_tables || context.uses.unknown_function.is_some();
        Plan::simple(kind, if touches { Target::Global } else { Target::AnyServer })
    };
    plan.needs_writer = survey.watch.locking;
    if plan.needs_hint
        && !survey.watch.locking
        && !context.uses.needs_writer()
        && !context.uses.calc_found_rows
    {
        plan.nothing = nothing::nothing(context.tokens, range.clone());
    }
    plan.of_catalog =
        survey.names_catalog && plan.target == Target::Global && analyse::is_of_catalog(context, range);
    plan
}

/// WITH may stand before SELECT, UPDATE and DELETE.
fn with(context: Context<'_, '_>, range: Range<usize>, survey: &Survey<'_>) -> Plan {
    let tokens = context.tokens;
    let verb = tokens.find(range.clone(), |at| {
        tokens.is_any(at, &["SELECT", "UPDATE", "DELETE", "TABLE", "VALUES"])
            && (tokens.is_op(at.wrapping_sub(1), ")"))
    });
    match verb {
        Some(at) if tokens.is_any(at, &["UPDATE", "DELETE"]) => change(context, range, at, survey),
        _ => read(context, range, survey),
    }
}

fn change(context: Context<'_, '_>, range: Range<usize>, at: usize, survey: &Survey<'_>) -> Plan {
    let update = context.tokens.is_word(at, "UPDATE");
    let kind = if update { Kind::Update } else { Kind::Delete };
    let mut plan = match (survey.names_sharded, update) {
        (false, _) => Plan::simple(kind, Target::Global),
        (true, true) => routed(kind, analyse::update(context, range, at)),
        (true, false) => routed(kind, analyse::delete(context, range, at)),
    };
    plan.is_write = true;
    plan
}

fn insert(context: Context<'_, '_>, range: Range<usize>, survey: &Survey<'_>) -> Plan {
    let replace = context.tokens.is_word(range.start, "REPLACE");
    let kind = if replace { Kind::Replace } else { Kind::Insert };
    let mut plan = if survey.names_sharded {
        match insert::plan(context, range) {
            Ok((target, tables, insert)) => Plan { tables, insert, ..Plan::simple(kind, target) },
            Err(refusal) => refused(kind, refusal),
        }
    } else {
        Plan::simple(kind, Target::Global)
    };
    plan.is_write = true;
    plan
}

/// EXPLAIN, DESCRIBE, MariaDB's ANALYZE, and EXPLAIN ROUTE.
fn explain(context: Context<'_, '_>, range: Range<usize>, survey: &Survey<'_>) -> Plan {
    let tokens = context.tokens;
    // With nothing behind it a table of that name is described.
    if tokens.are_words(range.start, &["EXPLAIN", "ROUTE"]) && range.len() > 2 {
        return Plan::simple(Kind::ExplainRoute, Target::Session);
    }
    let verbs = ["SELECT", "UPDATE", "DELETE", "INSERT", "REPLACE", "WITH", "TABLE", "VALUES"];
    let inner = (range.start + 1..range.end.min(range.start + 8))
        .find(|at| tokens.is_any(*at, &verbs) || tokens.is_op(*at, "("));
    let Some(inner) = inner else { return Plan::simple(Kind::Describe, Target::Global) };
    // MariaDB's ANALYZE runs the statement; EXPLAIN, also EXPLAIN ANALYZE, changes nothing.
    let runs = tokens.is_word(range.start, "ANALYZE");
    let mut plan = statement(context, inner..range.end, survey);
    if plan.insert.take().is_some()
        && let Target::User { sources } = &plan.target
    {
        if runs {
            let reason =
                "ANALYZE runs an INSERT into a sharded table without its new ids; use EXPLAIN".into();
            plan.target = Target::Unsupported { reason };
        } else if sources.is_empty() {
            // Its user is a new one, and the table is the same everywhere. It binds no transaction.
            plan.target = Target::AnyServer;
        }
    }
    Plan { kind: Kind::Explain, is_write: runs && plan.is_write, ..plan }
}

fn set(context: Context<'_, '_>, range: Range<usize>, survey: &Survey<'_>) -> Plan {
    let tokens = context.tokens;
    if tokens.is_word(range.start + 1, "STATEMENT") {
        let inner = tokens.find(range.clone(), |at| tokens.is_word(at, "FOR"));
        return match inner {
            Some(at) => Plan {
                kind: Kind::SetStatement,
                has_settings: true,
                ..statement(context, at + 1..range.end, survey)
            },
            None => Plan::simple(Kind::SetStatement, Target::Global),
        };
    }
    let reads_tables = has_query(tokens, range) && survey.watch.reads_tables;
    let target = if reads_tables && survey.names_sharded {
        Target::Unsupported { reason: "reads a sharded table in SET; use SELECT .. INTO @x".into() }
    } else if reads_tables || context.uses.unknown_function.is_some() {
        // Unsharded tables are there, and those that a stored function may read.
        Target::Global
    } else {
        Target::Session
    };
    Plan::simple(Kind::Set, target)
}

fn makes_table_from_query(kind: DdlKind, tokens: &Tokens<'_>) -> bool {
    let makes_table = matches!(kind, DdlKind::CreateTable | DdlKind::CreateTemporaryTable);
    // The first TABLE is its own.
    let own = tokens.find(0..tokens.len(), |at| tokens.is_word(at, "TABLE"));
    makes_table && own.is_some_and(|own| has_query(tokens, own + 1..tokens.len()))
}

fn has_query(tokens: &Tokens<'_>, mut range: Range<usize>) -> bool {
    range.any(|at| tokens.is_any(at, &["SELECT", "TABLE"]))
}

/// BEGIN, COMMIT and their kin.
fn transaction(tokens: &Tokens<'_>, at: usize, word: &[u8]) -> Option<Plan> {
    let has = |words: &[&str]| (at..tokens.len()).any(|at| tokens.are_words(at, words));
    let ends = || {
        let no = |word: &str| has(&["NO", word]);
        (has(&["CHAIN"]) && !no("CHAIN"), has(&["RELEASE"]) && !no("RELEASE"))
    };
    let kind = match word {
        b"BEGIN" if is_end(tokens, at + 1 + usize::from(tokens.is_word(at + 1, "WORK"))) => {
            Kind::Begin { read_only: false, consistent_snapshot: false }
        }
        b"START" if tokens.is_word(at + 1, "TRANSACTION") && are_characteristics(tokens, at + 2) => {
            Kind::Begin {
                read_only: has(&["READ", "ONLY"]),
                consistent_snapshot: has(&["CONSISTENT", "SNAPSHOT"]),
            }
        }
        b"COMMIT" => {
            let (chain, release) = ends();
            Kind::Commit { chain, release }
        }
        b"ROLLBACK" => {
            let to = at + 1 + usize::from(tokens.is_word(at + 1, "WORK"));
            if tokens.is_word(to, "TO") {
                let name = to + 1 + usize::from(tokens.is_word(to + 1, "SAVEPOINT"));
                Kind::RollbackTo(tokens.name(name).unwrap_or_default())
            } else {
                let (chain, release) = ends();
                Kind::Rollback { chain, release }
            }
        }
        b"SAVEPOINT" => Kind::Savepoint(tokens.name(at + 1).unwrap_or_default()),
        b"RELEASE" if tokens.is_word(at + 1, "SAVEPOINT") => {
            Kind::ReleaseSavepoint(tokens.name(at + 2).unwrap_or_default())
        }
        b"XA" => Kind::Xa,
        _ => return None,
    };
    let needs_writer = kind == Kind::Xa;
    Some(Plan { needs_writer, ..Plan::simple(kind, Target::Session) })
}

fn is_end(tokens: &Tokens<'_>, at: usize) -> bool {
    at >= tokens.len() || tokens.is_op(at, ";")
}

/// What START TRANSACTION takes. With anything else it is an error, which a server words.
fn are_characteristics(tokens: &Tokens<'_>, mut at: usize) -> bool {
    const KNOWN: [&[&str]; 3] = [&["READ", "ONLY"], &["READ", "WRITE"], &["WITH", "CONSISTENT", "SNAPSHOT"]];
    let mut said = [false; 3];
    while !is_end(tokens, at) {
        let Some(which) = KNOWN.iter().position(|words| tokens.are_words(at, words)) else { return false };
        said[which] = true;
        at += KNOWN[which].len();
        if tokens.is_op(at, ",") && !is_end(tokens, at + 1) {
            at += 1;
        } else if !is_end(tokens, at) {
            return false;
        }
    }
    !(said[0] && said[1])
}

/// Everything that is known by its first words alone.
fn other(context: Context<'_, '_>, at: usize, word: &[u8], survey: &Survey<'_>) -> Plan {
    let tokens = context.tokens;
    let name = |at: usize| tokens.name(at).unwrap_or_default();
    let global_unless_sharded = |kind: Kind, reason: &str| {
        let target = if survey.names_sharded && names_sharded_table(context) {
            Target::Unsupported { reason: reason.into() }
        } else {
            Target::Global
        };
        Plan::simple(kind, target)
    };
    let session = |kind: Kind| Plan::simple(kind, Target::Session);
    match word {
        b"USE" => session(Kind::Use(name(at + 1))),
        b"SHOW" => show(tokens, at),
        b"KILL" => session(Kind::Kill),
        b"PREPARE" => session(Kind::Prepare(name(at + 1))),
        b"EXECUTE" if tokens.is_word(at + 1, "IMMEDIATE") => session(Kind::Execute(String::new())),
        b"EXECUTE" => session(Kind::Execute(name(at + 1))),
        b"DEALLOCATE" => session(Kind::Deallocate(name(at + 2))),
        b"START" if tokens.is_word(at + 1, "TRANSACTION") => {
            Plan { is_write: true, ..Plan::simple(Kind::Other, Target::Global) }
        }
        b"UNLOCK" => session(Kind::UnlockTables),
        b"GET" => session(Kind::GetDiagnostics),
        b"SIGNAL" | b"RESIGNAL" => session(Kind::Signal),
        b"LOCK" => {
            let reason = "locks a sharded table; use SELECT .. FOR UPDATE (dumps: --single-transaction, --where by \
                          the key, --skip-add-locks)";
            global_unless_sharded(Kind::LockTables, reason)
        }
        b"HANDLER" => global_unless_sharded(Kind::Handler, "HANDLER on a sharded table; use SELECT"),
        b"CALL" => Plan {
            is_write: true,
            ..global_unless_sharded(Kind::Call, "reads a sharded table in the arguments of CALL")
        },
        b"DO" => {
            let plan = global_unless_sharded(Kind::Do, "reads a sharded table in DO; use SELECT");
            let touches = survey.watch.reads_tables || context.uses.unknown_function.is_some();
            let alone = plan.target == Target::Global && !touches;
            if alone { Plan::simple(Kind::Do, Target::AnyServer) } else { plan }
        }
        b"LOAD" => {
            let local = tokens.is_word(at + 2, "LOCAL") || tokens.is_word(at + 3, "LOCAL");
            let reason = "loads a file into a sharded table; insert its rows user by user";
            Plan { is_write: true, ..global_unless_sharded(Kind::Load { local }, reason) }
        }
        // Held until UNLOCK TABLES or the session's end.
        b"FLUSH" if holds_a_lock(tokens) => global_unless_sharded(
            Kind::LockTables,
            "locks a sharded table; run it on the shards' own servers",
        ),
        b"BACKUP" => global_unless_sharded(Kind::LockTables, "locks a sharded table"),
        b"GRANT" | b"REVOKE" => Plan { is_write: true, ..Plan::simple(Kind::Admin, Target::Global) },
        b"ANALYZE" | b"OPTIMIZE" | b"CHECK" | b"CHECKSUM" | b"REPAIR" | b"FLUSH" | b"RESET" | b"PURGE"
        | b"CHANGE" | b"STOP" | b"START" | b"INSTALL" | b"UNINSTALL" | b"BINLOG" | b"CACHE" | b"CLONE"
        | b"IMPORT" | b"RESTART" | b"SHUTDOWN" => {
            let reason = "maintains a sharded table; run it on the shards' own servers";
            Plan { is_write: true, ..global_unless_sharded(Kind::Admin, reason) }
        }
        // A compound statement is a procedure without a name.
        _ if is_stored_program(tokens.text, tokens.mode) => Plan {
            is_write: true,
            ..global_unless_sharded(Kind::Call, "names a sharded table in a compound statement")
        },
        _ => Plan {
            is_write: true,
            ..global_unless_sharded(
                Kind::Other,
                "names a sharded table in a statement that usher does not know",
            )
        },
    }
}

/// FLUSH TABLES .. WITH READ LOCK, or FOR EXPORT.
fn holds_a_lock(tokens: &Tokens<'_>) -> bool {
    let ends = [&["WITH", "READ", "LOCK"][..], &["FOR", "EXPORT"]];
    (1..tokens.len()).any(|at| ends.iter().any(|end| tokens.are_words(at, end)))
}

/// Whether a name in the statement, with its schema or the default one, is a sharded table.
fn names_sharded_table(context: Context<'_, '_>) -> bool {
    let tokens = context.tokens;
    (0..tokens.len()).any(|at| {
        tokens.raw_name(at).is_some_and(|name| context.catalog.names_sharded(&name)) && {
            let schema = if tokens.is_op(at.wrapping_sub(1), ".") {
                tokens.name(at.wrapping_sub(2))
            } else {
                context.default_schema.map(str::to_owned)
            };
            tokens.name(at).is_some_and(|name| is_sharded(context, schema.as_deref(), &name))
        }
    })
}

fn is_sharded(context: Context<'_, '_>, schema: Option<&str>, name: &str) -> bool {
    let entry = schema.and_then(|schema| context.catalog.table(schema, name));
    matches!(entry, Some(Table::Sharded(_)))
}

fn show(tokens: &Tokens<'_>, at: usize) -> Plan {
    let scope = usize::from(tokens.is_any(at + 1, &["GLOBAL", "SESSION", "LOCAL", "FULL"]));
    let what = at + 1 + scope;
    let count = usize::from(tokens.is_word(what, "COUNT")) * 4;
    let kind = if tokens.is_word(what + count, "WARNINGS") {
        ShowKind::Warnings
    } else if tokens.is_word(what + count, "ERRORS") {
        ShowKind::Errors
    } else if tokens.is_word(what, "VARIABLES") {
        ShowKind::Variables
    } else if tokens.is_word(what, "STATUS") {
        ShowKind::Status
    } else if tokens.is_word(what, "PROCESSLIST") {
        ShowKind::Processlist
    } else if tokens.is_any(what, &["DATABASES", "SCHEMAS"]) {
        return Plan::simple(Kind::Show(ShowKind::Databases), Target::Global);
    } else {
        return Plan::simple(Kind::Show(ShowKind::Other), Target::Global);
    };
    Plan::simple(Kind::Show(kind), Target::Session)
}

/// CREATE, ALTER, DROP, TRUNCATE, RENAME: schema changes, accounts, DROP PREPARE.
fn ddl_statement(context: Context<'_, '_>, range: Range<usize>, survey: &Survey<'_>) -> Plan {
    let tokens = context.tokens;
    if tokens.are_words(range.start, &["DROP", "PREPARE"]) {
        let name = tokens.name(range.start + 2).unwrap_or_default();
        return Plan::simple(Kind::Deallocate(name), Target::Session);
    }
    let Some(head) = ddl::head(tokens, context.default_schema) else {
        return Plan { is_write: true, ..Plan::simple(Kind::Admin, Target::Global) };
    };
    let target = ddl_target(context, &head, survey);
    Plan { is_write: true, tables: head.tables, ..Plan::simple(Kind::Ddl(head.kind), target) }
}

fn ddl_target(context: Context<'_, '_>, head: &ddl::Head, survey: &Survey<'_>) -> Target {
    let refuse = |reason: &str| Target::Unsupported { reason: reason.into() };
    if matches!(head.kind, DdlKind::CreateDatabase | DdlKind::AlterDatabase | DdlKind::DropDatabase) {
        return Target::Everywhere;
    }
    if !survey.names_sharded || !names_sharded_table(context) {
        return Target::Global;
    }
    let creates = matches!(head.kind, DdlKind::CreateTable | DdlKind::CreateTemporaryTable);
    if creates && has_query(context.tokens, 3..context.tokens.len()) {
        return refuse("creates a table from a query on a sharded one; create it, then insert");
    }
    let (sharded, changed) = sharded_tables(context, head);
    match head.kind {
        DdlKind::CreateTemporaryTable if sharded > 0 => {
            refuse("gives a temporary table the name or shape of a sharded one")
        }
        DdlKind::Other if context.tokens.is_any(0, &["CREATE", "ALTER"]) => refuse(
            "names a sharded table in a view, trigger, routine or event: it would see one server's rows only",
        ),
        DdlKind::DropTemporaryTable | DdlKind::CreateTemporaryTable | DdlKind::Other => Target::Global,
        _ if sharded == 0 => Target::Global,
        DdlKind::DropTable | DdlKind::RenameTable | DdlKind::TruncateTable if sharded < changed => {
            refuse("names sharded and other tables; change them in statements of their own")
        }
        DdlKind::AlterTable => match drops_key(context, head) {
            Some(key) => refuse(&format!("drops or renames the key column {key} of a sharded table")),
            None => Target::Everywhere,
        },
        _ => Target::Everywhere,
    }
}

/// How many of the tables that are changed, or copied from, are sharded, and how many there are.
fn sharded_tables(context: Context<'_, '_>, head: &ddl::Head) -> (usize, usize) {
    // RENAME lists old and new names in turn.
    let step = if head.kind == DdlKind::RenameTable { 2 } else { 1 };
    let old = || head.tables.iter().step_by(step);
    let sharded =
        old().chain(&head.like).filter(|table| is_sharded(context, table.schema.as_deref(), &table.name));
    (sharded.count(), old().count())
}

/// The key column, if an ALTER TABLE drops it or gives it another name.
fn drops_key(context: Context<'_, '_>, head: &ddl::Head) -> Option<String> {
    let tokens = context.tokens;
    let table = head.tables.first()?;
    let Some(Table::Sharded(sharded)) = context.catalog.table(table.schema.as_deref()?, &table.name) else {
        return None;
    };
    (0..tokens.len()).find_map(|at| {
        if !tokens.is_any(at, &["DROP", "CHANGE", "RENAME"]) {
            return None;
        }
        let column = at + 1 + usize::from(tokens.is_word(at + 1, "COLUMN"));
        let column = column + if tokens.are_words(column, &["IF", "EXISTS"]) { 2 } else { 0 };
        let name = tokens.name(column).filter(|name| sharded.is_key(name))?;
        let kept =
            tokens.is_word(at, "CHANGE") && tokens.name(column + 1).is_some_and(|new| sharded.is_key(&new));
        (!kept).then_some(name)
    })
}

/// What EXPLAIN ROUTE asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainRoute {
    /// The statements to explain, with the comments in front of them, up to the end of the text.
    pub statements: Range<usize>,
    /// FORMAT=JSON was said.
    pub json: bool,
}

/// Reads EXPLAIN ROUTE [FORMAT=JSON] statement; `None` if the text is none.
#[must_use]
pub fn explain_route(text: &[u8], mode: Mode) -> Option<ExplainRoute> {
    let tokens = Tokens::up_to(text, mode, 6);
    if !tokens.are_words(0, &["EXPLAIN", "ROUTE"]) {
        return None;
    }
    let json = tokens.is_word(2, "FORMAT") && tokens.is_op(3, "=") && tokens.is_word(4, "JSON");
    let (head, first) = if json { (4, 5) } else { (1, 2) };
    tokens.item(first)?;
    Some(ExplainRoute { statements: tokens.item(head)?.token.span().end..text.len(), json })
}
