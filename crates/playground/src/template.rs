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
    let part = dir.join("template.part");
    files::remove_tree(&part)?;
    let log = dir.join("logs/template.log");
    match (server, mysql) {
        (Server::Mariadb, _) => mariadb(&part, secrets, &log).await?,
        (Server::Mysql, Some(root)) => mysql_data(dir, &part, root, secrets, &log).await?,
        (Server::Mysql, None) => return Err(Error::Option("no MySQL to initialise with".into())),
    }
    std::fs::rename(&part, &template).at(&template)?;
    Ok(template)
}

/// Removes the template: each `up` that adds servers makes a new one, which is cheaper than to keep it.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    files::remove_tree(&dir.join("template"))
}

/// Copies the template to `data`, in one step.
pub(crate) fn copy(template: &Path, data: &Path) -> Result<()> {
    let mut part = data.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    files::remove_tree(&part)?;
    files::copy_tree(template, &part)?;
    std::fs::rename(&part, data).at(data)
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

async fn mariadb(data: &Path, secrets: &Secrets, log: &Path) -> Result<()> {
    let mut argv = vec![
        needed("mariadb-install-db", "mariadb-server-core")?,
        "--no-defaults".to_owned(),
        format!("--datadir={}", data.display()),
        "--skip-test-db".to_owned(),
        "--skip-name-resolve".to_owned(),
        "--innodb-log-file-size=32M".to_owned(),
    ];
    let as_root = rustix::process::geteuid().is_root();
    if as_root {
        argv.push("--user=root".to_owned());
    }
    process::run("initialising MariaDB's data folder", &argv, "", log).await?;
    let mut argv = vec![
        mariadbd()?,
        "--no-defaults".to_owned(),
        "--bootstrap".to_owned(),
        format!("--datadir={}", data.display()),
        "--innodb-log-file-size=32M".to_owned(),
    ];
    if as_root {
        argv.push("--user=root".to_owned());
    }
    process::run("making accounts", &argv, &accounts::statements(Server::Mariadb, secrets), log).await
}

async fn mysql_data(dir: &Path, data: &Path, root: &MysqlRoot, secrets: &Secrets, log: &Path) -> Result<()> {
    let sql = dir.join("template.sql");
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
    process::run("initialising MySQL's data folder", &argv, "", log).await?;
    std::fs::remove_file(&sql).at(&sql)?;
    for name in NOT_COPIED {
        let file = data.join(name);
        if file.exists() {
            std::fs::remove_file(&file).at(&file)?;
        }
    }
    Ok(())
}
