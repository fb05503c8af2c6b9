//! `usher proxy`: wires the rooms together and serves until it is told to stop.

use std::future::Future;
use std::sync::Arc;

use anyhow::{Context, Result};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use usher_backend::{Account, BackendMetrics, client_tls};
use usher_config::{Config, Proxy, TlsMode};
use usher_directory::{Directory, Global, Hooks, Metrics, Participant, Registration};
use usher_session::{
    Accounts, Balancers, ClientTls, Listener, SessionHooks, SessionMetrics, Setup, Shared, TlsFiles,
};
use usher_wire::auth::ServerKey;

use crate::version;

/// A proxy that is ready to serve.
pub(crate) struct Running {
    /// What its sessions share.
    pub(crate) shared: Arc<Shared>,
    /// Its directory.
    pub(crate) directory: Arc<Directory>,
    participant: Participant,
    listener: Listener,
}

/// Connects, registers.
///
/// # Errors
/// Whatever keeps the proxy from serving.
pub(crate) async fn start(config: &Config, listener: Listener, registry: &mut Registry) -> Result<Running> {
    let proxy = config.proxy.as_ref().context("the configuration has no [proxy] section")?;
    let key = tokio::task::spawn_blocking(|| ServerKey::generate(ServerKey::BITS)).await??;
    let global = Global::new(&config.global, &config.backend_tls, &config.limits);
    let version = match &proxy.server_version {
        Some(version) => version.clone(),
        None => version::lowest(&global).await?,
    };
    let metrics = Metrics::default();
    metrics.register(registry);
    let directory = Directory::new(global, &config.memcached, &config.limits, metrics);
    let shared = Shared::new(setup(config, proxy, key, version, registry)?, Arc::clone(&directory));
    let who = Registration {
        proxy_id: proxy.id.clone(),
        boot_id: rand::random::<u64>() >> 1,
        account: proxy.backend_user.clone(),
        http_address: http_address(proxy),
        number: proxy.number,
    };
    let hooks: Arc<dyn Hooks> = Arc::new(SessionHooks(Arc::clone(&shared)));
    let participant = Participant::register(Arc::clone(&directory), who, hooks).await?;
    Ok(Running { shared, directory, participant, listener })
}

impl Running {
    /// Serves until `stop` ends.
    ///
    /// # Errors
    /// Another process has registered as this proxy.
    pub(crate) async fn serve(self, stop: impl Future<Output = ()>) -> Result<()> {
        let (stopping, stopped) = watch::channel(false);
        let (gone, all_gone) = watch::channel(false);
        let clients = async {
            let ended = usher_session::serve(self.listener, Arc::clone(&self.shared), stopped).await;
            // The participant works on until the last client has gone: barriers rely on it.
            gone.send_replace(true);
            ended
        };
        let acknowledging = async {
            let outcome = self.participant.run(turned(all_gone)).await;
            // Ended early: another process has this proxy's name, and no client may be served any more.
            stopping.send_replace(true);
            outcome
        };
        let told = async {
            stop.await;
            stopping.send_replace(true);
            std::future::pending::<()>().await;
        };
        let (polled, ended) = tokio::select! {
            both = async { tokio::join!(acknowledging, clients) } => both,
            () = told => return Ok(()),
        };
        polled?;
        self.shared.pools.shut_out();
        if let Err(error) = self.participant.leave(ended).await {
            tracing::warn!(%error, "could not sign off; barriers will revoke this proxy once it is silent");
        }
        Ok(())
    }
}

/// Ends once it is true, or can't become so any more.
async fn turned(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|is| *is).await;
}

fn setup(
    config: &Config,
    proxy: &Proxy,
    key: ServerKey,
    server_version: String,
    registry: &mut Registry,
) -> Result<Setup> {
    let (metrics, backend_metrics) = (SessionMetrics::default(), BackendMetrics::default());
    metrics.register(registry);
    backend_metrics.register(registry);
    let tls = match (&proxy.tls_cert, &proxy.tls_key) {
        (Some(cert), Some(key)) => {
            let client_ca = proxy.tls_client_ca.clone();
            let files = TlsFiles { cert: cert.clone(), key: key.clone(), client_ca };
            Some(Arc::new(ClientTls::load(files)?))
        }
        _ => None,
    };
    let balancers = Balancers {
        networks: proxy.proxy_protocol_networks.clone(),
        required: proxy.proxy_protocol_required,
    };
    Ok(Setup {
        limits: config.limits.clone(),
        accounts: Accounts::new(&config.users),
        backend: Account {
            user: proxy.backend_user.clone(),
            password: proxy.backend_password.clone(),
            tls: client_tls(&config.backend_tls)?,
            tls_optional: config.backend_tls.mode == TlsMode::Preferred,
        },
        tls,
        compression: proxy.compression,
        balancers,
        key: Arc::new(key),
        server_version,
        address: (hostname(), proxy.listen.port()),
        proxy_id: proxy.id.clone(),
        token: config.http.token.clone().unwrap_or_default(),
        metrics,
        backend_metrics,
    })
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where others reach its HTTP API.
fn http_address(proxy: &Proxy) -> Option<String> {
    let listens = proxy.http_listen?;
    proxy.http_advertise.clone().or_else(|| Some(listens.to_string()))
}
