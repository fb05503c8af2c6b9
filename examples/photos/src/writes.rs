//! What people change. Each operation is noted, sent, noted again, and then looked for, often over another connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use mysql_async::Value;
use rand::Rng as _;

use crate::{
    cell::{cents, decimal, integer, text},
    content::{
        ALBUMS, COMMENTS, FAVOURITES, GROUPS, LEDGER, MEMBERS, PHOTOS, PURSES, Table, USERS, bytes_of,
        email_of, tags_of, title_of, wealth_of,
    },
    failure::Failure,
    journal::{Outcome, Rows, Write},
    loader::{purses, values_insert},
    people::{Known, Own, Person},
    reads::{checked, number, one_row},
    rows::{EDITED, insert, select},
    tally::Kind,
    worker::{Done, Worker},
};

type Ended = Result<(), Failure>;

impl Worker {
    /// A photo with its tags and the counters, in one transaction.
    pub(crate) async fn upload(&mut self, person: &Person) -> Ended {
        let mut own = person.own.lock().await;
        let (number, request) = self.fresh();
        let op = self.intend(number, person.id, vec![Write::insert("photos", &request)]).await?;
        person.photos.add(1);
        let done = self.upload_steps(person.id, &request).await;
        let outcome = self.settle(op, &done).await?;
        person.photos.added(1, outcome);
        let done = done?;
        self.look_for(&PHOTOS, person.id, &[&request], &done).await?;
        if let (true, Some(id)) = (done.committed, done.ids.first()) {
            own.edits.insert(*id, Some(0));
            person.remember(Known { id: *id, request });
        }
        Ok(())
    }

    async fn upload_steps(&mut self, user: i64, request: &str) -> Result<Done, Failure> {
        self.session.begin().await?;
        let given = vec![user.into(), title_of(request).into()];
        let (sql, params) = insert(&PHOTOS, &[(given, request.to_string())]);
        let photo = self.session.write(&sql, params, 1).await?;
        if self.rng.random_bool(0.3) {
            let sql = "SELECT LAST_INSERT_ID()";
            let told = one_row(self.session.read(sql, vec![]).await?, sql, photo)?;
            if told.as_ref(0).and_then(integer) != Some(photo.into()) {
                return Err(Failure::wrong(format!("LAST_INSERT_ID() is {told:?} after the id {photo}")));
            }
        }
        let sql = "UPDATE counters SET photos = photos + 1, bytes = bytes + ? WHERE user_id = ?";
        self.session.write(sql, vec![bytes_of(request).into(), user.into()], 1).await?;
        let tags: Vec<_> =
            tags_of(request).iter().map(|tag| vec![user.into(), photo.into(), (*tag).into()]).collect();
        if !tags.is_empty() {
            let (sql, params) = values_insert("tags (user_id, photo_id, tag)", &tags);
            self.session.write(&sql, params, tags.len() as u64).await?;
        }
        self.finish(vec![photo]).await
    }

    /// One comment, now and then two in one statement, by somebody on this person's photo.
    pub(crate) async fn comment(&mut self, person: &Person) -> Ended {
        let Some(photo) = person.some_photo(&mut self.rng) else {
            return Ok(());
        };
        let author = self.shared.population.somebody(&mut self.rng).map_or(person.id, |author| author.id);
        let _own = person.own.lock().await;
        let (number, request) = self.fresh();
        let count = if self.rng.random_bool(0.1) { 2 } else { 1 };
        let requests: Vec<String> = (0..count).map(|part| format!("{request}-{part}")).collect();
        let writes = requests.iter().map(|request| Write::insert("comments", request)).collect();
        let op = self.intend(number, person.id, writes).await?;
        person.comments.add(count);
        let given = || vec![person.id.into(), photo.id.into(), author.into()];
        let rows: Vec<_> = requests.iter().map(|request| (given(), request.clone())).collect();
        let (sql, params) = insert(&COMMENTS, &rows);
        let done = self.lone_write(&sql, params, rows.len() as u64).await;
        let outcome = self.settle(op, &done).await?;
        person.comments.added(count, outcome);
        let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
        self.look_for(&COMMENTS, person.id, &requests, &done?).await
    }

    /// A new title for a photo.
    pub(crate) async fn edit(&mut self, person: &Person) -> Ended {
        let Some(photo) = person.some_photo(&mut self.rng) else {
            return Ok(());
        };
        let mut own = person.own.lock().await;
        let Some(count) = own.edits.get(&photo.id).copied().flatten() else {
            return Ok(());
        };
        let (number, request) = self.fresh();
        let title = format!("{EDITED}{request}");
        let write = Write::set("photos", &photo.id.to_string(), &title, count + 1);
        let op = self.intend(number, person.id, vec![write]).await?;
        let sql = "UPDATE photos SET title = ?, edits = edits + 1 WHERE user_id = ? AND photo_id = ?";
        let params = vec![title.clone().into(), person.id.into(), photo.id.into()];
        let done = self.lone_write(sql, params, 1).await;
        let outcome = self.settle(op, &done).await?;
        own.edits.insert(photo.id, changes_after(count, outcome));
        done?;
        let sql = "SELECT title, edits FROM photos WHERE user_id = ? AND photo_id = ?";
        self.look_for_value(sql, vec![person.id.into(), photo.id.into()], &title, count + 1).await
    }

    /// Somebody else's photo, liked.
    pub(crate) async fn favourite(&mut self, person: &Person) -> Ended {
        let owner = self.shared.population.somebody(&mut self.rng);
        let Some((owner, photo)) = owner.and_then(|owner| Some((owner.id, owner.some_photo(&mut self.rng)?)))
        else {
            return Ok(());
        };
        let mut own = person.own.lock().await;
        let Own { favoured, favourites, .. } = &mut *own;
        if self.favoured(person, favoured).await?.contains(&photo.id) {
            return Ok(());
        }
        let (number, request) = self.fresh();
        let op = self.intend(number, person.id, vec![Write::insert("favourites", &request)]).await?;
        person.favourites.add(1);
        let done = self.favourite_steps(person.id, photo.id, owner, &request).await;
        let outcome = self.settle(op, &done).await?;
        person.favourites.added(1, outcome);
        let known = favoured.get_or_insert_default();
        match outcome {
            Outcome::Ok => {
                known.insert(photo.id);
                favourites.push((photo.id, request.clone()));
            }
            Outcome::Unknown => drop(known.insert(photo.id)),
            Outcome::Failed => {}
        }
        self.look_for(&FAVOURITES, person.id, &[&request], &done?).await
    }

    async fn favourite_steps(
        &mut self,
        user: i64,
        photo: i64,
        owner: i64,
        request: &str,
    ) -> Result<Done, Failure> {
        self.session.begin().await?;
        let given = vec![user.into(), photo.into(), owner.into()];
        let (sql, params) = insert(&FAVOURITES, &[(given, request.to_string())]);
        self.session.write(&sql, params, 1).await?;
        let sql = "UPDATE counters SET favourites = favourites + 1 WHERE user_id = ?";
        self.session.write(sql, vec![user.into()], 1).await?;
        self.finish(Vec::new()).await
    }

    /// The photos that cannot be liked again; asked for at the first like.
    async fn favoured<'a>(
        &mut self,
        person: &Person,
        known: &'a mut Option<BTreeSet<i64>>,
    ) -> Result<&'a BTreeSet<i64>, Failure> {
        if known.is_none() {
            let sql = "SELECT photo_id FROM favourites WHERE user_id = ? AND photo_id > 0";
            let rows = self.session.read(sql, vec![person.id.into()]).await?;
            self.session.end(true).await?;
            *known = Some(rows.iter().map(|row| number(row, 0)).collect::<Result<_, _>>()?);
        }
        Ok(known.get_or_insert_default())
    }

    /// A favourite of this run, liked no more.
    pub(crate) async fn unfavourite(&mut self, person: &Person) -> Ended {
        let mut own = person.own.lock().await;
        if own.favourites.is_empty() {
            return Ok(());
        }
        let place = self.rng.random_range(0..own.favourites.len());
        let (photo, liked) = own.favourites.swap_remove(place);
        let (number, _) = self.fresh();
        let op = self.intend(number, person.id, vec![Write::delete("favourites", &liked)]).await?;
        person.favourites.remove(1);
        let done = self.unfavourite_steps(person.id, photo).await;
        let outcome = self.settle(op, &done).await?;
        person.favourites.removed(1, outcome);
        match outcome {
            Outcome::Ok => drop(own.favoured.get_or_insert_default().remove(&photo)),
            Outcome::Failed => own.favourites.push((photo, liked.clone())),
            Outcome::Unknown => {}
        }
        let gone = Done { ids: Vec::new(), committed: !done?.committed };
        self.look_for(&FAVOURITES, person.id, &[&liked], &gone).await
    }

    async fn unfavourite_steps(&mut self, user: i64, photo: i64) -> Result<Done, Failure> {
        self.session.begin().await?;
        let sql = "DELETE FROM favourites WHERE user_id = ? AND photo_id = ?";
        self.session.write(sql, vec![user.into(), photo.into()], 1).await?;
        let sql = "UPDATE counters SET favourites = favourites - 1 WHERE user_id = ?";
        self.session.write(sql, vec![user.into()], 1).await?;
        self.finish(Vec::new()).await
    }

    /// The person was here.
    pub(crate) async fn visit(&mut self, person: &Person) -> Ended {
        let mut own = person.own.lock().await;
        let Some(count) = own.visits else {
            return Ok(());
        };
        let (number, request) = self.fresh();
        let op =
            self.intend(number, person.id, vec![Write::set("users", "visit", &request, count + 1)]).await?;
        let seen = (FAVOURITES.derive)(&request).first().map_or(Value::NULL, |cell| cell.param());
        let sql = "UPDATE users SET visits = visits + 1, visit_id = ?, last_seen = ? WHERE user_id = ?";
        let params = vec![request.clone().into(), seen, person.id.into()];
        let done = self.lone_write(sql, params, 1).await;
        let outcome = self.settle(op, &done).await?;
        own.visits = changes_after(count, outcome);
        done?;
        let sql = "SELECT visit_id, visits FROM users WHERE user_id = ?";
        self.look_for_value(sql, vec![person.id.into()], &request, count + 1).await
    }

    /// A setting, written by REPLACE or by INSERT … ON DUPLICATE KEY UPDATE.
    pub(crate) async fn preference(&mut self, person: &Person) -> Ended {
        const NAMES: [&str; 4] = ["language", "theme", "digest ✉", "start page"];
        let name = NAMES[self.rng.random_range(0..NAMES.len())];
        let mut own = person.own.lock().await;
        if own.preferences.is_none() {
            own.preferences = Some(self.preferences(person.id).await?);
        }
        let known = own.preferences.get_or_insert_default();
        let Some(count) = known.get(name).copied().unwrap_or(Some(0)) else {
            return Ok(());
        };
        let (number, request) = self.fresh();
        let op = self
            .intend(number, person.id, vec![Write::set("preferences", name, &request, count + 1)])
            .await?;
        let done = self.preference_steps(person.id, name, &request, count).await;
        let outcome = self.settle(op, &done).await?;
        known.insert(name.into(), changes_after(count, outcome));
        done?;
        let sql = "SELECT value, changes FROM preferences WHERE user_id = ? AND name = ?";
        self.look_for_value(sql, vec![person.id.into(), name.into()], &request, count + 1).await
    }

    async fn preference_steps(
        &mut self,
        user: i64,
        name: &str,
        value: &str,
        count: u32,
    ) -> Result<Done, Failure> {
        let rows = if count == 0 { 1 } else { 2 };
        let mut params: Vec<Value> = vec![user.into(), name.into(), value.into()];
        let sql = if self.rng.random_bool(0.3) {
            params.push((count + 1).into());
            "REPLACE INTO preferences (user_id, name, value, changes) VALUES (?, ?, ?, ?)"
        } else {
            params.push(value.into());
            "INSERT INTO preferences (user_id, name, value, changes) VALUES (?, ?, ?, 1) \
             ON DUPLICATE KEY UPDATE value = ?, changes = changes + 1"
        };
        self.lone_write(sql, params, rows).await
    }

    async fn preferences(&mut self, user: i64) -> Result<BTreeMap<String, Option<u32>>, Failure> {
        let sql = "SELECT name, changes FROM preferences WHERE user_id = ?";
        let rows = self.session.read(sql, vec![user.into()]).await?;
        self.session.end(true).await?;
        let known = rows.iter().map(|row| Ok((text(&row[0]), u32::try_from(number(row, 1)?).ok())));
        known.collect()
    }

    /// Money from the fullest purse to another one: the sum stays.
    pub(crate) async fn transfer(&mut self, person: &Person) -> Ended {
        let _own = person.own.lock().await;
        let (number, request) = self.fresh();
        let requests = [format!("{request}-0"), format!("{request}-1")];
        let writes = requests.iter().map(|request| Write::insert("ledger", request)).collect();
        let op = self.intend(number, person.id, writes).await?;
        person.ledger.add(2);
        let done = self.transfer_steps(person, &requests).await;
        let outcome = self.settle(op, &done).await?;
        person.ledger.added(2, outcome);
        self.look_for(&LEDGER, person.id, &[&requests[0], &requests[1]], &done?).await
    }

    async fn transfer_steps(&mut self, person: &Person, requests: &[String; 2]) -> Result<Done, Failure> {
        self.session.begin().await?;
        let sql = "SELECT purse, amount FROM accounts WHERE user_id = ? FOR UPDATE";
        let mut purses = Vec::new();
        for row in self.session.read(sql, vec![person.id.into()]).await? {
            let amount = cents(&row[1]).ok_or_else(|| Failure::wrong("an amount is no decimal"))?;
            purses.push((amount, text(&row[0])));
        }
        purses.sort();
        let total: i64 = purses.iter().map(|(amount, _)| amount).sum();
        if purses.len() != PURSES.len() || total != wealth_of(&person.request) {
            return Err(Failure::wrong(format!("user {}'s purses are {purses:?} under a lock", person.id)));
        }
        let ((fullest, from), (_, to)) = (&purses[2], &purses[self.rng.random_range(0..2)]);
        if *fullest == 0 {
            self.session.end(false).await?;
            return Ok(Done { ids: Vec::new(), committed: false });
        }
        let amount = self.rng.random_range(1..=*fullest);
        let sql = "UPDATE accounts SET amount = amount - ? WHERE user_id = ? AND purse = ?";
        self.session.write(sql, vec![decimal(amount).into(), person.id.into(), from.into()], 1).await?;
        let sql = "UPDATE accounts SET amount = amount + ? WHERE user_id = ? AND purse = ?";
        self.session.write(sql, vec![decimal(amount).into(), person.id.into(), to.into()], 1).await?;
        let entry = |purse: &str, amount: i64| vec![person.id.into(), purse.into(), decimal(amount).into()];
        let rows = [(entry(from, -amount), requests[0].clone()), (entry(to, amount), requests[1].clone())];
        let (sql, params) = insert(&LEDGER, &rows);
        let first = self.session.write(&sql, params, 2).await?;
        self.finish(vec![first]).await
    }

    /// An album of some photos.
    pub(crate) async fn album(&mut self, person: &Person) -> Ended {
        let photos: BTreeSet<i64> =
            (0..6).filter_map(|_| person.some_photo(&mut self.rng)).map(|photo| photo.id).collect();
        let _own = person.own.lock().await;
        let (number, request) = self.fresh();
        let op = self.intend(number, person.id, vec![Write::insert("albums", &request)]).await?;
        person.albums.add(1);
        let done = self.album_steps(person.id, &photos, &request).await;
        let outcome = self.settle(op, &done).await?;
        person.albums.added(1, outcome);
        self.look_for(&ALBUMS, person.id, &[&request], &done?).await
    }

    async fn album_steps(
        &mut self,
        user: i64,
        photos: &BTreeSet<i64>,
        request: &str,
    ) -> Result<Done, Failure> {
        self.session.begin().await?;
        let given = vec![user.into(), Value::UInt(photos.len() as u64)];
        let (sql, params) = insert(&ALBUMS, &[(given, request.to_string())]);
        let album = self.session.write(&sql, params, 1).await?;
        let rows = photos.iter().zip(0_u32..);
        let rows: Vec<_> = rows
            .map(|(photo, place)| vec![user.into(), album.into(), (*photo).into(), place.into()])
            .collect();
        if !rows.is_empty() {
            let (sql, params) = values_insert("album_photos (user_id, album_id, photo_id, place)", &rows);
            self.session.write(&sql, params, rows.len() as u64).await?;
        }
        self.finish(vec![album]).await
    }

    /// The person joins a group, or founds one: unsharded tables.
    pub(crate) async fn group(&mut self, person: &Person) -> Ended {
        let mut own = person.own.lock().await;
        let free: Vec<i64> =
            self.shared.groups.read().iter().filter(|group| !own.groups.contains(group)).copied().collect();
        let (number, request) = self.fresh();
        if free.is_empty() || self.rng.random_bool(0.1) {
            return self.found_group(number, &request).await;
        }
        let group = free[self.rng.random_range(0..free.len())];
        let op = self.intend(number, person.id, vec![Write::insert("group_members", &request)]).await?;
        person.memberships.add(1);
        let (sql, params) = insert(&MEMBERS, &[(vec![group.into(), person.id.into()], request.clone())]);
        let done = self.lone_write(&sql, params, 1).await;
        let outcome = self.settle(op, &done).await?;
        person.memberships.added(1, outcome);
        if outcome != Outcome::Failed {
            own.groups.insert(group);
        }
        self.look_for(&MEMBERS, person.id, &[&request], &Done { ids: Vec::new(), ..done? }).await
    }

    async fn found_group(&mut self, number: u64, request: &str) -> Ended {
        let op = self.intend(number, 0, vec![Write::insert("photo_groups", request)]).await?;
        let (sql, params) = insert(&GROUPS, &[(Vec::new(), request.to_string())]);
        let done = self.lone_write(&sql, params, 1).await;
        self.settle(op, &done).await?;
        let id = done?.ids.first().copied().unwrap_or(0);
        self.shared.unique("photo_groups", id)?;
        self.shared.groups.write().push(id);
        let rows = self.session.read(&select(&GROUPS, "WHERE request_id = ?"), vec![request.into()]).await?;
        self.session.end(true).await?;
        match checked(&self.shared, &GROUPS, rows)?.as_slice() {
            [group] if group.id == id => Ok(()),
            other => Err(Failure::wrong(format!("group {id} came back as {other:?}"))),
        }
    }

    /// Somebody new: the row that makes the user, what belongs to it, and the login.
    pub(crate) async fn sign_up(&mut self) -> Ended {
        let together = self.rng.random_bool(0.5);
        let (number, request) = self.fresh();
        let op = self.intend(number, 0, vec![Write::insert("users", &request)]).await?;
        let done = self.sign_up_steps(&request, together).await;
        self.settle(op, &done).await?;
        let user = done?.ids.first().copied().unwrap_or(0);
        self.shared.unique("users", user)?;
        if !together {
            self.session.begin().await?;
            self.belongings(user, &request).await?;
            self.session.end(true).await?;
        }
        let (number, _) = self.fresh();
        let op = self.intend(number, user, vec![Write::insert("logins", &request)]).await?;
        let sql = "INSERT INTO logins (email, user_id) VALUES (?, ?)";
        let done = self.lone_write(sql, vec![email_of(&request).into(), user.into()], 1).await;
        self.settle(op, &done).await?;
        done?;
        let person = Arc::new(Person::new(user, request.clone(), Rows::default(), 0));
        self.shared.live.signups.fetch_add(1, Relaxed);
        self.look_for_user(&person).await?;
        self.shared.population.join(Arc::clone(&person));
        self.upload(&person).await
    }

    /// The user alone, or in one transaction with all that belongs to it.
    async fn sign_up_steps(&mut self, request: &str, together: bool) -> Result<Done, Failure> {
        let (sql, params) = insert(&USERS, &[(Vec::new(), request.to_string())]);
        if !together {
            return self.lone_write(&sql, params, 1).await;
        }
        self.session.begin().await?;
        let user = self.session.write(&sql, params, 1).await?;
        self.belongings(user, request).await?;
        self.session.end(true).await?;
        Ok(Done { ids: vec![user], committed: true })
    }

    async fn belongings(&mut self, user: i64, request: &str) -> Ended {
        self.session.write("INSERT INTO counters (user_id) VALUES (?)", vec![user.into()], 1).await?;
        let (sql, params) = values_insert("accounts (user_id, purse, amount)", &purses(user, request));
        self.session.write(&sql, params, PURSES.len() as u64).await?;
        Ok(())
    }

    async fn look_for_user(&mut self, person: &Person) -> Ended {
        let rows = self.read_anywhere(&select(&USERS, "WHERE user_id = ?"), vec![person.id.into()]).await?;
        match checked(&self.shared, &USERS, rows)?.as_slice() {
            [user] if user.request == person.request => Ok(()),
            other => Err(Failure::wrong(format!("new user {} came back as {other:?}", person.id))),
        }
    }

    /// A write of one statement: alone in autocommit, or with its COMMIT where autocommit is off.
    async fn lone_write(&mut self, sql: &str, params: Vec<Value>, rows: u64) -> Result<Done, Failure> {
        let id = self.session.write(sql, params, rows).await?;
        self.session.end(true).await?;
        Ok(Done { ids: if id > 0 { vec![id] } else { Vec::new() }, committed: true })
    }

    /// The rows of these requests must be there once each if it was committed and not at all if not.
    async fn look_for(&mut self, table: &'static Table, user: i64, requests: &[&str], done: &Done) -> Ended {
        if let (Some(id), true) = (done.ids.first(), done.committed) {
            self.shared.unique(table.name, *id)?;
        }
        let marks = vec!["?"; requests.len()].join(", ");
        let order = table.id.unwrap_or("request_id");
        let condition = format!("WHERE user_id = ? AND request_id IN ({marks}) ORDER BY {order}");
        let params =
            std::iter::once(user.into()).chain(requests.iter().map(|request| (*request).into())).collect();
        let rows = self.read_anywhere(&select(table, &condition), params).await?;
        let rows = checked(&self.shared, table, rows)?;
        let found: Vec<&str> = rows.iter().map(|row| row.request.as_str()).collect();
        let expected: &[&str] = if done.committed { requests } else { &[] };
        if found != expected {
            let name = table.name;
            return Err(Failure::wrong(format!(
                "{name} of user {user} has {found:?} and should have {expected:?}"
            )));
        }
        match (done.ids.first(), rows.first()) {
            (Some(id), Some(row)) if *id != row.id => Err(Failure::wrong(format!(
                "the id given was {id} and the row of {} has {}",
                requests[0], row.id
            ))),
            _ => Ok(()),
        }
    }

    /// The value and the number of changes as just written.
    async fn look_for_value(&mut self, sql: &str, key: Vec<Value>, value: &str, count: u32) -> Ended {
        let rows = self.read_anywhere(sql, key).await?;
        self.shared.live.checks.fetch_add(1, Relaxed);
        let row = one_row(rows, sql, 0)?;
        if text(&row[0]) != value || number(&row, 1)? != i64::from(count) {
            return Err(Failure::wrong(format!("just written {value:?} as change {count}, read {row:?}")));
        }
        Ok(())
    }

    /// Reads over this connection or, as often, over another one.
    async fn read_anywhere(
        &mut self,
        sql: &str,
        params: Vec<Value>,
    ) -> Result<Vec<mysql_async::Row>, Failure> {
        if self.rng.random_bool(0.5) {
            let rows = self.session.ask(Kind::Read, sql, params).await?.rows;
            self.session.end(true).await?;
            return Ok(rows);
        }
        let shared = Arc::clone(&self.shared);
        let place = self.rng.random_range(0..shared.readers.len());
        let mut reader = shared.readers[place].lock().await;
        reader.ensure().await?;
        reader.read(sql, params).await
    }
}

/// How often something was changed after one more try; `None` is anybody's guess.
fn changes_after(count: u32, outcome: Outcome) -> Option<u32> {
    match outcome {
        Outcome::Ok => Some(count + 1),
        Outcome::Failed => Some(count),
        Outcome::Unknown => None,
    }
}
