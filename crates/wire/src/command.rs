//! The commands of a client.

use std::ops::Range;

use crate::Error;
use crate::caps::Caps;
use crate::codec::Reader;
use crate::frame::{HEADER_LEN, Header};
use crate::stmt::{Attributes, BindBlock};

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $byte:expr;)*) => {
        $($(#[$doc])* pub const $name: u8 = $byte;)*

        /// The command's name, for logs and messages.
        pub fn name(command: u8) -> &'static str {
            match command { $($byte => stringify!($name),)* _ => "unknown command" }
        }
    };
}

commands! {
    /// Refused.
    COM_SLEEP = 0x00;
    /// Ends the session.
    COM_QUIT = 0x01;
    /// Changes the default schema.
    COM_INIT_DB = 0x02;
    /// A statement as text.
    COM_QUERY = 0x03;
    /// Column definitions of a table.
    COM_FIELD_LIST = 0x04;
    /// Refused.
    COM_CREATE_DB = 0x05;
    /// Refused.
    COM_DROP_DB = 0x06;
    /// FLUSH, in an old form.
    COM_REFRESH = 0x07;
    /// Refused.
    COM_SHUTDOWN = 0x08;
    /// One line of statistics.
    COM_STATISTICS = 0x09;
    /// SHOW PROCESSLIST, in an old form.
    COM_PROCESS_INFO = 0x0a;
    /// Refused.
    COM_CONNECT = 0x0b;
    /// KILL, in an old form.
    COM_PROCESS_KILL = 0x0c;
    /// Refused.
    COM_DEBUG = 0x0d;
    /// Answered with OK.
    COM_PING = 0x0e;
    /// Refused.
    COM_TIME = 0x0f;
    /// Refused.
    COM_DELAYED_INSERT = 0x10;
    /// Logs in anew on the same connection.
    COM_CHANGE_USER = 0x11;
    /// Replication.
    COM_BINLOG_DUMP = 0x12;
    /// Refused.
    COM_TABLE_DUMP = 0x13;
    /// Refused.
    COM_CONNECT_OUT = 0x14;
    /// Replication.
    COM_REGISTER_SLAVE = 0x15;
    /// Prepares a statement.
    COM_STMT_PREPARE = 0x16;
    /// Executes a prepared statement.
    COM_STMT_EXECUTE = 0x17;
    /// Data for one parameter; has no answer.
    COM_STMT_SEND_LONG_DATA = 0x18;
    /// Drops a prepared statement; has no answer.
    COM_STMT_CLOSE = 0x19;
    /// Drops long data and cursor.
    COM_STMT_RESET = 0x1a;
    /// Multi-statements on or off.
    COM_SET_OPTION = 0x1b;
    /// Rows of a cursor.
    COM_STMT_FETCH = 0x1c;
    /// Refused.
    COM_DAEMON = 0x1d;
    /// Replication by GTID.
    COM_BINLOG_DUMP_GTID = 0x1e;
    /// Resets the session's state.
    COM_RESET_CONNECTION = 0x1f;
    /// Clone plugin.
    COM_CLONE = 0x20;
    /// Group replication.
    COM_SUBSCRIBE_GROUP_REPLICATION_STREAM = 0x21;
}

/// A COM_QUERY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// The statement.
    pub text: &'a [u8],
    /// Where the text starts in the payload: 1, or more if query attributes stand before it.
    pub text_at: usize,
    /// Query attributes; empty if the client did not negotiate them.
    pub attributes: Attributes<'a>,
}

/// A client's command, borrowed from its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// COM_QUIT.
    Quit,
    /// COM_INIT_DB with the schema's name.
    InitDb(&'a [u8]),
    /// COM_QUERY.
    Query(Query<'a>),
    /// COM_FIELD_LIST.
    FieldList {
        /// The table.
        table: &'a [u8],
        /// A pattern for the columns; may be empty.
        wildcard: &'a [u8],
    },
    /// COM_REFRESH with its flags.
    Refresh(u8),
    /// COM_STATISTICS.
    Statistics,
    /// COM_PROCESS_INFO.
    ProcessInfo,
    /// COM_PROCESS_KILL with the connection's id.
    ProcessKill(u32),
    /// COM_PING.
    Ping,
    /// COM_CHANGE_USER: the payload, for `handshake::ChangeUser::parse`.
    ChangeUser(&'a [u8]),
    /// COM_STMT_PREPARE with the statement.
    StmtPrepare(&'a [u8]),
    /// COM_STMT_EXECUTE: the head; parameters are parsed once their number is known.
    StmtExecute {
        /// Statement id.
        id: u32,
        /// Cursor flags and PARAMETER_COUNT_AVAILABLE.
        flags: u8,
        /// The whole payload, for `stmt::Execute::parse`.
        payload: &'a [u8],
    },
    /// COM_STMT_SEND_LONG_DATA.
    StmtSendLongData {
        /// Statement id.
        id: u32,
        /// Number of the parameter, from 0.
        param: u16,
        /// Bytes to append.
        data: &'a [u8],
    },
    /// COM_STMT_CLOSE.
    StmtClose(u32),
    /// COM_STMT_RESET.
    StmtReset(u32),
    /// COM_STMT_FETCH.
    StmtFetch {
        /// Statement id.
        id: u32,
        /// Number of rows wanted.
        rows: u32,
    },
    /// COM_SET_OPTION: 0 turns multi-statements on, 1 off.
    SetOption(u16),
    /// COM_RESET_CONNECTION.
    ResetConnection,
    /// Any other command, by its byte.
    Unknown(u8),
}

impl<'a> Command<'a> {
    /// Parses a message's payload; `caps` are those negotiated with the client.
    pub fn parse(payload: &'a [u8], caps: Caps) -> Result<Self, Error> {
        let mut r = Reader::new(payload, "command");
        let byte = r.u8()?;
        Ok(match byte {
            COM_QUIT => Command::Quit,
            COM_INIT_DB => Command::InitDb(r.take_rest()),
            COM_QUERY => return parse_query(payload, caps).map(Command::Query),
            COM_FIELD_LIST => {
                Command::FieldList { table: r.nul_or_eof_bytes(), wildcard: r.nul_or_eof_bytes() }
            }
            COM_REFRESH => Command::Refresh(r.u8()?),
            COM_STATISTICS => Command::Statistics,
            COM_PROCESS_INFO => Command::ProcessInfo,
            COM_PROCESS_KILL => Command::ProcessKill(r.u32()?),
            COM_PING => Command::Ping,
            COM_CHANGE_USER => Command::ChangeUser(payload),
            COM_STMT_PREPARE => Command::StmtPrepare(r.take_rest()),
            COM_STMT_EXECUTE => Command::StmtExecute { id: r.u32()?, flags: r.u8()?, payload },
            COM_STMT_SEND_LONG_DATA => {
                Command::StmtSendLongData { id: r.u32()?, param: r.u16()?, data: r.take_rest() }
            }
            COM_STMT_CLOSE => Command::StmtClose(r.u32()?),
            COM_STMT_RESET => Command::StmtReset(r.u32()?),
            COM_STMT_FETCH => Command::StmtFetch { id: r.u32()?, rows: r.u32()? },
            COM_SET_OPTION => Command::SetOption(r.u16()?),
            COM_RESET_CONNECTION => Command::ResetConnection,
            other => Command::Unknown(other),
        })
    }
}

fn parse_query(payload: &[u8], caps: Caps) -> Result<Query<'_>, Error> {
    let mut r = Reader::new(payload, "COM_QUERY");
    r.u8()?;
    let mut attributes = Attributes::default();
    if caps.has(Caps::QUERY_ATTRIBUTES) {
        let count = r.lenenc_int()?;
        // The number of parameter sets; the protocol knows 1 only.
        r.lenenc_int()?;
        if count > 0 {
            attributes = BindBlock::parse_sent(&mut r, count)?.attributes(0);
        }
    }
    let text = r.take_rest();
    Ok(Query { text, text_at: payload.len() - text.len(), attributes })
}

/// Takes query attributes out of a COM_QUERY packet for a server that does not know them, without moving the
/// text: the header and the command byte move up to it. `packet` starts at the header of a message of one packet;
/// `text_at` is [`Query::text_at`]. Returns the part of `packet` to send, or `None` if the packet does not fit
/// that description.
pub fn strip_attributes(packet: &mut [u8], text_at: usize) -> Option<Range<usize>> {
    let header = Header::peek(packet)?;
    let gone = text_at.checked_sub(1)?;
    let len = header.len.checked_sub(gone).filter(|len| *len > 0)?;
    let end = HEADER_LEN + header.len;
    if end > packet.len() {
        return None;
    }
    let [a, b, c, seq] = Header { len, seq: header.seq }.bytes();
    packet.get_mut(gone..gone + HEADER_LEN + 1)?.copy_from_slice(&[a, b, c, seq, COM_QUERY]);
    Some(gone..end)
}
