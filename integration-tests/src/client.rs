//! Clients.

use mysql_async::{Conn, Error, OptsBuilder, SslOpts};

/// How to log in to a proxy.
#[derive(Debug, Clone)]
pub struct Login(OptsBuilder, u16);

impl Login {
    /// To this port of the loopback address, into the database `app`, without TLS.
    pub fn new(port: u16, user: &str, password: &str) -> Self {
        let builder = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(port)
            .user(Some(user))
            .pass(Some(password).filter(|password| !password.is_empty()))
            .db_name(Some("app"))
            // Else the driver goes past the proxy to a server's socket file.
            .prefer_socket(false);
        Self(builder, port)
    }

    /// As another user.
    pub fn user(self, user: &str, password: &str) -> Self {
        Self(self.0.user(Some(user)).pass(Some(password)), self.1)
    }

    /// Over TLS, whatever the certificate.
    pub fn tls(self) -> Self {
        let ssl = SslOpts::default()
            .with_danger_accept_invalid_certs(true)
            .with_danger_skip_domain_validation(true);
        Self(self.0.ssl_opts(ssl), self.1)
    }

    /// Into this database, or none.
    pub fn database(self, name: Option<&str>) -> Self {
        Self(self.0.db_name(name), self.1)
    }

    /// The driver's own options, for what is asked for rarely.
    pub fn with(self, change: impl FnOnce(OptsBuilder) -> OptsBuilder) -> Self {
        Self(change(self.0), self.1)
    }

    /// The proxy's port.
    pub fn port(&self) -> u16 {
        self.1
    }

    /// Logs in.
    ///
    /// # Errors
    /// The driver's.
    pub async fn connect(&self) -> Result<Conn, Error> {
        Conn::new(self.0.clone()).await
    }
}

/// The code of the error packet that a statement was answered with.
pub fn code<T: std::fmt::Debug>(result: &Result<T, Error>) -> u16 {
    match result {
        Err(Error::Server(error)) => error.code,
        other => panic!("an error packet was expected, not {other:?}"),
    }
}

/// Its message.
pub fn message<T: std::fmt::Debug>(result: &Result<T, Error>) -> String {
    match result {
        Err(Error::Server(error)) => error.message.clone(),
        other => panic!("an error packet was expected, not {other:?}"),
    }
}
