//! Each statement reaches the server it belongs on and no other, by the servers' own general logs and counters; and
//! what clients are answered is what one server would have answered.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use usher_integration_tests::{
    Bed, Log, Proxy, code, count, home, make_tables, message, number, sign_up, until,
};

struct Ground {
    bed: Bed,
    proxy: Proxy,
    log: Log,
    /// Users by the shard they live on.
    homes: BTreeMap<String, Vec<u64>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_go_where_they_belong() {
    let bed = Bed::up("routing", 2, 1).await;
    let proxy = bed.proxy(1, |_| {}).await;
    let mut conn = proxy.connect().await;
    schema_changes_reach_every_pair(&bed, &mut conn).await;
    let homes = sign_up(&bed, &mut conn, 12).await;
    assert_eq!(homes.len(), 2, "new users are spread: {homes:?}");
    let log = Log::start(bed.endpoints.servers()).await;
    let mut ground = Ground { bed, proxy, log, homes };
    writes_reach_the_writer_alone(&mut ground).await;
    reads_reach_copies(&mut ground).await;
    own_writes_are_read(&ground).await;
    transactions_stay_on_one_writer(&mut ground).await;
    autocommit_off_is_a_transaction(&mut ground).await;
    ids_are_unique_across_shards(&ground).await;
    many_rows_in_one_insert(&ground).await;
    joins_of_one_user(&mut ground).await;
    unsharded_tables_are_on_the_global_master(&mut ground).await;
    unknown_users_find_nothing(&ground).await;
    what_is_not_supported_says_why(&ground).await;
    schema_changes_later_on(&ground).await;
    ground.proxy.stop().await;
}

async fn schema_changes_reach_every_pair(bed: &Bed, conn: &mut Conn) {
    make_tables(conn).await;
    for server in bed.endpoints.servers() {
        let tables =
            "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'app' AND table_name";
        let sharded = || async { number(server, &format!("{tables} IN ('users', 'photos')")).await == 2 };
        until(&format!("the sharded tables on {}", server.name), sharded).await;
        let is_global = server.name.starts_with('g');
        let unsharded =
            || async { number(server, &format!("{tables} = 'words'")).await == i64::from(is_global) };
        until(&format!("the unsharded table on {}", server.name), unsharded).await;
    }
}

fn writer_of(ground: &Ground, shard: &str) -> String {
    ground.bed.shard(shard).writer.clone()
}

async fn writes_reach_the_writer_alone(ground: &mut Ground) {
    let mut conn = ground.proxy.connect().await;
    let mut all = BTreeMap::new();
    for (shard, users) in ground.homes.clone() {
        let (user, writer) = (users[0], writer_of(ground, &shard));
        let only = |times| BTreeMap::from([(writer.clone(), times)]);
        let mark = format!("mark-w-{shard}");
        for text in [
            format!("INSERT INTO photos (user_id, title) VALUES ({user}, '{mark}')"),
            format!("UPDATE photos SET title = CONCAT('{mark}', title) WHERE user_id = {user}"),
            format!("DELETE FROM photos WHERE user_id = {user} AND title LIKE '%{mark}%'"),
        ] {
            conn.query_drop(&text).await.unwrap();
            assert_eq!(conn.affected_rows(), 1, "{text}");
        }
        assert_eq!(ground.log.seen(&mark).await, only(3));
        let sql = format!("INSERT INTO photos (user_id, title) VALUES (?, CONCAT('{mark}', ?))");
        for title in ["a", "b"] {
            conn.exec_drop(&sql, (user, title)).await.unwrap();
        }
        conn.exec_drop(format!("DELETE /*{mark}*/ FROM photos WHERE user_id = ?"), (user,)).await.unwrap();
        assert_eq!(conn.affected_rows(), 2);
        assert_eq!(ground.log.seen(&mark).await, only(6));
        all.insert(writer.clone(), 6);
        assert_eq!(ground.log.writes().await, all);
    }
}

async fn reads_reach_copies(ground: &mut Ground) {
    let mut conn = ground.proxy.connect().await;
    for (shard, users) in ground.homes.clone() {
        let user = users[1];
        let replica = ground.bed.shard(&shard).replicas[0].name.clone();
        // What this user wrote last has to have arrived there, and the proxy to have seen that it has.
        let mut settled = false;
        for attempt in 0..100 {
            let mark = format!("mark-settle-{shard}-{attempt}-");
            conn.query_drop(format!("SELECT /*{mark}*/ name FROM users WHERE user_id = {user}"))
                .await
                .unwrap();
            settled = ground.log.seen(&mark).await.contains_key(&replica);
            if settled {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(settled, "reads of {shard} go to the replica in the end");
        let mark = format!("mark-r-{shard}");
        for _ in 0..10 {
            let text = format!("SELECT /*{mark}*/ name FROM users WHERE user_id = {user}");
            assert!(conn.query_first::<String, _>(text).await.unwrap().is_some());
            let sql = format!("SELECT /*{mark}*/ name FROM users WHERE user_id = ?");
            assert!(conn.exec_first::<String, _, _>(sql, (user,)).await.unwrap().is_some());
        }
        let seen = ground.log.seen(&mark).await;
        assert_eq!(seen.values().sum::<i64>(), 20, "{seen:?}");
        let members = &ground.bed.shard(&shard).members;
        let copies: BTreeSet<&str> = members
            .iter()
            .map(|member| member.name.as_str())
            .filter(|name| *name != ground.bed.shard(&shard).writer)
            .chain([replica.as_str()])
            .collect();
        assert!(seen.keys().all(|server| copies.contains(server.as_str())), "{seen:?} outside of {copies:?}");
        let mark = format!("mark-lock-{shard}");
        conn.query_drop(format!("SELECT /*{mark}*/ name FROM users WHERE user_id = {user} FOR UPDATE"))
            .await
            .unwrap();
        let writer = ground.bed.shard(&shard).writer.clone();
        assert_eq!(ground.log.seen(&mark).await, BTreeMap::from([(writer, 1)]), "locking reads");
    }
}

async fn own_writes_are_read(ground: &Ground) {
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(ground.proxy.connect().await);
    }
    let users: Vec<u64> = ground.homes.values().flatten().copied().collect();
    for turn in 1..=60 {
        let user = users[turn % users.len()];
        let (writing, reading) = (turn % 4, (turn + 1) % 4);
        let sql = format!("UPDATE users SET visits = {turn} WHERE user_id = {user}");
        connections[writing].query_drop(sql).await.unwrap();
        let sql = "SELECT visits FROM users WHERE user_id = ?";
        let seen: Option<usize> = connections[reading].exec_first(sql, (user,)).await.unwrap();
        assert_eq!(seen, Some(turn), "user {user}, another connection than the one that wrote");
    }
}

async fn transactions_stay_on_one_writer(ground: &mut Ground) {
    let mut conn = ground.proxy.connect().await;
    for (shard, users) in ground.homes.clone() {
        let (user, mark) = (users[2], format!("mark-t-{shard}"));
        let at_writer = |times| BTreeMap::from([(writer_of(ground, &shard), times)]);
        let expected = at_writer(3);
        conn.query_drop("BEGIN").await.unwrap();
        let read = format!("SELECT /*{mark}*/ COUNT(*) FROM photos WHERE user_id = {user}");
        let none: Option<i64> = conn.query_first(&read).await.unwrap();
        conn.exec_drop(format!("INSERT INTO photos (user_id, title) VALUES (?, '{mark}')"), (user,))
            .await
            .unwrap();
        let one: Option<i64> = conn.query_first(&read).await.unwrap();
        assert_eq!((none, one), (Some(0), Some(1)));
        let other: Option<i64> =
            ground.proxy.connect().await.query_first(read.replace("mark", "other")).await.unwrap();
        assert_eq!(other, Some(0), "what is not committed is not seen");
        conn.query_drop("ROLLBACK").await.unwrap();
        assert_eq!(ground.log.seen(&mark).await, expected);
        assert_eq!(conn.query_first::<i64, _>(read.replace("mark", "later")).await.unwrap(), Some(0));
    }
    let users: Vec<u64> = ground.homes.values().map(|users| users[0]).collect();
    conn.query_drop("START TRANSACTION").await.unwrap();
    conn.query_drop(format!("UPDATE users SET name = 'first' WHERE user_id = {}", users[0])).await.unwrap();
    let sql = format!("UPDATE users SET name = 'second' WHERE user_id = {}", users[1]);
    let refused = conn.query_drop(sql).await;
    assert_eq!(code(&refused), 1235);
    assert!(message(&refused).contains("USHER-0305"), "{}", message(&refused));
    conn.query_drop("COMMIT").await.unwrap();
    let sql = format!("SELECT name FROM users WHERE user_id = {}", users[0]);
    assert_eq!(conn.query_first::<String, _>(sql).await.unwrap().as_deref(), Some("first"));
}

async fn autocommit_off_is_a_transaction(ground: &mut Ground) {
    let mut conn = ground.proxy.connect().await;
    let mut other = ground.proxy.connect().await;
    let user = ground.homes["s1"][3];
    let read = format!("SELECT visits FROM users WHERE user_id = {user}");
    conn.query_drop(format!("UPDATE users SET visits = 1 WHERE user_id = {user}")).await.unwrap();
    conn.query_drop("SET autocommit = 0").await.unwrap();
    conn.query_drop(format!("UPDATE users SET visits = 2 WHERE user_id = {user}")).await.unwrap();
    assert_eq!(conn.query_first::<i64, _>(&read).await.unwrap(), Some(2));
    assert_eq!(other.query_first::<i64, _>(&read).await.unwrap(), Some(1));
    conn.query_drop("ROLLBACK").await.unwrap();
    assert_eq!(conn.query_first::<i64, _>(&read).await.unwrap(), Some(1));
    conn.query_drop("COMMIT").await.unwrap();
    conn.query_drop(format!("UPDATE users SET visits = 3 WHERE user_id = {user}")).await.unwrap();
    conn.query_drop("SET autocommit = 1").await.unwrap();
    assert_eq!(other.query_first::<i64, _>(&read).await.unwrap(), Some(3), "autocommit=1 commits");
    let on: Option<i64> = conn.query_first("SELECT @@autocommit").await.unwrap();
    assert_eq!(on, Some(1));
}

async fn ids_are_unique_across_shards(ground: &Ground) {
    let mut connections = [ground.proxy.connect().await, ground.proxy.connect().await];
    let users: Vec<u64> = ground.homes.values().flatten().copied().collect();
    let mut ids = BTreeSet::new();
    for turn in 0..120 {
        let (user, conn) = (users[turn % users.len()], &mut connections[turn % 2]);
        match turn % 3 {
            0 => conn.query_drop(format!("INSERT INTO photos (user_id, title) VALUES ({user}, 'id')")).await,
            1 => conn.exec_drop("INSERT INTO photos (user_id, title) VALUES (?, 'id')", (user,)).await,
            _ => conn.exec_drop("INSERT INTO photos VALUES (NULL, ?, 'id')", (user,)).await,
        }
        .unwrap();
        let id = conn.last_insert_id().unwrap();
        assert!(id > 0 && ids.insert(id), "id {id} twice");
        assert_eq!(conn.query_first::<u64, _>("SELECT LAST_INSERT_ID()").await.unwrap(), Some(id));
        let sql =
            format!("SELECT photo_id FROM photos WHERE user_id = {user} AND photo_id = LAST_INSERT_ID()");
        assert_eq!(conn.query_first::<u64, _>(sql).await.unwrap(), Some(id));
    }
    let mut stored = Vec::new();
    for shard in &ground.bed.endpoints.shards {
        let writer = shard.members.iter().find(|member| member.name == shard.writer).unwrap();
        let sql = "SELECT photo_id FROM app.photos WHERE title = 'id'";
        stored.extend(usher_integration_tests::admin(writer).await.query::<u64, _>(sql).await.unwrap());
    }
    stored.sort_unstable();
    assert_eq!(stored, ids.into_iter().collect::<Vec<_>>());
}

async fn many_rows_in_one_insert(ground: &Ground) {
    let mut conn = ground.proxy.connect().await;
    let [one, other] = [ground.homes["s1"][0], ground.homes["s2"][0]];
    let sql =
        format!("INSERT INTO photos (user_id, title) VALUES ({one}, 'm1'), ({one}, 'm2'), ({one}, 'm3')");
    conn.query_drop(sql).await.unwrap();
    assert_eq!(conn.affected_rows(), 3);
    let first = conn.last_insert_id().unwrap();
    let sql =
        format!("SELECT photo_id FROM photos WHERE user_id = {one} AND title LIKE 'm_' ORDER BY photo_id");
    assert_eq!(conn.query::<u64, _>(sql).await.unwrap(), [first, first + 1, first + 2]);
    let sql = "INSERT INTO photos (user_id, title) VALUES (?, 'm4'), (?, 'm5')";
    conn.exec_drop(sql, (one, one)).await.unwrap();
    assert_eq!(conn.affected_rows(), 2);
    let refused = conn.exec_drop(sql, (one, other)).await;
    assert_eq!(code(&refused), 1235, "rows of two users");
    let sql = format!("SELECT COUNT(*) FROM photos WHERE user_id = {one} AND title IN ('m4', 'm5')");
    assert_eq!(
        conn.query_first::<i64, _>(sql).await.unwrap(),
        Some(2),
        "nothing of a refused statement is done"
    );
}

async fn joins_of_one_user(ground: &mut Ground) {
    let mut conn = ground.proxy.connect().await;
    for (shard, users) in ground.homes.clone() {
        let user = users[4];
        let sql = format!("INSERT INTO photos (user_id, title) VALUES ({user}, 'j1'), ({user}, 'j2')");
        conn.query_drop(sql).await.unwrap();
        let mark = format!("mark-j-{shard}");
        let text = format!(
            "SELECT /*{mark}*/ u.name, p.title FROM users u JOIN photos p ON p.user_id = u.user_id \
             WHERE u.user_id = {user} AND p.title LIKE 'j_' ORDER BY p.photo_id"
        );
        let rows: Vec<(String, String)> = conn.query(&text).await.unwrap();
        let titles: Vec<&str> = rows.iter().map(|(_, title)| title.as_str()).collect();
        assert_eq!(titles, ["j1", "j2"]);
        let rows: Vec<(String, String)> =
            conn.exec(text.replace(&format!("= {user} "), "= ? "), (user,)).await.unwrap();
        assert_eq!(rows.len(), 2);
        let seen = ground.log.seen(&mark).await;
        assert!(seen.keys().all(|server| server.starts_with(&shard)), "{seen:?}");
    }
}

async fn unsharded_tables_are_on_the_global_master(ground: &mut Ground) {
    let mut conn = ground.proxy.connect().await;
    let at_writer = |times| BTreeMap::from([(ground.bed.endpoints.global.writer.clone(), times)]);
    let (two, one) = (at_writer(2), at_writer(1));
    conn.query_drop("INSERT INTO words (word) VALUES ('mark-u')").await.unwrap();
    let id = conn.last_insert_id().unwrap();
    assert_eq!(conn.query_first::<u64, _>("SELECT LAST_INSERT_ID()").await.unwrap(), Some(id));
    let sql = "SELECT word FROM words WHERE word = 'mark-u'";
    assert_eq!(conn.query_first::<String, _>(sql).await.unwrap().as_deref(), Some("mark-u"));
    assert_eq!(ground.log.seen("mark-u").await, two);
    conn.exec_drop("UPDATE words SET word = 'mark-v' WHERE word_id = ?", (id,)).await.unwrap();
    assert_eq!(ground.log.seen("mark-v").await, one);
}

async fn unknown_users_find_nothing(ground: &Ground) {
    let mut conn = ground.proxy.connect().await;
    let rows: Vec<(u64, String)> =
        conn.query("SELECT user_id, name FROM users WHERE user_id = 999999999").await.unwrap();
    assert!(rows.is_empty());
    conn.query_drop("UPDATE users SET name = 'x' WHERE user_id = 999999999").await.unwrap();
    assert_eq!(conn.affected_rows(), 0);
    conn.exec_drop("DELETE FROM users WHERE user_id = ?", (999_999_999,)).await.unwrap();
    assert_eq!(conn.affected_rows(), 0);
    let user = 5_000_000_u64;
    conn.query_drop(format!("INSERT INTO photos (user_id, title) VALUES ({user}, 'first')")).await.unwrap();
    conn.query_drop(format!("INSERT INTO users (user_id, name) VALUES ({user}, 'placed')")).await.unwrap();
    let shard = ground.bed.shard(&home(&ground.bed, user).await);
    let writer = shard.members.iter().find(|member| member.name == shard.writer).unwrap();
    assert_eq!(count(writer, "photos", &format!("user_id = {user}")).await, 1, "both rows on one shard");
}

async fn what_is_not_supported_says_why(ground: &Ground) {
    let mut conn = ground.proxy.connect().await;
    let user = ground.homes["s1"][0];
    for (text, reason) in [
        ("UPDATE users SET visits = 0".to_owned(), ""),
        ("DELETE FROM photos".to_owned(), ""),
        ("SELECT COUNT(*) FROM users".to_owned(), ""),
        ("SELECT u.name FROM users u JOIN words w ON w.word = u.name WHERE u.user_id = 1".to_owned(), ""),
        (format!("UPDATE users SET user_id = 7 WHERE user_id = {user}"), ""),
        (format!("SELECT name FROM users WHERE user_id IN ({user}, 1)"), ""),
        ("LOAD DATA INFILE 'x' INTO TABLE users".to_owned(), "loads a file"),
    ] {
        let refused = conn.query_drop(&text).await;
        assert_eq!(code(&refused), 1235, "{text}");
        let message = message(&refused);
        assert!(message.starts_with("[USHER-03") && message.contains(reason), "{text}: {message}");
        assert!(message.len() > 40, "a reason: {message}");
        let refused = conn.exec_drop(&text, ()).await;
        assert!(matches!(code(&refused), 1235 | 1295), "{text} as a prepared statement");
    }
    assert_eq!(conn.query_first::<i64, _>("SELECT 1").await.unwrap(), Some(1));
}

async fn schema_changes_later_on(ground: &Ground) {
    let mut conn = ground.proxy.connect().await;
    let (user, bed) = (ground.homes["s2"][0], &ground.bed);
    conn.query_drop("ALTER TABLE photos ADD COLUMN views INT NOT NULL DEFAULT 7").await.unwrap();
    conn.query_drop(format!("INSERT INTO photos (user_id, title, views) VALUES ({user}, 'altered', 8)"))
        .await
        .unwrap();
    let sql = format!("SELECT views FROM photos WHERE user_id = {user} AND title = 'altered'");
    assert_eq!(conn.query_first::<i64, _>(sql).await.unwrap(), Some(8));
    conn.query_drop("DROP TABLE photos").await.unwrap();
    for server in bed.endpoints.servers() {
        let sql = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'app' AND table_name = 'photos'";
        until(&format!("the table dropped on {}", server.name), || async { number(server, sql).await == 0 })
            .await;
    }
    let refused = conn.query_drop("SELECT * FROM photos WHERE user_id = 1").await;
    assert_eq!(code(&refused), 1146);
}
