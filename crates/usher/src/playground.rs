//! `usher playground ...`

use std::io::IsTerminal;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use usher_playground::{Endpoints, Options, Playground, Progress};

use crate::cli::Up;
use crate::say::Say;

pub(crate) async fn up(up: Up, say: &Say) -> anyhow::Result<()> {
    let mut options = Options::found(&up.dir)?;
    options.shards = up.shards.unwrap_or(options.shards);
    options.replicas = up.replicas.unwrap_or(options.replicas);
    if let Some(server) = &up.server {
        options.server = server.parse()?;
    }
    options.port_base = up.port_base;
    options.load = up.load;
    options.usher_binary =
        Some(std::env::current_exe().context("this program's own file is not to be found")?);
    let bar = (!say.json && std::io::stderr().is_terminal()).then(bar);
    options.on_progress = Some(told(bar.clone(), say.json));
    let endpoints = Playground::up(options).await?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if let Some(users) = up.load {
        load(&endpoints, users, say).await?;
    }
    let dir = up.dir.canonicalize().unwrap_or(up.dir);
    say.answer(&serde_json::to_value(&endpoints)?, || text(&endpoints, &dir));
    Ok(())
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(1);
    if let Ok(style) = ProgressStyle::with_template("[{bar:20}] {elapsed} {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn told(bar: Option<ProgressBar>, quiet: bool) -> usher_playground::OnProgress {
    Arc::new(move |progress: Progress| match &bar {
        Some(bar) if progress.is_warning => bar.println(format!("warning: {}", progress.text)),
        Some(bar) => {
            bar.set_length(progress.total as u64);
            bar.set_position(progress.done as u64);
            bar.set_message(progress.text);
        }
        None if progress.is_warning => eprintln!("warning: {}", progress.text),
        None if !quiet => eprintln!("{}", progress.text),
        None => {}
    })
}

fn text(endpoints: &Endpoints, dir: &Path) -> String {
    let (proxy, dir) = (&endpoints.proxy, dir.display());
    let shards: Vec<&str> = endpoints.shards.iter().map(|shard| shard.name.as_str()).collect();
    format!(
        "the playground is up: shards {}, and everything else in {dir}\n\n\
         application   mariadb -h {} -P {} -u {} -p{} {}\n\
         dashboard     {}/  (token {})\n\
         commands      export USHER_CONFIG={dir}/usher.toml\n\
         stop          usher playground down --dir {dir}",
        shards.join(", "),
        proxy.host,
        proxy.port,
        proxy.user,
        proxy.password,
        proxy.database,
        endpoints.http.url,
        endpoints.http.token,
    )
}

/// The example application is a program of its own, built beside this one.
async fn load(endpoints: &Endpoints, users: u64, say: &Say) -> anyhow::Result<()> {
    let program = std::env::current_exe()?.with_file_name("photos");
    if !program.exists() {
        anyhow::bail!(
            "--load needs the example application {}: build it with cargo build -p photos",
            program.display()
        );
    }
    let proxy = &endpoints.proxy;
    let url =
        format!("mysql://{}:{}@{}:{}/{}", proxy.user, proxy.password, proxy.host, proxy.port, proxy.database);
    let users = users.to_string();
    for arguments in [vec!["schema"], vec!["load", "--users", &users]] {
        say.remark(&format!("photos {}", arguments.join(" ")));
        let mut command = tokio::process::Command::new(&program);
        // The password goes by the environment: arguments are everybody's to read.
        command.args(&arguments).env("PHOTOS_URL", &url).stdin(Stdio::null());
        if say.json {
            command.stdout(Stdio::null());
        }
        let status =
            command.kill_on_drop(true).status().await.context("cannot run the example application")?;
        if !status.success() {
            anyhow::bail!("the example application's {} has failed ({status})", arguments[0]);
        }
    }
    Ok(())
}

pub(crate) async fn down(dir: &Path, say: &Say) -> anyhow::Result<()> {
    Playground::down(dir).await?;
    say.answer(&json!({"down": true}), || "everything is stopped; the data is kept".to_owned());
    Ok(())
}

/// Fails if something that should run does not.
pub(crate) async fn status(dir: &Path, say: &Say) -> anyhow::Result<()> {
    let status = Playground::status(dir).await?;
    say.answer(&serde_json::to_value(&status)?, || status.to_string());
    if !status.all_running() {
        anyhow::bail!("not everything runs; `usher playground up --dir {}` starts it", dir.display());
    }
    Ok(())
}
