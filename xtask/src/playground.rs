//! A playground and the programs that work on it, by their command lines.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::shell::{ask, cargo, find, programs, run, say, shown};

/// Real servers in a folder, with `usher` in front of them.
pub(crate) struct Playground {
    /// The folder.
    pub(crate) dir: PathBuf,
    /// `endpoints.json`.
    pub(crate) endpoints: Value,
    programs: PathBuf,
}

/// How a playground is to be.
pub(crate) struct Shape<'a> {
    pub(crate) server: &'a str,
    pub(crate) shards: u16,
    pub(crate) replicas: u16,
}

/// Builds `usher`, the example and the measuring program.
pub(crate) fn build(profile: &str) -> Result<()> {
    run(&mut cargo(&[
        "build",
        "--locked",
        "--profile",
        profile,
        "-p",
        "usher",
        "-p",
        "photos",
        "-p",
        "usher-bench",
    ])?)
}

impl Playground {
    /// A fresh one: what an earlier call has left in the folder is stopped and removed.
    pub(crate) fn fresh(dir: PathBuf, shape: &Shape<'_>, profile: &str) -> Result<Self> {
        let programs = programs(profile)?;
        let mut playground = Self { dir, endpoints: Value::Null, programs };
        playground.remove()?;
        let (shards, replicas) = (shape.shards.to_string(), shape.replicas.to_string());
        let more = ["--server", shape.server, "--shards", &shards, "--replicas", &replicas];
        playground.up(&more)?;
        Ok(playground)
    }

    /// Starts what does not run.
    pub(crate) fn up(&mut self, more: &[&str]) -> Result<()> {
        let mut up = self.program("usher");
        up.args(["playground", "up", "--dir"]).arg(&self.dir).args(more);
        run(up.stdout(Stdio::null()))?;
        let path = self.dir.join("endpoints.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        self.endpoints = serde_json::from_slice(&text)?;
        Ok(())
    }

    /// Stops everything; the data stays.
    pub(crate) fn down(&self) -> Result<()> {
        let mut down = self.program("usher");
        down.args(["playground", "down", "--dir"]).arg(&self.dir);
        run(&mut down)
    }

    fn remove(&self) -> Result<()> {
        if !self.dir.join("usher.toml").exists() {
            ensure!(
                fs::read_dir(&self.dir).map_or(true, |mut entries| entries.next().is_none()),
                "{} is not empty and no playground: it is left alone",
                self.dir.display()
            );
            return Ok(());
        }
        say(&format!("removing the playground of an earlier run in {}", self.dir.display()));
        self.down()?;
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }

    fn program(&self, name: &str) -> Command {
        Command::new(self.programs.join(name))
    }

    /// A command of `usher` for this playground, answering in JSON.
    pub(crate) fn usher(&self, arguments: &[&str]) -> Result<Value> {
        let mut usher = self.program("usher");
        ask(usher.env("USHER_CONFIG", self.dir.join("usher.toml")).arg("--json").args(arguments))
    }

    /// The example application, connecting to the proxy.
    pub(crate) fn photos(&self) -> Result<Command> {
        let at = |key: &str| text(&self.endpoints["proxy"], key);
        let port = self.endpoints["proxy"]["port"].as_u64().context("no port of the proxy")?;
        let (user, password, host) = (at("user")?, at("password")?, at("host")?);
        let url = format!("mysql://{user}:{password}@{host}:{port}/{}", at("database")?);
        let mut photos = self.program("photos");
        // The password goes by the environment: arguments are everybody's to read.
        photos.env("PHOTOS_URL", url);
        Ok(photos)
    }

    /// Gives the measuring program a job.
    pub(crate) fn measure(&self, job: &Value) -> Result<Value> {
        let mut command = self.program("usher-bench");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", shown(&command)))?;
        child.stdin.take().context("no standard input")?.write_all(job.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "the measurement has failed");
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// A database server or the proxy as a target of a measurement.
    pub(crate) fn target(&self, name: &str, server: &Value, pid: Option<u64>) -> Value {
        json!({"name": name, "host": server["host"], "port": server["port"], "user": server["user"],
               "password": server["password"], "database": self.endpoints["proxy"]["database"], "pid": pid})
    }

    /// Process ids of a role (`memcached`, `proxy`).
    pub(crate) fn pids(&self, role: &str) -> Result<Vec<u64>> {
        let dir = path(&self.dir)?;
        let status = self.usher(&["playground", "status", "--dir", dir])?;
        let processes = status["processes"].as_array().context("no processes in the status")?;
        let of_role = processes.iter().filter(|process| process["role"] == role);
        Ok(of_role.filter_map(|process| process["pid"].as_u64()).collect())
    }

    fn shard(&self, name: &str) -> Result<&Value> {
        let shards = self.endpoints["shards"].as_array().context("no shards")?;
        shards.iter().find(|known| known["name"] == name).context("no such shard")
    }

    /// The member that takes a shard's writes, as of the last `up`.
    pub(crate) fn writer(&self, shard: &str) -> Result<Value> {
        let shard = self.shard(shard)?;
        let mut members = shard["members"].as_array().context("no members")?.iter();
        members.find(|member| member["name"] == shard["writer"]).cloned().context("no writer")
    }

    /// Asks a server itself, with MariaDB's client.
    pub(crate) fn sql(&self, server: &Value, sql: &str) -> Result<String> {
        let mut client = Command::new(find("mariadb").context("no mariadb client")?);
        client.env("MYSQL_PWD", text(server, "password")?);
        client.args(["-h", text(server, "host")?, "-P", &server["port"].to_string()]);
        client.args(["-u", text(server, "user")?, "--batch", "--skip-column-names", "-e", sql]);
        client.arg(text(&self.endpoints["proxy"], "database")?);
        let output = client.output()?;
        ensure!(output.status.success(), "{sql:.200}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The server that reads of a shard's users go to: a replica, or else a member.
    pub(crate) fn reader(&self, shard: &str) -> Result<Value> {
        let shard = self.shard(shard)?;
        let replica = shard["replicas"].get(0).or_else(|| shard["members"].get(0));
        replica.cloned().context("a shard without servers")
    }

    /// How to connect, and how to take it down.
    pub(crate) fn ways_in(&self) -> Result<String> {
        let (proxy, http) = (&self.endpoints["proxy"], &self.endpoints["http"]);
        let client = format!(
            "mariadb -h {} -P {} -u {} -p{} {}",
            text(proxy, "host")?,
            proxy["port"],
            text(proxy, "user")?,
            text(proxy, "password")?,
            text(proxy, "database")?
        );
        let usher = self.programs.join("usher");
        let (usher, dir) = (usher.display(), self.dir.display());
        Ok(format!(
            "connect     {client}\ndashboard   {}/   (token {})\n\
             commands    export USHER_CONFIG={dir}/usher.toml; {usher} move list --all\n\
             take down   {usher} playground down --dir {dir}\n",
            text(http, "url")?,
            text(http, "token")?
        ))
    }
}

/// A text in a JSON document.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("no {key} in {value}"))
}

/// A path as an argument among texts.
pub(crate) fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))
}
