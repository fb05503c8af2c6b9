//! EXPLAIN ROUTE: where a statement would go and why, whose it is, what it would keep of a connection, or the error that
//! it would be refused with. Nothing is run.
//!
//! It goes through the same decisions as the statement itself: plan, rights, hints, user, directory, transaction, choice
//! of a server.

mod holds;
mod server;
mod user;
mod way;

use serde_json::{Map, Value};
use usher_sql::Mode;
use usher_wire::packet::ErrPacket;
use usher_wire::sqlerr::{ErrorId, Failure};

use crate::query::{Text, settled};
use crate::session::{Served, Session, Stop, Turn};

/// Statements of one text that are explained.
const STATEMENTS_MAX: usize = 64;
/// How deep EXECUTE of EXECUTE is followed.
const DEPTH_MAX: usize = 2;

/// What is told of one statement, line by line.
#[derive(Debug, Default)]
struct Route(Vec<(&'static str, String)>);

impl Route {
    fn say(&mut self, what: &'static str, value: impl Into<String>) {
        self.0.push((what, value.into()));
    }

    /// The error that the statement would get.
    ///
    /// # Errors
    /// The session's end is none.
    fn refuse(&mut self, stop: Stop) -> Result<(), Stop> {
        let (words, error) = match stop {
            Stop::Fail(failure) => {
                let id = failure.id();
                (failure.message(), format!("{} ({}, {})", id.id(), id.code(), id.sqlstate()))
            }
            Stop::Pass(payload) => {
                let error = ErrPacket::parse(&payload)?;
                let state = String::from_utf8_lossy(&error.sqlstate).into_owned();
                (error.text().into_owned(), format!("{} ({state})", error.code))
            }
            stop => return Err(stop),
        };
        self.say("refused", words);
        self.say("error", error);
        Ok(())
    }

    fn into_json(self) -> Value {
        let mut object: Map<String, Value> = Map::new();
        for (what, value) in self.0 {
            match object.get_mut(what) {
                None => drop(object.insert(what.replace(' ', "_"), Value::String(value))),
                Some(Value::Array(values)) => values.push(Value::String(value)),
                Some(first) => *first = Value::Array(vec![first.take(), Value::String(value)]),
            }
        }
        Value::Object(object)
    }
}

impl Session {
    /// Answers EXPLAIN ROUTE [FORMAT=JSON], with all statements that stand behind it.
    pub(crate) async fn explain_route(&mut self, text: &[u8], turn: Turn) -> Served {
        let Some((explained, json)) = explained(text, self.mode) else {
            let note = "EXPLAIN ROUTE wants a statement behind it";
            return Err(Failure::new(ErrorId::Syntax).note(note).into());
        };
        let mut routes = Vec::new();
        let mut literals = Vec::new();
        let mut rest = &explained[..];
        loop {
            let digest = usher_sql::digest(rest, self.mode, &mut literals);
            let one = rest.get(..digest.end.min(rest.len())).unwrap_or_default();
            let statement = Text { text: one, packets: &[], digest: &digest, literals: &literals };
            let mut route = Route::default();
            if routes.len() == STATEMENTS_MAX {
                route.say("statement", "further ones, which are not explained");
                routes.push(route);
                break;
            }
            if let Err(stop) = Box::pin(self.explain_one(&mut route, statement, 0)).await {
                route.refuse(stop)?;
            }
            routes.push(route);
            let Some(next) = digest.second_statement else { break };
            rest = rest.get(next..).unwrap_or_default();
        }
        if routes.len() > 1 {
            // The first may change what the session is.
            routes.iter_mut().skip(1).for_each(|route| route.say("as of", "the session as it is now"));
        }
        match json {
            true => {
                let statements: Vec<Value> = routes.into_iter().map(Route::into_json).collect();
                let document = serde_json::json!({ "statements": statements });
                self.answer_table(&["EXPLAIN"], &[vec![format!("{document:#}")]], turn).await
            }
            false => {
                let lines = routes.into_iter().flat_map(|route| route.0);
                let rows: Vec<_> = lines.map(|(what, value)| vec![what.to_owned(), value]).collect();
                self.answer_table(&["what", "value"], &rows, turn).await
            }
        }
    }

    /// Says all of one statement, or up to why it would be refused.
    async fn explain_one(
        &mut self,
        route: &mut Route,
        statement: Text<'_>,
        depth: usize,
    ) -> Result<(), Stop> {
        let plan = settled(self.plan(statement.text, statement.digest), statement.text, statement.literals);
        route.say("statement", way::in_words(&plan.kind));
        self.account.may(&plan, &self.shared.schemas)?;
        if let Some(table) = plan.creating.as_deref() {
            route.say("waits", format!("until table {table} is on every server"));
        }
        let way = match statement.digest.hints.is_empty() {
            true => self.way(route, statement, &plan, depth).await?,
            false => self.hinted_way(route, statement, &plan).await?,
        };
        self.say_way(route, statement, &plan, way)
    }
}

/// The statements behind EXPLAIN ROUTE, with a comment that stands in front of all: hints may stand in either place.
fn explained(text: &[u8], mode: Mode) -> Option<(Vec<u8>, bool)> {
    let asked = usher_sql::explain_route(text, mode)?;
    let word = usher_sql::Lexer::new(text, mode).next()?;
    let comments = text.get(..word.span().start)?;
    Some(([comments, text.get(asked.statements)?].concat(), asked.json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_explained_keeps_its_comments() {
        let read = |text: &str| {
            let (text, json) = explained(text.as_bytes(), Mode::default())?;
            Some((String::from_utf8_lossy(&text).trim().to_owned(), json))
        };
        let found = |text: &str, json| Some((text.to_owned(), json));
        assert_eq!(read("EXPLAIN ROUTE SELECT 1; SELECT 2"), found("SELECT 1; SELECT 2", false));
        assert_eq!(read("explain route format = json begin"), found("begin", true));
        assert_eq!(
            read("EXPLAIN ROUTE /* usher: user=5 */ SELECT 1"),
            found("/* usher: user=5 */ SELECT 1", false)
        );
        assert_eq!(
            read("/* usher: user=5 */ EXPLAIN ROUTE SELECT 1"),
            found("/* usher: user=5 */  SELECT 1", false)
        );
        assert_eq!(read("EXPLAIN ROUTE"), None);
        assert_eq!(read("EXPLAIN SELECT 1"), None);
    }

    #[test]
    fn json_has_a_list_where_a_line_comes_twice() {
        let route = Route(vec![
            ("holds", "a".to_owned()),
            ("found by", "x".to_owned()),
            ("holds", "b".to_owned()),
            ("holds", "c".to_owned()),
        ]);
        let expected = serde_json::json!({"holds": ["a", "b", "c"], "found_by": "x"});
        assert_eq!(route.into_json(), expected);
    }
}
