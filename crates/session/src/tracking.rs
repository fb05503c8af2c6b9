//! What a client is told of changes of its session, as it asks by `session_track_...`. usher follows the servers by its
//! own list, whatever the client asks for, and passes on what belongs to the client's own statements.

use usher_backend::SettingsBuilder;
use usher_sql::effects::{Assignment, Constant, Scope, Value};
use usher_wire::caps::Caps;
use usher_wire::packet::{Change, TrackSet, put_change};
use usher_wire::relay::End;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};

use crate::session::{Session, Stop, Transaction};
use crate::text_prepare::server_error;

/// What begins the names of these variables.
pub(crate) const TRACKING: &str = "session_track_";
/// Kept as settings: only a server can follow it.
const STATE_CHANGE: &str = "session_track_state_change";
const TRANSACTION_INFO: &str = "session_track_transaction_info";
/// ER_WRONG_VALUE_FOR_VAR.
const WRONG_VALUE: u16 = 1231;
/// ER_UNKNOWN_SYSTEM_VARIABLE.
const UNKNOWN_VARIABLE: u16 = 1193;
/// What servers track if nothing else is asked for.
const BY_DEFAULT: [&str; 5] =
    ["time_zone", "autocommit", "character_set_client", "character_set_results", "character_set_connection"];
/// As MariaDB lists them.
const BY_DEFAULT_ON_MARIADB: [&str; 5] =
    ["autocommit", "character_set_client", "character_set_connection", "character_set_results", "time_zone"];
/// Bytes of a list of variables.
const LIST_BYTES_MAX: usize = 4096;

/// What a client has asked for that is not the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tracking {
    schema: bool,
    own_gtids: bool,
    /// Names in lower case, or `*`; `None` is the default.
    variables: Option<Box<str>>,
}

impl Default for Tracking {
    fn default() -> Self {
        Self { schema: true, own_gtids: false, variables: None }
    }
}

impl Tracking {
    fn wants_variable(&self, name: &[u8]) -> bool {
        let is = |word: &str| name.eq_ignore_ascii_case(word.trim().as_bytes());
        match self.variables.as_deref() {
            None => BY_DEFAULT.into_iter().any(is),
            Some("*") => true,
            Some(list) => list.split(',').any(is),
        }
    }

    fn wants(&self, change: &Change<'_>) -> bool {
        match change {
            Change::Variable { name, .. } => self.wants_variable(name),
            Change::Schema(_) => self.schema,
            Change::Gtids(_) => self.own_gtids,
            // Servers tell these only where they were asked to.
            Change::State(_) | Change::TransactionCharacteristics(_) | Change::TransactionState(_) => true,
            Change::Other(..) => false,
        }
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), Stop> {
        match name {
            "session_track_schema" => self.schema = truth(name, value)?.unwrap_or(true),
            "session_track_gtids" => self.own_gtids = self::gtids(name, value)?,
            "session_track_system_variables" => {
                self.variables = match &value.constant {
                    Some(Constant::Default) => None,
                    Some(Constant::Null) => Some("".into()),
                    Some(Constant::Text(list)) if list.len() <= LIST_BYTES_MAX => {
                        Some(String::from_utf8_lossy(list).into())
                    }
                    _ => return Err(unclear(name)),
                };
            }
            _ => return Err(unclear(name)),
        }
        Ok(())
    }
}

impl Session {
    /// Takes over what a SET says of tracking, and gives what servers tell at once of the transaction that there is, if
    /// there is none.
    ///
    /// # Errors
    /// A value that is none, or that only a server could tell.
    pub(crate) fn track(&mut self, assignments: &[Assignment]) -> Result<Vec<Change<'static>>, Stop> {
        let before = self.transaction_info().map(str::to_owned);
        let mut tracking = self.tracking.as_deref().cloned().unwrap_or_default();
        let mut settings = self.settings.edit();
        for assignment in assignments {
            let Assignment::Variable { scope: Scope::Session, name, value } = assignment else { continue };
            match name.as_str() {
                STATE_CHANGE => {
                    keep(&mut settings, name, truth(name, value)?.unwrap_or(false).then_some("ON"))
                }
                TRANSACTION_INFO => keep(&mut settings, name, transaction_info(name, value)?),
                "session_track_gtids" if self.is_mariadb() => {
                    return Err(server_error(
                        UNKNOWN_VARIABLE,
                        *b"HY000",
                        &format!("Unknown system variable '{name}'"),
                    ));
                }
                name if name.starts_with(TRACKING) => tracking.set(name, value)?,
                _ => {}
            }
        }
        self.tracking = (tracking != Tracking::default()).then(|| Box::new(tracking));
        self.settings = settings.build();
        let now = self.transaction_info().filter(|now| Some(*now) != before.as_deref());
        let mut told = Vec::new();
        if now.is_some() && before.is_none() && self.is_mariadb() {
            told.push(Change::TransactionState(b"________"));
        }
        if now == Some("CHARACTERISTICS") {
            told.push(Change::TransactionCharacteristics(b""));
        }
        told.retain(|_| self.transaction == Transaction::None);
        Ok(told)
    }

    /// Kinds of changes that are passed on as they come.
    pub(crate) fn track_set(&self) -> TrackSet {
        let schema = self.tracking.as_deref().is_none_or(|tracking| tracking.schema);
        let passed = TrackSet::STATE.with(TrackSet::TRANSACTION);
        if schema { passed.with(TrackSet::SCHEMA) } else { passed }
    }

    /// The changes in an OK packet that the client has asked for, if there are others than are passed on as they come.
    #[inline]
    pub(crate) fn state_to_tell(&self, end: &End, buf: &[u8], hide_transaction: bool) -> Option<Vec<u8>> {
        match end.has_changes() && self.client.caps.has(Caps::SESSION_TRACK) {
            true => self.chosen(end, buf, hide_transaction),
            false => None,
        }
    }

    fn chosen(&self, end: &End, buf: &[u8], hide_transaction: bool) -> Option<Vec<u8>> {
        let default = Tracking::default();
        let tracking = self.tracking.as_deref().unwrap_or(&default);
        let is_chosen = |change: &Change<'_>| {
            matches!(change, Change::Variable { .. } | Change::Gtids(_)) && tracking.wants(change)
        };
        // Of a transaction that is usher's own.
        let is_hidden = |change: &Change<'_>| {
            hide_transaction
                && matches!(change, Change::TransactionState(_) | Change::TransactionCharacteristics(_))
        };
        if !end.changes(buf).any(|change| is_chosen(&change) || is_hidden(&change)) {
            return None;
        }
        let mut state = Vec::new();
        let wanted = end.changes(buf).filter(|change| tracking.wants(change) && !is_hidden(change));
        wanted.for_each(|change| put_change(&mut state, &change));
        Some(state)
    }

    /// The changes of a statement that no server has seen, as far as the client has asked for them.
    pub(crate) fn state_of(&self, changes: &[Change<'_>]) -> Vec<u8> {
        let mut state = Vec::new();
        if !self.client.caps.has(Caps::SESSION_TRACK) || changes.is_empty() {
            return state;
        }
        let default = Tracking::default();
        let tracking = self.tracking.as_deref().unwrap_or(&default);
        changes
            .iter()
            .filter(|change| tracking.wants(change))
            .for_each(|change| put_change(&mut state, change));
        // Servers tell of a schema by itself.
        if self.tracks_state() && changes.iter().any(|change| matches!(change, Change::Variable { .. })) {
            put_change(&mut state, &Change::State(true));
        }
        state
    }

    fn tracks_state(&self) -> bool {
        self.settings.variable(STATE_CHANGE).is_some()
    }

    /// What the client asks to be told of transactions: `STATE` or `CHARACTERISTICS`.
    pub(crate) fn transaction_info(&self) -> Option<&str> {
        self.settings.variable(TRANSACTION_INFO).map(|value| value.trim_matches('\''))
    }

    /// The session's value of such a variable as servers show it, and as a number if it is one.
    pub(crate) fn tracking_value(&self, name: &str) -> Option<(String, Option<u64>)> {
        let default = Tracking::default();
        let tracking = self.tracking.as_deref().unwrap_or(&default);
        let flag = |on: bool| (if on { "ON" } else { "OFF" }.to_owned(), Some(u64::from(on)));
        let text = |text: &str| (text.to_owned(), None);
        Some(match name {
            "session_track_schema" => flag(tracking.schema),
            STATE_CHANGE => flag(self.tracks_state()),
            TRANSACTION_INFO => text(self.transaction_info().unwrap_or("OFF")),
            "session_track_gtids" if !self.is_mariadb() => {
                text(if tracking.own_gtids { "OWN_GTID" } else { "OFF" })
            }
            "session_track_system_variables" => match tracking.variables.as_deref() {
                Some(list) => text(list),
                None if self.is_mariadb() => text(&BY_DEFAULT_ON_MARIADB.join(",")),
                None => text(&BY_DEFAULT.join(",")),
            },
            _ => return None,
        })
    }
}

fn keep(settings: &mut SettingsBuilder, name: &str, value: Option<&str>) {
    match value {
        Some(value) => settings.variable(name, value),
        None => settings.unset(name),
    };
}

/// `None` is DEFAULT.
fn truth(name: &str, value: &Value) -> Result<Option<bool>, Stop> {
    Ok(Some(match &value.constant {
        Some(Constant::Default) => return Ok(None),
        Some(Constant::Int(0)) => false,
        Some(Constant::Int(1)) => true,
        Some(Constant::Text(word)) if is_any(word, &["ON", "TRUE"]) => true,
        Some(Constant::Text(word)) if is_any(word, &["OFF", "FALSE"]) => false,
        _ => return Err(wrong(name, value)),
    }))
}

fn gtids(name: &str, value: &Value) -> Result<bool, Stop> {
    match &value.constant {
        Some(Constant::Default | Constant::Int(0)) => Ok(false),
        Some(Constant::Int(1)) => Ok(true),
        Some(Constant::Text(word)) if is_any(word, &["OFF"]) => Ok(false),
        Some(Constant::Text(word)) if is_any(word, &["OWN_GTID"]) => Ok(true),
        Some(Constant::Text(word)) if is_any(word, &["ALL_GTIDS"]) => {
            let note = "usher does not support: session_track_gtids = ALL_GTIDS, as a session has no server of its own; \
                        use OWN_GTID";
            Err(Failure::new(ErrorId::Unsupported).note(note).executed(Executed::No).into())
        }
        _ => Err(wrong(name, value)),
    }
}

fn transaction_info(name: &str, value: &Value) -> Result<Option<&'static str>, Stop> {
    match &value.constant {
        Some(Constant::Default | Constant::Int(0)) => Ok(None),
        Some(Constant::Int(1)) => Ok(Some("'STATE'")),
        Some(Constant::Int(2)) => Ok(Some("'CHARACTERISTICS'")),
        Some(Constant::Text(word)) if is_any(word, &["OFF"]) => Ok(None),
        Some(Constant::Text(word)) if is_any(word, &["STATE"]) => Ok(Some("'STATE'")),
        Some(Constant::Text(word)) if is_any(word, &["CHARACTERISTICS"]) => Ok(Some("'CHARACTERISTICS'")),
        _ => Err(wrong(name, value)),
    }
}

fn is_any(word: &[u8], words: &[&str]) -> bool {
    words.iter().any(|other| word.eq_ignore_ascii_case(other.as_bytes()))
}

/// As a server words it, or that only a server could tell.
fn wrong(name: &str, value: &Value) -> Stop {
    let shown = match &value.constant {
        Some(Constant::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        Some(Constant::Int(number)) => number.to_string(),
        Some(Constant::Real(number)) => number.clone(),
        Some(Constant::Null) => "NULL".to_owned(),
        _ => return unclear(name),
    };
    let words = format!("Variable '{name}' can't be set to the value of '{shown}'");
    server_error(WRONG_VALUE, *b"42000", &words)
}

fn unclear(name: &str) -> Stop {
    let note = format!("usher does not support: {name} by an expression; write its value");
    Failure::new(ErrorId::Unsupported).note(note).executed(Executed::No).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(constant: Constant) -> Value {
        Value { span: 0..0, constant: Some(constant) }
    }

    fn text(text: &str) -> Value {
        value(Constant::Text(text.as_bytes().to_vec()))
    }

    #[test]
    fn what_is_asked_for_is_wanted() {
        let mut tracking = Tracking::default();
        let variable = |name: &'static str| Change::Variable { name: name.as_bytes(), value: b"" };
        assert!(tracking.wants(&variable("time_zone")) && !tracking.wants(&variable("last_gtid")));
        assert!(tracking.wants(&Change::Schema(b"a")) && !tracking.wants(&Change::Gtids(b"a")));
        let set = |tracking: &mut Tracking, name: &str, value: Value| tracking.set(name, &value).is_ok();
        assert!(set(&mut tracking, "session_track_system_variables", text("Sql_Mode, wait_timeout")));
        assert!(tracking.wants(&variable("sql_mode")) && tracking.wants(&variable("wait_timeout")));
        assert!(!tracking.wants(&variable("time_zone")));
        assert!(set(&mut tracking, "session_track_system_variables", text("*")));
        assert!(tracking.wants(&variable("anything")));
        assert!(set(&mut tracking, "session_track_system_variables", value(Constant::Default)));
        assert!(set(&mut tracking, "session_track_schema", value(Constant::Int(0))));
        assert!(!tracking.wants(&Change::Schema(b"a")));
        assert!(set(&mut tracking, "session_track_gtids", text("own_gtid")));
        assert!(tracking.wants(&Change::Gtids(b"a")));
        assert!(!set(&mut tracking, "session_track_gtids", text("ALL_GTIDS")));
        assert!(!set(&mut tracking, "session_track_schema", text("perhaps")));
        let expression = Value { span: 0..0, constant: None };
        assert!(!set(&mut tracking, "session_track_system_variables", expression));
    }
}
