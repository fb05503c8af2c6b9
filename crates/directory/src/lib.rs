//! The global master's tables: locates entities through the caches, holds the moving set, acknowledges and awaits
//! barriers, hands out ids. It knows no application SQL and never decides about a move or a flip; it only offers the
//! rows that those decide by.

pub mod barrier;
mod columns;
mod dial;
mod directory;
mod error;
mod global;
mod metrics;
mod participant;
pub mod rows;
pub mod schema;
pub mod server;
mod state;
mod text_enum;

mod abandoned;
mod accounts;
mod fallback;
mod l1;
mod l2;
mod lookup;
mod numbers;
mod pins;
mod place;
mod sequences;

pub use abandoned::end_abandoned_schema_change;
pub use directory::Directory;
pub use error::{Error, Result};
pub use global::Global;
pub use metrics::Metrics;
pub use participant::{BoxFuture, Hooks, Participant, Registration};
pub use state::{EntityState, Flip, Located, Moving, MovingSet, State};
