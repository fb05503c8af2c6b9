//! The first data folder: initialised once with all accounts, then copied for each server.

use std::path::{Path, PathBuf};

use crate::error::{AtPath, Error, Result};
use crate::mysql_root::MysqlRoot;
use crate::state::Secrets;
use crate::{Server, accounts, files, process};

/// Files that must differ between servers, or that the playground's own replace.
const NOT_COPIED: [&str; 7] = [
    "auto.cnf",
    "ca.pem",
    "ca-key.pem",
    "client-cert.pem",
    "client-key.pem",
    "server-cert.pem",
    "server-key.pem",
];

/// Where folders in the making are.
const PARTS: &str = "parts";

/// Makes `dir/template` if it is not there and returns its path.
pub(crate) async fn ensure(
    dir: &Path,
    server: Server,
    mysql: Option<&MysqlRoot>,
    secrets: &Secrets,
) -> Result<PathBuf> {
    let template = dir.join("template");
    if template.exists() {
        return Ok(template);
    }
    let part = unfinished(dir)?;
    let log = dir.join("logs/template.log");
    match (server, mysql) {
        (Server::Mariadb, _) => mariadb(&part, secrets, &log).await?,
        (Server::Mysql, Some(root)) => mysql_data(&part, root, secrets, &log).await?,
        (Server::Mysql, None) => return Err(Error::Option("no MySQL to initialise with".into())),
    }
    put(&part, &template)?;
    Ok(template)
}

/// Removes the template: each `up` that adds servers makes a new one, which is cheaper than to keep it.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    let template = dir.join("template");
    if !template.exists() {
        return Ok(());
    }
    // By a rename, so that an interruption leaves no half of it.
    let part = unfinished(dir)?;
    std::fs::rename(&template, &part).at(&template)?;
    sweep(dir);
    Ok(())
}

/// Copies the template to `data`, in one step.
pub(crate) fn copy(dir: &Path, template: &Path, data: &Path) -> Result<()> {
    let part = unfinished(dir)?;
    files::copy_tree(template, &part)?;
    put(&part, data)
}

/// A place for a folder in the making, never one that an interrupted `up` used: its programs may still write there.
fn unfinished(dir: &Path) -> Result<PathBuf> {
    let parts = dir.join(PARTS);
    let part = parts.join(format!("{:016x}", rand::random::<u64>()));
    files::make_dir(&part)?;
    Ok(part.join("data"))
}

/// Gives a finished folder its name, unless an interrupted `up` has come in first with the same content.
fn put(part: &Path, place: &Path) -> Result<()> {
    match std::fs::rename(part, place) {
        Err(_) if place.exists() => files::remove_tree(part),
        renamed => renamed.at(place),
    }
}

/// Removes what interrupted calls have left; what cannot be removed now is tried again by the next `up`.
pub(crate) fn sweep(dir: &Path) {
    if let Err(e) = files::remove_tree(&dir.join(PARTS)) {
        tracing::debug!("left for the next time: {e}");
    }
}

fn needed(tool: &str, package: &str) -> Result<String> {
    files::find_program(tool)
        .map(|p| p.display().to_string())
        .ok_or_else(|| Error::Tool { tool: tool.to_owned(), install: format!("apt-get install {package}") })
}

/// The path of `mariadbd`.
pub(crate) fn mariadbd() -> Result<String> {
    needed("mariadbd", "mariadb-server-core")
}

/// The path of `memcached`.
pub(crate) fn memcached() -> Result<String> {
    needed("memcached", "memcached")
}

/// Initialises a data folder, named relative to the one above it: the script cannot have a space in the path.
/// That one is also for its temporary files: a starting MariaDB removes those of all others that share the folder.
async fn mariadb(data: &Path, secrets: &Secrets, log: &Path) -> Result<()> {
    let dir = data.parent().unwrap_or_else(|| Path::new("/"));
    let datadir = "--datadir=./data".to_owned();
    let mut argv = vec![
        needed("mariadb-install-db", "mariadb-server-core")?,
        "--no-defaults".to_owned(),
        datadir.clone(),
        "--skip-test-db".to_owned(),
        "--skip-name-resolve".to_owned(),
        "--innodb-log-file-size=32M".to_owned(),
    ];
    let as_root = rustix::process::geteuid().is_root();
    if as_root {
        argv.push("--user=root".to_owned());
    }
    process::run("initialising MariaDB's data folder", dir, &argv, "", log).await?;
    let mut argv = vec![
        mariadbd()?,
        "--no-defaults".to_owned(),
        "--bootstrap".to_owned(),
        datadir,
        "--innodb-log-file-size=32M".to_owned(),
    ];
    if as_root {
        argv.push("--user=root".to_owned());
    }
    process::run("making accounts", dir, &argv, &accounts::statements(Server::Mariadb, secrets), log).await
}

async fn mysql_data(data: &Path, root: &MysqlRoot, secrets: &Secrets, log: &Path) -> Result<()> {
    let dir = data.parent().unwrap_or_else(|| Path::new("/"));
    let sql = dir.join("accounts.sql");
    files::write_private(&sql, accounts::statements(Server::Mysql, secrets).as_bytes())?;
    let mut argv = root.command();
    argv.push("--no-defaults".to_owned());
    argv.extend(root.settings().into_iter().map(|s| format!("--{s}")));
    argv.extend([
        "--initialize-insecure".to_owned(),
        format!("--datadir={}", data.display()),
        format!("--init-file={}", sql.display()),
        "--disable-log-bin".to_owned(),
        "--innodb-redo-log-capacity=64M".to_owned(),
        "--innodb-use-native-aio=OFF".to_owned(),
        "--mysqlx=OFF".to_owned(),
        "--secure-file-priv=".to_owned(),
    ]);
    if rustix::process::geteuid().is_root() {
        argv.push("--user=root".to_owned());
    }
    process::run("initialising MySQL's data folder", dir, &argv, "", log).await?;
    for name in NOT_COPIED {
        let file = data.join(name);
        if file.exists() {
            std::fs::remove_file(&file).at(&file)?;
        }
    }
    Ok(())
}
