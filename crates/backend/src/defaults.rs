//! The global settings that new sessions of a server begin with, as far as they are watched.

use crate::Reply;

/// Those of which more is known than whether they have changed stand in front.
const BOTH: &[&str] = &[
    "sql_mode",
    "autocommit",
    "auto_increment_increment",
    "auto_increment_offset",
    "character_set_server",
    "collation_server",
    "default_storage_engine",
    "default_week_format",
    "div_precision_increment",
    "eq_range_index_dive_limit",
    "foreign_key_checks",
    "group_concat_max_len",
    "init_connect",
    "innodb_lock_wait_timeout",
    "innodb_strict_mode",
    "interactive_timeout",
    "join_buffer_size",
    "lc_messages",
    "lc_time_names",
    "lock_wait_timeout",
    "low_priority_updates",
    "max_allowed_packet",
    "max_error_count",
    "max_heap_table_size",
    "max_join_size",
    "max_length_for_sort_data",
    "max_sort_length",
    "net_read_timeout",
    "net_write_timeout",
    "optimizer_switch",
    "read_buffer_size",
    "read_rnd_buffer_size",
    "sort_buffer_size",
    "sql_auto_is_null",
    "sql_big_selects",
    "sql_notes",
    "sql_quote_show_create",
    "sql_safe_updates",
    "sql_select_limit",
    "sql_warnings",
    "time_zone",
    "tmp_table_size",
    "unique_checks",
    "updatable_views_with_limit",
    "wait_timeout",
];
const MARIADB: &[&str] =
    &["alter_algorithm", "idle_transaction_timeout", "max_statement_time", "tx_isolation", "tx_read_only"];
const MYSQL: &[&str] = &[
    "cte_max_recursion_depth",
    "max_execution_time",
    "sql_require_primary_key",
    "transaction_isolation",
    "transaction_read_only",
    "windowing_use_high_precision",
];

/// What a server's new sessions begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults(Vec<Option<Vec<u8>>>);

impl Defaults {
    /// The query that asks a server for them.
    pub(crate) fn question(mariadb: bool) -> String {
        let own = if mariadb { MARIADB } else { MYSQL };
        let columns: Vec<String> = BOTH.iter().chain(own).map(|name| format!("@@GLOBAL.{name}")).collect();
        format!("SELECT {}", columns.join(", "))
    }

    /// The answer to it; `None` if the server knows one of them no more.
    pub(crate) fn read(reply: Reply) -> Option<Self> {
        let row = reply.rows.into_iter().next().filter(|_| reply.error.is_none())?;
        (row.len() > BOTH.len()).then_some(Self(row))
    }

    /// The value of `sql_mode`, in ASCII without quotes; `None` if it is of a form that no server has.
    #[must_use]
    pub fn sql_mode(&self) -> Option<&str> {
        let text = std::str::from_utf8(self.0.first()?.as_deref()?).ok()?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b',');
        text.bytes().all(is_plain).then_some(text)
    }

    /// Whether sessions begin with autocommit on.
    #[must_use]
    pub fn autocommit(&self) -> bool {
        !matches!(self.0.get(1), Some(Some(value)) if value == b"0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults(sql_mode: &str, autocommit: &str) -> Option<Defaults> {
        let mut row = vec![None; BOTH.len() + MYSQL.len()];
        row[0] = Some(sql_mode.as_bytes().to_vec());
        row[1] = Some(autocommit.as_bytes().to_vec());
        Defaults::read(Reply { rows: vec![row], ..Reply::default() })
    }

    #[test]
    fn what_is_known_is_read() {
        let found = defaults("ANSI_QUOTES,STRICT_ALL_TABLES", "0");
        assert_eq!(found.as_ref().and_then(Defaults::sql_mode), Some("ANSI_QUOTES,STRICT_ALL_TABLES"));
        assert!(found.is_some_and(|found| !found.autocommit()));
        assert!(defaults("", "1").is_some_and(|found| found.autocommit() && found.sql_mode() == Some("")));
        assert_eq!(defaults("'; DROP", "1").as_ref().and_then(Defaults::sql_mode), None);
        assert!(Defaults::read(Reply::default()).is_none());
        assert!(Defaults::question(true).starts_with("SELECT @@GLOBAL.sql_mode, @@GLOBAL.autocommit, "));
    }
}
