//! The command line of the photo-sharing example: makes its tables, loads people, runs the load, proves the result.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use photos::{Live, LoadOptions, RunOptions, Target, apply_schema, load, start, verify};
use serde::Serialize;

#[derive(Parser)]
#[command(about = "A photo-sharing site, its data and its load, against one MySQL address", version)]
struct Cli {
    #[command(flatten)]
    address: Address,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Address {
    /// The whole address: mysql://user:password@host:port/database
    #[arg(long, global = true, env = "PHOTOS_URL", conflicts_with_all = ["host", "port", "user", "password", "database"])]
    url: Option<String>,
    /// Server or proxy
    #[arg(long, global = true, default_value = "127.0.0.1")]
    host: String,
    /// Its port
    #[arg(long, global = true, default_value_t = 3306)]
    port: u16,
    /// The application's account
    #[arg(long, global = true, default_value = "root")]
    user: String,
    /// The account's password
    #[arg(long, global = true, env = "PHOTOS_PASSWORD", default_value = "", hide_env_values = true)]
    password: String,
    /// The database the tables are in
    #[arg(long, global = true, default_value = "photos")]
    database: String,
}

#[derive(Subcommand)]
enum Command {
    /// Make the tables that are not there yet (and the database, if there is none)
    Schema,
    /// Sign people up and give them photos, comments, albums and groups
    Load {
        /// How many people
        #[arg(long, default_value_t = 500)]
        users: usize,
        /// Decides all content
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Photos of the largest person; the n-th has an n-th of it
        #[arg(long, default_value_t = 1500)]
        largest: usize,
        /// Connections to load over
        #[arg(long, default_value_t = 4)]
        connections: usize,
        /// Report for machines
        #[arg(long)]
        json: bool,
    },
    /// Let people live for a while and check every answer
    Run(RunArgs),
    /// Prove that every acknowledged write is there exactly once
    Verify {
        /// The journal that the run wrote
        #[arg(long)]
        journal: PathBuf,
        /// Report for machines
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct RunArgs {
    /// How long
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Connections in all, 2 to 1000
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Decides what people do
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The journal to write; an existing file is refused
    #[arg(long)]
    journal: PathBuf,
    /// Operations a second of all connections together, instead of as many as are answered
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds that one statement may take
    #[arg(long, default_value_t = 30)]
    statement_timeout: u64,
    /// A line each second on standard error
    #[arg(long)]
    progress: bool,
    /// Report for machines
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match command(Cli::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("photos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked; false is a run with errors or a proof that does not hold.
async fn command(cli: Cli) -> Result<bool> {
    let target = target(&cli.address)?;
    match cli.command {
        Command::Schema => {
            println!("{} tables are there", apply_schema(&target).await?);
            Ok(true)
        }
        Command::Load { users, seed, largest, connections, json } => {
            let report = load(LoadOptions { target, users, seed, largest, connections }).await?;
            let (rows, seconds) = (report.rows, report.seconds);
            let text = format!(
                "{} people signed up ({} were there), {rows} rows in {seconds:.1} s; the largest is user {}",
                report.users,
                report.users_found,
                report.largest.first().map_or(0, |(user, _)| *user)
            );
            print(json, &report, text)?;
            Ok(true)
        }
        Command::Run(args) => run(target, args).await,
        Command::Verify { journal, json } => {
            let proof = verify(&target, &journal).await?;
            print(json, &proof, proof.to_string())?;
            Ok(proof.holds())
        }
    }
}

fn target(address: &Address) -> Result<Target> {
    let Address { url, host, port, user, password, database } = address;
    match url {
        Some(url) => Target::from_url(url),
        None => Ok(Target::new(host, *port, user, password, database)),
    }
}

async fn run(target: Target, args: RunArgs) -> Result<bool> {
    let options = RunOptions {
        target,
        duration: Duration::from_secs(args.seconds),
        connections: args.connections,
        seed: args.seed,
        journal: args.journal,
        statement_timeout: Duration::from_secs(args.statement_timeout),
        rate: args.rate,
    };
    let running = start(options).await?;
    let live = running.live();
    let interrupted = tokio::spawn({
        let live = Arc::clone(&live);
        async move {
            // Without a handler for it Ctrl-C ends the program, and the journal still tells the truth.
            if tokio::signal::ctrl_c().await.is_ok() {
                live.stop();
            }
        }
    });
    let shown = args.progress.then(|| tokio::spawn(show(live)));
    let report = running.finish().await?;
    interrupted.abort();
    if let Some(shown) = shown {
        shown.abort();
    }
    print(args.json, &report, report.to_string())?;
    Ok(report.errors == 0)
}

async fn show(live: Arc<Live>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut before = 0;
    loop {
        tick.tick().await;
        let statements = live.statements.load(Relaxed);
        eprintln!(
            "{:>5.0} s {:>9} statements {:>7}/s {:>6} locked {:>4} errors",
            live.elapsed().as_secs_f64(),
            statements,
            statements - before,
            live.locked.load(Relaxed),
            live.errors.load(Relaxed)
        );
        before = statements;
    }
}

fn print(json: bool, report: &impl Serialize, text: String) -> Result<()> {
    println!("{}", if json { serde_json::to_string_pretty(report)? } else { text });
    Ok(())
}
