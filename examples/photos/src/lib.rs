//! A photo-sharing site as its database sees it: the tables, the people who are loaded into them, and a load that
//! behaves like people, checks every answer and proves at the end that no acknowledged write was lost or doubled.
//!
//! It talks to one address with an ordinary driver and never knows whether a single server or usher answers; it never
//! uses anything of usher's own, and never reads around the address it was given.

mod cell;
mod content;
mod failure;
mod journal;
mod loader;
mod people;
mod reads;
mod report;
mod rows;
mod run;
mod schema;
mod session;
mod tally;
mod target;
mod verify;
mod worker;
mod writes;

pub use crate::{
    loader::{LoadOptions, LoadReport, load},
    report::{ErrorSample, Latency, Report},
    run::{RunOptions, Running, run, start},
    schema::apply_schema,
    tally::Live,
    target::Target,
    verify::{Proof, verify},
};
