//! What triggers and stored functions leave on the connection of whoever sets them off: user variables above all. A
//! statement names them not, so that the servers are asked for their bodies.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
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
/// Words of a body by which it leaves a lock or a temporary table on its connection.
const HOLDS: [&str; 3] = ["get_lock", "release_lock", "temporary"];

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
    /// The same in a form that costs nothing to look at.
    any: AtomicBool,
    /// Whoever asks the servers: the later answer counts.
    asking: Mutex<()>,
}

/// A trigger or routine as a server tells it.
struct Program {
    /// What a statement names: the table, or the routine itself.
    name: String,
    /// Every name in the body, and what it does itself.
    names: BTreeSet<String>,
    effects: Effects,
}

impl Programs {
    /// What a statement may have left on its connection without naming it.
    #[inline]
    pub(crate) fn effects(&self, plan: &Plan, text: &[u8], mode: Mode) -> Option<Effects> {
        let may = self.any.load(Ordering::Relaxed) && (plan.is_write || plan.uses.unknown_function.is_some());
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
            if let Some(more) = known.get(&name) {
                effects.add(more);
            }
        });
        effects
    }

    fn set(&self, programs: Vec<Program>) {
        let known = closed(programs);
        self.any.store(!known.is_empty(), Ordering::Relaxed);
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
    names(text, mode, |name| nothing &= !HOLDS.contains(&name.as_str()) && !MORE.contains(&name.as_str()));
    nothing
}

/// Every name in a text, in lower case.
fn names(text: &[u8], mode: Mode, mut see: impl FnMut(String)) {
    for token in Lexer::new(text, mode) {
        if matches!(token.kind, TokenKind::Word | TokenKind::Dotted | TokenKind::Quoted) {
            see(String::from_utf8_lossy(&unquote_name(token.bytes(text))).to_lowercase());
        }
    }
}

fn program(name: &str, body: &[u8]) -> Program {
    let mode = Mode::default();
    let mut program =
        Program { name: name.to_lowercase(), names: BTreeSet::new(), effects: Effects::default() };
    names(body, mode, |name| {
        program.effects.holds |= HOLDS.contains(&name.as_str());
        program.names.insert(name);
    });
    let variables = Lexer::new(body, mode).filter(|token| token.kind == TokenKind::UserVar);
    program.effects.variables = variables.map(|token| user_variable_name(token.bytes(body))).collect();
    program
}

/// What each does, and what those do that it names.
fn closed(programs: Vec<Program>) -> HashMap<String, Effects> {
    let mut known: HashMap<String, Effects> = HashMap::new();
    for program in &programs {
        known.entry(program.name.clone()).or_default().add(&program.effects);
    }
    // As deep as they name each other: a round that adds nothing is the last.
    for _ in 0..=programs.len() {
        let mut grew = false;
        for program in &programs {
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
        const ASKED: &str = "SELECT event_object_table, action_statement FROM information_schema.triggers \
            UNION ALL SELECT routine_name, routine_definition FROM information_schema.routines \
            WHERE routine_schema NOT IN ('sys', 'mysql') \
            UNION ALL SELECT table_name, view_definition FROM information_schema.views \
            WHERE table_schema NOT IN ('sys', 'mysql')";
        let text = format!("{ASKED} LIMIT {PROGRAMS_MAX}");
        let _asking = self.programs.asking.lock().await;
        let mut programs = Vec::new();
        for (_, server) in self.writers() {
            let Some(rows) = self.rows_of(server, text.as_bytes()).await else { return false };
            if rows.len() >= PROGRAMS_MAX {
                tracing::warn!(
                    PROGRAMS_MAX,
                    "not all triggers, routines and views are looked at for user variables"
                );
            }
            for mut row in rows {
                let body = row.pop().flatten().unwrap_or_default();
                let name = row.pop().flatten().unwrap_or_default();
                programs.push(program(&String::from_utf8_lossy(&name), &body));
            }
        }
        self.programs.set(programs);
        true
    }

    fn writers(&self) -> Vec<(ShardId, ServerId)> {
        let state = self.directory.state();
        state.topology.shards.iter().map(|shard| (shard.id, shard.writer)).collect()
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
        UNION ALL SELECT COUNT(*), MAX(last_altered) FROM information_schema.routines";
    let mut marks = HashMap::new();
    for (shard, server) in shared.writers() {
        if let Some(rows) = shared.rows_of(server, ASKED).await {
            marks.insert(shard, rows);
        }
    }
    marks
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_those_of_all_that_is_named() {
        let programs = Programs::default();
        programs.set(vec![
            program("Orders", b"BEGIN SET new.who = @who; CALL `Count_Them`(); END"),
            program("count_them", b"SET @Count = @count + 1, @`odd name` = 1"),
            program("harmless", b"RETURN 1"),
            program("locks", b"RETURN GET_LOCK('x', 1)"),
        ]);
        let plan =
            |text: &[u8]| usher_sql::plan(text, Some("app"), Mode::default(), &usher_sql::Catalog::default());
        let effects = |text: &[u8]| programs.effects(&plan(text), text, Mode::default());
        let names = |text| effects(text).map(|effects| effects.variables.into_iter().collect::<Vec<_>>());
        assert_eq!(names(b"INSERT INTO app.orders VALUES (1)").unwrap(), ["count", "odd name", "who"]);
        assert_eq!(names(b"SELECT * FROM orders"), None, "reads set off no trigger");
        assert_eq!(names(b"INSERT INTO t VALUES ('orders', harmless())"), None);
        assert!(effects(b"SELECT 1, locks()").unwrap().holds);
        programs.set(Vec::new());
        assert_eq!(names(b"INSERT INTO orders VALUES (1)"), None);
    }
}
