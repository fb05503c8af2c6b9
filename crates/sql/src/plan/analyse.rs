//! SELECT, UPDATE and DELETE that name a sharded table: which user they belong to.

use std::collections::HashSet;
use std::ops::Range;

use crate::catalog::{Catalog, Sharded};
use crate::plan::facts::{self, Pins};
use crate::plan::query::{Queries, Ref, Refusal, Source};
use crate::plan::tokens::Tokens;
use crate::plan::uses::Uses;
use crate::plan::{KeySource, TableName, Target};

/// Target and tables of a statement.
pub(crate) type Routed = Result<(Target, Vec<TableName>), Refusal>;

/// What every analysis needs.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a, 'c> {
    pub(crate) tokens: &'a Tokens<'a>,
    pub(crate) default_schema: Option<&'a str>,
    pub(crate) catalog: &'c Catalog,
    pub(crate) uses: &'a Uses,
}

impl<'a, 'c> Context<'a, 'c> {
    pub(crate) fn queries(&self) -> Queries<'a, 'c> {
        Queries::new(self.tokens, self.default_schema, self.catalog)
    }
}

/// SELECT, TABLE, VALUES, also in parentheses and behind WITH.
pub(crate) fn read(context: Context<'_, '_>, range: Range<usize>) -> Routed {
    let mut queries = context.queries();
    queries.query(range, None)?;
    route(context, &queries, &facts::pins(&queries, context.uses), Vec::new())
}

/// Whether a read touches no table but those of `information_schema` and `performance_schema`.
pub(crate) fn is_of_catalog(context: Context<'_, '_>, range: Range<usize>) -> bool {
    let mut queries = context.queries();
    let of_catalog = |one: &Ref<'_>| {
        let schema = one.table.schema.as_deref();
        matches!(one.source, Source::Derived)
            || schema.is_some_and(|schema| {
                schema.eq_ignore_ascii_case("information_schema")
                    || schema.eq_ignore_ascii_case("performance_schema")
            })
    };
    context.tokens.odd.is_none()
        && !context.uses.needs_writer()
        && queries.query(range, None).is_ok()
        && queries.refs.iter().all(of_catalog)
}

/// `[WITH ..] UPDATE ..`; `at` is the index of UPDATE.
pub(crate) fn update(context: Context<'_, '_>, range: Range<usize>, at: usize) -> Routed {
    let tokens = context.tokens;
    let mut queries = context.queries();
    queries.with(range.start, at)?;
    let block = queries.block(None);
    let mut start = at + 1;
    while tokens.is_any(start, &["LOW_PRIORITY", "IGNORE"]) {
        start += 1;
    }
    let (set, refs) = queries.table_refs(start, range.end, block)?;
    queries.blocks[block].refs = refs;
    if !tokens.is_word(set, "SET") {
        return Err("cannot read the UPDATE".into());
    }
    let end = tokens
        .find(set + 1..range.end, |at| tokens.is_any(at, &["WHERE", "ORDER", "LIMIT"]))
        .unwrap_or(range.end);
    queries.subqueries(set + 1..end, Some(block))?;
    queries.conditions_behind(end..range.end, block)?;
    let mut sources = Vec::new();
    for assignment in tokens.split_commas(set + 1..end) {
        sources.extend(assigned_key(context, &queries, block, assignment)?);
    }
    route(context, &queries, &facts::pins(&queries, context.uses), sources)
}

/// Checks one assignment of an UPDATE. A key may be assigned a value, which then must be the user that the
/// conditions name.
fn assigned_key(
    context: Context<'_, '_>,
    queries: &Queries<'_, '_>,
    block: usize,
    assignment: Range<usize>,
) -> Result<Option<KeySource>, Refusal> {
    let tokens = context.tokens;
    let equals = tokens.find(assignment.clone(), |at| tokens.is_op(at, "=") || tokens.is_op(at, ":="));
    let Some((equals, column)) = equals.and_then(|at| Some((at, tokens.name(at.checked_sub(1)?)?))) else {
        return Err("cannot read an assignment of the UPDATE".into());
    };
    let table = (equals >= assignment.start + 3).then(|| tokens.name(equals - 3)).flatten();
    let refs: Vec<usize> = queries.blocks[block]
        .refs
        .iter()
        .copied()
        .filter(|at| table.as_deref().is_none_or(|table| queries.refs[*at].alias == table))
        .collect();
    let mut key = None;
    for at in &refs {
        match queries.refs[*at].source {
            Source::Sharded(sharded) if sharded.is_key(&column) => key = Some(sharded),
            Source::Sharded(_) => {}
            Source::Reference(columns)
                if !may_be_sharded(queries, &refs, &column) || has(columns, &column) =>
            {
                return Err("changes a reference table in one statement with a sharded one".into());
            }
            Source::Derived | Source::Plain if table.is_some() => {
                return Err("changes a table that is not sharded in one statement with a sharded one".into());
            }
            _ => {}
        }
    }
    let Some(sharded) = key else { return Ok(None) };
    match facts::value(tokens, context.uses, equals + 1..assignment.end) {
        Some(value) => Ok(Some(KeySource { value, key_type: sharded.key_type })),
        None => Err(format!("changes the key column {}; move the user instead", sharded.key_column).into()),
    }
}

fn may_be_sharded(queries: &Queries<'_, '_>, refs: &[usize], column: &str) -> bool {
    refs.iter().any(
        |at| matches!(queries.refs[*at].source, Source::Sharded(sharded) if sharded.column_index(column).is_some()),
    )
}

fn has(columns: &[String], column: &str) -> bool {
    columns.iter().any(|name| name.eq_ignore_ascii_case(column))
}

/// `[WITH ..] DELETE ..` in its three forms; `at` is the index of DELETE.
pub(crate) fn delete(context: Context<'_, '_>, range: Range<usize>, at: usize) -> Routed {
    let tokens = context.tokens;
    let mut queries = context.queries();
    queries.with(range.start, at)?;
    let block = queries.block(None);
    let mut start = at + 1;
    while tokens.is_any(start, &["LOW_PRIORITY", "QUICK", "IGNORE", "HISTORY"]) {
        start += 1;
    }
    let from = tokens.is_word(start, "FROM");
    let (targets, behind) = delete_targets(tokens, start + usize::from(from), range.end);
    let many = if from { tokens.is_word(behind, "USING") } else { tokens.is_word(behind, "FROM") };
    if !many && !from {
        return Err("cannot read the DELETE".into());
    }
    let refs_at = if many { behind + 1 } else { start + 1 };
    let (next, refs) = queries.table_refs(refs_at, range.end, block)?;
    if !many && refs.len() != 1 {
        return Err("cannot read the DELETE".into());
    }
    queries.blocks[block].refs = refs;
    queries.conditions_behind(next..range.end, block)?;
    if many {
        check_targets(&queries, block, &targets)?;
    }
    route(context, &queries, &facts::pins(&queries, context.uses), Vec::new())
}

/// `a, db.b.*`: the last names, and the index behind the list.
fn delete_targets(tokens: &Tokens<'_>, mut at: usize, end: usize) -> (Vec<String>, usize) {
    let mut targets = Vec::new();
    while at < end {
        let Some(mut name) = tokens.name(at) else { break };
        at += 1;
        while tokens.is_op(at, ".") {
            if let Some(last) = tokens.name(at + 1) {
                name = last;
            }
            at += 2;
        }
        targets.push(name);
        if !tokens.is_op(at, ",") {
            break;
        }
        at += 1;
    }
    (targets, at)
}

fn check_targets(queries: &Queries<'_, '_>, block: usize, targets: &[String]) -> Result<(), Refusal> {
    for target in targets {
        let named =
            queries.blocks[block].refs.iter().map(|at| &queries.refs[*at]).find(|one| one.alias == *target);
        match named.map(|one| one.source) {
            Some(Source::Sharded(_) | Source::Plain) | None => {}
            Some(Source::Reference(_) | Source::Derived) => {
                return Err(format!(
                    "deletes from {target}, which is not sharded, in one statement with a sharded table"
                )
                .into());
            }
        }
    }
    Ok(())
}

/// From pins to a target. `sources` are values that must be the same user too.
pub(crate) fn route(
    context: Context<'_, '_>,
    queries: &Queries<'_, '_>,
    pins: &Pins,
    mut sources: Vec<KeySource>,
) -> Routed {
    let tables: Vec<TableName> = queries
        .refs
        .iter()
        .filter(|one| !matches!(one.source, Source::Derived))
        .map(|one| one.table.clone())
        .collect();
    let Some((first, _)) = sharded(queries).next() else { return Ok((Target::Global, tables)) };
    let first = queries.refs[first].table.name.clone();
    if let Some(odd) = context.tokens.odd {
        return Err(format!("has {odd}, so its rows cannot be told").into());
    }
    if context.uses.outfile {
        return Err("writes a file on the server".into());
    }
    if let Some(plain) = queries.refs.iter().find(|one| matches!(one.source, Source::Plain)) {
        let plain = &plain.table.name;
        return Err(format!(
            "joins the sharded table {first} with {plain}, which is not sharded; query them apart"
        )
        .into());
    }
    let mut seen: HashSet<KeySource> = sources.iter().cloned().collect();
    for (at, table) in sharded(queries) {
        let Some(pinned) = &pins[at] else {
            let Sharded { key_column, .. } = table;
            let alias = &queries.refs[at].alias;
            let reason =
                format!("no condition holds {alias} to one user; add AND {alias}.{key_column} = <user>");
            // Beside a table that is held to some user, a hint might name another one.
            let needs_hint = seen.is_empty() && sharded(queries).all(|(at, _)| pins[at].is_none());
            return Err(Refusal { reason, needs_hint });
        };
        sources.extend(pinned.iter().filter(|source| seen.insert((*source).clone())).cloned());
    }
    Ok((Target::User { sources }, tables))
}

fn sharded<'q>(queries: &'q Queries<'_, '_>) -> impl Iterator<Item = (usize, &'q Sharded)> {
    queries.refs.iter().enumerate().filter_map(|(at, one)| match one.source {
        Source::Sharded(sharded) => Some((at, sharded)),
        _ => None,
    })
}
