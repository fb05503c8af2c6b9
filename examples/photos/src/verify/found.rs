//! All rows of one user, read in one transaction and checked column by column against their request ids.

use std::collections::{BTreeMap, HashMap};

use mysql_async::Value;

use crate::{
    cell::{cents, integer, text},
    content::{
        ALBUMS, COMMENTS, FAVOURITES, LEDGER, MEMBERS, PHOTOS, Table, USERS, bytes_of, tags_of, wealth_of,
    },
    failure::Failure,
    reads::{number, one_row},
    rows::{Stored, check, select},
    session::Session,
};

/// Rows of one page.
const PAGE: usize = 500;

/// What the database has of one user.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) request: String,
    pub(super) rows: u64,
    /// Request and id of each row, by table.
    pub(super) stored: BTreeMap<&'static str, Vec<(String, i64)>>,
    /// Value and number of changes, by table and key.
    pub(super) registers: HashMap<(&'static str, String), (String, u32)>,
    /// What does not fit together within the user.
    pub(super) problems: Vec<String>,
}

/// Reads everything of a user, except the row in `logins`.
pub(super) async fn find(session: &mut Session, user: i64) -> Result<Found, Failure> {
    let mut found = Found::default();
    // A transaction is one snapshot, and a proxy must take it from the writer.
    session.begin().await?;
    found.user(session, user).await?;
    found.photos(session, user).await?;
    for table in [&COMMENTS, &FAVOURITES] {
        found.pages(session, table, user).await?;
    }
    found.albums(session, user).await?;
    found.money(session, user).await?;
    found.preferences(session, user).await?;
    session.end(true).await?;
    found.pages(session, &MEMBERS, user).await?;
    Ok(found)
}

/// Only the row that makes a user, for one who never got further.
pub(super) async fn find_user_alone(session: &mut Session, user: i64) -> Result<Found, Failure> {
    let mut found = Found::default();
    session.begin().await?;
    found.user(session, user).await?;
    session.end(true).await?;
    Ok(found)
}

impl Found {
    fn problem(&mut self, message: String) {
        self.problems.push(message);
    }

    async fn user(&mut self, session: &mut Session, user: i64) -> Result<(), Failure> {
        let rows = session.read(&select(&USERS, "WHERE user_id = ?"), vec![user.into()]).await?;
        if rows.len() != 1 {
            self.problem(format!("{} rows in users", rows.len()));
        }
        for stored in self.checked(&USERS, rows) {
            let visits = stored.extra.first().and_then(integer).and_then(|count| u32::try_from(count).ok());
            let visit = stored.extra.get(1).map(text).unwrap_or_default();
            self.registers.insert(("users", "visit".into()), (visit, visits.unwrap_or(u32::MAX)));
            self.request = stored.request;
        }
        Ok(())
    }

    /// All rows of a table in pages by its id, checked and kept by request.
    async fn pages(
        &mut self,
        session: &mut Session,
        table: &'static Table,
        user: i64,
    ) -> Result<Vec<Stored>, Failure> {
        let key = page_key(table);
        let sql = select(table, &format!("WHERE user_id = ? AND {key} > ? ORDER BY {key} LIMIT {PAGE}"));
        let column = table.id.iter().chain(table.given).position(|column| *column == key).unwrap_or(0);
        let mut all = Vec::new();
        let mut after = i64::MIN;
        loop {
            let rows = session.read(&sql, vec![user.into(), after.into()]).await?;
            let full = rows.len() == PAGE;
            if let Some(last) = rows.last() {
                after = number(last, column)?;
            }
            all.extend(self.checked(table, rows));
            if !full {
                return Ok(all);
            }
        }
    }

    /// Keeps the rows that are what they say; one that is not is a problem.
    fn checked(&mut self, table: &'static Table, rows: Vec<mysql_async::Row>) -> Vec<Stored> {
        self.rows += rows.len() as u64;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            match check(table, row) {
                Ok(stored) => {
                    let kept = self.stored.entry(table.name).or_default();
                    kept.push((stored.request.clone(), stored.id));
                    all.push(stored);
                }
                Err(message) => self.problem(message),
            }
        }
        all
    }

    /// Photos with their tags, and the counters that must agree with them.
    async fn photos(&mut self, session: &mut Session, user: i64) -> Result<(), Failure> {
        let photos = self.pages(session, &PHOTOS, user).await?;
        let mut bytes = 0;
        for page in photos.chunks(PAGE) {
            self.tags(session, user, page).await?;
        }
        for photo in &photos {
            bytes += i64::from(bytes_of(&photo.request));
            let edits = photo.extra.first().and_then(integer).and_then(|count| u32::try_from(count).ok());
            let title = photo.given.get(1).map(text).unwrap_or_default();
            self.registers.insert(("photos", photo.id.to_string()), (title, edits.unwrap_or(u32::MAX)));
        }
        let sql = "SELECT c.photos, c.bytes, c.favourites, COUNT(f.photo_id) FROM counters c \
                   LEFT JOIN favourites f ON f.user_id = c.user_id WHERE c.user_id = ? \
                   GROUP BY c.user_id, c.photos, c.bytes, c.favourites";
        let counters = one_row(session.read(sql, vec![user.into()]).await?, sql, user)?;
        let photos = i64::try_from(photos.len()).unwrap_or(i64::MAX);
        let (counted, sum) = (number(&counters, 0)?, number(&counters, 1)?);
        if (counted, sum) != (photos, bytes) {
            self.problem(format!(
                "counters say {counted} photos of {sum} bytes; there are {photos} of {bytes}"
            ));
        }
        let (counted, favourites) = (number(&counters, 2)?, number(&counters, 3)?);
        if counted != favourites {
            self.problem(format!("counters say {counted} favourites; there are {favourites}"));
        }
        Ok(())
    }

    async fn tags(&mut self, session: &mut Session, user: i64, photos: &[Stored]) -> Result<(), Failure> {
        let (Some(first), Some(last)) = (photos.first(), photos.last()) else {
            return Ok(());
        };
        let sql = "SELECT photo_id, tag FROM tags WHERE user_id = ? AND photo_id BETWEEN ? AND ? \
                   ORDER BY photo_id, tag";
        let mut tags: HashMap<i64, Vec<String>> = HashMap::new();
        for row in session.read(sql, vec![user.into(), first.id.into(), last.id.into()]).await? {
            self.rows += 1;
            tags.entry(number(&row, 0)?).or_default().push(text(&row[1]));
        }
        for photo in photos {
            let found = tags.remove(&photo.id).unwrap_or_default();
            if found != tags_of(&photo.request) {
                self.problem(format!(
                    "photo {} has the tags {found:?}, not {:?}",
                    photo.id,
                    tags_of(&photo.request)
                ));
            }
        }
        if !tags.is_empty() {
            self.problem(format!("tags of photos that are not there: {:?}", tags.keys()));
        }
        Ok(())
    }

    async fn albums(&mut self, session: &mut Session, user: i64) -> Result<(), Failure> {
        let albums = self.pages(session, &ALBUMS, user).await?;
        let sql = "SELECT album_id, COUNT(*) FROM album_photos WHERE user_id = ? GROUP BY album_id";
        let mut sizes = HashMap::new();
        for row in session.read(sql, vec![user.into()]).await? {
            self.rows += u64::try_from(number(&row, 1)?).unwrap_or(0);
            sizes.insert(number(&row, 0)?, number(&row, 1)?);
        }
        for album in &albums {
            let (size, said) = (sizes.remove(&album.id).unwrap_or(0), given_number(album, 1));
            if size != said {
                self.problem(format!("album {} has {size} photos, not {said}", album.id));
            }
        }
        if !sizes.is_empty() {
            self.problem(format!("photos in albums that are not there: {:?}", sizes.keys()));
        }
        Ok(())
    }

    /// Each purse is what the sign-up put there plus what the ledger says.
    async fn money(&mut self, session: &mut Session, user: i64) -> Result<(), Failure> {
        let mut purses = BTreeMap::from([("main".to_string(), wealth_of(&self.request))]);
        for entry in self.pages(session, &LEDGER, user).await? {
            let purse = entry.given.get(1).map(text).unwrap_or_default();
            *purses.entry(purse).or_default() +=
                entry.given.get(2).and_then(cents).unwrap_or(i64::MAX / 1_000_000);
        }
        // The loader's entries are all on this purse and cancel each other out.
        let sql = "SELECT purse, amount FROM accounts WHERE user_id = ?";
        let mut amounts = BTreeMap::new();
        for row in session.read(sql, vec![user.into()]).await? {
            self.rows += 1;
            amounts.insert(text(&row[0]), cents(&row[1]).unwrap_or(i64::MIN));
        }
        for (purse, amount) in amounts {
            let booked = purses.remove(&purse).unwrap_or(0);
            if amount != booked {
                self.problem(format!("purse {purse} holds {amount} cents; the ledger says {booked}"));
            }
        }
        if !purses.is_empty() {
            self.problem(format!("purses that are not there: {purses:?}"));
        }
        Ok(())
    }

    async fn preferences(&mut self, session: &mut Session, user: i64) -> Result<(), Failure> {
        let sql = "SELECT name, value, changes FROM preferences WHERE user_id = ?";
        for row in session.read(sql, vec![user.into()]).await? {
            self.rows += 1;
            let changes = u32::try_from(number(&row, 2)?).unwrap_or(u32::MAX);
            self.registers.insert(("preferences", text(&row[0])), (text(&row[1]), changes));
        }
        Ok(())
    }
}

/// The column that pages are cut by.
fn page_key(table: &Table) -> &'static str {
    match (table.id, table.given) {
        (Some(id), _) => id,
        (None, given) if given.contains(&"photo_id") => "photo_id",
        _ => "group_id",
    }
}

fn given_number(stored: &Stored, place: usize) -> i64 {
    let value = stored.given.get(place).unwrap_or(&Value::NULL);
    integer(value).and_then(|number| i64::try_from(number).ok()).unwrap_or(i64::MIN)
}
