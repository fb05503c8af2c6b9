//! `usher proxy`: the proxy with its HTTP side, from start to signal.

use std::sync::Arc;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use usher_admin::Admin;
use usher_admin::console::Desk;
use usher_config::Config;
use usher_failover::Flips;
use usher_mover::Mover;

use crate::proxy::{self, Running};
use crate::{reload, service};

/// Runs until a signal.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let settings = config.proxy.clone().context("the configuration has no [proxy] table")?;
    let (stop, hangups) = (service::stop_signal()?, reload::hangups()?);
    // Bound before anything is asked of servers, served once the proxy is ready.
    let http = service::bind_http(settings.http_listen).await?;
    let console = service::bind_console(settings.admin_listen, &config.http).await?;
    let mut registry = Registry::default();
    let running = tokio::select! {
        running = proxy::start(&config, &mut registry) => running?,
        () = service::stopped(stop.clone()) => return Ok(()),
    };
    let registry = Arc::new(registry);
    service::serve_console(console, desk(&config, &settings.id, &running, &registry), stop.clone());
    let http =
        service::serve_http(http, admin(&config, &settings.id, &running, registry, &stop), stop.clone());
    let shared = Arc::clone(&running.shared);
    tokio::spawn(reload::keep_fresh(shared, config.limits.tls_check_ms, hangups, stop.clone()));
    tracing::info!(id = settings.id, address = %settings.listen, "proxy");
    running.serve(service::stopped(stop.clone())).await?;
    if let Some(http) = http.filter(|_| *stop.borrow()) {
        // A task that has panicked has said so in the log.
        let _ = http.await;
    }
    Ok(())
}

fn desk(config: &Config, id: &str, running: &Running, registry: &Arc<Registry>) -> Desk {
    Desk {
        shared: Arc::clone(&running.shared),
        directory: Arc::clone(&running.directory),
        limits: config.limits.clone(),
        registry: Arc::clone(registry),
        token: config.http.token.clone().unwrap_or_default(),
        name: id.to_owned(),
    }
}

fn admin(
    config: &Config,
    id: &str,
    running: &Running,
    registry: Arc<Registry>,
    stop: &watch::Receiver<bool>,
) -> Admin {
    let (ready, stop) = (Arc::clone(&running.shared), stop.clone());
    let sight = Arc::clone(&running.shared);
    let global = running.directory.global().clone();
    Admin {
        flips: Flips::new(global.clone(), config.limits.clone()),
        mover: Mover::new(Arc::clone(&running.directory), config.limits.clone(), format!("{id} (proxy)")),
        global,
        registry,
        http: config.http.clone(),
        serving: Arc::new(move || match (ready.is_ready(), *stop.borrow()) {
            (_, true) => Err("stopping".to_owned()),
            (false, _) => Err("the directory has no state yet".to_owned()),
            (true, false) => Ok(()),
        }),
        sight: Arc::new(move |id| sight.monitor.health().get(&id).cloned()),
        name: id.to_owned(),
    }
}
