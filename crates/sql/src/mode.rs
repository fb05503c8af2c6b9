/// The session settings that change how text becomes tokens. Part of the plan cache's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mode {
    /// `sql_mode` has ANSI_QUOTES: `"x"` is a name, not a string.
    pub ansi_quotes: bool,
    /// `sql_mode` has NO_BACKSLASH_ESCAPES: a backslash in a string is a plain character.
    pub no_backslash_escapes: bool,
    /// `sql_mode` has PIPES_AS_CONCAT: `||` joins strings and is not OR.
    pub pipes_as_concat: bool,
    /// `character_set_client` is neither utf8 nor ascii: bytes above 0x7f in a text key cannot be compared.
    pub foreign_charset: bool,
}

impl Mode {
    /// Reads the value of `@@sql_mode`, a comma list in any case; combination modes such as ANSI are understood.
    #[must_use]
    pub fn from_sql_mode(sql_mode: &str) -> Self {
        let mut mode = Self::default();
        for word in sql_mode.split(',').map(str::trim) {
            match word.to_ascii_uppercase().as_str() {
                "ANSI_QUOTES" => mode.ansi_quotes = true,
                "NO_BACKSLASH_ESCAPES" => mode.no_backslash_escapes = true,
                "PIPES_AS_CONCAT" => mode.pipes_as_concat = true,
                "ANSI" | "DB2" | "MAXDB" | "MSSQL" | "ORACLE" | "POSTGRESQL" => {
                    mode.ansi_quotes = true;
                    mode.pipes_as_concat = true;
                }
                _ => {}
            }
        }
        mode
    }
}

/// Words of `sql_mode` that count when a text is read and resolved, of MySQL. All others count while it runs.
const READING: &[&str] = &[
    "ANSI",
    "ANSI_QUOTES",
    "HIGH_NOT_PRECEDENCE",
    "IGNORE_SPACE",
    "NO_BACKSLASH_ESCAPES",
    "NO_UNSIGNED_SUBTRACTION",
    "ONLY_FULL_GROUP_BY",
    "PIPES_AS_CONCAT",
    "REAL_AS_FLOAT",
];

/// The value of `sql_mode` under which a text is read as under `meant` and runs as under `own`.
#[must_use]
pub fn read_as(meant: &str, own: &str) -> String {
    let is_of_reading = |word: &&str| READING.iter().any(|reading| reading.eq_ignore_ascii_case(word));
    let runs = own.split(',').map(str::trim).filter(|word| !word.is_empty() && !is_of_reading(word));
    let reads = meant.split(',').map(str::trim).filter(is_of_reading);
    runs.chain(reads).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_text_is_read_goes_with_it() {
        assert_eq!(read_as("ANSI,STRICT_ALL_TABLES", ""), "ANSI");
        assert_eq!(read_as("", "ansi, STRICT_ALL_TABLES,PIPES_AS_CONCAT"), "STRICT_ALL_TABLES");
        assert_eq!(read_as("IGNORE_SPACE,NO_ZERO_DATE", "TRADITIONAL"), "TRADITIONAL,IGNORE_SPACE");
    }
}
