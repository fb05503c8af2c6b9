//! Which way a statement goes: to one server, to many, or no further than usher.

use usher_sql::effects::{self, Set};
use usher_sql::prepare::{Operand, Prepare, parse as parse_prepare};
use usher_sql::{DdlKind, Kind, Plan, ShowKind, Target};
use usher_topology::{Key, ShardId};
use usher_wire::caps::Caps;

use super::{DEPTH_MAX, Route};
use crate::diagnostics::asks_of_the_one_before;
use crate::query::{Text, is_temporary, unroutable, unsupported};
use crate::route::Place;
use crate::session::{Session, Stop, Transaction};
use crate::set::{check_allowed, is_for_next_transaction, without_tracking};
use crate::set_global::{check_global, is_global};
use crate::text_prepare::unknown;
use crate::{kill, own_values};

/// Which way a statement goes.
pub(super) enum Way {
    /// It is told by what has been said already.
    Told,
    /// usher does it itself.
    Kept(String),
    /// To several servers.
    Many(String),
    /// To a server that is known only when it runs.
    Later(&'static str),
    /// To one server.
    To { place: Place, key: Option<Key>, relation: Relation },
}

/// How a statement stands to the session's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// It is, or begins, a part of it.
    Inside,
    /// It neither needs nor begins one.
    Aside,
    /// It ends it first.
    Ends,
}

impl Way {
    pub(super) fn aside(place: Place) -> Self {
        Self::To { place, key: None, relation: Relation::Aside }
    }

    fn global(relation: Relation) -> Self {
        Self::To { place: Place::writer(ShardId::GLOBAL), key: None, relation }
    }
}

impl Session {
    pub(super) async fn way(
        &mut self,
        route: &mut Route,
        statement: Text<'_>,
        plan: &Plan,
        depth: usize,
    ) -> Result<Way, Stop> {
        if let Target::Unsupported { reason } = &plan.target {
            return Err(unroutable(plan, reason));
        }
        if matches!(plan.kind, Kind::Prepare(_) | Kind::Execute(_) | Kind::Deallocate(_)) {
            return Box::pin(self.way_of_prepared(route, statement, depth)).await;
        }
        if let Some(way) = self.way_of_asking(route, statement, plan) {
            return Ok(way);
        }
        if let Some(way) = self.way_of_session(route, statement, plan)? {
            return Ok(way);
        }
        match &plan.target {
            Target::User { .. } if plan.insert.is_some() => self.way_of_insert(route, statement, plan).await,
            Target::User { sources } => self.way_of_user(route, statement, plan, sources).await,
            Target::Global => {
                Ok(Way::global(if plan.describes() { Relation::Aside } else { Relation::Inside }))
            }
            Target::AnyServer | Target::Session => Ok(Way::aside(self.place_without_table(plan).0)),
            Target::Everywhere | Target::Unsupported { .. } => {
                Err(unsupported("this statement on all shards"))
            }
        }
    }

    /// Of statements that ask what the session knows.
    fn way_of_asking(&mut self, route: &mut Route, statement: Text<'_>, plan: &Plan) -> Option<Way> {
        let uses = &plan.uses;
        if plan.kind != Kind::Kill && (uses.connection_id || uses.row_count || uses.found_rows) {
            if own_values::answers_alone(statement.text, self.mode, uses) {
                return Some(Way::Kept("usher, which has the value".to_owned()));
            }
            route.say(
                "values",
                "CONNECTION_ID(), ROW_COUNT() and FOUND_ROWS() are the session's, put in by usher",
            );
        }
        if !asks_of_the_one_before(plan) {
            return None;
        }
        if self.failure.is_some() || self.told.is_some() || !self.notices.is_empty() {
            return Some(Way::Kept(
                "usher, which has what there is to be told of the statement before".to_owned(),
            ));
        }
        let before = self.kept.as_ref().map(|kept| kept.shard).or(self.ran_on);
        route.say("asks", if before.is_some() { "where the statement before ran" } else { "of nothing" });
        let place = match before {
            Some(shard) => Place::writer(shard),
            None => self.any_place(),
        };
        Some(Way::aside(place))
    }

    /// Of statements that change or show the session, or are refused in it; `None` if the tables decide.
    fn way_of_session(
        &mut self,
        route: &mut Route,
        statement: Text<'_>,
        plan: &Plan,
    ) -> Result<Option<Way>, Stop> {
        let kept = |how: &str| Ok(Some(Way::Kept(how.to_owned())));
        match &plan.kind {
            Kind::Kill => {
                let Some((_, id)) = kill::target(statement.text) else { return Err(kill::unclear()) };
                kept(&format!("the proxy that has session {id}, which ends it on its server"))
            }
            Kind::Begin { .. } => {
                self.say_commit(route, "BEGIN");
                kept("usher: the first statement that needs a server begins the transaction there")
            }
            Kind::Commit { .. } | Kind::Rollback { .. } => self.way_of_end(plan).map(Some),
            Kind::Savepoint(_) | Kind::RollbackTo(_) | Kind::ReleaseSavepoint(_) => {
                let own = matches!(self.transaction, Transaction::Pending { .. })
                    || !self.autocommit && matches!(plan.kind, Kind::Savepoint(_));
                match self.transaction {
                    Transaction::Open(shard) => Ok(Some(inside(shard))),
                    _ if own => kept("usher: it goes ahead of the transaction's first statement"),
                    _ => Ok(Some(Way::aside(self.any_place()))),
                }
            }
            Kind::Set => self.way_of_set(statement, plan).map(Some),
            Kind::SetStatement => {
                match effects::parse(statement.text, self.mode) {
                    Ok(Some(Set::Statement { assignments, .. })) => {
                        check_allowed(&assignments, statement.text)?
                    }
                    _ => return Ok(Some(Way::aside(self.any_place()))),
                }
                match plan.insert.is_some() {
                    true => {
                        Err(unsupported("SET STATEMENT .. FOR this statement; set the variable before it"))
                    }
                    false => Ok(None),
                }
            }
            Kind::Use(name) => {
                self.account.may_use(name)?;
                kept("usher, once a server has said that there is such a schema")
            }
            Kind::Ddl(kind) => self.way_of_ddl(route, statement, *kind).map(Some),
            Kind::ExplainRoute => kept("usher"),
            Kind::Xa => match self.transaction {
                Transaction::Open(shard) => Ok(Some(inside(shard))),
                _ => kept(
                    "usher: a branch begins where its first statement has a place, and is ended where it is found",
                ),
            },
            Kind::Load { local: true } if !self.client.caps.has(Caps::LOCAL_FILES) => {
                Err(Stop::Pass(self.local_files_refused()))
            }
            Kind::Show(ShowKind::Databases) => Ok(Some(Way::global(Relation::Aside))),
            Kind::Show(ShowKind::Processlist) => kept("usher, which asks all proxies"),
            Kind::Show(ShowKind::Variables | ShowKind::Status) => {
                Ok(Some(Way::aside(self.place_of_lists(plan))))
            }
            _ => Ok(None),
        }
    }

    fn way_of_end(&self, plan: &Plan) -> Result<Way, Stop> {
        if let Kind::Commit { release: true, .. } | Kind::Rollback { release: true, .. } = plan.kind {
            return Err(unsupported("COMMIT or ROLLBACK .. RELEASE; close the connection"));
        }
        let held = self.bound.iter().find(|bound| bound.pins.bind()).map(|bound| bound.shard);
        Ok(match (self.transaction.clone(), held) {
            (Transaction::Open(shard), _) | (_, Some(shard)) => inside(shard),
            _ => Way::Kept("usher: no transaction is on a server".to_owned()),
        })
    }

    fn way_of_set(&mut self, statement: Text<'_>, plan: &Plan) -> Result<Way, Stop> {
        let assignments = match effects::parse(statement.text, self.mode) {
            Ok(Some(Set::Assignments(assignments))) => assignments,
            Ok(Some(Set::Account)) => return Err(unsupported("SET of accounts and roles through the proxy")),
            _ => return Ok(Way::aside(self.any_place())),
        };
        if is_global(&assignments) {
            check_global(&assignments)?;
            return Ok(Way::Many("every server, the global master's writer first".to_owned()));
        }
        let Some(assignments) = without_tracking(assignments) else {
            return Ok(Way::Kept("usher".to_owned()));
        };
        check_allowed(&assignments, statement.text)?;
        let is_open = matches!(self.transaction, Transaction::Open(_));
        if !is_open && assignments.iter().all(is_for_next_transaction) {
            return Ok(Way::Kept("usher: it goes with the next transaction to where that begins".to_owned()));
        }
        Ok(match plan.target {
            Target::Global => Way::global(Relation::Inside),
            _ => Way::aside(self.any_place()),
        })
    }

    fn way_of_ddl(&mut self, route: &mut Route, statement: Text<'_>, kind: DdlKind) -> Result<Way, Stop> {
        if is_temporary(kind) {
            return Ok(Way::global(Relation::Inside));
        }
        let everywhere = self.changes_every_server(statement.text)?;
        self.say_commit(route, "a schema change");
        if !everywhere {
            return Ok(Way::global(Relation::Ends));
        }
        let state = self.shared.directory.state();
        let shards = state.topology.shards.iter().filter(|shard| !shard.id.is_global());
        let names: Vec<&str> = shards.map(|shard| shard.name.as_str()).collect();
        Ok(Way::Many(format!("the writers of the global master and of every shard: {}", names.join(", "))))
    }

    fn say_commit(&self, route: &mut Route, what: &str) {
        if let Transaction::Open(shard) = self.transaction {
            let name = self.shard_name(shard);
            route.say("commits", format!("the open transaction on {name}, as {what} does"));
        }
    }

    /// PREPARE, EXECUTE and DEALLOCATE in text: what a name stands for decides.
    async fn way_of_prepared(
        &mut self,
        route: &mut Route,
        statement: Text<'_>,
        depth: usize,
    ) -> Result<Way, Stop> {
        let (text, using) = match parse_prepare(statement.text, self.mode) {
            Some(Prepare::Prepare { source, .. }) => {
                let text = self.known_source(source)?;
                let plan = self.plan_to_prepare(&text)?;
                route.say("prepares", in_words(&plan.kind));
                let any = matches!(plan.target, Target::AnyServer | Target::Session);
                return Ok(if any { Way::aside(self.any_place()) } else { Way::global(Relation::Aside) });
            }
            Some(Prepare::Deallocate { name }) => {
                let known = self.named.contains_key(name.as_str());
                return match known {
                    true => Ok(Way::Kept("usher, which keeps the names".to_owned())),
                    false => Err(unknown(&name, "DEALLOCATE PREPARE")),
                };
            }
            Some(Prepare::Execute { name, using }) => match self.named.get(name.as_str()) {
                Some(named) => (named.text().to_vec(), using),
                None => return Err(unknown(&name, "EXECUTE")),
            },
            Some(Prepare::Immediate { source, using }) => (self.known_source(source)?, using),
            None => return Ok(Way::aside(self.any_place())),
        };
        if depth >= DEPTH_MAX {
            return Err(unsupported("EXECUTE of an EXECUTE"));
        }
        let is_known = using.iter().all(|operand| matches!(operand, Operand::Variable(_)));
        let text = if is_known { self.expand(&text, &using, Vec::new())? } else { text };
        let mut literals = Vec::new();
        let digest = usher_sql::digest(&text, self.mode, &mut literals);
        let inner = Text { text: &text, packets: &[], digest: &digest, literals: &literals };
        self.explain_one(route, inner, depth + 1).await?;
        Ok(Way::Told)
    }

    pub(super) fn shard_name(&self, shard: ShardId) -> String {
        let state = self.shared.directory.state();
        state.topology.shard(shard).map_or_else(|| "?".to_owned(), |shard| shard.name.clone())
    }
}

fn inside(shard: ShardId) -> Way {
    Way::To { place: Place::writer(shard), key: None, relation: Relation::Inside }
}

/// What a statement is.
pub(super) fn in_words(kind: &Kind) -> String {
    let words = match kind {
        Kind::Read => "read",
        Kind::LockingRead => "locking read",
        Kind::Insert => "INSERT",
        Kind::Replace => "REPLACE",
        Kind::Update => "UPDATE",
        Kind::Delete => "DELETE",
        Kind::Ddl(_) => "schema change",
        Kind::Begin { .. } => "BEGIN",
        Kind::Commit { .. } => "COMMIT",
        Kind::Rollback { .. } => "ROLLBACK",
        Kind::Savepoint(_) => "SAVEPOINT",
        Kind::RollbackTo(_) => "ROLLBACK TO SAVEPOINT",
        Kind::ReleaseSavepoint(_) => "RELEASE SAVEPOINT",
        Kind::Set => "SET",
        Kind::SetStatement => "SET STATEMENT",
        Kind::Use(_) => "USE",
        Kind::Show(_) => "SHOW",
        Kind::Describe => "DESCRIBE",
        Kind::Explain => "EXPLAIN",
        Kind::ExplainRoute => "EXPLAIN ROUTE",
        Kind::Call => "CALL",
        Kind::Do => "DO",
        Kind::Kill => "KILL",
        Kind::LockTables => "LOCK TABLES",
        Kind::UnlockTables => "UNLOCK TABLES",
        Kind::Prepare(_) => "PREPARE",
        Kind::Execute(_) => "EXECUTE",
        Kind::Deallocate(_) => "DEALLOCATE PREPARE",
        Kind::Xa => "XA",
        Kind::Load { .. } => "LOAD",
        Kind::Handler => "HANDLER",
        Kind::GetDiagnostics => "GET DIAGNOSTICS",
        Kind::Signal => "SIGNAL",
        Kind::Admin => "administration",
        Kind::Other => "not known to usher: sent on as it is",
        Kind::Empty => "empty",
    };
    words.to_owned()
}
