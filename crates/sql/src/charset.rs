//! Names of character sets, for introducers such as `_utf8mb4'..'`.

const NAMES: [&str; 42] = [
    "armscii8", "ascii", "big5", "binary", "cp1250", "cp1251", "cp1256", "cp1257", "cp850", "cp852", "cp866",
    "cp932", "dec8", "eucjpms", "euckr", "gb18030", "gb2312", "gbk", "geostd8", "greek", "hebrew", "hp8",
    "keybcs2", "koi8r", "koi8u", "latin1", "latin2", "latin5", "latin7", "macce", "macroman", "sjis", "swe7",
    "tis620", "ucs2", "ujis", "utf16", "utf16le", "utf32", "utf8", "utf8mb3", "utf8mb4",
];

/// Whether `_name` is a charset introducer.
pub(crate) fn is_introducer(word: &[u8]) -> bool {
    word.split_first().is_some_and(|(first, name)| {
        *first == b'_' && NAMES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
    })
}

/// Whether a client that speaks this charset sends ASCII and UTF-8 bytes as what they are.
#[must_use]
pub fn is_utf8(charset: &str) -> bool {
    ["utf8", "utf8mb3", "utf8mb4", "ascii", "us-ascii"].iter().any(|name| charset.eq_ignore_ascii_case(name))
}
