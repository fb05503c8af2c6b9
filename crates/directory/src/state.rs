//! What every proxy holds whole: topology, moving set and table catalog at one version.

use std::collections::HashMap;
use std::sync::Arc;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use usher_topology::{Epoch, Generation, Key, Role, Server, ServerId, Shard, ShardId, ShardState, Topology};

use crate::columns::Columns;
use crate::rows::{MoveMode, MoveRow, TableRow, moves, tables};
use crate::text_enum::text_enum;
use crate::{Error, Global, Result};

text_enum! {
    /// What may be done with an entity's rows at present.
    EntityState {
        /// Nothing special.
        Active = "active",
        /// A move has begun: write transactions must take the fence.
        Moving = "moving",
        /// Writes are held or refused; reads ask the directory each time.
        Locked = "locked",
        /// On its new shard, whose copies may not have all of it yet: reads go to the writer.
        Settling = "settling",
    }
}

/// Where an entity lives, as of one generation of its directory row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// The shard.
    pub shard: ShardId,
    /// Generation of the directory row; 0 when the shards themselves were asked, the directory being down.
    pub generation: Generation,
    /// The generation that the ownership row on the shard must show.
    pub own_gen: Generation,
    /// What may be done with its rows.
    pub state: EntityState,
}

/// One entity of the moving set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moving {
    /// The move.
    pub row: MoveRow,
    /// Where the entity was at this version of the state.
    pub located: Located,
    /// What a copy must have executed to be read, while settling.
    pub min_gtid: Option<String>,
}

/// All moves that are not finished, by entity.
#[derive(Debug, Clone, Default)]
pub struct MovingSet {
    by_key: HashMap<Key, Arc<Moving>>,
    left_behind: Vec<MoveRow>,
}

impl MovingSet {
    /// The unfinished move of that entity.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Arc<Moving>> {
        // Empty nearly always, and asked for every statement.
        if self.by_key.is_empty() { None } else { self.by_key.get(key) }
    }

    /// Whether nobody is moving.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// How many are moving.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether an entity is being moved online and not settled yet: at its cutover writes wait for every proxy.
    #[must_use]
    pub fn has_cutovers(&self) -> bool {
        let waits = |moving: &Moving| {
            moving.row.mode == MoveMode::Online
                && matches!(moving.located.state, EntityState::Moving | EntityState::Locked)
        };
        self.by_key.values().any(|moving| waits(moving))
    }

    /// All that are moving.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<Moving>)> {
        self.by_key.iter()
    }

    /// Moves that no longer hold their entity but whose rows are still to be purged: from `src`, or, where the move was
    /// aborted, from `dst`. A scatter leaves these rows out.
    #[must_use]
    pub fn left_behind(&self) -> &[MoveRow] {
        &self.left_behind
    }
}

/// A flip under way, as its shard's row shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// The member to become the writer.
    pub to: ServerId,
    /// Who runs it.
    pub by: String,
}

/// The state at one version, read in one transaction.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// `control.version`; 0 before anything was loaded.
    pub version: u64,
    /// Shards and servers.
    pub topology: Topology,
    /// Flips under way, by shard.
    pub flips: HashMap<ShardId, Flip>,
    /// Unfinished moves.
    pub moving: MovingSet,
    /// Catalog of the application's tables.
    pub tables: Vec<TableRow>,
}

impl State {
    /// Reads it all from the global master's writer in one transaction.
    ///
    /// # Errors
    /// [`Error::GlobalUnavailable`], [`Error::Timeout`], or [`Error::Data`] when rows contradict each other.
    pub async fn load(global: &Global) -> Result<Self> {
        let mut conn = global.conn().await?;
        let begin = async {
            conn.query_drop("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
            conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await
        };
        global.bounded("loading the state", begin).await?;
        let state = Self::read(global, &mut conn).await;
        // Whatever came of it: the pool must not get a connection back that still shows this snapshot.
        global.bounded("loading the state", conn.query_drop("COMMIT")).await?;
        let state = state?;
        global.learn(&state.topology);
        Ok(state)
    }

    /// Reads it within the caller's transaction.
    pub(crate) async fn read(global: &Global, conn: &mut Conn) -> Result<Self> {
        let fetch = async {
            let version: Option<u64> =
                conn.query_first("SELECT version FROM usher.control WHERE id = 1").await?;
            let shards: Vec<ShardTuple> = conn.query(SHARDS).await?;
            let servers: Vec<ServerTuple> = conn.query(SERVERS).await?;
            let moves = conn.query(moves::select_unfinished()).await?;
            let tables = conn.query(tables::SELECT).await?;
            Ok((version, shards, servers, moves, tables))
        };
        let (version, shards, servers, moves, tables) = global.bounded("loading the state", fetch).await?;
        let version =
            version.ok_or_else(|| Error::data("usher.control has no row: run `usher schema apply`"))?;
        let (topology, flips) = topology_of(shards, servers)?;
        let mut moving = MovingSet::default();
        for row in moves {
            let mut columns = Columns::of(row);
            let row = MoveRow::read(&mut columns)?;
            if row.active {
                let (located, min_gtid) = located_of_move(&row, &mut columns)?;
                moving.by_key.insert(row.key.clone(), Arc::new(Moving { row, located, min_gtid }));
            } else {
                moving.left_behind.push(row);
            }
        }
        let tables = tables.into_iter().map(TableRow::read).collect::<Result<_>>()?;
        Ok(Self { version, topology, flips, moving, tables })
    }
}

type ShardTuple = (u16, String, u32, u64, String, u32, Option<u32>, Option<String>);
type ServerTuple = (u32, u16, String, String, u16, String);

const SHARDS: &str = "SELECT shard_id, name, writer_id, epoch, state, weight, flip_to, flip_by \
                      FROM usher.shards ORDER BY shard_id";
const SERVERS: &str = "SELECT server_id, shard_id, name, host, port, role \
                       FROM usher.servers ORDER BY shard_id, role, server_id";

/// The directory's columns that follow those of the move; all NULL for an entity without a directory row.
fn located_of_move(row: &MoveRow, columns: &mut Columns) -> Result<(Located, Option<String>)> {
    let shard: Option<u16> = columns.take()?;
    let state: Option<String> = columns.take()?;
    let generation: Option<u64> = columns.take()?;
    let own_gen: Option<u64> = columns.take()?;
    let min_gtid: Option<String> = columns.take()?;
    let located = Located {
        shard: shard.map_or(row.src, ShardId),
        generation: Generation(generation.unwrap_or(0)),
        own_gen: Generation(own_gen.unwrap_or(0)),
        state: state.as_deref().map_or(Ok(EntityState::Active), EntityState::parse)?,
    };
    Ok((located, min_gtid))
}

fn topology_of(
    shards: Vec<ShardTuple>,
    servers: Vec<ServerTuple>,
) -> Result<(Topology, HashMap<ShardId, Flip>)> {
    let mut flips = HashMap::new();
    let mut list = Vec::with_capacity(shards.len());
    for (id, name, writer, epoch, state, weight, flip_to, flip_by) in shards {
        let id = ShardId(id);
        if let Some(to) = flip_to {
            flips.insert(id, Flip { to: ServerId(to), by: flip_by.unwrap_or_default() });
        }
        list.push(Shard {
            id,
            name,
            state: shard_state(&state)?,
            epoch: Epoch(epoch),
            writer: ServerId(writer),
            weight,
            servers: Vec::new(),
        });
    }
    for (id, shard, name, host, port, role) in servers {
        let Some(shard) = list.iter_mut().find(|row| row.id.0 == shard) else {
            return Err(Error::data(format!("server {name} belongs to shard {shard}, which does not exist")));
        };
        let role = role_of(&role)?;
        shard.servers.push(Server { id: ServerId(id), name, host, port, role });
    }
    // ENUM sorts by position, so members came first already.
    Ok((Topology { shards: list }, flips))
}

pub(crate) fn shard_state(text: &str) -> Result<ShardState> {
    match text {
        "rw" => Ok(ShardState::Rw),
        "switching" => Ok(ShardState::Switching),
        "ro" => Ok(ShardState::Ro),
        "down" => Ok(ShardState::Down),
        other => Err(Error::data(format!("{other:?} is no state of a shard"))),
    }
}

pub(crate) fn shard_state_text(state: ShardState) -> &'static str {
    match state {
        ShardState::Rw => "rw",
        ShardState::Switching => "switching",
        ShardState::Ro => "ro",
        ShardState::Down => "down",
    }
}

fn role_of(text: &str) -> Result<Role> {
    match text {
        "member" => Ok(Role::Member),
        "replica" => Ok(Role::Replica),
        other => Err(Error::data(format!("{other:?} is no role of a server"))),
    }
}
