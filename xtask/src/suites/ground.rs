//! One server, directly and with a proxy in front of its twin.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::shell::{passes, run};

/// How long a proxy may take until it answers.
const START: Duration = Duration::from_secs(30);
/// User and password of everything that the suites start.
const SECRET: &str = "suite";

/// Which of the suites' own servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As most suites want it.
    Baseline,
    /// With the options that MariaDB's own tests assume.
    Mtr,
}

impl Kind {
    fn script(self) -> &'static str {
        match self {
            Self::Baseline => "baseline.sh",
            Self::Mtr => "mtr-server.sh",
        }
    }

    /// The account that the suites log in with.
    pub(crate) fn user(self) -> &'static str {
        match self {
            Self::Baseline => "suite",
            // The expected results show it as the definer of views.
            Self::Mtr => "root",
        }
    }

    /// The account of the proxy on its server.
    fn backend(self) -> (&'static str, &'static str) {
        match self {
            Self::Baseline => ("usher_px1", SECRET),
            Self::Mtr => ("root", SECRET),
        }
    }
}

/// Two servers alike, and a proxy in front of the second. Ends all three when dropped.
#[derive(Debug)]
pub(crate) struct Ground {
    suites: PathBuf,
    work: PathBuf,
    kind: Kind,
    /// The program that has started a playground, and its folder, instead of the suites' own servers.
    playground: Option<(PathBuf, PathBuf)>,
    /// Of the plain server, the one behind, and the proxy.
    ports: [u16; 3],
    proxy: Option<Child>,
}

impl Ground {
    /// Starts everything on four ports from `base` on.
    pub(crate) fn up(suites: &Path, work: &Path, kind: Kind, base: u16, usher: &Path) -> Result<Self> {
        let ports = [base, base + 1, base + 2];
        let mut ground = Self {
            suites: suites.to_owned(),
            work: work.to_owned(),
            kind,
            playground: None,
            ports,
            proxy: None,
        };
        for port in [ports[0], ports[1]] {
            if kind == Kind::Mtr {
                // Its script gives root a password, and can't log in to what it has left.
                let _ = fs::remove_dir_all(work.join(format!("db{port}")));
            }
            ground.server("start", port)?;
        }
        ground.start_proxy(usher)?;
        Ok(ground)
    }

    /// The same of MySQL, from a playground: its shard's writer is the plain server, and what is behind the proxy is its
    /// global master, alone.
    pub(crate) fn up_mysql(work: &Path, base: u16, usher: &Path) -> Result<Self> {
        let folder = work.join("mysql");
        let more = ["--server", "mysql", "--shards", "1", "--replicas", "0", "--port-base"];
        let mut up = program(usher);
        up.args(["playground", "up", "--dir"]).arg(&folder).args(more).arg((base + 10).to_string());
        run(up.stdout(Stdio::null()))?;
        let mut ground = Self {
            suites: PathBuf::new(),
            work: work.to_owned(),
            kind: Kind::Baseline,
            playground: Some((usher.to_owned(), folder.clone())),
            ports: [0, 0, base],
            proxy: None,
        };
        let text = fs::read(folder.join("endpoints.json"))?;
        let endpoints: serde_json::Value = serde_json::from_slice(&text)?;
        for (place, group) in [&endpoints["shards"][0], &endpoints["global"]].into_iter().enumerate() {
            let writer = &group["members"][0];
            let port = writer["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            ground.ports[place] = port.context("endpoints.json names no port")?;
            let login = [&writer["user"], &writer["password"]].map(|text| text.as_str().unwrap_or_default());
            ground.sql_on(ground.ports[place], login, &format!(
                "SET GLOBAL local_infile = ON; CREATE USER IF NOT EXISTS suite@'%' IDENTIFIED BY '{SECRET}'; \
                 GRANT ALL ON *.* TO suite@'%' WITH GRANT OPTION; CREATE DATABASE IF NOT EXISTS test; \
                 CREATE DATABASE IF NOT EXISTS test2"
            ))?;
        }
        ground.make_certificate()?;
        ground.start_proxy(usher)?;
        Ok(ground)
    }

    fn make_certificate(&self) -> Result<()> {
        let folder = self.certificates();
        fs::create_dir_all(&folder)?;
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "3650",
            "-subj",
            "/CN=localhost",
        ]);
        openssl.arg("-keyout").arg(folder.join("key.pem")).arg("-out").arg(folder.join("cert.pem"));
        run(openssl.stderr(Stdio::null()))
    }

    /// Where the proxy's certificate is.
    fn certificates(&self) -> PathBuf {
        self.work.join(format!("db{}", self.ports[1]))
    }

    /// The port of the plain server.
    pub(crate) fn direct(&self) -> u16 {
        self.ports[0]
    }

    /// The port of the proxy.
    pub(crate) fn proxied(&self) -> u16 {
        self.ports[2]
    }

    fn server(&self, what: &str, port: u16) -> Result<()> {
        let mut script = Command::new(self.suites.join(self.kind.script()));
        run(script.args([what, &port.to_string()]).env("SUITES_WORK", &self.work))
    }

    fn sql_on(&self, port: u16, [user, password]: [&str; 2], statements: &str) -> Result<()> {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-h127.0.0.1", "-P", &port.to_string(), "-u", user]);
        run(client.arg(format!("-p{password}")).args(["-e", statements]))
    }

    fn sql(&self, statements: &str) -> Result<()> {
        if self.playground.is_some() {
            return self.sql_on(self.ports[1], ["suite", SECRET], statements);
        }
        let socket = self.work.join(format!("db{}/s.sock", self.ports[1]));
        let mut client = Command::new("mariadb");
        client.arg("--no-defaults").arg("-S").arg(socket).arg("-uroot");
        if self.kind == Kind::Mtr {
            client.arg(format!("-p{SECRET}"));
        }
        let status = client.args(["-e", statements]).status().context("cannot run mariadb")?;
        if !status.success() {
            bail!("the server behind the proxy could not be set up");
        }
        Ok(())
    }

    /// A deployment of one server: the global master alone.
    fn start_proxy(&mut self, usher: &Path) -> Result<()> {
        let folder = self.work.join(format!("usher{}", self.ports[2]));
        fs::create_dir_all(&folder)?;
        let config = folder.join("usher.toml");
        fs::write(&config, self.config())?;
        let grant = |user: &str| {
            format!(
                "CREATE USER IF NOT EXISTS {user}@'%' IDENTIFIED BY '{SECRET}'; \
                 GRANT ALL ON *.* TO {user}@'%' WITH GRANT OPTION;"
            )
        };
        self.sql(&format!("{}{}", grant(self.control()), grant(self.backend().0)))?;
        // A playground has its tables already; its shard, which knows no such accounts, is let go below.
        if self.playground.is_none() {
            run(program(usher).arg("--config").arg(&config).args(["schema", "apply"]))?;
        }
        self.sql(&format!(
            "DELETE FROM usher.servers; DELETE FROM usher.shards; \
             REPLACE INTO usher.shards (shard_id, name, writer_id) VALUES (0, 'global', 1); \
             REPLACE INTO usher.servers (server_id, shard_id, name, host, port, role) \
             VALUES (1, 0, 'g1', '127.0.0.1', {}, 'member'); UPDATE usher.control SET version = version + 1",
            self.ports[1]
        ))?;
        let log = File::create(folder.join("usher.log"))?;
        let mut command = program(usher);
        command.arg("--config").arg(&config).arg("proxy").stdin(Stdio::null());
        self.proxy = Some(command.stdout(log.try_clone()?).stderr(log).spawn().context("cannot run usher")?);
        self.await_proxy()
    }

    fn await_proxy(&self) -> Result<()> {
        let started = Instant::now();
        let port = self.proxied().to_string();
        while started.elapsed() < START {
            let mut client = Command::new("mariadb");
            client.args(["--no-defaults", "--skip-ssl", "-h127.0.0.1", "-P", &port]);
            client.args(["-u", self.kind.user(), &format!("-p{SECRET}"), "-e", "SELECT 1"]);
            if client.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("the proxy on port {port} does not answer")
    }

    /// The account of the deployment. The playground has one of its own, with another password.
    fn control(&self) -> &'static str {
        if self.playground.is_some() { "usher_suites_admin" } else { "usher_admin" }
    }

    /// The account of the proxy on its server. The playground has a proxy of its own.
    fn backend(&self) -> (&'static str, &'static str) {
        match self.playground {
            Some(_) => ("usher_suites", SECRET),
            None => self.kind.backend(),
        }
    }

    fn config(&self) -> String {
        let [_, server, proxy] = self.ports;
        let (user, password) = self.backend();
        let tls = self.certificates();
        let tls = tls.display();
        let http = proxy + 1;
        let control = self.control();
        let number = if self.playground.is_some() { 9 } else { 1 };
        let mut text = format!(
            "[global]\nuser = \"{control}\"\npassword = \"{SECRET}\"\n\
             [[global.members]]\nname = \"g1\"\nhost = \"127.0.0.1\"\nport = {server}\n\
             [proxy]\nid = \"px{number}\"\nnumber = {number}\nlisten = \"127.0.0.1:{proxy}\"\n\
             http_listen = \"127.0.0.1:{http}\"\nbackend_user = \"{user}\"\nbackend_password = \"{password}\"\n\
             tls_cert = \"{tls}/cert.pem\"\ntls_key = \"{tls}/key.pem\"\n"
        );
        for name in ["suite", "root"] {
            text += &format!(
                "[[users]]\nname = \"{name}\"\npassword = \"{SECRET}\"\nplugin = \"mysql_native_password\"\nadmin = true\n"
            );
        }
        text
    }
}

/// The program; variables of its name are settings to it, and this one is the chore's.
fn program(usher: &Path) -> Command {
    let mut command = Command::new(usher);
    command.env_remove("USHER_SUITES");
    command
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(proxy) = &mut self.proxy {
            let _ = passes(Command::new("kill").arg(proxy.id().to_string()));
            let _ = proxy.wait();
        }
        if let Some((usher, folder)) = &self.playground {
            let _ = passes(
                program(usher).args(["playground", "down", "--dir"]).arg(folder).stdout(Stdio::null()),
            );
            return;
        }
        for port in [self.ports[0], self.ports[1]] {
            if let Err(error) = self.server("stop", port) {
                let _ = writeln!(std::io::stderr(), "{error:#}");
            }
        }
    }
}
