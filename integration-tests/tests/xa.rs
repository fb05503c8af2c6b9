//! XA on one shard: a branch is bound to its first user's shard, outlives session and proxy once it is prepared, and is
//! found by whoever ends it. Moves and flips that it is in the way of are refused by its name.
#![allow(clippy::unwrap_used)]

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use usher_integration_tests::{
    Bed, Proxy, code, directory_home, kill_9, make_tables, message, resume, sign_up, suspend, until, usher,
};
use usher_playground::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mariadb() {
    xa(Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mysql() {
    xa(Server::Mysql).await;
}

struct Ground {
    bed: Bed,
    kind: Server,
    /// On s1 and s2.
    users: [u64; 2],
}

async fn xa(kind: Server) {
    let bed = Bed::up_with(&format!("xa-{kind:?}").to_lowercase(), 2, 0, kind, false).await;
    let proxy = bed.proxy(1, |_| ()).await;
    let other = bed.proxy(2, |_| ()).await;
    let mut conn = proxy.connect().await;
    make_tables(&mut conn).await;
    let mut homes = sign_up(&bed, &mut conn, 1).await;
    while homes.len() < 2 {
        for (shard, users) in sign_up(&bed, &mut conn, 1).await {
            homes.entry(shard).or_default().extend(users);
        }
    }
    let ground = Ground { bed, kind, users: [homes["s1"][0], homes["s2"][0]] };
    a_branch_lives_on_one_shard(&ground, &proxy).await;
    a_branch_goes_its_way_in_prepared_statements(&ground, &proxy).await;
    stages_are_those_of_a_server(&ground, &proxy).await;
    a_branch_without_a_place_is_prepared(&proxy).await;
    what_is_committed_is_seen_at_once(&ground, &proxy, &other).await;
    all_shards_tell_what_is_prepared(&ground, &proxy, &other).await;
    one_name_on_two_shards_needs_a_word_more(&ground, &proxy, &other).await;
    a_silent_shard_leaves_it_open(&ground, &proxy).await;
    moves_and_flips_are_refused_by_name(&ground, &proxy).await;
    a_branch_prepared_during_a_flip_undoes_it(&ground, &proxy).await;
    a_prepared_branch_outlives_its_proxy(&ground, proxy, &other).await;
}

async fn run(conn: &mut Conn, statements: &[&str]) {
    for text in statements {
        conn.query_drop(*text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

/// Begins a branch that renames a user, and prepares it.
async fn prepare(conn: &mut Conn, xid: &str, user: u64, name: &str) {
    let update = format!("UPDATE users SET name = '{name}' WHERE user_id = {user}");
    let (start, end, prepare) =
        (format!("XA START {xid}"), format!("XA END {xid}"), format!("XA PREPARE {xid}"));
    run(conn, &[&start, &update, &end, &prepare]).await;
}

async fn name(conn: &mut Conn, user: u64) -> String {
    conn.query_first(format!("SELECT name FROM users WHERE user_id = {user}")).await.unwrap().unwrap()
}

/// What XA RECOVER tells, as text.
async fn prepared(conn: &mut Conn) -> Vec<String> {
    let rows: Vec<(i64, i64, i64, String)> = conn.query("XA RECOVER").await.unwrap();
    let mut names: Vec<_> = rows.into_iter().map(|row| row.3).collect();
    names.sort();
    names
}

async fn refused(conn: &mut Conn, text: &str) -> u16 {
    code(&conn.query_drop(text).await)
}

async fn a_branch_lives_on_one_shard(ground: &Ground, proxy: &Proxy) {
    let [here, there] = ground.users;
    let mut conn = proxy.connect().await;
    let mut other = proxy.connect().await;
    let insert = format!("INSERT INTO photos (user_id, title) VALUES ({here}, 'xa')");
    let photos = format!("SELECT COUNT(*) FROM photos WHERE user_id = {here} AND title = 'xa'");
    let count = async |conn: &mut Conn| conn.query_first::<u64, _>(&photos).await.unwrap().unwrap();
    run(&mut conn, &["XA START 'one'", "SAVEPOINT a", &insert, "ROLLBACK TO a", &insert]).await;
    let update = format!("UPDATE users SET visits = 1 WHERE user_id = {there}");
    assert_eq!(refused(&mut conn, &update).await, 1235, "another shard");
    assert_eq!(refused(&mut other, "XA START 'one'").await, 1440);
    assert_eq!((count(&mut conn).await, count(&mut other).await), (1, 0));
    type Row = (u64, String, String, Option<String>, String, u64, String, Option<String>);
    let rows: Vec<Row> = other.query("SHOW PROCESSLIST").await.unwrap();
    let states: Vec<_> = rows.iter().map(|row| row.6.as_str()).collect();
    assert!(states.contains(&"holds a connection: XA transaction"), "{states:?}");
    run(&mut conn, &["XA END 'one'", "XA COMMIT 'one' ONE PHASE"]).await;
    assert_eq!((count(&mut conn).await, count(&mut other).await), (1, 1));
    run(&mut conn, &["XA START 'two'", &insert, "XA END 'two'", "XA PREPARE 'two'"]).await;
    assert_eq!(count(&mut other).await, 1);
    run(&mut conn, &["XA COMMIT 'two'"]).await;
    assert_eq!((count(&mut conn).await, count(&mut other).await), (2, 2));
    run(&mut conn, &["XA START 'two'", &insert, "XA END 'two'", "XA ROLLBACK 'two'"]).await;
    assert_eq!((count(&mut conn).await, count(&mut other).await), (2, 2));
    run(&mut conn, &[&update]).await;
    // Unsharded tables are the global master's.
    let word = "INSERT INTO words (word) VALUES ('xa')";
    run(&mut conn, &["XA START 'w'", word, "XA END 'w'", "XA PREPARE 'w'", "XA ROLLBACK 'w'"]).await;
    run(&mut conn, &["XA START 'w'", word]).await;
    assert_eq!(refused(&mut conn, &update).await, 1235);
    run(&mut conn, &["XA END 'w'", "XA PREPARE 'w'"]).await;
    run(&mut conn, &["XA COMMIT 'w'"]).await;
    let words: Vec<String> = other.query("SELECT word FROM words").await.unwrap();
    assert_eq!(words, ["xa"]);
}

async fn a_branch_goes_its_way_in_prepared_statements(ground: &Ground, proxy: &Proxy) {
    let mut conn = proxy.connect().await;
    if ground.kind == Server::Mysql {
        assert_eq!(code(&conn.exec_drop("XA START 'p'", ()).await), 1295);
        return;
    }
    conn.exec_drop("XA START 'p', 'q', 5", ()).await.unwrap();
    conn.exec_drop("UPDATE users SET visits = 7 WHERE user_id = ?", (ground.users[1],)).await.unwrap();
    for text in ["XA END 'p', 'q', 5", "XA PREPARE 'p', 'q', 5"] {
        conn.exec_drop(text, ()).await.unwrap();
    }
    let rows: Vec<(i64, i64, i64, String)> = conn.exec("XA RECOVER", ()).await.unwrap();
    assert_eq!(rows, [(5, 1, 1, "pq".to_owned())]);
    conn.exec_drop("XA COMMIT 'p', 'q', 5", ()).await.unwrap();
    let visits: Option<i64> =
        conn.exec_first("SELECT visits FROM users WHERE user_id = ?", (ground.users[1],)).await.unwrap();
    assert_eq!(visits, Some(7));
}

async fn stages_are_those_of_a_server(ground: &Ground, proxy: &Proxy) {
    let user = ground.users[0];
    let update = format!("UPDATE users SET visits = visits + 1 WHERE user_id = {user}");
    let mut conn = proxy.connect().await;
    for (text, expected) in [
        ("XA END 'x'", 1399),
        ("XA PREPARE 'x'", 1399),
        ("XA COMMIT 'x'", 1397),
        ("XA ROLLBACK 'x'", 1397),
        ("XA START 'x' JOIN", 1398),
        ("XA START x", 1064),
    ] {
        assert_eq!(refused(&mut conn, text).await, expected, "{text}");
    }
    run(&mut conn, &["BEGIN"]).await;
    assert_eq!(refused(&mut conn, "XA START 'x'").await, 1400);
    run(&mut conn, &["COMMIT"]).await;
    // With and without a place.
    for first in [None, Some(update.as_str())] {
        run(&mut conn, &["XA START 'x'"]).await;
        if let Some(first) = first {
            run(&mut conn, &[first]).await;
        }
        for text in ["BEGIN", "COMMIT", "ROLLBACK", "CREATE TABLE z (a INT)", "ALTER TABLE photos ADD z INT"]
        {
            assert_eq!(refused(&mut conn, text).await, 1399, "{text}");
            if text.starts_with("CREATE") {
                assert_eq!(code(&conn.exec_drop(text, ()).await), 1399, "{text}");
            }
        }
        run(&mut conn, &["XA END 'x'"]).await;
        for text in [update.as_str(), "SELECT * FROM words", "SAVEPOINT a", "BEGIN"] {
            assert_eq!(refused(&mut conn, text).await, 1399, "{text}");
        }
        assert_eq!(conn.query_first::<u8, _>("SELECT 1").await.unwrap(), Some(1));
        run(&mut conn, &["XA ROLLBACK 'x'", &update]).await;
    }
    // Whatever is wrong of a branch without a place is told by a server.
    run(&mut conn, &["XA START 'x'"]).await;
    for (text, expected) in
        [("XA END 'y'", 1397), ("XA END 'x' SUSPEND", 1398), ("XA COMMIT 'x'", 1399), ("XA START 'y'", 1399)]
    {
        assert_eq!(refused(&mut conn, text).await, expected, "{text}");
    }
    run(&mut conn, &["XA END 'x'", "XA ROLLBACK 'x'", &update]).await;
    // A session that ends takes along what it has not prepared.
    run(&mut conn, &["XA START 'gone'", &update]).await;
    conn.disconnect().await.unwrap();
    let mut conn = proxy.connect().await;
    until("the branch is given up", || async {
        let mut conn = proxy.connect().await;
        conn.query_drop("XA START 'gone'").await.is_ok()
    })
    .await;
    run(&mut conn, &[&update]).await;
}

async fn a_branch_without_a_place_is_prepared(proxy: &Proxy) {
    let mut conn = proxy.connect().await;
    run(&mut conn, &["XA START 'empty'", "SELECT 1", "XA END 'empty'", "XA PREPARE 'empty'"]).await;
    assert_eq!(prepared(&mut conn).await, ["empty"]);
    run(&mut conn, &["XA ROLLBACK 'empty'"]).await;
    assert!(prepared(&mut conn).await.is_empty());
}

async fn what_is_committed_is_seen_at_once(ground: &Ground, proxy: &Proxy, other: &Proxy) {
    let [user, _] = ground.users;
    for round in 0..20 {
        let mut conn = proxy.connect().await;
        let (xid, wanted) = (format!("'see {round}'"), format!("seen {round}"));
        prepare(&mut conn, &xid, user, &wanted).await;
        conn.disconnect().await.unwrap();
        // Another session commits it, at the same proxy or at one that has not heard of it.
        let mut conn = if round % 2 == 0 { proxy.connect().await } else { other.connect().await };
        run(&mut conn, &[&format!("XA COMMIT {xid}")]).await;
        assert_eq!(name(&mut conn, user).await, wanted);
    }
}

async fn all_shards_tell_what_is_prepared(ground: &Ground, proxy: &Proxy, other: &Proxy) {
    let [here, there] = ground.users;
    let mut conns = [proxy.connect().await, proxy.connect().await, proxy.connect().await];
    prepare(&mut conns[0], "'r1'", here, "first").await;
    prepare(&mut conns[1], "'r2', 'b'", there, "second").await;
    let word = "INSERT INTO words (word) VALUES ('prepared')";
    run(&mut conns[2], &["XA START X'723300'", word, "XA END X'723300'", "XA PREPARE 0x723300"]).await;
    let mut conn = other.connect().await;
    assert_eq!(prepared(&mut conn).await, ["r1", "r2b", "r3\0"]);
    assert_eq!(refused(&mut conn, "XA START 'r1'").await, 1440, "as on one server");
    for conn in conns {
        conn.disconnect().await.unwrap();
    }
    run(&mut conn, &["XA COMMIT 'r1'", "XA ROLLBACK 'r2','b'", "XA COMMIT X'723300'"]).await;
    assert!(prepared(&mut conn).await.is_empty());
    assert_eq!(name(&mut conn, here).await, "first");
    assert_ne!(name(&mut conn, there).await, "second");
}

async fn one_name_on_two_shards_needs_a_word_more(ground: &Ground, proxy: &Proxy, other: &Proxy) {
    let [here, there] = ground.users;
    let (mut one, mut two) = (proxy.connect().await, other.connect().await);
    run(&mut one, &["XA START 'twice'"]).await;
    run(&mut two, &["XA START 'twice'"]).await;
    for (conn, user) in [(&mut one, here), (&mut two, there)] {
        let update = format!("UPDATE users SET name = 'twice' WHERE user_id = {user}");
        run(conn, &[&update, "XA END 'twice'", "XA PREPARE 'twice'"]).await;
    }
    for conn in [one, two] {
        conn.disconnect().await.unwrap();
    }
    let third = ground.bed.proxy(3, |_| ()).await;
    let mut conn = third.connect().await;
    let ambiguous = conn.query_drop("XA COMMIT 'twice'").await;
    assert_eq!(code(&ambiguous), 1235);
    assert!(message(&ambiguous).contains("s1 and s2"), "{}", message(&ambiguous));
    run(&mut conn, &["/* usher: shard=s2 */ XA COMMIT 'twice'", "XA ROLLBACK 'twice'"]).await;
    assert_ne!(name(&mut conn, here).await, "twice");
    assert_eq!(name(&mut conn, there).await, "twice");
    conn.disconnect().await.unwrap();
    third.stop().await;
}

async fn a_silent_shard_leaves_it_open(ground: &Ground, proxy: &Proxy) {
    let writer = ground.bed.pid(&ground.bed.shard("s2").writer);
    let mut conn = proxy.connect().await;
    suspend(writer);
    until("the shard is silent", async || conn.query_drop("XA RECOVER").await.is_err()).await;
    let unknown = conn.query_drop("XA COMMIT 'nobody knows'").await;
    resume(writer);
    assert_eq!(code(&unknown), 1429, "{}", message(&unknown));
    assert!(message(&unknown).contains("s2"), "{}", message(&unknown));
    until("the shard answers", || async {
        code(&proxy.connect().await.query_drop("XA COMMIT 'nobody knows'").await) == 1397
    })
    .await;
}

async fn moves_and_flips_are_refused_by_name(ground: &Ground, proxy: &Proxy) {
    let [user, _] = ground.users;
    let config = ground.bed.config_file();
    let mut conn = proxy.connect().await;
    let neighbour = loop {
        let mut homes = sign_up(&ground.bed, &mut conn, 1).await;
        if let Some(users) = homes.remove("s1") {
            break users[0];
        }
    };
    prepare(&mut conn, "'in the way'", user, "later").await;
    conn.disconnect().await.unwrap();
    let key = user.to_string();
    let start = ["move", "start", "--user", &key, "--to", "s2", "--locked"];
    let moved = usher(&config, &start).await;
    let said = format!("{}{}", moved.stdout, moved.stderr);
    assert_eq!(moved.code, Some(1), "{said}");
    assert!(said.contains("'in the way'") && said.contains("app.users"), "{said}");
    assert_eq!(directory_home(&ground.bed, user).await, "s1");
    // Who is not touched by it moves.
    let other = neighbour.to_string();
    let moved = usher(&config, &["move", "start", "--user", &other, "--to", "s2", "--locked"]).await;
    assert_eq!(moved.code, Some(0), "{}{}", moved.stdout, moved.stderr);
    let flip = usher(&config, &["shard", "flip", "s1"]).await;
    let said = format!("{}{}", flip.stdout, flip.stderr);
    assert_eq!(flip.code, Some(1), "{said}");
    assert!(said.contains("'in the way'"), "{said}");
    let mut conn = proxy.connect().await;
    run(&mut conn, &["XA COMMIT 'in the way'"]).await;
    let flip = usher(&config, &["shard", "flip", "s1"]).await;
    assert_eq!(flip.code, Some(0), "{}{}", flip.stdout, flip.stderr);
    // It is refused whatever became of the rows: deleted, inserted.
    let photos = format!("DELETE FROM photos WHERE user_id = {user}");
    let insert = format!("INSERT INTO photos (user_id, title) VALUES ({user}, 'prepared')");
    for (text, how) in [(&photos, "XA ROLLBACK 'rows'"), (&insert, "XA COMMIT 'rows'")] {
        run(&mut conn, &["XA START 'rows'", text, "XA END 'rows'", "XA PREPARE 'rows'"]).await;
        conn.disconnect().await.unwrap();
        let moved = usher(&config, &start).await;
        let said = format!("{}{}", moved.stdout, moved.stderr);
        assert!(moved.code == Some(1) && said.contains("app.photos"), "{said}");
        conn = proxy.connect().await;
        run(&mut conn, &[how]).await;
    }
    let moved = usher(&config, &start).await;
    assert_eq!(moved.code, Some(0), "{}{}", moved.stdout, moved.stderr);
    assert_eq!(name(&mut conn, user).await, "later");
    let count: Option<u64> =
        conn.query_first(format!("SELECT COUNT(*) FROM photos WHERE user_id = {user}")).await.unwrap();
    assert_eq!(count, Some(3), "two of before, and the one that was prepared");
}

async fn a_branch_prepared_during_a_flip_undoes_it(ground: &Ground, proxy: &Proxy) {
    let user = ground.users[1];
    let config = ground.bed.config_file();
    let mut conn = proxy.connect().await;
    let update = format!("UPDATE users SET name = 'flipping' WHERE user_id = {user}");
    run(&mut conn, &["XA START 'meanwhile'", &update, "XA END 'meanwhile'"]).await;
    let flip = tokio::spawn(async move { usher(&config, &["shard", "flip", "s2"]).await });
    let mut global = usher_integration_tests::admin(&ground.bed.endpoints.global.members[0]).await;
    until("the flip has begun", async || {
        let state: Option<String> =
            global.query_first("SELECT state FROM usher.shards WHERE name = 's2'").await.unwrap();
        state.as_deref() == Some("switching")
    })
    .await;
    run(&mut conn, &["XA PREPARE 'meanwhile'"]).await;
    conn.disconnect().await.unwrap();
    let flip = flip.await.unwrap();
    let said = format!("{}{}", flip.stdout, flip.stderr);
    assert_eq!(flip.code, Some(1), "{said}");
    assert!(said.contains("'meanwhile'"), "{said}");
    let mut conn = proxy.connect().await;
    run(&mut conn, &["XA COMMIT 'meanwhile'"]).await;
    assert_eq!(name(&mut conn, user).await, "flipping");
}

async fn a_prepared_branch_outlives_its_proxy(ground: &Ground, proxy: Proxy, other: &Proxy) {
    let user = ground.users[1];
    let mut conn = proxy.connect().await;
    let mut lost = proxy.connect().await;
    prepare(&mut conn, "'outlives'", user, "outlived").await;
    let photo = format!("INSERT INTO photos (user_id, title) VALUES ({user}, 'lost')");
    run(&mut lost, &["XA START 'lost'", &photo, "XA END 'lost'"]).await;
    kill_9(proxy.pid()).await;
    let mut conn = other.connect().await;
    assert_eq!(prepared(&mut conn).await, ["outlives"]);
    run(&mut conn, &["XA COMMIT 'outlives'"]).await;
    assert_eq!(name(&mut conn, user).await, "outlived");
    assert_eq!(refused(&mut conn, "XA COMMIT 'lost'").await, 1397);
    until("what was not prepared is gone", || async {
        let mut conn = other.connect().await;
        conn.query_drop(format!("SELECT * FROM photos WHERE user_id = {user} FOR UPDATE NOWAIT"))
            .await
            .is_ok()
    })
    .await;
}
