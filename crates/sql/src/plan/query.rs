//! Query blocks, the tables they read and the conditions on them, read from tokens.
//!
//! This is no SQL parser: expressions stay ranges of tokens. It needs only what reserved words and parentheses
//! settle, and refuses what it does not know. Facts are drawn from the conditions in `facts`.

use std::ops::Range;

use crate::catalog::{Catalog, Sharded, Table};
use crate::plan::TableName;
use crate::plan::tokens::Tokens;

/// Deepest nesting of query blocks.
const BLOCKS_DEEP_MAX: usize = 64;

/// Most table references of a statement. Servers join at most 61; this is over all its query blocks.
const REFS_MAX: usize = 512;

/// Why a statement cannot be routed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    /// All is well but that no user is given.
    pub(crate) needs_hint: bool,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self { reason, needs_hint: false }
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

/// What a table reference stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'c> {
    Sharded(&'c Sharded),
    Reference(&'c [String]),
    /// A table of the global master.
    Plain,
    /// A derived table, a WITH name or a table function: its inner tables are looked at on their own.
    Derived,
}

/// One table reference.
#[derive(Debug)]
pub(crate) struct Ref<'c> {
    pub(crate) source: Source<'c>,
    pub(crate) table: TableName,
    /// The name that columns are qualified with.
    pub(crate) alias: String,
    /// The alias was written, so that `schema.table.column` does not mean this.
    pub(crate) aliased: bool,
}

/// A SELECT, UPDATE or DELETE and its own FROM.
#[derive(Debug)]
pub(crate) struct Block {
    /// Whose columns the block may name too.
    pub(crate) parent: Option<usize>,
    pub(crate) refs: Vec<usize>,
    /// Some join is RIGHT or NATURAL LEFT, so a column that USING merged may not be the first one's, or be NULL.
    pub(crate) has_right_join: bool,
    /// The select list, for INSERT .. SELECT.
    pub(crate) select_list: Range<usize>,
}

/// Where a condition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Where,
    On,
    /// The tokens are the names in USING's parentheses.
    Using {
        /// Index of the first right-hand reference in `Condition::operands`.
        right: usize,
    },
}

/// A condition that rows must meet, and the references that it can pin.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    pub(crate) block: usize,
    pub(crate) place: Place,
    pub(crate) tokens: Range<usize>,
    /// References whose rows without the condition do not matter to the result.
    pub(crate) scope: Vec<usize>,
    /// References joined, left ones first. Empty for WHERE.
    pub(crate) operands: Vec<usize>,
    /// References of the side that an outer join fills with NULLs. Empty for WHERE and inner joins.
    pub(crate) nullable: Vec<usize>,
}

/// A statement taken apart.
pub(crate) struct Queries<'a, 'c> {
    pub(crate) tokens: &'a Tokens<'a>,
    catalog: &'c Catalog,
    default_schema: Option<&'a str>,
    pub(crate) refs: Vec<Ref<'c>>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) conditions: Vec<Condition>,
    withs: Vec<String>,
    depth: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Join {
    Inner,
    Left,
    Right,
    Natural,
}

impl<'a, 'c> Queries<'a, 'c> {
    pub(crate) fn new(tokens: &'a Tokens<'a>, default_schema: Option<&'a str>, catalog: &'c Catalog) -> Self {
        Self {
            tokens,
            catalog,
            default_schema,
            refs: Vec::new(),
            blocks: Vec::new(),
            conditions: Vec::new(),
            withs: Vec::new(),
            depth: 0,
        }
    }

    fn refuse<T>(&self, what: &str, at: usize) -> Result<T, Refusal> {
        let near = String::from_utf8_lossy(self.tokens.bytes(at)).chars().take(32).collect::<String>();
        let near = if near.is_empty() { "at the end".to_owned() } else { format!("near {near}") };
        Err(format!("{what} ({near})").into())
    }

    /// A whole query expression: `[WITH ..] body`.
    pub(crate) fn query(&mut self, range: Range<usize>, parent: Option<usize>) -> Result<(), Refusal> {
        self.depth += 1;
        if self.depth > BLOCKS_DEEP_MAX {
            return Err("queries are nested too deep".into());
        }
        let outer_withs = self.withs.len();
        let at = self.with(range.start, range.end)?;
        self.body(at..range.end, parent)?;
        self.withs.truncate(outer_withs);
        self.depth -= 1;
        Ok(())
    }

    /// Reads a WITH clause, if there is one, and gives the index behind it.
    pub(crate) fn with(&mut self, at: usize, end: usize) -> Result<usize, Refusal> {
        if !self.tokens.is_word(at, "WITH") {
            return Ok(at);
        }
        let recursive = self.tokens.is_word(at + 1, "RECURSIVE");
        let mut at = at + 1 + usize::from(recursive);
        loop {
            let Some(name) = self.tokens.name(at) else { return self.refuse("cannot read WITH", at) };
            if self.catalog.names_sharded(name.as_bytes()) {
                return Err(format!("WITH {name} hides the sharded table of that name; rename it").into());
            }
            at += 1;
            if self.tokens.is_op(at, "(") {
                at = self.tokens.skip(at, end);
            }
            if !self.tokens.is_word(at, "AS") {
                return self.refuse("cannot read WITH", at);
            }
            let Some(close) = self.tokens.closing(at + 1, end) else {
                return self.refuse("cannot read WITH", at);
            };
            if recursive {
                self.withs.push(name.clone());
            }
            self.query(at + 2..close, None)?;
            if !recursive {
                self.withs.push(name);
            }
            if !self.tokens.is_op(close + 1, ",") {
                return Ok(close + 1);
            }
            at = close + 2;
        }
    }

    /// Operands of UNION, EXCEPT and INTERSECT.
    fn body(&mut self, range: Range<usize>, parent: Option<usize>) -> Result<(), Refusal> {
        let tokens = self.tokens;
        let mut start = range.start;
        loop {
            let split =
                tokens.find(start..range.end, |at| tokens.is_any(at, &["UNION", "EXCEPT", "INTERSECT"]));
            self.operand(start..split.unwrap_or(range.end), parent)?;
            let Some(split) = split else { return Ok(()) };
            start = split + 1 + usize::from(tokens.is_any(split + 1, &["ALL", "DISTINCT"]));
        }
    }

    fn operand(&mut self, range: Range<usize>, parent: Option<usize>) -> Result<(), Refusal> {
        let tokens = self.tokens;
        let at = range.start;
        if at >= range.end {
            return self.refuse("cannot read the query", at);
        }
        if tokens.is_op(at, "(") {
            let Some(close) = tokens.closing(at, range.end) else {
                return self.refuse("cannot read the query", at);
            };
            self.query(at + 1..close, parent)?;
            return self.subqueries(close + 1..range.end, parent);
        }
        if tokens.is_word(at, "SELECT") {
            return self.select(range, parent);
        }
        if tokens.is_word(at, "VALUES") {
            return self.subqueries(at + 1..range.end, parent);
        }
        if tokens.is_word(at, "TABLE") {
            let block = self.block(parent);
            let (table, next) = self.table(at + 1, range.end)?;
            self.blocks[block].refs.push(table);
            return self.subqueries(next..range.end, parent);
        }
        self.refuse("cannot read the query", at)
    }

    pub(crate) fn block(&mut self, parent: Option<usize>) -> usize {
        self.blocks.push(Block { parent, refs: Vec::new(), has_right_join: false, select_list: 0..0 });
        self.blocks.len() - 1
    }

    fn select(&mut self, range: Range<usize>, parent: Option<usize>) -> Result<(), Refusal> {
        let tokens = self.tokens;
        let block = self.block(parent);
        let from = tokens.find(range.start + 1..range.end, |at| tokens.is_word(at, "FROM"));
        let list_end = tokens
            .find(range.start + 1..range.end, |at| Some(at) == from || self.ends_condition(at))
            .unwrap_or(range.end);
        self.blocks[block].select_list = range.start + 1..list_end;
        let Some(from) = from else { return self.subqueries(range.start + 1..range.end, Some(block)) };
        self.subqueries(range.start + 1..from, Some(block))?;
        let (next, refs) = self.table_refs(from + 1, range.end, block)?;
        self.blocks[block].refs = refs;
        self.conditions_behind(next..range.end, block)
    }

    /// WHERE and all that follows it, for a block whose references are known.
    pub(crate) fn conditions_behind(&mut self, range: Range<usize>, block: usize) -> Result<(), Refusal> {
        let tokens = self.tokens;
        let mut at = range.start;
        if at < range.end && tokens.is_word(at, "WHERE") {
            let end = tokens.find(at + 1..range.end, |at| self.ends_condition(at)).unwrap_or(range.end);
            let scope = self.blocks[block].refs.clone();
            let condition = at + 1..end;
            self.subqueries(condition.clone(), Some(block))?;
            let operands = Vec::new();
            self.conditions.push(Condition {
                block,
                place: Place::Where,
                tokens: condition,
                scope,
                operands,
                nullable: Vec::new(),
            });
            at = end;
        }
        if at < range.end && (tokens.is_any(at, &["WHERE", "ON", "SET"]) || !self.is_tail(at)) {
            return self.refuse("cannot read the FROM clause", at);
        }
        self.subqueries(at..range.end, Some(block))
    }

    fn is_tail(&self, at: usize) -> bool {
        self.ends_condition(at) || self.tokens.is_any(at, &["RETURNING", "OFFSET"])
    }

    /// Whether a condition ends before this token. Only words that no server takes for a column's name.
    fn ends_condition(&self, at: usize) -> bool {
        let tokens = self.tokens;
        tokens.is_any(
            at,
            &[
                "GROUP",
                "HAVING",
                "ORDER",
                "LIMIT",
                "FOR",
                "LOCK",
                "INTO",
                "PROCEDURE",
                "FETCH",
                "WHERE",
                "ON",
                "SET",
            ],
        ) || (tokens.is_word(at, "WINDOW") && tokens.is_word(at + 2, "AS") && tokens.is_op(at + 3, "("))
    }

    /// Finds the subqueries in a range of expressions.
    pub(crate) fn subqueries(&mut self, range: Range<usize>, parent: Option<usize>) -> Result<(), Refusal> {
        let mut at = range.start;
        while at < range.end {
            if self.opens_query(at) {
                let Some(close) = self.tokens.closing(at, range.end) else {
                    return self.refuse("cannot read the subquery", at);
                };
                self.query(at + 1..close, parent)?;
                at = close;
            } else if self.tokens.is_any(at, &["SELECT", "JOIN"]) {
                return self.refuse("cannot read the query", at);
            }
            at += 1;
        }
        Ok(())
    }

    /// Whether the `(` at `at` holds a query, maybe behind more parentheses.
    fn opens_query(&self, at: usize) -> bool {
        if !self.tokens.is_op(at, "(") {
            return false;
        }
        // Bounded, for a row of parentheses would be walked from each of them: an inner one still finds the query.
        let inner = (at + 1..at + BLOCKS_DEEP_MAX).find(|inner| !self.tokens.is_op(*inner, "("));
        let Some(first) = inner else { return false };
        self.tokens.is_any(first, &["SELECT", "WITH", "TABLE"])
            || (self.tokens.is_word(first, "VALUES") && self.tokens.is_word(first + 1, "ROW"))
    }

    /// Comma list of joined tables: the index behind and the references.
    pub(crate) fn table_refs(
        &mut self,
        at: usize,
        end: usize,
        block: usize,
    ) -> Result<(usize, Vec<usize>), Refusal> {
        let (mut at, mut refs) = self.joined(at, end, block)?;
        while at < end && self.tokens.is_op(at, ",") {
            let (next, more) = self.joined(at + 1, end, block)?;
            at = next;
            refs.extend(more);
        }
        Ok((at, refs))
    }

    fn joined(&mut self, at: usize, end: usize, block: usize) -> Result<(usize, Vec<usize>), Refusal> {
        let (mut at, mut left) = self.factor(at, end, block)?;
        while let Some((join, next)) = self.join_words(at, end) {
            let is_right = join == Join::Right || self.tokens.is_any(at + 1, &["RIGHT", "LEFT"]);
            self.blocks[block].has_right_join |= is_right;
            let (next, right) = self.factor(next, end, block)?;
            at = self.constraint(next, end, block, join, (&left, &right))?;
            left.extend(right);
        }
        Ok((at, left))
    }

    /// The words of a join at `at` and the index behind them.
    fn join_words(&self, at: usize, end: usize) -> Option<(Join, usize)> {
        let tokens = self.tokens;
        if at >= end {
            return None;
        }
        if tokens.is_any(at, &["JOIN", "STRAIGHT_JOIN"]) {
            return Some((Join::Inner, at + 1));
        }
        if tokens.is_any(at, &["INNER", "CROSS"]) && tokens.is_word(at + 1, "JOIN") {
            return Some((Join::Inner, at + 2));
        }
        for (word, join) in [("LEFT", Join::Left), ("RIGHT", Join::Right)] {
            if tokens.is_word(at, word) {
                let outer = usize::from(tokens.is_word(at + 1, "OUTER"));
                return tokens.is_word(at + 1 + outer, "JOIN").then_some((join, at + 2 + outer));
            }
        }
        if tokens.is_word(at, "NATURAL") {
            let side = usize::from(tokens.is_any(at + 1, &["LEFT", "RIGHT", "INNER"]));
            let outer = usize::from(tokens.is_word(at + 1 + side, "OUTER"));
            let join = at + 1 + side + outer;
            return tokens.is_word(join, "JOIN").then_some((Join::Natural, join + 1));
        }
        None
    }

    /// ON or USING behind a join.
    fn constraint(
        &mut self,
        at: usize,
        end: usize,
        block: usize,
        join: Join,
        (left, right): (&[usize], &[usize]),
    ) -> Result<usize, Refusal> {
        let tokens = self.tokens;
        let nullable = match join {
            Join::Left => right.to_vec(),
            Join::Right => left.to_vec(),
            Join::Inner | Join::Natural => Vec::new(),
        };
        let operands = [left, right].concat();
        let scope = if nullable.is_empty() { operands.clone() } else { nullable.clone() };
        if join != Join::Natural && at < end && tokens.is_word(at, "ON") {
            let stop = tokens.find(at + 1..end, |at| self.ends_on(at, end)).unwrap_or(end);
            let condition = at + 1..stop;
            self.subqueries(condition.clone(), Some(block))?;
            let place = Place::On;
            self.conditions.push(Condition { block, place, tokens: condition, scope, operands, nullable });
            return Ok(stop);
        }
        if join != Join::Natural && at < end && tokens.is_word(at, "USING") {
            let Some(close) = tokens.closing(at + 1, end) else {
                return self.refuse("cannot read USING", at);
            };
            let place = Place::Using { right: left.len() };
            let names = at + 2..close;
            self.conditions.push(Condition { block, place, tokens: names, scope, operands, nullable });
            return Ok(close + 1);
        }
        match join {
            Join::Left | Join::Right => self.refuse("joins without parentheses around the inner one", at),
            Join::Inner | Join::Natural => Ok(at),
        }
    }

    fn ends_on(&self, at: usize, end: usize) -> bool {
        self.tokens.is_op(at, ",")
            || self.tokens.is_any(at, &["USING", "NATURAL", "CROSS", "INNER"])
            || self.join_words(at, end).is_some()
            || self.ends_condition(at)
    }

    /// One table, derived table or parenthesised join.
    fn factor(&mut self, at: usize, end: usize, block: usize) -> Result<(usize, Vec<usize>), Refusal> {
        let tokens = self.tokens;
        let lateral = tokens.is_word(at, "LATERAL");
        let open = at + usize::from(lateral);
        if self.opens_query(open) && self.is_derived(open, end) {
            let Some(close) = tokens.closing(open, end) else {
                return self.refuse("cannot read the FROM clause", at);
            };
            let parent = if lateral { Some(block) } else { self.blocks[block].parent };
            self.query(open + 1..close, parent)?;
            return self.derived(close + 1, end);
        }
        if tokens.is_op(at, "(") {
            let Some(close) = tokens.closing(at, end) else {
                return self.refuse("cannot read the FROM clause", at);
            };
            self.depth += 1;
            if self.depth > BLOCKS_DEEP_MAX {
                return Err("joins are nested too deep".into());
            }
            let (next, refs) = self.table_refs(at + 1, close, block)?;
            self.depth -= 1;
            if next != close {
                return self.refuse("cannot read the FROM clause", next);
            }
            return Ok((close + 1, refs));
        }
        if tokens.is_any(at, &["JSON_TABLE"]) && tokens.is_op(at + 1, "(") {
            let Some(close) = tokens.closing(at + 1, end) else {
                return self.refuse("cannot read JSON_TABLE", at);
            };
            self.subqueries(at + 2..close, Some(block))?;
            return self.derived(close + 1, end);
        }
        let (table, next) = self.table(at, end)?;
        Ok((next, vec![table]))
    }

    /// `((SELECT ..) x JOIN y)` is a join whose first table is derived; `((SELECT ..))` is a derived table.
    fn is_derived(&self, mut open: usize, end: usize) -> bool {
        let tokens = self.tokens;
        while tokens.is_op(open + 1, "(") {
            let (Some(close), Some(inner)) = (tokens.closing(open, end), tokens.closing(open + 1, end))
            else {
                return false;
            };
            if inner + 1 != close {
                return tokens.is_any(inner + 1, &["UNION", "EXCEPT", "INTERSECT", "ORDER", "LIMIT"]);
            }
            open += 1;
        }
        true
    }

    /// Alias and column names behind a derived table.
    fn derived(&mut self, at: usize, end: usize) -> Result<(usize, Vec<usize>), Refusal> {
        let (alias, mut next) = self.alias(at, end);
        if alias.is_some() && next < end && self.tokens.is_op(next, "(") {
            next = self.tokens.skip(next, end);
        }
        let aliased = alias.is_some();
        let alias = alias.unwrap_or_default();
        let table = TableName { schema: None, name: alias.clone() };
        self.refs.push(Ref { source: Source::Derived, table, alias, aliased });
        Ok((next, vec![self.refs.len() - 1]))
    }

    /// A named table with partitions, alias and index hints.
    pub(crate) fn table(&mut self, at: usize, end: usize) -> Result<(usize, usize), Refusal> {
        let tokens = self.tokens;
        let Some((schema, name, mut next)) = tokens.dotted_name(at).filter(|(_, _, next)| *next <= end)
        else {
            return self.refuse("cannot read the FROM clause", at);
        };
        if tokens.is_op(next, ".") || tokens.is_op(next, "(") {
            return self.refuse("cannot read the FROM clause", next);
        }
        if self.refs.len() >= REFS_MAX {
            return self.refuse("names too many tables", at);
        }
        let dual = schema.is_none() && tokens.is_word(at, "DUAL");
        let source = if dual { Source::Derived } else { self.source(schema.as_deref(), &name)? };
        if tokens.is_word(next, "PARTITION") && tokens.is_op(next + 1, "(") {
            next = tokens.skip(next + 1, end);
        }
        let (alias, after) = self.alias(next, end);
        next = self.index_hints(after, end);
        let schema = schema.or_else(|| self.default_schema.map(str::to_owned));
        let aliased = alias.is_some();
        let alias = alias.unwrap_or_else(|| name.clone());
        self.refs.push(Ref { source, table: TableName { schema, name }, alias, aliased });
        Ok((self.refs.len() - 1, next))
    }

    /// What a name in FROM means.
    fn source(&self, schema: Option<&str>, name: &str) -> Result<Source<'c>, Refusal> {
        if schema.is_none() {
            if self.withs.iter().any(|with| with == name) {
                return Ok(Source::Derived);
            }
            if self.withs.iter().any(|with| with.to_lowercase() == name.to_lowercase()) {
                return Err(format!("table {name} differs only in case from a WITH name").into());
            }
        }
        let entry = schema.or(self.default_schema).and_then(|schema| self.catalog.table(schema, name));
        Ok(match entry {
            Some(Table::Sharded(sharded)) => Source::Sharded(sharded),
            Some(Table::Reference { columns }) => Source::Reference(columns),
            Some(Table::Unsharded) | None => Source::Plain,
        })
    }

    /// `[AS] alias`, if there is one.
    fn alias(&self, at: usize, end: usize) -> (Option<String>, usize) {
        let tokens = self.tokens;
        if at < end && tokens.is_word(at, "AS") && tokens.is_name(at + 1) {
            return (tokens.name(at + 1), at + 2);
        }
        let reserved = [
            "JOIN",
            "INNER",
            "CROSS",
            "LEFT",
            "RIGHT",
            "NATURAL",
            "STRAIGHT_JOIN",
            "ON",
            "USING",
            "USE",
            "FORCE",
            "IGNORE",
            "WHERE",
            "GROUP",
            "HAVING",
            "ORDER",
            "LIMIT",
            "FOR",
            "LOCK",
            "INTO",
            "PROCEDURE",
            "FETCH",
            "SET",
            "AS",
            "WITH",
            "PARTITION",
            "OUTER",
            "RETURNING",
            "WINDOW",
            "OFFSET",
            "READ",
            "WRITE",
        ];
        let word = at < end && tokens.is_name(at) && !tokens.is_any(at, &reserved);
        if word { (tokens.name(at), at + 1) } else { (None, at) }
    }

    /// `USE|FORCE|IGNORE INDEX|KEY [FOR ..] (..)`, any number of them.
    fn index_hints(&self, mut at: usize, end: usize) -> usize {
        let tokens = self.tokens;
        loop {
            let comma = usize::from(tokens.is_op(at, ","));
            let hint = at + comma;
            if !(hint + 1 < end
                && tokens.is_any(hint, &["USE", "FORCE", "IGNORE"])
                && tokens.is_any(hint + 1, &["INDEX", "KEY"]))
            {
                return at;
            }
            let mut open = hint + 2;
            if tokens.is_word(open, "FOR") {
                open += 2;
                open += usize::from(tokens.is_word(open, "BY"));
            }
            if !tokens.is_op(open, "(") {
                return at;
            }
            at = tokens.skip(open, end);
        }
    }
}
