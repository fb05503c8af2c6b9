//! What triggers and stored functions leave on the connection of whoever sets them off: user variables above all. A
//! statement names them not, so that the servers are asked for their bodies.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval, timeout};
use usher_backend::Settings;
use usher_sql::{DdlKind, Kind, Lexer, Mode, Plan, TokenKind, unquote_name, user_variable_name};
use usher_topology::{ServerId, ShardId};

use crate::shared::Shared;

/// The servers are asked once in so much time whether there are others. What is made through this proxy counts at once.
const EVERY: Duration = Duration::from_secs(60);
/// Triggers and routines of one server that are looked at.
const PROGRAMS_MAX: usize = 10_000;
/// Name, body, `sql_mode` and kind of each. (A view is kept in one spelling of its own.)
const ASKED: &str = "SELECT event_object_table, action_statement, sql_mode, 'trigger' FROM information_schema.triggers \
    UNION ALL SELECT routine_name, routine_definition, sql_mode, 'routine' FROM information_schema.routines \
    WHERE routine_schema NOT IN ('sys', 'mysql') \
    UNION ALL SELECT table_name, view_definition, '', 'view' FROM information_schema.views \
    WHERE table_schema NOT IN ('sys', 'mysql')";
/// Words of a body by which it leaves a lock or a temporary table on its connection.
const HOLDS: [&str; 3] = ["get_lock", "release_lock", "temporary"];
/// Words of a procedure's body by which it may leave more than can be told from it.
const OBSCURE: [&str; 6] = ["execute", "flush", "prepare", "release_all_locks", "role", "xa"];
/// Settings of which no server tells that they were set.
const UNTOLD: [&str; 4] = ["timestamp", "insert_id", "rand_seed1", "rand_seed2"];

/// What is left on a connection.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Effects {
    /// User variables that may be assigned, in lower case, without the @.
    pub(crate) variables: BTreeSet<String>,
    /// Whether there is more than that: the connection is nobody else's then.
    pub(crate) holds: bool,
}

impl Effects {
    fn is_nothing(&self) -> bool {
        self.variables.is_empty() && !self.holds
    }

    fn add(&mut self, other: &Self) {
        self.variables.extend(other.variables.iter().cloned());
        self.holds |= other.holds;
    }
}

/// The triggers and stored functions of all shards that leave something behind, by the names that bring them about: a
/// trigger's by its table's.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    known: ArcSwap<HashMap<String, Effects>>,
    /// Procedures that leave no more than what `known` tells of them.
    plain: ArcSwap<HashSet<String>>,
    /// The same in a form that costs nothing to look at.
    any: AtomicBool,
    /// Whether reads may set them off without calling a function: there are views among them.
    views: AtomicBool,
    /// Whoever asks the servers: the later answer counts.
    asking: Mutex<()>,
}

/// A trigger, routine or view as a server tells it.
struct Program {
    /// What a statement names: the table, or the routine or view itself.
    name: String,
    is_view: bool,
    /// Every name in the body, and what it does itself.
    names: BTreeSet<String>,
    effects: Effects,
    /// Whether it may leave more behind, if it is a procedure.
    obscure: bool,
    /// The procedures that it calls.
    calls: Vec<String>,
}

impl Programs {
    /// What a statement may have left on its connection without naming it.
    #[inline]
    pub(crate) fn effects(&self, plan: &Plan, text: &[u8], mode: Mode) -> Option<Effects> {
        let may = self.any.load(Ordering::Relaxed)
            && (plan.is_write || plan.uses.unknown_function.is_some() || self.views.load(Ordering::Relaxed));
        may.then(|| self.of(text, mode)).filter(|effects| !effects.is_nothing())
    }

    #[cold]
    fn of(&self, text: &[u8], mode: Mode) -> Effects {
        if text.is_empty() {
            // One in several packets: it may name anything.
            return Effects { holds: true, ..Effects::default() };
        }
        let known = self.known.load();
        let mut effects = Effects::default();
        names(text, mode, |name| {
            if let Some(more) = known.get(name) {
                effects.add(more);
            }
        });
        effects
    }

    /// Whether a procedure was looked at and leaves nothing on its connection but what [`Self::effects`] tells.
    pub(crate) fn leaves_no_more(&self, text: &[u8], mode: Mode) -> bool {
        called(text, mode).is_some_and(|name| self.plain.load().contains(&name))
    }

    fn set(&self, programs: &[Program]) {
        let known = closed(programs);
        let views = programs.iter().any(|program| program.is_view && known.contains_key(&program.name));
        self.views.store(views, Ordering::Relaxed);
        self.any.store(!known.is_empty(), Ordering::Relaxed);
        self.plain.store(Arc::new(plain(programs)));
        self.known.store(Arc::new(known));
    }
}

/// Whether a statement may make or drop a trigger or a routine.
pub(crate) fn may_change_programs(plan: &Plan) -> bool {
    plan.kind == Kind::Ddl(DdlKind::Other)
}

/// Whether a statement is a compound one that leaves nothing behind but the variables it names.
pub(crate) fn leaves_nothing(text: &[u8], mode: Mode) -> bool {
    const MORE: [&str; 3] = ["call", "execute", "prepare"];
    let mut nothing = !text.is_empty();
    names(text, mode, |name| nothing &= !HOLDS.contains(&name) && !MORE.contains(&name));
    nothing
}

/// The procedure that a CALL names, without its schema, in lower case.
fn called(text: &[u8], mode: Mode) -> Option<String> {
    let mut tokens = Lexer::new(text, mode);
    let is_call = |raw: &[u8]| raw.eq_ignore_ascii_case(b"call");
    tokens.next().filter(|token| token.kind == TokenKind::Word && is_call(token.bytes(text)))?;
    name_of_call(&mut tokens, text)
}

/// What stands behind the word CALL.
fn name_of_call(tokens: &mut Lexer<'_>, text: &[u8]) -> Option<String> {
    let mut name = None;
    for token in tokens {
        let raw = token.bytes(text);
        match token.kind {
            TokenKind::Word | TokenKind::Dotted | TokenKind::Quoted => {
                name = Some(String::from_utf8_lossy(&unquote_name(raw)).to_lowercase());
            }
            _ if raw == b"." => {}
            _ => break,
        }
    }
    name
}

/// Every name in a text, in lower case.
fn names(text: &[u8], mode: Mode, mut see: impl FnMut(&str)) {
    let mut lower = String::new();
    for token in Lexer::new(text, mode) {
        let raw = token.bytes(text);
        match token.kind {
            TokenKind::Word | TokenKind::Dotted if raw.is_ascii() => {
                lower.clear();
                lower.extend(raw.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
                see(&lower);
            }
            TokenKind::Word | TokenKind::Dotted | TokenKind::Quoted => {
                see(&String::from_utf8_lossy(&unquote_name(raw)).to_lowercase());
            }
            _ => {}
        }
    }
}

impl Program {
    /// Of a row of [`ASKED`]. A body that this account may not see may do anything.
    fn of_row(row: Vec<Option<Vec<u8>>>) -> Self {
        let mut row = row.into_iter();
        let mut next = || row.next().flatten();
        let (name, body, mode, kind) = (next(), next(), next(), next());
        let text = |value: Option<Vec<u8>>| String::from_utf8_lossy(&value.unwrap_or_default()).into_owned();
        let is_view = kind.as_deref() == Some(b"view");
        let (name, mode) = (text(name), Mode::from_sql_mode(&text(mode)));
        match body.filter(|body| !body.is_empty()) {
            Some(body) => Self::new(&name, &body, mode, is_view),
            None => {
                let mut program = Self::new(&name, b"", mode, is_view);
                // What a view names is not known either, but only functions leave anything.
                program.effects.holds = !is_view;
                program
            }
        }
    }

    fn new(name: &str, body: &[u8], mode: Mode, is_view: bool) -> Self {
        let (mut all, mut holds) = (BTreeSet::new(), false);
        names(body, mode, |name| {
            holds |= HOLDS.contains(&name);
            all.insert(name.to_owned());
        });
        let obscure = OBSCURE.iter().any(|word| all.contains(*word)) || says_more(body, mode);
        let variables = Lexer::new(body, mode).filter(|token| token.kind == TokenKind::UserVar);
        let variables = variables.map(|token| user_variable_name(token.bytes(body))).collect();
        let calls = calls(body, mode);
        let name = name.to_lowercase();
        Self { name, is_view, names: all, effects: Effects { variables, holds }, obscure, calls }
    }
}

/// The procedures that a body calls.
fn calls(body: &[u8], mode: Mode) -> Vec<String> {
    let mut tokens = Lexer::new(body, mode);
    let mut calls = Vec::new();
    while let Some(token) = tokens.next() {
        if token.kind == TokenKind::Word && token.bytes(body).eq_ignore_ascii_case(b"call") {
            calls.extend(name_of_call(&mut tokens, body));
        }
    }
    calls
}

/// Whether a body sets what no server may tell of, or opens a table: `SET @@x = 1`, `SET SESSION x = 1`, `SET TRANSACTION`,
/// `SET timestamp = 1`, `HANDLER t OPEN`.
fn says_more(body: &[u8], mode: Mode) -> bool {
    const SCOPES: [&str; 6] = ["session", "local", "global", "persist", "persist_only", "transaction"];
    let mut before = (TokenKind::Op, String::new());
    Lexer::new(body, mode).any(|token| {
        let word = String::from_utf8_lossy(&unquote_name(token.bytes(body))).to_lowercase();
        let sets = token.kind == TokenKind::Op && matches!(word.as_str(), "=" | ":=");
        let more = match (before.0, before.1.as_str()) {
            (TokenKind::SysVar, _) => sets,
            (_, "set") => SCOPES.contains(&word.as_str()),
            // That of conditions is DECLARE .. HANDLER FOR.
            (_, "handler") => word != "for",
            (_, name) => sets && UNTOLD.contains(&name),
        };
        before = (token.kind, word);
        more
    })
}

/// The routines that do not leave more than [`closed`] tells, nor do those that they call. Of several of one name none
/// may.
fn plain(programs: &[Program]) -> HashSet<String> {
    let routines = || programs.iter().filter(|program| !program.is_view);
    let mut plain: HashSet<String> = routines().map(|program| program.name.clone()).collect();
    loop {
        let more =
            |program: &&Program| program.obscure || program.calls.iter().any(|name| !plain.contains(name));
        let there = |program: &&Program| plain.contains(&program.name);
        let not: Vec<&Program> = routines().filter(there).filter(more).collect();
        if not.is_empty() {
            return plain;
        }
        for program in not {
            plain.remove(&program.name);
        }
    }
}

/// What each does, and what those do that it names.
fn closed(programs: &[Program]) -> HashMap<String, Effects> {
    let mut known: HashMap<String, Effects> = HashMap::new();
    for program in programs {
        known.entry(program.name.clone()).or_default().add(&program.effects);
    }
    // As deep as they name each other: a round that adds nothing is the last.
    for _ in 0..=programs.len() {
        let mut grew = false;
        for program in programs {
            let mut effects = known.get(&program.name).cloned().unwrap_or_default();
            for more in program.names.iter().filter_map(|name| known.get(name)) {
                effects.add(more);
            }
            if known.get(&program.name) != Some(&effects) {
                known.insert(program.name.clone(), effects);
                grew = true;
            }
        }
        if !grew {
            break;
        }
    }
    known.retain(|_, effects| !effects.is_nothing());
    known
}

/// Asks the writers of all shards again and again.
pub(crate) async fn watch(shared: Weak<Shared>) {
    let mut seen = HashMap::new();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let now = marks(&shared).await;
        if now != seen && shared.learn_programs().await {
            seen = now;
        }
    }
}

impl Shared {
    /// Asks the writers of all shards for their triggers and routines. False if one did not answer: what was known then
    /// stays.
    pub(crate) async fn learn_programs(&self) -> bool {
        let text = format!("{ASKED} LIMIT {PROGRAMS_MAX}");
        let _asking = self.programs.asking.lock().await;
        let mut programs = Vec::new();
        for rows in join_all(self.writers().map(|(_, server)| self.rows_of(server, text.as_bytes()))).await {
            let Some(rows) = rows else { return false };
            if rows.len() >= PROGRAMS_MAX {
                tracing::warn!(
                    PROGRAMS_MAX,
                    "not all triggers, routines and views are looked at for user variables"
                );
            }
            programs.extend(rows.into_iter().map(Program::of_row));
        }
        let unseen = programs.iter().find(|program| program.effects.holds && program.names.is_empty());
        if let Some(program) = unseen {
            tracing::warn!(
                name = program.name,
                "the proxy's account may not see the body of a stored function or procedure (MySQL: GRANT SHOW_ROUTINE): \
                 a session that calls it keeps its connection"
            );
        }
        self.programs.set(&programs);
        true
    }

    fn writers(&self) -> impl Iterator<Item = (ShardId, ServerId)> {
        let state = self.directory.state();
        let writers: Vec<_> = state.topology.shards.iter().map(|shard| (shard.id, shard.writer)).collect();
        writers.into_iter()
    }

    async fn rows_of(&self, server: ServerId, text: &[u8]) -> Option<Vec<Vec<Option<Vec<u8>>>>> {
        let asked = async {
            let pool = self.pools.of(server).ok()?;
            let mut lent = pool.checkout(&Settings::at_login(false)).await.ok()?;
            let reply = lent.query(text).await.ok()?;
            reply.error.is_none().then_some(reply.rows)
        };
        timeout(Duration::from_millis(self.limits.connect_ms), asked).await.ok().flatten()
    }
}

/// What changes when a trigger or a routine does, for each shard that answers.
async fn marks(shared: &Shared) -> HashMap<ShardId, Vec<Vec<Option<Vec<u8>>>>> {
    const ASKED: &[u8] = b"SELECT COUNT(*), MAX(created) FROM information_schema.triggers \
        UNION ALL SELECT COUNT(*), MAX(last_altered) FROM information_schema.routines \
        UNION ALL SELECT COUNT(*), NULL FROM information_schema.views";
    let ask = |(shard, server)| async move { Some((shard, shared.rows_of(server, ASKED).await?)) };
    join_all(shared.writers().map(ask)).await.into_iter().flatten().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn programs(rows: &[[&str; 4]]) -> Vec<Program> {
        let cell = |text: &&str| (*text != "NULL").then(|| text.as_bytes().to_vec());
        rows.iter().map(|row| Program::of_row(row.iter().map(cell).collect())).collect()
    }

    #[test]
    fn effects_are_those_of_all_that_is_named() {
        let known = Programs::default();
        known.set(&programs(&[
            ["Orders", "BEGIN SET new.who = @who; CALL `Count_Them`(); END", "", "trigger"],
            ["count_them", "SET @Count = @count + 1, @`odd name` = 1", "", "routine"],
            ["harmless", "RETURN 1", "", "routine"],
            ["locks", "RETURN GET_LOCK('x', 1)", "", "routine"],
            ["unseen", "NULL", "", "routine"],
            ["unseen_view", "", "", "view"],
            [
                "ansi",
                "BEGIN SET @a = '\\'; SET @\"b\" = '\\'; END",
                "ANSI_QUOTES,NO_BACKSLASH_ESCAPES",
                "routine",
            ],
        ]));
        let plan =
            |text: &[u8]| usher_sql::plan(text, Some("app"), Mode::default(), &usher_sql::Catalog::default());
        let effects = |text: &[u8]| known.effects(&plan(text), text, Mode::default());
        let names = |text| effects(text).map(|effects| effects.variables.into_iter().collect::<Vec<_>>());
        assert_eq!(names(b"INSERT INTO app.orders VALUES (1)").unwrap(), ["count", "odd name", "who"]);
        assert_eq!(names(b"SELECT * FROM orders"), None, "reads set off no trigger");
        assert_eq!(names(b"INSERT INTO t VALUES ('orders', harmless())"), None);
        assert_eq!(names(b"SELECT ansi()").unwrap(), ["a", "b"]);
        assert!(effects(b"SELECT 1, locks()").unwrap().holds);
        assert!(effects(b"SELECT unseen()").unwrap().holds, "it may do anything");
        assert_eq!(names(b"SELECT * FROM summary"), None);
        assert_eq!(effects(b"SELECT * FROM unseen_view"), None);
        known.set(&programs(&[
            ["summary", "select `count_them`() AS `n`", "", "view"],
            ["count_them", "SET @n = 1", "", "routine"],
        ]));
        assert_eq!(names(b"SELECT * FROM Summary").unwrap(), ["n"], "reads of a view call its functions");
        known.set(&programs(&[
            [
                "adds",
                "BEGIN DECLARE CONTINUE HANDLER FOR NOT FOUND SET @x = 1; CALL app.tells(); END",
                "",
                "routine",
            ],
            ["tells", "SELECT 1", "", "routine"],
            ["prepares", "BEGIN PREPARE p FROM @x; EXECUTE p; END", "", "routine"],
            ["calls_it", "CALL `Prepares`()", "", "routine"],
            ["calls_unknown", "IF 1 THEN CALL elsewhere; END IF", "", "routine"],
            ["isolates", "SET SESSION TRANSACTION READ ONLY", "", "routine"],
            ["opens", "HANDLER t OPEN", "", "routine"],
            ["freezes", "SET @a = 1, `timestamp` = 5", "", "routine"],
            ["freezes_too", "SET @@session.timestamp = 5", "", "routine"],
            ["unseen", "NULL", "", "routine"],
        ]));
        let no_more = |text: &str| known.leaves_no_more(text.as_bytes(), Mode::default());
        assert!(
            no_more("CALL adds()") && no_more("call app . `tells` (1, prepares)") && no_more("CALL tells")
        );
        assert_eq!(names(b"CALL adds(@y)").unwrap(), ["x"]);
        for obscure in [
            "prepares",
            "calls_it",
            "calls_unknown",
            "isolates",
            "opens",
            "freezes",
            "freezes_too",
            "never_seen",
        ] {
            assert!(!no_more(&format!("CALL {obscure}()")), "{obscure}");
        }
        assert!(effects(b"CALL unseen()").unwrap().holds);
        known.set(&[]);
        assert!(!no_more("CALL tells()"));
        assert_eq!(names(b"INSERT INTO orders VALUES (1)"), None);
    }
}
