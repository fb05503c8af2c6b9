//! The relay of an answer: walks the packets of a server's answer to one command as they arrive, and leaves them
//! in the buffer as the client is to see them.
//!
//! The server always speaks DEPRECATE_EOF and SESSION_TRACK. Of a row only the header is looked at. The caller's
//! loop, with one buffer from the server's socket to the client's:
//!
//! ```text
//! loop {
//!     read into buf                          // a short answer is there after one read
//!     loop {
//!         match relay.advance(&mut buf)? {
//!             More => break,
//!             Ok(end) => { learn from end; relay.pass_ok(&mut buf, &OkEdit::default())?; }
//!             Err(at) => relay.pass(&mut buf)?,
//!             Done => break,
//!             ..
//!         }
//!     }
//!     write buf[..relay.ready()]             // and leaves with one write
//!     drop these bytes from buf; relay.sent(n)
//! }
//!
//!      0            ready              buf.len()
//! buf: |  for the client  |  not looked at yet  |
//!                         ^ a held packet (OK, ERR, ...) starts here
//! ```
//!
//! What is behind `ready` when the answer is done belongs to the next answer (of pipelined commands).

use std::ops::Range;

use crate::Error;
use crate::caps::Caps;
use crate::codec::Reader;
use crate::frame::{HEADER_LEN, Header, MAX_PAYLOAD, frame};
use crate::packet::{Changes, EOF_LEN, EofPacket, ErrPacket, OkPacket, TrackSet};
use crate::status::Status;

/// The longest OK, ERR or LOCAL INFILE packet, in bytes: these are held whole, all others pass as they come.
pub const HELD_MAX: usize = 1 << 20;

/// Rows and definitions up to so many bytes are passed on whole or not at all.
const WHOLE_MAX: usize = 64 << 10;

/// Packets that are looked at for the end of a result before it is passed on.
const AHEAD_MAX: usize = 64;

/// What kind of answer a command has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// OK, ERR, LOCAL INFILE request or result sets, one or many: COM_QUERY, COM_STMT_EXECUTE.
    Query,
    /// COM_STMT_EXECUTE that asks for a cursor: as Query, and a result may end behind its definitions.
    Cursor,
    /// COM_STMT_PREPARE.
    Prepare,
    /// Column definitions: COM_FIELD_LIST.
    FieldList,
    /// Rows without definitions: COM_STMT_FETCH.
    Fetch,
    /// OK, EOF or ERR: all the commands without results.
    Simple,
    /// One packet of text: COM_STATISTICS.
    Statistics,
}

/// How the client's form of an answer differs from the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientForm {
    /// The client takes OK packets at the end of rows; else it gets EOF packets, two a result set.
    pub deprecate_eof: bool,
    /// Which session state changes the client is to see. NONE for a client without SESSION_TRACK.
    pub track: TrackSet,
    /// What the EOF packet after column definitions says (the server tells its status only after the rows).
    pub status: Status,
}

impl ClientForm {
    /// The form of the server itself: nothing is changed.
    pub const SAME: Self = Self { deprecate_eof: true, track: TrackSet::ALL, status: Status(0) };

    /// The form that a client's negotiated flags ask for; `track` counts only if SESSION_TRACK is among them.
    pub fn new(caps: Caps, track: TrackSet, status: Status) -> Self {
        let track = if caps.has(Caps::SESSION_TRACK) { track } else { TrackSet::NONE };
        Self { deprecate_eof: caps.has(Caps::DEPRECATE_EOF), track, status }
    }
}

/// What [`Relay::advance`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Bytes are missing; those before [`Relay::ready`] can go to the client meanwhile.
    More,
    /// An OK packet (or EOF, of COM_SET_OPTION) is held.
    Ok(End),
    /// An ERR packet is held; the payload's place in the buffer.
    Err(Range<usize>),
    /// The first packet of a COM_STMT_PREPARE answer is held.
    Prepared(Prepared),
    /// A request for a local file is held; the payload's place in the buffer. If it is passed, the client's
    /// packets go to the server up to an empty one, then the server's OK or ERR follows.
    LocalInfile(Range<usize>),
    /// The answer is complete.
    Done,
}

/// A held OK packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The payload's place in the buffer.
    pub at: Range<usize>,
    /// True at the end of rows, false where it is the whole result.
    pub rows_end: bool,
    /// Rows changed.
    pub affected_rows: u64,
    /// Generated id.
    pub last_insert_id: u64,
    /// Status flags.
    pub status: Status,
    /// Number of warnings.
    pub warnings: u16,
    /// Place of the session state changes in the buffer; empty if there are none.
    state: Range<usize>,
}

impl End {
    /// The session state changes; `buf` is the buffer that the packet is held in.
    pub fn changes<'a>(&self, buf: &'a [u8]) -> Changes<'a> {
        Changes::new(buf.get(self.state.clone()).unwrap_or_default())
    }

    /// True if another result of the same answer follows.
    pub fn more_results(&self) -> bool {
        self.status.has(Status::MORE_RESULTS)
    }

    /// True if there are session state changes.
    pub fn has_changes(&self) -> bool {
        !self.state.is_empty()
    }
}

/// A held COM_STMT_PREPARE_OK packet. The caller may change the id in the buffer by [`Prepared::set_id`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The payload's place in the buffer.
    pub at: Range<usize>,
    /// The server's statement id.
    pub statement_id: u32,
    /// Number of result columns.
    pub columns: u16,
    /// Number of parameters.
    pub params: u16,
    /// Number of warnings.
    pub warnings: u16,
}

impl Prepared {
    /// Replaces the statement id in the held packet.
    pub fn set_id(&self, buf: &mut [u8], id: u32) {
        if let Some(place) = buf.get_mut(self.at.start + 1..self.at.start + 5) {
            place.copy_from_slice(&id.to_le_bytes());
        }
    }
}

/// What to change in an OK packet that passes. The default changes nothing beyond the client's form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OkEdit<'a> {
    /// Flags to set.
    pub set_status: Status,
    /// Flags to clear, before the others are set.
    pub clear_status: Status,
    /// Another count of rows.
    pub affected_rows: Option<u64>,
    /// Another generated id.
    pub last_insert_id: Option<u64>,
    /// Another count of warnings.
    pub warnings: Option<u16>,
    /// Another text.
    pub info: Option<&'a [u8]>,
    /// Another block of session state changes; goes only to a client with SESSION_TRACK.
    pub state: Option<&'a [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first packet of a result.
    Start,
    /// This many column definitions are still to come.
    Columns(u64),
    /// After them; an EOF may have to be put in, which the next packet decides.
    ColumnsEnd,
    /// In the rows (or the definitions of COM_FIELD_LIST).
    Rows,
    /// In the definitions after COM_STMT_PREPARE_OK: of parameters, then of columns.
    Definitions { params: u64, columns: u64 },
    /// A packet is held.
    Held(Held),
    /// Complete.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Ok { more: bool },
    Err,
    Prepared { params: u16, columns: u16 },
    LocalInfile,
}

/// Walks one answer. See the module's text for the loop around it.
#[derive(Debug, Clone)]
pub struct Relay {
    kind: Kind,
    form: ClientForm,
    state: State,
    /// Everything before this is in the client's form.
    pos: usize,
    /// Bytes of the current packet that have not been read yet; only if `pos` is the buffer's end.
    skip: usize,
    /// The packet before was a full one: another continues it.
    continued: bool,
    /// The server's next sequence id.
    seq: u8,
    /// What to add to the server's sequence ids.
    shift: u8,
    rows: u64,
    /// The client asked for a cursor.
    cursor: bool,
    /// Warnings of COM_STMT_PREPARE: clients without DEPRECATE_EOF take the number behind the definitions.
    warnings: u16,
}

impl Relay {
    /// For the answer to a command that was one packet (sequence id 0) on both sides.
    pub fn new(kind: Kind, form: ClientForm) -> Self {
        Self::with_seq(kind, form, 1, 1)
    }

    /// For an answer that the server starts with sequence id `server_seq`, to be shown to the client from
    /// `client_seq` on. They differ if the command was re-cut on its way, or if this is not the first answer of
    /// several that the client takes for one.
    pub fn with_seq(kind: Kind, form: ClientForm, server_seq: u8, client_seq: u8) -> Self {
        let state = match kind {
            Kind::FieldList | Kind::Fetch => State::Rows,
            _ => State::Start,
        };
        let shift = client_seq.wrapping_sub(server_seq);
        let cursor = kind == Kind::Cursor;
        let kind = if cursor { Kind::Query } else { kind };
        let seq = server_seq;
        Self {
            kind,
            form,
            state,
            pos: 0,
            skip: 0,
            continued: false,
            seq,
            shift,
            rows: 0,
            cursor,
            warnings: 0,
        }
    }

    /// How many bytes at the front of the buffer can go to the client.
    pub fn ready(&self) -> usize {
        self.pos
    }

    /// Tells that `n` bytes were taken off the front of the buffer; not more than [`Relay::ready`].
    pub fn sent(&mut self, n: usize) {
        self.pos = self.pos.saturating_sub(n);
    }

    /// True once the answer is complete (its last packet passed, not only held).
    pub fn is_done(&self) -> bool {
        self.state == State::Done && self.skip == 0 && !self.continued
    }

    /// True if no packet has been passed in part: another can be put behind what is ready.
    pub fn is_between_packets(&self) -> bool {
        self.skip == 0 && !self.continued
    }

    /// Rows seen so far, of all results.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The sequence id of the next packet to the client.
    pub fn client_seq(&self) -> u8 {
        self.seq.wrapping_add(self.shift)
    }

    /// The client's next packet gets this sequence id: on a compressed connection a server goes on from the number of
    /// its frames behind each result.
    pub fn renumber(&mut self, client_seq: u8) {
        self.shift = client_seq.wrapping_sub(self.seq);
    }

    /// The sequence id of the next packet to or from the server.
    pub fn server_seq(&self) -> u8 {
        self.seq
    }

    /// Walks on. An error means that the server's bytes make no sense: its connection must be closed.
    pub fn advance(&mut self, buf: &mut Vec<u8>) -> Result<Progress, Error> {
        loop {
            if !self.resume(buf)? {
                return Ok(Progress::More);
            }
            let step = match self.state {
                State::Start => self.start(buf)?,
                State::Columns(left) => self.columns(buf, left)?,
                State::ColumnsEnd => self.columns_end(buf)?,
                State::Rows => self.walk_rows(buf)?,
                State::Definitions { params, columns } => self.definitions(buf, params, columns)?,
                State::Held(_) => return Err(Error::Misuse("a held packet was neither passed nor dropped")),
                State::Done => Some(Progress::Done),
            };
            if let Some(progress) = step {
                return Ok(progress);
            }
        }
    }

    /// Passes the held packet to the client, in its form.
    pub fn pass(&mut self, buf: &mut Vec<u8>) -> Result<(), Error> {
        self.pass_ok(buf, &OkEdit::default())
    }

    /// Passes the held packet; if it is an OK packet, with these changes.
    pub fn pass_ok(&mut self, buf: &mut Vec<u8>, edit: &OkEdit<'_>) -> Result<(), Error> {
        let (held, len) = self.held(buf)?;
        if matches!(held, Held::Ok { .. }) {
            let payload = buf.get(self.pos + HEADER_LEN..self.pos + HEADER_LEN + len).unwrap_or_default();
            match self.reencode(payload, edit)? {
                Reencoded::Same => {}
                Reencoded::Eof(new) => return self.replace(buf, &new.bytes()),
                Reencoded::Ok(new) => return self.replace(buf, &new),
            }
        }
        self.pass_packet(buf, len);
        self.after(held);
        Ok(())
    }

    /// Puts another payload in the place of the held packet.
    pub fn replace(&mut self, buf: &mut Vec<u8>, payload: &[u8]) -> Result<(), Error> {
        let (held, len) = self.held(buf)?;
        if payload.len() >= MAX_PAYLOAD {
            return Err(Error::Oversized { len: payload.len(), max: MAX_PAYLOAD - 1 });
        }
        let body = self.pos + HEADER_LEN;
        buf.splice(body..body + len, payload.iter().copied());
        put_header(buf, self.pos, Header { len: payload.len(), seq: self.seq });
        self.pass_packet(buf, payload.len());
        self.after(held);
        Ok(())
    }

    /// Takes the held packet out: the client is not to see it.
    pub fn drop_held(&mut self, buf: &mut Vec<u8>) -> Result<(), Error> {
        let (held, len) = self.held(buf)?;
        buf.drain(self.pos..self.pos + HEADER_LEN + len);
        self.seq = self.seq.wrapping_add(1);
        self.shift = self.shift.wrapping_sub(1);
        self.after(held);
        Ok(())
    }

    /// The local file was sent up to its empty packet: the server's next packet has the id `server_seq`.
    pub fn after_local_infile(&mut self, server_seq: u8) {
        self.seq = server_seq;
    }

    fn held(&self, buf: &[u8]) -> Result<(Held, usize), Error> {
        let State::Held(held) = self.state else { return Err(Error::Misuse("no packet is held")) };
        let header =
            buf.get(self.pos..).and_then(Header::peek).ok_or(Error::Misuse("the held packet is gone"))?;
        if buf.len() < self.pos + HEADER_LEN + header.len {
            return Err(Error::Misuse("the held packet is gone"));
        }
        Ok((held, header.len))
    }

    fn after(&mut self, held: Held) {
        self.state = match held {
            Held::Ok { more: true } => State::Start,
            Held::Ok { more: false } | Held::Err => State::Done,
            Held::Prepared { params: 0, columns: 0 } => State::Done,
            Held::Prepared { params, columns } => {
                State::Definitions { params: params.into(), columns: columns.into() }
            }
            Held::LocalInfile => {
                self.kind = Kind::Query;
                State::Start
            }
        };
    }

    /// The held OK packet as this client is to see it.
    fn reencode<'a>(&self, payload: &'a [u8], edit: &OkEdit<'a>) -> Result<Reencoded, Error> {
        let rows_end = payload.first() == Some(&OkPacket::ROWS_END);
        if rows_end && payload.len() == EOF_LEN {
            let eof = EofPacket::parse(payload)?;
            let (status, warnings) = (edit.status(eof.status), edit.warnings.unwrap_or(eof.warnings));
            return Ok(Reencoded::Eof(EofPacket { status, warnings }));
        }
        let mut ok = OkPacket::parse(payload)?;
        let allowed = ok.changes().all(|change| self.form.track.has(&change));
        let stray_flag = ok.state.is_empty() && ok.status.has(Status::SESSION_STATE_CHANGED);
        let as_eof = rows_end && !self.form.deprecate_eof;
        if !as_eof && *edit == OkEdit::default() && allowed && !stray_flag {
            return Ok(Reencoded::Same);
        }
        edit.apply(&mut ok);
        if as_eof {
            return Ok(Reencoded::Eof(ok.to_eof()));
        }
        let kept = if allowed { Vec::new() } else { self.kept_state(&ok) };
        match edit.state {
            Some(state) => ok.state = state,
            None if !allowed => ok.state = &kept,
            None => {}
        }
        let mut out = Vec::with_capacity(payload.len() + 16);
        ok.encode(&mut out, self.form.track != TrackSet::NONE);
        Ok(Reencoded::Ok(out))
    }

    fn kept_state(&self, ok: &OkPacket<'_>) -> Vec<u8> {
        let mut kept = Vec::new();
        for change in ok.changes().filter(|change| self.form.track.has(change)) {
            crate::packet::put_change(&mut kept, &change);
        }
        kept
    }

    /// Finishes the packet whose header was passed before, with those that continue it. False if bytes lack.
    fn resume(&mut self, buf: &mut [u8]) -> Result<bool, Error> {
        loop {
            let here = self.skip.min(buf.len().saturating_sub(self.pos));
            self.pos += here;
            self.skip -= here;
            if self.skip > 0 {
                return Ok(false);
            }
            if !self.continued {
                return Ok(true);
            }
            let Some(header) = buf.get(self.pos..).and_then(Header::peek) else { return Ok(false) };
            self.check_seq(header.seq)?;
            self.pass_packet(buf, header.len);
        }
    }

    fn check_seq(&self, got: u8) -> Result<(), Error> {
        if got == self.seq { Ok(()) } else { Err(Error::OutOfOrder { expected: self.seq, got }) }
    }

    /// The next packet's length and first byte, once both can be seen.
    #[inline]
    fn peek(&self, buf: &[u8]) -> Result<Option<(usize, u8)>, Error> {
        let Some(rest) = buf.get(self.pos..) else { return Ok(None) };
        let Some(header) = Header::peek(rest) else { return Ok(None) };
        if header.len == 0 {
            return Err(Error::Malformed("empty packet in an answer"));
        }
        let Some(&first) = rest.get(HEADER_LEN) else { return Ok(None) };
        // A server that is shutting down or kills the connection may send its ERR under another id.
        if first != ErrPacket::HEADER {
            self.check_seq(header.seq)?;
        }
        Ok(Some((header.len, first)))
    }

    /// Moves over the packet at `pos`, or as much of it as is there.
    #[inline]
    fn pass_packet(&mut self, buf: &mut [u8], len: usize) {
        let new = self.client_seq();
        if let Some(seq) = buf.get_mut(self.pos + 3)
            && *seq != new
        {
            *seq = new;
        }
        self.seq = self.seq.wrapping_add(1);
        self.continued = len == MAX_PAYLOAD;
        let end = self.pos + HEADER_LEN + len;
        self.pos = end.min(buf.len());
        self.skip = end - self.pos;
    }

    /// Whether the rest of the packet at `pos` is waited for: between whole packets the client can still be told of an
    /// error, if the server is lost.
    fn comes_whole(&self, buf: &[u8], len: usize) -> bool {
        len <= WHOLE_MAX && buf.len() < self.pos + HEADER_LEN + len
    }

    /// True if the packet at `pos` is all there. Held packets must be.
    fn is_whole(&self, buf: &[u8], len: usize) -> Result<bool, Error> {
        if len > HELD_MAX {
            return Err(Error::Oversized { len, max: HELD_MAX });
        }
        Ok(buf.len() >= self.pos + HEADER_LEN + len)
    }

    fn start(&mut self, buf: &mut [u8]) -> Result<Option<Progress>, Error> {
        let Some((len, first)) = self.peek(buf)? else { return Ok(Some(Progress::More)) };
        if self.kind == Kind::Statistics && first != ErrPacket::HEADER {
            self.pass_packet(buf, len);
            self.state = State::Done;
            return Ok(None);
        }
        if !self.is_whole(buf, len)? {
            return Ok(Some(Progress::More));
        }
        match (first, self.kind) {
            (ErrPacket::HEADER, _) => Ok(Some(self.hold_err(len))),
            (0x00, Kind::Prepare) => self.hold_prepared(buf, len).map(Some),
            (0x00, _) => self.hold_ok(buf, len).map(Some),
            (0xfe, Kind::Simple) => self.hold_ok(buf, len).map(Some),
            (0xfb, Kind::Query) => {
                Ok(Some(self.hold(Held::LocalInfile, Progress::LocalInfile(self.body(len)))))
            }
            (_, Kind::Query) => self.column_count(buf, len),
            _ => Err(Error::Malformed("first packet of an answer")),
        }
    }

    fn column_count(&mut self, buf: &mut [u8], len: usize) -> Result<Option<Progress>, Error> {
        let mut r = Reader::new(buf.get(self.body(len)).unwrap_or_default(), "column count");
        let count = r.lenenc_int()?;
        if count == 0 || count > u64::from(u16::MAX) || !r.is_empty() {
            return Err(r.malformed());
        }
        self.pass_packet(buf, len);
        self.state = State::Columns(count);
        Ok(None)
    }

    fn columns(&mut self, buf: &mut [u8], mut left: u64) -> Result<Option<Progress>, Error> {
        while left > 0 {
            self.state = State::Columns(left);
            let Some((len, first)) = self.peek(buf)? else { return Ok(Some(Progress::More)) };
            if first == ErrPacket::HEADER {
                return self.whole_err(buf, len);
            }
            if self.comes_whole(buf, len) {
                return Ok(Some(Progress::More));
            }
            self.pass_packet(buf, len);
            left -= 1;
            if self.skip > 0 || self.continued {
                break;
            }
        }
        self.state = match left {
            0 if self.form.deprecate_eof => State::Rows,
            0 => State::ColumnsEnd,
            _ => State::Columns(left),
        };
        Ok(None)
    }

    /// A client without DEPRECATE_EOF wants an EOF here, except if the statement opened a cursor: then the
    /// packet that ends the definitions is the only one, and it is the server's own.
    fn columns_end(&mut self, buf: &mut Vec<u8>) -> Result<Option<Progress>, Error> {
        let Some((len, first)) = self.peek(buf)? else { return Ok(Some(Progress::More)) };
        let rows_end = is_rows_end(first, len);
        if rows_end && !self.is_whole(buf, len)? {
            return Ok(Some(Progress::More));
        }
        let (ahead, warnings) = self.end_ahead(buf).unwrap_or_default();
        self.warnings = warnings;
        // A procedure's rows show the flag too, for cursors of its own. An error in this place says that the rows could
        // not be made, before any cursor was there.
        let no_rows = rows_end && ahead.has(Status::CURSOR_EXISTS) || first == ErrPacket::HEADER;
        if !(self.cursor && no_rows) {
            let status = if ahead.has(Status::PS_OUT_PARAMS) { ahead } else { self.form.status };
            self.insert_eof(buf, status);
        }
        self.state = State::Rows;
        Ok(None)
    }

    /// The status and the warnings at the end of a short result, if that has come already. Clients without DEPRECATE_EOF
    /// learn from the EOF before the rows that these are OUT parameters, and that the optimizer has noted something.
    fn end_ahead(&self, buf: &[u8]) -> Option<(Status, u16)> {
        let mut rest = buf.get(self.pos..)?;
        for _ in 0..AHEAD_MAX {
            let packet = frame(rest)?;
            if is_rows_end(*packet.payload.first()?, packet.payload.len()) {
                let end = OkPacket::parse(packet.payload).ok()?;
                return Some((end.status.without(Status::SESSION_STATE_CHANGED), end.warnings));
            }
            rest = rest.get(packet.wire_len()..)?;
        }
        None
    }

    fn insert_eof(&mut self, buf: &mut Vec<u8>, status: Status) {
        let mut packet = [0; HEADER_LEN + EOF_LEN];
        let (header, payload) = packet.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&Header { len: EOF_LEN, seq: self.client_seq() }.bytes());
        payload.copy_from_slice(&EofPacket { warnings: self.warnings, status }.bytes());
        buf.splice(self.pos..self.pos, packet);
        self.pos += packet.len();
        self.shift = self.shift.wrapping_add(1);
    }

    fn walk_rows(&mut self, buf: &mut [u8]) -> Result<Option<Progress>, Error> {
        self.walk_whole_rows(buf);
        let Some((len, first)) = self.peek(buf)? else { return Ok(Some(Progress::More)) };
        if first == ErrPacket::HEADER || is_rows_end(first, len) {
            return self.rows_end(buf, len, first);
        }
        if self.comes_whole(buf, len) {
            return Ok(Some(Progress::More));
        }
        self.pass_packet(buf, len);
        self.rows += 1;
        Ok(None)
    }

    /// The hot loop: one header a row, over plain rows that are all there. It stops before any other packet.
    #[inline]
    fn walk_whole_rows(&mut self, buf: &mut [u8]) {
        let (mut pos, mut seq, mut rows) = (self.pos, self.seq, self.rows);
        let total = buf.len();
        while let Some([a, b, c, id, first]) = buf.get_mut(pos..).and_then(<[u8]>::first_chunk_mut) {
            let len = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
            let end = pos + HEADER_LEN + len;
            let plain = len > 0 && len < MAX_PAYLOAD && *first < OkPacket::ROWS_END;
            if !plain || end > total || *id != seq {
                break;
            }
            if self.shift != 0 {
                *id = seq.wrapping_add(self.shift);
            }
            (pos, seq, rows) = (end, seq.wrapping_add(1), rows + 1);
        }
        (self.pos, self.seq, self.rows) = (pos, seq, rows);
    }

    fn rows_end(&mut self, buf: &mut [u8], len: usize, first: u8) -> Result<Option<Progress>, Error> {
        if first == ErrPacket::HEADER {
            return self.whole_err(buf, len);
        }
        if !self.is_whole(buf, len)? {
            return Ok(Some(Progress::More));
        }
        self.hold_ok(buf, len).map(Some)
    }

    fn definitions(
        &mut self,
        buf: &mut Vec<u8>,
        params: u64,
        columns: u64,
    ) -> Result<Option<Progress>, Error> {
        let Some((len, first)) = self.peek(buf)? else { return Ok(Some(Progress::More)) };
        if first == ErrPacket::HEADER {
            return self.whole_err(buf, len);
        }
        // An EOF goes in behind the last definition of each group, so that one must be whole.
        let last = params == 1 || (params == 0 && columns == 1);
        if last && !self.form.deprecate_eof && !self.is_whole(buf, len)? {
            return Ok(Some(Progress::More));
        }
        self.pass_packet(buf, len);
        if last && !self.form.deprecate_eof {
            self.insert_eof(buf, self.form.status);
        }
        self.state = match (params, columns) {
            (0, 1) | (1, 0) => State::Done,
            (0, columns) => State::Definitions { params: 0, columns: columns - 1 },
            (params, columns) => State::Definitions { params: params - 1, columns },
        };
        Ok(None)
    }

    fn body(&self, len: usize) -> Range<usize> {
        self.pos + HEADER_LEN..self.pos + HEADER_LEN + len
    }

    fn hold(&mut self, held: Held, progress: Progress) -> Progress {
        self.state = State::Held(held);
        progress
    }

    fn whole_err(&mut self, buf: &[u8], len: usize) -> Result<Option<Progress>, Error> {
        Ok(Some(if self.is_whole(buf, len)? { self.hold_err(len) } else { Progress::More }))
    }

    fn hold_err(&mut self, len: usize) -> Progress {
        let at = self.body(len);
        self.hold(Held::Err, Progress::Err(at))
    }

    fn hold_ok(&mut self, buf: &[u8], len: usize) -> Result<Progress, Error> {
        let at = self.body(len);
        let payload = buf.get(at.clone()).unwrap_or_default();
        let eof = if len == EOF_LEN { EofPacket::parse(payload).ok() } else { None };
        let ok = match eof {
            Some(eof) => {
                OkPacket { header: 0xfe, status: eof.status, warnings: eof.warnings, ..Default::default() }
            }
            None => OkPacket::parse(payload)?,
        };
        // The state block is what the payload ends with.
        let state = at.end - ok.state.len()..at.end;
        let more = ok.status.has(Status::MORE_RESULTS) && self.kind == Kind::Query;
        let end = End {
            at,
            rows_end: ok.header == OkPacket::ROWS_END && self.kind != Kind::Simple,
            affected_rows: ok.affected_rows,
            last_insert_id: ok.last_insert_id,
            status: ok.status,
            warnings: ok.warnings,
            state,
        };
        Ok(self.hold(Held::Ok { more }, Progress::Ok(end)))
    }

    fn hold_prepared(&mut self, buf: &[u8], len: usize) -> Result<Progress, Error> {
        let at = self.body(len);
        let mut r = Reader::new(buf.get(at.clone()).unwrap_or_default(), "COM_STMT_PREPARE_OK");
        r.u8()?;
        let statement_id = r.u32()?;
        let (columns, params) = (r.u16()?, r.u16()?);
        r.u8()?;
        // MySQL 4.1's form ends here; nobody we can log in to sends it, but it costs nothing.
        let warnings = if r.is_empty() { 0 } else { r.u16()? };
        self.warnings = warnings;
        let prepared = Prepared { at, statement_id, columns, params, warnings };
        Ok(self.hold(Held::Prepared { params, columns }, Progress::Prepared(prepared)))
    }
}

impl<'a> OkEdit<'a> {
    fn status(&self, old: Status) -> Status {
        old.without(self.clear_status).with(self.set_status)
    }

    /// Changes everything but the state, which depends on the client too.
    fn apply(&self, ok: &mut OkPacket<'a>) {
        ok.status = self.status(ok.status);
        ok.affected_rows = self.affected_rows.unwrap_or(ok.affected_rows);
        ok.last_insert_id = self.last_insert_id.unwrap_or(ok.last_insert_id);
        ok.warnings = self.warnings.unwrap_or(ok.warnings);
        ok.info = self.info.unwrap_or(ok.info);
    }
}

/// What becomes of a held OK packet.
enum Reencoded {
    Same,
    Eof(EofPacket),
    Ok(Vec<u8>),
}

/// A row may start with 0xFE too (a first column of 16 MiB or more), but then its packet is a full one.
#[inline]
fn is_rows_end(first: u8, len: usize) -> bool {
    first == OkPacket::ROWS_END && len < MAX_PAYLOAD
}

fn put_header(buf: &mut [u8], at: usize, header: Header) {
    if let Some(place) = buf.get_mut(at..at + HEADER_LEN) {
        place.copy_from_slice(&header.bytes());
    }
}
