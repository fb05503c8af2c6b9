//! Calls about moves. They write what is asked for into the `moves` row; whoever runs moves obeys it.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use usher_directory::State as Snapshot;
use usher_directory::rows::MoveMode;
use usher_mover::StartMove;
use usher_topology::{Key, MoveId};

use crate::{Ctx, Problem, views};

pub(crate) async fn list(State(admin): Ctx) -> Result<Json<Value>, Problem> {
    let state = Snapshot::load(&admin.global).await?;
    let rows = admin.mover.list(false, views::MOVES_MAX).await?;
    let moves: Vec<_> = rows.iter().map(|row| views::a_move(row, &state.topology)).collect();
    Ok(Json(json!({"moves": moves})))
}

pub(crate) async fn one(State(admin): Ctx, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let id = id_of(&id)?;
    let row = admin.mover.status(id).await?;
    let state = Snapshot::load(&admin.global).await?;
    Ok(Json(views::a_move(&row, &state.topology)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartCall {
    user: Value,
    to: String,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    reason: String,
}

pub(crate) async fn start(
    State(admin): Ctx,
    call: Result<Json<StartCall>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let Json(call) = call?;
    let key = match &call.user {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return Err(Problem::bad("user is a number or a text")),
    };
    let mode = MoveMode::parse(call.mode.as_deref().unwrap_or("online"))
        .map_err(|_| Problem::bad("mode is \"locked\" or \"online\""))?;
    let start = StartMove {
        key: Key::from_stored(&key),
        to: call.to,
        mode,
        by: format!("{} (HTTP)", admin.name),
        reason: call.reason,
    };
    let id = admin.mover.request(&start).await?;
    Ok((StatusCode::CREATED, Json(json!({"id": id}))))
}

pub(crate) async fn wish(
    State(admin): Ctx,
    Path((id, wish)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let id = id_of(&id)?;
    match wish.as_str() {
        "abort" => admin.mover.abort(id).await?,
        "pause" => admin.mover.pause(id).await?,
        "resume" => admin.mover.resume(id).await?,
        _ => return Err(Problem::unknown("a move takes abort, pause and resume")),
    }
    let row = admin.mover.status(id).await?;
    Ok(Json(json!({"id": id, "phase": row.phase, "want": row.want})))
}

fn id_of(text: &str) -> Result<MoveId, Problem> {
    text.parse().map(MoveId).map_err(|_| Problem::bad(format!("{text:?} is no move's number")))
}
