//! One pair brought to work: followers checked and started, the writer opened.

use crate::Server;
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::replication as r;
use crate::state::{Node, Pair, Secrets};
use crate::topology::Hold;

/// Sets up or takes up again the replication of a pair whose servers all run. What cannot follow without
/// losing transactions is left alone, read-only, and returned as warnings.
/// `global` is the global master's writer, whose topology is asked before a member is opened.
pub(crate) async fn set_up(
    kind: Server,
    pair: &Pair,
    global: &Node,
    secrets: &Secrets,
) -> Result<Vec<Error>> {
    let mut writer = Connection::open(&pair.writer, &secrets.admin).await?;
    let writer_closed = r::is_read_only(&mut writer).await?;
    let mut warnings = Vec::new();
    let mut following = Vec::new();
    for node in pair.followers() {
        let mut follower = Connection::open(node, &secrets.admin).await?;
        match relate(kind, &mut writer, &mut follower, &pair.writer, node).await? {
            Relation::Behind => following.push((node, follower, false)),
            // Safe only while nobody writes: the writer fetches what it lacks before it is opened.
            Relation::Ahead if writer_closed && !node.is_replica => following.push((node, follower, true)),
            Relation::Ahead => warnings.push(diverged(node, &pair.writer, "it is ahead")),
            Relation::Diverged(detail) => warnings.push(diverged(node, &pair.writer, &detail)),
        }
    }
    if !following.iter().any(|(node, ..)| node.name == pair.standby().name) && writer_closed {
        // Without its standby a pair has no second copy to trust; a person decides.
        return Err(warnings.pop().unwrap_or_else(|| diverged(pair.standby(), &pair.writer, "unknown")));
    }
    start(kind, pair, &mut writer, &mut following, secrets).await?;
    if !writer_closed {
        r::await_acker(kind, &mut writer).await?;
    } else if let Some(hold) = Hold::to_open(pair, global, &secrets.admin).await? {
        r::open_writer(kind, &mut writer).await?;
        r::await_acker(kind, &mut writer).await?;
        hold.release().await?;
    } else {
        let detail =
            format!("a flip of {} is under way; its writer stays closed for the controller", pair.name);
        warnings.push(Error::Replication { server: pair.writer.name.clone(), detail });
    }
    for (_, follower, _) in following {
        follower.close().await;
    }
    writer.close().await;
    Ok(warnings)
}

async fn start(
    kind: Server,
    pair: &Pair,
    writer: &mut Connection,
    following: &mut [(&Node, Connection, bool)],
    secrets: &Secrets,
) -> Result<()> {
    for (_, follower, _) in following.iter_mut() {
        r::follow(kind, follower, &pair.writer, secrets).await?;
    }
    let standby = following.iter_mut().find(|(node, ..)| node.name == pair.standby().name);
    if let Some((node, standby, is_ahead)) = standby {
        r::follow(kind, writer, node, secrets).await?;
        r::await_channel(kind, writer).await?;
        if *is_ahead {
            r::catch_up(kind, writer, standby).await?;
        }
    }
    for (_, follower, _) in following.iter_mut() {
        r::await_channel(kind, follower).await?;
    }
    Ok(())
}

enum Relation {
    Behind,
    Ahead,
    Diverged(String),
}

async fn relate(
    kind: Server,
    writer: &mut Connection,
    follower: &mut Connection,
    writer_node: &Node,
    node: &Node,
) -> Result<Relation> {
    // The follower first: it can only be behind what the writer has when it is asked a moment later.
    let has = r::position(kind, follower).await?;
    let all = r::position(kind, writer).await?;
    if r::contains(writer, &all, &has).await? {
        return Ok(Relation::Behind);
    }
    if r::contains(writer, &has, &all).await? {
        return Ok(Relation::Ahead);
    }
    Ok(Relation::Diverged(format!("{} has {has:?}, {} has {all:?}", node.name, writer_node.name)))
}

fn diverged(node: &Node, writer: &Node, detail: &str) -> Error {
    Error::Diverged { server: node.name.clone(), writer: writer.name.clone(), detail: detail.to_owned() }
}
