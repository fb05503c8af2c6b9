//! State that cannot leave its connection: cursors, locks, temporary tables. It keeps the connection, is shown with its
//! reason, and gives the connection back as soon as it ends.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::net::TcpStream;
use usher_integration_tests::raw::{self, CURSOR_EXISTS, LAST_ROW_SENT, execute, fetch, prepare, run};
use usher_integration_tests::{
    Bed, Proxy, admin, directory_home, make_tables, message, sign_up, until, usher,
};
use usher_playground::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mariadb() {
    pins(Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mysql() {
    pins(Server::Mysql).await;
}

struct Ground {
    bed: Bed,
    proxy: Proxy,
    user: u64,
}

async fn pins(kind: Server) {
    let bed = Bed::up_with(&format!("pins-{kind:?}").to_lowercase(), 2, 0, kind, false).await;
    let change = |config: &mut usher_config::Config| {
        config.users.push(usher_config::User {
            name: "nobody".to_owned(),
            schemas: vec!["app".to_owned()],
            ..usher_config::User::default()
        });
        (config.users[0].admin, config.users[0].schemas) = (true, Vec::new());
    };
    let proxy = bed.proxy(1, change).await;
    let mut conn = proxy.connect().await;
    make_tables(&mut conn).await;
    let user = sign_up(&bed, &mut conn, 1).await.into_values().next().unwrap()[0];
    for number in 0..5 {
        conn.exec_drop("INSERT INTO words (word) VALUES (?)", (number,)).await.unwrap();
        conn.exec_drop("INSERT INTO photos (user_id, title) VALUES (?, ?)", (user, number)).await.unwrap();
    }
    let ground = Ground { bed, proxy, user };
    rows_are_fetched_from_several_cursors(&ground).await;
    a_cursor_outlives_its_transaction(&ground).await;
    a_cursor_is_closed_by_whatever_ends_it(&ground).await;
    a_cursor_goes_on_over_a_flip(&ground).await;
    a_lost_cursor_is_told(&ground).await;
    locks_keep_a_connection_as_long_as_they_are_held(&ground).await;
    data_sent_ahead_waits_in_memory_and_files(&ground).await;
    a_lost_lock_ends_session_and_transaction(&ground).await;
    a_move_waits_for_a_transaction_behind_a_lock(&ground).await;
    temporary_tables_keep_a_connection_until_they_are_dropped(&ground).await;
    locked_tables_keep_a_connection_until_they_are_unlocked(&ground).await;
    a_variable_names_the_user(&ground).await;
    statements_out_of_time_get_the_servers_error(&ground, kind).await;
    rows_that_break_off_end_in_an_error(&ground).await;
}

impl Ground {
    async fn raw(&self) -> TcpStream {
        raw::logged_in(self.proxy.port(), "nobody").await
    }

    /// What SHOW PROCESSLIST says of pins of this account's sleeping sessions.
    async fn pinned(&self, account: &str) -> Vec<String> {
        let mut conn = self.proxy.connect().await;
        type Row = (u64, String, String, Option<String>, String, String, String, Option<String>);
        let rows: Vec<Row> = conn.query("SHOW PROCESSLIST").await.unwrap();
        let of_account = rows.into_iter().filter(|row| row.1 == account && row.4 == "Sleep");
        let states =
            of_account.filter_map(|row| Some(row.6.strip_prefix("holds a connection: ")?.to_owned()));
        states.collect()
    }

    async fn until_pinned(&self, account: &str, wanted: &[&str]) {
        until(&format!("{account} is pinned by {wanted:?}"), || async {
            self.pinned(account).await == wanted
        })
        .await;
    }

    /// Ends every connection of the proxy to the global master.
    async fn cut_off_from_global(&self) {
        let mut server = admin(&self.bed.endpoints.global.members[0]).await;
        let threads: Vec<u64> = server
            .query("SELECT id FROM information_schema.processlist WHERE user = 'usher_px1'")
            .await
            .unwrap();
        for thread in threads {
            // One may have gone by itself.
            let _ = server.query_drop(format!("KILL {thread}")).await;
        }
    }

    fn titles(&self) -> String {
        format!("SELECT title FROM photos WHERE user_id = {}", self.user)
    }

    fn photos(&self) -> String {
        format!("SELECT photo_id FROM photos WHERE user_id = {} ORDER BY photo_id", self.user)
    }
}

const WORDS: &str = "SELECT word FROM words ORDER BY word_id";

async fn rows_are_fetched_from_several_cursors(ground: &Ground) {
    let mut raw = ground.raw().await;
    let (words, photos) = (prepare(&mut raw, WORDS).await, prepare(&mut raw, &ground.photos()).await);
    let again = prepare(&mut raw, WORDS).await;
    assert_eq!(execute(&mut raw, words, 0).await.unwrap() & CURSOR_EXISTS, 0);
    assert_eq!(raw::up_to_eof(&mut raw).await.unwrap().0.len(), 5, "all at once, as no cursor is asked for");
    assert_eq!(fetch(&mut raw, words, 1).await, Err(1421), "no cursor is open");
    assert_eq!(fetch(&mut raw, 99, 1).await, Err(1243));
    for id in [words, photos, again] {
        assert_ne!(execute(&mut raw, id, 1).await.unwrap() & CURSOR_EXISTS, 0);
    }
    ground.until_pinned("nobody", &["cursor"]).await;
    let (rows, status) = fetch(&mut raw, words, 2).await.unwrap();
    assert_eq!((rows, status & LAST_ROW_SENT), (2, 0));
    assert_ne!(status & CURSOR_EXISTS, 0);
    // Statements run in between, on the same tables; what a cursor gives was decided when it was opened.
    run(&mut raw, "INSERT INTO words (word) VALUES ('between')").await;
    run(&mut raw, "DELETE FROM words WHERE word = 'between'").await;
    assert_eq!(fetch(&mut raw, photos, 3).await.unwrap().0, 3);
    assert_eq!(fetch(&mut raw, again, 4).await.unwrap().0, 4);
    let (rows, status) = fetch(&mut raw, words, 10).await.unwrap();
    assert_eq!(rows, 3);
    assert_ne!(status & LAST_ROW_SENT, 0);
    assert_eq!(fetch(&mut raw, words, 1).await, Err(1421), "it was closed behind its last row");
    assert_eq!(fetch(&mut raw, photos, 10).await.unwrap().0, 2);
    assert_eq!(fetch(&mut raw, again, 10).await.unwrap().0, 1);
    ground.until_pinned("nobody", &[]).await;
    // FOUND_ROWS() counts the cursor's rows, fetched or not.
    let found = prepare(&mut raw, "SELECT FOUND_ROWS()").await;
    for few in [1, 10] {
        execute(&mut raw, words, 1).await.unwrap();
        fetch(&mut raw, words, few).await.unwrap();
        execute(&mut raw, found, 0).await.unwrap();
        let rows = raw::up_to_eof(&mut raw).await.unwrap().0;
        assert_eq!(rows[0], [0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    }
}

async fn a_cursor_outlives_its_transaction(ground: &Ground) {
    let mut raw = ground.raw().await;
    let words = prepare(&mut raw, WORDS).await;
    run(&mut raw, "BEGIN").await;
    run(&mut raw, "INSERT INTO words (word) VALUES ('own')").await;
    let status = execute(&mut raw, words, 1).await.unwrap();
    assert_eq!(status & (CURSOR_EXISTS | 1), CURSOR_EXISTS | 1, "in the transaction");
    assert_eq!(fetch(&mut raw, words, 2).await.unwrap().0, 2);
    run(&mut raw, "ROLLBACK").await;
    ground.until_pinned("nobody", &["cursor"]).await;
    let (rows, status) = fetch(&mut raw, words, 10).await.unwrap();
    assert_eq!((rows, status & 1), (4, 0), "with the row that the transaction saw");
    ground.until_pinned("nobody", &[]).await;
}

async fn a_cursor_is_closed_by_whatever_ends_it(ground: &Ground) {
    let mut raw = ground.raw().await;
    let words = prepare(&mut raw, WORDS).await;
    let open = async |raw: &mut TcpStream, id: u32| {
        assert_ne!(execute(raw, id, 1).await.unwrap() & CURSOR_EXISTS, 0);
        assert_eq!(fetch(raw, id, 1).await.unwrap().0, 1);
    };
    open(&mut raw, words).await;
    // Executed anew, it begins anew.
    open(&mut raw, words).await;
    assert_eq!(fetch(&mut raw, words, 10).await.unwrap().0, 4);
    open(&mut raw, words).await;
    assert_eq!(
        raw::command(&mut raw, &[&[0x1a], &words.to_le_bytes()[..]].concat()).await[0],
        0,
        "COM_STMT_RESET"
    );
    assert_eq!(fetch(&mut raw, words, 1).await, Err(1421));
    open(&mut raw, words).await;
    raw::send(&mut raw, 0, &[&[0x19], &words.to_le_bytes()[..]].concat()).await;
    assert_eq!(fetch(&mut raw, words, 1).await, Err(1243), "COM_STMT_CLOSE");
    ground.until_pinned("nobody", &[]).await;
    let words = prepare(&mut raw, WORDS).await;
    open(&mut raw, words).await;
    assert_eq!(raw::command(&mut raw, &[0x1f]).await[0], 0, "COM_RESET_CONNECTION");
    assert_eq!(fetch(&mut raw, words, 1).await, Err(1243));
    ground.until_pinned("nobody", &[]).await;
    // A client that leaves takes its cursor along.
    let words = prepare(&mut raw, WORDS).await;
    open(&mut raw, words).await;
    drop(raw);
    ground.until_pinned("nobody", &[]).await;
}

async fn a_cursor_goes_on_over_a_flip(ground: &Ground) {
    let mut raw = ground.raw().await;
    let photos = prepare(&mut raw, &ground.photos()).await;
    assert_ne!(execute(&mut raw, photos, 1).await.unwrap() & CURSOR_EXISTS, 0);
    assert_eq!(fetch(&mut raw, photos, 2).await.unwrap().0, 2);
    let flip = usher(&ground.bed.config_file(), &["shard", "flip", "s1"]).await;
    assert_eq!(flip.code, Some(0), "{}{}", flip.stdout, flip.stderr);
    let insert = format!("INSERT INTO photos (user_id, title) VALUES ({}, 'after')", ground.user);
    run(&mut raw, &insert).await;
    assert_eq!(fetch(&mut raw, photos, 10).await.unwrap().0, 3, "what it had when it was opened");
}

async fn a_lost_cursor_is_told(ground: &Ground) {
    let mut raw = ground.raw().await;
    let words = prepare(&mut raw, WORDS).await;
    assert_ne!(execute(&mut raw, words, 1).await.unwrap() & CURSOR_EXISTS, 0);
    ground.cut_off_from_global().await;
    assert_eq!(fetch(&mut raw, words, 1).await, Err(1159));
    assert_eq!(fetch(&mut raw, words, 1).await, Err(1421));
    run(&mut raw, "DO 1").await;
}

async fn locks_keep_a_connection_as_long_as_they_are_held(ground: &Ground) {
    let mut conn = ground.proxy.login().user("nobody", "").connect().await.unwrap();
    let mut other = ground.proxy.connect().await;
    let holder = conn.id();
    let get =
        async |conn: &mut Conn, sql: &str| conn.query_first::<Option<i64>, _>(sql).await.unwrap().unwrap();
    assert_eq!(get(&mut conn, "SELECT GET_LOCK('a', 5)").await, Some(1));
    let prepared: Option<i64> = conn.exec_first("SELECT GET_LOCK(?, 5)", ("b",)).await.unwrap();
    assert_eq!(prepared, Some(1));
    ground.until_pinned("nobody", &["named lock"]).await;
    assert_eq!(get(&mut other, "SELECT GET_LOCK('a', 0)").await, Some(0), "taken");
    for asking in [&mut conn, &mut other] {
        let who = asking.query_first("SELECT IS_USED_LOCK('a'), IS_USED_LOCK(CONCAT('b', '')) AS b").await;
        assert_eq!(who.unwrap(), Some((holder, holder)));
        let compared = format!("SELECT IS_USED_LOCK('a') = {holder}, IS_USED_LOCK('b') = CONNECTION_ID()");
        let own = i64::from(asking.id() == holder);
        assert_eq!(asking.query_first(compared).await.unwrap(), Some((1_i64, own)));
    }
    assert_eq!(get(&mut conn, "SELECT RELEASE_LOCK('a')").await, Some(1));
    ground.until_pinned("nobody", &["named lock"]).await;
    assert_eq!(get(&mut other, "SELECT GET_LOCK('a', 5)").await, Some(1), "free again");
    assert_eq!(get(&mut conn, "SELECT GET_LOCK('a', 0)").await, Some(0), "not got, so nothing holds it");
    assert_eq!(get(&mut conn, "SELECT RELEASE_LOCK('b')").await, Some(1));
    ground.until_pinned("nobody", &[]).await;
    assert_eq!(conn.query_first::<Option<u32>, _>("SELECT IS_USED_LOCK('b')").await.unwrap(), Some(None));
    for name in ["c", "d", "c"] {
        assert_eq!(get(&mut conn, &format!("SELECT GET_LOCK('{name}', 5)")).await, Some(1));
    }
    assert_eq!(get(&mut conn, "SELECT RELEASE_LOCK('c')").await, Some(1));
    ground.until_pinned("nobody", &["named lock"]).await;
    assert_eq!(get(&mut conn, "SELECT RELEASE_ALL_LOCKS()").await, Some(2));
    ground.until_pinned("nobody", &[]).await;
    other.query_drop("DO RELEASE_ALL_LOCKS()").await.unwrap();
    // A name that only a server knows holds until all are released.
    assert_eq!(get(&mut conn, "SELECT GET_LOCK(CONCAT('e', 'f'), 5)").await, Some(1));
    assert_eq!(get(&mut conn, "SELECT RELEASE_LOCK('ef')").await, Some(1));
    ground.until_pinned("nobody", &["named lock"]).await;
    conn.query_drop("DO RELEASE_ALL_LOCKS()").await.unwrap();
    ground.until_pinned("nobody", &[]).await;
}

async fn data_sent_ahead_waits_in_memory_and_files(ground: &Ground) {
    const NEW_TYPES: [u8; 5] = [1, 0xfb, 0, 0xfb, 0];
    let mut raw = ground.raw().await;
    let text = b"\x16SELECT CONCAT(LENGTH(?), ' ', CRC32(?))";
    let head = raw::command(&mut raw, text).await;
    let id = &head[1..5];
    raw::up_to_eof(&mut raw).await.unwrap();
    raw::up_to_eof(&mut raw).await.unwrap();
    let execute = |id: &[u8], data: &[u8]| [&[0x17], id, &[0, 1, 0, 0, 0, 0], &NEW_TYPES, data].concat();
    let ahead = |param: u8, data: &[u8]| [&[0x18], id, &[param, 0], data].concat();
    for (pieces, bytes) in [(1, 3), (30, 100_000), (5, 15 << 20)] {
        for piece in 0..pieces {
            // Interleaved: the short one in memory, the long one in a file.
            raw::send(&mut raw, 0, &ahead(0, &vec![b'x'; bytes])).await;
            raw::send(&mut raw, 0, &ahead(1, &[b'a' + piece % 26])).await;
        }
        let answer = raw::command(&mut raw, &execute(id, &[])).await;
        if bytes > 1 << 20 {
            assert_eq!(raw::error_code(&answer), 1153, "over the limit for a packet");
            continue;
        }
        raw::up_to_eof(&mut raw).await.unwrap();
        let rows = raw::up_to_eof(&mut raw).await.unwrap().0;
        let sum: String = (0..pieces).map(|piece| char::from(b'a' + piece % 26)).collect();
        let wanted = format!("SELECT CONCAT({}, ' ', CRC32('{sum}'))", usize::from(pieces) * bytes);
        let wanted: Option<String> = ground.proxy.connect().await.query_first(wanted).await.unwrap();
        assert!(rows[0].ends_with(wanted.unwrap().as_bytes()), "{pieces} of {bytes}: {rows:?}");
    }
    raw::send(&mut raw, 0, &ahead(2, b"none")).await;
    let answer = raw::command(&mut raw, &execute(id, b"\x01x\x01y")).await;
    assert_eq!(raw::error_code(&answer), 1210);
    // What was sent ahead is for one execution.
    let answer = raw::command(&mut raw, &execute(id, b"\x01x\x01y")).await;
    assert_eq!(answer, [1], "a row of one column");
    raw::up_to_eof(&mut raw).await.unwrap();
    assert!(raw::up_to_eof(&mut raw).await.unwrap().0[0].ends_with(b"1 4225443349"));
}

/// The lock is held on another server than the transaction.
async fn a_lost_lock_ends_session_and_transaction(ground: &Ground) {
    let mut other = ground.proxy.connect().await;
    let title = format!("SELECT COUNT(*) FROM photos WHERE user_id = {} AND title = 'locked'", ground.user);
    let update = format!("UPDATE photos SET title = 'locked' WHERE user_id = {}", ground.user);
    for asked in ["SELECT IS_USED_LOCK('lost')", "DO RELEASE_LOCK('lost')"] {
        let mut conn = ground.proxy.connect().await;
        let got: Option<i64> = conn.query_first("SELECT GET_LOCK('lost', 5)").await.unwrap();
        assert_eq!(got, Some(1));
        conn.query_drop("BEGIN").await.unwrap();
        conn.query_drop(&update).await.unwrap();
        ground.cut_off_from_global().await;
        let lost = conn.query_drop(asked).await;
        assert!(message(&lost).contains("USHER-0513"), "{asked}: {lost:?}");
        assert!(conn.query_drop("COMMIT").await.is_err(), "the session is over");
        // It waits for the rows' locks.
        let left: Option<u64> = other.query_first(format!("{title} FOR UPDATE")).await.unwrap();
        assert_eq!(left, Some(0), "it is rolled back");
    }
    // Who does not ask for the lock again loses nothing but the lock.
    let mut conn = ground.proxy.connect().await;
    conn.query_drop("SELECT GET_LOCK('lost', 5)").await.unwrap();
    conn.query_drop("BEGIN").await.unwrap();
    conn.query_drop(&update).await.unwrap();
    ground.cut_off_from_global().await;
    conn.query_drop("COMMIT").await.unwrap();
    let all: Vec<String> = other.query(ground.titles()).await.unwrap();
    assert!(all.len() > 4 && all.iter().all(|title| title == "locked"), "{all:?}");
}

async fn a_move_waits_for_a_transaction_behind_a_lock(ground: &Ground) {
    let (key, config) = (ground.user.to_string(), ground.bed.config_file());
    let to = if directory_home(&ground.bed, ground.user).await == "s1" { "s2" } else { "s1" };
    let mut conn = ground.proxy.connect().await;
    conn.query_drop("BEGIN").await.unwrap();
    conn.query_drop(format!("UPDATE photos SET title = 'waited for' WHERE user_id = {key}")).await.unwrap();
    let got: Option<i64> = conn.query_first("SELECT GET_LOCK('beside', 5)").await.unwrap();
    assert_eq!(got, Some(1));
    // Prepared, the server's own number of the connection is compared with.
    let own = "SELECT IS_USED_LOCK('beside') = CONNECTION_ID()";
    assert_eq!(conn.query_first::<i64, _>(own).await.unwrap(), Some(1));
    let own = "SELECT IS_USED_LOCK(?) = CONNECTION_ID()";
    assert_eq!(conn.exec_first::<i64, _, _>(own, ("beside",)).await.unwrap(), Some(1));
    let id = format!("SELECT CONNECTION_ID() = {}, GET_LOCK('beside', 0)", conn.id());
    assert_eq!(conn.query_first::<(i64, i64), _>(id).await.unwrap(), Some((1, 1)));
    // A new user's row is explained beside the transaction, and not written.
    let explained = conn.query_drop("EXPLAIN INSERT INTO users SET name = 'new'").await;
    assert!(explained.is_ok(), "{explained:?}");
    let start = ["move", "start", "--user", &key, "--to", to, "--locked"];
    let moved = usher(&config, &start);
    tokio::pin!(moved);
    let early = tokio::time::timeout(Duration::from_secs(3), &mut moved).await;
    assert!(early.is_err(), "{early:?}");
    conn.query_drop("COMMIT").await.unwrap();
    let moved = moved.await;
    assert_eq!(moved.code, Some(0), "{}{}", moved.stdout, moved.stderr);
    assert_eq!(directory_home(&ground.bed, ground.user).await, to);
    let titles: Vec<String> = conn.query(ground.titles()).await.unwrap();
    assert!(titles.len() > 4 && titles.iter().all(|title| title == "waited for"), "{titles:?}");
    conn.query_drop("DO RELEASE_ALL_LOCKS()").await.unwrap();
}

async fn temporary_tables_keep_a_connection_until_they_are_dropped(ground: &Ground) {
    let mut conn = ground.proxy.login().user("nobody", "").connect().await.unwrap();
    conn.query_drop("CREATE TEMPORARY TABLE mine (n INT)").await.unwrap();
    conn.query_drop("CREATE TEMPORARY TABLE IF NOT EXISTS mine (n INT)").await.unwrap();
    conn.query_drop("CREATE TEMPORARY TABLE app.Yours SELECT 1 AS n").await.unwrap();
    ground.until_pinned("nobody", &["temporary table"]).await;
    conn.query_drop("INSERT INTO mine VALUES (1)").await.unwrap();
    conn.query_drop("DROP TEMPORARY TABLE mine").await.unwrap();
    assert_eq!(conn.query_first::<i64, _>("SELECT n FROM Yours").await.unwrap(), Some(1));
    ground.until_pinned("nobody", &["temporary table"]).await;
    conn.query_drop("DROP TABLE Yours").await.unwrap();
    ground.until_pinned("nobody", &[]).await;
}

async fn locked_tables_keep_a_connection_until_they_are_unlocked(ground: &Ground) {
    let mut conn = ground.proxy.login().user("nobody", "").connect().await.unwrap();
    let mut other = ground.proxy.connect().await;
    let insert = "INSERT INTO words (word) VALUES ('locked')";
    for end in ["UNLOCK TABLES", "BEGIN"] {
        conn.query_drop("LOCK TABLES words READ").await.unwrap();
        ground.until_pinned("nobody", &["locked tables"]).await;
        conn.query_drop(end).await.unwrap();
        ground.until_pinned("nobody", &[]).await;
        // Nobody holds the lock any more.
        other.query_drop(insert).await.unwrap();
    }
}

async fn a_variable_names_the_user(ground: &Ground) {
    let mut conn = ground.proxy.login().user("nobody", "").connect().await.unwrap();
    let count = "SELECT COUNT(*) FROM photos WHERE user_id = @u";
    assert_eq!(conn.query_first::<i64, _>(count).await.unwrap(), Some(0), "NULL finds nothing");
    conn.query_drop(format!("SET @u = {}", ground.user)).await.unwrap();
    let photos = conn.query_first::<i64, _>(count).await.unwrap();
    assert!(photos > Some(0));
    assert_eq!(conn.exec_first::<i64, _, _>(count, ()).await.unwrap(), photos);
    // Assigned in a query, and as text.
    conn.query_drop(format!("SELECT @u := '{}'", ground.user)).await.unwrap();
    assert_eq!(conn.query_first::<i64, _>(count).await.unwrap(), photos);
    conn.query_drop("INSERT INTO photos (user_id, title) VALUES (@u, 'by variable')").await.unwrap();
    assert_eq!(conn.query_first::<i64, _>(count).await.unwrap(), photos.map(|photos| photos + 1));
    conn.query_drop("DELETE FROM photos WHERE user_id = @u AND title = 'by variable'").await.unwrap();
    assert_eq!(conn.query_first::<i64, _>(count).await.unwrap(), photos);
    conn.query_drop("SET @u = 1.5").await.unwrap();
    let refused = conn.query_first::<i64, _>(count).await.unwrap_err().to_string();
    assert!(refused.contains("USHER-0312"), "{refused}");
}

/// A join of all words with themselves, so often.
fn crowd(columns: &str, times: usize) -> String {
    let tables: Vec<String> = (0..times).map(|n| format!("words w{n}")).collect();
    format!("SELECT {columns} FROM {}", tables.join(", "))
}

async fn statements_out_of_time_get_the_servers_error(ground: &Ground, kind: Server) {
    let mut conn = ground.proxy.connect().await;
    let (setting, code) = match kind {
        Server::Mariadb => ("SET max_statement_time = 0.2", 1969),
        Server::Mysql => ("SET max_execution_time = 200", 3024),
    };
    conn.query_drop(setting).await.unwrap();
    let long = crowd("MAX(SHA2(CONCAT(w0.word_id, w5.word_id, w9.word_id), 256))", 14);
    for again in 0..2 {
        let result = conn.query_first::<String, _>(&long).await;
        // MySQL words it otherwise where it was just counting.
        assert!([code, 1317].contains(&usher_integration_tests::code(&result)), "{again}: {result:?}");
        assert_eq!(conn.query_first::<i64, _>("SELECT 1").await.unwrap(), Some(1), "the session goes on");
    }
    let result = conn.exec_first::<String, _, _>(&long, ()).await;
    assert!([code, 1317].contains(&usher_integration_tests::code(&result)), "prepared: {result:?}");
}

/// Rows are on their way when their connection is killed on the server: an ERR packet ends them, not the connection.
async fn rows_that_break_off_end_in_an_error(ground: &Ground) {
    let mut server = admin(&ground.bed.endpoints.global.members[0]).await;
    let mut conn = ground.proxy.login().user("nobody", "").connect().await.unwrap();
    let long = crowd("REPEAT('mark-broken', 100)", 9);
    for (transaction, code) in [(false, 1159), (true, 1213)] {
        if transaction {
            conn.query_drop("BEGIN").await.unwrap();
            conn.query_drop("INSERT INTO words (word) VALUES ('lost')").await.unwrap();
        }
        let mut rows = conn.query_iter(&long).await.unwrap();
        for _ in 0..10 {
            assert!(rows.next().await.unwrap().is_some());
        }
        let thread: Option<u64> = server
            .query_first(
                "SELECT id FROM information_schema.processlist WHERE info LIKE '%mark-broken%' \
                 AND info NOT LIKE '%processlist%'",
            )
            .await
            .unwrap();
        server.query_drop(format!("KILL {}", thread.unwrap())).await.unwrap();
        let end = loop {
            match rows.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("all rows came"),
                Err(error) => break error,
            }
        };
        drop(rows);
        let mysql_async::Error::Server(error) = &end else { panic!("{end}") };
        assert_eq!(error.code, code, "{error}");
        let lost: Option<i64> =
            conn.query_first("SELECT COUNT(*) FROM words WHERE word = 'lost'").await.unwrap();
        assert_eq!(lost, Some(0), "the session goes on, and the transaction is rolled back");
    }
}
