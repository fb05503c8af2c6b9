//! A small application: two sharded tables and one that is not.

use std::collections::BTreeMap;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::{Bed, admin, count};

/// Its tables.
const TABLES: [&str; 3] = [
    "CREATE TABLE users (user_id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(60) NOT NULL, \
     visits INT NOT NULL DEFAULT 0) COMMENT 'usher:sharded key=user_id'",
    "CREATE TABLE photos (photo_id BIGINT NOT NULL AUTO_INCREMENT, user_id BIGINT NOT NULL, \
     title VARCHAR(200) NOT NULL, PRIMARY KEY (photo_id), KEY (user_id)) \
     COMMENT 'usher:sharded key=user_id sequence=photo_id'",
    "CREATE TABLE words (word_id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, word VARCHAR(60) NOT NULL)",
];

/// Makes the tables through a proxy.
pub async fn make_tables(conn: &mut Conn) {
    for table in TABLES {
        conn.query_drop(table).await.unwrap_or_else(|error| panic!("{table}: {error}"));
    }
}

/// Signs up so many users through a proxy; returns them by the name of the shard that each lives on.
pub async fn sign_up(bed: &Bed, conn: &mut Conn, users: usize) -> BTreeMap<String, Vec<u64>> {
    let mut homes: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for number in 0..users {
        let name = format!("user {number}");
        conn.exec_drop("INSERT INTO users (name) VALUES (?)", (name,)).await.unwrap();
        let user = conn.last_insert_id().unwrap();
        homes.entry(home(bed, user).await).or_default().push(user);
    }
    homes
}

/// The one shard whose writer has this user's row.
pub async fn home(bed: &Bed, user: u64) -> String {
    let mut found = Vec::new();
    for shard in &bed.endpoints.shards {
        let writer = shard.members.iter().find(|member| member.name == shard.writer).unwrap();
        if count(writer, "users", &format!("user_id = {user}")).await > 0 {
            found.push(shard.name.clone());
        }
    }
    assert_eq!(found.len(), 1, "user {user} is on {found:?}");
    found.remove(0)
}

/// Where the directory says that a user lives.
pub async fn directory_home(bed: &Bed, user: u64) -> String {
    let sql = format!(
        "SELECT s.name FROM usher.directory d JOIN usher.shards s ON s.shard_id = d.shard_id \
         WHERE d.entity_key = '{user}'"
    );
    admin(&bed.endpoints.global.members[0]).await.query_first(sql).await.unwrap().unwrap()
}
