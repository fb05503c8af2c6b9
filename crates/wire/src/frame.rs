//! Packet headers: cutting packets out of a buffer, and appending packets to one.
//!
//! A packet is `len24 seq payload`. A payload of 16 MiB - 1 or more goes as several packets; the last of them
//! is shorter than that, if need be empty. A *message* is the whole payload, whatever number of packets it took.

use std::borrow::Cow;
use std::ops::Range;

use crate::Error;

/// Bytes of a packet header.
pub const HEADER_LEN: usize = 4;
/// The longest payload of one packet, and the mark that another packet continues it.
pub const MAX_PAYLOAD: usize = 0xff_ffff;

/// A packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload.
    pub len: usize,
    /// Sequence id.
    pub seq: u8,
}

impl Header {
    /// The header at the front of `buf`, if its four bytes are there.
    #[inline]
    pub fn peek(buf: &[u8]) -> Option<Self> {
        let [a, b, c, seq] = *buf.first_chunk::<HEADER_LEN>()?;
        Some(Self { len: usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16, seq })
    }

    /// The header's four bytes. `len` must not be over [`MAX_PAYLOAD`]; higher bits are dropped.
    #[inline]
    pub fn bytes(self) -> [u8; HEADER_LEN] {
        let [a, b, c, ..] = self.len.to_le_bytes();
        [a, b, c, self.seq]
    }
}

/// One whole packet, borrowed from the buffer it was read into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Sequence id.
    pub seq: u8,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the packet, header included.
    pub fn wire_len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }
}

/// The packet at the front of `buf`, if it is all there. It may be one part of a longer message: see [`message`].
#[inline]
pub fn frame(buf: &[u8]) -> Option<Frame<'_>> {
    let header = Header::peek(buf)?;
    let payload = buf.get(HEADER_LEN..HEADER_LEN + header.len)?;
    Some(Frame { seq: header.seq, payload })
}

/// A whole message, borrowed unless it came in several packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// Sequence id of the first packet.
    pub seq: u8,
    /// Sequence id that the answer to this message starts with.
    pub next_seq: u8,
    /// Bytes that the message takes in the buffer, headers included.
    pub wire_len: usize,
    /// The payload; owned only if it had to be joined.
    pub payload: Cow<'a, [u8]>,
}

/// The message at the front of `buf`; `None` while bytes are missing. A payload over `max` bytes is an error as
/// soon as a header tells, before its bytes are kept. Parts out of order are an error too.
pub fn message(buf: &[u8], max: usize) -> Result<Option<Message<'_>>, Error> {
    let Some(first) = Header::peek(buf) else { return Ok(None) };
    check_len(first.len, max)?;
    if first.len == MAX_PAYLOAD {
        return joined(buf, first.seq, max);
    }
    let Some(payload) = buf.get(HEADER_LEN..HEADER_LEN + first.len) else { return Ok(None) };
    Ok(Some(Message {
        seq: first.seq,
        next_seq: first.seq.wrapping_add(1),
        wire_len: HEADER_LEN + first.len,
        payload: Cow::Borrowed(payload),
    }))
}

/// How many bytes the packet at the front of `buf` lacks, as far as its header tells. Zero if it is all there.
pub fn missing(buf: &[u8]) -> usize {
    match Header::peek(buf) {
        Some(header) => (HEADER_LEN + header.len).saturating_sub(buf.len()),
        None => HEADER_LEN - buf.len(),
    }
}

fn check_len(len: usize, max: usize) -> Result<(), Error> {
    if len > max { Err(Error::Oversized { len, max }) } else { Ok(()) }
}

#[cold]
fn joined(buf: &[u8], seq: u8, max: usize) -> Result<Option<Message<'_>>, Error> {
    // Sizes first: nothing is copied before the last part is there.
    let (mut at, mut len, mut next_seq) = (0, 0, seq);
    loop {
        let Some(header) = buf.get(at..).and_then(Header::peek) else { return Ok(None) };
        if header.seq != next_seq {
            return Err(Error::OutOfOrder { expected: next_seq, got: header.seq });
        }
        len += header.len;
        check_len(len, max)?;
        at += HEADER_LEN + header.len;
        next_seq = next_seq.wrapping_add(1);
        if at > buf.len() {
            return Ok(None);
        }
        if header.len < MAX_PAYLOAD {
            break;
        }
    }
    let mut payload = Vec::with_capacity(len);
    let mut rest = buf.get(..at).unwrap_or_default();
    while let Some(part) = frame(rest) {
        payload.extend_from_slice(part.payload);
        rest = rest.get(part.wire_len()..).unwrap_or_default();
    }
    Ok(Some(Message { seq, next_seq, wire_len: at, payload: Cow::Owned(payload) }))
}

/// Appends a message whose payload `fill` appends, split into packets as its length asks. `seq` is the id of its
/// first packet and is left at the one that follows. Returns the range of the payload's first part in `out`.
pub fn write_packet(out: &mut Vec<u8>, seq: &mut u8, fill: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    let body = out.len();
    fill(out);
    let len = out.len() - body;
    if len >= MAX_PAYLOAD {
        split(out, body, len);
    }
    stamp(out, start, seq);
    body..body + len.min(MAX_PAYLOAD)
}

/// Opens room for the headers of the second and later parts; the lengths and ids are stamped afterwards.
#[cold]
fn split(out: &mut Vec<u8>, body: usize, len: usize) {
    let later = len / MAX_PAYLOAD;
    out.resize(out.len() + later * HEADER_LEN, 0);
    for part in (1..=later).rev() {
        let from = body + part * MAX_PAYLOAD;
        let to = from + part * HEADER_LEN;
        let part_len = (len - part * MAX_PAYLOAD).min(MAX_PAYLOAD);
        out.copy_within(from..from + part_len, to);
        put_header(out, to - HEADER_LEN, Header { len: part_len, seq: 0 });
    }
}

fn put_header(out: &mut [u8], at: usize, header: Header) {
    if let Some(place) = out.get_mut(at..at + HEADER_LEN) {
        place.copy_from_slice(&header.bytes());
    }
}

fn stamp(out: &mut [u8], start: usize, seq: &mut u8) {
    let mut at = start;
    loop {
        let len = (out.len() - at - HEADER_LEN).min(MAX_PAYLOAD);
        put_header(out, at, Header { len, seq: *seq });
        *seq = seq.wrapping_add(1);
        at += HEADER_LEN + len;
        if len < MAX_PAYLOAD {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use super::*;

    fn filled(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn short_packet_is_borrowed() {
        let mut out = vec![9];
        let mut seq = 7;
        let body = write_packet(&mut out, &mut seq, |o| o.extend_from_slice(b"abc"));
        assert_eq!(out, b"\x09\x03\x00\x00\x07abc");
        assert_eq!((body, seq), (5..8, 8));
        assert_eq!(frame(&out[1..]), Some(Frame { seq: 7, payload: b"abc" }));
        assert_eq!(frame(&out[1..7]), None);
        assert_eq!(missing(&out[1..7]), 1);
        assert_eq!(missing(&[1]), 3);
    }

    #[test]
    fn long_messages_split_and_join() {
        for len in [MAX_PAYLOAD - 1, MAX_PAYLOAD, MAX_PAYLOAD + 1, 2 * MAX_PAYLOAD, 2 * MAX_PAYLOAD + 5] {
            let payload = filled(len);
            let mut out = Vec::new();
            let mut seq = 254;
            write_packet(&mut out, &mut seq, |o| o.extend_from_slice(&payload));
            let parts = len / MAX_PAYLOAD + 1;
            assert_eq!(out.len(), len + parts * HEADER_LEN);
            assert_eq!(seq, 254u8.wrapping_add(parts as u8));
            let whole = message(&out, usize::MAX).unwrap().unwrap();
            assert_eq!((whole.wire_len, whole.next_seq), (out.len(), seq));
            assert!(whole.payload.as_ref() == payload);
            assert_eq!(message(&out[..out.len() - 1], usize::MAX), Ok(None));
            assert!(matches!(message(&out, len - 1), Err(Error::Oversized { .. })));
        }
    }

    #[test]
    fn parts_out_of_order_are_refused() {
        let mut out = Vec::new();
        write_packet(&mut out, &mut 0, |o| o.extend(filled(MAX_PAYLOAD + 3)));
        out[HEADER_LEN + MAX_PAYLOAD + 3] = 5;
        assert_eq!(message(&out, usize::MAX), Err(Error::OutOfOrder { expected: 1, got: 5 }));
    }
}
