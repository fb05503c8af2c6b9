//! Reading and writing the protocol's basic types. Reads are checked; nothing here allocates on reading.

use crate::Error;

/// Reads the protocol's basic types off the front of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// A reader over `bytes`; `what` names the packet in errors.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// True once everything is read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The error that names this reader's packet.
    pub fn malformed(&self) -> Error {
        Error::Malformed(self.what)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Error::Malformed(self.what))?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Error::Malformed(self.what))?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Error> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Three bytes, little endian.
    pub fn u24(&mut self) -> Result<u32, Error> {
        let [a, b, c] = self.array()?;
        Ok(u32::from_le_bytes([a, b, c, 0]))
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little endian.
    pub fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length-encoded integer. 0xFB (NULL) and 0xFF are malformed here.
    pub fn lenenc_int(&mut self) -> Result<u64, Error> {
        self.lenenc_or_null()?.ok_or(Error::Malformed(self.what))
    }

    /// A length-encoded integer, `None` for the NULL marker 0xFB of text rows.
    pub fn lenenc_or_null(&mut self) -> Result<Option<u64>, Error> {
        match self.u8()? {
            0xfb => Ok(None),
            0xfc => Ok(Some(u64::from(self.u16()?))),
            0xfd => Ok(Some(u64::from(self.u24()?))),
            0xfe => Ok(Some(self.u64()?)),
            0xff => Err(self.malformed()),
            small => Ok(Some(u64::from(small))),
        }
    }

    /// A string or blob with a length-encoded length.
    pub fn lenenc_bytes(&mut self) -> Result<&'a [u8], Error> {
        let len = self.lenenc_int()?;
        self.take(usize::try_from(len).map_err(|_| Error::Malformed(self.what))?)
    }

    /// A string that ends with a NUL byte, which is read but not returned.
    pub fn nul_bytes(&mut self) -> Result<&'a [u8], Error> {
        let len = memchr::memchr(0, self.rest).ok_or(Error::Malformed(self.what))?;
        let bytes = self.take(len)?;
        self.take(1)?;
        Ok(bytes)
    }

    /// A string that ends with a NUL byte or, as some drivers have it, with the packet.
    pub fn nul_or_eof_bytes(&mut self) -> &'a [u8] {
        match self.nul_bytes() {
            Ok(bytes) => bytes,
            Err(_) => self.take_rest(),
        }
    }

    /// Everything that is left.
    pub fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}

/// Appends a length-encoded integer.
pub fn put_lenenc_int(out: &mut Vec<u8>, value: u64) {
    let [a, b, c, ..] = value.to_le_bytes();
    match value {
        0..=0xfa => out.push(a),
        0xfb..=0xffff => out.extend_from_slice(&[0xfc, a, b]),
        0x1_0000..=0xff_ffff => out.extend_from_slice(&[0xfd, a, b, c]),
        _ => {
            out.push(0xfe);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// Appends bytes after their length-encoded length.
pub fn put_lenenc_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_lenenc_int(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends bytes and a NUL. What follows a NUL inside `bytes` would be read as the next field, so it is cut.
pub fn put_nul_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
    out.extend_from_slice(bytes.get(..end).unwrap_or(bytes));
    out.push(0);
}
