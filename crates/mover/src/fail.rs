//! Named points at which a test makes a move die, fail or stand still. Without the feature `fail-points` they are
//! nothing.

use crate::Result;

/// Every point that a locked move passes, in order; those of an abort at the end.
pub const POINTS: &[&str] = &[
    "registered",
    "fence.cas",
    "fence.barrier",
    "cut.cas",
    "cut.barrier",
    "cut.own_locked",
    "cut.partner",
    "dst.prepare",
    "chunk.selected",
    "chunk.before_commit",
    "chunk.after_commit",
    "copied",
    "cut.verify2",
    "cut.closed",
    "cut.before_commit",
    "cut.after_commit",
    "dst.owned",
    "src.gone",
    "announced",
    "settle",
    "released",
    "purge.intent",
    "purge.batch",
    "purge.done",
    "abort.cas",
    "abort.reown",
    "abort.cancel",
    "abort.purge",
];

/// Points that an online move passes beside those of a locked one; it does not pass `chunk.before_commit` and `copied`.
pub const ONLINE_POINTS: &[&str] =
    &["event.before_commit", "event.after_commit", "caught_up", "cut.tail", "cut.unlocked"];

/// Passes the point `name`.
#[cfg(not(feature = "fail-points"))]
#[allow(clippy::unused_async, reason = "with the feature it may wait")]
pub(crate) async fn point(_name: &str) -> Result<()> {
    Ok(())
}

/// Passes the point `name`; `USHER_FAIL_POINT="name=kill|error|pause:FILE"` says what happens there. A pause blocks the
/// thread, as SIGSTOP would, until the file exists.
#[cfg(feature = "fail-points")]
pub(crate) async fn point(name: &str) -> Result<()> {
    debug_assert!(POINTS.contains(&name) || ONLINE_POINTS.contains(&name), "{name} is not listed");
    let Ok(wanted) = std::env::var("USHER_FAIL_POINT") else { return Ok(()) };
    let Some(action) = wanted.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) else {
        return Ok(());
    };
    match action {
        "kill" => {
            let _ = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            std::process::abort()
        }
        "error" => Err(crate::MoveError::FailPoint(name.to_owned())),
        action => {
            let file = std::path::Path::new(action.strip_prefix("pause:").unwrap_or_default());
            println!("paused at {name}");
            while !file.exists() {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Ok(())
        }
    }
}
