//! One client: login, command loop, plan, locate, relay. A session knows what a locked user or a switching shard
//! means for a statement; how moves and flips proceed it does not know.

mod accept;
mod account;
mod answer;
mod buffers;
mod channel;
#[cfg(test)]
mod cost;
mod cursor;
mod databases;
mod ddl;
mod diagnostics;
mod execute;
mod explain;
mod gate;
mod held;
mod hold;
mod http_call;
mod in_flight;
mod insert;
mod kill;
mod listing;
mod local_file;
mod login;
mod metrics;
mod own_values;
mod own_variables;
mod peers;
mod pins;
mod plans;
mod prepared;
mod processlist;
mod query;
mod relay;
mod route;
mod schemas;
mod session;
mod sessions;
mod set;
mod set_global;
mod shared;
mod talk;
mod text_prepare;
mod tls;
mod tracking;
mod transaction;
mod user_vars;
mod watermark;
mod xa;

pub use accept::{Listener, serve};
pub use account::{AccountSeen, Accounts};
pub use listing::SessionRow;
pub use metrics::SessionMetrics;
pub use peers::{KillOrder, Killed, Peers, Told, Unreached, Wanted};
pub use shared::{Balancers, HeaderRule, Introduced, SessionHooks, Setup, Shared};
pub use tls::{ClientTls, TlsFiles};
