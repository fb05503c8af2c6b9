//! Brings the writer's role of a pair from one member to the other: planned flips, and what an external controller
//! has done recorded. What to do next is decided without I/O by [`decide`] and [`judge`]; [`Flips`] carries it out.
//! It never speaks to clients: proxies hold and release statements by what the `shards` row says.
//!
//! # A planned flip
//! 1. *announce*: the row goes `rw -> switching`; proxies hold new write transactions of the shard.
//! 2. *drain*: the barrier; those that run have ended, or their proxy is revoked.
//! 3. *close*: the old writer becomes read-only while replication runs, and sessions that could write nevertheless
//!    are ended.
//! 4. *position*: what the old writer has executed now is final.
//! 5. *catch up*: the new writer has executed all of it.
//! 6. *commit*: the row names the new writer, epoch + 1. Before this point a flip is undone, after it finished.
//! 7. *open*: the new writer waits for acknowledgements, then takes writes.
//! 8. *release*: the row goes back to `rw`; proxies send what they held to the new writer.
//! 9. *tidy*: the old writer stops waiting for acknowledgements; replicas are pointed at the new writer.
//!
//! # Who may act
//! Whoever runs a flip holds a named lock in one session on each member, and changes the members in these sessions
//! only. A process that dies loses them with its sockets; one that is silent has them ended by whoever takes over
//! ([`Flips::resume`]). So a paused process can't act on a pair after it has woken up, whatever any clock says.

mod check;
mod decide;
#[cfg(test)]
mod decide_tests;
mod error;
mod external;
mod flip;
mod hold;
mod report;
mod resume;
mod tidy;

pub use check::{Member, Pair, Refusal, check};
pub use decide::{Plan, Row, Run, Step, decide};
pub use error::{Error, Result};
pub use external::{Claim, Reach, Verdict, judge};
pub use flip::Flips;
pub use report::{FlipReport, OnProgress, Outcome, Progress, StepTime};
