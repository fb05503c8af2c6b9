//! The block of bound values that COM_STMT_EXECUTE and query attributes share:
//! null bitmap, a flag, types (and names), values.

use super::param::{Param, ParamType};
use crate::Error;
use crate::codec::Reader;

/// More values than any server takes (65535 placeholders and as many attributes).
const COUNT_MAX: u64 = 0x2_0000;

/// A block of bound values, checked from end to end when it was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindBlock<'a> {
    count: usize,
    nulls: &'a [u8],
    types: Types<'a>,
    values: &'a [u8],
    /// Numbers of the parameters whose data came ahead.
    long: &'a [u16],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Types<'a> {
    /// In the block itself, with names or without.
    Sent { raw: &'a [u8], named: bool },
    /// From the execution before.
    Remembered(&'a [ParamType]),
}

/// One bound value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound<'a> {
    /// Its name; empty for a placeholder.
    pub name: &'a [u8],
    /// Its type.
    pub ty: ParamType,
    /// Its value.
    pub value: Param<'a>,
}

impl Default for BindBlock<'_> {
    fn default() -> Self {
        Self { count: 0, nulls: &[], types: Types::Remembered(&[]), values: &[], long: &[] }
    }
}

/// What a statement's executions before this one left behind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory<'a> {
    pub(super) types: &'a [ParamType],
    pub(super) long: &'a [u16],
}

impl<'a> BindBlock<'a> {
    /// Reads a block of `count` values off `r`.
    pub(crate) fn parse_sent(r: &mut Reader<'a>, count: u64) -> Result<Self, Error> {
        let block = Self::parse(r, count, true, Memory::default())?;
        match block.types {
            Types::Sent { .. } => Ok(block),
            Types::Remembered(_) => Err(Error::Malformed("query attributes")),
        }
    }

    pub(super) fn parse(
        r: &mut Reader<'a>,
        count: u64,
        named: bool,
        memory: Memory<'a>,
    ) -> Result<Self, Error> {
        if count > COUNT_MAX {
            return Err(Error::Malformed("number of parameters"));
        }
        let count = usize::try_from(count).map_err(|_| Error::Malformed("number of parameters"))?;
        let nulls = r.take(count.div_ceil(8))?;
        let types = match r.u8()? {
            0 => Types::Remembered(memory.types),
            1 => Types::Sent { raw: take_types(r, count, named)?, named },
            _ => return Err(Error::Malformed("new-params-bound flag")),
        };
        let mut block = Self { count, nulls, types, values: r.rest(), long: memory.long };
        let mut params = block.iter();
        params.by_ref().try_for_each(|bound| bound.map(drop))?;
        block.values = r.take(block.values.len() - params.values.rest().len())?;
        Ok(block)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// True if the types stand in the block; else they are those of the execution before.
    pub fn has_types(&self) -> bool {
        matches!(self.types, Types::Sent { .. })
    }

    /// The values in order.
    pub fn iter(&self) -> Params<'a> {
        let (types, named, remembered) = match self.types {
            Types::Sent { raw, named } => (raw, named, None),
            Types::Remembered(types) => (&[][..], false, Some(types)),
        };
        Params {
            at: 0,
            count: self.count,
            nulls: self.nulls,
            types: Reader::new(types, "parameter types"),
            named,
            remembered,
            values: Reader::new(self.values, "parameter values"),
            long: self.long,
        }
    }

    /// The values from number `first` on, as attributes.
    pub fn attributes(&self, first: usize) -> Attributes<'a> {
        Attributes { block: *self, first }
    }
}

fn take_types<'a>(r: &mut Reader<'a>, count: usize, named: bool) -> Result<&'a [u8], Error> {
    if !named {
        return r.take(count * 2);
    }
    let mut ahead = *r;
    for _ in 0..count {
        ahead.take(2)?;
        ahead.lenenc_bytes()?;
    }
    r.take(r.rest().len() - ahead.rest().len())
}

/// Walks the values of a block.
#[derive(Debug, Clone)]
pub struct Params<'a> {
    at: usize,
    count: usize,
    nulls: &'a [u8],
    types: Reader<'a>,
    named: bool,
    remembered: Option<&'a [ParamType]>,
    values: Reader<'a>,
    long: &'a [u16],
}

impl<'a> Params<'a> {
    fn read(&mut self) -> Result<Bound<'a>, Error> {
        let at = self.at;
        let (ty, name) = match self.remembered {
            Some(types) => (*types.get(at).ok_or(Error::Malformed("parameters without types"))?, &[][..]),
            None => {
                let ty = ParamType::from_bytes(self.types.array()?);
                (ty, if self.named { self.types.lenenc_bytes()? } else { &[] })
            }
        };
        let null = self.nulls.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
        // As in servers, data that came ahead wins over the bitmap.
        let value = if self.long.iter().any(|&long| usize::from(long) == at) {
            Param::Long
        } else if null {
            Param::Null
        } else {
            Param::read(&mut self.values, ty)?
        };
        self.at += 1;
        Ok(Bound { name, ty, value })
    }
}

impl<'a> Iterator for Params<'a> {
    type Item = Result<Bound<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.count {
            return None;
        }
        let bound = self.read();
        if bound.is_err() {
            self.at = self.count;
        }
        Some(bound)
    }
}

/// Query attributes: names and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes<'a> {
    block: BindBlock<'a>,
    first: usize,
}

impl<'a> Attributes<'a> {
    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.first >= self.block.count
    }

    /// The attributes in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Param<'a>)> + use<'a> {
        // The block was walked when it was parsed, so no error is hidden here.
        self.block.iter().skip(self.first).flatten().map(|bound| (bound.name, bound.value))
    }

    /// The value of the attribute of this name.
    pub fn value(&self, name: &[u8]) -> Option<Param<'a>> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}
