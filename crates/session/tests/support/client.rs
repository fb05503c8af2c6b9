//! A client that sends whatever packets it is given, as drivers in C would and the driver of other tests does not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use usher_wire::caps::Caps;
use usher_wire::frame::{frame, write_packet};
use usher_wire::handshake::ConnectAttributes;
use usher_wire::login::{ClientAuth, Login, LoginStep};
use usher_wire::relay::{ClientForm, Kind, Progress, Relay};

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Plain {
    socket: TcpStream,
    buf: Vec<u8>,
}

impl Plain {
    pub(crate) fn connect(url: &str) -> Self {
        let options = mysql_async::Opts::from_url(url).unwrap();
        let socket = TcpStream::connect((options.ip_or_hostname(), options.tcp_port())).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self { socket, buf: Vec::new() };
        let login = Login {
            user: options.user().unwrap().as_bytes(),
            password: options.pass().unwrap().as_bytes(),
            database: options.db_name().map(str::as_bytes),
            attributes: ConnectAttributes::new(&[]),
            collation: 45,
            options: Caps(0),
            tls: false,
            secure: false,
            trust_key: true,
        };
        client.login(&login);
        client
    }

    fn login(&mut self, login: &Login<'_>) {
        let (payload, mut seq) = self.packet();
        let mut step = ClientAuth::start(&payload, login).unwrap();
        loop {
            step = match step {
                LoginStep::Send(payload, auth) => {
                    let mut out = Vec::new();
                    write_packet(&mut out, &mut seq.wrapping_add(1), |out| out.extend_from_slice(&payload));
                    self.send(&out);
                    let answer = self.packet();
                    seq = answer.1;
                    auth.handle(&answer.0, login).unwrap()
                }
                LoginStep::Wait(auth) => {
                    let answer = self.packet();
                    seq = answer.1;
                    auth.handle(&answer.0, login).unwrap()
                }
                LoginStep::Done(_) => return,
                LoginStep::StartTls(..) => panic!("TLS was not asked for"),
                LoginStep::Refused(refusal) => panic!("{}", refusal.message),
            };
        }
    }

    pub(crate) fn send(&mut self, packets: &[u8]) {
        self.socket.write_all(packets).unwrap();
    }

    pub(crate) fn command(&mut self, payload: &[&[u8]]) {
        let mut out = Vec::new();
        write_packet(&mut out, &mut 0, |out| payload.iter().for_each(|part| out.extend_from_slice(part)));
        self.send(&out);
    }

    /// Reads a whole answer: the id if a statement was prepared, else the number of rows.
    pub(crate) fn answer(&mut self, kind: Kind) -> u64 {
        let mut relay = Relay::new(kind, ClientForm::SAME);
        let mut id = None;
        loop {
            match relay.advance(&mut self.buf).unwrap() {
                Progress::More => self.read(),
                Progress::Done => break,
                Progress::Prepared(prepared) => {
                    id = Some(prepared.statement_id.into());
                    relay.pass(&mut self.buf).unwrap();
                }
                Progress::Ok(_) => relay.pass(&mut self.buf).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        self.buf.drain(..relay.ready());
        id.unwrap_or_else(|| relay.rows())
    }

    fn packet(&mut self) -> (Vec<u8>, u8) {
        loop {
            if let Some(found) = frame(&self.buf) {
                let (payload, seq, len) = (found.payload.to_vec(), found.seq, found.wire_len());
                self.buf.drain(..len);
                return (payload, seq);
            }
            self.read();
        }
    }

    fn read(&mut self) {
        let mut chunk = [0; 4096];
        let n = self.socket.read(&mut chunk).unwrap();
        assert!(n > 0, "the proxy has closed");
        self.buf.extend_from_slice(&chunk[..n]);
    }
}
