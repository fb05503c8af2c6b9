//! KILL: ends another session, or what it runs at the moment.

use usher_backend::BackendError;
use usher_topology::ServerId;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};

use crate::peers::{KillOrder, Killed};
use crate::query::unsupported;
use crate::session::{End, Served, Session, Stop, Turn};
use crate::sessions::Handle;
use crate::shared::Shared;

impl Session {
    /// KILL in text.
    pub(crate) async fn kill_by_statement(&mut self, text: &[u8], turn: Turn) -> Served {
        let Some((query, id)) = target(text) else {
            return Err(unclear());
        };
        self.kill(id, query, turn).await
    }

    /// Ends the session `id`, or only its statement, at whatever proxy it is. An account may end its own sessions, one
    /// with `admin = true` all.
    pub(crate) async fn kill(&mut self, id: u64, query: bool, turn: Turn) -> Served {
        if id == u64::from(self.client.id) {
            let failure = Failure::new(ErrorId::Killed).as_server("Query execution was interrupted");
            if query {
                return Err(failure.into());
            }
            self.send_failure(turn.seq, &failure).await?;
            return Err(End::Refused(ErrorId::Killed).into());
        }
        let owner = (!self.account.is_admin()).then(|| self.account.name.clone());
        match self.shared.kill_anywhere(&KillOrder { id, query, owner }).await {
            Killed::Done => self.answer_ok(turn).await,
            Killed::Unknown => {
                Err(Failure::new(ErrorId::KillUnknown).as_server(format!("Unknown thread id: {id}")).into())
            }
            Killed::Denied => Err(Failure::new(ErrorId::KillDenied)
                .as_server(format!("You are not owner of thread {id}"))
                .into()),
            Killed::Failed { why } => {
                Err(Failure::new(ErrorId::KillFailed).note(why).executed(Executed::Unknown).into())
            }
        }
    }
}

impl Shared {
    /// Ends a session of this proxy, or what it runs.
    pub async fn kill_here(&self, order: &KillOrder) -> Killed {
        let Some(handle) = self.sessions.named(order.id) else { return Killed::Unknown };
        if order.owner.as_ref().is_some_and(|owner| *handle.account() != **owner) {
            return Killed::Denied;
        }
        if !order.query {
            handle.end();
        }
        match self.stop_running(&handle, order.query).await {
            Ok(()) => Killed::Done,
            Err(error) => Killed::Failed { why: error.to_string() },
        }
    }

    /// Kills on the server what the session runs there.
    async fn stop_running(&self, handle: &Handle, query: bool) -> Result<(), BackendError> {
        handle.begin_kill();
        let sent = match handle.runs_at() {
            None => Ok(()),
            Some((server, thread)) => self.send_kill(server, thread, query).await,
        };
        handle.end_kill();
        sent
    }

    async fn send_kill(&self, server: ServerId, thread: u32, query: bool) -> Result<(), BackendError> {
        let statement = if query { format!("KILL QUERY {thread}") } else { format!("KILL {thread}") };
        // If the server refuses it, it has just ended by itself.
        self.pools.of(server)?.query_apart(statement.as_bytes()).await
    }
}

/// Whether the statement alone is meant, and the id: `KILL [HARD | SOFT] [CONNECTION | QUERY] 5`.
pub(crate) fn unclear() -> Stop {
    unsupported("KILL of anything but a connection id written as a number")
}

/// Whose KILL it is, and whether it is for the statement alone.
pub(crate) fn target(text: &[u8]) -> Option<(bool, u64)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.trim_end_matches([';', ' ', '\n', '\t', '\r']).split_ascii_whitespace().skip(1);
    let mut query = false;
    let mut word = words.next()?;
    if word.eq_ignore_ascii_case("HARD") || word.eq_ignore_ascii_case("SOFT") {
        word = words.next()?;
    }
    if word.eq_ignore_ascii_case("QUERY") || word.eq_ignore_ascii_case("CONNECTION") {
        query = word.eq_ignore_ascii_case("QUERY");
        word = words.next()?;
    }
    let id = word.parse().ok()?;
    words.next().is_none().then_some((query, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_and_what_of_it_is_meant() {
        assert_eq!(target(b"KILL 5"), Some((false, 5)));
        assert_eq!(target(b"kill hard query 16777217 ;"), Some((true, 16_777_217)));
        assert_eq!(target(b"KILL CONNECTION 7"), Some((false, 7)));
        assert_eq!(target(b"KILL QUERY ID 7"), None);
        assert_eq!(target(b"KILL USER a"), None);
        assert_eq!(target(b"KILL 5 6"), None);
    }
}
