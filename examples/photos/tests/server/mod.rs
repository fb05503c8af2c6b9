//! One plain MariaDB in a temporary folder; it and the folder are gone when the value is dropped.

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mysql_async::{Conn, Opts, OptsBuilder};
use photos::Target;

pub(crate) struct Server {
    pub(crate) folder: PathBuf,
    port: u16,
    process: Child,
}

impl Server {
    /// Makes a data folder and starts a server on it; returns once it answers.
    pub(crate) async fn start(name: &str) -> Server {
        let folder = std::env::temp_dir().join(format!("photos-test-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let made = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(format!("--datadir={}", folder.join("data").display()))
            .arg(format!("--user={}", account()))
            // A server that starts clears away the temporary tables it finds, a neighbour's in a shared folder too.
            .env("TMPDIR", &folder)
            .output()
            .expect("mariadb-install-db is needed");
        assert!(
            made.status.success(),
            "{}{}",
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
        );
        let port = free_port();
        let process = launch(&folder, port);
        let server = Server { folder, port, process };
        server.answers().await;
        server
    }

    pub(crate) fn target(&self) -> Target {
        Target::new("127.0.0.1", self.port, "root", "", "photos")
    }

    /// A connection past the example, for the test's own doings.
    pub(crate) async fn connect(&self) -> Conn {
        Conn::new(self.opts("photos")).await.unwrap()
    }

    /// SIGKILL, and a new process on the same data.
    pub(crate) async fn crash_and_restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = launch(&self.folder, self.port);
        self.answers().await;
    }

    fn opts(&self, database: &str) -> Opts {
        let builder =
            OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(self.port).user(Some("root"));
        builder.prefer_socket(false).db_name(Some(database)).into()
    }

    async fn answers(&self) {
        let patience = Instant::now() + Duration::from_secs(60);
        while Conn::new(self.opts("mysql")).await.is_err() {
            assert!(
                Instant::now() < patience,
                "{}",
                fs::read_to_string(self.folder.join("log")).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn launch(folder: &std::path::Path, port: u16) -> Child {
    Command::new("mariadbd")
        .args([
            "--no-defaults",
            "--bind-address=127.0.0.1",
            "--innodb-buffer-pool-size=32M",
            "--skip-name-resolve",
        ])
        .args(["--innodb-log-file-size=16M", "--performance-schema=off"])
        .arg(format!("--datadir={}", folder.join("data").display()))
        .arg(format!("--socket={}", folder.join("socket").display()))
        .arg(format!("--pid-file={}", folder.join("pid").display()))
        .arg(format!("--log-error={}", folder.join("log").display()))
        .arg(format!("--tmpdir={}", folder.display()))
        .arg(format!("--port={port}"))
        .arg(format!("--user={}", account()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mariadbd is needed")
}

fn account() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

fn free_port() -> u16 {
    (0..1000)
        .map(|_| rand::random_range(20_000..32_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
