//! What a running proxy reads anew: the files of TLS, on SIGHUP and when they have changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use usher_session::Shared;

use crate::service;

/// SIGHUP, from now on; without it the signal would end the process.
pub(crate) fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Reads TLS's files when asked or when they have changed, until `stop`. `check_ms` 0 leaves it to the signal.
pub(crate) async fn keep_fresh(
    shared: Arc<Shared>,
    check_ms: u64,
    mut hangups: Signal,
    stop: watch::Receiver<bool>,
) {
    loop {
        let asked = tokio::select! {
            Some(()) = hangups.recv() => true,
            () = tokio::time::sleep(Duration::from_millis(check_ms)), if check_ms > 0 => false,
            () = service::stopped(stop.clone()) => return,
        };
        match shared.tls() {
            Some(tls) if asked || tls.has_changed() => reload(&shared),
            None if asked => tracing::info!("SIGHUP: without TLS there is nothing to read anew"),
            _ => {}
        }
    }
}

fn reload(shared: &Shared) {
    match shared.reload_tls() {
        Ok(()) => tracing::info!("TLS: certificate and key were read anew; new connections get them"),
        Err(error) => tracing::error!(%error, "TLS: the new files are bad, the old ones stay in use"),
    }
}
