//! What people look at. Every answer is compared with what it must be.

use std::sync::atomic::Ordering::Relaxed;

use mysql_async::{Row, Value};
use rand::{Rng as _, rngs::StdRng};

use crate::{
    cell::{cents, integer, text},
    content::{COMMENTS, FAVOURITES, PHOTOS, Table, USERS, email_of, tags_of, wealth_of},
    failure::Failure,
    people::{Before, Person, Span},
    rows::{Stored, check, select},
    session::Session,
    worker::Shared,
};

type Checked = Result<(), Failure>;

/// The person's own page: every column of their row, and the counters beside it.
pub(crate) async fn profile(session: &mut Session, shared: &Shared, person: &Person) -> Checked {
    let (photos, favourites) = (person.photos.before(), person.favourites.before());
    let rows = session.read(&select(&USERS, "WHERE user_id = ?"), vec![person.id.into()]).await?;
    let user = only(checked(shared, &USERS, rows)?, "users", person.id)?;
    if user.request != person.request {
        return Err(Failure::wrong(format!(
            "user {} came back as another person: {}",
            person.id, user.request
        )));
    }
    let sql = "SELECT photos, favourites FROM counters WHERE user_id = ?";
    let counters = one_row(session.read(sql, vec![person.id.into()]).await?, sql, person.id)?;
    within(shared, &person.photos, photos, number(&counters, 0)?, "counters.photos", person)?;
    within(shared, &person.favourites, favourites, number(&counters, 1)?, "counters.favourites", person)
}

/// The newest photos with their tags.
pub(crate) async fn stream(session: &mut Session, shared: &Shared, person: &Person) -> Checked {
    let mut known: Vec<i64> = person.gallery.lock().iter().map(|photo| photo.id).collect();
    known.sort_unstable_by(|one, other| other.cmp(one));
    let newest = known.first().copied();
    // A page begins where the last one ended, as sites do it: the twenty newest that are known, and what came since.
    let from = known.get(19).or_else(|| known.last()).copied().unwrap_or(i64::MIN);
    let sql = "SELECT p.photo_id, p.request_id, t.tag FROM photos p \
               LEFT JOIN tags t ON t.user_id = p.user_id AND t.photo_id = p.photo_id \
               WHERE p.user_id = ? AND p.photo_id >= ? ORDER BY p.photo_id DESC, t.tag LIMIT 100";
    let rows = session.read(sql, vec![person.id.into(), from.into()]).await?;
    let full = rows.len() == 100;
    let mut photos: Vec<(i64, String, Vec<String>)> = Vec::new();
    for row in rows {
        let (id, request) = (number(&row, 0)?, text(&row[1]));
        if photos.last().is_none_or(|(last, ..)| *last != id) {
            photos.push((id, request, Vec::new()));
        }
        if let (Some((.., tags)), false) = (photos.last_mut(), row[2] == Value::NULL) {
            tags.push(text(&row[2]));
        }
    }
    if photos.first().map(|(id, ..)| *id) < newest {
        return Err(Failure::wrong(format!(
            "user {}'s newest photos do not begin with {newest:?}",
            person.id
        )));
    }
    let whole = photos.len() - usize::from(full);
    for (id, request, tags) in photos.iter().take(whole) {
        shared.live.checks.fetch_add(1, Relaxed);
        if *tags != tags_of(request) {
            let message = format!("photo {id} of user {} has the tags {tags:?}", person.id);
            return Err(Failure::wrong(format!("{message} and should have {:?}", tags_of(request))));
        }
    }
    Ok(())
}

/// One photo in full and what people say about it.
pub(crate) async fn photo_page(
    session: &mut Session,
    shared: &Shared,
    person: &Person,
    rng: &mut StdRng,
) -> Checked {
    let Some(known) = person.some_photo(rng) else {
        return profile(session, shared, person).await;
    };
    let keys = || vec![person.id.into(), known.id.into()];
    let rows = session.read(&select(&PHOTOS, "WHERE user_id = ? AND photo_id = ?"), keys()).await?;
    let photo = only(checked(shared, &PHOTOS, rows)?, "photos", known.id)?;
    if photo.request != known.request {
        return Err(Failure::wrong(format!(
            "photo {} came back as {}, not {}",
            known.id, photo.request, known.request
        )));
    }
    let condition = "WHERE user_id = ? AND photo_id = ? ORDER BY comment_id DESC LIMIT 50";
    let comments = checked(shared, &COMMENTS, session.read(&select(&COMMENTS, condition), keys()).await?)?;
    let stray =
        comments.iter().find(|comment| comment.given.get(1).and_then(integer) != Some(known.id.into()));
    stray.map_or(Ok(()), |comment| {
        Err(Failure::wrong(format!("comment {} is not of photo {}", comment.id, known.id)))
    })
}

/// Counts and sums: the counters must agree with the rows in one and the same statement.
pub(crate) async fn statistics(session: &mut Session, shared: &Shared, person: &Person) -> Checked {
    let (photos, comments) = (person.photos.before(), person.comments.before());
    let sql = "SELECT c.photos, c.bytes, COUNT(p.photo_id), COALESCE(SUM(p.bytes), 0) FROM counters c \
               LEFT JOIN photos p ON p.user_id = c.user_id WHERE c.user_id = ? GROUP BY c.user_id, c.photos, c.bytes";
    let row = one_row(session.read(sql, vec![person.id.into()]).await?, sql, person.id)?;
    same(shared, number(&row, 0)?, number(&row, 2)?, "counters.photos and the photos", person)?;
    same(shared, number(&row, 1)?, number(&row, 3)?, "counters.bytes and the photos' bytes", person)?;
    let sql = "SELECT visibility, COUNT(*) AS shown FROM photos WHERE user_id = ? GROUP BY visibility ORDER BY shown";
    let mut total = 0;
    for row in session.read(sql, vec![person.id.into()]).await? {
        total += number(&row, 1)?;
    }
    within(shared, &person.photos, photos, total, "photos by visibility", person)?;
    let sql = "SELECT COUNT(*) FROM comments WHERE user_id = ?";
    let row = one_row(session.read(sql, vec![person.id.into()]).await?, sql, person.id)?;
    within(shared, &person.comments, comments, number(&row, 0)?, "comments", person)
}

/// Purses and ledger: whatever is moved, the sums stay.
pub(crate) async fn money(session: &mut Session, shared: &Shared, person: &Person) -> Checked {
    let ledger = person.ledger.before();
    let sql = "SELECT SUM(amount) FROM accounts WHERE user_id = ?";
    let row = one_row(session.read(sql, vec![person.id.into()]).await?, sql, person.id)?;
    let wealth = cents(&row[0]).ok_or_else(|| Failure::wrong("a sum of money is no decimal"))?;
    same(shared, wealth, wealth_of(&person.request), "the purses' sum and the balance", person)?;
    let sql = "SELECT COUNT(*), COALESCE(SUM(amount), 0) FROM ledger WHERE user_id = ?";
    let row = one_row(session.read(sql, vec![person.id.into()]).await?, sql, person.id)?;
    let sum = cents(&row[1]).ok_or_else(|| Failure::wrong("a sum of money is no decimal"))?;
    same(shared, sum, 0, "the ledger's sum and zero", person)?;
    within(shared, &person.ledger, ledger, number(&row, 0)?, "ledger", person)
}

/// What the person likes.
pub(crate) async fn favourites(session: &mut Session, shared: &Shared, person: &Person) -> Checked {
    let before = person.favourites.before();
    let sql = select(&FAVOURITES, "WHERE user_id = ? ORDER BY photo_id DESC LIMIT 30");
    let favourites = session.read(&sql, vec![person.id.into()]).await?;
    checked(shared, &FAVOURITES, favourites)?;
    let sql = "SELECT COUNT(DISTINCT photo_id) FROM favourites WHERE user_id = ?";
    let row = one_row(session.read(sql, vec![person.id.into()]).await?, sql, person.id)?;
    within(shared, &person.favourites, before, number(&row, 0)?, "favourites", person)
}

/// Albums, each with as many photos as it says.
pub(crate) async fn albums(session: &mut Session, shared: &Shared, person: &Person) -> Checked {
    let sql = "SELECT a.album_id, a.size, COUNT(b.photo_id) FROM albums a \
               LEFT JOIN album_photos b ON b.user_id = a.user_id AND b.album_id = a.album_id \
               WHERE a.user_id = ? GROUP BY a.album_id, a.size ORDER BY a.album_id DESC LIMIT 10";
    for row in session.read(sql, vec![person.id.into()]).await? {
        same(shared, number(&row, 1)?, number(&row, 2)?, "albums.size and its photos", person)?;
    }
    Ok(())
}

/// The groups the person is in: a join of two unsharded tables.
pub(crate) async fn groups(session: &mut Session, shared: &Shared, person: &Person) -> Checked {
    let before = person.memberships.before();
    let sql = "SELECT g.group_id, g.name, m.role FROM group_members m \
               JOIN photo_groups g ON g.group_id = m.group_id WHERE m.user_id = ? ORDER BY g.group_id";
    let rows = session.read(sql, vec![person.id.into()]).await?;
    let found = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    within(shared, &person.memberships, before, found, "group_members", person)
}

/// From the email address to the user.
pub(crate) async fn login(session: &mut Session, shared: &Shared, person: &Person) -> Checked {
    let sql = "SELECT user_id FROM logins WHERE email = ?";
    let row = one_row(session.read(sql, vec![email_of(&person.request).into()]).await?, sql, person.id)?;
    same(shared, number(&row, 0)?, person.id, "logins.user_id and the person", person)
}

/// Somebody who has never been here has nothing, and asking is no error.
pub(crate) async fn stranger(session: &mut Session, shared: &Shared, rng: &mut StdRng) -> Checked {
    let id = 4_000_000_000_000_000_000 + rng.random_range(0..1_000_000_i64);
    let rows = session.read("SELECT photo_id, title FROM photos WHERE user_id = ?", vec![id.into()]).await?;
    let sql = "SELECT COUNT(*), SUM(photos) FROM counters WHERE user_id = ?";
    let row = one_row(session.read(sql, vec![id.into()]).await?, sql, id)?;
    shared.live.checks.fetch_add(1, Relaxed);
    if !rows.is_empty() || number(&row, 0)? != 0 || row[1] != Value::NULL {
        return Err(Failure::wrong(format!(
            "user {id} was never here and has {} photos and {row:?}",
            rows.len()
        )));
    }
    Ok(())
}

/// In one transaction the same question has the same answer.
pub(crate) async fn same_twice(session: &mut Session, shared: &Shared, person: &Person) -> Checked {
    session.begin().await?;
    let sql = "SELECT COUNT(*) FROM comments WHERE user_id = ?";
    let first = one_row(session.read(sql, vec![person.id.into()]).await?, sql, person.id)?;
    let profile = "SELECT name, plan FROM users WHERE user_id = ?";
    one_row(session.read(profile, vec![person.id.into()]).await?, profile, person.id)?;
    let second = one_row(session.read(sql, vec![person.id.into()]).await?, sql, person.id)?;
    session.end(true).await?;
    same(shared, number(&second, 0)?, number(&first, 0)?, "two counts in one transaction", person)
}

/// Checks each row against its request id.
pub(crate) fn checked(shared: &Shared, table: &Table, rows: Vec<Row>) -> Result<Vec<Stored>, Failure> {
    shared.live.checks.fetch_add(rows.len() as u64, Relaxed);
    rows.into_iter().map(|row| check(table, row).map_err(Failure::wrong)).collect()
}

/// The one row there must be.
pub(crate) fn only(mut rows: Vec<Stored>, table: &str, key: i64) -> Result<Stored, Failure> {
    match (rows.pop(), rows.len()) {
        (Some(row), 0) => Ok(row),
        (_, others) => Err(Failure::wrong(format!("{table}: no row, or {others} more than one, for {key}"))),
    }
}

pub(crate) fn one_row(mut rows: Vec<Row>, sql: &str, key: i64) -> Result<Row, Failure> {
    match (rows.pop(), rows.len()) {
        (Some(row), 0) => Ok(row),
        (_, others) => Err(Failure::wrong(format!("no row, or {others} more than one, for {key}: {sql}"))),
    }
}

pub(crate) fn number(row: &Row, column: usize) -> Result<i64, Failure> {
    let found = row.as_ref(column).and_then(integer).and_then(|number| i64::try_from(number).ok());
    found.ok_or_else(|| Failure::wrong(format!("column {column} is no whole number: {row:?}")))
}

fn same(shared: &Shared, found: i64, expected: i64, what: &str, person: &Person) -> Checked {
    shared.live.checks.fetch_add(1, Relaxed);
    if found != expected {
        return Err(Failure::wrong(format!("{what} of user {} differ: {found} and {expected}", person.id)));
    }
    Ok(())
}

fn within(shared: &Shared, span: &Span, before: Before, found: i64, what: &str, person: &Person) -> Checked {
    shared.live.checks.fetch_add(1, Relaxed);
    let (least, most) = span.bounds(before);
    if !(least..=most).contains(&found) {
        let message = format!("{what} of user {}: {found}, and only {least} to {most} can be", person.id);
        return Err(Failure::wrong(message));
    }
    Ok(())
}
