//! What went wrong with a statement, and what that says about a write: certainly not done, or nobody knows.

use mysql_async::Error;

use crate::journal::Outcome;

/// Why a statement or a check did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The message for a user that is being moved: the one error the application expects.
    Locked,
    /// The server answered with this error.
    Server(u16),
    /// No answer: the connection broke or the statement took too long.
    Lost,
    /// An answer, and a wrong one.
    Wrong,
    /// The journal cannot be written: nothing can be proven any more.
    Journal,
}

/// A fault with its message and the statement that met it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) fault: Fault,
    pub(crate) message: String,
    pub(crate) statement: String,
    /// Set where the failed statement was the one that makes a write final.
    pub(crate) deciding: bool,
}

impl Failure {
    pub(crate) fn new(fault: Fault, message: impl Into<String>, statement: &str) -> Self {
        let statement = statement.chars().take(160).collect();
        Failure { fault, message: message.into(), statement, deciding: false }
    }

    /// An answer that is not what one MySQL would have given.
    pub(crate) fn wrong(message: impl Into<String>) -> Self {
        Failure::new(Fault::Wrong, message, "")
    }

    pub(crate) fn from_driver(error: Error, statement: &str) -> Self {
        match error {
            Error::Server(server) => {
                let fault = match is_lock_message(server.code, &server.message) {
                    true => Fault::Locked,
                    false => Fault::Server(server.code),
                };
                let message = format!("ERROR {} ({}): {}", server.code, server.state, server.message);
                Failure::new(fault, message, statement)
            }
            other => Failure::new(Fault::Lost, other.to_string(), statement),
        }
    }

    /// What the journal must say about a write that ended so.
    ///
    /// Before the deciding statement (a COMMIT, or a lone write in autocommit) was sent, nothing can have become final;
    /// after it, only an error that says so proves that nothing did.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.fault {
            _ if !self.deciding => Outcome::Failed,
            Fault::Locked => Outcome::Failed,
            Fault::Server(code) if !is_uncertain(code) => Outcome::Failed,
            _ => Outcome::Unknown,
        }
    }

    /// One line for people.
    pub(crate) fn text(&self) -> String {
        match self.statement.as_str() {
            "" => self.message.clone(),
            statement => format!("{} | {statement}", self.message),
        }
    }
}

/// The lock message: code 1290, or 1792 in a transaction, an usher id, and the words of it.
fn is_lock_message(code: u16, message: &str) -> bool {
    matches!(code, 1290 | 1792) && message.contains("[USHER-") && message.contains("is being moved")
}

/// Shutdown, lost or broken connections, error during COMMIT, interruption: the write may have been done.
fn is_uncertain(code: u16) -> bool {
    matches!(code, 1053 | 1105 | 1152 | 1158..=1161 | 1180 | 1184 | 1196 | 1317 | 2000..=2999 | 3024 | 4031)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mysql_async::ServerError;

    fn server(code: u16, message: &str) -> Failure {
        let error = ServerError { code, message: message.into(), state: "HY000".into() };
        Failure::from_driver(Error::Server(error), "UPDATE t")
    }

    #[test]
    fn only_the_lock_message_is_expected() {
        let text = "[USHER-0301] user 623 is being moved, about 2 minutes; not executed";
        assert_eq!(server(1290, text).fault, Fault::Locked);
        assert_eq!(server(1792, text).fault, Fault::Locked);
        assert_eq!(server(1205, text).fault, Fault::Server(1205));
        assert_eq!(server(1290, "running with --read-only").fault, Fault::Server(1290));
    }

    #[test]
    fn a_lost_commit_is_unknown_and_a_lost_begin_is_not() {
        let mut lost = Failure::new(Fault::Lost, "gone", "COMMIT");
        assert_eq!(lost.outcome(), Outcome::Failed);
        lost.deciding = true;
        assert_eq!(lost.outcome(), Outcome::Unknown);
        let mut refused = server(1062, "Duplicate entry");
        refused.deciding = true;
        assert_eq!(refused.outcome(), Outcome::Failed);
    }
}
