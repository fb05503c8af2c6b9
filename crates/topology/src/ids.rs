//! Identifiers and counters, each its own type so that none is taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// A shard's number, as in the `shards` table; 0 is the global master.
    ShardId(u16)
}
counter! {
    /// A server's number, unique in the deployment.
    ServerId(u32)
}
counter! {
    /// Grows by one with each change of one directory row.
    Generation(u64)
}
counter! {
    /// Grows by one with each writer flip of one shard.
    Epoch(u64)
}
counter! {
    /// A move's number.
    MoveId(u64)
}

impl ShardId {
    /// The global master, which the topology holds like a shard.
    pub const GLOBAL: Self = Self(0);

    /// Whether this is the global master.
    #[must_use]
    pub fn is_global(self) -> bool {
        self == Self::GLOBAL
    }
}

/// An entity's key in canonical form: what the directory is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An integer of any signedness up to 64 bits.
    Int(i128),
    /// Text of at most [`Key::TEXT_BYTES_MAX`] bytes, already folded by the column's collation.
    Text(Box<str>),
}

impl Key {
    /// The longest text key, in bytes: what fits an index of four-byte characters on every server.
    pub const TEXT_BYTES_MAX: usize = 190;

    /// The key from its stored form: canonical decimal becomes an integer, all else stays text.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        match text.parse::<i128>() {
            Ok(number) if number.to_string() == text => Self::Int(number),
            _ => Self::Text(text.into()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_form_round_trips() {
        for text in ["623", "-1", "18446744073709551615", "bob", "007", "+5", "", "1.0"] {
            assert_eq!(Key::from_stored(text).to_string(), text);
        }
        assert_eq!(Key::from_stored("623"), Key::Int(623));
        assert_eq!(Key::from_stored("007"), Key::Text("007".into()), "not canonical, so not the user 7");
    }
}
