//! The PROXY protocol, versions 1 and 2: what a load balancer says in front of a connection, so that the client's own
//! address is known behind it (haproxy.org/download/3.2/doc/proxy-protocol.txt).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Error;

/// The first bytes tell a header from a MySQL packet: one that began with them would have a sequence id that no first
/// packet has.
const PEEKED: usize = 4;
const V1_START: &[u8; 6] = b"PROXY ";
/// The shortest line: `PROXY UNKNOWN` and its end.
const V1_MIN: usize = 15;
/// The longest line, its end included, by the specification.
const V1_MAX: usize = 107;
const V2_START: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEAD: usize = 16;
/// Addresses and extensions of a version 2 header, in bytes. The specification asks for 520; certificates need more.
const V2_REST_MAX: usize = 4096;

const MALFORMED: Error = Error::Malformed("PROXY protocol header");

/// What stands at the front of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// At least so many more bytes are needed to tell. Nothing of what follows the header is among them.
    Missing(usize),
    /// No header.
    Absent,
    /// A header of so many bytes.
    Header {
        /// Its bytes.
        len: usize,
        /// The client's address. `None` where the balancer speaks for itself (LOCAL, as health checks do) or does not
        /// know, or where the client came by a socket file.
        client: Option<SocketAddr>,
    },
}

/// Reads what stands at the front of `buf`.
///
/// # Errors
/// [`Error::Malformed`] for what begins as a header and is none.
pub fn read(buf: &[u8]) -> Result<Front, Error> {
    if buf.len() < PEEKED {
        return Ok(Front::Missing(PEEKED - buf.len()));
    }
    if starts(buf, V1_START) {
        line(buf)
    } else if starts(buf, V2_START) {
        binary(buf)
    } else if buf.get(..PEEKED) == V1_START.get(..PEEKED) || buf.get(..PEEKED) == V2_START.get(..PEEKED) {
        Err(MALFORMED)
    } else {
        Ok(Front::Absent)
    }
}

/// Whether `buf` is as far as it goes the beginning of a header.
fn starts(buf: &[u8], start: &[u8]) -> bool {
    buf.iter().zip(start).all(|(a, b)| a == b)
}

/// `PROXY TCP4 192.0.2.1 192.0.2.9 56324 3306\r\n`
fn line(buf: &[u8]) -> Result<Front, Error> {
    let head = buf.get(..V1_MAX).unwrap_or(buf);
    let Some(end) = head.windows(2).position(|two| two == b"\r\n") else {
        return match V1_MIN.saturating_sub(buf.len()) {
            _ if buf.len() >= V1_MAX => Err(MALFORMED),
            // One by one, so that no byte behind the line is taken.
            0 => Ok(Front::Missing(1)),
            missing => Ok(Front::Missing(missing)),
        };
    };
    let text = head.get(V1_START.len()..end).and_then(|text| std::str::from_utf8(text).ok());
    let mut words = text.ok_or(MALFORMED)?.split(' ');
    let client = match words.next() {
        // What follows is to be ignored.
        Some("UNKNOWN") => return Ok(Front::Header { len: end + 2, client: None }),
        Some("TCP4") => ends(words, |word| word.parse::<Ipv4Addr>().ok().map(IpAddr::V4)),
        Some("TCP6") => ends(words, |word| word.parse::<Ipv6Addr>().ok().map(IpAddr::V6)),
        _ => None,
    };
    match client {
        Some(client) => Ok(Front::Header { len: end + 2, client: Some(client) }),
        None => Err(MALFORMED),
    }
}

/// The first of two addresses with their ports: source, destination, source port, destination port.
fn ends<'a>(
    mut words: impl Iterator<Item = &'a str>,
    address: impl Fn(&str) -> Option<IpAddr>,
) -> Option<SocketAddr> {
    let from = address(words.next()?)?;
    address(words.next()?)?;
    let mut port = || words.next()?.parse::<u16>().ok();
    let (from_port, _) = (port()?, port()?);
    words.next().is_none().then(|| SocketAddr::new(from, from_port))
}

fn binary(buf: &[u8]) -> Result<Front, Error> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    let Some([.., command, family, a, b]) = buf.first_chunk::<V2_HEAD>().copied() else {
        return Ok(Front::Missing(V2_HEAD - buf.len()));
    };
    let rest = usize::from(u16::from_be_bytes([a, b]));
    if rest > V2_REST_MAX || !matches!(command, LOCAL | PROXY) {
        return Err(MALFORMED);
    }
    let len = V2_HEAD + rest;
    let Some(body) = buf.get(V2_HEAD..len) else { return Ok(Front::Missing(len - buf.len())) };
    if command == LOCAL {
        return Ok(Front::Header { len, client: None });
    }
    // Address family and transport; behind the addresses are extensions, which nobody here needs.
    let client = match family {
        0x00 => None,
        0x11 => {
            let &[a, b, c, d, _, _, _, _, p, q, _, _] = body.first_chunk::<12>().ok_or(MALFORMED)?;
            Some(SocketAddr::from(([a, b, c, d], u16::from_be_bytes([p, q]))))
        }
        0x21 => {
            let ends = body.first_chunk::<36>().ok_or(MALFORMED)?;
            let from = ends.first_chunk::<16>().ok_or(MALFORMED)?;
            let port = ends.get(32..34).and_then(|port| port.first_chunk::<2>()).ok_or(MALFORMED)?;
            Some(SocketAddr::from((*from, u16::from_be_bytes(*port))))
        }
        0x31 if body.len() >= 216 => None,
        _ => return Err(MALFORMED),
    };
    Ok(Front::Header { len, client })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use super::*;

    fn client(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut out = V2_START.to_vec();
        out.extend([command, family]);
        out.extend((body.len() as u16).to_be_bytes());
        out.extend(body);
        out
    }

    fn inet() -> Vec<u8> {
        [&[192, 0, 2, 1, 10, 0, 0, 1][..], &56324_u16.to_be_bytes(), &3306_u16.to_be_bytes()].concat()
    }

    fn headers() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let v6 = [&[0x20; 16][..], &[1; 16], &[0, 7], &[0, 8]].concat();
        let with_extension = [&inet()[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        vec![
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 3306\r\n".to_vec(), client("192.0.2.1:56324")),
            (b"PROXY TCP6 fd00::1 fd00::2 1 2\r\n".to_vec(), client("[fd00::1]:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 anything else\r\n".to_vec(), None),
            (v2(0x21, 0x11, &inet()), client("192.0.2.1:56324")),
            (v2(0x21, 0x11, &with_extension), client("192.0.2.1:56324")),
            (v2(0x21, 0x21, &v6), client("[2020:2020:2020:2020:2020:2020:2020:2020]:7")),
            (v2(0x21, 0x31, &[b'/'; 216]), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x20, 0x11, &inet()), None),
            (v2(0x20, 0x00, b"x"), None),
        ]
    }

    /// Read as a socket would be: only what is asked for.
    #[test]
    fn headers_are_read_and_nothing_behind_them() {
        for (header, client) in headers() {
            let mut wire = header.clone();
            wire.extend(b"\x01\0\0\x01\x0e");
            let mut taken = 0;
            let front = loop {
                match read(&wire[..taken]).unwrap() {
                    Front::Missing(missing) => taken += missing,
                    front => break front,
                }
            };
            assert_eq!(front, Front::Header { len: header.len(), client });
            assert_eq!(taken, header.len());
            for cut in 0..header.len() {
                assert!(matches!(read(&header[..cut]).unwrap(), Front::Missing(1..)), "{cut}");
            }
        }
    }

    #[test]
    fn packets_are_no_headers() {
        assert_eq!(read(b"\x20\0\0\x01\x85\xa6"), Ok(Front::Absent));
        assert_eq!(read(b""), Ok(Front::Missing(4)));
    }

    #[test]
    fn nonsense_is_refused() {
        let lines = [
            "PROXY TCP4 192.0.2.1 10.0.0.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 56324 3306 9\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 56324 99999\r\n",
            "PROXY TCP4 fd00::1 fd00::2 1 2\r\n",
            "PROXY TCP4  192.0.2.1 10.0.0.1 1 2\r\n",
            "PROXY TCP5 192.0.2.1 10.0.0.1 1 2\r\n",
            "PROXY  UNKNOWN\r\n",
            "PROXYTCP4 1\r\n",
            &format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)),
        ];
        for line in lines {
            assert_eq!(read(line.as_bytes()), Err(MALFORMED), "{line}");
        }
        let blocks = [
            v2(0x22, 0x11, &inet()),
            v2(0x11, 0x11, &inet()),
            v2(0x21, 0x12, &inet()),
            v2(0x21, 0x41, &inet()),
            v2(0x21, 0x11, &inet()[..11]),
            v2(0x21, 0x21, &inet()),
            v2(0x21, 0x31, &inet()),
            v2(0x20, 0x00, &[0; V2_REST_MAX + 1]),
            b"\r\n\r\nGET / HTTP/1.1\r\n".to_vec(),
        ];
        for block in blocks {
            assert_eq!(read(&block), Err(MALFORMED), "{block:?}");
        }
    }
}
