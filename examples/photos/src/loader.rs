//! A site that has been running for a while: people of very different sizes, loaded over several connections.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use mysql_async::{Conn, Params, Row, Value, prelude::Queryable as _};
use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    cell::{decimal, integer, text},
    content::{
        ALBUMS, COMMENTS, FAVOURITES, GROUPS, LEDGER, MEMBERS, PHOTOS, PURSES, Seeded, USERS, bytes_of,
        email_of, tags_of, title_of, wealth_of,
    },
    rows::{insert, plain},
    target::Target,
};

/// Rows of one INSERT.
const ROWS_PER_INSERT: usize = 100;
const GROUPS_LOADED: usize = 12;

/// What to load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where to.
    pub target: Target,
    /// People to sign up. Those already loaded with the same seed are left alone.
    pub users: usize,
    /// Decides all content; the same seed makes the same rows (ids aside).
    pub seed: u64,
    /// Photos of the largest user; the n-th has an n-th of it, but at least two.
    pub largest: usize,
    /// Connections to load over.
    pub connections: usize,
}

impl LoadOptions {
    /// Five hundred people over four connections: some forty thousand rows.
    pub fn new(target: Target) -> Self {
        LoadOptions { target, users: 500, seed: 1, largest: 1500, connections: 4 }
    }
}

/// What has been loaded.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    /// People signed up by this call.
    pub users: usize,
    /// People found loaded already.
    pub users_found: usize,
    /// Rows inserted into all tables.
    pub rows: u64,
    /// Time taken.
    pub seconds: f64,
    /// The largest people of this load, with their number of photos, largest first; at most 25.
    pub largest: Vec<(i64, usize)>,
}

struct Loading {
    options: LoadOptions,
    next: AtomicUsize,
    found: AtomicUsize,
    rows: AtomicU64,
    /// Everybody loaded so far, to be authors of comments.
    people: Mutex<Vec<(i64, usize)>>,
}

/// Loads people with their photos, comments, albums, favourites and groups.
///
/// # Errors
/// The first statement refused. People loaded before it stay; calling again with the same seed adds the missing.
pub async fn load(options: LoadOptions) -> Result<LoadReport> {
    let started = Instant::now();
    let connections = options.connections.max(1);
    let loading = Arc::new(Loading {
        options,
        next: AtomicUsize::new(0),
        found: AtomicUsize::new(0),
        rows: AtomicU64::new(0),
        people: Mutex::default(),
    });
    let groups = Arc::new(loading.groups().await?);
    let workers: Vec<_> =
        (0..connections).map(|_| tokio::spawn(Arc::clone(&loading).work(Arc::clone(&groups)))).collect();
    for worker in workers {
        worker.await??;
    }
    let mut largest = loading.people.lock().clone();
    let users_found = loading.found.load(Relaxed);
    let users = largest.len() - users_found;
    largest.sort_by_key(|(id, photos)| (std::cmp::Reverse(*photos), *id));
    largest.truncate(25);
    let rows = loading.rows.load(Relaxed);
    Ok(LoadReport { users, users_found, rows, seconds: started.elapsed().as_secs_f64(), largest })
}

impl Loading {
    async fn groups(&self) -> Result<Vec<i64>> {
        let mut conn = self.options.target.connect().await?;
        let mut groups = Vec::new();
        for number in 0..GROUPS_LOADED {
            let request = format!("L{:x}-g{number}", self.options.seed);
            let found: Option<i64> = conn
                .exec_first("SELECT group_id FROM photo_groups WHERE request_id = ?", (&request,))
                .await?;
            groups.push(match found {
                Some(id) => id,
                None => self.one(&mut conn, insert(&GROUPS, &[(vec![], request)])).await?,
            });
        }
        conn.disconnect().await?;
        Ok(groups)
    }

    async fn work(self: Arc<Self>, groups: Arc<Vec<i64>>) -> Result<()> {
        let mut conn = self.options.target.connect().await?;
        loop {
            let rank = self.next.fetch_add(1, Relaxed);
            if rank >= self.options.users {
                break;
            }
            self.person(&mut conn, rank, &groups).await.with_context(|| format!("loading person {rank}"))?;
        }
        Ok(conn.disconnect().await?)
    }

    async fn person(&self, conn: &mut Conn, rank: usize, groups: &[i64]) -> Result<()> {
        let request = format!("L{:x}-u{rank}", self.options.seed);
        let photos = (self.options.largest / (rank + 1)).max(2);
        let found: Option<i64> =
            conn.exec_first("SELECT user_id FROM logins WHERE email = ?", (email_of(&request),)).await?;
        if let Some(id) = found {
            self.found.fetch_add(1, Relaxed);
            self.people.lock().push((id, photos));
            return Ok(());
        }
        let user = self.one(conn, insert(&USERS, &[(vec![], request.clone())])).await?;
        ensure!(user > 0, "the sign-up gave no id");
        // One transaction a person: quick, and nobody is there by half.
        conn.query_drop("BEGIN").await?;
        self.belongings(conn, user, &request, photos).await?;
        conn.query_drop("COMMIT").await?;
        self.unsharded(conn, user, &request, groups).await?;
        self.people.lock().push((user, photos));
        Ok(())
    }

    async fn belongings(&self, conn: &mut Conn, user: i64, request: &str, photos: usize) -> Result<()> {
        let requests: Vec<String> = (0..photos).map(|number| format!("{request}-p{number}")).collect();
        let rows =
            requests.iter().map(|photo| (vec![Value::Int(user), title_of(photo).into()], photo.clone()));
        self.many(conn, &PHOTOS, rows.collect()).await?;
        let known: Vec<Row> = conn
            .exec("SELECT photo_id, request_id FROM photos WHERE user_id = ? ORDER BY photo_id", (user,))
            .await?;
        ensure!(
            known.len() == photos,
            "{} photos of user {user} came back and should be {photos}",
            known.len()
        );
        let mut ids = Vec::with_capacity(photos);
        for row in known {
            let values = row.unwrap();
            let id = values.first().and_then(integer).and_then(|id| i64::try_from(id).ok());
            ids.push((id.context("a photo id is no number")?, values.get(1).map(text).unwrap_or_default()));
        }
        self.tags(conn, user, &ids).await?;
        self.comments(conn, user, request, &ids).await?;
        self.albums(conn, user, request, &ids).await?;
        let favourites = self.favourites(conn, user, request, photos).await?;
        self.money(conn, user, request).await?;
        let bytes: u64 = requests.iter().map(|photo| u64::from(bytes_of(photo))).sum();
        let counters = "INSERT INTO counters (user_id, photos, bytes, favourites) VALUES (?, ?, ?, ?)";
        let params =
            vec![user.into(), Value::UInt(photos as u64), bytes.into(), Value::UInt(favourites as u64)];
        self.one(conn, (counters.into(), params)).await?;
        Ok(())
    }

    async fn tags(&self, conn: &mut Conn, user: i64, photos: &[(i64, String)]) -> Result<()> {
        let tags =
            photos.iter().flat_map(|(id, request)| tags_of(request).into_iter().map(move |tag| (*id, tag)));
        let rows = tags.map(|(photo, tag)| vec![user.into(), photo.into(), tag.into()]);
        self.plain_rows(conn, "tags (user_id, photo_id, tag)", rows.collect()).await
    }

    async fn comments(
        &self,
        conn: &mut Conn,
        user: i64,
        request: &str,
        photos: &[(i64, String)],
    ) -> Result<()> {
        let mut seeded = Seeded::from_text(&format!("comments {request}"));
        let authors: Vec<i64> = self.people.lock().iter().map(|(id, _)| *id).chain([user]).collect();
        let mut rows = Vec::new();
        for (photo, _) in photos {
            for _ in 0..seeded.below(3) {
                let author = authors[(seeded.next() % authors.len() as u64) as usize];
                let given = vec![user.into(), (*photo).into(), author.into()];
                rows.push((given, format!("{request}-c{}", rows.len())));
            }
        }
        self.many(conn, &COMMENTS, rows).await
    }

    async fn albums(
        &self,
        conn: &mut Conn,
        user: i64,
        request: &str,
        photos: &[(i64, String)],
    ) -> Result<()> {
        for (number, chunk) in photos.chunks(20).take(10).enumerate() {
            let given = vec![user.into(), Value::UInt(chunk.len() as u64)];
            let row = (given, format!("{request}-a{number}"));
            let album = self.one(conn, insert(&ALBUMS, &[row])).await?;
            let rows = chunk.iter().enumerate();
            let rows = rows.map(|(place, (photo, _))| {
                vec![user.into(), album.into(), (*photo).into(), Value::UInt(place as u64)]
            });
            self.plain_rows(conn, "album_photos (user_id, album_id, photo_id, place)", rows.collect())
                .await?;
        }
        Ok(())
    }

    /// Favourites of photos that were there long ago: their ids lie below zero, so that no real one is ever met.
    async fn favourites(&self, conn: &mut Conn, user: i64, request: &str, photos: usize) -> Result<usize> {
        let count = photos.min(200);
        let rows = (0..count).map(|number| {
            let photo = -1 - i64::try_from(number).unwrap_or(0);
            (vec![user.into(), photo.into(), user.into()], format!("{request}-f{number}"))
        });
        self.many(conn, &FAVOURITES, rows.collect()).await?;
        Ok(count)
    }

    async fn money(&self, conn: &mut Conn, user: i64, request: &str) -> Result<()> {
        self.plain_rows(conn, "accounts (user_id, purse, amount)", purses(user, request)).await?;
        let mut seeded = Seeded::from_text(&format!("ledger {request}"));
        let mut rows = Vec::new();
        // Each pair takes from one purse and gives it back, so that the purses stay as they are.
        for number in 0..2 * seeded.below(4) {
            let amount = decimal(if number % 2 == 0 { 1234 } else { -1234 });
            rows.push((vec![user.into(), "tips".into(), amount.into()], format!("{request}-l{number}")));
        }
        self.many(conn, &LEDGER, rows).await
    }

    async fn unsharded(&self, conn: &mut Conn, user: i64, request: &str, groups: &[i64]) -> Result<()> {
        let mut seeded = Seeded::from_text(&format!("groups {request}"));
        let chosen = seeded.next();
        let joined = groups.iter().enumerate().filter(|(place, _)| chosen >> (place * 2) & 3 == 0);
        let rows =
            joined.map(|(place, group)| (vec![(*group).into(), user.into()], format!("{request}-m{place}")));
        self.many(conn, &MEMBERS, rows.collect()).await?;
        let login = "INSERT INTO logins (email, user_id) VALUES (?, ?)";
        self.one(conn, (login.into(), vec![email_of(request).into(), user.into()])).await?;
        Ok(())
    }

    async fn many(
        &self,
        conn: &mut Conn,
        table: &crate::content::Table,
        rows: Vec<(Vec<Value>, String)>,
    ) -> Result<()> {
        for chunk in rows.chunks(ROWS_PER_INSERT) {
            let (sql, params) = insert(table, chunk);
            self.send(conn, &sql, params, chunk.len() as u64).await?;
        }
        Ok(())
    }

    async fn plain_rows(&self, conn: &mut Conn, into: &str, rows: Vec<Vec<Value>>) -> Result<()> {
        for chunk in rows.chunks(ROWS_PER_INSERT) {
            let (sql, params) = values_insert(into, chunk);
            self.send(conn, &sql, params, chunk.len() as u64).await?;
        }
        Ok(())
    }

    /// One row by a prepared statement; returns the generated id.
    async fn one(&self, conn: &mut Conn, (sql, params): (String, Vec<Value>)) -> Result<i64> {
        conn.exec_drop(&sql, Params::Positional(params)).await?;
        self.rows.fetch_add(1, Relaxed);
        Ok(conn.last_insert_id().and_then(|id| i64::try_from(id).ok()).unwrap_or(0))
    }

    async fn send(&self, conn: &mut Conn, sql: &str, params: Vec<Value>, rows: u64) -> Result<()> {
        conn.query_drop(plain(sql, &params)).await?;
        ensure!(conn.affected_rows() == rows, "{} rows inserted and should be {rows}", conn.affected_rows());
        self.rows.fetch_add(rows, Relaxed);
        Ok(())
    }
}

/// The three purses of a new person.
pub(crate) fn purses(user: i64, request: &str) -> Vec<Vec<Value>> {
    let amounts = [wealth_of(request), 0, 0];
    let purses = PURSES.iter().zip(amounts);
    purses.map(|(purse, amount)| vec![user.into(), (*purse).into(), decimal(amount).into()]).collect()
}

/// One INSERT of many rows; `into` is the table with its columns.
pub(crate) fn values_insert(into: &str, rows: &[Vec<Value>]) -> (String, Vec<Value>) {
    let one = format!("({})", vec!["?"; rows.first().map_or(0, Vec::len)].join(", "));
    let sql = format!("INSERT INTO {into} VALUES {}", vec![one; rows.len()].join(", "));
    (sql, rows.concat())
}
