//! SET GLOBAL: what is one server's global setting to the client is every server's.

use usher_backend::BackendError;
use usher_sql::effects::{Assignment, Scope};
use usher_topology::{ServerId, ShardId};
use usher_wire::sqlerr::{ErrorId, Executed, Failure};

use crate::execute::{Start, checkout_failure, said};
use crate::query::Text;
use crate::session::{Served, Session, Stop, Turn};

/// Settings that flips, replication and usher itself rest on; and all whose names begin so.
const OWN: &[&str] =
    &["read_only", "super_read_only", "server_id", "log_bin", "binlog_", "gtid_", "rpl_", "slave_"];

/// Whether all of the assignments, and at least one, are global.
pub(crate) fn is_global(assignments: &[Assignment]) -> bool {
    !assignments.is_empty()
        && assignments.iter().all(|assignment| {
            matches!(
                assignment,
                Assignment::Variable { scope: Scope::Global, .. }
                    | Assignment::Transaction { scope: Scope::Global, .. }
            )
        })
}

/// # Errors
/// A setting that nobody but usher changes.
pub(crate) fn check_global(assignments: &[Assignment]) -> Result<(), Stop> {
    for assignment in assignments {
        if let Assignment::Variable { name, .. } = assignment
            && OWN.iter().any(|own| name.starts_with(own))
        {
            let failure = Failure::new(ErrorId::CommandRefused).field("variable", name);
            return Err(failure.note("not to be set through the proxy").executed(Executed::No).into());
        }
    }
    Ok(())
}

impl Session {
    /// Sets on all servers, the global master's writer first, whose refusal is the client's. Whether it may, the
    /// privileges of the proxy's account on the servers say. New sessions see it at once, also on other proxies'
    /// connections made from then on.
    pub(crate) async fn set_global(
        &mut self,
        statement: Text<'_>,
        assignments: &[Assignment],
        turn: Turn,
    ) -> Served {
        check_global(assignments)?;
        let state = self.shared.directory.state();
        let shards = || state.topology.shards.iter();
        let first = shards().filter(|shard| shard.id.is_global()).map(|shard| shard.writer);
        let all = shards().flat_map(|shard| &shard.servers).map(|server| server.id);
        let mut servers: Vec<ServerId> = Vec::new();
        for server in first.chain(all) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        let end = statement.digest.end.min(statement.text.len());
        let text = statement.text.get(..end).unwrap_or_default();
        for (n, server) in servers.into_iter().enumerate() {
            match self.set_on(server, text).await {
                Ok(()) => {}
                Err(stop) if n == 0 => return Err(stop),
                Err(stop) => {
                    self.shared.pools.renew();
                    let note = match &stop {
                        Stop::Fail(failure) => failure.message(),
                        _ => "it refused".to_owned(),
                    };
                    return Err(Failure::new(ErrorId::PartialCommit)
                        .field("server", server)
                        .note(format!("the setting is not on every server yet: {note}"))
                        .advice("run it again once the server answers")
                        .into());
                }
            }
        }
        // Connections made before still have the old value.
        self.shared.pools.renew();
        self.learn_defaults().await;
        self.answer_ok(turn).await
    }

    /// Sessions that log in from now on begin with what has been set. The monitor would see it a moment later.
    async fn learn_defaults(&self) {
        let state = self.shared.directory.state();
        let writer = state.topology.shard(ShardId::GLOBAL).map(|shard| shard.writer);
        let Some(pool) = writer.and_then(|writer| self.shared.pools.of(writer).ok()) else { return };
        let Ok(mut lent) = pool.checkout(&self.settings).await else { return };
        match lent.defaults().await {
            Ok(Some(defaults)) => self.shared.monitor.learn_defaults(defaults),
            Ok(None) => {}
            Err(_) => lent.discard(),
        }
    }

    async fn set_on(&self, server: ServerId, text: &[u8]) -> Result<(), Stop> {
        let failed = |error: BackendError| Stop::from(checkout_failure(&error));
        let pool = self.shared.pools.of(server).map_err(failed)?;
        let mut lent = pool.checkout(&self.settings).await.map_err(failed)?;
        match said(lent.query(text).await) {
            Ok(_) => Ok(()),
            Err(Start::Refused(_, payload)) => Err(Stop::Pass(payload)),
            Err(Start::Lost(fault)) => {
                lent.discard();
                Err(Failure::new(ErrorId::ShardUnreachable).note(fault.to_string()).into())
            }
        }
    }
}
