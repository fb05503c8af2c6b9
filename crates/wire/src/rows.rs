//! Cells of rows, for the few answers that have to be looked into (merges, ids).

use crate::Error;
use crate::codec::Reader;
use crate::stmt::{Param, ParamType};

/// Walks the cells of a text row: `None` is NULL.
#[derive(Debug, Clone)]
pub struct TextRow<'a> {
    rest: Reader<'a>,
}

impl<'a> TextRow<'a> {
    /// Over a row's payload.
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: Reader::new(payload, "text row") }
    }

    fn cell(&mut self) -> Result<Option<&'a [u8]>, Error> {
        let Some(len) = self.rest.lenenc_or_null()? else { return Ok(None) };
        self.rest.take(usize::try_from(len).map_err(|_| self.rest.malformed())?).map(Some)
    }
}

impl<'a> Iterator for TextRow<'a> {
    type Item = Result<Option<&'a [u8]>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let cell = self.cell();
        if cell.is_err() {
            self.rest.take_rest();
        }
        Some(cell)
    }
}

/// Walks the cells of a binary row.
#[derive(Debug, Clone)]
pub struct BinaryRow<'a, 't> {
    nulls: &'a [u8],
    values: Reader<'a>,
    types: &'t [ParamType],
    at: usize,
}

impl<'a, 't> BinaryRow<'a, 't> {
    /// Over a row's payload; `types` are those of the result's columns.
    pub fn new(payload: &'a [u8], types: &'t [ParamType]) -> Result<Self, Error> {
        let mut r = Reader::new(payload, "binary row");
        if r.u8()? != 0 {
            return Err(r.malformed());
        }
        let nulls = r.take((types.len() + 9) / 8)?;
        Ok(Self { nulls, values: r, types, at: 0 })
    }
}

impl<'a> Iterator for BinaryRow<'a, '_> {
    type Item = Result<Param<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let ty = *self.types.get(self.at)?;
        let bit = self.at + 2;
        self.at += 1;
        let null = self.nulls.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 1);
        let cell = if null { Ok(Param::Null) } else { Param::read(&mut self.values, ty) };
        if cell.is_err() {
            self.at = self.types.len();
        }
        Some(cell)
    }
}
