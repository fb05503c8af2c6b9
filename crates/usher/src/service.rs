//! What long-running commands share: runtime, log, signals, HTTP.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use usher_admin::console::{Console, Desk};
use usher_admin::{Admin, Served};

use crate::handover::Inherited;

/// Runs on a runtime of so many threads; 0 takes one for each core.
pub(crate) fn block_on<T>(threads: usize, work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    match builder.enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            eprintln!("usher: cannot start: {error}");
            std::process::exit(1);
        }
    }
}

/// The log goes to standard error; `USHER_LOG` says how much (`info` by default, `usher=debug` ...).
pub(crate) fn start_log() {
    let filter = EnvFilter::try_from_env("USHER_LOG").unwrap_or_else(|_| EnvFilter::new("warn,usher=info"));
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    // Only a second call could fail, and there is none.
    let _ = log.try_init();
}

/// Turns true at the first SIGTERM or SIGINT, or when told so. A second one ends the process at once.
pub(crate) fn stop_signal() -> std::io::Result<(Arc<watch::Sender<bool>>, watch::Receiver<bool>)> {
    let (tell, told) = watch::channel(false);
    let tell = Arc::new(tell);
    let by_signal = Arc::clone(&tell);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for is_second in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if is_second {
                std::process::exit(1);
            }
            tracing::info!("stopping");
            by_signal.send_replace(true);
        }
    });
    Ok((tell, told))
}

/// Ends once `stop` is true.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    // A sender that is gone will never say so either: the process is ending.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Binds the HTTP address, if one is set and nobody has bound it for us.
pub(crate) async fn bind_http(
    address: Option<SocketAddr>,
    inherited: &mut Inherited,
) -> anyhow::Result<Option<Served>> {
    let Some(address) = address else { return Ok(None) };
    Ok(Some(match inherited.take(address) {
        Some(bound) => Served::inherit(bound)?,
        None => usher_admin::bind(address).await?,
    }))
}

/// Serves HTTP in the background until `stop`.
pub(crate) fn serve_http(
    bound: Option<Served>,
    admin: Admin,
    stop: watch::Receiver<bool>,
) -> Option<tokio::task::JoinHandle<()>> {
    let bound = bound?;
    tracing::info!(address = %bound.address(), "HTTP");
    Some(tokio::spawn(async move {
        if let Err(error) = bound.serve(Arc::new(admin), stopped(stop)).await {
            tracing::error!(%error, "HTTP has ended");
        }
    }))
}

/// Binds the admin console's address, if one is set and there is a password for it.
pub(crate) async fn bind_console(
    address: Option<SocketAddr>,
    http: &usher_config::Http,
    inherited: &mut Inherited,
) -> anyhow::Result<Option<Console>> {
    let has_token = http.token.as_ref().is_some_and(|token| !token.is_empty());
    match address {
        Some(address) if has_token => Ok(Some(match inherited.take(address) {
            Some(bound) => Console::inherit(bound)?,
            None => Console::bind(address).await?,
        })),
        Some(_) => {
            tracing::warn!("proxy.admin_listen is set but http.token is not: the admin console is off");
            Ok(None)
        }
        None => Ok(None),
    }
}

/// Serves the admin console in the background until `stop`.
pub(crate) fn serve_console(bound: Option<Console>, desk: Desk, stop: watch::Receiver<bool>) {
    if let Some(console) = bound {
        tokio::spawn(console.serve(Arc::new(desk), stopped(stop)));
    }
}

/// A number that tells this process from others of the same name.
pub(crate) fn boot_id() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() >> 1
}
