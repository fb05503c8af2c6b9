//! Calls about clients' sessions: all of the deployment, and those of this proxy for the others.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use usher_session::{KillOrder, Killed, Peers, Shared, Told, Wanted};

use crate::{Ctx, Problem};

/// Characters of a statement that are shown unless more are asked for.
const INFO_CHARS: usize = 100;

/// Sessions as this process can reach them.
pub struct Sessions {
    /// Its own, if it is a proxy.
    pub own: Option<Arc<Shared>>,
    /// Those of the other proxies.
    pub peers: Arc<Peers>,
}

#[derive(Deserialize)]
pub(crate) struct ListQuery {
    account: Option<String>,
    #[serde(default)]
    full: bool,
}

pub(crate) async fn list(State(admin): Ctx, Query(query): Query<ListQuery>) -> Json<Value> {
    let info_chars = if query.full { usize::MAX } else { INFO_CHARS };
    let wanted = Wanted { account: query.account, info_chars };
    let (sessions, unreached) = match &admin.sessions.own {
        Some(own) => own.sessions_everywhere(&wanted).await,
        None => admin.sessions.peers.sessions(&wanted).await,
    };
    Json(json!({"sessions": sessions, "unreached": unreached}))
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct KillCall {
    #[serde(default)]
    query: bool,
}

/// The body may be missing.
pub(crate) async fn kill(
    State(admin): Ctx,
    Path(id): Path<u64>,
    body: axum::body::Bytes,
) -> Result<Json<Value>, Problem> {
    let call = if body.is_empty() {
        KillCall::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| Problem::bad(error.to_string()))?
    };
    let order = KillOrder { id, query: call.query, owner: None };
    let killed = match &admin.sessions.own {
        Some(own) => own.kill_anywhere(&order).await,
        None => admin.sessions.peers.kill(&order).await,
    };
    match killed {
        Killed::Done => Ok(Json(json!({"id": id, "query": call.query}))),
        Killed::Unknown | Killed::Denied => Err(Problem::unknown(format!("there is no session {id}"))),
        Killed::Failed { why } => Err(Problem::new(StatusCode::BAD_GATEWAY, "kill-failed", why)),
    }
}

fn own(admin: &crate::Admin) -> Result<&Arc<Shared>, Problem> {
    admin.sessions.own.as_ref().ok_or_else(|| Problem::unknown("this is no proxy: it has no sessions"))
}

/// For the other proxies.
pub(crate) async fn here(
    State(admin): Ctx,
    call: Result<Json<Wanted>, JsonRejection>,
) -> Result<Json<Told>, Problem> {
    let Json(wanted) = call?;
    Ok(Json(own(&admin)?.sessions_here(&wanted)))
}

/// For the other proxies.
pub(crate) async fn kill_here(
    State(admin): Ctx,
    call: Result<Json<KillOrder>, JsonRejection>,
) -> Result<Json<Killed>, Problem> {
    let Json(order) = call?;
    Ok(Json(own(&admin)?.kill_here(&order).await))
}
