//! System variables whose values are usher's, or the session's as usher keeps it, and not those of the server that
//! happens to answer: in `@@x`, SHOW VARIABLES and the tables of variables alike. So for what SHOW STATUS says of the
//! client's own connection.

use std::borrow::Cow;
use std::ops::Range;

use usher_sql::{Mode, Plan};
use usher_wire::frame::{HEADER_LEN, frame};
use usher_wire::result::Column;
use usher_wire::status::Status;

use crate::query::unsupported;
use crate::session::{Session, Stop};
use crate::text_prepare::escape;

/// Variables that have a value of usher's in `@@x`, too.
const OWN: &[&str] = &[
    "hostname",
    "port",
    "pseudo_thread_id",
    "session_track_gtids",
    "session_track_schema",
    "session_track_state_change",
    "session_track_system_variables",
    "session_track_transaction_info",
    "socket",
    "version",
];
/// Those of them that no session has one of its own of.
const IS_GLOBAL: &[&str] = &["hostname", "port", "socket", "version"];
/// Variables by which servers differ: the global master's writer speaks for all.
const OF_ONE_SERVER: &[&str] = &[
    "basedir",
    "bind_address",
    "datadir",
    "general_log_file",
    "innodb_read_only",
    "pid_file",
    "read_only",
    "secure_file_priv",
    "slow_query_log_file",
    "super_read_only",
    "tmpdir",
    "version_comment",
    "version_compile_machine",
    "version_compile_os",
];
/// All of these are of one server.
const OF_ONE_SERVER_BEGIN: &[&str] = &["gtid_", "log_", "report_", "server_"];
/// The largest answer that is looked through.
pub(crate) const LISTED_BYTES_MAX: usize = 1 << 20;

/// A value.
enum Own {
    Text(String),
    Number(u64),
    Flag(bool),
}

impl Own {
    /// As an expression.
    fn sql(&self, mode: Mode) -> String {
        match self {
            Self::Text(text) => {
                let mut sql = vec![b'\''];
                escape(text.as_bytes(), mode, &mut sql);
                sql.push(b'\'');
                String::from_utf8_lossy(&sql).into_owned()
            }
            Self::Number(number) => format!("CAST({number} AS UNSIGNED)"),
            Self::Flag(on) => format!("CAST({} AS SIGNED)", u8::from(*on)),
        }
    }

    /// As lists of variables show it.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Flag(on) => if *on { "ON" } else { "OFF" }.to_owned(),
        }
    }
}

/// Whether a statement reads a variable whose value is usher's.
pub(crate) fn reads_own(plan: &Plan) -> bool {
    plan.uses.system_vars.iter().any(|name| OWN.contains(&name.as_str()))
}

/// Whether it reads one by which servers differ.
pub(crate) fn reads_of_one_server(plan: &Plan) -> bool {
    plan.uses.system_vars.iter().any(|name| {
        OF_ONE_SERVER.contains(&name.as_str())
            || OF_ONE_SERVER_BEGIN.iter().any(|begin| name.starts_with(begin))
    })
}

/// The text with these values, as SQL, in the places of variables, and its columns named as they were; `None` if it
/// reads none of them.
///
/// # Errors
/// They stand where no value can.
pub(crate) fn with_values<'n>(
    text: &[u8],
    values: impl Iterator<Item = (&'n str, String)>,
    mode: Mode,
) -> Result<Option<Vec<u8>>, Stop> {
    let mut replacements: Vec<(Range<usize>, String)> = Vec::new();
    let mut named: Vec<Range<usize>> = Vec::new();
    for (name, sql) in values {
        let found = usher_sql::find_variables(text, mode, name);
        if found.is_empty() {
            return Err(unsupported(&format!("this use of @@{name}")));
        }
        for (span, column) in found {
            let variable = text.get(span.clone()).unwrap_or_default();
            if IS_GLOBAL.contains(&name) && is_of_session(variable) {
                // A server refuses it.
                continue;
            }
            let label = String::from_utf8_lossy(variable).replace('`', "");
            let instead = if column { format!("{sql} AS `{label}`") } else { sql.clone() };
            named.extend(column.then(|| span.clone()));
            replacements.push((span, instead));
        }
    }
    if replacements.is_empty() {
        return Ok(None);
    }
    for column in usher_sql::unnamed_columns(text, mode) {
        let has = |span: &Range<usize>| column.start <= span.start && span.end <= column.end;
        let name = text.get(column.clone()).and_then(|name| std::str::from_utf8(name).ok());
        if let Some(name) = name.filter(|_| !named.iter().any(has))
            && replacements.iter().any(|(span, _)| has(span))
        {
            replacements.push((column.end..column.end, format!(" AS `{}`", name.replace('`', "``"))));
        }
    }
    replacements.sort_by_key(|(span, _)| (span.end, span.start));
    let mut out = Vec::new();
    usher_sql::splice(text, &replacements, &mut out).map_err(|_| unsupported("this use of a variable"))?;
    Ok(Some(out))
}

impl Session {
    fn own_variable(&self, name: &str) -> Option<Own> {
        Some(match name {
            // A driver on a server's machine would connect there, past the proxy.
            "socket" => Own::Text(String::new()),
            "hostname" => Own::Text(self.shared.hostname.clone()),
            "port" => Own::Number(self.shared.port.into()),
            "pseudo_thread_id" => Own::Number(self.client.id.into()),
            // What MariaDB greets with, and nowhere else, for old replicas.
            "version" => {
                let version = self.shared.server_version.as_str();
                Own::Text(version.strip_prefix("5.5.5-").unwrap_or(version).to_owned())
            }
            _ => match self.tracking_value(name)? {
                (_, Some(number)) => Own::Flag(number != 0),
                (text, None) => Own::Text(text),
            },
        })
    }

    /// As lists of variables and of figures show it, if it is not for the server to say. Of what all sessions share only
    /// usher's own is told.
    fn listed(&self, name: &str, of_all: bool) -> Option<String> {
        let tls = || self.client.channel.stream().tls_names();
        let own = match name {
            "hostname" | "port" | "socket" | "version" => self.own_variable(name)?,
            _ if of_all => return None,
            "last_insert_id" | "identity" => Own::Number(self.last_insert_id),
            "pseudo_thread_id" => Own::Number(self.client.id.into()),
            "in_transaction" => Own::Number(self.status().has(Status::IN_TRANS).into()),
            "ssl_cipher" => Own::Text(tls().map(|(_, cipher)| cipher).unwrap_or_default()),
            "ssl_version" => Own::Text(tls().map_or(String::new(), |(version, _)| version.to_owned())),
            "compression" => Own::Flag(self.client.channel.is_compressed()),
            _ => match self.counts.of(name) {
                Some(count) => Own::Number(count),
                None => self.own_variable(name)?,
            },
        };
        Some(own.shown())
    }

    /// The text with values in the places of variables whose values are usher's; `None` if it reads none.
    ///
    /// # Errors
    /// They stand where no value can.
    pub(crate) fn with_own_variables(&self, text: &[u8], plan: &Plan) -> Result<Option<Vec<u8>>, Stop> {
        let own = plan.uses.system_vars.iter().filter(|name| OWN.contains(&name.as_str()));
        // What this kind of server does not have, it refuses in its own words.
        let values = own.filter_map(|name| Some((name.as_str(), self.own_variable(name)?.sql(self.mode))));
        with_values(text, values, self.mode)
    }

    /// An answer that lists variables, with usher's values in the rows of those that are its own.
    #[cold]
    pub(crate) fn overlay(&self, packets: Vec<u8>, text: &[u8], binary: bool) -> Vec<u8> {
        let of_all = text.to_ascii_uppercase().windows(6).any(|word| word == b"GLOBAL");
        match self.overlaid(&packets, of_all, binary) {
            Some(changed) => changed,
            None => packets,
        }
    }

    /// `None` if it is no such answer.
    fn overlaid(&self, packets: &[u8], of_all: bool, binary: bool) -> Option<Vec<u8>> {
        let mut rest = packets;
        let mut out = Vec::with_capacity(packets.len() + 64);
        let (mut names, mut count) = (Vec::new(), None);
        while let Some(found) = frame(rest) {
            let (payload, len) = (found.payload, found.wire_len());
            let whole = rest.get(..len)?;
            rest = rest.get(len..)?;
            match count {
                None => count = Some(columns(payload)?),
                Some(count) if names.len() < count => {
                    let column = Column::parse(payload).ok()?;
                    names.push(column.name.to_ascii_lowercase());
                }
                Some(_) => {
                    let changed = self.overlaid_row(payload, &names, of_all, binary);
                    if let Some(row) = changed {
                        let size = u32::try_from(row.len()).ok().filter(|size| *size < 1 << 24)?;
                        out.extend_from_slice(size.to_le_bytes().get(..HEADER_LEN - 1)?);
                        out.push(found.seq);
                        out.extend_from_slice(&row);
                        continue;
                    }
                }
            }
            out.extend_from_slice(whole);
        }
        rest.is_empty().then_some(out)
    }

    fn overlaid_row(&self, payload: &[u8], names: &[Vec<u8>], of_all: bool, binary: bool) -> Option<Vec<u8>> {
        let at = |words: &[&[u8]]| names.iter().position(|name| words.contains(&name.as_slice()));
        let (name, value) = (at(&[b"variable_name"])?, at(&[b"variable_value", b"value", b"session_value"])?);
        let head = if binary { 1 + (names.len() + 9) / 8 } else { 0 };
        if binary && payload.get(..head)?.iter().any(|byte| *byte != 0) {
            return None;
        }
        let cells = cells(payload.get(head..)?, names.len())?;
        let variable = String::from_utf8_lossy(cells.get(name)?.as_ref()?).to_lowercase();
        let own = self.listed(&variable, of_all)?;
        let mut row = payload.get(..head)?.to_vec();
        for (n, cell) in cells.iter().enumerate() {
            let cell = if n == value { Some(Cow::Borrowed(own.as_bytes())) } else { cell.clone() };
            match cell {
                None => row.push(0xfb),
                Some(bytes) => put_cell(&mut row, &bytes)?,
            }
        }
        Some(row)
    }
}

/// Whether a variable is asked for as the session's: `@@session.x`, `@@local.x`.
fn is_of_session(variable: &[u8]) -> bool {
    let scope = variable.strip_prefix(b"@@").unwrap_or(variable).trim_ascii_start();
    let scope = scope.split(|byte| *byte == b'.').next().unwrap_or_default().trim_ascii();
    let scope = scope.strip_prefix(b"`").and_then(|scope| scope.strip_suffix(b"`")).unwrap_or(scope);
    scope.eq_ignore_ascii_case(b"session") || scope.eq_ignore_ascii_case(b"local")
}

/// The number of columns, if the packet tells it.
fn columns(payload: &[u8]) -> Option<usize> {
    match payload {
        [count @ 1..=250] => Some(usize::from(*count)),
        _ => None,
    }
}

/// The cells of a row of strings; `None` if it is not one, or has an unusually long one.
fn cells(mut rest: &[u8], count: usize) -> Option<Vec<Option<Cow<'_, [u8]>>>> {
    let mut cells = Vec::with_capacity(count);
    while let Some((first, behind)) = rest.split_first() {
        let (len, behind) = match first {
            0xfb => {
                cells.push(None);
                rest = behind;
                continue;
            }
            0xfc => (usize::from(u16::from_le_bytes([*behind.first()?, *behind.get(1)?])), behind.get(2..)?),
            0xfd..=0xff => return None,
            len => (usize::from(*len), behind),
        };
        cells.push(Some(Cow::Borrowed(behind.get(..len)?)));
        rest = behind.get(len..)?;
    }
    (cells.len() == count).then_some(cells)
}

fn put_cell(row: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    let len = u16::try_from(bytes.len()).ok()?;
    match u8::try_from(len) {
        Ok(short @ 0..=250) => row.push(short),
        _ => {
            row.push(0xfc);
            row.extend_from_slice(&len.to_le_bytes());
        }
    }
    row.extend_from_slice(bytes);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_and_put() {
        let long = vec![b'x'; 300];
        let mut row = Vec::new();
        put_cell(&mut row, b"version").unwrap_or_default();
        row.push(0xfb);
        put_cell(&mut row, &long).unwrap_or_default();
        let read = cells(&row, 3).unwrap_or_default();
        assert_eq!(read[0].as_deref(), Some(&b"version"[..]));
        assert_eq!((read[1].as_deref(), read[2].as_deref()), (None, Some(&long[..])));
        assert!(cells(&row, 2).is_none() && cells(&row[..5], 1).is_none());
    }

    #[test]
    fn values_are_said_in_each_mode() {
        let own = Own::Text("it's".to_owned());
        assert_eq!(own.sql(Mode::default()), "'it''s'");
        assert_eq!((own.shown(), Own::Flag(true).shown()), ("it's".to_owned(), "ON".to_owned()));
        assert_eq!(Own::Number(3306).sql(Mode::default()), "CAST(3306 AS UNSIGNED)");
    }
}
