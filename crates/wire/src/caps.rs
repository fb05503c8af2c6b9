//! Capability flags: what we offer clients, and what we ask of servers.

/// A set of capability flags: MySQL's 32 in the low half, MariaDB's extended ones in the high half.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Caps(pub u64);

impl std::fmt::Debug for Caps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Caps({:#x})", self.0)
    }
}

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:expr;)*) => {
        impl Caps { $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)* }
    };
}

flags! {
    /// "Long password"; a MariaDB peer clears it to say that it sends extended flags.
    LONG_PASSWORD = 0;
    /// Affected rows count the rows found, not the rows changed.
    FOUND_ROWS = 1;
    /// Long column flags.
    LONG_FLAG = 2;
    /// The handshake response names a schema.
    CONNECT_WITH_DB = 3;
    /// zlib compression.
    COMPRESS = 5;
    /// LOAD DATA LOCAL.
    LOCAL_FILES = 7;
    /// Blanks are allowed between a function's name and its parenthesis.
    IGNORE_SPACE = 8;
    /// The 4.1 protocol; we speak nothing older.
    PROTOCOL_41 = 9;
    /// interactive_timeout instead of wait_timeout.
    INTERACTIVE = 10;
    /// TLS.
    SSL = 11;
    /// Status flags are sent.
    TRANSACTIONS = 13;
    /// 4.1 authentication.
    SECURE_CONNECTION = 15;
    /// Several statements in one COM_QUERY.
    MULTI_STATEMENTS = 16;
    /// Several results of one COM_QUERY.
    MULTI_RESULTS = 17;
    /// Several results of one COM_STMT_EXECUTE.
    PS_MULTI_RESULTS = 18;
    /// Authentication plugins are named.
    PLUGIN_AUTH = 19;
    /// Connection attributes.
    CONNECT_ATTRS = 20;
    /// The authentication response has a length-encoded length.
    PLUGIN_AUTH_LENENC = 21;
    /// Expired passwords can be handled.
    EXPIRED_PASSWORDS = 22;
    /// Session state changes travel in OK packets.
    SESSION_TRACK = 23;
    /// OK packets instead of EOF packets.
    DEPRECATE_EOF = 24;
    /// Result metadata may be left out.
    OPTIONAL_METADATA = 25;
    /// zstd compression.
    ZSTD = 26;
    /// Query attributes.
    QUERY_ATTRIBUTES = 27;
    /// Several authentication factors.
    MULTI_FACTOR = 28;
    /// MariaDB: progress reports.
    MARIADB_PROGRESS = 32;
    /// MariaDB: bulk operations.
    MARIADB_BULK = 34;
    /// MariaDB: extended metadata.
    MARIADB_EXTENDED_METADATA = 35;
    /// MariaDB: metadata of prepared statements may be left out.
    MARIADB_CACHE_METADATA = 36;
}

impl Caps {
    /// What every client must have.
    pub const CLIENT_NEEDED: Self = Self(Self::PROTOCOL_41.0 | Self::SECURE_CONNECTION.0);

    /// What is asked of every server; without it the relay cannot tell where an answer ends or what changed.
    pub const SERVER_NEEDED: Self = Self(
        Self::PROTOCOL_41.0
            | Self::SECURE_CONNECTION.0
            | Self::PLUGIN_AUTH.0
            | Self::TRANSACTIONS.0
            | Self::MULTI_RESULTS.0
            | Self::PS_MULTI_RESULTS.0
            | Self::SESSION_TRACK.0
            | Self::DEPRECATE_EOF.0,
    );

    /// What we offer a client in the greeting; SSL only where a certificate is configured. Compression is for the
    /// caller to add.
    pub fn offer(tls: bool) -> Self {
        let offer = Self::LONG_PASSWORD
            | Self::FOUND_ROWS
            | Self::LONG_FLAG
            | Self::CONNECT_WITH_DB
            | Self::LOCAL_FILES
            | Self::PROTOCOL_41
            | Self::INTERACTIVE
            | Self::IGNORE_SPACE
            | Self::TRANSACTIONS
            | Self::SECURE_CONNECTION
            | Self::MULTI_STATEMENTS
            | Self::MULTI_RESULTS
            | Self::PS_MULTI_RESULTS
            | Self::PLUGIN_AUTH
            | Self::CONNECT_ATTRS
            | Self::PLUGIN_AUTH_LENENC
            | Self::SESSION_TRACK
            | Self::DEPRECATE_EOF
            | Self::QUERY_ATTRIBUTES;
        if tls { offer | Self::SSL } else { offer }
    }

    /// What we ask of a server: the needed flags and the given options (CONNECT_WITH_DB, FOUND_ROWS, SSL). Never
    /// MULTI_STATEMENTS or QUERY_ATTRIBUTES, whatever the options say. LOCAL_FILES is asked for always, as a connection
    /// serves clients that have it and others: a request for a file is passed to none that did not send for one.
    pub fn ask(options: Self) -> Self {
        let allowed =
            Self::CONNECT_WITH_DB | Self::FOUND_ROWS | Self::SSL | Self::INTERACTIVE | Self::IGNORE_SPACE;
        Self::SERVER_NEEDED
            | Self::LONG_PASSWORD
            | Self::LONG_FLAG
            | Self::LOCAL_FILES
            | Self::CONNECT_ATTRS
            | Self::PLUGIN_AUTH_LENENC
            | (options & allowed)
    }

    /// True if all of `flags` are set.
    #[inline]
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// This set less `flags`.
    pub fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }

    /// MySQL's 32 flags, as four bytes of the wire.
    pub fn low(self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        [a, b, c, d]
    }

    /// MariaDB's extended flags, as four bytes of the wire.
    pub fn high(self) -> [u8; 4] {
        let [.., a, b, c, d] = self.0.to_le_bytes();
        [a, b, c, d]
    }
}

impl std::ops::BitOr for Caps {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitAnd for Caps {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}
