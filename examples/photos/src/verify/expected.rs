//! From the journal to what must be in the database.

use std::collections::BTreeMap;

use crate::journal::{Act, Note, Outcome, Rows, Write};

/// A row that the run inserted, and maybe deleted again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inserted {
    pub(super) outcome: Outcome,
    /// The id the application was given for it.
    pub(super) id: Option<i64>,
    pub(super) deleted: Option<Outcome>,
}

impl Inserted {
    /// Fewest and most copies there may be.
    pub(super) fn copies(&self) -> (usize, usize) {
        match (self.outcome, self.deleted) {
            (Outcome::Failed, _) | (Outcome::Ok, Some(Outcome::Ok)) => (0, 0),
            (Outcome::Ok, None | Some(Outcome::Failed)) => (1, 1),
            (Outcome::Unknown, _) | (Outcome::Ok, Some(Outcome::Unknown)) => (0, 1),
        }
    }
}

/// The states that a changed value may be in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Register {
    /// Value and number of changes; the value is `None` where it is that of before the run.
    pub(super) candidates: Vec<(Option<String>, u32)>,
}

impl Register {
    fn change(&mut self, write: &Write, outcome: Outcome) {
        if self.candidates.is_empty() {
            self.candidates.push((None, write.count.saturating_sub(1)));
        }
        let changed = (Some(write.value.clone()), write.count);
        match outcome {
            Outcome::Ok => self.candidates = vec![changed],
            Outcome::Unknown => self.candidates.push(changed),
            Outcome::Failed => {}
        }
    }

    pub(super) fn allows(&self, value: &str, changes: u32) -> bool {
        self.candidates.iter().any(|(candidate, count)| {
            *count == changes && candidate.as_ref().is_none_or(|text| text == value)
        })
    }
}

/// What must be there of one user; user 0 stands for what belongs to nobody.
#[derive(Debug, Default)]
pub(super) struct Expected {
    pub(super) before: Option<Rows>,
    /// By table and request.
    pub(super) inserted: BTreeMap<(String, String), Inserted>,
    /// By table and key.
    pub(super) registers: BTreeMap<(String, String), Register>,
    /// Rows that one operation of unknown outcome would have inserted: all of them are there, or none.
    pub(super) together: Vec<Vec<(String, String)>>,
}

/// The journal as a whole.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) prefix: String,
    pub(super) users: BTreeMap<i64, Expected>,
    pub(super) acknowledged: u64,
}

impl Ledger {
    pub(super) fn of(notes: Vec<Note>) -> Self {
        let mut ledger = Ledger::default();
        let mut under_way = BTreeMap::new();
        // Outcomes come in the order in which they became known; for one key that is the order of its writes.
        for note in notes {
            match note {
                Note::Run { prefix, .. } => ledger.prefix = format!("{prefix}-"),
                Note::User { user, rows } => ledger.users.entry(user).or_default().before = Some(rows),
                Note::Intent { op, user, writes, .. } => drop(under_way.insert(op, (user, writes))),
                Note::Outcome { op, outcome, ids, .. } => {
                    if let Some((user, writes)) = under_way.remove(&op) {
                        ledger.settle(user, &writes, outcome, &ids);
                    }
                }
            }
        }
        for (user, writes) in under_way.into_values() {
            ledger.settle(user, &writes, Outcome::Unknown, &[]);
        }
        ledger
    }

    fn settle(&mut self, user: i64, writes: &[Write], outcome: Outcome, ids: &[i64]) {
        self.acknowledged += u64::from(outcome == Outcome::Ok);
        // The row that makes a user is that user's from the moment the id is known.
        let owner = match (writes, ids) {
            ([write], [id]) if write.table == "users" => *id,
            _ => user,
        };
        let expected = self.users.entry(owner).or_default();
        for (place, write) in writes.iter().enumerate() {
            let name = (write.table.clone(), write.key.clone());
            match write.act {
                Act::Insert => {
                    let inserted = Inserted { outcome, id: ids.get(place).copied(), deleted: None };
                    expected.inserted.insert(name, inserted);
                }
                Act::Delete => {
                    if let Some(inserted) = expected.inserted.get_mut(&name)
                        && outcome != Outcome::Failed
                    {
                        inserted.deleted = Some(outcome);
                    }
                }
                Act::Set => expected.registers.entry(name).or_default().change(write, outcome),
            }
        }
        if outcome == Outcome::Unknown {
            let inserts = writes.iter().filter(|write| write.act == Act::Insert);
            expected.together.push(inserts.map(|write| (write.table.clone(), write.key.clone())).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(number: u64, write: Write, outcome: Option<Outcome>) -> Vec<Note> {
        let mut notes = vec![Note::Intent { op: number, user: 7, at_us: 0, writes: vec![write] }];
        notes.extend(outcome.map(|outcome| Note::Outcome { op: number, at_us: 0, outcome, ids: vec![] }));
        notes
    }

    #[test]
    fn a_row_may_be_there_as_often_as_its_story_says() {
        let insert = Write::insert("favourites", "r-1");
        let delete = Write::delete("favourites", "r-1");
        let copies = |notes: Vec<Vec<Note>>| {
            let ledger = Ledger::of(notes.concat());
            ledger.users[&7].inserted[&("favourites".to_string(), "r-1".to_string())].copies()
        };
        let inserted = || op(1, insert.clone(), Some(Outcome::Ok));
        assert_eq!(copies(vec![inserted()]), (1, 1));
        assert_eq!(copies(vec![op(1, insert.clone(), None)]), (0, 1));
        assert_eq!(copies(vec![op(1, insert.clone(), Some(Outcome::Failed))]), (0, 0));
        assert_eq!(copies(vec![inserted(), op(2, delete.clone(), Some(Outcome::Failed))]), (1, 1));
        assert_eq!(copies(vec![inserted(), op(2, delete.clone(), Some(Outcome::Ok))]), (0, 0));
        assert_eq!(copies(vec![inserted(), op(2, delete.clone(), None)]), (0, 1));
    }

    #[test]
    fn a_value_is_the_last_acknowledged_or_a_later_unknown_one() {
        let mut register = Register::default();
        register.change(&Write::set("photos", "5", "a", 3), Outcome::Failed);
        assert!(register.allows("whatever it was", 2) && !register.allows("a", 3));
        register.change(&Write::set("photos", "5", "b", 3), Outcome::Ok);
        assert!(register.allows("b", 3) && !register.allows("whatever it was", 2));
        register.change(&Write::set("photos", "5", "c", 4), Outcome::Unknown);
        assert!(register.allows("b", 3) && register.allows("c", 4) && !register.allows("c", 5));
    }
}
