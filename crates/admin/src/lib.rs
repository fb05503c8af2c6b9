//! The HTTP API, the metrics and the dashboard of a proxy or a controller. It decides nothing: it asks the directory
//! and those who run moves and flips. Nothing but `/healthz` and the dashboard's empty page is served without the
//! token, unless the configuration opens `/metrics`.

pub mod accounts;
mod answer;
mod auth;
pub mod console;
mod listen;
mod moves;
mod pages;
mod sessions;
mod shards;
mod views;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State as Shared};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use prometheus_client::registry::Registry;
use usher_directory::Global;
use usher_failover::Flips;
use usher_mover::Mover;
use usher_topology::{Health, ServerId};

pub use answer::Problem;
pub use listen::{BindError, Served, bind};
pub use sessions::Sessions;

/// The largest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 64 << 10;
/// The longest a request may take; what it has started goes on.
const REQUEST: Duration = Duration::from_secs(60);

/// Whether this process serves its purpose at present, or why not.
pub type Serving = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;
/// What the process last saw of a server, if it watches servers.
pub type Sight = Arc<dyn Fn(ServerId) -> Option<Health> + Send + Sync>;

/// What the pages and calls work with.
pub struct Admin {
    /// The global master.
    pub global: Global,
    /// Runs flips.
    pub flips: Flips,
    /// Takes requests for moves.
    pub mover: Mover,
    /// What `/metrics` shows.
    pub registry: Arc<Registry>,
    /// Secret and openness.
    pub http: usher_config::Http,
    /// The answer of `/healthz`.
    pub serving: Serving,
    /// Health of servers for the topology's view.
    pub sight: Sight,
    /// Clients' sessions.
    pub sessions: Sessions,
    /// Who acts, as history rows name it: `px1`, `controller1`.
    pub name: String,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All routes.
pub fn router(admin: Arc<Admin>) -> Router {
    let calls = Router::new()
        .route("/v1/topology", get(shards::topology))
        .route("/v1/proxies", get(shards::proxies))
        .route("/v1/history", get(shards::history))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/{id}/kill", post(sessions::kill))
        .route("/v1/sessions/here", post(sessions::here))
        .route("/v1/sessions/here/kill", post(sessions::kill_here))
        .route("/v1/users/{key}", get(shards::user))
        .route("/v1/shards/{name}/writer", post(shards::set_writer))
        .route("/v1/shards/{name}/flip", post(shards::flip))
        .route("/v1/moves", get(moves::list).post(moves::start))
        .route("/v1/moves/{id}", get(moves::one))
        .route("/v1/moves/{id}/{wish}", post(moves::wish))
        .fallback(pages::nothing_here)
        .method_not_allowed_fallback(pages::wrong_method)
        .layer(from_fn_with_state(Arc::clone(&admin), auth::check));
    let metrics = Router::new()
        .route("/metrics", get(pages::metrics))
        .layer(from_fn_with_state(Arc::clone(&admin), auth::check_metrics));
    Router::new()
        .route("/", get(pages::dashboard))
        .route("/healthz", get(pages::healthz))
        .merge(metrics)
        .merge(calls)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(limit_time))
        .with_state(admin)
}

async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            format!("no answer within {} s; what was started goes on", REQUEST.as_secs()),
        )
        .into_response(),
    }
}

/// The state that handlers take.
pub(crate) type Ctx = Shared<Arc<Admin>>;
