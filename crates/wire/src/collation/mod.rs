//! Collation ids and character sets, as handshakes and SET NAMES need them.

mod table;

use table::{COLLATIONS, DEFAULTS};

/// Id of utf8mb4_general_ci, which every server we know has.
pub const UTF8MB4_GENERAL_CI: u16 = 45;
/// Id of the collation `binary`.
pub const BINARY: u16 = 63;

/// Name of the character set of a collation, `None` for ids that nobody has.
pub fn charset(id: u16) -> Option<&'static str> {
    match id {
        2048..2304 => Some("utf8mb3"),
        2304..2560 => Some("utf8mb4"),
        2560..2816 => Some("ucs2"),
        2816..3072 => Some("utf16"),
        3072..3328 => Some("utf32"),
        _ => name(id).map(charset_of),
    }
}

/// Name of a collation; `None` too for MariaDB's computed ids (2048 and on), whose character set is known only.
pub fn name(id: u16) -> Option<&'static str> {
    let at = COLLATIONS.binary_search_by_key(&id, |(id, _)| *id).ok()?;
    COLLATIONS.get(at).map(|(_, name)| *name)
}

/// Id of a collation by its name, in any case; `utf8_...` is `utf8mb3_...`.
pub fn by_name(name: &str) -> Option<u16> {
    let lower = name.to_ascii_lowercase();
    let wanted = match lower.strip_prefix("utf8_") {
        Some(rest) => format!("utf8mb3_{rest}"),
        None => lower,
    };
    COLLATIONS.iter().find(|(_, name)| *name == wanted).map(|(id, _)| *id)
}

/// Id of a character set's default collation, by the character set's name in any case. For utf8mb4 servers
/// differ (utf8mb4_0900_ai_ci on MySQL 8 and later); here it is utf8mb4_general_ci, which all have.
pub fn default_of(charset: &str) -> Option<u16> {
    let lower = charset.to_ascii_lowercase();
    let wanted = if lower == "utf8" { "utf8mb3" } else { lower.as_str() };
    DEFAULTS.iter().find(|(name, _)| *name == wanted).map(|(_, id)| *id)
}

/// The character set that a collation's name starts with.
pub fn charset_of(collation: &str) -> &str {
    collation.split_once('_').map_or(collation, |(charset, _)| charset)
}

/// True if a statement in this character set can be scanned byte by byte: every byte below 0x80 is the ASCII
/// character. In gbk, sjis, cp932, big5 and gb18030 the second byte of a character may be a backslash or a quote's
/// neighbour, and a scanner would see literals end where they do not. The UTF-16 family is no client character set.
pub fn is_safe_to_scan(charset: &str) -> bool {
    const UNSAFE: [&str; 9] =
        ["gbk", "sjis", "cp932", "big5", "gb18030", "ucs2", "utf16", "utf16le", "utf32"];
    !UNSAFE.iter().any(|name| charset.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn table_is_sorted_and_agrees_with_mysql_common() {
        use mysql_common::collations::{Collation, CollationId};
        assert!(COLLATIONS.windows(2).all(|w| w[0].0 < w[1].0));
        for id in 1..400 {
            let theirs = Collation::resolve(CollationId::from(id));
            if theirs.id() != CollationId::UNKNOWN_COLLATION_ID {
                assert_eq!(charset(id), Some(theirs.charset()), "{id}");
                assert_eq!(name(id), Some(theirs.collation()), "{id}");
            }
        }
    }

    #[test]
    fn names_lead_to_ids_and_back() {
        // Five names have an id of MySQL's and another of MariaDB's.
        for (_, known) in COLLATIONS {
            assert_eq!(by_name(&known.to_ascii_uppercase()).and_then(name), Some(*known));
        }
        for (charset, id) in DEFAULTS {
            assert_eq!(super::charset(*id), Some(*charset));
        }
        assert_eq!(by_name("utf8_bin"), by_name("utf8mb3_bin"));
        assert_eq!(default_of("UTF8"), Some(33));
        assert_eq!(default_of("utf8mb4"), Some(UTF8MB4_GENERAL_CI));
        assert_eq!(name(BINARY), Some("binary"));
        assert_eq!(charset(2400), Some("utf8mb4"));
        assert_eq!((charset(0), charset(5000)), (None, None));
    }

    #[test]
    fn multibyte_sets_with_ascii_trail_bytes_are_unsafe() {
        for charset in ["gbk", "SJIS", "cp932", "big5", "gb18030"] {
            assert!(!is_safe_to_scan(charset));
        }
        for charset in ["utf8mb4", "latin1", "binary", "ujis", "euckr", "gb2312", "eucjpms"] {
            assert!(is_safe_to_scan(charset));
        }
    }
}
