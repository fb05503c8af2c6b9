//! usher's own errors: one stable id each, with the code and SQLSTATE that clients know how to take.
//!
//! docs/errors.md has a paragraph for each id. Errors of servers pass as they are and never get an id.

use std::fmt::{Display, Write as _};

use crate::packet::ErrPacket;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $code:literal, $state:literal, $summary:literal;)*) => {
        /// Every error of our own. The number never changes and is never used again.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorId {
            $($(#[$doc])* #[doc = $summary] $name,)*
        }

        impl ErrorId {
            /// All of them, by id.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number in `USHER-nnnn`.
            #[allow(clippy::zero_prefixed_literal)]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $id,)* }
            }

            /// The stable id.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => concat!("USHER-", stringify!($id)),)* }
            }

            /// Whether the error tells the client that its transaction has been rolled back, as 1213 does.
            pub const fn rolls_back(self) -> bool {
                self.code() == 1213
            }

            /// MySQL's error code.
            pub const fn code(self) -> u16 {
                match self { $(Self::$name => $code,)* }
            }

            /// The SQLSTATE.
            pub const fn sqlstate(self) -> &'static str {
                match self { $(Self::$name => $state,)* }
            }

            /// What happened, in one line.
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$name => $summary,)* }
            }
        }
    };
}

errors! {
    TooManyClients = 0101, 1040, "08004", "too many connections";
    UserConnections = 0102, 1226, "42000", "this account has its maximum of connections";
    AccessDenied = 0103, 1045, "28000", "access denied";
    DatabaseDenied = 0104, 1044, "42000", "no right on this database";
    UnknownDatabase = 0105, 1049, "42000", "unknown database";
    TlsRequired = 0106, 3159, "HY000", "connections without TLS are not allowed";
    ClientTooOld = 0107, 1251, "08004", "the client does not speak the 4.1 protocol";
    LoginTimeout = 0108, 1159, "08S01", "the login took too long";
    Draining = 0109, 1053, "08S01", "this proxy is shutting down; connect to another";
    IdleTimeout = 0110, 4031, "HY000", "the connection was idle for too long";
    OwnSchema = 0111, 1044, "42000", "the schema usher is usher's own";
    SourceBlocked = 0112, 1129, "HY000", "too many failed logins from this address";
    SourceConnections = 0113, 1040, "08004", "too many connections from this address";
    ProxyHeader = 0114, 1835, "HY000", "no PROXY protocol header, or a malformed one";
    AccountReadOnly = 0115, 1142, "42000", "this account may only read";
    AccountLocked = 0116, 3118, "HY000", "this account is locked";
    IdleInTransaction = 0117, 4031, "HY000", "the transaction was idle for too long and is rolled back";

    MalformedPacket = 0201, 1835, "HY000", "malformed packet";
    PacketTooBig = 0202, 1153, "08S01", "packet over max_allowed_packet";
    PacketOrder = 0203, 1156, "08S01", "packets out of order";
    UnknownCommand = 0204, 1047, "08S01", "command not supported";
    CommandRefused = 0205, 1227, "42000", "command not allowed here";
    UnknownCharset = 0206, 1115, "42000", "unknown character set";
    UnsafeCharset = 0207, 1115, "42000", "statements in this character set cannot be routed safely; use utf8mb4";
    UnknownStatement = 0208, 1243, "HY000", "unknown prepared statement";
    UnknownVariable = 0209, 1193, "HY000", "unknown system variable";
    WrongVariableValue = 0210, 1231, "42000", "variable cannot be set to this value";
    TooManyStatements = 0211, 1461, "42000", "too many prepared statements";
    Uncompress = 0212, 1157, "08S01", "a compressed packet cannot be unpacked";
    NoSuchParameter = 0213, 1210, "HY000", "data was sent ahead for a parameter that the statement does not have";

    Unsupported = 0301, 1235, "42000", "statement not supported";
    UnsupportedInPrepare = 0302, 1295, "HY000", "statement not supported as a prepared statement";
    NoKey = 0303, 1235, "42000", "the statement does not tell whose rows it touches";
    CrossShardWrite = 0304, 1235, "42000", "the statement writes to more than one shard";
    CrossShardTransaction = 0305, 1235, "42000", "the transaction is bound to another shard";
    ScatterUnsupported = 0306, 1235, "42000", "the answers of several shards cannot be merged for this statement";
    BadHint = 0307, 1235, "42000", "hint not understood";
    KeyChange = 0308, 1235, "42000", "the sharding key of a row cannot be changed";
    Syntax = 0309, 1064, "42000", "syntax error";
    LocalInfileRefused = 0310, 3948, "42000", "LOAD DATA LOCAL is not allowed";
    MixedTables = 0311, 1235, "42000", "sharded and unsharded tables in one statement";
    UndefinedKeyValue = 0312, 1235, "42000", "the sharding key's value is not known before the statement runs";

    UnknownUser = 0401, 1644, "45000", "unknown user";
    UserBlocked = 0402, 1644, "45000", "user blocked by an operator";
    UserReadOnly = 0403, 1290, "HY000", "user is being moved and is read-only until that is done";
    UserReadOnlyInTransaction = 0404, 1792, "25006", "user is being moved and is read-only until that is done";
    HoldExpired = 0411, 1205, "HY000", "the statement was held for too long";
    HoldExpiredInTransaction = 0412, 1213, "40001", "the statement was held for too long; the transaction is rolled back";
    HoldsFull = 0413, 1205, "HY000", "too many statements are held already";
    HoldsFullInTransaction = 0414, 1213, "40001", "too many statements are held already; the transaction is rolled back";
    FenceClosed = 0415, 1213, "40001", "the user left this shard meanwhile; the transaction is rolled back";
    FenceClosedAutocommit = 0416, 1205, "HY000", "the user left this shard meanwhile";

    NoWriter = 0501, 1290, "HY000", "the shard has no writer; it runs with --read-only";
    OutcomeUnknown = 0502, 1158, "08S01", "the server was lost after the write was sent";
    BackendLost = 0503, 1205, "HY000", "the server was lost before the statement was sent";
    BackendLostInTransaction = 0504, 1213, "40001", "the server was lost; the transaction is rolled back";
    ShardUnreachable = 0505, 1429, "HY000", "no server of the shard can be reached";
    PoolExhausted = 0506, 1205, "HY000", "no free connection to the server";
    ReadInterrupted = 0507, 1159, "08S01", "the server was lost in the middle of the rows";
    Killed = 0508, 1317, "70100", "query execution was interrupted";
    QueryTimeout = 0509, 3024, "HY000", "query execution was interrupted: maximum statement time exceeded";
    PartialCommit = 0510, 1180, "HY000", "committed on some shards only";
    BackendMisbehaved = 0511, 1105, "HY000", "the server's answer made no sense";
    BackendLoginRefused = 0512, 1429, "HY000", "the server refused the login of the proxy";
    SessionStateLost = 0513, 1158, "08S01", "the connection that held this session's state was lost";

    DirectoryUnavailable = 0601, 1429, "HY000", "the directory cannot be reached";
    SequenceUnavailable = 0602, 1467, "HY000", "no new id could be had from the sequence";
    PlacementRefused = 0603, 1644, "45000", "no shard takes new users";
    DirectoryBusy = 0604, 1205, "HY000", "too many directory look-ups are waiting";
    CatalogChanged = 0605, 1412, "HY000", "the tables have changed; try again";

    RateLimit = 0701, 1226, "42000", "over the rate limit";
    ConcurrencyLimit = 0702, 1226, "42000", "over the limit of concurrent statements";
    ResultTooBig = 0703, 1104, "42000", "the merged result is over its memory limit";
    LongDataTooBig = 0704, 1153, "08S01", "parameter data sent ahead is over its limit";
    OutOfMemory = 0705, 1041, "HY000", "the proxy is over its memory limit";

    KillDenied = 0801, 1095, "HY000", "not the owner of this connection";
    KillUnknown = 0802, 1094, "HY000", "no such connection";
    AdminNeeded = 0803, 1227, "42000", "administrator rights are needed";
    AdminSyntax = 0804, 1064, "42000", "unknown admin statement";
    AdminRefused = 0805, 1644, "45000", "the operation was refused";
    KillFailed = 0806, 1429, "HY000", "the session could not be reached";

    Bug = 0901, 1105, "HY000", "internal error of the proxy";
}

/// Whether a failed statement took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Executed {
    /// The error says all there is to say.
    #[default]
    Silent,
    /// It certainly did not.
    No,
    /// Nobody knows.
    Unknown,
}

/// An error on its way to a client: `[USHER-0412] shard=s3 writer=db31:3306 FLIPPING held=5003ms; not executed; safe
/// to retry`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub struct Failure {
    id: ErrorId,
    fields: String,
    note: String,
    executed: Executed,
    advice: String,
    /// The note is the whole message.
    bare: bool,
}

impl Failure {
    /// A failure that says no more than the id's summary.
    pub fn new(id: ErrorId) -> Self {
        let (fields, note, advice) = Default::default();
        Self { id, fields, note, executed: Executed::Silent, advice, bare: false }
    }

    /// Which error it is.
    pub fn id(&self) -> ErrorId {
        self.id
    }

    /// Adds `name=value`, such as the shard and the server.
    pub fn field(mut self, name: &str, value: impl Display) -> Self {
        if !self.fields.is_empty() {
            self.fields.push(' ');
        }
        // Writing to a String does not fail.
        let _ = write!(self.fields, "{name}={value}");
        self
    }

    /// Says what happened in words of the moment instead of the id's summary.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Says whether the statement took effect.
    pub fn executed(mut self, executed: Executed) -> Self {
        self.executed = executed;
        self
    }

    /// Says what to do about it.
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// The statement certainly did not take effect, and may be sent again.
    pub fn safe_to_retry(self) -> Self {
        self.executed(Executed::No).advice("safe to retry")
    }

    /// Says it in a server's words alone, without the id: where programs know them by heart.
    pub fn as_server(mut self, words: impl Into<String>) -> Self {
        self.note = words.into();
        self.bare = true;
        self
    }

    /// The whole message.
    pub fn message(&self) -> String {
        if self.bare {
            return self.note.clone();
        }
        let note = if self.note.is_empty() { self.id.summary() } else { &self.note };
        let gap = if self.fields.is_empty() { "" } else { " " };
        let executed = match self.executed {
            Executed::Silent => "",
            Executed::No => "; not executed",
            Executed::Unknown => "; outcome unknown",
        };
        let advice_gap = if self.advice.is_empty() { "" } else { "; " };
        format!("[{}] {}{gap}{note}{executed}{advice_gap}{}", self.id.id(), self.fields, self.advice)
    }

    /// Appends the payload of the ERR packet. The message is cut at MySQL's 512 bytes, between two characters.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let message = self.message();
        let end = message.floor_char_boundary(MESSAGE_MAX);
        let mut sqlstate = *b"HY000";
        sqlstate.copy_from_slice(self.id.sqlstate().as_bytes());
        let message = message.as_bytes().get(..end).unwrap_or_default();
        ErrPacket { code: self.id.code(), sqlstate, message }.encode(out);
    }
}

/// For faults in what a client sent.
impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        use crate::Error::{Malformed, Misuse, OutOfOrder, Oversized, Uncompress, Unsupported};
        let id = match error {
            Malformed(_) => ErrorId::MalformedPacket,
            Oversized { .. } => ErrorId::PacketTooBig,
            OutOfOrder { .. } => ErrorId::PacketOrder,
            Uncompress => ErrorId::Uncompress,
            Unsupported(_) => ErrorId::ClientTooOld,
            Misuse(_) => ErrorId::Bug,
        };
        Self::new(id).note(error.to_string())
    }
}

/// Bytes of a message, as MySQL limits them (MYSQL_ERRMSG_SIZE).
const MESSAGE_MAX: usize = 511;

impl From<ErrorId> for Failure {
    fn from(id: ErrorId) -> Self {
        Self::new(id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_id_is_in_the_documentation_and_used_once() {
        let page = include_str!("../../../docs/errors.md");
        for (n, id) in ErrorId::ALL.iter().enumerate() {
            let head = format!("**{}** · {} ({})", id.id(), id.code(), id.sqlstate());
            assert_eq!(page.matches(&head).count(), 1, "{head}");
            assert_eq!(id.id(), format!("USHER-{:04}", id.number()));
            assert_eq!(id.sqlstate().len(), 5);
            assert!(!(2000..3000).contains(&id.code()), "codes of clients are never sent");
            assert!(ErrorId::ALL.iter().skip(n + 1).all(|later| later.number() > id.number()));
        }
        assert_eq!(page.matches("**USHER-").count(), ErrorId::ALL.len());
    }

    #[test]
    fn messages_say_where_what_and_whether() {
        let failure = Failure::new(ErrorId::HoldExpiredInTransaction)
            .field("shard", "s3")
            .field("writer", "db31:3306")
            .note("FLIPPING held=5003ms")
            .safe_to_retry();
        let text = "[USHER-0412] shard=s3 writer=db31:3306 FLIPPING held=5003ms; not executed; safe to retry";
        assert_eq!(failure.to_string(), text);
        let mut out = Vec::new();
        failure.encode(&mut out);
        let err = ErrPacket::parse(&out).unwrap();
        assert_eq!((err.code, &err.sqlstate, err.message), (1213, b"40001", text.as_bytes()));
        assert_eq!(
            Failure::from(ErrorId::Draining).message(),
            "[USHER-0109] this proxy is shutting down; connect to another"
        );
        assert_eq!(
            Failure::new(ErrorId::OutcomeUnknown).executed(Executed::Unknown).message(),
            "[USHER-0502] the server was lost after the write was sent; outcome unknown"
        );
    }

    #[test]
    fn faults_of_clients_have_an_id() {
        let failure = Failure::from(crate::Error::Oversized { len: 9, max: 8 });
        assert_eq!(failure.id(), ErrorId::PacketTooBig);
        assert!(failure.message().ends_with("packet of 9 bytes is over the limit of 8 bytes"));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let mut out = Vec::new();
        Failure::new(ErrorId::Bug).note("ü".repeat(600)).encode(&mut out);
        let message = ErrPacket::parse(&out).unwrap().message;
        assert!(message.len() <= MESSAGE_MAX && std::str::from_utf8(message).is_ok());
    }
}
