//! Compressed packets: the frames that a client and a server speak once both have asked for compression.
//!
//! A frame is `packed24 seq plain24 body`. Its body holds bytes of the ordinary conversation, cut anywhere: `plain`
//! bytes of it packed by zlib or zstd, each frame for itself, or with `plain` 0 the bytes as they are. Frames have
//! sequence ids of their own, which begin at 0 with each command and go on from one side to the other.
//!
//! No state lives from one frame to the next. What the algorithms work in is large (up to some hundred KiB) and is
//! the caller's to share between connections: see [`Press`].

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use zstd::bulk::{Compressor, Decompressor};

use crate::Error;
use crate::caps::Caps;

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 7;
/// The longest body, packed or plain.
pub const BODY_MAX: usize = 0xff_ffff;
/// Shorter pieces are sent as they are, as MySQL does (MIN_COMPRESS_LENGTH).
pub const PACKED_MIN: usize = 50;
/// Plain bytes of one frame of ours: what is packed in one go holds up its thread for a millisecond or so.
pub const PIECE: usize = 32 << 10;
/// zlib's level: most of what the default would save, in half the time.
const ZLIB_LEVEL: u32 = 3;
/// The highest level of zstd that a client gets: above it a piece takes its thread for many milliseconds.
const ZSTD_LEVEL_MAX: u8 = 9;
/// First reservation for what is unpacked; a frame that claims more has to prove it byte by byte.
const UNPACK_STEP: usize = 64 << 10;

/// How frames are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// By zlib.
    Zlib,
    /// By zstd, at this level.
    Zstd(u8),
}

impl Algorithm {
    /// What both sides have asked for: zlib, as servers do, if it is both. `zstd_level` is the client's wish.
    pub fn agreed(caps: Caps, zstd_level: u8) -> Option<Self> {
        match (caps.has(Caps::COMPRESS), caps.has(Caps::ZSTD)) {
            (true, _) => Some(Self::Zlib),
            (_, true) => Some(Self::Zstd(zstd_level.clamp(1, ZSTD_LEVEL_MAX))),
            _ => None,
        }
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the body.
    pub packed: usize,
    /// Sequence id.
    pub seq: u8,
    /// Bytes that the body holds once unpacked; 0 if it is not packed.
    pub plain: usize,
}

impl Header {
    /// The header at the front of `buf`, if all of it is there.
    pub fn peek(buf: &[u8]) -> Option<Self> {
        let [a, b, c, seq, x, y, z] = *buf.first_chunk::<HEADER_LEN>()?;
        let len = |a, b, c| usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
        Some(Self { packed: len(a, b, c), seq, plain: len(x, y, z) })
    }

    fn bytes(self) -> [u8; HEADER_LEN] {
        let [a, b, c, ..] = self.packed.to_le_bytes();
        let [x, y, z, ..] = self.plain.to_le_bytes();
        [a, b, c, self.seq, x, y, z]
    }
}

/// What the algorithms work in: made when first needed and used again for frames of any connection.
#[derive(Default)]
pub struct Press {
    deflate: Option<Compress>,
    inflate: Option<Decompress>,
    zstd: Option<(u8, Compressor<'static>)>,
    unzstd: Option<Decompressor<'static>>,
}

impl std::fmt::Debug for Press {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Press").finish_non_exhaustive()
    }
}

impl Press {
    /// Appends a frame with `plain`, at most [`PIECE`] bytes, to `out`: packed, if that makes it shorter.
    pub fn pack(
        &mut self,
        algorithm: Algorithm,
        seq: u8,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if plain.len() > BODY_MAX {
            return Err(Error::Misuse("a frame of over 16 MiB"));
        }
        let at = out.len();
        out.resize(at + HEADER_LEN + plain.len(), 0);
        let body = out.get_mut(at + HEADER_LEN..).unwrap_or_default();
        let packed = match plain.len() {
            ..PACKED_MIN => None,
            _ => self.pack_into(algorithm, plain, body).filter(|packed| *packed < plain.len()),
        };
        let header = match packed {
            Some(packed) => Header { packed, seq, plain: plain.len() },
            None => {
                body.copy_from_slice(plain);
                Header { packed: plain.len(), seq, plain: 0 }
            }
        };
        out.truncate(at + HEADER_LEN + header.packed);
        if let Some(place) = out.get_mut(at..at + HEADER_LEN) {
            place.copy_from_slice(&header.bytes());
        }
        Ok(())
    }

    /// The length of the packed bytes; `None` if they do not fit.
    fn pack_into(&mut self, algorithm: Algorithm, plain: &[u8], body: &mut [u8]) -> Option<usize> {
        match algorithm {
            Algorithm::Zlib => {
                let deflate =
                    self.deflate.get_or_insert_with(|| Compress::new(Compression::new(ZLIB_LEVEL), true));
                deflate.reset();
                let status = deflate.compress(plain, body, FlushCompress::Finish).ok()?;
                let len = usize::try_from(deflate.total_out()).ok()?;
                (status == Status::StreamEnd).then_some(len)
            }
            Algorithm::Zstd(level) => {
                if self.zstd.as_ref().is_none_or(|(made_for, _)| *made_for != level) {
                    self.zstd = Some((level, Compressor::new(level.into()).ok()?));
                }
                self.zstd.as_mut()?.1.compress_to_buffer(plain, body).ok()
            }
        }
    }

    /// Appends what the body of a frame holds to `out`, and no more than its header says.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it does not hold just as much.
    pub fn unpack(
        &mut self,
        algorithm: Algorithm,
        header: Header,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let at = out.len();
        let unpacked = match (header.plain, algorithm) {
            (0, _) => {
                out.extend_from_slice(body);
                return Ok(());
            }
            (plain, Algorithm::Zlib) => self.inflate(body, plain, out),
            (plain, Algorithm::Zstd(_)) => self.unzstd(body, plain, out),
        };
        match unpacked {
            Some(()) if out.len() == at + header.plain => Ok(()),
            _ => {
                out.truncate(at);
                Err(Error::Uncompress)
            }
        }
    }

    fn inflate(&mut self, body: &[u8], plain: usize, out: &mut Vec<u8>) -> Option<()> {
        let inflate = self.inflate.get_or_insert_with(|| Decompress::new(true));
        inflate.reset(true);
        let mut left = plain;
        loop {
            let read = usize::try_from(inflate.total_in()).ok()?;
            let step = left.min(UNPACK_STEP);
            let at = out.len();
            out.resize(at + step, 0);
            let before = inflate.total_out();
            let status = inflate.decompress(body.get(read..)?, out.get_mut(at..)?, FlushDecompress::None);
            let made = usize::try_from(inflate.total_out() - before).ok()?;
            out.truncate(at + made);
            left -= made;
            match status.ok()? {
                Status::StreamEnd => return Some(()),
                // Neither bytes nor room are missing for more to come: the stream is cut off, or longer than was said.
                _ if made == 0 && inflate.total_in() == read as u64 => return None,
                _ => {}
            }
        }
    }

    fn unzstd(&mut self, body: &[u8], plain: usize, out: &mut Vec<u8>) -> Option<()> {
        // What the frame itself says of its length must agree before room is made for it.
        let said = zstd::zstd_safe::get_frame_content_size(body).ok()?;
        if said.is_some_and(|said| said != plain as u64) {
            return None;
        }
        if self.unzstd.is_none() {
            self.unzstd = Some(Decompressor::new().ok()?);
        }
        let at = out.len();
        out.resize(at + plain, 0);
        let made = self.unzstd.as_mut()?.decompress_to_buffer(body, out.get_mut(at..)?).ok()?;
        out.truncate(at + made);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use super::*;

    const BOTH: [Algorithm; 2] = [Algorithm::Zlib, Algorithm::Zstd(3)];

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|i| b"select from where "[(i * i / 7) % 18]).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .take(len)
        .collect()
    }

    fn there_and_back(press: &mut Press, algorithm: Algorithm, plain: &[u8]) -> Header {
        let (mut packed, mut back) = (b"before".to_vec(), b"x".to_vec());
        press.pack(algorithm, 200, plain, &mut packed).unwrap();
        let header = Header::peek(&packed[6..]).unwrap();
        let body = &packed[6 + HEADER_LEN..];
        assert_eq!((header.packed, header.seq), (body.len(), 200));
        press.unpack(algorithm, header, body, &mut back).unwrap();
        assert!(&back[1..] == plain);
        header
    }

    #[test]
    fn frames_go_there_and_back() {
        let mut press = Press::default();
        for algorithm in BOTH {
            for len in [0, 1, PACKED_MIN - 1] {
                assert_eq!(there_and_back(&mut press, algorithm, &text(len)).plain, 0);
            }
            for len in [200, 5_000, PIECE, 2 * UNPACK_STEP + 1] {
                let header = there_and_back(&mut press, algorithm, &text(len));
                assert!(header.plain == len && header.packed < len);
                // What can't be packed goes as it is.
                assert_eq!(there_and_back(&mut press, algorithm, &noise(len)).plain, 0);
            }
        }
    }

    #[test]
    fn lies_are_seen_through() {
        let mut press = Press::default();
        for algorithm in BOTH {
            let mut frame = Vec::new();
            press.pack(algorithm, 0, &text(5_000), &mut frame).unwrap();
            let header = Header::peek(&frame).unwrap();
            let body = frame.split_off(HEADER_LEN);
            let mut unpack = |plain, body: &[u8]| {
                let mut out = b"kept".to_vec();
                let unpacked = press.unpack(algorithm, Header { plain, ..header }, body, &mut out);
                assert!(unpacked.is_ok() || out == b"kept");
                unpacked
            };
            assert_eq!(unpack(5_000, &body), Ok(()));
            for plain in [1, 4_999, 5_001, BODY_MAX] {
                assert_eq!(unpack(plain, &body), Err(Error::Uncompress), "{plain}");
            }
            assert_eq!(unpack(5_000, &body[..body.len() - 1]), Err(Error::Uncompress));
            assert_eq!(unpack(5_000, b""), Err(Error::Uncompress));
            assert_eq!(unpack(5_000, &noise(800)), Err(Error::Uncompress));
            assert_eq!(unpack(5_000, &body), Ok(()));
        }
    }

    #[test]
    fn a_bomb_goes_no_further_than_it_said() {
        // 200 MiB of zeros, said to be 1 MiB.
        let bomb = vec![0; 200 << 20];
        let mut deflated = vec![0; 1 << 20];
        let mut deflate = Compress::new(Compression::best(), true);
        let status = deflate.compress(&bomb, &mut deflated, FlushCompress::Finish).unwrap();
        assert_eq!(status, Status::StreamEnd);
        deflated.truncate(deflate.total_out() as usize);
        let zstd = zstd::bulk::compress(&bomb, 3).unwrap();
        for (algorithm, body) in BOTH.into_iter().zip([deflated, zstd]) {
            let header = Header { packed: body.len(), seq: 0, plain: 1 << 20 };
            let mut out = Vec::new();
            assert_eq!(Press::default().unpack(algorithm, header, &body, &mut out), Err(Error::Uncompress));
            assert!(out.is_empty() && out.capacity() <= 4 << 20);
        }
    }

    #[test]
    fn zlib_comes_first() {
        let both = Caps::COMPRESS | Caps::ZSTD;
        assert_eq!(Algorithm::agreed(both, 3), Some(Algorithm::Zlib));
        assert_eq!(Algorithm::agreed(Caps::ZSTD, 0), Some(Algorithm::Zstd(1)));
        assert_eq!(Algorithm::agreed(Caps::ZSTD, 22), Some(Algorithm::Zstd(9)));
        assert_eq!(Algorithm::agreed(Caps::PROTOCOL_41, 3), None);
    }

    #[test]
    fn another_implementation_reads_it() {
        use bytes::BytesMut;
        use mysql_common::proto::codec::PacketCodec;
        let plain = text(100_000);
        let mut inner = Vec::new();
        crate::frame::write_packet(&mut inner, &mut 1, |out| out.extend_from_slice(&plain));
        let (mut frames, mut press) = (Vec::new(), Press::default());
        for (seq, piece) in inner.chunks(PIECE).enumerate() {
            press.pack(Algorithm::Zlib, seq as u8 + 1, piece, &mut frames).unwrap();
        }
        let mut codec = PacketCodec::default();
        codec.compress(Compression::default());
        let (mut request, mut message) = (BytesMut::new(), Vec::new());
        codec.encode(&mut &b"\x0e"[..], &mut request).unwrap();
        let mut received = BytesMut::from(&frames[..]);
        assert!(codec.decode(&mut received, &mut message).unwrap());
        assert!(message == plain);
    }
}
