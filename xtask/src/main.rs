//! Chores of the project: the demo, the tests, the checks and the benchmark. Never part of what is shipped.

mod apt;
mod bench;
mod ci;
mod demo;
mod errors;
mod fuzz;
mod instructions;
mod leftovers;
mod playground;
mod sessions;
mod shell;
mod suites;
mod table;
mod test;
mod tree;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Chores of the project")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Real servers, a site under load, users moved, a writer flipped, and the proof that nothing was lost
    Demo(demo::Options),
    /// All tests of the workspace; installs the servers that they need
    Test,
    /// Format, arrows between crates, lints and docs
    Ci,
    /// Measure the proxy against HAProxy and no proxy at all
    Bench(bench::Options),
    /// Measure opening connections against HAProxy, and many connections at once
    Connections(bench::ConnectionsOptions),
    /// Suites of others, directly against a server and through usher: what passes the one way only
    Suites(suites::Options),
    /// Fuzz both sides of the wire, statements and their plans
    Fuzz(fuzz::Options),
    /// Hundreds of sessions over few connections against one server, answer by answer
    Sessions(sessions::Options),
    /// Count the instructions of a statement's way and compare them with docs/instructions.txt
    Instructions(instructions::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test => test::run(),
        Command::Ci => ci::run(),
        Command::Bench(options) => bench::run(&options),
        Command::Connections(options) => bench::run_connections(&options),
        Command::Suites(options) => suites::run_all(&options),
        Command::Fuzz(options) => fuzz::run_all(&options),
        Command::Sessions(options) => sessions::run_all(&options),
        Command::Instructions(options) => instructions::run(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
