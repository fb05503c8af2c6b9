//! INSERT and REPLACE into sharded tables: whose rows they are, and ids from the global sequence.

use usher_sql::{
    InsertShape, KeyValue, Kind, Literal, LiteralKind, Plan, RowValue, Target, asks_for_id, insert_points,
};
use usher_topology::Key;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};
use usher_wire::stmt::Param;

use crate::execute::Body;
use crate::query::{Text, packet, unsupported};
use crate::route::Values;
use crate::session::{Served, Session, Stop, Turn};

/// The error of a row whose user is NULL.
pub(crate) fn null_user() -> Stop {
    let note = "the row's user is NULL; a row of a sharded table needs a user";
    Failure::new(ErrorId::NoKey).note(note).executed(Executed::No).into()
}

/// What an INSERT was given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Insert {
    /// The first id from the sequence, if any was needed.
    pub(crate) first_id: Option<u64>,
}

/// What is to be done about one row's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowId {
    /// It has one; known if it can be read before the statement runs.
    Own(Option<u64>),
    /// It needs one.
    Needed,
}

impl Session {
    /// An INSERT or REPLACE in text.
    pub(crate) async fn insert_text(&mut self, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        let Some(shape) = &plan.insert else {
            return Err(Failure::new(ErrorId::Bug).note("an INSERT without its shape").into());
        };
        let rows = row_ids(shape, &self.values(statement));
        let ids = self.ids_for(shape, &rows).await?;
        let key = insert_key(plan, shape, &self.values(statement), ids.first_id)?;
        let Some(first) = ids.first_id else {
            return self.of_user(plan, key, Body::Text(statement.packets), Some(ids), turn).await;
        };
        let text = with_ids(statement, shape, &rows, first, self.mode)?;
        let packets = packet(&text);
        self.of_user(plan, key, Body::Text(&packets), Some(ids), turn).await
    }

    /// Takes as many consecutive ids as rows need, and keeps the sequence ahead of ids that rows bring along.
    pub(crate) async fn ids_for(&mut self, shape: &InsertShape, rows: &[RowId]) -> Result<Insert, Stop> {
        let needed = rows.iter().filter(|row| **row == RowId::Needed).count() as u64;
        let own =
            rows.iter().filter_map(|row| if let RowId::Own(Some(id)) = row { Some(*id) } else { None }).max();
        if needed == 0 && own.is_none() {
            return Ok(Insert { first_id: None });
        }
        let sequence = format!("{}.{}", shape.table.schema.as_deref().unwrap_or_default(), shape.table.name);
        let directory = &self.shared.directory;
        let failed = |error: usher_directory::Error| {
            Failure::new(ErrorId::SequenceUnavailable)
                .field("sequence", &sequence)
                .note(error.to_string())
                .safe_to_retry()
        };
        if let Some(id) = own {
            Box::pin(directory.raise_sequence(&sequence, id)).await.map_err(failed)?;
        }
        if needed == 0 {
            return Ok(Insert { first_id: None });
        }
        let first = match directory.take_ids_now(&sequence, needed) {
            Some(first) => first,
            None => Box::pin(directory.take_ids(&sequence, needed)).await.map_err(failed)?,
        };
        Ok(Insert { first_id: Some(first) })
    }
}

/// Which rows need an id. A row brings its own by a literal or parameter other than 0.
pub(crate) fn row_ids(shape: &InsertShape, values: &Values<'_>) -> Vec<RowId> {
    let Some(sequence) = &shape.sequence else { return Vec::new() };
    sequence.values.iter().map(|value| row_id(value, values)).collect()
}

fn row_id(value: &RowValue, values: &Values<'_>) -> RowId {
    match value {
        RowValue::Omitted | RowValue::Default | RowValue::Given(KeyValue::Null) => RowId::Needed,
        RowValue::Given(KeyValue::Literal { ordinal, negative }) => {
            let Some(literal) = values.literals.get(*ordinal as usize) else { return RowId::Own(None) };
            literal_id(literal, *negative, values)
        }
        RowValue::Given(_) | RowValue::Expression => RowId::Own(None),
    }
}

fn literal_id(literal: &Literal, negative: bool, values: &Values<'_>) -> RowId {
    if let LiteralKind::Param(index) = literal.kind {
        return match values.params.get(usize::from(index)) {
            Some(Param::Null | Param::Int(0) | Param::UInt(0)) => RowId::Needed,
            Some(Param::Int(id)) => RowId::Own(u64::try_from(*id).ok()),
            Some(Param::UInt(id)) => RowId::Own(Some(*id)),
            Some(Param::Bytes(b"0")) => RowId::Needed,
            Some(Param::Bytes(text)) => {
                RowId::Own(std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()))
            }
            _ => RowId::Own(None),
        };
    }
    let raw = values.text.get(literal.span()).unwrap_or_default();
    if asks_for_id(raw, literal.kind, values.mode) {
        return RowId::Needed;
    }
    let text = std::str::from_utf8(raw).unwrap_or_default().trim_matches(['\'', '"']);
    RowId::Own(text.parse().ok().filter(|_| !negative))
}

/// The user of all rows; `None` if it is NULL.
pub(crate) fn insert_key(
    plan: &Plan,
    shape: &InsertShape,
    values: &Values<'_>,
    first_id: Option<u64>,
) -> Result<Option<Key>, Failure> {
    let from_sequence = shape.sequence.as_ref().is_some_and(|sequence| sequence.is_key) && first_id.is_some();
    if from_sequence {
        if shape.rows > 1 {
            let note = "one INSERT makes several new users; send one statement for each";
            return Err(Failure::new(ErrorId::CrossShardWrite).note(note).executed(Executed::No));
        }
        return Ok(first_id.map(|id| Key::Int(id.into())));
    }
    match &plan.target {
        Target::User { sources } => values.one_key(sources),
        _ => Err(Failure::new(ErrorId::Bug).note("an INSERT of no user")),
    }
}

/// The statement with ids in the places of those that are left out, from `first` on.
///
/// # Errors
/// There is no place for them.
pub(crate) fn with_ids(
    statement: Text<'_>,
    shape: &InsertShape,
    rows: &[RowId],
    first: u64,
    mode: usher_sql::Mode,
) -> Result<Vec<u8>, Stop> {
    let end = statement.digest.end.min(statement.text.len());
    let text = statement.text.get(..end).unwrap_or_default();
    let Some(points) = insert_points(text, mode, shape) else {
        return Err(unsupported(
            "INSERT .. SELECT into a table whose ids come from a sequence; name the ids",
        ));
    };
    let mut replacements = Vec::new();
    replacements.extend(points.column.into_iter().map(|(at, name)| (at..at, name)));
    let mut next = first;
    for (point, row) in points.values.iter().zip(rows) {
        if *row == RowId::Needed {
            replacements.push((point.span.clone(), format!("{}{next}{}", point.before, point.after)));
            next += 1;
        }
    }
    replacements.sort_by_key(|(span, _)| span.start);
    let mut out = Vec::new();
    usher_sql::splice(text, &replacements, &mut out)
        .map_err(|error| Failure::new(ErrorId::Bug).note(error.to_string()))?;
    Ok(out)
}

/// A server's text of a statement, and the places of placeholders that only it has.
pub(crate) type WithPlaceholders = (Vec<u8>, Vec<u16>);

/// For a prepared INSERT whose text leaves ids out: the text with a placeholder for each of them, and the places of
/// these among all placeholders.
pub(crate) fn with_placeholders(
    text: &[u8],
    plan: &Plan,
    literals: &[Literal],
    mode: usher_sql::Mode,
) -> Result<Option<WithPlaceholders>, Stop> {
    let Some((shape, sequence)) = plan.insert.as_ref().and_then(|s| Some((s, s.sequence.as_ref()?))) else {
        return Ok(None);
    };
    let left_out = |value: &RowValue| {
        matches!(value, RowValue::Omitted | RowValue::Default | RowValue::Given(KeyValue::Null))
            || matches!(value, RowValue::Given(KeyValue::Literal { ordinal, .. })
            if literals.get(*ordinal as usize).is_some_and(|literal| {
                asks_for_id(text.get(literal.span()).unwrap_or_default(), literal.kind, mode)
            }))
    };
    if !matches!(plan.kind, Kind::Insert | Kind::Replace) || !sequence.values.iter().any(left_out) {
        return Ok(None);
    }
    let Some(points) = insert_points(text, mode, shape) else {
        return Err(unsupported(
            "INSERT .. SELECT into a table whose ids come from a sequence; name the ids",
        ));
    };
    let mut replacements = Vec::new();
    replacements.extend(points.column.into_iter().map(|(at, name)| (at..at, name)));
    let mut at = Vec::new();
    for (point, _) in points.values.iter().zip(&sequence.values).filter(|(_, value)| left_out(value)) {
        let before = literals
            .iter()
            .filter(|literal| matches!(literal.kind, LiteralKind::Param(_)))
            .filter(|literal| (literal.start as usize) < point.span.start)
            .count();
        at.push(u16::try_from(before + at.len()).map_err(|_| unsupported("that many placeholders"))?);
        replacements.push((point.span.clone(), format!("{}?{}", point.before, point.after)));
    }
    replacements.sort_by_key(|(span, _)| span.start);
    let mut out = Vec::new();
    usher_sql::splice(text, &replacements, &mut out)
        .map_err(|error| Failure::new(ErrorId::Bug).note(error.to_string()))?;
    Ok(Some((out, at)))
}
