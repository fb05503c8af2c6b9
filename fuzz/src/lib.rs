//! What the fuzz targets share: a way to read choices and byte strings out of one input, and to cut a stream.
//!
//! The targets take bytes of anybody's making and hold what `usher-wire` and `usher-sql` promise of them: no panic, no
//! loop without end, nothing kept that is larger than what came, and the same answer however the stream is cut.
//! `cargo xtask fuzz` runs them with a stable toolchain; with cargo-fuzz, `cargo fuzz run NAME --sanitizer none`.

/// Takes choices off the front of a fuzzer's input. At its end everything reads as zero or empty.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Over a whole input.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    /// Two bytes, the low one first.
    pub fn short(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    /// Four bytes, the low one first.
    pub fn long(&mut self) -> u32 {
        u32::from(self.short()) | u32::from(self.short()) << 16
    }

    /// Up to `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// A byte string with its length in one byte before it.
    pub fn string(&mut self) -> &'a [u8] {
        let len = self.byte().into();
        self.bytes(len)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }

    /// Some places to cut a stream of bytes at: how far each is from the one before.
    pub fn cuts(&mut self) -> Vec<usize> {
        let count = self.byte() % 16;
        (0..count).map(|_| usize::from(self.byte())).collect()
    }
}

/// The stream in pieces, as a socket might bring it: cut at `cuts`, each counted from the one before; the last
/// piece has what is left. A first cut of 255 means a piece for each byte.
pub fn pieces<'b>(bytes: &'b [u8], cuts: &[usize]) -> Vec<&'b [u8]> {
    if cuts.first() == Some(&255) {
        return bytes.chunks(1).collect();
    }
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, behind) = rest.split_at((*cut).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    pieces
}

/// The session settings of a choice's low four bits.
pub fn mode(choices: u8) -> usher_sql::Mode {
    usher_sql::Mode {
        ansi_quotes: choices & 1 != 0,
        no_backslash_escapes: choices & 2 != 0,
        pipes_as_concat: choices & 4 != 0,
        foreign_charset: choices & 8 != 0,
    }
}
