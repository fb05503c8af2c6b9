//! `usher check`: one line and an exit code, as monitoring plugins have them.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use usher_config::Config;
use usher_directory::rows::{self, ProxyRow};
use usher_directory::{Global, State, server};
use usher_topology::{Shard, ShardState};

use crate::say::{Say, chain};

/// The longest one server may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Moves looked at.
const MOVES_MAX: u32 = 1_000;

/// How bad it is; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

#[derive(Debug, Default)]
struct Findings(Vec<(Level, String)>);

impl Findings {
    fn add(&mut self, level: Level, text: impl Into<String>) {
        self.0.push((level, text.into()));
    }

    fn worst(&self) -> Level {
        self.0.iter().map(|(level, _)| *level).max().unwrap_or(Level::Ok)
    }
}

pub(crate) async fn run(config: anyhow::Result<Config>, say: &Say) -> ExitCode {
    let mut findings = Findings::default();
    let summary = match config {
        Ok(config) => look(&config, &mut findings).await,
        Err(error) => {
            findings.add(Level::Unknown, chain(&error));
            String::new()
        }
    };
    let level = findings.worst();
    let texts: Vec<&str> = findings.0.iter().map(|(_, text)| text.as_str()).collect();
    let line = if texts.is_empty() { summary.clone() } else { texts.join("; ") };
    say.answer(&json!({"status": level.as_str(), "findings": texts, "summary": summary}), || {
        format!("USHER {} - {}", level.as_str(), line.replace('\n', " "))
    });
    ExitCode::from(level as u8)
}

/// Looks at everything; returns the line for when all is well.
async fn look(config: &Config, findings: &mut Findings) -> String {
    let global = Global::new(&config.global, &config.backend_tls, &config.limits);
    let state = match State::load(&global).await {
        Ok(state) => state,
        Err(error) => {
            findings.add(Level::Critical, error.to_string());
            return String::new();
        }
    };
    for shard in &state.topology.shards {
        look_at_shard(&global, shard, findings).await;
    }
    let alive = match rows::proxies(&global).await {
        Ok(proxies) => look_at_proxies(&proxies, &state, config, findings),
        Err(error) => {
            findings.add(Level::Unknown, error.to_string());
            0
        }
    };
    match rows::list_moves(&global, true, MOVES_MAX).await {
        Ok(moves) => {
            for row in moves.iter().filter(|row| row.active) {
                if let Some(error) = &row.error {
                    findings.add(Level::Warning, format!("move {}: {error}", row.id));
                }
            }
        }
        Err(error) => findings.add(Level::Unknown, error.to_string()),
    }
    let shards = state.topology.user_shards().count();
    format!("{shards} shards writable, {alive} proxies alive, {} users moving", state.moving.len())
}

async fn look_at_shard(global: &Global, shard: &Shard, findings: &mut Findings) {
    match shard.state {
        ShardState::Rw => {}
        ShardState::Switching => {
            findings.add(Level::Warning, format!("shard {} is being flipped", shard.name))
        }
        ShardState::Ro => findings.add(Level::Warning, format!("shard {} is read-only", shard.name)),
        ShardState::Down => findings.add(Level::Critical, format!("shard {} has no writer", shard.name)),
    }
    for copy in &shard.servers {
        let is_writer = copy.id == shard.writer;
        let seen = tokio::time::timeout(LIMIT, async {
            let mut conn = global.server_conn(copy).await.map_err(|error| error.to_string())?;
            let writable = server::is_writable(&mut conn).await.map_err(|error| error.to_string())?;
            let family = server::family(&mut conn).await.map_err(|error| error.to_string())?;
            let channels = server::channels(&mut conn, family).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((writable, channels))
        });
        let level = if is_writer { Level::Critical } else { Level::Warning };
        match seen.await {
            Err(_) => {
                findings.add(level, format!("{} has not answered within {} s", copy.name, LIMIT.as_secs()))
            }
            Ok(Err(reason)) => findings.add(level, format!("{}: {reason}", copy.name)),
            Ok(Ok((writable, channels))) => {
                if writable != is_writer && shard.state == ShardState::Rw {
                    let is = if writable {
                        "takes writes but is not the writer"
                    } else {
                        "is the writer but read-only"
                    };
                    findings.add(Level::Critical, format!("{} {is}", copy.name));
                }
                let broken = channels.iter().find(|channel| !channel.runs());
                if let Some(channel) = broken {
                    findings
                        .add(Level::Warning, format!("{} does not replicate: {}", copy.name, channel.error));
                } else if channels.is_empty() && !is_writer {
                    findings.add(Level::Warning, format!("{} replicates from nobody", copy.name));
                }
            }
        }
    }
}

fn look_at_proxies(proxies: &[ProxyRow], state: &State, config: &Config, findings: &mut Findings) -> usize {
    let patience = i64::try_from(config.limits.patience_ms).unwrap_or(i64::MAX);
    let mut alive = 0;
    for proxy in proxies {
        if proxy.revoked {
            findings.add(Level::Warning, format!("proxy {} is revoked", proxy.proxy_id));
        } else if proxy.silent_ms > patience {
            findings.add(
                Level::Warning,
                format!("proxy {} is silent since {} ms", proxy.proxy_id, proxy.silent_ms),
            );
        } else {
            alive += 1;
            if proxy.seen_version + 1 < state.version && proxy.silent_ms > 1_000 {
                findings.add(Level::Warning, format!("proxy {} is behind in versions", proxy.proxy_id));
            }
        }
    }
    if alive == 0 {
        findings.add(Level::Critical, "no proxy is alive");
    }
    alive
}
