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
