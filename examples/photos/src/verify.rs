//! The proof at the end: each acknowledged write is there exactly once, none that failed is there, and every row of
//! everybody, loaded or written, is what it should be to the last byte.
//!
//! It reads over the same address as the application. Nothing else may write while it does, and nothing may have
//! written between the run and the proof.

mod expected;
mod found;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use rand::{SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

use self::{
    expected::{Expected, Inserted, Ledger},
    found::{Found, find, find_user_alone},
};
use crate::{
    cell::text,
    content::{GROUPS, email_of},
    failure::{Failure, Fault},
    journal,
    reads::number,
    rows::{check, select},
    session::Session,
    tally::Live,
    target::Target,
};

/// Problems that are told in words.
const TOLD_MAX: usize = 100;
const CONNECTIONS: usize = 8;
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
const ATTEMPTS: usize = 3;

/// What was proven.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Proof {
    /// People looked at.
    pub users: u64,
    /// Rows read and checked.
    pub rows: u64,
    /// Operations in the journal that were acknowledged.
    pub acknowledged: u64,
    /// Acknowledged rows found exactly once.
    pub present: u64,
    /// Refused, rolled back or deleted rows that are indeed not there.
    pub absent: u64,
    /// Rows of operations that got no answer and are there.
    pub unknown_present: u64,
    /// Rows of operations that got no answer and are not there.
    pub unknown_absent: u64,
    /// Changed values found as they were last acknowledged.
    pub values: u64,
    /// Different generated ids, none of them met twice.
    pub ids: u64,
    /// How many things are wrong; zero is the proof.
    pub problem_count: u64,
    /// The first hundred of them.
    pub problems: Vec<String>,
    /// Time taken.
    pub seconds: f64,
}

impl Proof {
    /// Whether everything is as it was promised.
    pub fn holds(&self) -> bool {
        self.problem_count == 0
    }

    fn problem(&mut self, message: String) {
        self.problem_count += 1;
        if self.problems.len() < TOLD_MAX {
            self.problems.push(message);
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} rows of {} people checked in {:.1} s", self.rows, self.users, self.seconds)?;
        writeln!(f, "{} operations acknowledged", self.acknowledged)?;
        writeln!(
            f,
            "{} acknowledged rows there exactly once, {} values as last written",
            self.present, self.values
        )?;
        writeln!(f, "{} refused, rolled back or deleted rows not there", self.absent)?;
        writeln!(f, "{} rows without an answer there, {} not", self.unknown_present, self.unknown_absent)?;
        writeln!(f, "{} generated ids, each of them once", self.ids)?;
        for problem in &self.problems {
            writeln!(f, "PROBLEM {problem}")?;
        }
        match self.problem_count {
            0 => write!(f, "proven: every acknowledged write is there exactly once"),
            count => write!(f, "NOT proven: {count} problems"),
        }
    }
}

/// Proves the journal against the database.
///
/// # Errors
/// A journal that cannot be read, or a question that got no answer in three attempts. What is wrong with the data is
/// no error but a [`Proof`] that does not hold.
pub async fn verify(target: &Target, journal: &Path) -> Result<Proof> {
    let started = Instant::now();
    let ledger = Arc::new(Ledger::of(journal::read(journal)?));
    let live = Arc::new(Live::new(Duration::ZERO)?);
    let session = |number: u64| {
        Session::new(target.clone(), STATEMENT_TIMEOUT, StdRng::seed_from_u64(number), Arc::clone(&live))
    };
    let mut first = session(0);
    let logins = logins(&mut first).await.map_err(told)?;
    let mut proof = Proof { acknowledged: ledger.acknowledged, ..Proof::default() };
    let groups = groups(&mut first, &mut proof).await.map_err(told)?;
    first.disconnect().await;
    judge_nobodys(&ledger, &groups, &mut proof);
    judge_logins(&ledger, &logins, &mut proof);

    let users: Vec<(i64, bool)> = users(&ledger, &logins);
    let (users, next) = (Arc::new(users), Arc::new(AtomicUsize::new(0)));
    let readings = (0..CONNECTIONS as u64).map(|number| {
        let reading =
            read_users(session(number + 1), Arc::clone(&users), Arc::clone(&next), Arc::clone(&ledger));
        tokio::spawn(reading)
    });
    let mut ids = HashSet::new();
    for reading in readings.collect::<Vec<_>>() {
        let (part, part_ids) = reading.await?.map_err(told)?;
        for (table, id, user) in part_ids {
            if !ids.insert((table, id)) {
                proof.problem(format!("user {user}: the id {id} of {table} is somebody else's too"));
            }
        }
        proof.add(part);
    }
    proof.ids = ids.len() as u64;
    proof.seconds = started.elapsed().as_secs_f64();
    Ok(proof)
}

fn told(failure: Failure) -> anyhow::Error {
    anyhow!("the proof could not be finished: {}", failure.text())
}

/// Everybody to look at, and whether all of them must be there or only the row that makes the user.
fn users(ledger: &Ledger, logins: &BTreeMap<String, i64>) -> Vec<(i64, bool)> {
    let mut users: BTreeMap<i64, bool> = logins.values().map(|user| (*user, true)).collect();
    for (user, expected) in &ledger.users {
        if *user != 0 {
            users.entry(*user).or_insert_with(|| expected.before.is_some());
        }
    }
    users.into_iter().collect()
}

type Ids = Vec<(&'static str, i64, i64)>;

async fn read_users(
    mut session: Session,
    users: Arc<Vec<(i64, bool)>>,
    next: Arc<AtomicUsize>,
    ledger: Arc<Ledger>,
) -> Result<(Proof, Ids), Failure> {
    let (mut proof, mut ids) = (Proof::default(), Vec::new());
    let nothing = Expected::default();
    while let Some((user, whole)) = users.get(next.fetch_add(1, Relaxed)) {
        let found = patiently(&mut session, *user, *whole).await?;
        for (table, rows) in &found.stored {
            let generated = rows.iter().filter(|(_, id)| *id != 0);
            ids.extend(generated.map(|(_, id)| (*table, *id, *user)));
        }
        let expected = ledger.users.get(user).unwrap_or(&nothing);
        judge_user(&mut proof, *user, *whole, expected, &found, &ledger.prefix);
    }
    session.disconnect().await;
    Ok((proof, ids))
}

/// Reads a user, again if the connection broke: the proof changes nothing, so it may.
async fn patiently(session: &mut Session, user: i64, whole: bool) -> Result<Found, Failure> {
    let mut attempt = 1;
    loop {
        let found = async {
            session.ensure().await?;
            if whole { find(session, user).await } else { find_user_alone(session, user).await }
        };
        match found.await {
            Ok(found) => return Ok(found),
            // An answer of the wrong shape is a finding, not a fault of the reading.
            Err(failure) if failure.fault == Fault::Wrong => {
                session.recover().await;
                return Ok(Found { problems: vec![failure.text()], ..Found::default() });
            }
            Err(failure) if attempt == ATTEMPTS => return Err(failure),
            Err(_) => {
                session.recover().await;
                attempt += 1;
            }
        }
    }
}

fn judge_user(proof: &mut Proof, user: i64, whole: bool, expected: &Expected, found: &Found, prefix: &str) {
    proof.users += 1;
    proof.rows += found.rows;
    for problem in &found.problems {
        proof.problem(format!("user {user}: {problem}"));
    }
    if whole {
        judge_rows_of_before(proof, user, expected, found, prefix);
    }
    judge_rows(proof, user, expected, found, prefix);
    for ((table, key), register) in &expected.registers {
        let state =
            found.registers.iter().find(|((name, at), _)| name == table && at == key).map(|(_, state)| state);
        // A preference never written before has no row, which is its state after no change.
        let (value, changes) = state.cloned().unwrap_or_default();
        if register.allows(&value, changes) {
            proof.values += 1;
        } else {
            let candidates = &register.candidates;
            proof.problem(format!(
                "user {user}: {table} {key} is {value:?} after {changes} changes; it should be one of {candidates:?}"
            ));
        }
    }
}

/// Rows that the run has not written are as many as before it.
fn judge_rows_of_before(proof: &mut Proof, user: i64, expected: &Expected, found: &Found, prefix: &str) {
    let before = expected.before.unwrap_or_default();
    let counts = [
        ("photos", before.photos),
        ("comments", before.comments),
        ("albums", before.albums),
        ("favourites", before.favourites),
        ("ledger", before.ledger),
        ("group_members", before.memberships),
    ];
    for (table, count) in counts {
        let rows = found.stored.get(table).into_iter().flatten();
        let older = rows.filter(|(request, _)| !request.starts_with(prefix)).count();
        if i64::try_from(older) != Ok(count) {
            proof.problem(format!(
                "user {user}: {older} rows of {table} from before the run; there were {count}"
            ));
        }
    }
}

/// Rows that the run has written are there as often as their story allows, and no others.
fn judge_rows(proof: &mut Proof, user: i64, expected: &Expected, found: &Found, prefix: &str) {
    let mut copies: BTreeMap<(&str, &str), Vec<i64>> = BTreeMap::new();
    for (table, rows) in &found.stored {
        for (request, id) in rows.iter().filter(|(request, _)| request.starts_with(prefix)) {
            copies.entry((table, request)).or_default().push(*id);
        }
    }
    for (table, request) in copies.keys() {
        if !expected.inserted.contains_key(&(table.to_string(), request.to_string())) {
            proof.problem(format!("user {user}: {table} has {request}, which was never sent for this user"));
        }
    }
    for ((table, request), inserted) in &expected.inserted {
        // Logins are looked at apart, because they are not found by the user.
        if table != "logins" {
            let ids = copies.get(&(table.as_str(), request.as_str())).map_or(&[][..], Vec::as_slice);
            judge_row(proof, &format!("user {user}: {table} {request}"), inserted, ids);
        }
    }
    for together in &expected.together {
        let there = together
            .iter()
            .filter(|(table, request)| copies.contains_key(&(table.as_str(), request.as_str())));
        let there = there.count();
        if there != 0 && there != together.len() {
            proof
                .problem(format!("user {user}: an operation was done in part, {there} rows of {together:?}"));
        }
    }
}

fn judge_row(proof: &mut Proof, what: &str, inserted: &Inserted, ids: &[i64]) {
    let copies = inserted.copies();
    let (least, most) = copies;
    if !(least..=most).contains(&ids.len()) {
        let outcome = inserted.outcome;
        proof.problem(format!(
            "{what} is there {} times; its outcome was {outcome:?}: {least} to {most}",
            ids.len()
        ));
        return;
    }
    if let (Some(told), Some(id)) = (inserted.id, ids.first())
        && told != *id
    {
        proof.problem(format!("{what} has the id {id}; the application was told {told}"));
    }
    match (copies, ids.len()) {
        ((1, 1), _) => proof.present += 1,
        ((0, 0), _) => proof.absent += 1,
        (_, 0) => proof.unknown_absent += 1,
        _ => proof.unknown_present += 1,
    }
}

/// Groups belong to nobody.
fn judge_nobodys(ledger: &Ledger, groups: &[(String, i64)], proof: &mut Proof) {
    let Some(expected) = ledger.users.get(&0) else {
        return;
    };
    for ((table, request), inserted) in &expected.inserted {
        // Of a user whose id was never told nothing can be looked up; the rows of the known ones are all judged.
        if table == "photo_groups" {
            let ids: Vec<i64> =
                groups.iter().filter(|(name, _)| name == request).map(|(_, id)| *id).collect();
            judge_row(proof, &format!("{table} {request}"), inserted, &ids);
        }
    }
}

fn judge_logins(ledger: &Ledger, logins: &BTreeMap<String, i64>, proof: &mut Proof) {
    for (user, expected) in &ledger.users {
        if expected.before.is_some() && !logins.values().any(|known| known == user) {
            proof.problem(format!("user {user} has no login any more"));
        }
        for ((table, request), inserted) in &expected.inserted {
            if table == "logins" {
                let known: Vec<i64> = logins.get(&email_of(request)).copied().into_iter().collect();
                let inserted = Inserted { id: Some(*user), ..inserted.clone() };
                judge_row(proof, &format!("logins {request}"), &inserted, &known);
            }
        }
    }
}

/// All logins: email to user.
async fn logins(session: &mut Session) -> Result<BTreeMap<String, i64>, Failure> {
    session.ensure().await?;
    let mut logins = BTreeMap::new();
    let mut after = i64::MIN;
    loop {
        let sql = "SELECT user_id, email FROM logins WHERE user_id > ? ORDER BY user_id LIMIT 5000";
        let rows = session.read(sql, vec![after.into()]).await?;
        let full = rows.len() == 5000;
        for row in rows {
            after = number(&row, 0)?;
            logins.insert(text(&row[1]), after);
        }
        if !full {
            return Ok(logins);
        }
    }
}

/// All groups, checked: request and id.
async fn groups(session: &mut Session, proof: &mut Proof) -> Result<Vec<(String, i64)>, Failure> {
    let mut groups = Vec::new();
    let mut after = i64::MIN;
    loop {
        let sql = select(&GROUPS, "WHERE group_id > ? ORDER BY group_id LIMIT 1000");
        let rows = session.read(&sql, vec![after.into()]).await?;
        let full = rows.len() == 1000;
        for row in rows {
            after = number(&row, 0)?;
            proof.rows += 1;
            match check(&GROUPS, row) {
                Ok(group) => groups.push((group.request, group.id)),
                Err(message) => proof.problem(message),
            }
        }
        if !full {
            return Ok(groups);
        }
    }
}

impl Proof {
    fn add(&mut self, part: Proof) {
        self.users += part.users;
        self.rows += part.rows;
        self.present += part.present;
        self.absent += part.absent;
        self.unknown_present += part.unknown_present;
        self.unknown_absent += part.unknown_absent;
        self.values += part.values;
        self.problem_count += part.problem_count;
        let room = TOLD_MAX.saturating_sub(self.problems.len());
        self.problems.extend(part.problems.into_iter().take(room));
    }
}
