//! Session state that a statement reads or leaves behind, seen from its tokens alone.

use std::ops::Range;

use crate::lex::{Lexer, Token, TokenKind};
use crate::mode::Mode;
use crate::plan::functions;

/// Session state that a statement reads or leaves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools)] // a set of independent facts
pub struct Uses {
    /// Calls LAST_INSERT_ID() or reads @@last_insert_id, @@identity.
    pub last_insert_id: bool,
    /// Calls LAST_INSERT_ID(expression), which sets it.
    pub sets_last_insert_id: bool,
    /// Calls FOUND_ROWS().
    pub found_rows: bool,
    /// Has SQL_CALC_FOUND_ROWS.
    pub calc_found_rows: bool,
    /// What FOUND_ROWS() gives after it.
    pub found: Found,
    /// Calls ROW_COUNT().
    pub row_count: bool,
    /// Calls CONNECTION_ID() or reads @@pseudo_thread_id.
    pub connection_id: bool,
    /// Calls DATABASE() or SCHEMA().
    pub database: bool,
    /// Calls USER(), CURRENT_USER, SESSION_USER() or SYSTEM_USER().
    pub user: bool,
    /// Takes or releases a named lock: GET_LOCK and its kin. IS_FREE_LOCK and IS_USED_LOCK count too.
    pub named_lock: bool,
    /// Reads the diagnostics of the statement before: @@warning_count, @@error_count.
    pub diagnostics: bool,
    /// User variables it reads, lower case, without the @.
    pub reads_user_vars: Vec<String>,
    /// User variables it may assign: `:=`, INTO @x, CALL's arguments.
    pub writes_user_vars: Vec<String>,
    /// System variables it reads, lower case, without @@ and scope.
    pub system_vars: Vec<String>,
    /// Calls functions that are not known to be built in and harmless, or asks a sequence for a value. Looked
    /// for only where the statement does not write.
    pub unknown_function: Option<String>,
    /// The text has SELECT .. INTO OUTFILE or DUMPFILE.
    pub outfile: bool,
}

/// What FOUND_ROWS() gives after a statement without SQL_CALC_FOUND_ROWS that has rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Found {
    /// Their number.
    #[default]
    Rows,
    /// Their number and those that LIMIT has passed over, by the ordinal of that literal; without any row, only a server
    /// knows.
    Behind(u32),
    /// Only a server knows.
    Asked,
}

impl Uses {
    /// Whether a replica must not run it.
    #[must_use]
    pub fn needs_writer(&self) -> bool {
        self.unknown_function.is_some() || self.named_lock || self.sets_last_insert_id
    }
}

/// Collects [`Uses`] from a stream of tokens.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) uses: Uses,
    /// FOR UPDATE, FOR SHARE or LOCK IN SHARE MODE was seen.
    pub(crate) locking: bool,
    /// FROM was seen, or another word that may bring a table in.
    pub(crate) reads_tables: bool,
    /// The last tokens, newest first.
    last: [Option<Token>; 2],
    in_into: bool,
    in_call: bool,
    started: bool,
    limits: Limits,
}

/// What is seen of LIMIT clauses.
#[derive(Debug, Default)]
struct Limits {
    at: LimitAt,
    /// Literals so far.
    literals: u32,
    seen: u32,
    /// The literal of the rows that are passed over.
    offset: Option<u32>,
    /// What makes the number of rows that were found another than it seems.
    merges: bool,
    groups: bool,
}

/// Where in a LIMIT clause.
#[derive(Debug, Default, Clone, Copy)]
enum LimitAt {
    #[default]
    Outside,
    Limit,
    First(u32),
    Offset,
}

impl Limits {
    fn see(&mut self, token: Token, bytes: &[u8]) {
        let before = std::mem::take(&mut self.at);
        match token.kind {
            TokenKind::Literal(_) => {
                let ordinal = self.literals;
                self.literals = self.literals.saturating_add(1);
                match before {
                    LimitAt::Limit => self.at = LimitAt::First(ordinal),
                    LimitAt::Offset => self.offset = Some(ordinal),
                    _ => {}
                }
            }
            TokenKind::Op if bytes == b"," => {
                if let LimitAt::First(ordinal) = before {
                    self.offset = Some(ordinal);
                }
            }
            TokenKind::Word => match upper(bytes, &mut [0; WORD_BYTES_MAX]) {
                b"LIMIT" => {
                    self.seen += 1;
                    self.at = LimitAt::Limit;
                }
                b"OFFSET" => {
                    // MariaDB has OFFSET .. ROWS FETCH .. without a LIMIT.
                    self.groups |= !matches!(before, LimitAt::First(_));
                    self.at = LimitAt::Offset;
                }
                b"UNION" | b"INTERSECT" | b"EXCEPT" => self.merges = true,
                b"GROUP" | b"DISTINCT" | b"HAVING" | b"OVER" => self.groups = true,
                _ => {}
            },
            _ => {}
        }
    }

    fn found(&self) -> Found {
        match self.offset {
            Some(ordinal) if self.seen == 1 && !self.merges && !self.groups => Found::Behind(ordinal),
            Some(_) => Found::Asked,
            None if self.seen > 0 && self.merges => Found::Asked,
            None => Found::Rows,
        }
    }
}

impl Watch {
    pub(crate) fn see(&mut self, text: &[u8], token: Token) {
        let bytes = token.bytes(text);
        self.limits.see(token, bytes);
        match token.kind {
            TokenKind::Word => self.word(text, bytes),
            TokenKind::Op => self.op(text, bytes),
            TokenKind::UserVar => self.user_var(bytes),
            TokenKind::SysVar => self.sys_var(bytes),
            _ => {}
        }
        self.last_insert_id_argument(text, bytes);
        if !matches!(token.kind, TokenKind::UserVar) && bytes != b"," && !bytes.eq_ignore_ascii_case(b"into")
        {
            self.in_into = false;
        }
        self.started = true;
        self.last = [Some(token), self.last[0]];
    }

    /// What was collected.
    pub(crate) fn uses(&self) -> Uses {
        Uses { found: self.limits.found(), ..self.uses.clone() }
    }

    fn before<'t>(&self, text: &'t [u8], back: usize) -> &'t [u8] {
        self.last.get(back).copied().flatten().map_or(&[], |token| token.bytes(text))
    }

    fn word(&mut self, text: &[u8], bytes: &[u8]) {
        match upper(bytes, &mut [0; WORD_BYTES_MAX]) {
            b"UPDATE" | b"SHARE" if self.before(text, 0).eq_ignore_ascii_case(b"for") => self.locking = true,
            b"SHARE" if self.before(text, 0).eq_ignore_ascii_case(b"in") => self.locking = true,
            b"VALUE" if self.before(text, 0).eq_ignore_ascii_case(b"next") => self.unknown(b"NEXT VALUE"),
            b"FROM" | b"TABLE" | b"JOIN" => self.reads_tables = true,
            b"CALL" | b"LOAD" if !self.started => self.in_call = true,
            b"INTO" => self.in_into = true,
            b"OUTFILE" | b"DUMPFILE" if self.in_into => self.uses.outfile = true,
            b"SQL_CALC_FOUND_ROWS" => self.uses.calc_found_rows = true,
            b"CURRENT_USER" | b"CURRENT_ROLE" => self.uses.user = true,
            _ => {}
        }
    }

    fn op(&mut self, text: &[u8], bytes: &[u8]) {
        if bytes == b"(" {
            self.open(text);
        } else if bytes == b":="
            && let Some(name) = self.last[0].filter(|token| token.kind == TokenKind::UserVar)
        {
            push(&mut self.uses.writes_user_vars, user_variable_name(name.bytes(text)));
        }
    }

    /// `LAST_INSERT_ID(` followed by anything but `)` sets the value.
    fn last_insert_id_argument(&mut self, text: &[u8], bytes: &[u8]) {
        if bytes != b")"
            && self.before(text, 0) == b"("
            && self.before(text, 1).eq_ignore_ascii_case(b"last_insert_id")
        {
            self.uses.sets_last_insert_id = true;
        }
    }

    /// A `(`: the word before it may be a function's name.
    fn open(&mut self, text: &[u8]) {
        let Some(token) = self.last[0] else { return };
        if self.before(text, 1).eq_ignore_ascii_case(b"into") {
            return;
        }
        let name = token.bytes(text);
        match token.kind {
            TokenKind::Dotted => self.unknown(name),
            // A quoted name before a parenthesis is a stored function, a column list or an index.
            TokenKind::Quoted if self.before(text, 1) == b"." => self.unknown(name),
            TokenKind::Quoted if is_expression_behind(self.before(text, 1)) => {
                self.call(name.get(1..name.len().saturating_sub(1)).unwrap_or_default());
            }
            TokenKind::Word => self.call(name),
            _ => {}
        }
    }

    fn call(&mut self, name: &[u8]) {
        match upper(name, &mut [0; WORD_BYTES_MAX]) {
            b"LAST_INSERT_ID" => self.uses.last_insert_id = true,
            b"FOUND_ROWS" => self.uses.found_rows = true,
            b"ROW_COUNT" => self.uses.row_count = true,
            b"CONNECTION_ID" => self.uses.connection_id = true,
            b"DATABASE" | b"SCHEMA" => self.uses.database = true,
            b"USER" | b"CURRENT_USER" | b"SESSION_USER" | b"SYSTEM_USER" => self.uses.user = true,
            b"GET_LOCK" | b"RELEASE_LOCK" | b"RELEASE_ALL_LOCKS" | b"IS_FREE_LOCK" | b"IS_USED_LOCK" => {
                self.uses.named_lock = true;
            }
            other if functions::is_harmless(other) => {}
            _ => self.unknown(name),
        }
    }

    fn unknown(&mut self, name: &[u8]) {
        self.uses.unknown_function.get_or_insert_with(|| String::from_utf8_lossy(name).into_owned());
    }

    fn user_var(&mut self, bytes: &[u8]) {
        let name = user_variable_name(bytes);
        if self.in_into || self.in_call {
            push(&mut self.uses.writes_user_vars, name.clone());
        }
        if !self.in_into {
            push(&mut self.uses.reads_user_vars, name);
        }
    }

    fn sys_var(&mut self, bytes: &[u8]) {
        let name = String::from_utf8_lossy(bytes).replace('`', "").to_ascii_lowercase();
        let name = name.trim_start_matches('@');
        let name = ["global.", "session.", "local."]
            .iter()
            .find_map(|scope| name.strip_prefix(scope))
            .unwrap_or(name);
        match name {
            "last_insert_id" | "identity" => self.uses.last_insert_id = true,
            "warning_count" | "error_count" => self.uses.diagnostics = true,
            "pseudo_thread_id" => self.uses.connection_id = true,
            _ => {}
        }
        push(&mut self.uses.system_vars, name.to_owned());
    }
}

/// Whether a name behind this is part of an expression; behind all other words it names a table, a key and so on.
fn is_expression_behind(before: &[u8]) -> bool {
    const WORDS: [&[u8]; 24] = [
        b"SELECT",
        b"DISTINCT",
        b"ALL",
        b"WHERE",
        b"AND",
        b"OR",
        b"XOR",
        b"NOT",
        b"BY",
        b"HAVING",
        b"CASE",
        b"WHEN",
        b"THEN",
        b"ELSE",
        b"SET",
        b"DO",
        b"IN",
        b"LIKE",
        b"BETWEEN",
        b"IS",
        b"DIV",
        b"MOD",
        b"RETURN",
        b"LIMIT",
    ];
    let is_op = before.first().is_some_and(|byte| b"(,=<>+-*/%|&^!~".contains(byte));
    is_op || WORDS.iter().any(|word| word.eq_ignore_ascii_case(before))
}

/// No word that matters here is longer.
const WORD_BYTES_MAX: usize = 40;

/// A word in upper case; empty if it is too long to matter.
fn upper<'b>(word: &[u8], buffer: &'b mut [u8; WORD_BYTES_MAX]) -> &'b [u8] {
    let Some(upper) = buffer.get_mut(..word.len()) else { return &[] };
    upper.copy_from_slice(word);
    upper.make_ascii_uppercase();
    upper
}

/// So many variables of a statement are named in [`Uses`]: where there are as many, there may be more.
pub const USER_VARS_MAX: usize = 64;

fn push(names: &mut Vec<String>, name: String) {
    if names.len() < USER_VARS_MAX && !names.contains(&name) {
        names.push(name);
    }
}

/// `@X`, `` @`X` `` and `@'X'` are the variable `x`.
#[must_use]
pub fn user_variable_name(raw: &[u8]) -> String {
    let name = raw.strip_prefix(b"@").unwrap_or(raw);
    let name = match name {
        [b'`' | b'\'' | b'"', inner @ .., _] => inner,
        other => other,
    };
    String::from_utf8_lossy(name).to_lowercase()
}

/// The spans of `@@name`, with or without a scope, and whether each is all of a column of a SELECT's list.
#[must_use]
pub fn find_variables(text: &[u8], mode: Mode, name: &str) -> Vec<(Range<usize>, bool)> {
    let tokens: Vec<Token> = Lexer::new(text, mode).collect();
    let ends = |at: Option<&Token>, words: &[&[u8]]| {
        at.is_none_or(|token| words.iter().any(|word| token.bytes(text).eq_ignore_ascii_case(word)))
    };
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.kind == TokenKind::SysVar) {
        let bytes = token.bytes(text);
        let bare = bytes.rsplit(|byte| matches!(byte, b'@' | b'.')).next().unwrap_or_default();
        if bare.eq_ignore_ascii_case(name.as_bytes()) {
            let before = at.checked_sub(1).and_then(|at| tokens.get(at));
            let column = before.is_some()
                && ends(before, &[b"SELECT", b","])
                && ends(tokens.get(at + 1), &[b",", b";", b"FROM", b"LIMIT", b"UNION", b"INTO"]);
            found.push((token.span(), column));
        }
    }
    found
}

/// The spans of calls of a function that has no arguments, `NAME()`, from the name to the `)`. For answering
/// LAST_INSERT_ID() and its kin in the proxy. Calls inside strings and comments are not found.
#[must_use]
pub fn find_calls(text: &[u8], mode: Mode, function: &str) -> Vec<Range<usize>> {
    let mut calls = Vec::new();
    let mut last: [Option<Token>; 2] = [None, None];
    for token in Lexer::new(text, mode) {
        if token.bytes(text) == b")"
            && let [Some(open), Some(name)] = last
            && open.bytes(text) == b"("
            && name.kind == TokenKind::Word
            && name.bytes(text).eq_ignore_ascii_case(function.as_bytes())
        {
            calls.push(name.span().start..token.span().end);
        }
        last = [Some(token), last[0]];
    }
    calls
}
