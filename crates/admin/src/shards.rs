//! Calls about shards, servers, users and proxies.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use usher_directory::{State as Snapshot, rows};
use usher_topology::Key;

use crate::{Ctx, Problem, views};

/// Rows of history in one answer.
const HISTORY_ROWS_MAX: u32 = 1_000;

pub(crate) async fn topology(State(admin): Ctx) -> Result<Json<Value>, Problem> {
    let state = Snapshot::load(&admin.global).await?;
    let shards: Vec<_> =
        state.topology.shards.iter().map(|s| views::shard(s, &state, &admin.sight)).collect();
    Ok(Json(json!({"version": state.version, "shards": shards, "moving": state.moving.len()})))
}

pub(crate) async fn proxies(State(admin): Ctx) -> Result<Json<Value>, Problem> {
    let rows = rows::proxies(&admin.global).await?;
    Ok(Json(json!({"proxies": rows.iter().map(views::proxy).collect::<Vec<_>>()})))
}

#[derive(Deserialize)]
pub(crate) struct HistoryQuery {
    subject: Option<String>,
    limit: Option<u32>,
}

pub(crate) async fn history(
    State(admin): Ctx,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<Value>, Problem> {
    let limit = query.limit.unwrap_or(100).min(HISTORY_ROWS_MAX);
    let rows = rows::history(&admin.global, query.subject.as_deref(), limit).await?;
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({"at_ms": row.at_ms, "who": row.who, "what": row.what, "subject": row.subject, "detail": row.detail})
        })
        .collect();
    Ok(Json(json!({"history": rows})))
}

pub(crate) async fn user(State(admin): Ctx, Path(key): Path<String>) -> Result<Json<Value>, Problem> {
    if key.is_empty() || key.len() > Key::TEXT_BYTES_MAX {
        return Err(Problem::bad(format!("a key has 1 to {} bytes", Key::TEXT_BYTES_MAX)));
    }
    let row = rows::directory_row(&admin.global, &Key::from_stored(&key)).await?;
    let row = row.ok_or_else(|| Problem::unknown(format!("user {key} is not in the directory")))?;
    let state = Snapshot::load(&admin.global).await?;
    Ok(Json(views::user(&row, &state)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriterCall {
    writer: String,
    epoch: u64,
    #[serde(default)]
    force: bool,
}

pub(crate) async fn set_writer(
    State(admin): Ctx,
    Path(name): Path<String>,
    call: Result<Json<WriterCall>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(call) = call?;
    let changed = admin.flips.set_writer(&name, &call.writer, call.epoch, call.force, &admin.name).await?;
    Ok(Json(json!({"shard": name, "writer": call.writer, "epoch": call.epoch, "changed": changed})))
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct FlipCall {
    to: Option<String>,
}

/// The body may be missing.
pub(crate) async fn flip(
    State(admin): Ctx,
    Path(name): Path<String>,
    body: axum::body::Bytes,
) -> Result<Json<Value>, Problem> {
    let call = if body.is_empty() {
        FlipCall::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| Problem::bad(error.to_string()))?
    };
    // A task of its own: a client that hangs up must not stop a flip half-way.
    let work = tokio::spawn({
        let admin = Arc::clone(&admin);
        async move { admin.flips.flip(&name, call.to.as_deref(), &admin.name, &mut |_| ()).await }
    });
    let report = work.await.map_err(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the flip's task has ended; see the log")
    })??;
    Ok(Json(json!(report)))
}
