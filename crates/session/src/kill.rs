//! KILL: ends another session of this proxy, or what it runs at the moment.

use usher_topology::ServerId;
use usher_wire::sqlerr::{ErrorId, Failure};

use crate::query::unsupported;
use crate::session::{End, Served, Session, Stop, Turn};
use crate::sessions::Handle;

impl Session {
    /// KILL in text.
    pub(crate) async fn kill_by_statement(&mut self, text: &[u8], turn: Turn) -> Served {
        let Some((query, id)) = target(text) else {
            return Err(unsupported("KILL of anything but a connection id written as a number"));
        };
        self.kill(id, query, turn).await
    }

    /// Ends the session `id`, or only its statement. An account may end its own sessions, one with
    /// `admin = true` all.
    pub(crate) async fn kill(&mut self, id: u64, query: bool, turn: Turn) -> Served {
        let handle = self.shared.sessions.named(id).ok_or_else(|| {
            Failure::new(ErrorId::KillUnknown).as_server(format!("Unknown thread id: {id}"))
        })?;
        if handle.account != self.account.name && !self.account.is_admin() {
            let words = format!("You are not owner of thread {id}");
            return Err(Failure::new(ErrorId::KillDenied).as_server(words).into());
        }
        if id == u64::from(self.client.id) {
            let failure = Failure::new(ErrorId::Killed).as_server("Query execution was interrupted");
            if query {
                return Err(failure.into());
            }
            self.send_failure(turn.seq, &failure).await?;
            return Err(End::Refused(ErrorId::Killed).into());
        }
        if !query {
            handle.end();
        }
        self.stop_running(&handle, query).await?;
        self.answer_ok(turn).await
    }

    /// Kills on the server what the other session runs there.
    async fn stop_running(&self, handle: &Handle, query: bool) -> Result<(), Stop> {
        handle.begin_kill();
        let sent = match handle.runs_at() {
            None => Ok(()),
            Some((server, thread)) => self.send_kill(server, thread, query).await,
        };
        handle.end_kill();
        sent
    }

    async fn send_kill(&self, server: ServerId, thread: u32, query: bool) -> Result<(), Stop> {
        let failed = |error| Stop::from(crate::execute::checkout_failure(&error));
        let pool = self.shared.pools.of(server).map_err(failed)?;
        let mut lent = pool.checkout(&usher_backend::Settings::at_login(false)).await.map_err(failed)?;
        let statement = if query { format!("KILL QUERY {thread}") } else { format!("KILL {thread}") };
        // An error says that it has just ended by itself.
        if lent.query(statement.as_bytes()).await.is_err() {
            lent.discard();
        }
        Ok(())
    }
}

/// Whether the statement alone is meant, and the id: `KILL [HARD | SOFT] [CONNECTION | QUERY] 5`.
fn target(text: &[u8]) -> Option<(bool, u64)> {
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
