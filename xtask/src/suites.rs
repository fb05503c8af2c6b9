//! Suites that others wrote, directly against a server and through usher: what passes the one way and not the other.

mod ground;
mod known;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell::{cargo, passes, programs, root, run, say};
use ground::{Ground, Kind};
use known::{Known, Results};

/// A suite: its runner without `.sh`, its server, and settings of it.
type Suite = (&'static str, Kind, &'static [(&'static str, &'static str)]);

const SUITES: &[Suite] = &[
    ("mysqlclient", Kind::Baseline, &[]),
    ("malformed", Kind::Baseline, &[]),
    ("mtr-extern", Kind::Mtr, &[]),
    ("sysbench", Kind::Baseline, &[]),
    ("mysql_async", Kind::Baseline, &[]),
    ("rust-mysql-simple", Kind::Baseline, &[]),
    ("dbd-mysql", Kind::Baseline, &[]),
    ("php-pdo", Kind::Baseline, &[]),
    ("app-wordpress", Kind::Baseline, &[]),
    // The same again in other ways, by names of their own.
    ("mtr-extern:ps-protocol", Kind::Mtr, &[("MTR_ARGS", "--ps-protocol")]),
    ("mtr-extern:cursor-protocol", Kind::Mtr, &[("MTR_ARGS", "--cursor-protocol")]),
    ("sysbench:text", Kind::Baseline, &[("PS", "disable")]),
];

/// Those that a MySQL server can be asked, too.
const ON_MYSQL: &[&str] = &[
    "mysqlclient",
    "malformed",
    "sysbench",
    "sysbench:text",
    "mysql_async",
    "rust-mysql-simple",
    "dbd-mysql",
    "php-pdo",
];

/// Ports of the servers and proxies of a run on MySQL.
const MYSQL_PORTS: u16 = 14_220;

/// Ports from which the servers and proxies of the two kinds listen.
const PORTS: [(Kind, u16); 2] = [(Kind::Baseline, 14_200), (Kind::Mtr, 14_210)];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which suites; all if none is named.
    names: Vec<String>,
    /// The folder of the suites: a runner NAME.sh each, and compare.py.
    #[arg(long, env = "USHER_SUITES")]
    from: Option<PathBuf>,
    /// Where suites are unpacked and servers keep their data. Other accounts must be able to enter it.
    #[arg(long, env = "SUITES_WORK", default_value = "/var/tmp/usher-suites")]
    work: PathBuf,
    /// The servers: mariadb or mysql. Of MySQL's, listed differences are those of NAME@mysql.
    #[arg(long, value_parser = ["mariadb", "mysql"], default_value = "mariadb")]
    server: String,
    /// Compare with the direct results of an earlier run.
    #[arg(long)]
    only_usher: bool,
    /// Run the program that tests are run with: slower, but it is built already.
    #[arg(long)]
    debug: bool,
}

/// Runs them and prints what differs; `false` if a test passes directly and not through usher without being listed in
/// [`known`].
pub(crate) fn run_all(options: &Options) -> Result<bool> {
    let Some(from) = options.from.clone().or_else(beside).filter(|from| from.join("compare.py").is_file())
    else {
        say("skipped: the suites are not here; USHER_SUITES or --from names their folder");
        return Ok(true);
    };
    let from = from.as_path();
    let is_mysql = options.server == "mysql";
    let mut wanted = wanted(&options.names)?;
    wanted.retain(|suite| !is_mysql || ON_MYSQL.contains(&suite.0));
    let (profile, folder) = if options.debug { ("dev", "debug") } else { ("fast", "fast") };
    run(&mut cargo(&["build", "--profile", profile, "-p", "usher"])?)?;
    let usher = programs(folder)?.join("usher");
    let known = Known::read()?;
    std::fs::create_dir_all(options.work.join("results"))?;
    let mut good = true;
    if is_mysql {
        let ground = Ground::up_mysql(&options.work, MYSQL_PORTS, &usher)?;
        for suite in wanted {
            good &= one(suite, from, options, &ground, &known)?;
        }
        return Ok(good);
    }
    for (kind, base) in PORTS {
        let of_kind: Vec<&Suite> = wanted.iter().copied().filter(|suite| suite.1 == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        let ground = Ground::up(from, &options.work, kind, base, &usher)?;
        for suite in of_kind {
            good &= one(suite, from, options, &ground, &known)?;
        }
    }
    Ok(good)
}

/// The folder `shared/suites` of the nearest folder around the repository that has one.
fn beside() -> Option<PathBuf> {
    let root = root().ok()?;
    root.ancestors().map(|folder| folder.join("shared/suites")).find(|folder| folder.is_dir())
}

fn wanted(names: &[String]) -> Result<Vec<&'static Suite>> {
    if names.is_empty() {
        return Ok(SUITES.iter().collect());
    }
    let find = |name: &String| match SUITES.iter().find(|suite| suite.0 == name) {
        Some(suite) => Ok(suite),
        None => {
            let known: Vec<&str> = SUITES.iter().map(|suite| suite.0).collect();
            bail!("no suite is called {name}; there are {}", known.join(", "))
        }
    };
    names.iter().map(find).collect()
}

fn one(suite: &Suite, from: &Path, options: &Options, ground: &Ground, known: &Known) -> Result<bool> {
    let runner = suite.0.split(':').next().unwrap_or(suite.0);
    let result = |port: u16| options.work.join(format!("results/{runner}@{port}.tsv"));
    // A suite may be run in several ways, which would write over each other's results.
    let kept = |port: u16| options.work.join(format!("results/{}@{port}.tsv", suite.0.replace(':', ".")));
    let ports = match options.only_usher {
        true => vec![ground.proxied()],
        false => vec![ground.direct(), ground.proxied()],
    };
    for port in ports {
        // Files that a failed test has left would fail the next run.
        let _ = std::fs::remove_dir_all(options.work.join("mtr/var"));
        let mut script = Command::new(from.join(format!("{runner}.sh")));
        script.args(["127.0.0.1", &port.to_string(), suite.1.user(), "suite", "test"]);
        script.env("SUITES_WORK", &options.work).envs(suite.2.iter().copied());
        if runner == "malformed" && port == ground.proxied() {
            script.env("PROXY", "1");
        }
        // Tests that fail on a plain server too are no failure here.
        passes(&mut script)?;
        if result(port) != kept(port) {
            std::fs::rename(result(port), kept(port))?;
        }
    }
    let (direct, proxied) = (Results::read(&kept(ground.direct()))?, Results::read(&kept(ground.proxied()))?);
    let differs = direct.lost_in(&proxied);
    let name = if options.server == "mysql" { format!("{}@mysql", suite.0) } else { suite.0.to_owned() };
    let good = known.judge(&name, &differs);
    let passed = direct.passed() - differs.len();
    say(&format!("{name}: {passed} pass directly and through usher, {} directly only", differs.len()));
    Ok(good && direct.passed() > 0)
}
