//! EXPLAIN ROUTE: where a statement would go, and why.

use usher_sql::Target;
use usher_topology::{ShardId, Want, choose};
use usher_wire::sqlerr::{ErrorId, Failure};

use crate::query::Text;
use crate::route::Place;
use crate::session::{Served, Session, Turn};
use crate::watermark::Needs;

impl Session {
    /// Answers EXPLAIN ROUTE.
    pub(crate) async fn explain_route(&mut self, statement: Text<'_>, turn: Turn) -> Served {
        let Some(inner) = usher_sql::explain_route(statement.text, self.mode) else {
            return Err(Failure::new(ErrorId::Syntax)
                .note("EXPLAIN ROUTE wants a statement behind it")
                .into());
        };
        let text = statement.text.get(inner).unwrap_or_default();
        let mut literals = Vec::new();
        let digest = usher_sql::digest(text, self.mode, &mut literals);
        let plan = self.plan(text, &digest);
        let inner = Text { text, packets: &[], digest: &digest, literals: &literals };
        let mut rows = vec![row("statement", format!("{:?}", plan.kind))];
        let (place, key) = match &plan.target {
            Target::User { sources } => match self.values(inner).one_key(sources)? {
                Some(key) => {
                    rows.push(row("user", key.to_string()));
                    match self.locate(&key).await? {
                        Some(located) => {
                            rows.push(row("generation", located.generation.to_string()));
                            rows.push(row("state", format!("{:?}", located.state).to_lowercase()));
                            (Place::of(located), Some(key))
                        }
                        None => {
                            rows.push(row("generation", "unknown user".to_owned()));
                            (self.nowhere(), None)
                        }
                    }
                }
                None => (self.nowhere(), None),
            },
            Target::Unsupported { reason } => {
                rows.push(row("refused", reason.clone()));
                return self.answer_table(&["what", "value"], &rows, turn).await;
            }
            Target::Everywhere => {
                rows.push(row("shard", "all, and the global master".to_owned()));
                return self.answer_table(&["what", "value"], &rows, turn).await;
            }
            Target::Global => (Place { shard: ShardId::GLOBAL, from_writer: true }, None),
            Target::AnyServer | Target::Session => (self.any_place(), None),
        };
        self.explain_place(&mut rows, place, key.as_ref(), plan.is_write || plan.needs_writer);
        self.answer_table(&["what", "value"], &rows, turn).await
    }

    fn explain_place(
        &self,
        rows: &mut Vec<Vec<String>>,
        place: Place,
        key: Option<&usher_topology::Key>,
        writes: bool,
    ) {
        let state = self.shared.directory.state();
        let Some(shard) = state.topology.shard(place.shard) else { return };
        let needs = self.shared.watermarks.needs(shard.id, key);
        let lag_ms_max = self.shared.limits.lag_ms_max;
        let want = match &needs {
            _ if writes || place.from_writer => Want::Writer,
            Needs::Writer => Want::Writer,
            Needs::Position(position) => Want::Read { lag_ms_max, watermark: Some(position) },
            Needs::Nothing => Want::Read { lag_ms_max, watermark: None },
        };
        let health = self.shared.monitor.health();
        let choice = choose(shard, want, self.turn, |id| health.get(&id));
        rows.push(row("shard", shard.name.clone()));
        rows.push(row("epoch", shard.epoch.to_string()));
        if let Some(server) = shard.server(choice.server) {
            rows.push(row("server", format!("{} ({})", server.name, server.address())));
        }
        rows.push(row("why", choice.reason.to_string()));
        rows.push(row("directory version", state.version.to_string()));
    }
}

fn row(what: &str, value: String) -> Vec<String> {
    vec![what.to_owned(), value]
}
