//! `usher controller`: runs moves, takes up interrupted flips, serves HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use tokio::sync::watch;
use usher_admin::{Admin, Sessions};
use usher_config::Config;
use usher_directory::rows;
use usher_failover::Error as FlipError;
use usher_session::Peers;

use crate::deployment::Deployment;
use crate::handover::Inherited;
use crate::service;

/// How often the controller says that it lives.
const ALIVE: Duration = Duration::from_secs(1);
/// How often it looks for interrupted flips.
const FLIPS: Duration = Duration::from_secs(1);
/// Without the global master for this long it is not healthy.
const BLIND: Duration = Duration::from_secs(5);

/// Runs until a signal.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let (_, stop) = service::stop_signal()?;
    let http = service::bind_http(config.controller.http_listen, &mut Inherited::of_the_system()).await?;
    let deployment = Arc::new(Deployment::new(config));
    let pulse = Arc::new(Pulse::default());
    let id = deployment.config.controller.id.clone();
    let mover = deployment.mover(&id);
    let http = service::serve_http(http, admin(&deployment, &pulse), stop.clone());
    let heart = tokio::spawn(beat(Arc::clone(&deployment), Arc::clone(&pulse), stop.clone()));
    let flips = tokio::spawn(resume_flips(Arc::clone(&deployment), stop.clone()));
    tracing::info!(id, "controller");
    mover.run(service::stopped(stop)).await;
    for task in [Some(heart), Some(flips), http].into_iter().flatten() {
        // A task that has panicked has said so in the log.
        let _ = task.await;
    }
    Ok(())
}

fn admin(deployment: &Deployment, pulse: &Arc<Pulse>) -> Admin {
    let mut registry = Registry::default();
    deployment.metrics.register(&mut registry);
    let pulse = Arc::clone(pulse);
    let token = deployment.config.http.token.as_deref().unwrap_or_default();
    let peers = Peers::new(deployment.global.clone(), token, None, deployment.config.limits.peer_ms);
    Admin {
        global: deployment.global.clone(),
        flips: deployment.flips.clone(),
        mover: deployment.mover(&deployment.config.controller.id),
        registry: Arc::new(registry),
        http: deployment.config.http.clone(),
        serving: Arc::new(move || pulse.is_fresh()),
        sight: Arc::new(|_| None),
        sessions: Sessions { own: None, peers: Arc::new(peers) },
        name: deployment.config.controller.id.clone(),
    }
}

/// When the global master last took the controller's sign of life.
struct Pulse {
    since: Instant,
    last_ms: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { since: Instant::now(), last_ms: AtomicU64::new(0) }
    }
}

impl Pulse {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn beat(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn is_fresh(&self) -> Result<(), String> {
        match self.last_ms.load(Ordering::Relaxed) {
            0 => Err("the global master has not been reached yet".to_owned()),
            last => {
                let silent = Duration::from_millis(self.now_ms().saturating_sub(last));
                if silent <= BLIND {
                    return Ok(());
                }
                Err(format!("the global master does not answer since {} s", silent.as_secs()))
            }
        }
    }
}

async fn beat(deployment: Arc<Deployment>, pulse: Arc<Pulse>, stop: watch::Receiver<bool>) {
    let boot_id = service::boot_id();
    let id = &deployment.config.controller.id;
    let mut ticks = tokio::time::interval(ALIVE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_silent = false;
    while !*stop.borrow() {
        tokio::select! {
            _ = ticks.tick() => {}
            () = service::stopped(stop.clone()) => return,
        }
        match rows::controller_alive(&deployment.global, id, boot_id).await {
            Ok(()) => {
                pulse.beat();
                was_silent = false;
            }
            Err(error) if was_silent => tracing::debug!(%error, "no sign of life"),
            Err(error) => {
                tracing::warn!(%error, "the controller can't give a sign of life");
                was_silent = true;
            }
        }
    }
}

async fn resume_flips(deployment: Arc<Deployment>, stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(FLIPS);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = String::new();
    while !*stop.borrow() {
        tokio::select! {
            _ = ticks.tick() => {}
            () = service::stopped(stop.clone()) => return,
        }
        let outcomes = match deployment.flips.resume(&deployment.config.controller.id).await {
            Ok(outcomes) => outcomes,
            // The sign of life says the same.
            Err(error) => {
                tracing::debug!(%error, "flips can't be looked for");
                continue;
            }
        };
        for outcome in outcomes {
            match outcome {
                Ok(report) => tracing::info!(?report, "an interrupted flip was resumed"),
                Err(FlipError::Taken { .. }) => {}
                Err(error) if error.to_string() == last => {}
                Err(error) => {
                    last = error.to_string();
                    tracing::warn!(%error, "an interrupted flip can't be resumed yet");
                }
            }
        }
    }
}
