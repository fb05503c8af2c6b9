//! `playground up|down|status DIR [mysql] [SHARDS [REPLICAS]]`: the playground by hand, without the `usher` program.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use usher_playground::{Error, Options, Playground, Progress, Server};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(e) = run(&arguments).await {
        eprintln!("{e}");
        std::process::exit(1);
    }
}

async fn run(arguments: &[String]) -> Result<(), Error> {
    let [command, dir, rest @ ..] = arguments else {
        return Err(Error::Option("usage: playground up|down|status DIR [mysql] [SHARDS [REPLICAS]]".into()));
    };
    match command.as_str() {
        "up" => up(dir, rest).await,
        "down" => Playground::down(Path::new(dir)).await,
        "status" => Playground::status(Path::new(dir)).await.map(|status| print!("{status}")),
        _ => Err(Error::Option(format!("{command:?} is not up, down or status"))),
    }
}

async fn up(dir: &str, rest: &[String]) -> Result<(), Error> {
    let mut options = Options::new(dir);
    let rest = match rest.split_first() {
        Some((first, rest)) if first == "mysql" => {
            options.server = Server::Mysql;
            rest
        }
        _ => rest,
    };
    let mut numbers = rest.iter().filter_map(|n| n.parse().ok());
    options.shards = numbers.next().unwrap_or(options.shards);
    options.replicas = numbers.next().unwrap_or(options.replicas);
    let start = Instant::now();
    options.on_progress = Some(Arc::new(move |p: Progress| {
        println!("{:6.2} s  {}/{} {}", start.elapsed().as_secs_f64(), p.done, p.total, p.text);
    }));
    Playground::up(options).await.map(|_| ())
}
