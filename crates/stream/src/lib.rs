//! Follows a server's binlog by GTID and tells what it does to the rows of one user: whole transactions, typed values,
//! in the order of their commits. Applies such changes to another server so that repeating them does no harm.
//!
//! It never decides which user is followed, or why, and never reads the tables it follows: all it knows comes from
//! the log. Whatever it does not understand ends the tail with an error; nothing is skipped that might matter.
//!
//! Works with MariaDB 10.11 and later and MySQL 8.4 and later, with full row images and full row metadata.

mod apply;
mod change;
mod columns;
mod dump;
mod error;
mod event;
mod json;
mod mariadb;
mod rows;
mod table_map;
mod tail;
mod value;

pub use apply::{Batch, Cascade, Conversion, Orphans, Shape, ShapeColumn};
pub use change::{Change, Images, Item, Row, Transaction};
pub use columns::Columns;
pub use error::StreamError;
pub use tail::{Followed, Start, Tail};

/// What reading or applying gives.
pub type Result<T, E = StreamError> = std::result::Result<T, E>;
