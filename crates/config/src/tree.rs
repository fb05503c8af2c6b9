//! The settings tree. Each field's comment is its documentation; `docs/configuration.md` is written from it.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Limits, Network};

/// The whole of `usher.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the global master is, and the account for usher's own work.
    pub global: GlobalMaster,
    /// The proxy's own settings; needed by `usher proxy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// The controller's own settings; needed by `usher controller`.
    #[serde(default)]
    pub controller: Controller,
    /// The HTTP API's secret.
    #[serde(default)]
    pub http: Http,
    /// The second-level cache of the directory.
    #[serde(default)]
    pub memcached: Memcached,
    /// TLS towards servers.
    #[serde(default)]
    pub backend_tls: BackendTls,
    /// Who may log in to the proxy.
    #[serde(default)]
    pub users: Vec<User>,
    /// Limits; every one has a default.
    #[serde(default)]
    pub limits: Limits,
}

/// The `[global]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlobalMaster {
    /// Which member to try first while none is known to be the writer.
    #[serde(default)]
    pub writer_hint: Option<String>,
    /// Account for usher's own work on the global master and on every shard.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The pair.
    pub members: Vec<Endpoint>,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// What people call it.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The `[proxy]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// The proxy's name; unique in the deployment, as it acknowledges under it.
    pub id: String,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The account of this proxy alone on every server: revoking it stops this proxy and no other.
    pub backend_user: String,
    /// Its password.
    pub backend_password: String,
    /// Certificate chain shown to clients, PEM; without it clients have no TLS.
    #[serde(default)]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
    /// Where the HTTP API, the metrics and the dashboard are served.
    #[serde(default)]
    pub http_listen: Option<SocketAddr>,
    /// Host and port by which other proxies reach the HTTP API, to list and end sessions; unset takes `http_listen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_advertise: Option<String>,
    /// Where the admin console listens, MySQL protocol.
    #[serde(default)]
    pub admin_listen: Option<SocketAddr>,
    /// Worker threads; 0 takes one for each core.
    #[serde(default)]
    pub workers: usize,
    /// The version told to clients; unset tells that of the global master.
    #[serde(default)]
    pub server_version: Option<String>,
    /// What the connection ids of this proxy begin with, 1 to 255, no other proxy's; 0 or unset takes one that is free.
    #[serde(default)]
    pub number: u8,
    /// Authorities that sign the certificates of clients, PEM; without it clients are asked for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_client_ca: Option<PathBuf>,
    /// What clients may compress with: `all` (zlib and zstd, the default), `zlib`, `zstd` or `off`.
    #[serde(default)]
    pub compression: Compression,
    /// Networks and addresses of load balancers whose PROXY protocol header (v1 or v2) is believed, on the clients' port
    /// and on the admin console's. From everybody else such a header is an error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxy_protocol_networks: Vec<Network>,
    /// Whether connections from these networks must begin with such a header; else they may.
    #[serde(default)]
    pub proxy_protocol_required: bool,
    /// Folder of the socket over which a process that is started beside this one takes over its listening sockets; unset
    /// leaves that off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_dir: Option<PathBuf>,
    /// The identity of a process that takes over; the two alternate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<Successor>,
}

/// The `[proxy.successor]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Successor {
    /// Another name than `proxy.id`.
    pub id: String,
    /// Another account on every server: both processes work for a while, and each can be revoked alone.
    pub backend_user: String,
    /// Its password.
    pub backend_password: String,
    /// As `proxy.number`.
    #[serde(default)]
    pub number: u8,
}

/// What clients may compress with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// zlib and zstd.
    #[default]
    All,
    /// zlib only.
    Zlib,
    /// zstd only.
    Zstd,
    /// Nothing.
    Off,
}

/// The `[controller]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Controller {
    /// The controller's name; unique in the deployment.
    pub id: String,
    /// Where the HTTP API and the metrics are served.
    pub http_listen: Option<SocketAddr>,
}

impl Default for Controller {
    fn default() -> Self {
        Self { id: "controller1".to_owned(), http_listen: None }
    }
}

/// The `[http]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Bearer token for every call but `/healthz`; without one, the calls that change or show data are off.
    pub token: Option<String>,
    /// Whether `/metrics` is served without the token.
    pub metrics_open: bool,
}

/// The `[memcached]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memcached {
    /// `host:port` of each; none means no second level.
    pub servers: Vec<String>,
}

/// How much TLS is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Never.
    #[default]
    Off,
    /// If the server offers it; its certificate is checked only if `ca` is set.
    Preferred,
    /// Always, with the certificate checked against `ca`.
    Required,
}

/// The `[backend_tls]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendTls {
    /// How much TLS is wanted.
    pub mode: TlsMode,
    /// Authorities that sign the servers' certificates, PEM.
    pub ca: Option<PathBuf>,
}

/// One `[[users]]` entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Plain password; prefer the hashed forms below. Exactly one of the three must be set, or none for an account
    /// without a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// SHA256(SHA256(password)) in hex: for caching_sha2_password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256_hash: Option<String>,
    /// SHA1(SHA1(password)) in hex, as MySQL stores it after the `*`: for mysql_native_password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native_hash: Option<String>,
    /// Authentication plugin: `caching_sha2_password` (default) or `mysql_native_password`.
    #[serde(default = "default_plugin")]
    pub plugin: String,
    /// Schema of a session that names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_schema: Option<String>,
    /// Schemas the user may use; empty, or `["*"]`, means all but usher's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<String>,
    /// Whether the user may send administrators' statements (accounts, the schema `mysql`, SHUTDOWN and the like) to the
    /// servers, as far as the proxy's account there may; only for a user of all schemas.
    #[serde(default, skip_serializing_if = "is_false")]
    pub admin: bool,
    /// What the user's connections must have: `none` (default), `tls`, or `x509` for a certificate that
    /// `proxy.tls_client_ca` has signed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub require: Require,
    /// Whether the user may only read: what changes rows, tables or anything else on a server, and reads that lock, are
    /// refused.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// Connections the user may have at once through one proxy; 0 means no limit but that of all users together.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub connections_max: usize,
    /// Statements a second that the user may send through one proxy, all its connections together; 0 means no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub statements_per_s_max: usize,
}

/// What a user's connections must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// Nothing but the password.
    #[default]
    None,
    /// TLS.
    Tls,
    /// TLS and a client's certificate of a known authority.
    X509,
}

impl Default for User {
    /// An account without name and password for all schemas.
    fn default() -> Self {
        Self {
            name: String::new(),
            password: None,
            sha256_hash: None,
            native_hash: None,
            plugin: default_plugin(),
            default_schema: None,
            schemas: Vec::new(),
            admin: false,
            require: Require::None,
            read_only: false,
            connections_max: 0,
            statements_per_s_max: 0,
        }
    }
}

impl User {
    /// Whether the user may use all schemas but usher's own.
    #[must_use]
    pub fn has_all_schemas(&self) -> bool {
        self.schemas.is_empty() || self.schemas.iter().any(|schema| schema == "*")
    }

    /// Whether the settings go together.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if !matches!(self.plugin.as_str(), "caching_sha2_password" | "mysql_native_password") {
            return Err(format!(
                "plugin {:?} is not known; caching_sha2_password or mysql_native_password",
                self.plugin
            ));
        }
        if self.admin && !self.has_all_schemas() {
            return Err("admin is for users of all schemas: leave schemas empty".to_owned());
        }
        if self.admin && self.read_only {
            return Err("admin and read_only exclude each other".to_owned());
        }
        if self.schemas.iter().any(|schema| schema.eq_ignore_ascii_case("usher")) {
            return Err("the schema usher is nobody's but usher's own".to_owned());
        }
        if self.password.is_some() && (self.sha256_hash.is_some() || self.native_hash.is_some()) {
            return Err("give either the password or its hashes".to_owned());
        }
        let hashes = [("sha256_hash", &self.sha256_hash, 64), ("native_hash", &self.native_hash, 40)];
        for (name, hash, digits) in hashes {
            if hash.as_ref().is_some_and(|h| h.len() != digits || !h.bytes().all(|b| b.is_ascii_hexdigit())) {
                return Err(format!("{name} must be {digits} hexadecimal digits"));
            }
        }
        Ok(())
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

// As serde wants them, by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !*value
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

fn default_plugin() -> String {
    "caching_sha2_password".to_owned()
}

/// Account of the admin console: the HTTP token is its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin;

impl Admin {
    /// The one login name of the admin console.
    pub const USER: &'static str = "admin";
}
