//! What SET TRANSACTION has said of the next transaction, until that begins or SET SESSION TRANSACTION says otherwise.

use usher_sql::Mode;
use usher_sql::effects::{self, Assignment, Scope, Set};

use crate::session::{Session, Transaction};

/// What SET TRANSACTION can say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Said {
    isolation: bool,
    access: bool,
}

impl Said {
    fn of(assignment: &Assignment) -> Self {
        match assignment {
            Assignment::Transaction { isolation, read_only, .. } => {
                Self { isolation: isolation.is_some(), access: read_only.is_some() }
            }
            Assignment::Variable { name, .. } => Self {
                isolation: matches!(name.as_str(), "transaction_isolation" | "tx_isolation"),
                access: matches!(name.as_str(), "transaction_read_only" | "tx_read_only"),
            },
            _ => Self::default(),
        }
    }

    fn and(self, other: Self) -> Self {
        Self { isolation: self.isolation || other.isolation, access: self.access || other.access }
    }
}

impl Session {
    /// What has been set for the session holds for the next transaction, too, whatever had been said of that before. Not
    /// for one that has begun.
    pub(crate) fn set_for_session(&mut self, assignments: &[Assignment]) {
        if self.next_transaction.is_empty()
            || matches!(self.transaction, Transaction::Pending { begun: true, .. })
        {
            return;
        }
        let of_session = |assignment: &&Assignment| {
            matches!(
                assignment,
                Assignment::Transaction { scope: Scope::Session, .. }
                    | Assignment::Variable { scope: Scope::Session, .. }
            )
        };
        let set = assignments.iter().filter(of_session).map(Said::of).fold(Said::default(), Said::and);
        if set != Said::default() {
            let mode = self.mode;
            let said = std::mem::take(&mut self.next_transaction);
            self.next_transaction = said.into_iter().filter_map(|text| without(text, mode, set)).collect();
        }
    }
}

/// A SET TRANSACTION without what has been set since; `None` if it says no more.
fn without(text: Box<[u8]>, mode: Mode, set: Said) -> Option<Box<[u8]>> {
    let Ok(Some(Set::Assignments(assignments))) = effects::parse(&text, mode) else { return Some(text) };
    let mut left = Vec::new();
    for assignment in &assignments {
        match assignment {
            Assignment::Transaction { isolation, read_only, .. } => {
                if let Some(level) = isolation.filter(|_| !set.isolation) {
                    left.push(format!("TRANSACTION ISOLATION LEVEL {}", level.replace('-', " ")));
                }
                if let Some(read_only) = read_only.filter(|_| !set.access) {
                    left.push(format!("TRANSACTION READ {}", if read_only { "ONLY" } else { "WRITE" }));
                }
            }
            Assignment::Variable { name, value, .. } => {
                let said = Said::of(assignment);
                let is_set = said.isolation && set.isolation || said.access && set.access;
                if let Some(value) = text.get(value.span.clone()).filter(|_| !is_set) {
                    left.push(format!("@@{name} = {}", String::from_utf8_lossy(value)));
                }
            }
            _ => {}
        }
    }
    (!left.is_empty()).then(|| format!("SET {}", left.join(", ")).into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_for_the_session_is_said_no_more() {
        let access = Said { access: true, ..Said::default() };
        let isolation = Said { isolation: true, ..Said::default() };
        for (text, set, left) in [
            ("SET TRANSACTION READ ONLY", access, None),
            ("SET TRANSACTION READ ONLY", isolation, Some("SET TRANSACTION READ ONLY")),
            (
                "SET TRANSACTION READ WRITE, ISOLATION LEVEL READ COMMITTED",
                access,
                Some("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"),
            ),
            ("SET @@tx_isolation = 'SERIALIZABLE'", isolation, None),
            ("SET @@tx_isolation = 'SERIALIZABLE'", access, Some("SET @@tx_isolation = 'SERIALIZABLE'")),
        ] {
            let found = without(text.as_bytes().into(), Mode::default(), set);
            let found = found.map(|text| String::from_utf8_lossy(&text).into_owned());
            assert_eq!(found.as_deref(), left, "{text}");
        }
    }
}
