//! SHOW PROCESSLIST: the sessions of this proxy, as one server would show its own, and where their statements run.

use usher_wire::command::{COM_PING, COM_QUERY, COM_STMT_EXECUTE, COM_STMT_PREPARE};
use usher_wire::result::{Column, Format, NOT_NULL, Value};

use crate::session::{Served, Session, Turn};
use crate::sessions::Seen;

/// Characters of a statement that are shown without FULL.
const INFO_CHARS: usize = 100;

impl Session {
    /// An account sees its own sessions, one with `admin = true` all.
    pub(crate) async fn show_processlist(&mut self, full: bool, turn: Turn) -> Served {
        let account = (!self.account.is_admin()).then_some(self.account.name.as_str());
        let seen = self.shared.sessions.seen(account);
        let columns = [
            Column { flags: NOT_NULL, ..Column::bigint("Id") },
            Column::text("User"),
            Column::text("Host"),
            Column::text("db"),
            Column::text("Command"),
            Column::bigint("Time"),
            Column::text("State"),
            Column::text("Info"),
        ];
        let rows: Vec<_> = seen.iter().map(|seen| self.row_of(seen, full)).collect();
        self.row_count = -1;
        self.answer(turn, |answer, status| {
            let mut table = answer.rows(Format::Text, &columns, status)?;
            for row in &rows {
                let cells = row.each_ref().map(|cell| match cell {
                    Some(text) => Value::Bytes(text.as_bytes()),
                    None => Value::Null,
                });
                table.row(&cells)?;
            }
            Ok(table.end(status, 0).seq())
        })
        .await
    }

    fn row_of(&self, seen: &Seen, full: bool) -> [Option<String>; 8] {
        let text = String::from_utf8_lossy(&seen.text);
        let shown = if full { usize::MAX } else { INFO_CHARS };
        let info: String = text.chars().take(shown).collect();
        [
            Some(seen.id.to_string()),
            Some(seen.handle.account.clone()),
            Some(seen.handle.from.to_string()),
            seen.schema.clone(),
            Some(command(seen.command).to_owned()),
            Some(seen.for_so_long.as_secs().to_string()),
            Some(with_pins(self.state_of(seen), seen)),
            (!info.is_empty()).then_some(info),
        ]
    }

    /// Where its statement runs, or what it waits for.
    fn state_of(&self, seen: &Seen) -> String {
        if seen.handle.is_held() {
            return "held: a move or a flip is under way".to_owned();
        }
        let Some((server, thread)) = seen.handle.runs_at() else {
            return if seen.command.is_some() { "in usher".to_owned() } else { String::new() };
        };
        let state = self.shared.directory.state();
        let mut places = state
            .topology
            .shards
            .iter()
            .flat_map(|shard| shard.servers.iter().map(move |server| (shard.name.as_str(), server)));
        match places.find(|(_, place)| place.id == server) {
            Some((shard, place)) => format!("on {shard}, server {}, thread {thread}", place.name),
            None => format!("thread {thread}"),
        }
    }
}

/// The state, and why connections stay with the session.
fn with_pins(state: String, seen: &Seen) -> String {
    let pins = crate::pins::in_words(seen.handle.pins());
    match (state.is_empty(), pins.is_empty()) {
        (_, true) => state,
        (true, false) => format!("holds a connection: {pins}"),
        (false, false) => format!("{state}; holds a connection: {pins}"),
    }
}

fn command(byte: Option<u8>) -> &'static str {
    match byte {
        None => "Sleep",
        Some(COM_QUERY) => "Query",
        Some(COM_STMT_PREPARE) => "Prepare",
        Some(COM_STMT_EXECUTE) => "Execute",
        Some(COM_PING) => "Ping",
        Some(_) => "Command",
    }
}
