//! The load: gets to know everybody on the site, lets them live for a while, and reports.

use std::{
    cmp::Reverse,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use mysql_async::Value;
use parking_lot::{Mutex, RwLock};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    cell::text,
    failure::Failure,
    journal::{Journal, Note, Rows},
    people::{Known, Person, Population},
    reads::{number, one_row},
    report::Report,
    session::Session,
    tally::Live,
    target::Target,
    worker::{Shared, Worker},
};

/// People asked for at once when everybody is listed.
const PEOPLE_PAGE: usize = 5000;

/// What to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where to.
    pub target: Target,
    /// How long; [`Running::stop`] ends it earlier.
    pub duration: Duration,
    /// Connections in all, 2 to 1000; a quarter of them only read what the others have just written.
    pub connections: usize,
    /// Decides what people do; the interleaving is the machine's.
    pub seed: u64,
    /// The journal to write, which must not exist.
    pub journal: PathBuf,
    /// How long one statement may take before it counts as an error and its outcome as unknown.
    pub statement_timeout: Duration,
    /// Operations a second of all connections together; `None` is as many as are answered.
    pub rate: Option<f64>,
}

impl RunOptions {
    /// Ten seconds over sixteen connections as fast as answers come; a statement may take thirty seconds.
    pub fn new(target: Target, journal: impl Into<PathBuf>) -> Self {
        RunOptions {
            target,
            duration: Duration::from_secs(10),
            connections: 16,
            seed: 1,
            journal: journal.into(),
            statement_timeout: Duration::from_secs(30),
            rate: None,
        }
    }
}

/// A load under way.
#[derive(Debug)]
pub struct Running {
    live: Arc<Live>,
    whole: JoinHandle<Result<Report>>,
}

impl Running {
    /// The counters, to be read at any time.
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    /// Ends the load early, after the operations under way; [`Running::finish`] gives its report.
    pub fn stop(&self) {
        self.live.stop();
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The journal could not be written. Errors of the database are in the report.
    pub async fn finish(self) -> Result<Report> {
        self.whole.await?
    }
}

/// Runs the load from its start to its end.
///
/// # Errors
/// As [`start`] and [`Running::finish`].
pub async fn run(options: RunOptions) -> Result<Report> {
    start(options).await?.finish().await
}

/// Gets to know everybody on the site and starts the load; returns once it is running.
///
/// # Errors
/// The journal exists, nobody is loaded, or a first question was not answered.
pub async fn start(options: RunOptions) -> Result<Running> {
    ensure!((2..=1000).contains(&options.connections), "the load runs over 2 to 1000 connections");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let prefix = format!("r{:x}-{:x}", options.seed, now.as_micros());
    let journal = Journal::create(&options.journal, &prefix, options.seed)?;
    // Getting to know people is not part of what is measured.
    let getting_ready = Arc::new(Live::new(Duration::ZERO)?);
    let (population, groups) = meet(&options, &journal, &getting_ready).await?;
    ensure!(population.len() > 0, "there is nobody on the site: load people first");
    let live = Arc::new(Live::new(options.duration)?);
    let readers = options.connections / 4 + usize::from(options.connections < 4);
    let workers = options.connections - readers;
    let session = |number: u64| {
        let rng = StdRng::seed_from_u64(options.seed.wrapping_mul(1_000_003).wrapping_add(number));
        Session::new(options.target.clone(), options.statement_timeout, rng, Arc::clone(&live))
    };
    let think = options.rate.map_or(0.0, |rate| workers as f64 / rate.max(0.001));
    let shared = Arc::new(Shared {
        population,
        journal,
        live: Arc::clone(&live),
        readers: (0..readers)
            .map(|number| tokio::sync::Mutex::new(session(number as u64 + 1_000_000)))
            .collect(),
        prefix,
        next_op: AtomicU64::new(1),
        groups: RwLock::new(groups),
        ids: Mutex::default(),
        ends: Instant::now() + options.duration,
        think: Duration::try_from_secs_f64(think).unwrap_or(Duration::MAX),
    });
    let workers = (0..workers as u64)
        .map(|number| {
            let rng = StdRng::seed_from_u64(options.seed.wrapping_add(number.wrapping_mul(7919)));
            let worker =
                Worker { shared: Arc::clone(&shared), session: session(number), rng, acknowledged: 0 };
            tokio::spawn(worker.work())
        })
        .collect();
    Ok(Running { live, whole: tokio::spawn(complete(shared, workers)) })
}

async fn complete(shared: Arc<Shared>, workers: Vec<JoinHandle<Result<(), Failure>>>) -> Result<Report> {
    let mut broken = None;
    for worker in workers {
        if let Err(failure) = worker.await? {
            shared.live.stop();
            broken.get_or_insert(failure);
        }
    }
    for reader in &shared.readers {
        reader.lock().await.disconnect().await;
    }
    let shared = Arc::into_inner(shared).context("a part of the load is still running")?;
    shared.journal.close();
    match broken {
        Some(failure) => Err(anyhow!(failure.text())),
        None => Ok(Report::of(&shared.live)),
    }
}

/// Everybody on the site with the rows they have, noted in the journal, and the groups there are.
async fn meet(options: &RunOptions, journal: &Journal, live: &Arc<Live>) -> Result<(Population, Vec<i64>)> {
    let session = |number: u64| {
        let rng = StdRng::seed_from_u64(number);
        Session::new(options.target.clone(), options.statement_timeout, rng, Arc::clone(live))
    };
    let mut first = session(0);
    let users = Arc::new(everybody(&mut first).await.map_err(told)?);
    let groups = all_groups(&mut first).await.map_err(told)?;
    first.disconnect().await;
    let next = Arc::new(AtomicUsize::new(0));
    let meetings = (0..options.connections as u64).map(|number| {
        let (users, next, mut session) = (Arc::clone(&users), Arc::clone(&next), session(number));
        tokio::spawn(async move {
            let mut met = Vec::new();
            session.ensure().await?;
            while let Some(user) = users.get(next.fetch_add(1, Relaxed)) {
                met.push(acquaintance(&mut session, *user).await?);
            }
            session.disconnect().await;
            Ok::<_, Failure>(met)
        })
    });
    let mut people = Vec::with_capacity(users.len());
    for meeting in meetings.collect::<Vec<_>>() {
        people.extend(meeting.await?.map_err(told)?);
    }
    // Who has most photos is busiest.
    people.sort_by_key(|(person, rows)| (Reverse(rows.photos), person.id));
    let population = Population::default();
    for (person, rows) in people {
        journal.note(&Note::User { user: person.id, rows }).await?;
        population.join(Arc::new(person));
    }
    Ok((population, groups))
}

fn told(failure: Failure) -> anyhow::Error {
    anyhow!("cannot get to know the site: {}", failure.text())
}

/// All user ids, lowest first, from the unsharded table of logins.
pub(crate) async fn everybody(session: &mut Session) -> Result<Vec<i64>, Failure> {
    session.ensure().await?;
    let mut users = Vec::new();
    loop {
        let after = users.last().copied().unwrap_or(i64::MIN);
        let sql =
            format!("SELECT user_id FROM logins WHERE user_id > ? ORDER BY user_id LIMIT {PEOPLE_PAGE}");
        let rows = session.read(&sql, vec![after.into()]).await?;
        let full = rows.len() == PEOPLE_PAGE;
        for row in rows {
            users.push(number(&row, 0)?);
        }
        if !full {
            return Ok(users);
        }
    }
}

async fn all_groups(session: &mut Session) -> Result<Vec<i64>, Failure> {
    let rows =
        session.read("SELECT group_id FROM photo_groups ORDER BY group_id LIMIT 10000", vec![]).await?;
    rows.iter().map(|row| number(row, 0)).collect()
}

/// What is there of one person before the load begins.
async fn acquaintance(session: &mut Session, user: i64) -> Result<(Person, Rows), Failure> {
    let key = || -> Vec<Value> { vec![user.into()] };
    let sql = "SELECT request_id, visits FROM users WHERE user_id = ?";
    let row = one_row(session.read(sql, key()).await?, sql, user)?;
    let (request, visits) = (text(&row[0]), u32::try_from(number(&row, 1)?).unwrap_or(u32::MAX));
    let mut counts = [0; 5];
    for (count, table) in counts.iter_mut().zip(["photos", "comments", "albums", "favourites", "ledger"]) {
        let sql = format!("SELECT COUNT(*) FROM {table} WHERE user_id = ?");
        *count = number(&one_row(session.read(&sql, key()).await?, &sql, user)?, 0)?;
    }
    let [photos, comments, albums, favourites, ledger] = counts;
    let joined = session.read("SELECT group_id FROM group_members WHERE user_id = ?", key()).await?;
    let joined = joined.iter().map(|row| number(row, 0)).collect::<Result<Vec<_>, _>>()?;
    let memberships = i64::try_from(joined.len()).unwrap_or(i64::MAX);
    let rows = Rows { photos, comments, albums, favourites, ledger, memberships };
    let mut person = Person::new(user, request, rows, visits);
    person.own.get_mut().groups.extend(joined);
    let sql =
        "SELECT photo_id, request_id, edits FROM photos WHERE user_id = ? ORDER BY photo_id DESC LIMIT 32";
    for row in session.read(sql, key()).await?.iter().rev() {
        let id = number(row, 0)?;
        let edits = u32::try_from(number(row, 2)?).ok();
        person.own.get_mut().edits.insert(id, edits);
        person.remember(Known { id, request: text(&row[1]) });
    }
    Ok((person, rows))
}
