//! `usher proxy`: the proxy with its HTTP side, from start to signal.

use std::sync::Arc;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use usher_admin::console::{Console, Desk};
use usher_admin::{Admin, Served, Sessions};
use usher_config::Config;
use usher_failover::Flips;
use usher_mover::Mover;
use usher_session::Listener;

use crate::handover::{self, Inherited, Offer, Predecessor};
use crate::proxy::{self, Running};
use crate::{reload, service};

/// Runs until a signal, or till a successor has taken over.
pub(crate) async fn run(mut config: Config) -> anyhow::Result<()> {
    let mut settings = config.proxy.clone().context("the configuration has no [proxy] table")?;
    let ((tell_stop, stop), hangups) = (service::stop_signal()?, reload::hangups()?);
    let mut inherited = Inherited::of_the_system();
    let socket = handover::Path::of(&settings)?;
    let predecessor = match &socket {
        Some(socket) => Predecessor::find(socket, &mut inherited, &config.limits).await?,
        None => None,
    };
    if let Some(predecessor) = &predecessor {
        settings = predecessor.successor_of(settings)?;
        config.proxy = Some(settings.clone());
    }
    // Bound before anything is asked of servers, served once the proxy is ready.
    let http = service::bind_http(settings.http_listen, &mut inherited).await?;
    let console = service::bind_console(settings.admin_listen, &config.http, &mut inherited).await?;
    let listener = match inherited.take(settings.listen) {
        Some(bound) => Listener::inherit(bound)?,
        None => Listener::bind(settings.listen)?,
    };
    drop(inherited);
    let offered = match socket {
        Some(socket) => Some((socket, offer(&settings.id, &listener, &http, &console)?)),
        // A copy would keep the sockets open when this proxy has closed them.
        None => None,
    };
    let mut registry = Registry::default();
    let running = tokio::select! {
        running = proxy::start(&config, listener, &mut registry) => running?,
        () = service::stopped(stop.clone()) => return Ok(()),
    };
    let registry = Arc::new(registry);
    service::serve_console(console, desk(&config, &settings.id, &running, &registry), stop.clone());
    let http =
        service::serve_http(http, admin(&config, &settings.id, &running, registry, &stop), stop.clone());
    let shared = Arc::clone(&running.shared);
    tokio::spawn(reload::keep_fresh(shared, config.limits.tls_check_ms, hangups, stop.clone()));
    tracing::info!(id = settings.id, address = %settings.listen, "proxy");
    if let Some((socket, offer)) = offered {
        let shared = Arc::clone(&running.shared);
        let handed_over = move || {
            shared.hand_over();
            tell_stop.send_replace(true);
        };
        tokio::spawn(handover::keep(socket, predecessor, offer, stop.clone(), handed_over));
    }
    running.serve(service::stopped(stop.clone())).await?;
    if let Some(http) = http.filter(|_| *stop.borrow()) {
        // A task that has panicked has said so in the log.
        let _ = http.await;
    }
    Ok(())
}

/// What a successor is to be given.
fn offer(
    id: &str,
    clients: &Listener,
    http: &Option<Served>,
    console: &Option<Console>,
) -> std::io::Result<Offer> {
    let mut offer = Offer::new(id);
    offer.add(clients)?;
    http.iter().try_for_each(|http| offer.add(http))?;
    console.iter().try_for_each(|console| offer.add(console))?;
    Ok(offer)
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
        sessions: Sessions {
            own: Some(Arc::clone(&running.shared)),
            peers: Arc::clone(&running.shared.peers),
        },
        name: id.to_owned(),
    }
}
