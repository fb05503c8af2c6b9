//! The other proxies of the deployment: their sessions, seen and ended over their HTTP API. Whoever does not answer in
//! time is named, and nobody waits for it.

use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use usher_directory::{Global, rows};

use crate::http_call::call;
use crate::listing::SessionRow;

/// Ways to the other proxies.
#[derive(Debug)]
pub struct Peers {
    global: Global,
    token: String,
    /// The proxy that this is, if it is one.
    me: Option<String>,
    limit: Duration,
    /// As the global master had them last.
    known: Mutex<Vec<Peer>>,
}

#[derive(Debug, Clone)]
struct Peer {
    id: String,
    number: Option<u8>,
    address: Option<String>,
}

/// A proxy whose sessions are not in a list, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Unreached {
    /// Its id; empty if it is not known which proxies there are.
    pub proxy: String,
    /// In words.
    pub why: String,
}

impl std::fmt::Display for Unreached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.proxy.as_str() {
            "" => f.write_str(&self.why),
            proxy => write!(f, "the sessions of proxy {proxy} are not shown: {}", self.why),
        }
    }
}

/// The sessions of one proxy, as it tells them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    /// Its id: an address may lead to another proxy than was meant.
    pub proxy: String,
    /// Its sessions.
    pub sessions: Vec<SessionRow>,
}

/// What is asked of a proxy: whose sessions, and how much of their statements.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Only this account's.
    pub account: Option<String>,
    /// Characters of a statement.
    pub info_chars: usize,
}

/// A wish to end a session, or what it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillOrder {
    /// Its connection id.
    pub id: u64,
    /// Only its statement.
    pub query: bool,
    /// It has to be of this account.
    #[serde(default)]
    pub owner: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Killed {
    /// It is ended.
    Done,
    /// There is no such session.
    Unknown,
    /// It is another account's.
    Denied,
    /// Nobody could say, and why.
    Failed {
        /// In words.
        why: String,
    },
}

impl Peers {
    /// `me` is left out of what is asked. An empty token reaches nobody.
    #[must_use]
    pub fn new(global: Global, token: &str, me: Option<&str>, limit_ms: u64) -> Self {
        Self {
            global,
            token: token.to_owned(),
            me: me.map(str::to_owned),
            limit: Duration::from_millis(limit_ms),
            known: Mutex::default(),
        }
    }

    /// The sessions of all other proxies, and those proxies that did not tell theirs.
    pub async fn sessions(&self, wanted: &Wanted) -> (Vec<SessionRow>, Vec<Unreached>) {
        let (peers, unsure) = self.others().await;
        let body = serde_json::to_string(wanted).unwrap_or_default();
        let asked = peers.iter().map(|peer| self.sessions_of(peer, &body));
        let (mut sessions, mut unreached) = (Vec::new(), Vec::from_iter(unsure));
        for (peer, told) in peers.iter().zip(join_all(asked).await) {
            match told {
                Ok(told) => sessions.extend(told),
                Err(why) => unreached.push(Unreached { proxy: peer.id.clone(), why }),
            }
        }
        (sessions, unreached)
    }

    async fn sessions_of(&self, peer: &Peer, body: &str) -> Result<Vec<SessionRow>, String> {
        let told: Told = self.ask(peer, "/v1/sessions/here", body).await?;
        if told.proxy != peer.id {
            return Err(format!("proxy {} answers at its address", told.proxy));
        }
        Ok(told.sessions)
    }

    /// Ends a session of another proxy.
    pub async fn kill(&self, order: &KillOrder) -> Killed {
        let (peers, _) = self.others().await;
        let number = u8::try_from(order.id >> 24).ok();
        let Some(peer) = peers.iter().find(|peer| number.is_some() && peer.number == number) else {
            return Killed::Unknown;
        };
        let body = serde_json::to_string(order).unwrap_or_default();
        let answered = self.ask(peer, "/v1/sessions/here/kill", &body).await;
        answered.unwrap_or_else(|why| Killed::Failed { why: format!("proxy {}: {why}", peer.id) })
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        peer: &Peer,
        path: &str,
        body: &str,
    ) -> Result<T, String> {
        if self.token.is_empty() {
            return Err("http.token is not set".to_owned());
        }
        let address = peer.address.as_deref().ok_or("it has no http_listen")?;
        let answer = call(address, &self.token, ("POST", path, body), self.limit).await?;
        serde_json::from_slice(&answer).map_err(|error| format!("its answer cannot be read: {error}"))
    }

    /// The other proxies, by the global master or as it had them last.
    async fn others(&self) -> (Vec<Peer>, Option<Unreached>) {
        let asked = tokio::time::timeout(self.limit, rows::proxies(&self.global)).await;
        let unsure = match asked {
            Ok(Ok(rows)) => {
                let others = rows.into_iter().filter(|row| self.me.as_ref() != Some(&row.proxy_id));
                let peer = |row: rows::ProxyRow| Peer {
                    id: row.proxy_id,
                    number: row.number,
                    address: row.http_address,
                };
                *self.known.lock() = others.map(peer).collect();
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the global master does not answer".to_owned()),
        };
        let unsure = unsure.map(|why| {
            let why = format!("proxies that have come since may be missing: {why}");
            Unreached { proxy: String::new(), why }
        });
        (self.known.lock().clone(), unsure)
    }
}
