//! From conditions to users: which references are pinned, and by what.
//!
//! A reference is *pinned* to a user if dropping its rows of all other users would not change the result. A fact
//! comes from a condition that is joined to the others by AND only, and that has exactly the tokens of
//! `key = value` or `key = key`, so that no operator's precedence matters. It pins only the references in the scope
//! of its condition: all of WHERE's block, both sides of an inner join, the nullable side of an outer one. An outer
//! join whose nullable side WHERE holds to a value is an inner one.

use std::ops::Range;

use crate::key::KeyType;
use crate::lex::TokenKind;
use crate::plan::query::{Condition, Place, Queries, Source};
use crate::plan::tokens::Tokens;
use crate::plan::uses::{Uses, user_variable_name};
use crate::plan::{KeySource, KeyValue};

/// Most values of one `key IN (..)`.
const IN_VALUES_MAX: usize = 256;

/// Deepest nesting of parentheses around conditions.
const PARENTHESES_MAX: usize = 64;

#[derive(Debug)]
enum Fact {
    /// The key of these references equals one value.
    Value { refs: Vec<usize>, value: KeyValue },
    /// It equals one of several.
    Several { refs: Vec<usize>, values: Vec<KeyValue> },
    /// If the key of `from` is pinned, so is that of `to`.
    Tie { from: usize, to: usize },
}

/// A column as it is written.
struct Column {
    schema: Option<String>,
    table: Option<String>,
    name: String,
}

/// For each reference the values that pin it, if any.
pub(crate) type Pins = Vec<Option<Vec<KeySource>>>;

/// Draws all facts and follows them.
pub(crate) fn pins(queries: &Queries<'_, '_>, uses: &Uses) -> Pins {
    let (of_where, of_joins): (Vec<_>, Vec<_>) =
        queries.conditions.iter().partition(|condition| condition.place == Place::Where);
    let mut facts: Vec<Fact> =
        of_where.into_iter().flat_map(|condition| facts_of(queries, uses, condition)).collect();
    let held = held(&facts);
    for condition in of_joins {
        let inner = condition.nullable.iter().any(|at| held.contains(at));
        let scope = if inner { condition.operands.clone() } else { condition.scope.clone() };
        facts.extend(facts_of(queries, uses, &Condition { scope, ..condition.clone() }));
    }
    let mut pins: Pins = vec![None; queries.refs.len()];
    for fact in &facts {
        if let Fact::Value { refs, value } = fact {
            refs.iter().for_each(|at| pin(queries, &mut pins, *at, std::slice::from_ref(value)));
        }
    }
    follow(&facts, &mut pins);
    for fact in &facts {
        if let Fact::Several { refs, values } = fact {
            refs.iter().for_each(|at| pin(queries, &mut pins, *at, values));
        }
    }
    follow(&facts, &mut pins);
    pins
}

/// References that WHERE itself holds to values: no row of NULLs in their place gets through.
fn held(facts: &[Fact]) -> Vec<usize> {
    let refs = facts.iter().filter_map(|fact| match fact {
        Fact::Value { refs, .. } | Fact::Several { refs, .. } => Some(refs),
        Fact::Tie { .. } => None,
    });
    refs.flatten().copied().collect()
}

fn pin(queries: &Queries<'_, '_>, pins: &mut Pins, at: usize, values: &[KeyValue]) {
    if let (Some(key_type), None) = (key_type(queries, at), &pins[at]) {
        pins[at] = Some(values.iter().map(|value| KeySource { value: value.clone(), key_type }).collect());
    }
}

/// Carries pins over ties until nothing changes.
fn follow(facts: &[Fact], pins: &mut Pins) {
    loop {
        let mut changed = false;
        for fact in facts {
            if let Fact::Tie { from, to } = fact
                && pins[*to].is_none()
                && pins[*from].is_some()
            {
                pins[*to] = pins[*from].clone();
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

fn key_type(queries: &Queries<'_, '_>, at: usize) -> Option<KeyType> {
    match queries.refs[at].source {
        Source::Sharded(sharded) => Some(sharded.key_type),
        _ => None,
    }
}

fn facts_of(queries: &Queries<'_, '_>, uses: &Uses, condition: &Condition) -> Vec<Fact> {
    if let Place::Using { right } = condition.place {
        return using_facts(queries, condition, right);
    }
    conjuncts(queries, condition.tokens.clone(), 0)
        .into_iter()
        .flat_map(|range| comparison(queries, uses, condition, range))
        .collect()
}

/// The parts of a condition that must all hold. None if it is not a plain row of ANDs.
pub(crate) fn conjuncts(queries: &Queries<'_, '_>, range: Range<usize>, depth: usize) -> Vec<Range<usize>> {
    let tokens = queries.tokens;
    let Some(ands) = ands(queries, range.clone()) else { return Vec::new() };
    let mut parts = Vec::new();
    let mut start = range.start;
    for and in ands.into_iter().chain([range.end]) {
        let part = start..and;
        start = and + 1;
        let wrapped =
            tokens.is_op(part.start, "(") && tokens.closing(part.start, part.end) == Some(part.end - 1);
        if wrapped && depth < PARENTHESES_MAX {
            parts.extend(conjuncts(queries, part.start + 1..part.end - 1, depth + 1));
        } else if !part.is_empty() {
            parts.push(part);
        }
    }
    parts
}

/// The indexes of the ANDs outside parentheses that join conditions; None if another operator of that rank or a
/// weaker one is there, or if CASE .. END cannot be told apart.
fn ands(queries: &Queries<'_, '_>, range: Range<usize>) -> Option<Vec<usize>> {
    let tokens = queries.tokens;
    let mut ands = Vec::new();
    let (mut betweens, mut cases) = (0usize, 0usize);
    let mut at = range.start;
    while at < range.end {
        if tokens.is_op(at, ":=") || (tokens.is_op(at, "||") && !tokens.mode.pipes_as_concat) {
            return None;
        }
        if tokens.is_any(at, &["OR", "XOR"]) && cases == 0 {
            return None;
        }
        if tokens.is_word(at, "CASE") {
            cases += 1;
        } else if tokens.is_word(at, "END") {
            cases = cases.checked_sub(1)?;
        } else if cases == 0 {
            if tokens.is_any(at, &["WHEN", "THEN", "ELSE"]) {
                return None;
            }
            if tokens.is_word(at, "BETWEEN") {
                betweens += 1;
            } else if tokens.is_word(at, "AND") || tokens.is_op(at, "&&") {
                if betweens > 0 {
                    betweens -= 1;
                } else {
                    ands.push(at);
                }
            } else if tokens.is_word(at, "RETURNING") {
                // A column's name in MySQL, a clause in MariaDB: the part before it must not be taken for whole.
                ands.push(at);
            }
        }
        at = tokens.skip(at, range.end);
    }
    (betweens == 0 && cases == 0).then_some(ands)
}

/// Facts of `USING (a, b)`.
fn using_facts(queries: &Queries<'_, '_>, condition: &Condition, right: usize) -> Vec<Fact> {
    let tokens = queries.tokens;
    let (left, right) = condition.operands.split_at(right.min(condition.operands.len()));
    let mut facts = Vec::new();
    for range in tokens.split_commas(condition.tokens.clone()) {
        let Some(name) = tokens.name(range.start) else { continue };
        let right_joins = queries.blocks[condition.block].has_right_join;
        let merged = |refs: &[usize]| merged_ref(queries, refs, &name, right_joins);
        if let (Some(a), Some(b)) = (merged(left), merged(right)) {
            facts.extend(ties(queries, condition, &name, a, b));
        }
    }
    facts
}

/// The reference whose column USING means on one side of a join. Several that have it are one column, merged by USING
/// before, else the server would call the name ambiguous; its value is the first one's unless a RIGHT JOIN is there.
fn merged_ref(queries: &Queries<'_, '_>, refs: &[usize], name: &str, right_joins: bool) -> Option<usize> {
    let mut having = refs.iter().copied().filter(|at| has_column(queries, *at, name));
    let first = having.next()?;
    let unsure = |at: &usize| !columns_known(queries, *at);
    if right_joins {
        let alone = having.next().is_none() && !refs.iter().any(unsure);
        return alone.then_some(first);
    }
    (!refs.iter().take_while(|at| **at != first).any(unsure)).then_some(first)
}

fn ties(queries: &Queries<'_, '_>, condition: &Condition, name: &str, a: usize, b: usize) -> Vec<Fact> {
    if is_key(queries, a, name) && is_key(queries, b, name) {
        tie(queries, condition, a, b)
    } else {
        Vec::new()
    }
}

/// `a.key = b.key`, in the directions that the condition's scope allows.
fn tie(queries: &Queries<'_, '_>, condition: &Condition, a: usize, b: usize) -> Vec<Fact> {
    if key_type(queries, a).is_none() || !same_comparison(key_type(queries, a), key_type(queries, b)) {
        return Vec::new();
    }
    [(a, b), (b, a)]
        .into_iter()
        .filter(|(_, to)| condition.scope.contains(to))
        .map(|(from, to)| Fact::Tie { from, to })
        .collect()
}

/// Whether two key columns that are equal in SQL hold the same key. A text and an integer may be equal and differ.
fn same_comparison(a: Option<KeyType>, b: Option<KeyType>) -> bool {
    match (a, b) {
        (Some(KeyType::Int { .. }), Some(KeyType::Int { .. })) => true,
        (a, b) => a == b,
    }
}

/// The fact that one comparison states, if it has exactly the right tokens.
fn comparison(
    queries: &Queries<'_, '_>,
    uses: &Uses,
    condition: &Condition,
    range: Range<usize>,
) -> Vec<Fact> {
    let tokens = queries.tokens;
    if let Some((column, next)) = column(queries, range.start) {
        if next < range.end && tokens.is_op(next, "=") {
            if value(tokens, uses, next + 1..range.end).is_none()
                && let Some((other, end)) = self::column(queries, next + 1)
                && end == range.end
            {
                return column_tie(queries, condition, &column, &other);
            }
            return value_fact(queries, condition, &column, value(tokens, uses, next + 1..range.end));
        }
        if next < range.end
            && tokens.is_word(next, "IN")
            && tokens.closing(next + 1, range.end) == Some(range.end - 1)
        {
            return in_fact(queries, uses, condition, &column, next + 2..range.end - 1);
        }
        return Vec::new();
    }
    if let Some(close) = tokens.closing(range.start, range.end) {
        return row_facts(queries, uses, condition, range.start + 1..close, close + 1..range.end);
    }
    let Some(equals) = tokens.find(range.clone(), |at| tokens.is_op(at, "=")) else { return Vec::new() };
    match column(queries, equals + 1) {
        Some((column, end)) if end == range.end => {
            value_fact(queries, condition, &column, value(tokens, uses, range.start..equals))
        }
        _ => Vec::new(),
    }
}

/// `(a, b) = (1, 2)` and `(a, b) IN ((1, 2), (1, 3))`: `names` are the tokens in the first parentheses, `rest` all
/// behind them. Where a row has no plain value for a column, there is no fact about it.
fn row_facts(
    queries: &Queries<'_, '_>,
    uses: &Uses,
    condition: &Condition,
    names: Range<usize>,
    rest: Range<usize>,
) -> Vec<Fact> {
    let tokens = queries.tokens;
    let names = tokens.split_commas(names);
    let Some(rows) = rows_of(tokens, rest, names.len()) else { return Vec::new() };
    let mut facts = Vec::new();
    for (place, name) in names.into_iter().enumerate() {
        let Some((column, end)) = column(queries, name.start) else { continue };
        let values: Option<Vec<_>> = rows.iter().map(|row| value(tokens, uses, row[place].clone())).collect();
        if let (Some(values), true) = (values, end == name.end) {
            facts.push(values_fact(pinned_by(queries, condition, &column), values));
        }
    }
    facts
}

/// The rows of `= (1, 2)` or `IN ((1, 2), (1, 3))`, each of `width` cells, if nothing else is there.
fn rows_of(tokens: &Tokens<'_>, range: Range<usize>, width: usize) -> Option<Vec<Vec<Range<usize>>>> {
    let open = range.start + 1;
    let close = tokens.closing(open, range.end).filter(|close| close + 1 == range.end)?;
    let rows = if tokens.is_op(range.start, "=") {
        std::iter::once(open..range.end).collect()
    } else if tokens.is_word(range.start, "IN") {
        tokens.split_commas(open + 1..close)
    } else {
        return None;
    };
    if rows.len() > IN_VALUES_MAX {
        return None;
    }
    let cells = |row: Range<usize>| {
        let close = tokens.closing(row.start, row.end).filter(|close| close + 1 == row.end)?;
        Some(tokens.split_commas(row.start + 1..close)).filter(|cells| cells.len() == width)
    };
    rows.into_iter().map(cells).collect()
}

fn values_fact(refs: Vec<usize>, mut values: Vec<KeyValue>) -> Fact {
    match (values.len(), values.pop()) {
        (1, Some(value)) => Fact::Value { refs, value },
        (_, last) => {
            values.extend(last);
            Fact::Several { refs, values }
        }
    }
}

fn value_fact(
    queries: &Queries<'_, '_>,
    condition: &Condition,
    column: &Column,
    value: Option<KeyValue>,
) -> Vec<Fact> {
    match value {
        Some(value) => vec![Fact::Value { refs: pinned_by(queries, condition, column), value }],
        None => Vec::new(),
    }
}

fn in_fact(
    queries: &Queries<'_, '_>,
    uses: &Uses,
    condition: &Condition,
    column: &Column,
    list: Range<usize>,
) -> Vec<Fact> {
    let parts = queries.tokens.split_commas(list);
    if parts.len() > IN_VALUES_MAX {
        return Vec::new();
    }
    let values: Option<Vec<KeyValue>> =
        parts.into_iter().map(|part| value(queries.tokens, uses, part)).collect();
    values.map(|values| values_fact(pinned_by(queries, condition, column), values)).into_iter().collect()
}

/// Both columns must be keys.
fn column_tie(queries: &Queries<'_, '_>, condition: &Condition, a: &Column, b: &Column) -> Vec<Fact> {
    match (one_key(queries, condition, a), one_key(queries, condition, b)) {
        (Some(a), Some(b)) => tie(queries, condition, a, b),
        _ => Vec::new(),
    }
}

/// `[[schema.]table.]column` at `at`, and the index behind it.
fn column(queries: &Queries<'_, '_>, at: usize) -> Option<(Column, usize)> {
    let tokens = queries.tokens;
    let mut names = vec![tokens.name(at)?];
    let mut next = at + 1;
    while names.len() < 3 && tokens.is_op(next, ".") {
        names.push(tokens.name(next + 1)?);
        next += 2;
    }
    if tokens.is_op(next, "(") || tokens.is_op(next, ".") {
        return None;
    }
    let name = names.pop()?;
    let table = names.pop();
    Some((Column { schema: names.pop(), table, name }, next))
}

/// A literal, a placeholder, NULL, LAST_INSERT_ID() or a user variable, and nothing else in the range.
pub(crate) fn value(tokens: &Tokens<'_>, uses: &Uses, range: Range<usize>) -> Option<KeyValue> {
    let signed = usize::from(tokens.is_op(range.start, "-") || tokens.is_op(range.start, "+"));
    let negative = tokens.is_op(range.start, "-");
    let at = range.start + signed;
    let item = tokens.item(at).filter(|_| at < range.end)?;
    match item.token.kind {
        TokenKind::Literal(_) if range.end == at + 1 => {
            Some(KeyValue::Literal { ordinal: item.ordinal, negative })
        }
        TokenKind::UserVar if range.end == at + 1 && signed == 0 => {
            let name = user_variable_name(tokens.bytes(at));
            (!uses.writes_user_vars.contains(&name)).then_some(KeyValue::UserVar(name))
        }
        TokenKind::Word if range.end == at + 1 && signed == 0 => {
            (tokens.is_word(at, "NULL") || tokens.is_word(at, "\\N")).then_some(KeyValue::Null)
        }
        TokenKind::Word if range.end == at + 3 && signed == 0 && !uses.sets_last_insert_id => {
            (tokens.is_word(at, "LAST_INSERT_ID") && tokens.is_op(at + 1, "(") && tokens.is_op(at + 2, ")"))
                .then_some(KeyValue::LastInsertId)
        }
        _ => None,
    }
}

/// The references that `column = value` pins: those in scope whose key the column is.
fn pinned_by(queries: &Queries<'_, '_>, condition: &Condition, column: &Column) -> Vec<usize> {
    let named = named_refs(queries, condition, column);
    let wanted = |at: &usize| condition.scope.contains(at) && is_key(queries, *at, &column.name);
    named.into_iter().filter(wanted).collect()
}

/// The one reference whose key the column is, maybe of an outer block. An unqualified column may be merged with one
/// of a table whose columns are not known, and then be NULL or another's where this key is not.
fn one_key(queries: &Queries<'_, '_>, condition: &Condition, column: &Column) -> Option<usize> {
    let all_known = || queries.blocks[condition.block].refs.iter().all(|at| columns_known(queries, *at));
    match named_refs(queries, condition, column).as_slice() {
        [one] if is_key(queries, *one, &column.name) && (column.table.is_some() || all_known()) => Some(*one),
        _ => None,
    }
}

/// The references that a column may belong to.
///
/// An unqualified column that several tables of the block have is an error in MySQL, unless USING or NATURAL made
/// them one; so in WHERE it stands for all of them. In ON, where not all tables are in sight, it must be the only one.
/// An unqualified column is never looked for in outer blocks.
fn named_refs(queries: &Queries<'_, '_>, condition: &Condition, column: &Column) -> Vec<usize> {
    if column.table.is_some() {
        return qualified_ref(queries, condition.block, column).into_iter().collect();
    }
    let refs: Vec<usize> = queries.blocks[condition.block]
        .refs
        .iter()
        .copied()
        .filter(|at| has_column(queries, *at, &column.name))
        .collect();
    if condition.place == Place::Where || refs.len() == 1 { refs } else { Vec::new() }
}

/// The reference that a qualified column names, in the nearest block that has one of that name.
fn qualified_ref(queries: &Queries<'_, '_>, block: usize, column: &Column) -> Option<usize> {
    let table = column.table.as_deref()?;
    let mut block = Some(block);
    while let Some(at) = block {
        // Where names fold their case, an alias hides an outer one of other case.
        let named: Vec<usize> = queries.blocks[at]
            .refs
            .iter()
            .copied()
            .filter(|at| queries.refs[*at].alias.eq_ignore_ascii_case(table))
            .collect();
        match named.as_slice() {
            [] => block = queries.blocks[at].parent,
            [one] => {
                let found = &queries.refs[*one];
                let schema_fits =
                    column.schema.is_none() || (!found.aliased && found.table.schema == column.schema);
                return (found.alias == table && schema_fits).then_some(*one);
            }
            _ => return None,
        }
    }
    None
}

fn columns_known(queries: &Queries<'_, '_>, at: usize) -> bool {
    match queries.refs[at].source {
        Source::Sharded(_) => true,
        Source::Reference(columns) => !columns.is_empty(),
        Source::Plain | Source::Derived => false,
    }
}

fn has_column(queries: &Queries<'_, '_>, at: usize, name: &str) -> bool {
    match queries.refs[at].source {
        Source::Sharded(sharded) => sharded.is_key(name) || sharded.column_index(name).is_some(),
        Source::Reference(columns) => columns.iter().any(|column| column.eq_ignore_ascii_case(name)),
        Source::Plain | Source::Derived => false,
    }
}

fn is_key(queries: &Queries<'_, '_>, at: usize, name: &str) -> bool {
    matches!(queries.refs[at].source, Source::Sharded(sharded) if sharded.is_key(name))
}

/// Where a select item is the key of a reference of its block: that reference.
pub(crate) fn key_item(queries: &Queries<'_, '_>, block: usize, range: Range<usize>) -> Option<usize> {
    let (column, end) = column(queries, range.start)?;
    // `x AS name` and `x name` are the column x.
    let aliased = queries.tokens.is_word(end, "AS") && end + 2 == range.end || end + 1 == range.end;
    if end != range.end && !(aliased && queries.tokens.is_name(range.end - 1)) {
        return None;
    }
    let condition = Condition {
        block,
        place: Place::On,
        tokens: 0..0,
        scope: Vec::new(),
        operands: Vec::new(),
        nullable: Vec::new(),
    };
    let from = one_key(queries, &condition, &column)?;
    // The nullable side of an outer join gives NULLs too.
    let nullable = queries.blocks[block].has_right_join
        || queries.conditions.iter().any(|condition| condition.nullable.contains(&from));
    (!nullable).then_some(from)
}
