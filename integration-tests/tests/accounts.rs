//! Accounts that are added, changed and taken away while two proxies run, by the command line and the console.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use usher_integration_tests::{Bed, Login, Proxy, admin, code, kill_9, message, until, usher};
use usher_playground::Server;

const DENIED: u16 = 1045;
const DATABASE_DENIED: u16 = 1044;
const COMMAND_DENIED: u16 = 1142;
const OVER_LIMIT: u16 = 1226;
const LOCKED: u16 = 3118;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_change_while_proxies_run() {
    on("accounts", Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_change_while_proxies_run_on_mysql() {
    on("accounts-mysql", Server::Mysql).await;
}

async fn on(name: &str, server: Server) {
    let bed = Bed::up_with(name, 1, 0, server, false).await;
    let proxies = [bed.proxy(1, |_| {}).await, bed.proxy(2, |_| {}).await];
    let mut app = proxies[0].connect().await;
    app.query_drop("CREATE TABLE words (word_id INT PRIMARY KEY)").await.unwrap();
    app.query_drop("INSERT INTO words VALUES (1), (2)").await.unwrap();
    for pair in bed.endpoints.shards.iter().map(|shard| &shard.members).chain([&bed.endpoints.global.members])
    {
        admin(&pair[0]).await.query_drop("CREATE DATABASE other").await.unwrap();
    }
    let bench = Bench { bed, proxies };
    bench.a_new_account_logs_in().await;
    bench.rights_change_under_a_session().await;
    bench.passwords_change().await;
    bench.limits_hold().await;
    bench.an_account_of_the_file_is_covered().await;
    bench.the_console_does_the_same().await;
    bench.a_dropped_account_is_sent_away().await;
    bench.nothing_is_told().await;
    bench.known_accounts_do_without_the_global_master().await;
}

struct Bench {
    bed: Bed,
    proxies: [Proxy; 2],
}

/// A proxy, logged in to as this account.
fn login(proxy: &Proxy, user: &str, password: &str) -> Login {
    Login::new(proxy.port(), user, password)
}

impl Bench {
    async fn cli(&self, arguments: &[&str]) -> usher_integration_tests::Output {
        usher(&self.bed.config_file(), &[&["account"], arguments].concat()).await
    }

    async fn done(&self, arguments: &[&str]) {
        let output = self.cli(arguments).await;
        assert_eq!(output.code, Some(0), "{arguments:?}: {output:?}");
        assert!(!output.stdout.contains("secret") && !output.stderr.contains("secret"), "{output:?}");
    }

    /// A file with a password.
    fn password(&self, password: &str) -> PathBuf {
        let file = self.bed.dir().join(format!("{password}.password"));
        std::fs::write(&file, format!("{password}\n")).unwrap();
        file
    }

    /// Waits until both proxies answer logins so: 0 is a login that succeeds.
    async fn logins(&self, user: &str, password: &str, wanted: u16) {
        for proxy in &self.proxies {
            until(&format!("login of {user} with {password}: {wanted}"), async || {
                match login(proxy, user, password).connect().await {
                    Ok(_) => wanted == 0,
                    Err(Error::Server(error)) => error.code == wanted,
                    // Dropped between its login and the first command.
                    Err(_) => false,
                }
            })
            .await;
        }
    }

    async fn console(&self) -> Conn {
        let config = usher_config::load(self.proxies[1].config_file()).unwrap();
        let port = config.proxy.unwrap().admin_listen.unwrap().port();
        let login = Login::new(port, "admin", &config.http.token.unwrap()).database(None);
        login.connect().await.unwrap()
    }

    async fn a_new_account_logs_in(&self) {
        self.logins("web", "secret1", DENIED).await;
        let file = self.password("secret1");
        let file = file.to_str().unwrap();
        self.done(&["add", "web", "--password-file", file, "--schemas", "app", "--default-schema", "app"])
            .await;
        self.logins("web", "secret1", 0).await;
        let again = self.cli(&["add", "web", "--no-password"]).await;
        assert!(again.code == Some(1) && again.stderr.contains("already"), "{again:?}");
        let wrong = self.cli(&["set", "web", "--schemas", "usher"]).await;
        assert!(wrong.code == Some(1) && wrong.stderr.contains("usher's own"), "{wrong:?}");
        let mut web = login(&self.proxies[1], "web", "secret1").database(None).connect().await.unwrap();
        assert_eq!(web.query_first("SELECT COUNT(*) FROM words").await.unwrap(), Some(2));
        assert_eq!(code(&web.query_drop("USE other").await), DATABASE_DENIED);
        let shown = self.cli(&["show", "web", "--json"]).await;
        let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
        assert_eq!((&shown["from"], &shown["password"]), (&"global".into(), &true.into()));
        // By the older plugin too.
        self.done(&["add", "old", "--password-file", file, "--plugin", "mysql_native_password"]).await;
        self.logins("old", "secret1", 0).await;
    }

    async fn rights_change_under_a_session(&self) {
        let mut sessions = Vec::new();
        for proxy in &self.proxies {
            sessions.push(login(proxy, "web", "secret1").connect().await.unwrap());
        }
        self.done(&["set", "web", "--read-only"]).await;
        for session in &mut sessions {
            let write = "DELETE FROM words WHERE word_id = 99";
            until("the session may only read", async || session.query_drop(write).await.is_err()).await;
            let refused = session.query_drop(write).await;
            assert_eq!(code(&refused), COMMAND_DENIED);
            assert!(message(&refused).contains("USHER-0115"), "{refused:?}");
            assert_eq!(code(&session.exec_drop("INSERT INTO words VALUES (?)", (9,)).await), COMMAND_DENIED);
            assert_eq!(session.query_first("SELECT COUNT(*) FROM words").await.unwrap(), Some(2));
        }
        self.done(&["set", "web", "--read-only=false", "--schemas", "app,other"]).await;
        for session in &mut sessions {
            until("it may write again", async || {
                session.query_drop("DELETE FROM words WHERE word_id = 99").await.is_ok()
            })
            .await;
            session.query_drop("USE other").await.unwrap();
        }
    }

    async fn passwords_change(&self) {
        let mut session = login(&self.proxies[0], "web", "secret1").connect().await.unwrap();
        let file = self.password("secret2");
        self.done(&["set", "web", "--password-file", file.to_str().unwrap()]).await;
        self.logins("web", "secret2", 0).await;
        self.logins("web", "secret1", DENIED).await;
        session.query_drop("SELECT 1").await.unwrap();
        self.done(&["set", "web", "--locked"]).await;
        self.logins("web", "secret2", LOCKED).await;
        self.logins("web", "secret1", DENIED).await;
        session.query_drop("SELECT 1").await.unwrap();
        self.done(&["set", "web", "--locked=false"]).await;
        self.logins("web", "secret2", 0).await;
    }

    async fn limits_hold(&self) {
        let proxy = &self.proxies[0];
        self.done(&["set", "web", "--connections-max", "1"]).await;
        until("one connection at once", async || {
            let first = login(proxy, "web", "secret2").connect().await.unwrap();
            let second = login(proxy, "web", "secret2").connect().await;
            first.disconnect().await.unwrap();
            second.is_err_and(|error| matches!(error, Error::Server(error) if error.code == OVER_LIMIT))
        })
        .await;
        self.done(&["set", "web", "--connections-max", "0", "--statements-per-s-max", "3"]).await;
        let mut session = login(proxy, "web", "secret2").connect().await.unwrap();
        until("three statements a second", async || {
            for _ in 0..4 {
                if let Err(Error::Server(error)) = session.query_drop("DO 1").await {
                    assert!(error.code == OVER_LIMIT && error.message.contains("USHER-0701"), "{error}");
                    return true;
                }
            }
            false
        })
        .await;
        self.done(&["set", "web", "--statements-per-s-max", "0"]).await;
    }

    /// The proxies' files have `app`, too.
    async fn an_account_of_the_file_is_covered(&self) {
        let of_file = self.bed.endpoints.proxy.password.clone();
        self.logins("app", &of_file, 0).await;
        let unknown = self.cli(&["set", "app", "--read-only"]).await;
        assert!(unknown.code == Some(1) && unknown.stderr.contains("configuration file"), "{unknown:?}");
        let file = self.password("secret3");
        self.done(&["add", "app", "--password-file", file.to_str().unwrap(), "--schemas", "app"]).await;
        self.logins("app", "secret3", 0).await;
        self.logins("app", &of_file, DENIED).await;
        self.done(&["drop", "app"]).await;
        self.logins("app", &of_file, 0).await;
    }

    async fn the_console_does_the_same(&self) {
        let mut console = self.console().await;
        let create = "CREATE ACCOUNT 'shop' IDENTIFIED BY 'secret4' SCHEMAS 'app' READ ONLY";
        console.query_drop(create).await.unwrap();
        self.logins("shop", "secret4", 0).await;
        let twice = console.query_drop(create).await;
        assert!(code(&twice) == 1644 && !message(&twice).contains("secret4"), "{twice:?}");
        console.query_drop("CREATE USER IF NOT EXISTS shop IDENTIFIED BY ''").await.unwrap();
        console.query_drop("ALTER ACCOUNT shop READ WRITE WITH MAX_USER_CONNECTIONS 7").await.unwrap();
        until("the console shows what its proxy has", async || {
            let row: Option<mysql_async::Row> = console.query_first("SHOW ACCOUNT shop").await.unwrap();
            let row = row.unwrap();
            let cell = |name: &str| row.get::<String, _>(name).unwrap();
            assert_eq!((cell("from"), cell("schemas")), ("the global master".into(), "app".into()));
            (cell("read_only"), cell("connections_max")) == ("no".into(), "7".into())
        })
        .await;
        console.query_drop("DROP ACCOUNT shop").await.unwrap();
        assert_eq!(code(&console.query_drop("DROP ACCOUNT shop").await), 1644);
        self.logins("shop", "secret4", DENIED).await;
        let said: Vec<(String, String)> = admin(&self.bed.endpoints.global.members[0])
            .await
            .query("SELECT what, detail FROM usher.history WHERE subject = 'shop' ORDER BY history_id")
            .await
            .unwrap();
        let words: Vec<_> = said.iter().map(|(what, _)| what.as_str()).collect();
        assert_eq!(words, ["account added", "account changed", "account dropped"]);
        assert!(said[0].1.contains("password=changed") && !said[0].1.contains("secret4"), "{said:?}");
    }

    async fn a_dropped_account_is_sent_away(&self) {
        let mut idle = login(&self.proxies[0], "web", "secret2").connect().await.unwrap();
        let mut busy = login(&self.proxies[1], "web", "secret2").connect().await.unwrap();
        let running = tokio::spawn(async move {
            let slept = busy.query_drop("DO SLEEP(1)").await;
            (slept, busy)
        });
        until("it runs", async || {
            let list: Vec<mysql_async::Row> = login(&self.proxies[1], "web", "secret2")
                .connect()
                .await
                .unwrap()
                .query("SHOW PROCESSLIST")
                .await
                .unwrap();
            list.iter().any(|row| {
                row.get::<Option<String>, _>("Info").unwrap().is_some_and(|info| info.contains("SLEEP"))
            })
        })
        .await;
        self.done(&["drop", "web"]).await;
        self.logins("web", "secret2", DENIED).await;
        until("the idle session has ended", async || idle.query_drop("DO 1").await.is_err()).await;
        let (slept, mut busy) = running.await.unwrap();
        slept.unwrap();
        until("the other one, behind its statement", async || busy.query_drop("DO 1").await.is_err()).await;
    }

    /// No password is in a log or at rest.
    async fn nothing_is_told(&self) {
        for proxy in &self.proxies {
            assert!(!proxy.log().contains("secret"), "{}", proxy.log());
        }
        let mut global = admin(&self.bed.endpoints.global.members[0]).await;
        let rows: Vec<(Option<String>, Option<String>)> = global
            .query("SELECT sha256_hash, native_hash FROM usher.accounts WHERE name = 'old'")
            .await
            .unwrap();
        assert!(matches!(&rows[..], [(None, Some(native))] if native.len() == 40), "{rows:?}");
    }

    async fn known_accounts_do_without_the_global_master(&self) {
        for member in &self.bed.endpoints.global.members {
            kill_9(self.bed.pid(&member.name)).await;
        }
        self.logins("old", "secret1", 0).await;
        self.logins("old", "wrong", DENIED).await;
    }
}
