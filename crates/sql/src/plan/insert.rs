//! INSERT and REPLACE: which user each row belongs to, and where a sequence's ids go.

use std::ops::Range;

use crate::catalog::{Sharded, Table};
use crate::mode::Mode;
use crate::plan::analyse::{Context, route};
use crate::plan::facts;
use crate::plan::query::{Queries, Refusal, Source};
use crate::plan::tokens::Tokens;
use crate::plan::uses::Uses;
use crate::plan::{InsertShape, KeySource, KeyValue, RowValue, SequenceShape, TableName, Target};

/// Where to write ids into an INSERT. Offsets of one text: they hold for no other text of the same digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsertPoints {
    /// The column's name, to be inserted at an offset, if the statement does not name the column.
    pub column: Option<(usize, String)>,
    /// For each row where its value goes.
    pub values: Vec<ValuePoint>,
}

/// Where one row's id goes: `before`, the id and `after` replace the bytes of `span`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValuePoint {
    /// Empty for an insertion; the old value otherwise.
    pub span: Range<usize>,
    /// Text before the id.
    pub before: String,
    /// Text behind the id.
    pub after: &'static str,
}

/// A statement taken apart, still in indexes of tokens.
#[derive(Debug)]
struct Parts {
    table: (Option<String>, String),
    columns: Columns,
    /// Index of VALUES, SET or the SELECT.
    rows_word: usize,
    body: Body,
    /// Behind the rows or the SELECT: aliases, ON DUPLICATE KEY, RETURNING.
    tail: Range<usize>,
    ignore: bool,
}

#[derive(Debug)]
enum Columns {
    /// No list: all columns of the table, in order.
    All,
    /// The names, and the index of the first token in the parentheses.
    Named(Vec<String>, usize),
    /// INSERT .. SET.
    Set(Vec<String>),
}

#[derive(Debug)]
enum Body {
    /// For each row the index behind its `(` and its values.
    Rows(Vec<(usize, Vec<Range<usize>>)>),
    Select(Range<usize>),
}

/// Plans an INSERT or REPLACE whose first word is at `at`.
pub(crate) fn plan(
    context: Context<'_, '_>,
    range: Range<usize>,
) -> Result<(Target, Vec<TableName>, Option<InsertShape>), Refusal> {
    let parts = parts(context.tokens, range)?;
    let (schema, name) = parts.table.clone();
    let schema = schema.or_else(|| context.default_schema.map(str::to_owned));
    let entry = schema.as_deref().and_then(|schema| context.catalog.table(schema, &name));
    let table = TableName { schema: schema.clone(), name };
    let Some(Table::Sharded(sharded)) = entry else { return unsharded(context, &parts, table) };
    if let Some(odd) = context.tokens.odd {
        return Err(format!("has {odd}, so its rows cannot be told").into());
    }
    check_tail(context, &parts, sharded)?;
    let mut shape = shape(context, &parts, sharded, table.clone())?;
    match &parts.body {
        Body::Rows(rows) => {
            if rows.iter().flat_map(|(_, row)| row.iter()).any(|cell| has_select(context.tokens, cell)) {
                return Err("has a subquery in VALUES; query first, then insert".into());
            }
            let mut sources = Vec::new();
            for value in &shape.key {
                collect_source(&mut sources, value, &shape)?;
            }
            let new = shape.key.iter().filter(|value| !matches!(value, RowValue::Given(_))).count();
            if new > 1 || (new == 1 && !sources.is_empty()) {
                return Err("makes several users in one statement; insert them one by one".into());
            }
            Ok((Target::User { sources }, vec![table], Some(shape)))
        }
        Body::Select(select) => {
            let (target, mut tables) = from_select(context, &parts, select.clone(), sharded)?;
            shape.rows = 0;
            tables.insert(0, table);
            Ok((target, tables, Some(shape)))
        }
    }
}

/// The target is not sharded: fine, unless the SELECT or an expression reads a sharded table.
fn unsharded(
    context: Context<'_, '_>,
    parts: &Parts,
    table: TableName,
) -> Result<(Target, Vec<TableName>, Option<InsertShape>), Refusal> {
    let mut queries = context.queries();
    match &parts.body {
        Body::Select(select) => queries.query(select.clone(), None)?,
        Body::Rows(rows) => {
            for cell in rows.iter().flat_map(|(_, row)| row.iter()) {
                queries.subqueries(cell.clone(), None)?;
            }
        }
    }
    queries.subqueries(parts.tail.clone(), None)?;
    match route(context, &queries, &facts::pins(&queries, context.uses), Vec::new()) {
        Ok((Target::Global, mut tables)) => {
            tables.insert(0, table);
            Ok((Target::Global, tables, None))
        }
        _ => Err(format!(
            "fills {}, which is not sharded, from a sharded table; read and insert apart",
            table.name
        )
        .into()),
    }
}

fn has_select(tokens: &Tokens<'_>, range: &Range<usize>) -> bool {
    range.clone().any(|at| tokens.is_any(at, &["SELECT", "TABLE"]))
}

/// Adds the user that a row's key names.
fn collect_source(
    sources: &mut Vec<KeySource>,
    value: &RowValue,
    shape: &InsertShape,
) -> Result<(), Refusal> {
    let key = &shape.key_column;
    let from_sequence = shape.sequence.as_ref().is_some_and(|sequence| sequence.is_key);
    match value {
        RowValue::Given(value) => {
            let source = KeySource { value: value.clone(), key_type: shape.key_type };
            // Literals are never there twice, and looking for each would take the square of the rows.
            if matches!(value, KeyValue::Literal { .. }) || !sources.contains(&source) {
                sources.push(source);
            }
            Ok(())
        }
        RowValue::Omitted | RowValue::Default if from_sequence => Ok(()),
        RowValue::Omitted => Err(format!("does not give the key column {key}").into()),
        RowValue::Default => Err(format!("gives no value for the key column {key}").into()),
        RowValue::Expression => {
            Err(format!("gives an expression for the key column {key}; give its value").into())
        }
    }
}

fn shape(
    context: Context<'_, '_>,
    parts: &Parts,
    sharded: &Sharded,
    table: TableName,
) -> Result<InsertShape, Refusal> {
    let tokens = context.tokens;
    let column = |name: &str| values(context, parts, sharded, name);
    let rows = match &parts.body {
        Body::Rows(rows) => {
            u32::try_from(rows.len()).map_err(|_| "has too many rows; split it".to_owned())?
        }
        Body::Select(_) => 0,
    };
    let sequence = match &sharded.sequence {
        Some(name) => Some(SequenceShape {
            column: name.clone(),
            is_key: sharded.is_key(name),
            place: place_of(parts, sharded, name)?.and_then(|place| u32::try_from(place).ok()),
            values: column(name)?,
        }),
        None => None,
    };
    let has_tail = |word: &str| tokens.find(parts.tail.clone(), |at| tokens.is_word(at, word)).is_some();
    Ok(InsertShape {
        table,
        rows,
        key_column: sharded.key_column.clone(),
        key_type: sharded.key_type,
        key: column(&sharded.key_column)?,
        sequence,
        on_duplicate: has_tail("DUPLICATE"),
        ignore: parts.ignore,
        returning: has_tail("RETURNING"),
        from_select: matches!(parts.body, Body::Select(_)),
    })
}

/// What each row has for a column; empty for INSERT .. SELECT.
fn values(
    context: Context<'_, '_>,
    parts: &Parts,
    sharded: &Sharded,
    column: &str,
) -> Result<Vec<RowValue>, Refusal> {
    let Body::Rows(rows) = &parts.body else { return Ok(Vec::new()) };
    let place = place_of(parts, sharded, column)?;
    let (width, all) = match &parts.columns {
        Columns::All => (sharded.columns.len(), true),
        Columns::Named(names, _) | Columns::Set(names) => (names.len(), false),
    };
    // `VALUES ()` for a table of many columns: all of them at their defaults.
    if all && rows.iter().all(|(_, row)| row.is_empty()) {
        return Ok(vec![RowValue::Omitted; rows.len()]);
    }
    let value = |row: &[Range<usize>]| {
        if row.len() != width {
            return Err(format!("has {} values in a row for {width} columns", row.len()).into());
        }
        let cell = place.and_then(|place| row.get(place));
        Ok(cell.map_or(RowValue::Omitted, |cell| row_value(context.tokens, context.uses, cell.clone())))
    };
    rows.iter().map(|(_, row)| value(row)).collect()
}

/// Where a column stands in a list; twice is an error in MySQL too.
fn position(names: &[String], column: &str) -> Result<Option<usize>, Refusal> {
    let mut found = (0..names.len()).filter(|at| names[*at].eq_ignore_ascii_case(column));
    let first = found.next();
    if found.next().is_some() {
        return Err(format!("names the column {column} twice").into());
    }
    Ok(first)
}

fn row_value(tokens: &Tokens<'_>, uses: &Uses, range: Range<usize>) -> RowValue {
    if range.len() == 1 && (tokens.is_any(range.start, &["NULL", "DEFAULT", "\\N"])) {
        return RowValue::Default;
    }
    match facts::value(tokens, uses, range) {
        Some(value) => RowValue::Given(value),
        None => RowValue::Expression,
    }
}

/// `INSERT [mods] [INTO] t [PARTITION (..)] [(..)] VALUES .. | SET .. | SELECT ..`.
fn parts(tokens: &Tokens<'_>, range: Range<usize>) -> Result<Parts, Refusal> {
    let mut at = range.start + 1;
    let mut ignore = false;
    while tokens.is_any(at, &["LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "IGNORE"]) {
        ignore |= tokens.is_word(at, "IGNORE");
        at += 1;
    }
    at += usize::from(tokens.is_word(at, "INTO"));
    let unread = || "cannot read the INSERT".to_owned();
    let (schema, name, next) = tokens.dotted_name(at).ok_or_else(unread)?;
    at = next;
    if tokens.is_word(at, "PARTITION") {
        at = tokens.skip(at + 1, range.end);
    }
    let table = (schema, name);
    if tokens.is_word(at, "SET") {
        return set_form(tokens, at, range.end, table, ignore);
    }
    let mut columns = Columns::All;
    let holds_select = tokens.is_op(at, "(")
        && (at + 1..range.end)
            .find(|inner| !tokens.is_op(*inner, "("))
            .is_some_and(|first| tokens.is_any(first, &["SELECT", "WITH", "TABLE"]));
    if tokens.is_op(at, "(") && !holds_select {
        let close = tokens.closing(at, range.end).ok_or_else(unread)?;
        columns = Columns::Named(column_names(tokens, at + 1..close)?, at + 1);
        at = close + 1;
    }
    if tokens.is_any(at, &["VALUES", "VALUE"]) {
        let (rows, end) = rows(tokens, at + 1, range.end)?;
        return Ok(Parts {
            table,
            columns,
            rows_word: at,
            body: Body::Rows(rows),
            tail: end..range.end,
            ignore,
        });
    }
    if !tokens.is_any(at, &["SELECT", "WITH", "TABLE"]) && !tokens.is_op(at, "(") {
        return Err(unread().into());
    }
    let end = tokens
        .find(at..range.end, |at| {
            tokens.is_word(at, "RETURNING") || tokens.are_words(at, &["ON", "DUPLICATE"])
        })
        .unwrap_or(range.end);
    Ok(Parts { table, columns, rows_word: at, body: Body::Select(at..end), tail: end..range.end, ignore })
}

fn column_names(tokens: &Tokens<'_>, range: Range<usize>) -> Result<Vec<String>, Refusal> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    tokens
        .split_commas(range)
        .into_iter()
        .map(|part| {
            // `t.column` is allowed in the list.
            part.end.checked_sub(1).filter(|last| *last >= part.start).and_then(|last| tokens.name(last))
        })
        .collect::<Option<Vec<String>>>()
        .ok_or_else(|| "cannot read the list of columns".into())
}

type Rows = Vec<(usize, Vec<Range<usize>>)>;

/// `[ROW] (..), (..)`: the rows and the index behind.
fn rows(tokens: &Tokens<'_>, mut at: usize, end: usize) -> Result<(Rows, usize), Refusal> {
    let mut rows = Vec::new();
    loop {
        at += usize::from(tokens.is_word(at, "ROW"));
        let close = tokens.closing(at, end).ok_or("cannot read VALUES")?;
        let row = if close == at + 1 { Vec::new() } else { tokens.split_commas(at + 1..close) };
        rows.push((at + 1, row));
        at = close + 1;
        if !tokens.is_op(at, ",") || at >= end {
            return Ok((rows, at));
        }
        at += 1;
    }
}

/// `SET a = 1, b = 2`, as one row.
fn set_form(
    tokens: &Tokens<'_>,
    at: usize,
    end: usize,
    table: (Option<String>, String),
    ignore: bool,
) -> Result<Parts, Refusal> {
    let is_tail = |at: usize| {
        tokens.is_word(at, "RETURNING")
            || tokens.are_words(at, &["ON", "DUPLICATE"])
            || (tokens.is_word(at, "AS") && tokens.is_name(at + 1))
    };
    let stop = tokens.find(at + 1..end, is_tail).unwrap_or(end);
    let (mut names, mut row) = (Vec::new(), Vec::new());
    for part in tokens.split_commas(at + 1..stop) {
        let equals = tokens.find(part.clone(), |at| tokens.is_op(at, "=") || tokens.is_op(at, ":="));
        let equals = equals.filter(|at| *at > part.start).ok_or("cannot read the INSERT")?;
        names.push(tokens.name(equals - 1).ok_or("cannot read the INSERT")?);
        row.push(equals + 1..part.end);
    }
    let body = Body::Rows(vec![(at + 1, row)]);
    Ok(Parts { table, columns: Columns::Set(names), rows_word: at, body, tail: stop..end, ignore })
}

/// ON DUPLICATE KEY UPDATE may set the key to the row's own value only, and may not query.
fn check_tail(context: Context<'_, '_>, parts: &Parts, sharded: &Sharded) -> Result<(), Refusal> {
    let tokens = context.tokens;
    let tail = parts.tail.clone();
    if has_select(tokens, &tail) {
        return Err("has a subquery behind the rows; query first, then insert".into());
    }
    let Some(update) = tokens.find(tail.clone(), |at| tokens.are_words(at, &["DUPLICATE", "KEY", "UPDATE"]))
    else {
        return Ok(());
    };
    for part in tokens.split_commas(update + 3..tail.end) {
        let equals = tokens.find(part.clone(), |at| tokens.is_op(at, "=")).filter(|at| *at > part.start);
        let Some(column) = equals.and_then(|at| tokens.name(at - 1)) else { continue };
        let own = equals.is_some_and(|at| is_own_key(tokens, parts, sharded, at + 1..part.end));
        if sharded.is_key(&column) && !own {
            return Err(format!(
                "changes the key column {column} of a row that is there; move the user instead"
            )
            .into());
        }
    }
    Ok(())
}

/// `VALUES(key)`, `new.key`, or the key itself: the row keeps its user.
fn is_own_key(tokens: &Tokens<'_>, parts: &Parts, sharded: &Sharded, range: Range<usize>) -> bool {
    let key = |at: usize| tokens.name(at).is_some_and(|name| sharded.is_key(&name));
    let at = range.start;
    match range.len() {
        1 => key(at),
        3 => {
            matches!(parts.body, Body::Rows(_))
                && tokens.is_name(at)
                && tokens.is_op(at + 1, ".")
                && key(at + 2)
        }
        4 => {
            tokens.is_any(at, &["VALUES", "VALUE"])
                && tokens.closing(at + 1, range.end) == Some(at + 3)
                && key(at + 2)
        }
        _ => false,
    }
}

/// INSERT .. SELECT: each SELECT's item for the key must be a value or a key of its own tables.
fn from_select(
    context: Context<'_, '_>,
    parts: &Parts,
    select: Range<usize>,
    sharded: &Sharded,
) -> Result<(Target, Vec<TableName>), Refusal> {
    let tokens = context.tokens;
    if let Some(sequence) = &sharded.sequence
        && place_of(parts, sharded, sequence)?.is_none()
    {
        return Err(format!(
            "INSERT .. SELECT must give the sequence column {sequence}; read first, then insert"
        )
        .into());
    }
    let Some(place) = place_of(parts, sharded, &sharded.key_column)? else {
        return Err(format!("does not give the key column {}", sharded.key_column).into());
    };
    let plain = tokens.is_word(select.start, "SELECT")
        && tokens.find(select.clone(), |at| tokens.is_any(at, &["UNION", "EXCEPT", "INTERSECT"])).is_none();
    if !plain {
        return Err("INSERT .. SELECT with UNION, WITH or parentheses; read first, then insert".into());
    }
    let mut queries = context.queries();
    queries.query(select, None)?;
    let pins = facts::pins(&queries, context.uses);
    let source = select_source(context, &queries, place, &pins, sharded)?;
    match route(context, &queries, &pins, source)? {
        // No sharded table is read: the rows come from values and tables that every shard has.
        (Target::Global, tables) if !queries.refs.iter().any(|one| matches!(one.source, Source::Plain)) => {
            let sources = select_source(context, &queries, place, &pins, sharded)?;
            Ok((Target::User { sources }, tables))
        }
        (Target::Global, tables) => {
            let from = tables.first().map_or("", |table| &table.name);
            Err(format!("fills a sharded table from {from}, which is not sharded; read and insert apart")
                .into())
        }
        routed => Ok(routed),
    }
}

fn place_of(parts: &Parts, sharded: &Sharded, column: &str) -> Result<Option<usize>, Refusal> {
    match &parts.columns {
        Columns::All => Ok(sharded.column_index(column)),
        Columns::Named(names, _) | Columns::Set(names) => position(names, column),
    }
}

/// What the select item at `place` gives for the key.
fn select_source(
    context: Context<'_, '_>,
    queries: &Queries<'_, '_>,
    place: usize,
    pins: &facts::Pins,
    sharded: &Sharded,
) -> Result<Vec<KeySource>, Refusal> {
    let unclear = || format!("the SELECT does not plainly give one user for {}", sharded.key_column);
    let list = queries.blocks.first().map(|block| block.select_list.clone()).ok_or_else(unclear)?;
    let mut start = list.start;
    while context.tokens.is_any(start, &["DISTINCT", "ALL", "STRAIGHT_JOIN", "SQL_NO_CACHE", "DISTINCTROW"]) {
        start += 1;
    }
    let items = context.tokens.split_commas(start..list.end);
    if items.iter().take(place + 1).any(|item| context.tokens.is_op(item.end.saturating_sub(1), "*")) {
        return Err("the SELECT has a * before the key; name the columns".into());
    }
    let item = items.get(place).cloned().ok_or_else(unclear)?;
    let bare = if context.tokens.is_word(item.end.saturating_sub(2), "AS") {
        item.start..item.end - 2
    } else {
        item.clone()
    };
    if let Some(value) = facts::value(context.tokens, context.uses, bare) {
        return Ok(vec![KeySource { value, key_type: sharded.key_type }]);
    }
    let from = facts::key_item(queries, 0, item).ok_or_else(unclear)?;
    Ok(pins[from].clone().ok_or_else(unclear)?)
}

/// Where ids of the sequence column go in this text. `None` if the table has no sequence, or the text is no INSERT
/// of rows of that shape.
#[must_use]
pub fn insert_points(text: &[u8], mode: Mode, shape: &InsertShape) -> Option<InsertPoints> {
    let sequence = shape.sequence.as_ref()?;
    let tokens = Tokens::new(text, mode);
    let start = (0..tokens.len()).find(|at| tokens.is_any(*at, &["INSERT", "REPLACE"]))?;
    let parts = parts(&tokens, start..tokens.len()).ok()?;
    let Body::Rows(rows) = &parts.body else { return None };
    if rows.len() != sequence.values.len() {
        return None;
    }
    let omitted = sequence.values.contains(&RowValue::Omitted);
    let quoted = format!("`{}`", sequence.column.replace('`', "``"));
    let (column, before) = match &parts.columns {
        Columns::Set(..) => (None, format!("{quoted} = ")),
        Columns::Named(names, first) if omitted => {
            let comma = if names.is_empty() { "" } else { ", " };
            (Some((offset(&tokens, *first), format!("{quoted}{comma}"))), String::new())
        }
        // `INSERT INTO t VALUES ()`: the list is missing altogether.
        Columns::All if omitted => {
            (Some((offset(&tokens, parts.rows_word), format!("({quoted}) "))), String::new())
        }
        Columns::All | Columns::Named(..) => (None, String::new()),
    };
    let values = rows
        .iter()
        .map(|(open, row)| value_point(&tokens, sequence, *open, row, &before))
        .collect::<Option<_>>()?;
    Some(InsertPoints { column, values })
}

fn value_point(
    tokens: &Tokens<'_>,
    sequence: &SequenceShape,
    open: usize,
    row: &[Range<usize>],
    before: &str,
) -> Option<ValuePoint> {
    match sequence.place.and_then(|place| row.get(place as usize)) {
        Some(cell) => {
            let end = tokens.item(cell.end.checked_sub(1)?)?.token.span().end;
            Some(ValuePoint { span: offset(tokens, cell.start)..end, before: String::new(), after: "" })
        }
        None => {
            let at = offset(tokens, open);
            let after = if row.is_empty() { "" } else { ", " };
            Some(ValuePoint { span: at..at, before: before.to_owned(), after })
        }
    }
}

/// First byte of a token.
fn offset(tokens: &Tokens<'_>, at: usize) -> usize {
    tokens.item(at).map_or(tokens.text.len(), |item| item.token.span().start)
}
