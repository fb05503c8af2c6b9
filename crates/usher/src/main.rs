//! The `usher` command: arguments, signals, exit codes, progress bars. It wires the rooms together and has no logic of
//! its own.

mod accounts;
mod check;
mod cli;
mod controller;
mod deployment;
mod explain;
mod front;
mod handover;
mod moves;
mod playground;
mod prompt;
mod proxy;
mod reload;
mod say;
mod service;
mod shards;
mod users;
mod version;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, MoveCommand, PlaygroundCommand, SchemaCommand, TableCommand};
use crate::deployment::Deployment;
use crate::say::Say;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let say = Say::new(cli.json);
    let outcome = run(cli, &say);
    match outcome {
        Ok(code) => code,
        Err(error) => {
            say.error(&error);
            ExitCode::from(1)
        }
    }
}

fn run(cli: Cli, say: &Say) -> anyhow::Result<ExitCode> {
    service::start_log();
    let config = cli.config.as_deref();
    match cli.command {
        Command::Playground { command } => service::block_on(0, play(command, say)),
        Command::Proxy => {
            let config = deployment::load(config)?;
            let workers = config.proxy.as_ref().map_or(0, |proxy| proxy.workers);
            service::block_on(workers, front::run(config))
        }
        Command::Controller => service::block_on(0, controller::run(deployment::load(config)?)),
        command => {
            if let Some(missing) = command.missing() {
                anyhow::bail!("{missing}");
            }
            // Checks answer as monitoring plugins do, also when they can't even begin.
            if let Command::Check = command {
                return Ok(service::block_on(2, check::run(deployment::load(config), say)));
            }
            let config = deployment::load(config)?;
            service::block_on(2, ask(command, config, say))
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

async fn play(command: PlaygroundCommand, say: &Say) -> anyhow::Result<()> {
    match command {
        PlaygroundCommand::Up(options) => playground::up(options, say).await,
        PlaygroundCommand::Down { dir } => playground::down(&dir, say).await,
        PlaygroundCommand::Status { dir } => playground::status(&dir, say).await,
    }
}

async fn ask(command: Command, config: usher_config::Config, say: &Say) -> anyhow::Result<()> {
    if let Command::Explain { statement, user } = command {
        return explain::run(&config, &statement, user.as_deref(), say).await;
    }
    let deployment = Deployment::new(config);
    match command {
        Command::Schema { command: SchemaCommand::Apply } => deployment.apply_schema(say).await,
        Command::User { command } => users::run(&deployment, command, say).await,
        Command::Account { command } => accounts::run(&deployment, command, say).await,
        Command::Move { command: MoveCommand::Start(start) } => moves::start(&deployment, start, say).await,
        Command::Move { command } => moves::run(&deployment, command, say).await,
        Command::Shard { command } => shards::run(&deployment, command, say).await,
        Command::Table { command: TableCommand::List } => deployment.list_tables(say).await,
        _ => anyhow::bail!("this command is not supported yet"),
    }
}
