//! How the control account reaches a server: options, time limits, TLS.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use mysql_async::{Conn, DriverError, Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts, SslOpts};
use parking_lot::Mutex;
use usher_config::{BackendTls, GlobalMaster, Limits, TlsMode};

use crate::{Error, Result};

/// Connections that one process keeps to one server for its own short exchanges.
const POOLED_PER_SERVER_MAX: usize = 16;
/// A pooled connection is closed after this much idleness.
const POOLED_IDLE: Duration = Duration::from_secs(60);

/// Opens connections of the control account, within the time limit and with the TLS that the configuration wants.
#[derive(Debug)]
pub(crate) struct Dial {
    user: String,
    password: String,
    tls: BackendTls,
    pub(crate) connect_ms: u64,
    pub(crate) exchange_ms: u64,
    // Servers by address; with mode "preferred" also whether one has turned out to speak no TLS.
    pools: Mutex<HashMap<String, Pool>>,
    plain: Mutex<std::collections::HashSet<String>>,
}

impl Dial {
    pub(crate) fn new(config: &GlobalMaster, tls: &BackendTls, limits: &Limits) -> Self {
        Self {
            user: config.user.clone(),
            password: config.password.clone(),
            tls: tls.clone(),
            connect_ms: limits.connect_ms,
            exchange_ms: limits.directory_lookup_ms,
            pools: Mutex::default(),
            plain: Mutex::default(),
        }
    }

    fn opts(&self, host: &str, port: u16, tls: bool) -> Opts {
        // These connections keep no session state between borrowers, so the reset's round trip buys nothing.
        let constraints = PoolConstraints::new(0, POOLED_PER_SERVER_MAX).unwrap_or_default();
        let pool = PoolOpts::new()
            .with_constraints(constraints)
            .with_inactive_connection_ttl(POOLED_IDLE)
            .with_reset_connection(false);
        OptsBuilder::default()
            .ip_or_hostname(host)
            .tcp_port(port)
            .user(Some(self.user.as_str()))
            .pass(Some(self.password.as_str()))
            .prefer_socket(false)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(10)))
            .init(vec!["SET SESSION time_zone = '+00:00'"])
            .ssl_opts(tls.then(|| self.ssl_opts()))
            .pool_opts(pool)
            .into()
    }

    fn ssl_opts(&self) -> SslOpts {
        match &self.tls.ca {
            Some(ca) => {
                SslOpts::default().with_root_certs(vec![ca.clone().into()]).with_disable_built_in_roots(true)
            }
            // Mode "preferred" without authorities: against listeners only, not against impostors.
            None => SslOpts::default()
                .with_danger_accept_invalid_certs(true)
                .with_danger_skip_domain_validation(true),
        }
    }

    fn wants_tls(&self, address: &str) -> bool {
        match self.tls.mode {
            TlsMode::Off => false,
            TlsMode::Required => true,
            TlsMode::Preferred => !self.plain.lock().contains(address),
        }
    }

    /// A new connection that belongs to the caller alone: its session may be changed at will.
    pub(crate) async fn connect(&self, name: &str, host: &str, port: u16) -> Result<Conn> {
        let address = format!("{host}:{port}");
        let tls = self.wants_tls(&address);
        let first = self.limited(name, Conn::new(self.opts(host, port, tls))).await;
        match first {
            Err(Failure::NoTls) if self.tls.mode == TlsMode::Preferred => {
                self.plain.lock().insert(address);
                self.limited(name, Conn::new(self.opts(host, port, false))).await.map_err(Failure::into_error)
            }
            other => other.map_err(Failure::into_error),
        }
    }

    /// A connection for one short exchange; it goes back to its pool when dropped.
    pub(crate) async fn borrow(&self, name: &str, host: &str, port: u16) -> Result<Conn> {
        let address = format!("{host}:{port}");
        let pool = self.pool(&address, host, port);
        match self.limited(name, pool.get_conn()).await {
            Err(Failure::NoTls) if self.tls.mode == TlsMode::Preferred => {
                self.plain.lock().insert(address.clone());
                self.pools.lock().remove(&address);
                let pool = self.pool(&address, host, port);
                self.limited(name, pool.get_conn()).await.map_err(Failure::into_error)
            }
            other => other.map_err(Failure::into_error),
        }
    }

    fn pool(&self, address: &str, host: &str, port: u16) -> Pool {
        let tls = self.wants_tls(address);
        let mut pools = self.pools.lock();
        pools.entry(address.to_owned()).or_insert_with(|| Pool::new(self.opts(host, port, tls))).clone()
    }

    async fn limited(
        &self,
        name: &str,
        connect: impl Future<Output = mysql_async::Result<Conn>>,
    ) -> Result<Conn, Failure> {
        let unavailable =
            |reason: String| Failure::Other(Error::ServerUnavailable { server: name.to_owned(), reason });
        // The driver itself knows no limit for connecting.
        match tokio::time::timeout(Duration::from_millis(self.connect_ms), connect).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer))) => {
                Err(Failure::NoTls)
            }
            Ok(Err(mysql_async::Error::Driver(DriverError::UnknownAuthPlugin { name }))) => {
                Err(unavailable(foreign_plugin(&self.user, &name)))
            }
            Ok(Err(error)) => Err(unavailable(error.to_string())),
            Err(_) => Err(unavailable(format!("no connection within {} ms", self.connect_ms))),
        }
    }
}

/// What a login by a plugin that the driver does not speak means. MySQL asks for any of its plugins, by chance, when it
/// does not know an account, so that nobody learns which accounts there are; that is by far the more likely case.
fn foreign_plugin(user: &str, plugin: &str) -> String {
    format!(
        "it wants '{user}' to log in with {plugin}, which MySQL also asks of accounts that it does not have: make sure \
         that '{user}' exists on this server, may come from this host, and is IDENTIFIED WITH caching_sha2_password"
    )
}

enum Failure {
    NoTls,
    Other(Error),
}

impl Failure {
    fn into_error(self) -> Error {
        match self {
            Self::NoTls => Error::data("the server offers no TLS, but backend_tls.mode is \"required\""),
            Self::Other(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// MySQL 9's greeting and, behind the client's answer, its wish for another plugin.
    fn packets(plugin: &str) -> [Vec<u8>; 2] {
        let mut greeting = b"\x0a9.7.0\0\x01\0\0\0aaaaaaaa\0".to_vec();
        // PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH; 20 bytes of salt and their end.
        greeting.extend_from_slice(
            b"\x00\x82\xff\x02\x00\x08\x00\x15\0\0\0\0\0\0\0\0\0\0bbbbbbbbbbbb\0caching_sha2_password\0",
        );
        let mut switch = vec![0xfe];
        switch.extend_from_slice(plugin.as_bytes());
        switch.extend_from_slice(b"\0cccccccccccccccccccc\0");
        let framed = |payload: Vec<u8>, seq: u8| {
            let mut packet = vec![u8::try_from(payload.len()).unwrap(), 0, 0, seq];
            packet.extend_from_slice(&payload);
            packet
        };
        [framed(greeting, 0), framed(switch, 2)]
    }

    #[tokio::test]
    async fn a_plugin_that_is_not_spoken_is_told_with_what_it_means() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for packet in packets("sha256_password") {
                stream.write_all(&packet).await.unwrap();
            }
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        });
        let (user, password) = ("usher_admin".to_owned(), "secret".to_owned());
        let config = GlobalMaster { writer_hint: None, user, password, members: Vec::new() };
        let tls = BackendTls { mode: TlsMode::Off, ..BackendTls::default() };
        let dial = Dial::new(&config, &tls, &Limits::default());
        let error = dial.connect("s1a", "127.0.0.1", port).await.unwrap_err().to_string();
        for part in ["server s1a", "'usher_admin'", "sha256_password", "accounts that it does not have"] {
            assert!(error.contains(part), "{error}");
        }
        server.await.unwrap();
    }
}
