//! Real servers for the tests: mariadbd and memcached in a temporary folder, on free ports, gone when dropped.
// Each test file uses its own part.
#![allow(dead_code)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use usher_config::{BackendTls, Endpoint, GlobalMaster, Limits, Memcached};
use usher_directory::{Directory, Global, Metrics, schema};
use usher_topology::{Epoch, Role, Server, ServerId, Shard, ShardId, ShardState};

pub(crate) const CONTROL: (&str, &str) = ("usher_admin", "secret");
pub(crate) const PROXY_ACCOUNT: (&str, &str) = ("px1", "px-secret");

/// A port below the range that outgoing connections use.
fn free_port() -> u16 {
    loop {
        let port = 12_000 + rand::random::<u16>() % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ready() {
        assert!(Instant::now() < deadline, "{what} did not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) struct MariaDb {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    id: u32,
    dir: PathBuf,
    child: Mutex<Option<Child>>,
}

impl MariaDb {
    /// Temporary files go below, for both: a starting MariaDB removes those of all others that share the folder.
    fn install(template: &Path) {
        std::fs::create_dir_all(template).unwrap();
        let output = Command::new("mariadb-install-db")
            .env("TMPDIR", template)
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(format!("--datadir={}", template.display()))
            .args(["--user=root", "--innodb-log-file-size=8M"])
            .output()
            .expect("mariadb-install-db runs");
        assert!(output.status.success(), "mariadb-install-db failed: {output:?}");
    }

    fn new(name: &'static str, id: u32, root: &Path, template: &Path) -> Self {
        let dir = root.join(name);
        let copied = Command::new("cp").arg("-r").arg(template).arg(&dir).status().unwrap();
        assert!(copied.success());
        let accounts = format!(
            "CREATE USER IF NOT EXISTS {0}@'%' IDENTIFIED BY '{1}';\nGRANT ALL ON *.* TO {0}@'%' WITH GRANT OPTION;\n\
             CREATE USER IF NOT EXISTS {2}@'%' IDENTIFIED BY '{3}';\nGRANT SELECT ON *.* TO {2}@'%';\n",
            CONTROL.0, CONTROL.1, PROXY_ACCOUNT.0, PROXY_ACCOUNT.1
        );
        std::fs::write(dir.join("init.sql"), accounts).unwrap();
        let server = Self { name, port: free_port(), id, dir, child: Mutex::new(None) };
        server.start();
        server
    }

    pub(crate) fn start(&self) {
        self.start_with(&[]);
    }

    pub(crate) fn start_with(&self, more: &[String]) {
        let at = |name: &str| self.dir.join(name).display().to_string();
        let log = std::fs::File::create(self.dir.join("log")).unwrap();
        let child = Command::new("mariadbd")
            .env("TMPDIR", &self.dir)
            .arg("--no-defaults")
            .arg(format!("--datadir={}", self.dir.display()))
            .arg(format!("--socket={}", at("sock")))
            .arg(format!("--pid-file={}", at("pid")))
            .arg(format!("--port={}", self.port))
            .arg(format!("--server-id={}", self.id))
            .arg(format!("--init-file={}", at("init.sql")))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--user=root", "--log-bin=bin"])
            .args(["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"])
            .args(["--innodb-flush-log-at-trx-commit=2", "--max-connections=400"])
            .args(more)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mariadbd starts");
        *self.child.lock().unwrap() = Some(child);
        // The port opens after the accounts are made.
        wait_for(self.name, || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// kill -9, as a crash.
    pub(crate) fn crash(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Takes connections and answers nothing, until [`MariaDb::thaw`].
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.lock().unwrap().as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(crate) async fn conn(&self, account: (&str, &str)) -> mysql_async::Result<Conn> {
        let opts = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port)
            .prefer_socket(false)
            .user(Some(account.0))
            .pass(Some(account.1));
        Conn::new(opts).await
    }

    pub(crate) async fn control(&self) -> Conn {
        self.conn(CONTROL).await.unwrap()
    }

    pub(crate) async fn value<T: mysql_async::prelude::FromValue + Send + 'static>(
        &self,
        query: &str,
    ) -> Option<T> {
        self.control().await.query_first(query).await.unwrap()
    }

    pub(crate) async fn run(&self, statement: &str) {
        self.control().await.query_drop(statement).await.unwrap();
    }

    pub(crate) async fn status(&self, name: &str) -> u64 {
        let row: Option<(String, u64)> =
            self.control().await.query_first(format!("SHOW GLOBAL STATUS LIKE '{name}'")).await.unwrap();
        row.unwrap().1
    }

    pub(crate) fn server(&self) -> Server {
        Server {
            id: ServerId(self.id),
            name: self.name.to_owned(),
            host: "127.0.0.1".to_owned(),
            port: self.port,
            role: Role::Member,
        }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.crash();
    }
}

pub(crate) struct Memcache {
    pub(crate) port: u16,
    child: Mutex<Child>,
}

impl Memcache {
    pub(crate) fn start() -> Self {
        let port = free_port();
        let child = Command::new("memcached")
            .args(["-u", "root", "-l", "127.0.0.1", "-m", "16", "-t", "1", "-p", &port.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("memcached starts");
        wait_for("memcached", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { port, child: Mutex::new(child) }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn crash(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Takes connections and answers nothing, as a machine that hangs.
    pub(crate) fn freeze(&self) {
        let pid = self.child.lock().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    }

    /// One text command and its first answer line, past every client library.
    pub(crate) fn raw(&self, command: &str) -> String {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(command.as_bytes()).unwrap();
        let mut answer = [0u8; 1024];
        let n = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..n]).into_owned()
    }
}

impl Drop for Memcache {
    fn drop(&mut self) {
        self.crash();
    }
}

/// A global master and two shards of one member each: enough for rows, caches and accounts.
pub(crate) struct Deployment {
    pub(crate) global: MariaDb,
    pub(crate) shards: [MariaDb; 2],
    root: PathBuf,
}

/// Tests run one at a time; the servers live as long as any test of the file waits or runs.
pub(crate) struct InUse {
    deployment: Arc<Deployment>,
    _alone: MutexGuard<'static, ()>,
}

impl std::ops::Deref for InUse {
    type Target = Deployment;
    fn deref(&self) -> &Deployment {
        &self.deployment
    }
}

static RUNNING: Mutex<Weak<Deployment>> = Mutex::new(Weak::new());
static ALONE: Mutex<()> = Mutex::new(());

impl Deployment {
    fn start() -> Self {
        let root =
            std::env::temp_dir().join(format!("usher-directory-{}-{}", std::process::id(), free_port()));
        std::fs::create_dir_all(&root).unwrap();
        let template = root.join("template");
        MariaDb::install(&template);
        let server = |name, id| MariaDb::new(name, id, &root, &template);
        Self { global: server("g1", 1), shards: [server("a1", 11), server("b1", 21)], root }
    }

    /// Empty tables, two shards registered.
    pub(crate) async fn fresh() -> InUse {
        let deployment = {
            let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
            running.upgrade().unwrap_or_else(|| {
                let new = Arc::new(Self::start());
                *running = Arc::downgrade(&new);
                new
            })
        };
        let in_use = InUse { deployment, _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner) };
        for server in [&in_use.global, &in_use.shards[0], &in_use.shards[1]] {
            server.run("SET GLOBAL read_only = 0").await;
            server.run("DROP DATABASE IF EXISTS usher").await;
            server.run(&format!("ALTER USER {}@'%' ACCOUNT UNLOCK", PROXY_ACCOUNT.0)).await;
        }
        let global = in_use.access();
        schema::apply(&global).await.unwrap();
        for (id, server) in [(0, &in_use.global), (1, &in_use.shards[0]), (2, &in_use.shards[1])] {
            schema::register_shard(&global, &shard(id, server)).await.unwrap();
        }
        schema::apply(&global).await.unwrap();
        in_use
    }

    pub(crate) fn access_config(&self) -> GlobalMaster {
        GlobalMaster {
            writer_hint: None,
            user: CONTROL.0.to_owned(),
            password: CONTROL.1.to_owned(),
            members: vec![Endpoint {
                name: "g1".to_owned(),
                host: "127.0.0.1".to_owned(),
                port: self.global.port,
            }],
        }
    }

    /// A folder that goes away with the servers.
    pub(crate) fn folder(&self) -> &Path {
        &self.root
    }

    pub(crate) fn access(&self) -> Global {
        Global::new(&self.access_config(), &BackendTls::default(), &limits())
    }

    pub(crate) async fn directory(&self, memcached: &[&Memcache]) -> Arc<Directory> {
        self.directory_with(memcached, &limits()).await
    }

    pub(crate) async fn directory_with(&self, memcached: &[&Memcache], limits: &Limits) -> Arc<Directory> {
        let memcached = Memcached { servers: memcached.iter().map(|m| m.address()).collect() };
        let directory = Directory::new(self.access(), &memcached, limits, Metrics::default());
        directory.refresh().await.unwrap();
        directory
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        for server in [&self.global, &self.shards[0], &self.shards[1]] {
            server.crash();
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

pub(crate) fn shard(id: u16, server: &MariaDb) -> Shard {
    Shard {
        id: ShardId(id),
        name: format!("s{id}"),
        state: ShardState::Rw,
        epoch: Epoch(1),
        writer: server.server().id,
        weight: 100,
        servers: vec![server.server()],
    }
}

pub(crate) fn limits() -> Limits {
    Limits { patience_ms: 700, drain_ms: 500, poll_ms: 20, ..Limits::default() }
}

/// Waits for a condition, looking often.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
