//! HAProxy as the plainest proxy there is: bytes in, bytes out.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::shell::find;

const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A process that ends with this value.
pub(crate) struct Haproxy {
    child: Child,
    /// Where it listens.
    pub(crate) port: u16,
}

impl Haproxy {
    /// Starts it in front of one port of this machine.
    pub(crate) fn start(dir: &Path, to: u64) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = dir.join("haproxy.cfg");
        fs::write(
            &config,
            format!(
                "global\n  maxconn 9000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 10m\n  \
                 timeout server 10m\nlisten mysql\n  bind 127.0.0.1:{port}\n  server s 127.0.0.1:{to}\n"
            ),
        )?;
        let program = find("haproxy").context("haproxy is not installed")?;
        let log = fs::File::create(dir.join("haproxy.log"))?;
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(config).stdout(Stdio::null()).stderr(log);
        let mut haproxy = Self { child: command.spawn()?, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(haproxy.child.try_wait()?.is_none(), "haproxy has ended; see haproxy.log");
            ensure!(began.elapsed() < PATIENCE, "haproxy does not listen");
            thread::sleep(POLL);
        }
        Ok(haproxy)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u64 {
        u64::from(self.child.id())
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // Nothing to do for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
