//! Tokens, digests, hints and splices.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use usher_sql::{
    Catalog, Digest, KeyType, Lexer, Literal, LiteralKind, Mode, Sharded, Table, TokenKind, digest,
    find_calls, plan, splice,
};

const ANSI: Mode =
    Mode { ansi_quotes: true, no_backslash_escapes: false, pipes_as_concat: false, foreign_charset: false };
const NO_BACKSLASH: Mode =
    Mode { ansi_quotes: false, no_backslash_escapes: true, pipes_as_concat: false, foreign_charset: false };

/// Tokens as `kind:text`, joined by spaces; kinds by their first letter, literals by two.
fn tokens(text: &str, mode: Mode) -> String {
    let shown = Lexer::new(text.as_bytes(), mode).map(|token| {
        let kind = match token.kind {
            TokenKind::Word => "w",
            TokenKind::Dotted => "d",
            TokenKind::Quoted => "q",
            TokenKind::Op => "",
            TokenKind::UserVar => "uv",
            TokenKind::SysVar => "sv",
            TokenKind::Hint => "hint",
            TokenKind::CodeOpen => "open",
            TokenKind::CodeClose => "close",
            TokenKind::Bad => "BAD",
            TokenKind::Literal(kind) => match kind {
                LiteralKind::Int => "int",
                LiteralKind::Real => "real",
                LiteralKind::Text => "text",
                LiteralKind::National => "nat",
                LiteralKind::Introduced => "intro",
                LiteralKind::HexNumber => "hexn",
                LiteralKind::HexText => "hext",
                LiteralKind::Bits => "bits",
                LiteralKind::Param(_) => "param",
            },
        };
        let text = String::from_utf8_lossy(token.bytes(text.as_bytes())).into_owned();
        if kind.is_empty() { text } else { format!("{kind}:{text}") }
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn words_numbers_and_names() {
    let cases = [
        ("a b1 $c _d é", "w:a w:b1 w:$c w:_d w:é"),
        (
            "1 12.5 .5 1. 1e10 1E-5 1.5e+3 1e 5abc 0x1F 0X1F 0x 0xfg 0b101 0b12",
            "int:1 real:12.5 real:.5 real:1. real:1e10 real:1E-5 real:1.5e+3 w:1e w:5abc hexn:0x1F w:0X1F w:0x w:0xfg bits:0b101 w:0b12",
        ),
        ("t.5 t.limit t .limit a.b.c", "w:t . d:5 w:t . d:limit w:t . d:limit w:a . d:b . d:c"),
        ("t .5 `t`.`x``y`", "w:t real:.5 q:`t` . q:`x``y`"),
        ("x'41' X'4' x 'a' b'01' b'2' n'x'", "hext:x'41' BAD:X'4' x 'a' b'01' b'2' n'x'"),
        ("b'01' N'é' n 'x'", "bits:b'01' nat:N'é' w:n text:'x'"),
        (
            "_utf8mb4'x' _binary 0xFF _UTF8 'y' _other 'z' _latin1 w",
            "intro:_utf8mb4'x' intro:_binary 0xFF intro:_UTF8 'y' w:_other text:'z' w:_latin1 w:w",
        ),
        (
            "@a @`b c` @'d' @@x @@global.y @@`z` @ 1",
            "uv:@a uv:@`b c` uv:@'d' sv:@@x sv:@@global.y sv:@@`z` uv:@ int:1",
        ),
        (
            "a<=>b<=c>=d<>e!=f:=g||h&&i<<j>>k->l->>m!n",
            "w:a <=> w:b <= w:c >= w:d <> w:e != w:f := w:g || w:h && w:i << w:j >> w:k -> w:l ->> w:m ! w:n",
        ),
        ("\\N", "w:\\N"),
    ];
    for (text, expected) in cases {
        assert_eq!(tokens(text, Mode::default()), expected, "{text}");
    }
}

#[test]
fn strings_end_where_the_servers_end_them() {
    let plain = Mode::default();
    assert_eq!(tokens("'it''s' 'b' x", plain), "text:'it''s' 'b' w:x");
    assert_eq!(tokens(r"'a\' b' c", plain), r"text:'a\' b' w:c");
    assert_eq!(tokens(r"'a\' z' c", NO_BACKSLASH), r"text:'a\' w:z BAD:' c");
    assert_eq!(tokens(r"'a\\' b", plain), r"text:'a\\' w:b");
    assert_eq!(tokens("\"a\"\"b\" 'c'", plain), "text:\"a\"\"b\" 'c'");
    assert_eq!(tokens("\"a\"\"b\" 'c'", ANSI), "q:\"a\"\"b\" text:'c'");
    assert_eq!(tokens("'a' \"b\"", ANSI), "text:'a' q:\"b\"");
    assert_eq!(tokens("'open", plain), "BAD:'open");
    assert_eq!(tokens(r"'open\", plain), r"BAD:'open\");
    assert_eq!(tokens("`open", plain), "BAD:`open");
}

#[test]
fn comments_are_dropped_or_kept() {
    let cases = [
        ("a -- b\nc", "w:a w:c"),
        ("a --b", "w:a - - w:b"),
        ("a --", "w:a"),
        ("a # b\nc", "w:a w:c"),
        ("a /* b */ c /**/ d", "w:a w:c w:d"),
        ("a /*/ b */ c", "w:a w:c"),
        ("a /*! b */ c", "w:a open:/*! w:b close:*/ w:c"),
        ("a /*!50003 b */ */ c", "w:a open:/*!50003 w:b close:*/ * / w:c"),
        (
            "/*!100100 b */ /*M!100100 c */ /*!12 d */",
            "open:/*!100100 w:b close:*/ open:/*M!100100 w:c close:*/ open:/*! int:12 w:d close:*/",
        ),
        ("SELECT /*+ BKA(t) */ 1", "w:SELECT hint:/*+ BKA(t) */ int:1"),
        ("a /* open", "w:a BAD:/* open"),
        ("'/* x' /* ' */ y", "text:'/* x' w:y"),
    ];
    for (text, expected) in cases {
        assert_eq!(tokens(text, Mode::default()), expected, "{text}");
    }
}

fn digest_of(text: &str) -> (Digest, Vec<Literal>) {
    let mut literals = Vec::new();
    (digest(text.as_bytes(), Mode::default(), &mut literals), literals)
}

fn hash(text: &str) -> u128 {
    digest_of(text).0.hash
}

#[test]
fn digests_ignore_literals_spaces_and_comments() {
    let base = hash("SELECT * FROM t WHERE a = 5 AND b = 'x'");
    for same in [
        "SELECT * FROM t WHERE a=6 AND b='y or ''more'''",
        "SELECT  *\nFROM t -- note\nWHERE a = 0 AND b = \"q\";",
        "/* app */ SELECT * FROM t WHERE a = 123456789 AND b = '' ; ",
    ] {
        assert_eq!(hash(same), base, "{same}");
    }
}

#[test]
fn digests_differ_with_the_shape() {
    let texts = [
        "SELECT a FROM t WHERE x = 5",
        "SELECT a FROM t WHERE x = '5'",
        "SELECT a FROM t WHERE x = ?",
        "SELECT a FROM t WHERE x = -5",
        "SELECT a FROM t WHERE x = 5.0",
        "SELECT a FROM t WHERE x = NULL",
        "SELECT a FROM t WHERE x = y",
        "SELECT a FROM t WHERE `x` = 5",
        "SELECT a FROM t WHERE x = 0x5",
        "SELECT a FROM t WHERE x = x'05'",
        "SELECT a FROM t WHERE x IN (5)",
        "SELECT a FROM t WHERE x IN (5, 5)",
        "SELECT /*+ X */ a FROM t WHERE x = 5",
        "SELECT a FROM T WHERE x = 5",
        "SELECT a FROM t WHERE x = 5 /*! OR 1 */",
        "SELECT a FROM t WHERE x = 5 /*!50000 OR 1 */",
        "SELECT a FROM t WHERE x = 5 OR 1",
        "SELECT aFROM t WHERE x = 5",
        "SELECT a FROM averyverylongtablename WHERE x = 5",
        "SELECT a FROM averyverylongtablenamd WHERE x = 5",
        "/* usher: user=5 */ SELECT a FROM t WHERE x = 5",
        "/* usher: writer */ SELECT a FROM t WHERE x = 5",
        "/* usher: shard=s1 */ SELECT a FROM t WHERE x = 5",
    ];
    for (i, a) in texts.iter().enumerate() {
        for b in &texts[i + 1..] {
            assert_ne!(hash(a), hash(b), "{a}\n{b}");
        }
    }
}

#[test]
fn literals_are_listed_in_order() {
    let text = "SELECT ?, 'a' 'b', -7 FROM t WHERE x = ? LIMIT 3";
    let (found, literals) = digest_of(text);
    let shown: Vec<(&str, LiteralKind)> = literals.iter().map(|one| (&text[one.span()], one.kind)).collect();
    let expected = [
        ("?", LiteralKind::Param(0)),
        ("'a' 'b'", LiteralKind::Text),
        ("7", LiteralKind::Int),
        ("?", LiteralKind::Param(1)),
        ("3", LiteralKind::Int),
    ];
    assert_eq!(shown, expected);
    assert_eq!(found.params, 2);
}

#[test]
fn hints_are_read_from_a_leading_comment_only() {
    let text = "/* usher: user='bob smith', writer shard=s1 */ SELECT 1";
    let hints = digest_of(text).0.hints;
    assert_eq!(&text[hints.user.unwrap()], "bob smith");
    assert_eq!(&text[hints.shard.unwrap()], "s1");
    assert!(hints.writer && hints.unknown.is_none());
    let text = "/*usher:user=623*/SELECT 1";
    assert_eq!(&text[digest_of(text).0.hints.user.unwrap()], "623");
    let text = "/* usher: usr=5 */ SELECT 1";
    assert_eq!(&text[digest_of(text).0.hints.unknown.unwrap()], "usr=5");
    for none in
        ["SELECT /* usher: writer */ 1", "/* by usher: writer */ SELECT 1", "SELECT 1 /* usher: writer */"]
    {
        assert!(digest_of(none).0.hints.is_empty(), "{none}");
    }
    for odd in [
        "/* usher: user= */ SELECT 1",
        "/* usher: user */ SELECT 1",
        "/* usher: writer=1 */ SELECT 1",
        "/* usher:",
    ] {
        let _ = digest_of(odd);
    }
    assert_eq!(hash("/* usher: user=5 */ SELECT 1"), hash("/* usher: user=6 */ SELECT 1"));
}

#[test]
fn second_statements_are_found() {
    let second = |text: &str| digest_of(text).0.second_statement.map(|at| text[at..].to_owned());
    assert_eq!(second("SELECT 1; SELECT 2"), Some("SELECT 2".into()));
    assert_eq!(second("SELECT ';'; /* x */ ; SELECT 2;"), Some("SELECT 2;".into()));
    assert_eq!(second("SELECT 1; ; -- x"), None);
    assert_eq!(second("CREATE PROCEDURE p() BEGIN SELECT 1; END"), None);
    assert_eq!(
        second("CREATE DEFINER=`a`@`b` TRIGGER t BEFORE INSERT ON x FOR EACH ROW BEGIN SET @a = 1; END"),
        None
    );
    assert_eq!(second("BEGIN NOT ATOMIC SELECT 1; SELECT 2; END"), None);
    assert_eq!(second("FOR i IN 1..3 DO INSERT INTO t VALUES (i); END FOR"), None);
    assert_eq!(second("DECLARE a INT; BEGIN SELECT 1; END"), None);
    assert_eq!(second("a: LOOP SELECT 1; LEAVE a; END LOOP"), None);
    assert_eq!(
        second("SET STATEMENT max_statement_time = 1 FOR CREATE PROCEDURE p() BEGIN SELECT 1; END"),
        None
    );
    assert_eq!(second("SET STATEMENT a = 1 FOR SELECT 1; SELECT 2"), Some("SELECT 2".into()));
    assert_eq!(second("SET a = 1; FOR"), Some("FOR".into()));
    assert_eq!(second("BEGIN; SELECT 1"), Some("SELECT 1".into()));
    assert_eq!(hash("SELECT 1; DROP TABLE t"), hash("SELECT 1"));
    let text = "SELECT 1 ;  ";
    assert_eq!(&text[..digest_of(text).0.end], "SELECT 1");
}

#[test]
fn variables_are_found_where_they_stand() {
    let found = |text: &str| usher_sql::find_variables(text.as_bytes(), Mode::default(), "socket");
    assert_eq!(found("SELECT @@port,@@socket"), [(14..22, true)]);
    assert_eq!(found("SELECT @@GLOBAL.Socket FROM t"), [(7..22, true)]);
    assert_eq!(found("SELECT CONCAT(@@socket)"), [(14..22, false)]);
    assert_eq!(found("SELECT '@@socket', @@socket_x"), []);
}

#[test]
fn splices_and_calls() {
    let mut out = b"> ".to_vec();
    splice(b"a b c", &[(0..1, "x"), (2..2, "new "), (4..5, "")], &mut out).unwrap();
    assert_eq!(out, b"> x new b ");
    assert!(splice(b"abc", &[(2..3, ""), (0..1, "")], &mut out).is_err());
    assert!(splice(b"abc", &[(2..9, "")], &mut out).is_err());
    let text = b"SELECT last_insert_id ( ), 'LAST_INSERT_ID()', LAST_INSERT_ID(1), x.last_insert_id()";
    assert_eq!(find_calls(text, Mode::default(), "LAST_INSERT_ID"), vec![7..25]);
}

fn mode() -> impl Strategy<Value = Mode> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(ansi_quotes, no_backslash_escapes, pipes_as_concat)| Mode {
            ansi_quotes,
            no_backslash_escapes,
            pipes_as_concat,
            foreign_charset: false,
        },
    )
}

/// Bytes that often open or close something.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "'",
            "\"",
            "`",
            "\\",
            "/*",
            "*/",
            "/*!",
            "/*!50003",
            "/*+",
            "--",
            "-- ",
            "#",
            "\n",
            ";",
            "@",
            "@@",
            "?",
            "(",
            ")",
            ".",
            ",",
            "x'",
            "0x",
            "0b",
            "1e",
            "_utf8'",
            "SELECT ",
            "FROM ",
            "photos ",
            "WHERE ",
            "user_id ",
            "= ",
            "5 ",
            "AND ",
            "OR ",
            "INSERT INTO ",
            "VALUES ",
            "UNION ",
            "WITH ",
            "AS ",
            "CASE ",
            "END ",
            "BETWEEN ",
            "IN ",
            "UPDATE ",
            "SET ",
            "DELETE ",
            "JOIN ",
            "ON ",
            "USING ",
            "LEFT ",
            "CREATE ",
            "TABLE ",
            "COMMENT ",
            "usher: ",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::new(1, false);
    let columns = ["id", "user_id", "title"].map(Into::into).to_vec();
    let table = Sharded {
        key_column: "user_id".into(),
        key_type: KeyType::BIGINT,
        sequence: Some("id".into()),
        columns,
    };
    catalog.insert("app", "photos", Table::Sharded(table));
    catalog
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_become_ordered_tokens(text in text(), mode in mode()) {
        let mut end = 0;
        for token in Lexer::new(&text, mode) {
            prop_assert!(token.start >= end && token.end > token.start && token.end as usize <= text.len());
            end = token.end;
        }
    }

    #[test]
    fn digest_and_plan_agree_on_literals(text in text(), mode in mode()) {
        let mut literals = Vec::new();
        let found = digest(&text, mode, &mut literals);
        let planned = plan(&text, Some("app"), mode, &catalog());
        prop_assert_eq!(literals.len(), planned.literals as usize);
        prop_assert_eq!(found.params, planned.params);
        prop_assert!(found.end <= text.len());
        if let Some(shape) = &planned.insert {
            let _ = usher_sql::insert_points(&text, mode, shape);
        }
        let _ = usher_sql::ddl::parse(&text, Some("app"), mode);
        let _ = usher_sql::effects::parse(&text, mode);
        let _ = usher_sql::explain_route(&text, mode);
    }

    #[test]
    fn other_values_have_the_same_plan(number in any::<u64>(), word in "[a-z'\\\\%;/*-]{0,12}") {
        let quoted = word.replace('\\', "\\\\").replace('\'', "''");
        let text = format!("SELECT * FROM photos WHERE user_id = {number} AND title = '{quoted}'");
        let (found, literals) = digest_of(&text);
        prop_assert_eq!(found.hash, hash("SELECT * FROM photos WHERE user_id = 1 AND title = ''"));
        prop_assert_eq!(&text[literals[0].span()], number.to_string());
        prop_assert_eq!(&text[literals[1].span()], format!("'{quoted}'"));
    }
}
