//! The ground that the tests of the whole system stand on: real servers in a folder of their own, proxies in front of
//! them, and clients. Never used by anything but tests; it panics where a test could not go on.

#![allow(clippy::unwrap_used)]

mod bed;
mod client;
mod program;
mod proxy;
pub mod raw;
mod servers;
mod site;

pub use bed::Bed;
pub use client::{Login, code, message};
pub use program::{Output, hang_up, kill_9, program, resume, runs, suspend, usher, usher_binary};
pub use proxy::Proxy;
pub use servers::{Log, admin, count, number, until};
pub use site::{directory_home, home, make_tables, sign_up};
