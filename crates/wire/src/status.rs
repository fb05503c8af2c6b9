//! Server status flags.

/// A set of server status flags.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Status(pub u16);

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Status({:#06x})", self.0)
    }
}

impl Status {
    /// A transaction is open.
    pub const IN_TRANS: Self = Self(0x0001);
    /// autocommit is on.
    pub const AUTOCOMMIT: Self = Self(0x0002);
    /// Another result follows.
    pub const MORE_RESULTS: Self = Self(0x0008);
    /// No good index was used.
    pub const NO_GOOD_INDEX: Self = Self(0x0010);
    /// No index was used.
    pub const NO_INDEX: Self = Self(0x0020);
    /// The statement opened a read-only cursor.
    pub const CURSOR_EXISTS: Self = Self(0x0040);
    /// The cursor has no more rows.
    pub const LAST_ROW_SENT: Self = Self(0x0080);
    /// A schema was dropped.
    pub const DB_DROPPED: Self = Self(0x0100);
    /// A backslash in a string literal is an ordinary character.
    pub const NO_BACKSLASH_ESCAPES: Self = Self(0x0200);
    /// A re-prepare changed the statement's metadata.
    pub const METADATA_CHANGED: Self = Self(0x0400);
    /// The statement was slow by the server's measure.
    pub const QUERY_WAS_SLOW: Self = Self(0x0800);
    /// This result carries OUT parameters.
    pub const PS_OUT_PARAMS: Self = Self(0x1000);
    /// The open transaction is read-only.
    pub const IN_TRANS_READONLY: Self = Self(0x2000);
    /// Session state changes follow.
    pub const SESSION_STATE_CHANGED: Self = Self(0x4000);
    /// MariaDB: double quotes are those of identifiers.
    pub const ANSI_QUOTES: Self = Self(0x8000);

    const OF_SESSION: u16 = Self::IN_TRANS.0
        | Self::AUTOCOMMIT.0
        | Self::NO_BACKSLASH_ESCAPES.0
        | Self::IN_TRANS_READONLY.0
        | Self::ANSI_QUOTES.0;

    /// The flags that tell of the session, without those of the statement that just ended: the best guess at what
    /// the next statement will say.
    pub fn of_session(self) -> Self {
        Self(self.0 & Self::OF_SESSION)
    }

    /// True if all of `flags` are set.
    #[inline]
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// This set and `flags`.
    pub fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// This set less `flags`.
    pub fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }
}
