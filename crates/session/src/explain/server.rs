//! Which server of a shard, why that one, and what it has to do with the session's transaction.

use usher_sql::{Kind, Plan};
use usher_topology::{Key, Reason, Role, ServerId, Shard, Want, choose};
use usher_wire::sqlerr::{ErrorId, Failure};

use super::Route;
use super::way::{Relation, Way};
use crate::execute::{Body, Order, Verdict};
use crate::pins;
use crate::query::Text;
use crate::route::Place;
use crate::session::{Session, Stop, Transaction};
use crate::watermark::Needs;

impl Session {
    pub(super) fn say_way(
        &mut self,
        route: &mut Route,
        statement: Text<'_>,
        plan: &Plan,
        way: Way,
    ) -> Result<(), Stop> {
        match way {
            Way::Told => return Ok(()),
            Way::Kept(how) => route.say("answered by", how),
            Way::Many(servers) => {
                route.say("shard", servers);
                route.say("role", "writer");
            }
            Way::Later(shard) => {
                route.say("shard", shard);
                let (role, why) = match writing(plan) {
                    Some(why) => ("writer", why),
                    None if self.opens() => {
                        ("writer", "it is, or begins, a part of a transaction".to_owned())
                    }
                    None => ("replica", "a copy that is fresh enough, else the writer".to_owned()),
                };
                route.say("role", role);
                route.say("why", why);
            }
            Way::To { place, key, relation } => {
                self.say_server(route, statement, plan, (place, key.as_ref(), relation))?;
            }
        }
        for held in self.would_hold(statement, plan) {
            route.say("holds", held);
        }
        Ok(())
    }

    fn opens(&self) -> bool {
        self.transaction != Transaction::None || !self.autocommit || !self.next_transaction.is_empty()
    }

    fn say_server(
        &mut self,
        route: &mut Route,
        statement: Text<'_>,
        plan: &Plan,
        (place, key, relation): (Place, Option<&Key>, Relation),
    ) -> Result<(), Stop> {
        if let (Transaction::Open(open), Relation::Inside) = (&self.transaction, relation)
            && *open != place.shard
        {
            route.say("shard", self.shard_name(place.shard));
            return Err(self.crosses(place.shard, key));
        }
        let state = self.shared.directory.state();
        let Some(shard) = state.topology.shard(place.shard) else {
            return Err(Failure::new(ErrorId::ShardUnreachable).into());
        };
        route.say("shard", &*shard.name);
        route.say("epoch", shard.epoch.to_string());
        let inside = relation == Relation::Inside;
        let bound = self.bound.iter().find(|bound| bound.shard == place.shard);
        let (server, why) = match bound {
            Some(bound) => (bound.lent.server().id, self.held_words(shard, &bound.pins)),
            None => self.choice(shard, plan, (place, key, inside), statement.digest.hints.writer),
        };
        self.say_one(route, shard, server);
        route.say("why", why);
        if writing(plan).is_some() || inside && self.opens() {
            self.say_verdict(route, shard, plan, (place, key))?;
        }
        self.say_transaction(route, shard, plan, relation);
        route.say("directory version", state.version.to_string());
        Ok(())
    }

    fn held_words(&self, shard: &Shard, held: &pins::Pins) -> String {
        match self.transaction {
            Transaction::Open(open) if open == shard.id => "the open transaction is there".to_owned(),
            _ => format!("the session keeps a connection there: {}", pins::in_words(held.bits())),
        }
    }

    /// The server as it would be chosen now.
    fn choice(
        &self,
        shard: &Shard,
        plan: &Plan,
        (place, key, inside): (Place, Option<&Key>, bool),
        hinted: bool,
    ) -> (ServerId, String) {
        let needs = self.shared.watermarks.needs(shard.id, key);
        let because = match &needs {
            _ if writing(plan).is_some() => writing(plan),
            _ if inside && self.opens() => Some("a transaction is on the writer".to_owned()),
            _ if hinted => Some("the hint asks for the writer".to_owned()),
            _ if shard.id.is_global() => Some("the global master is read from its writer".to_owned()),
            _ if place.from_writer && key.is_some() => {
                Some("the user is being moved, or was lately: copies may not have the rows yet".to_owned())
            }
            _ if place.from_writer => Some("no copy is asked for this".to_owned()),
            Needs::Writer => {
                Some("the user has just written, and nobody knows which copies have it".to_owned())
            }
            _ => None,
        };
        if let Some(why) = because {
            return (shard.writer, why);
        }
        let lag_ms_max = self.shared.limits.lag_ms_max;
        let watermark = match &needs {
            Needs::Position(position) => Some(&**position),
            _ => None,
        };
        let health = self.shared.monitor.health();
        let want = Want::Read { lag_ms_max, watermark };
        let choice = choose(shard, want, self.turn, |id| health.get(&id));
        let lag = health.get(&choice.server).and_then(|seen| seen.lag_ms);
        let mut why = match (choice.reason, watermark) {
            (Reason::NoFreshCopy, Some(_)) => "no copy is known to have what the user wrote last".to_owned(),
            (reason, Some(_)) => format!("{reason}; it has what the user wrote last"),
            (reason, None) => reason.to_string(),
        };
        if let Some(lag) = lag.filter(|_| choice.server != shard.writer) {
            why.push_str(&format!(" ({lag} ms behind, limit {lag_ms_max})"));
        }
        (choice.server, why)
    }

    fn say_one(&self, route: &mut Route, shard: &Shard, server: ServerId) {
        let role = match shard.server(server) {
            _ if server == shard.writer => "writer",
            Some(server) if server.role == Role::Replica => "replica",
            Some(_) => "standby",
            None => "left the topology",
        };
        if let Some(server) = shard.server(server) {
            route.say("server", format!("{} ({})", server.name, server.address()));
        }
        route.say("role", role);
        if !self.shared.monitor.health().get(&server).is_some_and(|seen| seen.up) {
            route.say("health", "did not answer the last probe");
        }
    }

    /// What a move or a flip would make of it now.
    fn say_verdict(
        &self,
        route: &mut Route,
        shard: &Shard,
        plan: &Plan,
        (place, key): (Place, Option<&Key>),
    ) -> Result<(), Stop> {
        let body = Body::Text(&[]);
        let order = Order { plan, place, key, body, insert_id: None, writer_hint: false };
        match self.judge(&self.shared.directory.state(), shard, &order) {
            Verdict::Refuse(failure) => return Err(failure.into()),
            Verdict::Hold(why) => {
                let limit = self.shared.limits.hold_ms;
                route.say("waits", format!("up to {limit} ms: {}", why.message()));
            }
            Verdict::Go(Some(generation)) => {
                let row =
                    format!("the shard's ownership row must show {generation}, in the same transaction");
                route.say("fence", row);
            }
            Verdict::Go(None) => {}
        }
        Ok(())
    }

    fn say_transaction(&self, route: &mut Route, shard: &Shard, plan: &Plan, relation: Relation) {
        let ends = matches!(plan.kind, Kind::Commit { .. } | Kind::Rollback { .. });
        let words = match (&self.transaction, relation) {
            (Transaction::Open(_), Relation::Ends) | (_, Relation::Ends) => return,
            (Transaction::Open(open), _) if *open == shard.id && ends => "ends the open one".to_owned(),
            (Transaction::Open(open), _) if *open == shard.id => "inside the open one".to_owned(),
            (Transaction::Open(open), _) => {
                format!("outside of the open one, which stays on {}", self.shard_name(*open))
            }
            (Transaction::Pending { .. }, Relation::Aside) => {
                "outside of the one that was begun and waits for its first table".to_owned()
            }
            (Transaction::Pending { begun: true, .. }, _) => {
                "begins on this server: BEGIN was said".to_owned()
            }
            _ if relation == Relation::Inside && !self.autocommit => {
                "begins on this server: autocommit is off".to_owned()
            }
            _ => "none".to_owned(),
        };
        route.say("transaction", words);
    }
}

/// Why a statement is for a writer, if it is for its own sake.
fn writing(plan: &Plan) -> Option<String> {
    let uses = &plan.uses;
    let why = match (&plan.kind, &uses.unknown_function) {
        _ if plan.is_write => "it writes",
        (Kind::LockingRead, _) => "it locks rows",
        (_, Some(function)) => return Some(format!("it calls {function}, which may write")),
        _ if uses.named_lock => "named locks are the writer's",
        _ if uses.sets_last_insert_id => "it sets LAST_INSERT_ID()",
        _ if plan.needs_writer => "it is for a writer",
        _ => return None,
    };
    Some(why.to_owned())
}
