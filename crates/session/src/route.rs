//! From a plan and its values to a shard.

use usher_backend::Settings;
use usher_directory::{EntityState, Located};
use usher_sql::{
    Bound as BoundValue, Key as SqlKey, KeySource, KeyType, KeyValue, Literal, LiteralKind, Mode, bound_key,
    canonical_key,
};
use usher_topology::{Key, ShardId};
use usher_wire::sqlerr::{ErrorId, Failure};
use usher_wire::stmt::Param;

use crate::pins::Reason;
use crate::session::Session;
use crate::user_vars::Carried;

/// The values of one execution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) literals: &'a [Literal],
    /// Bound parameters, in order; empty for text.
    pub(crate) params: &'a [Param<'a>],
    pub(crate) mode: Mode,
    pub(crate) last_insert_id: u64,
    /// User variables are among them.
    pub(crate) settings: &'a Settings,
    /// There may be other user variables on a connection, whose values only that knows.
    pub(crate) others: bool,
}

impl Values<'_> {
    /// The user that one source names; `None` is NULL.
    pub(crate) fn key(&self, source: &KeySource) -> Result<Option<Key>, Failure> {
        self.key_of(&source.value, source.key_type)
    }

    /// As [`Values::key`], of a value compared with a column of this type.
    pub(crate) fn key_of(&self, value: &KeyValue, key_type: KeyType) -> Result<Option<Key>, Failure> {
        let found = match value {
            KeyValue::Null => return Ok(None),
            KeyValue::LastInsertId => return Ok(Some(Key::Int(self.last_insert_id.into()))),
            KeyValue::UserVar(name) => self.variable(name, key_type)?,
            KeyValue::Literal { ordinal, negative } => self.literal(*ordinal, *negative, key_type),
        };
        match found {
            Ok(SqlKey::Null) => Ok(None),
            Ok(SqlKey::Is(text)) => Ok(Some(match key_type {
                KeyType::Int { .. } => Key::from_stored(&text),
                KeyType::Text(_) => Key::Text(text.into()),
            })),
            Err(error) => Err(Failure::new(ErrorId::NoKey).note(error.to_string())),
        }
    }

    /// The value of `@name`.
    fn variable(
        &self,
        name: &str,
        key_type: KeyType,
    ) -> Result<Result<SqlKey, usher_sql::KeyError>, Failure> {
        let sql = self.settings.variable(&format!("@{name}"));
        let unknown = || {
            let note = format!(
                "the user is named by @{name}, whose value usher cannot tell; write the value itself"
            );
            Failure::new(ErrorId::UndefinedKeyValue).note(note)
        };
        let value = match Carried::of(sql) {
            Carried::Null if sql.is_none() && self.others => return Err(unknown()),
            Carried::Null => BoundValue::Null,
            Carried::Number(number) => BoundValue::Int(number.parse().map_err(|_| unknown())?),
            Carried::Bytes { bytes, is_utf8: true, .. } => {
                return Ok(bound_key(BoundValue::Bytes(&bytes), key_type, self.mode));
            }
            Carried::Bytes { .. } => return Err(unknown()),
        };
        Ok(bound_key(value, key_type, self.mode))
    }

    /// The value of a literal or parameter that is a plain number of rows.
    pub(crate) fn count(&self, ordinal: u32) -> Option<u64> {
        let literal = self.literals.get(ordinal as usize)?;
        let parsed = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse().ok();
        match literal.kind {
            LiteralKind::Int => parsed(self.text.get(literal.span())?),
            LiteralKind::Param(index) => match self.params.get(usize::from(index))? {
                Param::Int(number) => u64::try_from(*number).ok(),
                Param::UInt(number) => Some(*number),
                Param::Bytes(bytes) => parsed(bytes),
                _ => None,
            },
            _ => None,
        }
    }

    fn literal(
        &self,
        ordinal: u32,
        negative: bool,
        key_type: KeyType,
    ) -> Result<SqlKey, usher_sql::KeyError> {
        let Some(literal) = self.literals.get(ordinal as usize) else {
            return Err(usher_sql::KeyError::Unbound);
        };
        if let LiteralKind::Param(index) = literal.kind {
            let param = self.params.get(usize::from(index)).ok_or(usher_sql::KeyError::Unbound)?;
            return bound_key(bound(*param), key_type, self.mode);
        }
        let raw = self.text.get(literal.span()).unwrap_or_default();
        canonical_key(raw, literal.kind, negative, key_type, self.mode)
    }

    /// The one user that all sources name; `Ok(None)` if a NULL is among them, so that nothing can be found.
    pub(crate) fn one_key(&self, sources: &[KeySource]) -> Result<Option<Key>, Failure> {
        let mut one: Option<Key> = None;
        for source in sources {
            if let Some(key) = self.plain_integer(source)
                && one.as_ref().is_none_or(|one| *one == key)
            {
                one = Some(key);
                continue;
            }
            let Some(key) = self.key(source)? else { return Ok(None) };
            if one.as_ref().is_some_and(|one| *one != key) {
                return Err(Failure::new(ErrorId::ScatterUnsupported)
                    .note("the statement names more than one user; send one statement for each user"));
            }
            one = Some(key);
        }
        Ok(one)
    }

    /// The usual case without a detour over text: digits for an integer column.
    fn plain_integer(&self, source: &KeySource) -> Option<Key> {
        let (KeyValue::Literal { ordinal, negative: false }, KeyType::Int { .. }) =
            (&source.value, source.key_type)
        else {
            return None;
        };
        let literal = self.literals.get(*ordinal as usize)?;
        let number: i64 = match literal.kind {
            LiteralKind::Int => std::str::from_utf8(self.text.get(literal.span())?).ok()?.parse().ok()?,
            LiteralKind::Param(index) => match self.params.get(usize::from(index))? {
                Param::Int(number) => *number,
                Param::UInt(number) => i64::try_from(*number).ok()?,
                _ => return None,
            },
            _ => return None,
        };
        // What no column narrower than BIGINT could hold goes the long way, which knows the column.
        (0..=i64::from(i32::MAX)).contains(&number).then_some(Key::Int(number.into()))
    }
}

fn bound(param: Param<'_>) -> BoundValue<'_> {
    match param {
        Param::Null => BoundValue::Null,
        Param::Int(value) => BoundValue::Int(value),
        Param::UInt(value) => BoundValue::UInt(value),
        Param::Float(value) => BoundValue::Float(value.into()),
        Param::Double(value) => BoundValue::Float(value),
        Param::Bytes(bytes) => BoundValue::Bytes(bytes),
        _ => BoundValue::Time,
    }
}

/// Where a statement's rows are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) shard: ShardId,
    /// Copies must not be asked: the user is being moved, or was lately.
    pub(crate) from_writer: bool,
    /// Any other shard does as well, if this one does not answer.
    pub(crate) or_another: bool,
}

impl Place {
    pub(crate) fn writer(shard: ShardId) -> Self {
        Self { shard, from_writer: true, or_another: false }
    }

    pub(crate) fn any_server(shard: ShardId) -> Self {
        Self { shard, from_writer: false, or_another: false }
    }

    pub(crate) fn of(located: Located) -> Self {
        let from_writer = matches!(located.state, EntityState::Locked | EntityState::Settling);
        Self { from_writer, ..Self::any_server(located.shard) }
    }
}

impl Session {
    /// Whether a connection may have user variables that the session does not know.
    pub(crate) fn has_other_variables(&self) -> bool {
        let may = |reason| self.bound.iter().any(|bound| bound.pins.has(reason, b""));
        may(Reason::Variable) || may(Reason::Procedure)
    }

    /// Where a user lives. No await on a hit.
    pub(crate) async fn locate(&self, key: &Key) -> Result<Option<Located>, Failure> {
        match self.shared.directory.cached(key) {
            Some(found) => Ok(found),
            None => {
                Box::pin(self.shared.directory.locate(key)).await.map_err(|error| directory_failure(&error))
            }
        }
    }

    /// Where a user lives whose rows are to be changed. That there is none is not believed to a cache: the user may
    /// have come by another proxy a moment ago.
    pub(crate) async fn locate_to_change(&self, key: &Key) -> Result<Option<Located>, Failure> {
        match self.shared.directory.cached(key) {
            Some(Some(located)) => Ok(Some(located)),
            Some(None) => Box::pin(self.shared.directory.locate_fresh(key))
                .await
                .map_err(|error| directory_failure(&error)),
            None => self.locate(key).await,
        }
    }

    /// Where statements of unknown users run: the tables of the global master, which are empty there; or the shard
    /// of the open transaction, which has no rows of theirs either.
    pub(crate) fn nowhere(&self) -> Place {
        let shard = match self.transaction {
            crate::session::Transaction::Open(shard) => shard,
            _ => ShardId::GLOBAL,
        };
        Place::writer(shard)
    }
}

/// The failure that a client gets for an error of the directory.
pub(crate) fn directory_failure(error: &usher_directory::Error) -> Failure {
    use usher_directory::Error;
    let id = match error {
        Error::Busy { .. } => ErrorId::DirectoryBusy,
        Error::NoShard => ErrorId::PlacementRefused,
        _ => ErrorId::DirectoryUnavailable,
    };
    Failure::new(id).note(error.to_string()).safe_to_retry()
}
