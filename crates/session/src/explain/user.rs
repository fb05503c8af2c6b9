//! Whose a statement is, and how that was found.

use usher_sql::{InsertShape, KeySource, KeyValue, LiteralKind, Plan, RowValue, Target};
use usher_topology::Key;
use usher_wire::sqlerr::ErrorId;

use super::Route;
use super::way::{Relation, Way};
use crate::insert::{RowId, insert_key, null_user, row_ids, with_ids};
use crate::query::Text;
use crate::route::Place;
use crate::session::{Session, Stop};

/// Users of one statement that are looked up.
const USERS_MAX: usize = 16;
/// Characters of a literal that are shown.
const SHOWN_CHARS: usize = 64;

const BY_PLACEHOLDER: &str = "that of the user, who is known when the statement is executed";
const BY_PLACEMENT: &str = "the one with the fewest users for its weight when the statement runs";

impl Session {
    /// Behind `/* usher: .. */`.
    pub(super) async fn hinted_way(
        &mut self,
        route: &mut Route,
        statement: Text<'_>,
        plan: &Plan,
    ) -> Result<Way, Stop> {
        let hints = &statement.digest.hints;
        let given =
            [(hints.user.is_some(), "user"), (hints.shard.is_some(), "shard"), (hints.writer, "writer")];
        let given: Vec<&str> = given.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
        route.say("hint", given.join(", "));
        let (place, key) = self.hinted_place(statement, plan).await?;
        if let Some(key) = &key {
            route.say("user", key.to_string());
            let by_hint = if hints.user.is_some() { "the hint" } else { "the statement" };
            route.say("found by", by_hint);
            self.say_located(route, key).await?;
        }
        let key = key.filter(|_| !place.shard.is_global());
        Ok(Way::To { place, key, relation: Relation::Inside })
    }

    pub(super) async fn way_of_user(
        &mut self,
        route: &mut Route,
        statement: Text<'_>,
        plan: &Plan,
        sources: &[KeySource],
    ) -> Result<Way, Stop> {
        if let Some(way) = self.way_by_placeholder(route, statement, sources) {
            return Ok(way);
        }
        let key = match self.values(statement).one_key(sources) {
            Ok(key) => key,
            Err(failure) => {
                if failure.id() == ErrorId::ScatterUnsupported {
                    self.say_users(route, statement, sources).await?;
                }
                return Err(failure.into());
            }
        };
        let Some(key) = key else {
            route.say("user", "none: NULL finds nothing");
            return Ok(Way::aside(self.nowhere()));
        };
        route.say("user", key.to_string());
        route.say("found by", words(statement, sources));
        let place = self.say_located(route, &key).await?;
        Ok(match place {
            Some(place) => Way::To { place, key: Some(key), relation: Relation::Inside },
            None => {
                debug_assert!(plan.insert.is_none());
                Way::aside(self.nowhere())
            }
        })
    }

    pub(super) async fn way_of_insert(
        &mut self,
        route: &mut Route,
        statement: Text<'_>,
        plan: &Plan,
    ) -> Result<Way, Stop> {
        let (Some(shape), Target::User { sources }) = (&plan.insert, &plan.target) else {
            return Ok(Way::aside(self.nowhere()));
        };
        let rows = row_ids(shape, &self.values(statement));
        let needed = rows.iter().filter(|row| **row == RowId::Needed).count();
        if needed > 0 {
            route.say("ids", format!("{needed} from the sequence of {}", shape.table));
            // Whether there is room for them.
            with_ids(statement, shape, &rows, 1, self.mode)?;
        }
        if let Some(way) = self.way_by_placeholder(route, statement, sources) {
            return Ok(way);
        }
        let is_new = needed > 0 && shape.sequence.as_ref().is_some_and(|sequence| sequence.is_key);
        let key = insert_key(plan, shape, &self.values(statement), is_new.then_some(1))?;
        if is_new {
            route.say("user", "a new one, by the next id of the sequence");
            return Ok(Way::Later(BY_PLACEMENT));
        }
        let Some(key) = key else { return Err(null_user()) };
        route.say("user", key.to_string());
        route.say("found by", insert_words(statement, shape, sources));
        Ok(match self.say_located(route, &key).await? {
            Some(place) => Way::To { place, key: Some(key), relation: Relation::Inside },
            None => Way::Later(BY_PLACEMENT),
        })
    }

    /// Of a statement that is still to be prepared.
    fn way_by_placeholder(
        &self,
        route: &mut Route,
        statement: Text<'_>,
        sources: &[KeySource],
    ) -> Option<Way> {
        let placeholder = sources.iter().find_map(|source| match source.value {
            KeyValue::Literal { ordinal, .. } => match statement.literals.get(ordinal as usize)?.kind {
                LiteralKind::Param(index) => Some(index),
                _ => None,
            },
            _ => None,
        })?;
        route.say("user", format!("the value of placeholder {}", u32::from(placeholder) + 1));
        route.say("found by", words(statement, sources));
        Some(Way::Later(BY_PLACEHOLDER))
    }

    /// What the directory says of a user; `None` if it has none of that name.
    async fn say_located(&self, route: &mut Route, key: &Key) -> Result<Option<Place>, Stop> {
        let known = self.shared.directory.cached(key).is_some();
        route.say("directory", if known { "known to this proxy" } else { "looked up" });
        let located = self.locate(key).await?;
        let Some(located) = located else {
            route.say("generation", "unknown user");
            return Ok(None);
        };
        route.say("generation", located.generation.to_string());
        route.say("state", format!("{:?}", located.state).to_lowercase());
        Ok(Some(Place::of(located)))
    }

    /// Each of several users, and where each lives.
    async fn say_users(
        &self,
        route: &mut Route,
        statement: Text<'_>,
        sources: &[KeySource],
    ) -> Result<(), Stop> {
        let mut keys: Vec<Key> = Vec::new();
        for source in sources {
            if let Some(key) = self.values(statement).key(source)?.filter(|key| !keys.contains(key)) {
                keys.push(key);
            }
        }
        let mut said = Vec::new();
        for key in keys.iter().take(USERS_MAX) {
            let home = self.locate(key).await?.map(|located| self.shard_name(located.shard));
            said.push(format!("{key} on {}", home.as_deref().unwrap_or("no shard")));
        }
        if keys.len() > USERS_MAX {
            said.push(format!("and {} more", keys.len() - USERS_MAX));
        }
        route.say("users", said.join(", "));
        route.say("found by", words(statement, sources));
        Ok(())
    }
}

/// What names the users.
fn words(statement: Text<'_>, sources: &[KeySource]) -> String {
    list(sources.iter().map(|source| value_words(statement, &source.value)))
}

fn insert_words(statement: Text<'_>, shape: &InsertShape, sources: &[KeySource]) -> String {
    let given = shape.key.iter().filter_map(|value| match value {
        RowValue::Given(value) => Some(value_words(statement, value)),
        _ => None,
    });
    let words = list(given);
    match words.is_empty() {
        true => self::words(statement, sources),
        false => format!("{} = {words}", shape.key_column),
    }
}

fn list(words: impl Iterator<Item = String>) -> String {
    let mut list: Vec<String> = Vec::new();
    for word in words {
        if list.len() == USERS_MAX {
            list.push("..".to_owned());
            break;
        }
        if !list.contains(&word) {
            list.push(word);
        }
    }
    list.join(", ")
}

fn value_words(statement: Text<'_>, value: &KeyValue) -> String {
    match value {
        KeyValue::Null => "NULL".to_owned(),
        KeyValue::LastInsertId => "LAST_INSERT_ID()".to_owned(),
        KeyValue::UserVar(name) => format!("the variable @{name}"),
        KeyValue::Literal { ordinal, negative } => {
            let Some(literal) = statement.literals.get(*ordinal as usize) else { return "?".to_owned() };
            let text = String::from_utf8_lossy(statement.text.get(literal.span()).unwrap_or_default());
            let shown: String = text.chars().take(SHOWN_CHARS).collect();
            match literal.kind {
                LiteralKind::Param(index) => format!("placeholder {}", u32::from(index) + 1),
                _ => format!("the literal {}{shown}", if *negative { "-" } else { "" }),
            }
        }
    }
}
