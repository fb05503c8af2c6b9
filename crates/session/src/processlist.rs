//! SHOW PROCESSLIST: the sessions of all proxies, as one server would show its own, and where their statements run.

use usher_wire::result::{Column, Format, NOT_NULL, Value};

use crate::listing::SessionRow;
use crate::peers::Wanted;
use crate::session::{Served, Session, Turn};

/// Characters of a statement that are shown without FULL.
const INFO_CHARS: usize = 100;

impl Session {
    /// An account sees its own sessions, one with `admin = true` all. A proxy that does not answer makes a warning.
    pub(crate) async fn show_processlist(&mut self, full: bool, turn: Turn) -> Served {
        let account = (!self.account.is_admin()).then(|| self.account.name.clone());
        let wanted = Wanted { account, info_chars: if full { usize::MAX } else { INFO_CHARS } };
        let (rows, unreached) = self.shared.sessions_everywhere(&wanted).await;
        self.notices = unreached.iter().map(ToString::to_string).collect();
        let warnings = u16::try_from(unreached.len()).unwrap_or(u16::MAX);
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
        self.row_count = -1;
        self.answer(turn, |answer, status| {
            let mut table = answer.rows(Format::Text, &columns, status)?;
            for row in &rows {
                let cells = cells(row);
                let cells = cells.each_ref().map(|cell| match cell {
                    Some(text) => Value::Bytes(text.as_bytes()),
                    None => Value::Null,
                });
                table.row(&cells)?;
            }
            Ok(table.end(status, warnings).seq())
        })
        .await
    }
}

fn cells(row: &SessionRow) -> [Option<String>; 8] {
    [
        Some(row.id.to_string()),
        Some(row.account.clone()),
        Some(row.client.clone()),
        row.schema.clone(),
        Some(row.command.clone()),
        Some((row.time_ms / 1000).to_string()),
        Some(row.state()),
        row.info.clone(),
    ]
}
