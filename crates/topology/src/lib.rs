//! Shards, members, replicas and roles, as one immutable snapshot; choosing a server for a statement; global
//! transaction positions. Pure: no socket, no clock, no runtime here. What changes the topology lives in
//! `directory` (the rows) and `failover` (the decisions).

mod choose;
mod gtid;
mod ids;
mod snapshot;

pub use choose::{Choice, Health, Reason, Want, choose};
pub use gtid::{GtidError, GtidPosition};
pub use ids::{Epoch, Generation, Key, MoveId, ServerId, ShardId};
pub use snapshot::{Role, Server, Shard, ShardState, Topology};
