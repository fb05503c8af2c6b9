//! The least client: logs in, sends packets that are ready, reads to the end of the answer.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use usher_wire::{
    frame::{HEADER_LEN, Header, MAX_PAYLOAD},
    handshake::ConnectAttributes,
    login::{ClientAuth, Login, LoginStep},
    packet::{ErrPacket, OkPacket},
    status::Status,
};

use crate::job::Target;

/// Room for what is read at once.
const BUFFER: usize = 128 * 1024;
/// Room while logging in.
const LOGIN_BUFFER: usize = 1024;
const TIMEOUT: Duration = Duration::from_secs(60);
const COM_QUIT: u8 = 0x01;
const COM_QUERY: u8 = 0x03;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_EXECUTE: u8 = 0x17;
/// MySQL's type number of a BIGINT.
const LONGLONG: u8 = 0x08;
const UTF8MB4: u8 = 45;

/// A connection that is logged in.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The part of the buffer that is read and not yet used.
    start: usize,
    end: usize,
    /// Bytes of answers so far.
    pub(crate) received: u64,
}

/// What to send for one statement and one key.
pub(crate) type Packet = Vec<u8>;

/// The front of a packet: enough to tell its kind.
#[derive(Debug, Clone, Copy)]
struct Front {
    first: u8,
    len: usize,
    at: usize,
}

impl Client {
    /// Connects and logs in.
    pub(crate) fn connect(target: &Target) -> Result<Self> {
        Self::open(target).with_context(|| format!("{} ({}:{})", target.name, target.host, target.port))
    }

    fn open(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect((target.host.as_str(), target.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut client = Self { stream, buffer: vec![0; LOGIN_BUFFER], start: 0, end: 0, received: 0 };
        client.log_in(target)?;
        Ok(client)
    }

    /// Gives back the buffer of a connection that is going to be idle: its own memory is of no interest.
    pub(crate) fn rest(&mut self) {
        self.buffer = Vec::new();
        (self.start, self.end) = (0, 0);
    }

    /// Says goodbye and waits for the other side to close: so it is the one that keeps the closed connection in mind for
    /// a while, and no port is missing here.
    pub(crate) fn quit(mut self) -> Result<()> {
        self.send(&command(COM_QUIT, &[])?)?;
        ensure!(self.stream.read(&mut self.buffer)? == 0, "an answer to a goodbye");
        Ok(())
    }

    fn log_in(&mut self, target: &Target) -> Result<()> {
        let login = Login {
            user: target.user.as_bytes(),
            password: target.password.as_bytes(),
            database: Some(target.database.as_bytes()).filter(|name| !name.is_empty()),
            attributes: ConnectAttributes::new(&[]),
            collation: UTF8MB4,
            options: usher_wire::Caps::CONNECT_WITH_DB,
            tls: false,
            secure: false,
            trust_key: true,
        };
        let (payload, mut seq) = self.message()?;
        let mut step = ClientAuth::start(&payload, &login)?;
        loop {
            let auth = match step {
                LoginStep::Send(payload, auth) => {
                    self.send(&packet(seq.wrapping_add(1), &payload)?)?;
                    auth
                }
                LoginStep::Wait(auth) => auth,
                LoginStep::Done(_) => return Ok(()),
                LoginStep::Refused(refusal) => bail!("refused: {refusal}"),
                LoginStep::StartTls(..) => bail!("TLS was not asked for"),
            };
            let (payload, answered) = self.message()?;
            seq = answered;
            step = auth.handle(&payload, &login)?;
        }
    }

    /// A whole packet of the login, owned, with its number.
    fn message(&mut self) -> Result<(Vec<u8>, u8)> {
        let front = self.front()?;
        let seq = self.buffer[front.at - 1];
        Ok((self.buffer[front.at..front.at + front.len].to_vec(), seq))
    }

    /// Runs a statement and reads its answer to the end.
    pub(crate) fn query(&mut self, sql: &str) -> Result<()> {
        self.run(&text(sql)?)
    }

    /// Prepares a statement with one parameter; the answer is its number.
    pub(crate) fn prepare(&mut self, sql: &str) -> Result<u32> {
        self.send(&command(COM_STMT_PREPARE, sql.as_bytes())?)?;
        let front = self.front()?;
        self.refuse_error(front)?;
        let ok = &self.buffer[front.at..front.at + front.len];
        let number = ok.get(1..5).and_then(|id| id.try_into().ok()).map(u32::from_le_bytes);
        let (Some(id), &[columns, _, parameters, _]) = (number, ok.get(5..9).context("short answer")?) else {
            bail!("no number in the answer to a PREPARE");
        };
        // Descriptions follow; with EOF deprecated nothing stands behind them.
        for _ in 0..usize::from(columns) + usize::from(parameters) {
            self.front()?;
        }
        Ok(id)
    }

    /// Sends what is ready and reads the whole answer.
    pub(crate) fn run(&mut self, packet: &[u8]) -> Result<()> {
        if self.buffer.len() < BUFFER {
            self.buffer.resize(BUFFER, 0);
        }
        self.send(packet)?;
        loop {
            let status = self.one_result()?;
            if !status.has(Status::MORE_RESULTS) {
                return Ok(());
            }
        }
    }

    fn one_result(&mut self) -> Result<Status> {
        let front = self.front()?;
        self.refuse_error(front)?;
        if front.first == 0 {
            return self.ok_status(front);
        }
        ensure!(front.len == 1 && front.first < 0xfb, "over 250 columns");
        for _ in 0..front.first {
            self.front()?;
        }
        loop {
            let row = self.front()?;
            if row.first == 0xfe && row.len < MAX_PAYLOAD {
                return self.ok_status(row);
            }
            self.refuse_error(row)?;
        }
    }

    fn ok_status(&self, front: Front) -> Result<Status> {
        Ok(OkPacket::parse(&self.buffer[front.at..front.at + front.len])?.status)
    }

    fn refuse_error(&self, front: Front) -> Result<()> {
        if front.first == ErrPacket::HEADER {
            let error = ErrPacket::parse(&self.buffer[front.at..front.at + front.len])?;
            bail!("{}: {}", error.code, error.text());
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// The next packet, all of it in the buffer. What came before it is given up.
    fn front(&mut self) -> Result<Front> {
        loop {
            let ready = &self.buffer[self.start..self.end];
            if let Some(header) = Header::peek(ready) {
                let whole = HEADER_LEN + header.len;
                if ready.len() >= whole {
                    let at = self.start + HEADER_LEN;
                    self.start += whole;
                    self.received += whole as u64;
                    let first = if header.len == 0 { 0 } else { self.buffer[at] };
                    return Ok(Front { first, len: header.len, at });
                }
                self.make_room(whole);
            } else {
                self.make_room(HEADER_LEN);
            }
            let read = self.stream.read(&mut self.buffer[self.end..])?;
            ensure!(read > 0, "the connection was closed");
            self.end += read;
        }
    }

    fn make_room(&mut self, whole: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.len() - self.start < whole || self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() < whole {
            self.buffer.resize(whole, 0);
        }
    }
}

/// A COM_QUERY.
pub(crate) fn text(sql: &str) -> Result<Packet> {
    command(COM_QUERY, sql.as_bytes())
}

/// A COM_STMT_EXECUTE with one BIGINT.
pub(crate) fn execute(statement: u32, key: i64) -> Result<Packet> {
    let mut body = statement.to_le_bytes().to_vec();
    body.push(0); // no cursor
    body.extend(1u32.to_le_bytes());
    body.push(0); // no NULLs
    body.push(1); // types follow
    body.extend([LONGLONG, 0]);
    body.extend(key.to_le_bytes());
    command(COM_STMT_EXECUTE, &body)
}

fn command(command: u8, body: &[u8]) -> Result<Packet> {
    let mut payload = vec![command];
    payload.extend(body);
    packet(0, &payload)
}

fn packet(seq: u8, payload: &[u8]) -> Result<Packet> {
    ensure!(payload.len() < MAX_PAYLOAD, "a statement of over 16 MiB");
    let mut bytes = Header { len: payload.len(), seq }.bytes().to_vec();
    bytes.extend(payload);
    Ok(bytes)
}
