//! `usher user ...`

use serde_json::{Value, json};
use usher_directory::rows::{self, DirectoryRow};
use usher_directory::{Located, State};
use usher_topology::Key;

use crate::cli::UserCommand;
use crate::deployment::{Deployment, shard_name, user_shard};
use crate::say::{Say, table};

pub(crate) async fn run(deployment: &Deployment, command: UserCommand, say: &Say) -> anyhow::Result<()> {
    match command {
        UserCommand::Where { user } => locate(deployment, &key(&user)?, say).await,
        UserCommand::List { shard, after, limit } => list(deployment, shard, after, limit, say).await,
        UserCommand::Place { user } => place(deployment, &key(&user)?, say).await,
        UserCommand::Pin { user, reason, off } => {
            let key = key(&user)?;
            let reason = (!off).then_some(reason);
            rows::set_pinned(&deployment.global, &key, reason.as_deref()).await?;
            say.answer(&json!({"user": user, "pinned": reason}), || match &reason {
                Some(reason) => format!("user {key} stays where it is: {reason}"),
                None => format!("user {key} may be moved again"),
            });
            Ok(())
        }
    }
}

/// A key as the directory stores it.
pub(crate) fn key(text: &str) -> anyhow::Result<Key> {
    if text.is_empty() || text.len() > Key::TEXT_BYTES_MAX {
        anyhow::bail!("a user's key has 1 to {} bytes", Key::TEXT_BYTES_MAX);
    }
    Ok(Key::from_stored(text))
}

async fn locate(deployment: &Deployment, key: &Key, say: &Say) -> anyhow::Result<()> {
    let row = rows::directory_row(&deployment.global, key).await?;
    let row = row.ok_or_else(|| anyhow::anyhow!("user {key} is not in the directory"))?;
    let state = deployment.state().await?;
    say.answer(&view(&row, &state), || {
        let mut text = sentence(key, &row.located, &state);
        if let Some(id) = row.move_id {
            text += &format!("\nmove {id} has it; see `usher move status {id}`");
        }
        if let Some(reason) = &row.pinned {
            text += &format!("\npinned: {reason}");
        }
        text
    });
    Ok(())
}

fn sentence(key: &Key, located: &Located, state: &State) -> String {
    let shard = shard_name(state, located.shard);
    format!("user {key} lives on {shard} ({}, generation {})", located.state, located.generation)
}

fn view(row: &DirectoryRow, state: &State) -> Value {
    json!({"user": row.key.to_string(), "shard": shard_name(state, row.located.shard),
           "state": row.located.state, "generation": row.located.generation, "move": row.move_id,
           "pinned": row.pinned})
}

async fn list(
    deployment: &Deployment,
    shard: Option<String>,
    after: Option<String>,
    limit: u32,
    say: &Say,
) -> anyhow::Result<()> {
    let state = deployment.state().await?;
    let shard = shard.map(|name| user_shard(&state, &name).map(|shard| shard.id)).transpose()?;
    let after = after.map(|after| key(&after)).transpose()?;
    let rows = rows::directory_rows(&deployment.global, after.as_ref(), shard, limit).await?;
    say.answer(&json!({"users": rows.iter().map(|row| view(row, &state)).collect::<Vec<_>>()}), || {
        let line = |row: &DirectoryRow| {
            let (located, pinned) = (&row.located, row.pinned.clone().unwrap_or_default());
            vec![row.key.to_string(), shard_name(&state, located.shard), located.state.to_string(), pinned]
        };
        table(&["USER", "SHARD", "STATE", "PINNED"], rows.iter().map(line))
    });
    Ok(())
}

async fn place(deployment: &Deployment, key: &Key, say: &Say) -> anyhow::Result<()> {
    let state = deployment.directory.refresh().await?;
    let located = deployment.directory.place(key).await?;
    let shard = shard_name(&state, located.shard);
    say.answer(&json!({"user": key.to_string(), "shard": shard, "generation": located.generation}), || {
        sentence(key, &located, &state)
    });
    Ok(())
}
