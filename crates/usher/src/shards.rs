//! `usher shard ...`

use serde_json::{Value, json};
use usher_directory::rows;
use usher_directory::{State, schema};
use usher_failover::{FlipReport, Outcome, Progress};
use usher_topology::{Epoch, Role, Server, ServerId, Shard, ShardId, ShardState};

use crate::cli::{ShardAdd, ShardCommand};
use crate::deployment::{Deployment, user_shard, who};
use crate::say::{Say, table};

pub(crate) async fn run(deployment: &Deployment, command: ShardCommand, say: &Say) -> anyhow::Result<()> {
    match command {
        ShardCommand::List => list(deployment, say).await,
        ShardCommand::Add(add) => self::add(deployment, add, say).await,
        ShardCommand::Flip { shard, to } => flip(deployment, &shard, to.as_deref(), say).await,
        ShardCommand::Drain { shard } => drain(deployment, &shard, say).await,
    }
}

async fn list(deployment: &Deployment, say: &Say) -> anyhow::Result<()> {
    let state = deployment.state().await?;
    let users = rows::users_per_shard(&deployment.global).await?;
    let users = |id: ShardId| users.iter().find(|(shard, _)| *shard == id).map_or(0, |(_, count)| *count);
    let shards = &state.topology.shards;
    let machine: Vec<Value> = shards.iter().map(|shard| view(shard, &state, users(shard.id))).collect();
    say.answer(&json!({"version": state.version, "shards": machine}), || {
        let line = |shard: &Shard| {
            let name = |server: Option<&Server>| server.map(|s| s.name.clone()).unwrap_or_default();
            let replicas: Vec<_> = shard.replicas().map(|replica| replica.name.clone()).collect();
            vec![
                shard.name.clone(),
                state_text(shard.state).to_owned(),
                shard.epoch.to_string(),
                name(shard.writer()),
                name(shard.standby()),
                replicas.join(" "),
                if shard.id.is_global() { String::new() } else { shard.weight.to_string() },
                if shard.id.is_global() { String::new() } else { users(shard.id).to_string() },
            ]
        };
        let head = ["SHARD", "STATE", "EPOCH", "WRITER", "STANDBY", "REPLICAS", "WEIGHT", "USERS"];
        table(&head, shards.iter().map(line))
    });
    Ok(())
}

fn view(shard: &Shard, state: &State, users: u64) -> Value {
    let flip = state.flips.get(&shard.id);
    json!({"name": shard.name, "id": shard.id, "state": shard.state, "epoch": shard.epoch,
           "writer": shard.writer().map(|s| &s.name), "standby": shard.standby().map(|s| &s.name),
           "weight": shard.weight, "users": users, "flip_by": flip.map(|flip| &flip.by),
           "servers": shard.servers.iter().map(|s| json!({"name": s.name, "host": s.host, "port": s.port,
               "role": s.role})).collect::<Vec<_>>()})
}

fn state_text(state: ShardState) -> &'static str {
    match state {
        ShardState::Rw => "rw",
        ShardState::Switching => "switching",
        ShardState::Ro => "ro",
        ShardState::Down => "down",
    }
}

async fn flip(deployment: &Deployment, shard: &str, to: Option<&str>, say: &Say) -> anyhow::Result<()> {
    let mut on_progress = |progress: &Progress| match progress {
        Progress::Begins(_) => {}
        Progress::Ended(time) => say.remark(&format!("{:>7} ms  {}", time.ms, time.step)),
    };
    let report = deployment.flips.flip(shard, to, &who(), &mut on_progress).await?;
    for warning in &report.warnings {
        say.remark(&format!("warning: {warning}"));
    }
    say.answer(&serde_json::to_value(&report)?, || flipped(&report));
    Ok(())
}

fn flipped(report: &FlipReport) -> String {
    let FlipReport { shard, from, to, epoch, hold_ms, .. } = report;
    let mut text = match report.outcome {
        Outcome::Flipped => {
            format!(
                "{shard}: the writer is {to}, it was {from} (epoch {epoch}); writes were held for {hold_ms} ms"
            )
        }
        Outcome::Finished => {
            format!("{shard}: an interrupted flip was finished, the writer is {to} (epoch {epoch})")
        }
        Outcome::Undone => {
            format!("{shard}: an interrupted flip was undone, the writer is {to} (epoch {epoch})")
        }
        Outcome::Already => format!("{shard}: the writer is {to} already (epoch {epoch})"),
    };
    if !report.revoked.is_empty() {
        text += &format!("\nsilent proxies were revoked: {}", report.revoked.join(", "));
    }
    text
}

async fn drain(deployment: &Deployment, name: &str, say: &Say) -> anyhow::Result<()> {
    let state = deployment.state().await?;
    let shard = user_shard(&state, name)?;
    rows::set_weight(&deployment.global, shard.id, 0).await?;
    rows::record(&deployment.global, &who(), "drain", name, "weight 0").await?;
    let users = rows::users_per_shard(&deployment.global).await?;
    let left = users.iter().find(|(id, _)| *id == shard.id).map_or(0, |(_, count)| *count);
    say.answer(&json!({"shard": name, "weight": 0, "users": left}), || {
        format!("{name} takes no new users any more; {left} live there, move them with `usher move start`")
    });
    Ok(())
}

async fn add(deployment: &Deployment, add: ShardAdd, say: &Say) -> anyhow::Result<()> {
    let state = deployment.state().await?;
    if state.topology.shard_named(&add.shard).is_some() {
        anyhow::bail!("there is a shard {} already", add.shard);
    }
    if add.members.len() > 2 {
        anyhow::bail!("a pair has two members, {} were given", add.members.len());
    }
    let mut next = state.topology.shards.iter().flat_map(|s| &s.servers).map(|s| s.id.0).max().unwrap_or(0);
    let roles = [(&add.members, Role::Member), (&add.replicas, Role::Replica)];
    let mut servers = Vec::new();
    for (text, role) in roles.into_iter().flat_map(|(texts, role)| texts.iter().map(move |text| (text, role)))
    {
        next += 1;
        servers.push(server(text, ServerId(next), role)?);
    }
    let id = state.topology.shards.iter().map(|shard| shard.id.0).max().unwrap_or(0) + 1;
    let mut shard = Shard {
        id: ShardId(id),
        name: add.shard.clone(),
        state: ShardState::Rw,
        epoch: Epoch(1),
        writer: servers[0].id,
        weight: 0,
        servers,
    };
    check_roles(deployment, &shard).await?;
    // No user before its tables are there.
    schema::apply_shard(&deployment.global, &shard, &mut schema::Report::default()).await?;
    shard.weight = add.weight;
    schema::register_shard(&deployment.global, &shard).await?;
    rows::record(&deployment.global, &who(), "shard added", &shard.name, &format!("weight {}", add.weight))
        .await?;
    say.answer(&json!({"shard": shard.name, "id": id, "weight": add.weight}), || {
        format!(
            "{} is known; create the application's tables there before users come (weight {})",
            shard.name, add.weight
        )
    });
    Ok(())
}

fn server(text: &str, id: ServerId, role: Role) -> anyhow::Result<Server> {
    let parsed = || {
        let (name, address) = text.split_once('=')?;
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let named = !name.is_empty() && !host.is_empty();
        named.then(|| {
            Some(Server { id, name: name.into(), host: host.into(), port: port.parse().ok()?, role })
        })?
    };
    parsed().ok_or_else(|| anyhow::anyhow!("{text:?} is not name=host:port"))
}

/// The first member takes writes, all others do not.
async fn check_roles(deployment: &Deployment, shard: &Shard) -> anyhow::Result<()> {
    for server in &shard.servers {
        let mut conn = deployment.global.server_conn(server).await?;
        let writable = usher_directory::server::is_writable(&mut conn).await?;
        let expected = server.id == shard.writer;
        if writable != expected {
            let (is, should) = if writable { ("writable", "read-only") } else { ("read-only", "writable") };
            anyhow::bail!("{} ({}) is {is} but must be {should}", server.name, server.address());
        }
    }
    Ok(())
}
