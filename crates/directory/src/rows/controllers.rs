//! Rows of `controllers`: who runs moves and flips.

use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::{Global, Result};

/// Notes that the controller is alive now.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn controller_alive(global: &Global, controller_id: &str, boot_id: u64) -> Result<()> {
    let mut conn = global.conn().await?;
    let statement = "INSERT INTO usher.controllers (controller_id, boot_id, alive_at) VALUES (?, ?, NOW(3)) \
                     ON DUPLICATE KEY UPDATE boot_id = VALUES(boot_id), alive_at = VALUES(alive_at)";
    global.bounded("noting a controller", conn.exec_drop(statement, (controller_id, boot_id))).await
}

/// A controller that was alive within `within`, the latest one.
///
/// # Errors
/// As [`Global::bounded`].
pub async fn live_controller(global: &Global, within: Duration) -> Result<Option<String>> {
    let mut conn = global.conn().await?;
    let within_us = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
    let query = "SELECT controller_id FROM usher.controllers WHERE alive_at >= NOW(3) - INTERVAL ? MICROSECOND \
                 ORDER BY alive_at DESC LIMIT 1";
    global.bounded("looking for a controller", conn.exec_first(query, (within_us,))).await
}
