//! SHOW DATABASES: without usher's own schema, and without those that the account may not use, as a server leaves out
//! what a user has no right to.

use usher_sql::{Lexer, LiteralKind, OWN_SCHEMA, Plan, Token, TokenKind};

use crate::query::{Text, packet};
use crate::session::{Served, Session, Turn};
use crate::text_prepare::escape;

impl Session {
    pub(crate) async fn show_databases(&mut self, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        let end = statement.digest.end.min(statement.text.len());
        let text = self.visible_databases(statement.text.get(..end).unwrap_or_default());
        let packets = packet(&text);
        self.global(plan, Text { packets: &packets, ..statement }, turn).await
    }

    /// The statement with the condition that a name is for this session to see. What is no SHOW DATABASES stays as it
    /// is: a server has its own words for it.
    pub(crate) fn visible_databases(&self, text: &[u8]) -> Vec<u8> {
        let tokens: Vec<Token> =
            Lexer::new(text, self.mode).filter(|token| token.bytes(text) != b";").collect();
        let (Some(show), Some(what)) = (tokens.first(), tokens.get(1)) else { return text.to_vec() };
        let word = |at: usize, word: &str| {
            tokens.get(at).is_some_and(|token| token.bytes(text).eq_ignore_ascii_case(word.as_bytes()))
        };
        let last = tokens.last().map_or(0, |token| token.span().end);
        let since = |at: usize| {
            let start = tokens.get(at).map_or(last, |token| token.span().start);
            text.get(start..last).unwrap_or_default()
        };
        let head = text.get(show.span().start..what.span().end).unwrap_or_default();
        let mut out = Vec::new();
        if tokens.len() == 2 {
            out.extend_from_slice(head);
            out.extend_from_slice(format!(" WHERE {}", self.condition("`Database`")).as_bytes());
        } else if word(2, "WHERE") && tokens.len() > 3 {
            out.extend_from_slice(head);
            out.extend_from_slice(b" WHERE (");
            out.extend_from_slice(since(3));
            out.extend_from_slice(format!(") AND {}", self.condition("`Database`")).as_bytes());
        } else if let (true, Some(pattern), 4) = (word(2, "LIKE"), self.pattern(text, &tokens), tokens.len())
        {
            let name = pattern.replace('`', "``");
            let select =
                format!("SELECT SCHEMA_NAME AS `Database ({name})` FROM information_schema.SCHEMATA");
            out.extend_from_slice(select.as_bytes());
            out.extend_from_slice(b" WHERE SCHEMA_NAME LIKE ");
            out.extend_from_slice(since(3));
            out.extend_from_slice(
                format!(" AND {} ORDER BY SCHEMA_NAME", self.condition("SCHEMA_NAME")).as_bytes(),
            );
        } else {
            return text.to_vec();
        }
        out
    }

    fn pattern(&self, text: &[u8], tokens: &[Token]) -> Option<String> {
        let token = tokens.get(3)?;
        let TokenKind::Literal(LiteralKind::Text) = token.kind else { return None };
        String::from_utf8(usher_sql::string_value(token.bytes(text), self.mode).into_owned()).ok()
    }

    fn condition(&self, column: &str) -> String {
        let quoted = |name: &String| {
            let mut quoted = vec![b'\''];
            escape(name.as_bytes(), self.mode, &mut quoted);
            quoted.push(b'\'');
            String::from_utf8_lossy(&quoted).into_owned()
        };
        let own = format!("{column} <> '{OWN_SCHEMA}'");
        match self.account.allowed() {
            Some(allowed) => {
                let names: Vec<String> = allowed.iter().map(quoted).collect();
                format!("{own} AND {column} IN ('information_schema', {})", names.join(", "))
            }
            None => own,
        }
    }
}
