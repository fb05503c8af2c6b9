//! Where the database is: one address, as an ordinary driver is told it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use mysql_async::{Conn, Opts, OptsBuilder};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The one address the application connects to: a plain server, or a proxy that looks like one.
#[derive(Debug, Clone)]
pub struct Target {
    opts: Opts,
}

impl Target {
    /// Names the parts one by one; an empty password is none.
    pub fn new(host: &str, port: u16, user: &str, password: &str, database: &str) -> Self {
        let builder = OptsBuilder::default()
            .ip_or_hostname(host.to_string())
            .tcp_port(port)
            .user(Some(user.to_string()))
            .pass(Some(password.to_string()).filter(|password| !password.is_empty()))
            .db_name(Some(database.to_string()));
        Target::from_builder(builder)
    }

    /// Reads `mysql://user:password@host:port/database`, with the driver's own options after a `?`.
    ///
    /// # Errors
    /// An address that the driver cannot read or that names no database.
    pub fn from_url(url: &str) -> Result<Self> {
        let opts =
            Opts::from_url(url).context("the address must be mysql://user:password@host:port/database")?;
        anyhow::ensure!(opts.db_name().is_some(), "the address names no database: mysql://…/database");
        Ok(Target::from_builder(OptsBuilder::from_opts(opts)))
    }

    fn from_builder(builder: OptsBuilder) -> Self {
        // Without this the driver asks a server on this machine for its socket file and goes there, past any proxy.
        Target { opts: builder.prefer_socket(false).tcp_nodelay(true).into() }
    }

    /// The database that the tables are in.
    pub fn database(&self) -> &str {
        self.opts.db_name().unwrap_or_default()
    }

    pub(crate) fn without_database(&self) -> Self {
        Target::from_builder(OptsBuilder::from_opts(self.opts.clone()).db_name(None::<String>))
    }

    /// Logs in, within ten seconds.
    pub(crate) async fn connect(&self) -> Result<Conn, mysql_async::Error> {
        match tokio::time::timeout(CONNECT_TIMEOUT, Conn::new(self.opts.clone())).await {
            Ok(result) => result,
            Err(_) => {
                let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "no login within 10 s");
                Err(mysql_async::Error::Io(late.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_database() {
        assert!(Target::from_url("mysql://me@localhost:3306").is_err());
        assert!(Target::from_url("localhost").is_err());
        let target = Target::from_url("mysql://me:secret@localhost:3307/photos").expect("a full address");
        assert_eq!(target.database(), "photos");
        assert!(!target.opts.prefer_socket());
    }
}
