//! Installs Debian packages that are missing, telling so, where that is allowed.

use std::process::Command;

use anyhow::{Result, bail};

use crate::shell::{find, passes, run, say};

/// A program and the package that brings it.
type Need = (&'static str, &'static str);

const MARIADB: &[Need] = &[
    ("mariadbd", "mariadb-server-core"),
    ("mariadb-install-db", "mariadb-server-core"),
    ("mariadb", "mariadb-client"),
    ("memcached", "memcached"),
];
const MYSQL: &[Need] = &[("debootstrap", "debootstrap")];
const HAPROXY: &[Need] = &[("haproxy", "haproxy")];
const VALGRIND: &[Need] = &[("valgrind", "valgrind")];
const CPP: &[Need] = &[("g++", "g++")];

/// What a chore needs beside Rust.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// MariaDB and memcached.
    Servers,
    /// Those, and what fetches MySQL.
    ServersAndMysql,
    /// MariaDB, memcached and the proxy to compare with.
    Comparison,
    /// What counts instructions.
    Valgrind,
    /// What builds the library that fuzz targets run in.
    Fuzzing,
}

/// Installs what is missing.
///
/// # Errors
/// Something is missing and this is not Debian, or not root.
pub(crate) fn install(wanted: Wanted) -> Result<()> {
    let (needs, more): (&[Need], &[Need]) = match wanted {
        Wanted::Servers => (MARIADB, &[]),
        Wanted::ServersAndMysql => (MARIADB, MYSQL),
        Wanted::Comparison => (MARIADB, HAPROXY),
        Wanted::Valgrind => (VALGRIND, &[]),
        Wanted::Fuzzing => (CPP, &[]),
    };
    let mut packages: Vec<&str> = needs
        .iter()
        .chain(more)
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if find("apt-get").is_none() || !is_root() {
        bail!("missing: {list}. As root on Debian: apt-get install --no-install-recommends {list}");
    }
    say(&format!("installing {list}"));
    let installed = passes(apt().args(["install", "-y", "-q", "--no-install-recommends"]).args(&packages))?;
    if !installed {
        // A fresh machine has no lists yet.
        run(apt().args(["update", "-q"]))?;
        run(apt().args(["install", "-y", "-q", "--no-install-recommends"]).args(&packages))?;
    }
    Ok(())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_root() -> bool {
    let uid = Command::new("id").arg("-u").output();
    uid.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
