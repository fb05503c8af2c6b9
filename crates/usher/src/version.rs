//! The version that clients are told: the lowest of the servers', so that nobody counts on what only some of them know.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::task::JoinSet;
use usher_directory::{Error, Global, State};
use usher_topology::Server;

/// How often a proxy that starts before the global master answers tries again.
const START_RETRY: Duration = Duration::from_millis(250);
/// How many times.
const START_TRIES: u32 = 40;
/// The longest other servers are waited for; who has not answered by then does not count.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Servers asked at once.
const ASKED_MAX: usize = 32;

/// The lowest version of the global master and of all other servers of its kind (MariaDB or MySQL) that answer.
///
/// # Errors
/// A proxy cannot begin without the global master; one that starts together with it waits a while.
pub(crate) async fn lowest(global: &Global) -> anyhow::Result<String> {
    let own = ask_global(global).await?;
    let servers: Vec<Server> = match State::load(global).await {
        Ok(state) => state.topology.shards.iter().flat_map(|shard| shard.servers.iter().cloned()).collect(),
        // Whoever needs the state later says so.
        Err(_) => Vec::new(),
    };
    let mut versions = vec![own.clone()];
    let asked = async {
        let mut asking = JoinSet::new();
        for server in servers {
            if asking.len() >= ASKED_MAX {
                versions.extend(asking.join_next().await.and_then(Result::ok).flatten());
            }
            let global = global.clone();
            asking.spawn(async move { ask(&global, &server).await });
        }
        while let Some(answer) = asking.join_next().await {
            versions.extend(answer.ok().flatten());
        }
    };
    if tokio::time::timeout(PATIENCE, asked).await.is_err() {
        tracing::info!("some servers did not tell their version in time");
    }
    Ok(as_greeted(lowest_of(own, versions)))
}

/// The version as a server's greeting has it: MariaDB up to 10 puts something in front, by which drivers tell that what
/// MySQL 8 has is not there.
fn as_greeted(version: String) -> String {
    match version.starts_with("10.") && version.contains("MariaDB") {
        true => format!("5.5.5-{version}"),
        false => version,
    }
}

fn lowest_of(own: String, versions: Vec<String>) -> String {
    let kind = |version: &str| version.contains("MariaDB");
    let (own_kind, all) = (kind(&own), versions.into_iter());
    all.filter(|version| kind(version) == own_kind).min_by_key(|version| numbers(version)).unwrap_or(own)
}

/// `10.11.6` of `10.11.6-MariaDB`.
fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).take(3).collect()
}

async fn ask(global: &Global, server: &Server) -> Option<String> {
    let mut conn = global.borrowed_conn(server).await.ok()?;
    let version = conn.query_first("SELECT VERSION()");
    global.server_bounded(&server.name, version).await.ok()?
}

async fn ask_global(global: &Global) -> anyhow::Result<String> {
    let mut left = START_TRIES;
    loop {
        match version_of(global).await {
            Ok(version) => return Ok(version),
            Err(error) if left == 0 => return Err(error.into()),
            Err(error) => tracing::info!(%error, "waiting for the global master"),
        }
        left -= 1;
        tokio::time::sleep(START_RETRY).await;
    }
}

async fn version_of(global: &Global) -> Result<String, Error> {
    let mut conn = global.conn().await?;
    let version: Option<String> =
        global.bounded("asking for the version", conn.query_first("SELECT VERSION()")).await?;
    Ok(version.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_of_one_kind_counts() {
        let of = |own: &str, others: &[&str]| {
            let all = others.iter().chain([&own]).map(|version| (*version).to_owned());
            lowest_of(own.to_owned(), all.collect())
        };
        let own = "10.11.6-MariaDB-log";
        assert_eq!(of(own, &["10.6.19-MariaDB", "11.4.2-MariaDB", "8.0.40"]), "10.6.19-MariaDB");
        assert_eq!(of(own, &["8.0.40", ""]), own);
        assert_eq!(of("9.7.0", &["8.4.10", "8.4.9-log", "10.3.0-MariaDB"]), "8.4.9-log");
    }
}
