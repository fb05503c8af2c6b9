//! Session state changes, as OK packets carry them.

use crate::codec::{Reader, put_lenenc_bytes, put_lenenc_int};

/// One session state change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// A system variable has a new value.
    Variable {
        /// Its name.
        name: &'a [u8],
        /// Its value as text.
        value: &'a [u8],
    },
    /// The default schema.
    Schema(&'a [u8]),
    /// True if some session state has changed.
    State(bool),
    /// GTIDs, as text.
    Gtids(&'a [u8]),
    /// Statements that would start a transaction like the current one.
    TransactionCharacteristics(&'a [u8]),
    /// Eight characters that tell what the transaction did so far.
    TransactionState(&'a [u8]),
    /// A kind that a newer server knows, with its data.
    Other(u64, &'a [u8]),
}

impl Change<'_> {
    /// The number by which the protocol knows this kind.
    pub fn code(&self) -> u64 {
        match self {
            Change::Variable { .. } => 0,
            Change::Schema(_) => 1,
            Change::State(_) => 2,
            Change::Gtids(_) => 3,
            Change::TransactionCharacteristics(_) => 4,
            Change::TransactionState(_) => 5,
            Change::Other(code, _) => *code,
        }
    }
}

/// Kinds of changes that a client is to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrackSet(pub u8);

impl TrackSet {
    /// No kind.
    pub const NONE: Self = Self(0);
    /// System variables.
    pub const VARIABLES: Self = Self(1);
    /// The schema.
    pub const SCHEMA: Self = Self(1 << 1);
    /// Whether anything changed.
    pub const STATE: Self = Self(1 << 2);
    /// GTIDs.
    pub const GTIDS: Self = Self(1 << 3);
    /// Transaction characteristics and state.
    pub const TRANSACTION: Self = Self(1 << 4 | 1 << 5);
    /// Every kind.
    pub const ALL: Self = Self(0xff);

    /// This set and the other.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if changes of this kind are in the set; kinds we do not know are in [`TrackSet::ALL`] only.
    pub fn has(self, change: &Change<'_>) -> bool {
        match change.code() {
            code @ 0..=5 => self.0 >> code & 1 == 1,
            _ => self == Self::ALL,
        }
    }
}

/// Walks session state changes. Stops at the first that is malformed, as a client of the server would.
#[derive(Debug, Clone)]
pub struct Changes<'a> {
    rest: Reader<'a>,
    /// Pairs left in a block of variables: servers write one pair a block, the protocol allows several.
    variables: Reader<'a>,
}

impl<'a> Changes<'a> {
    /// Walks the state block of an OK packet.
    pub fn new(state: &'a [u8]) -> Self {
        Self { rest: Reader::new(state, "session state"), variables: Reader::new(&[], "session variable") }
    }

    fn variable(&mut self) -> Option<Change<'a>> {
        let name = self.variables.lenenc_bytes().ok()?;
        // A NULL value comes as the marker byte alone.
        let value = match self.variables.rest().first() {
            Some(0xfb) => self.variables.take(1).map(|_| Default::default()),
            None => Ok(Default::default()),
            Some(_) => self.variables.lenenc_bytes(),
        };
        Some(Change::Variable { name, value: value.ok()? })
    }

    fn parse_next(&mut self) -> Option<Change<'a>> {
        if !self.variables.is_empty() {
            return self.variable();
        }
        let code = self.rest.lenenc_int().ok()?;
        let data = self.rest.lenenc_bytes().ok()?;
        let mut r = Reader::new(data, "session state");
        Some(match code {
            0 => {
                self.variables = r;
                return self.variable();
            }
            1 => Change::Schema(r.lenenc_bytes().ok()?),
            2 => Change::State(r.lenenc_bytes().ok()? == b"1"),
            3 => {
                // One byte tells the encoding; only "text" exists.
                r.u8().ok()?;
                Change::Gtids(r.lenenc_bytes().ok()?)
            }
            4 => Change::TransactionCharacteristics(r.lenenc_bytes().ok()?),
            5 => Change::TransactionState(r.lenenc_bytes().ok()?),
            other => Change::Other(other, data),
        })
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        if self.rest.is_empty() && self.variables.is_empty() {
            return None;
        }
        let change = self.parse_next();
        if change.is_none() {
            self.rest.take_rest();
            self.variables.take_rest();
        }
        change
    }
}

/// Appends one change to a state block.
pub fn put_change(out: &mut Vec<u8>, change: &Change<'_>) {
    let mut data = Vec::new();
    match *change {
        Change::Variable { name, value } => {
            put_lenenc_bytes(&mut data, name);
            put_lenenc_bytes(&mut data, value);
        }
        Change::Schema(text) | Change::TransactionCharacteristics(text) | Change::TransactionState(text) => {
            put_lenenc_bytes(&mut data, text);
        }
        Change::State(changed) => put_lenenc_bytes(&mut data, if changed { b"1" } else { b"0" }),
        Change::Gtids(text) => {
            data.push(0);
            put_lenenc_bytes(&mut data, text);
        }
        Change::Other(_, raw) => data.extend_from_slice(raw),
    }
    put_lenenc_int(out, change.code());
    put_lenenc_bytes(out, &data);
}
