//! MySQL 9.7 beside the system's MariaDB: Debian's packages unpacked into a folder of their own, once for all
//! playgrounds. The server is run through that folder's own dynamic linker; no chroot, no root rights.

use std::path::{Path, PathBuf};

use crate::error::{AtPath, Error, Result};
use crate::{files, process};

/// Why MySQL cannot be had on this machine, if so: it is not cached, and cannot be fetched.
#[must_use]
pub fn why_no_mysql() -> Option<String> {
    let root = match place() {
        Ok(root) => root,
        Err(error) => return Some(error.to_string()),
    };
    if MysqlRoot::at(&root).is_some() {
        return None;
    }
    let missing =
        |tool: &str| !["/usr/sbin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(tool).exists());
    if missing("debootstrap") {
        return Some("MySQL is not cached and debootstrap is not installed".to_owned());
    }
    let is_root = rustix::process::geteuid().is_root();
    (!is_root).then(|| "MySQL is not cached and only root can run debootstrap".to_owned())
}

/// An unpacked MySQL.
#[derive(Clone, Debug)]
pub(crate) struct MysqlRoot {
    root: PathBuf,
    linker: PathBuf,
}

impl MysqlRoot {
    /// The cached MySQL; made first, which takes about half a minute, 650 MB and the network.
    pub(crate) async fn ensure(say: &(dyn Fn(&str) + Send + Sync)) -> Result<Self> {
        let root = place()?;
        if let Some(found) = Self::at(&root) {
            return Ok(found);
        }
        let parent = root.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        files::make_dir(&parent)?;
        let lock_path = beside(&root, ".lock");
        let lock = tokio::task::spawn_blocking(move || {
            let lock = std::fs::File::create(&lock_path).at(&lock_path)?;
            lock.lock().at(&lock_path)?;
            Ok::<_, Error>(lock)
        });
        // Held to the end: another playground that wants MySQL waits here, then finds it.
        let _lock = lock.await.map_err(|e| failed(e.to_string()))??;
        if let Some(found) = Self::at(&root) {
            return Ok(found);
        }
        say("fetching MySQL from Debian sid, once (650 MB, half a minute)");
        unpack(&root).await?;
        Self::at(&root).ok_or_else(|| failed(format!("{} holds no mysqld", root.display())))
    }

    fn at(root: &Path) -> Option<Self> {
        if !root.join("usr/sbin/mysqld").is_file() {
            return None;
        }
        let linker = ["lib64", "lib"].iter().find_map(|lib| {
            let entries = std::fs::read_dir(root.join(lib)).ok()?;
            let is_linker = |p: &PathBuf| {
                p.file_name()
                    .and_then(|n| n.to_str())
                    .is_some_and(|n| n.starts_with("ld-linux") && n.contains(".so"))
            };
            entries.flatten().map(|e| e.path()).find(is_linker)
        })?;
        Some(Self { root: root.to_owned(), linker })
    }

    /// The command that runs the server, to which its arguments are appended.
    pub(crate) fn command(&self) -> Vec<String> {
        self.program("usr/sbin/mysqld")
    }

    /// The command that runs a program of this MySQL.
    fn program(&self, path: &str) -> Vec<String> {
        let root = self.root.display();
        let libraries =
            format!("{root}/usr/lib/{}-linux-gnu:{root}/usr/lib/mysql/private", std::env::consts::ARCH);
        vec![
            self.linker.display().to_string(),
            "--library-path".to_owned(),
            libraries,
            format!("{root}/{path}"),
        ]
    }

    /// Settings that tell the server where it lives.
    pub(crate) fn settings(&self) -> Vec<String> {
        let root = self.root.display();
        vec![
            format!("basedir={root}/usr"),
            format!("lc-messages-dir={root}/usr/share/mysql"),
            format!("plugin-dir={root}/usr/lib/mysql/plugin"),
            format!("character-sets-dir={root}/usr/share/mysql/charsets"),
        ]
    }
}

/// The command that runs the `mysql` client of the MySQL that playgrounds use, once one of them has fetched it.
#[must_use]
pub fn mysql_client() -> Option<Vec<String>> {
    MysqlRoot::at(&place().ok()?).map(|root| root.program("usr/bin/mysql"))
}

fn place() -> Result<PathBuf> {
    if let Some(root) = std::env::var_os("USHER_MYSQL_ROOT") {
        return Ok(root.into());
    }
    let home = std::env::var_os("HOME").ok_or_else(|| {
        Error::Option("neither USHER_MYSQL_ROOT nor HOME says where MySQL is to live".into())
    })?;
    Ok(PathBuf::from(home).join(".cache/usher/mysql-9.7"))
}

fn beside(root: &Path, suffix: &str) -> PathBuf {
    let mut path = root.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

async fn unpack(root: &Path) -> Result<()> {
    let debootstrap = files::find_program("debootstrap").ok_or_else(|| Error::Tool {
        tool: "debootstrap".into(),
        install: "apt-get install debootstrap".into(),
    })?;
    let part = beside(root, ".part");
    files::remove_tree(&part)?;
    let argv = [
        debootstrap.display().to_string(),
        "--variant=minbase".to_owned(),
        "--include=mysql-server-core,mysql-client-core".to_owned(),
        "sid".to_owned(),
        part.display().to_string(),
    ];
    process::run(
        "fetching MySQL with debootstrap (it needs root and the network)",
        root.parent().unwrap_or_else(|| Path::new("/")),
        &argv,
        "",
        &beside(root, ".log"),
    )
    .await?;
    // Packages as fetched: half of the size, and never needed again.
    files::remove_tree(&part.join("var/cache/apt"))?;
    std::fs::rename(&part, root).at(root)
}

fn failed(detail: String) -> Error {
    Error::Command { what: "preparing MySQL".into(), detail }
}
