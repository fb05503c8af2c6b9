//! Statement text to digest to plan, and what a statement does to its session.
//!
//! [`digest()`] lexes a statement once, without allocating: a keyed hash of its shape and the spans of its literals.
//! [`plan()`], kept by that hash in its caller's cache, says where statements of the shape go and which literals name
//! the user. [`canonical_key`] turns such a literal, [`bound_key`] such a parameter, into the directory's text.
//! [`effects`] reads SET, [`ddl`] schema changes, [`prepare`] PREPARE in text, [`xa`] XA, and [`splice()`] writes a changed statement from spans.
//!
//! This crate does no I/O, keeps no clock, and never sends anything but the client's own bytes: a statement is changed
//! by replacing spans. What it cannot prove to touch one user's rows only, it refuses with a reason.

mod catalog;
mod charset;
mod column;
pub mod ddl;
mod declaration;
mod digest;
pub mod effects;
mod hint;
pub mod holds;
mod key;
mod lex;
mod mode;
mod plan;
pub mod prepare;
mod splice;
pub mod xa;

pub use catalog::{Catalog, Sharded, Table};
pub use charset::is_utf8;
pub use column::unnamed_columns;
pub use declaration::{Declaration, DeclarationError};
pub use digest::{Digest, digest};
pub use hint::Hints;
pub use key::{
    Bound, KEY_BYTES_MAX, Key, KeyError, KeyType, TextRule, asks_for_id, bound_key, canonical_key,
    string_value,
};
pub use lex::{Lexer, Literal, LiteralKind, Token, TokenKind, depends_on_version, unquote_name};
pub use mode::{Mode, read_as};
pub use plan::{
    DdlKind, ExplainRoute, Found, InsertPoints, InsertShape, KeySource, KeyValue, Kind, Nothing, Number,
    OWN_SCHEMA, Plan, Reach, RowValue, SequenceShape, ShowKind, TableName, Target, USER_VARS_MAX, Uses,
    ValuePoint, explain_route, find_calls, find_variables, insert_points, plan, user_variable_name,
};
pub use splice::{SpliceError, splice};
