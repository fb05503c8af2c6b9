//! `usher.toml`, the `--config` of every other command.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use usher_config::{
    Admin, BackendTls, Compression, Config, Controller, Endpoint, GlobalMaster, Http, Limits, Memcached,
    Proxy, TlsMode, User,
};

use crate::error::{Error, Result};
use crate::state::{GLOBAL, State};
use crate::{accounts, files};

/// The application's account on the proxy, and its database.
pub(crate) const APP: &str = "app";
/// The administration console's login.
pub(crate) const CONSOLE: &str = Admin::USER;

/// Writes `dir/usher.toml`.
pub(crate) fn write(dir: &Path, state: &State) -> Result<()> {
    let path = dir.join("usher.toml");
    let text = text(dir, state).map_err(|detail| Error::State { path: path.clone(), detail })?;
    files::write_private(&path, text.as_bytes())
}

fn text(dir: &Path, state: &State) -> std::result::Result<String, String> {
    let mut table = toml::Table::try_from(config(dir, state)).map_err(|e| e.to_string())?;
    // All of them have their defaults; a copy would only grow stale.
    table.remove("limits");
    let table = toml::to_string_pretty(&table).map_err(|e| e.to_string())?;
    let timeout = state.semi_sync_timeout_ms;
    Ok(format!(
        "# Written by `usher playground up`, which does not read it: changes are overwritten.\n\
         # Members are in lossless semi-sync: a commit waits up to {timeout} ms for a follower.\n\n{table}"
    ))
}

/// The settings as a value.
pub(crate) fn config(dir: &Path, state: &State) -> Config {
    let listen = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let tls = dir.join("tls");
    let members = state.servers.iter().filter(|n| n.pair == GLOBAL);
    Config {
        global: GlobalMaster {
            writer_hint: state.writers.get(GLOBAL).cloned(),
            user: accounts::ADMIN.to_owned(),
            password: state.secrets.admin.clone(),
            members: members
                .map(|n| Endpoint { name: n.name.clone(), host: "127.0.0.1".to_owned(), port: n.port })
                .collect(),
        },
        proxy: Some(Proxy {
            id: "px1".to_owned(),
            listen: listen(state.proxy_port),
            backend_user: accounts::proxy(1),
            backend_password: state.secrets.proxies.first().cloned().unwrap_or_default(),
            tls_cert: Some(tls.join("proxy-cert.pem")),
            tls_key: Some(tls.join("proxy-key.pem")),
            http_listen: Some(listen(state.http_port)),
            http_advertise: None,
            admin_listen: Some(listen(state.admin_port)),
            workers: 0,
            server_version: None,
            number: 1,
            tls_client_ca: None,
            compression: Compression::All,
            proxy_protocol_networks: Vec::new(),
            proxy_protocol_required: false,
            run_dir: None,
            successor: None,
        }),
        controller: Controller { http_listen: Some(listen(state.controller_port)), ..Controller::default() },
        http: Http { token: Some(state.secrets.http_token.clone()), metrics_open: true },
        memcached: Memcached {
            servers: state.memcached.iter().map(|m| format!("127.0.0.1:{}", m.port)).collect(),
        },
        backend_tls: BackendTls { mode: TlsMode::Off, ca: Some(tls.join("ca.pem")) },
        users: vec![User {
            name: APP.to_owned(),
            password: Some(state.secrets.app.clone()),
            default_schema: Some(APP.to_owned()),
            schemas: vec![APP.to_owned()],
            ..User::default()
        }],
        limits: Limits::default(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Options;

    #[test]
    fn what_is_written_reads_back() {
        let state = State::plan(None, &Options::new("unused")).unwrap();
        let dir = Path::new("some where");
        let text = text(dir, &state).unwrap();
        let read = usher_config::parse(&text, Path::new("usher.toml"), std::iter::empty()).unwrap();
        assert_eq!(read, config(dir, &state));
        assert!(!text.contains("[limits]"));
    }
}
