//! Proxies that a test runs itself, with the configuration it wants.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use usher_config::Config;

use crate::{Bed, Login, usher_binary};

/// How long a proxy may take to greet its first client.
const READY: Duration = Duration::from_secs(30);

/// A running proxy; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    config_file: PathBuf,
    log: PathBuf,
    login: Login,
}

impl Proxy {
    pub(crate) async fn start(bed: &Bed, number: u8, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = bed.config();
        let app = bed.endpoints.proxy.clone();
        let proxy = config.proxy.as_mut().unwrap();
        proxy.id = format!("px{number}");
        proxy.number = number;
        proxy.backend_user = format!("usher_px{number}");
        proxy.backend_password = bed.proxy_password(number);
        proxy.workers = 2;
        (proxy.listen, proxy.http_listen, proxy.admin_listen) = (address(), Some(address()), Some(address()));
        change(&mut config);
        let listen = config.proxy.as_ref().unwrap().listen;
        let config_file = bed.dir().join(format!("px{number}.toml"));
        std::fs::write(&config_file, toml::to_string_pretty(&config).unwrap()).unwrap();
        let log = bed.dir().join("logs").join(format!("px{number}.log"));
        let child = spawn(&config_file, &log);
        let mut started =
            Self { child, config_file, log, login: Login::new(listen.port(), &app.user, &app.password) };
        started.await_greeting().await;
        started
    }

    async fn await_greeting(&mut self) {
        let start = Instant::now();
        while !greets(self.port()).await {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the proxy ended with {status}:\n{}", self.log());
            }
            assert!(start.elapsed() < READY, "the proxy does not greet:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where clients connect, on the loopback address.
    pub fn port(&self) -> u16 {
        self.login.port()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its configuration file.
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// How the application logs in.
    pub fn login(&self) -> Login {
        self.login.clone()
    }

    /// A connection of the application.
    pub async fn connect(&self) -> mysql_async::Conn {
        match self.login().connect().await {
            Ok(conn) => conn,
            Err(error) => panic!("cannot connect: {error}\n{}", self.log()),
        }
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Starts another process with the same configuration, which takes over; returns once it accepts clients.
    pub async fn succeed(&self, nth: u8) -> Self {
        let log = self.log.with_extension(format!("{nth}.log"));
        let child = spawn(&self.config_file, &log);
        let mut started = Self { child, config_file: self.config_file.clone(), log, login: self.login() };
        let start = Instant::now();
        while !self.log().contains("a successor has taken over") {
            if let Some(status) = started.child.try_wait().unwrap() {
                panic!("the successor ended with {status}:\n{}", started.log());
            }
            assert!(start.elapsed() < READY, "it does not take over:\n{}", started.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        started
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    /// Waits until it has ended by itself; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        tokio::time::timeout(READY, self.child.wait()).await.unwrap().unwrap().code()
    }

    /// Asks it to end, and waits.
    pub async fn stop(mut self) {
        self.terminate();
        tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await.unwrap().unwrap();
    }
}

fn spawn(config: &Path, log: &Path) -> Child {
    let out = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    Command::new(usher_binary())
        .args(["proxy", "--config"])
        .arg(config)
        .env("USHER_LOG", std::env::var("USHER_LOG").unwrap_or_else(|_| "info,usher=debug".to_owned()))
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn greets(port: u16) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.read_u8().await
    };
    tokio::time::timeout(Duration::from_secs(2), greeting).await.is_ok_and(|read| read.is_ok())
}

fn address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, usher_playground::free_port().unwrap()))
}
