//! What the client has had done with prepared statements: SHOW STATUS counts it as one server would, though servers
//! prepare and close statements for many clients.

use usher_wire::command::{
    COM_STMT_CLOSE, COM_STMT_EXECUTE, COM_STMT_FETCH, COM_STMT_PREPARE, COM_STMT_RESET,
    COM_STMT_SEND_LONG_DATA,
};

/// Something that is counted. Statements in text count as the commands that they stand for, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    StmtPrepare,
    StmtExecute,
    StmtClose,
    StmtReset,
    StmtFetch,
    StmtSendLongData,
    PrepareSql,
    ExecuteSql,
    DeallocSql,
    ExecuteImmediate,
}

/// What SHOW STATUS calls them, in lower case.
const NAMES: [(&str, Counted); 10] = [
    ("com_stmt_prepare", Counted::StmtPrepare),
    ("com_stmt_execute", Counted::StmtExecute),
    ("com_stmt_close", Counted::StmtClose),
    ("com_stmt_reset", Counted::StmtReset),
    ("com_stmt_fetch", Counted::StmtFetch),
    ("com_stmt_send_long_data", Counted::StmtSendLongData),
    ("com_prepare_sql", Counted::PrepareSql),
    ("com_execute_sql", Counted::ExecuteSql),
    ("com_dealloc_sql", Counted::DeallocSql),
    ("com_execute_immediate", Counted::ExecuteImmediate),
];

/// How often each was done since the login, a reset or FLUSH STATUS.
#[derive(Debug, Default)]
pub(crate) struct Counts([u32; NAMES.len()]);

impl Counts {
    pub(crate) fn add(&mut self, what: Counted) {
        if let Some(count) = self.0.get_mut(what as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// A command's first byte has come.
    pub(crate) fn saw(&mut self, command: u8) {
        self.add(match command {
            COM_STMT_PREPARE => Counted::StmtPrepare,
            COM_STMT_EXECUTE => Counted::StmtExecute,
            COM_STMT_CLOSE => Counted::StmtClose,
            COM_STMT_RESET => Counted::StmtReset,
            COM_STMT_FETCH => Counted::StmtFetch,
            COM_STMT_SEND_LONG_DATA => Counted::StmtSendLongData,
            _ => return,
        });
    }

    /// By its name in lower case; `None` if it is not counted here.
    pub(crate) fn of(&self, name: &str) -> Option<u64> {
        let (_, what) = NAMES.iter().find(|(known, _)| *known == name)?;
        self.0.get(*what as usize).copied().map(u64::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_place_of_its_own() {
        let mut counts = Counts::default();
        for (at, (name, what)) in NAMES.iter().enumerate() {
            assert_eq!(counts.of(name), Some(0));
            for _ in 0..=at {
                counts.add(*what);
            }
        }
        for (at, (name, _)) in NAMES.iter().enumerate() {
            assert_eq!(counts.of(name), u64::try_from(at + 1).ok(), "{name}");
        }
        assert_eq!(counts.of("com_select"), None);
    }
}
