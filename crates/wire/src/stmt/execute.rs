//! COM_STMT_EXECUTE: parsing the client's, writing the server's.

use super::bind::{Attributes, BindBlock, Memory};
use super::param::{Param, ParamType};
use crate::Error;
use crate::codec::{Reader, put_lenenc_bytes};
use crate::command::COM_STMT_EXECUTE;
use crate::frame::write_packet;

/// Flag: the number of parameters stands in the packet (query attributes).
pub const PARAMETER_COUNT_AVAILABLE: u8 = 0x08;
const CURSOR_FLAGS: u8 = 0x07;

/// Data of one parameter that came ahead: its number and its bytes.
pub type LongData<'a> = (u16, &'a [u8]);

/// A parsed COM_STMT_EXECUTE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// Statement id, the client's.
    pub id: u32,
    /// Cursor flags.
    pub flags: u8,
    /// All values: placeholders first, then attributes.
    pub block: BindBlock<'a>,
    params: usize,
}

impl<'a> Execute<'a> {
    /// Parses a payload, command byte included. `params` is the statement's number of placeholders, `types` their
    /// types at the execution before (empty if there was none), `long` the placeholders whose data came ahead,
    /// `query_attributes` whether the client negotiated these.
    pub fn parse(
        payload: &'a [u8],
        params: u16,
        types: &'a [ParamType],
        long: &'a [u16],
        query_attributes: bool,
    ) -> Result<Self, Error> {
        let mut r = Reader::new(payload, "COM_STMT_EXECUTE");
        r.u8()?;
        let (id, flags) = (r.u32()?, r.u8()?);
        // The iteration count is always 1, and servers do not read it.
        r.u32()?;
        let counted = query_attributes && flags & PARAMETER_COUNT_AVAILABLE != 0;
        let mut count = u64::from(params);
        let mut block = BindBlock::default();
        if params > 0 || counted {
            if counted {
                count = r.lenenc_int()?;
            }
            if count < u64::from(params) {
                return Err(Error::Malformed("number of parameters"));
            }
            if count > 0 {
                block = BindBlock::parse(&mut r, count, query_attributes, Memory { types, long })?;
            }
        }
        Ok(Self { id, flags: flags & CURSOR_FLAGS, block, params: params.into() })
    }

    /// The placeholders' values in order.
    pub fn params(&self) -> impl Iterator<Item = (ParamType, Param<'a>)> + use<'a> {
        // The block was walked when it was parsed, so no error is hidden here.
        self.block.iter().take(self.params).flatten().map(|bound| (bound.ty, bound.value))
    }

    /// The query attributes.
    pub fn attributes(&self) -> Attributes<'a> {
        self.block.attributes(self.params)
    }

    /// Keeps the types for the next execution, if this one brought any.
    pub fn remember_types(&self, types: &mut Vec<ParamType>) {
        if self.block.has_types() {
            types.clear();
            types.extend(self.params().map(|(ty, _)| ty));
        }
    }

    /// True if a server without query attributes takes the client's packet as it is (but for the statement id):
    /// it brings its types, nothing came ahead and there are no names in it.
    pub fn is_plain(&self, query_attributes: bool) -> bool {
        let has_long = self.params().any(|(_, value)| value == Param::Long);
        (self.block.is_empty() || self.block.has_types()) && !query_attributes && !has_long
    }

    /// Puts a server's statement id into a client's packet; `payload` is the message's payload.
    pub fn patch_id(payload: &mut [u8], id: u32) -> Result<(), Error> {
        let place = payload.get_mut(1..5).ok_or(Error::Malformed("COM_STMT_EXECUTE"))?;
        place.copy_from_slice(&id.to_le_bytes());
        Ok(())
    }

    /// Appends a packet that executes the server's statement `id` with these values, types included, attributes
    /// left out. `long` is the data that came ahead, `instead(n)` may replace the value of placeholder `n`.
    pub fn rewrite(
        &self,
        out: &mut Vec<u8>,
        seq: &mut u8,
        id: u32,
        long: &[LongData<'_>],
        instead: impl Fn(usize) -> Option<Param<'a>>,
    ) {
        self.rewrite_with(out, seq, id, long, &[], instead);
    }

    /// As [`Execute::rewrite`], for a server's statement that has more placeholders than the client's: `added` are
    /// their places among all placeholders of the server's statement, in order, and their values.
    pub fn rewrite_with(
        &self,
        out: &mut Vec<u8>,
        seq: &mut u8,
        id: u32,
        long: &[LongData<'_>],
        added: &[(u16, Param<'_>)],
        instead: impl Fn(usize) -> Option<Param<'a>>,
    ) {
        let values = self.params().enumerate().map(|(n, (ty, value))| match (instead(n), value) {
            (Some(new), _) => (new.fitting_type(ty), Value::New(new)),
            (None, Param::Long) => {
                let data = long.iter().find(|(number, _)| usize::from(*number) == n).map(|(_, data)| *data);
                (Param::Bytes(&[]).fitting_type(ty), Value::New(Param::Bytes(data.unwrap_or_default())))
            }
            (None, value) => (ty, Value::Old(value)),
        });
        let null = ParamType::new(ParamType::NULL);
        let (mut values, mut added) = (values, added.iter().peekable());
        let count = self.params + added.len();
        let merged = (0..count).map_while(|at| match added.next_if(|(place, _)| usize::from(*place) == at) {
            Some((_, param)) => Some((param.fitting_type(null), Value::New(*param))),
            None => values.next(),
        });
        put_execute(out, seq, id, self.flags, count, merged);
    }
}

enum Value<'a> {
    /// As the client sent it: an integer keeps its type's width.
    Old(Param<'a>),
    New(Param<'a>),
}

/// Appends a COM_STMT_EXECUTE packet of a server's statement with these values.
pub fn write_execute(out: &mut Vec<u8>, seq: &mut u8, id: u32, flags: u8, params: &[Param<'_>]) {
    let values =
        params.iter().map(|param| (param.fitting_type(ParamType::new(ParamType::NULL)), Value::New(*param)));
    put_execute(out, seq, id, flags & CURSOR_FLAGS, params.len(), values);
}

fn put_execute<'v>(
    out: &mut Vec<u8>,
    seq: &mut u8,
    id: u32,
    flags: u8,
    count: usize,
    values: impl Iterator<Item = (ParamType, Value<'v>)>,
) {
    write_packet(out, seq, |out| {
        out.push(COM_STMT_EXECUTE);
        out.extend_from_slice(&id.to_le_bytes());
        out.push(flags);
        out.extend_from_slice(&1u32.to_le_bytes());
        if count == 0 {
            return;
        }
        let nulls_at = out.len();
        out.resize(nulls_at + count.div_ceil(8), 0);
        out.push(1);
        let types_at = out.len();
        out.resize(types_at + count * 2, 0);
        for (n, (ty, value)) in values.enumerate() {
            put_type(out, types_at + n * 2, ty);
            match value {
                Value::Old(Param::Null) | Value::New(Param::Null | Param::Long) => set_null(out, nulls_at, n),
                Value::Old(param) => put_as(out, &param, ty),
                Value::New(param) => param.put(out),
            }
        }
    });
}

fn put_type(out: &mut [u8], at: usize, ty: ParamType) {
    if let Some(place) = out.get_mut(at..at + 2) {
        place.copy_from_slice(&ty.bytes());
    }
}

fn set_null(out: &mut [u8], nulls_at: usize, n: usize) {
    if let Some(byte) = out.get_mut(nulls_at + n / 8) {
        *byte |= 1 << (n % 8);
    }
}

/// Writes a value back in its type's width. It was read from that width, so nothing is lost by the cut.
fn put_as(out: &mut Vec<u8>, param: &Param<'_>, ty: ParamType) {
    let width = match ty.code {
        ParamType::TINY => 1,
        ParamType::SHORT | ParamType::YEAR => 2,
        ParamType::LONG | ParamType::INT24 => 4,
        _ => 8,
    };
    match *param {
        Param::Int(v) => out.extend(v.to_le_bytes().iter().take(width)),
        Param::UInt(v) => out.extend(v.to_le_bytes().iter().take(width)),
        Param::Bytes(bytes) => put_lenenc_bytes(out, bytes),
        other => other.put(out),
    }
}
