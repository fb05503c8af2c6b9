//! Making or completing a playground, step by step; each step leaves alone what is already done.

use std::path::{Path, PathBuf};

use futures_util::future::{try_join, try_join_all};

use crate::config_file::{self, APP, CONSOLE};
use crate::connection::Connection;
use crate::endpoints::{
    AdminEndpoint, Endpoints, GlobalEndpoints, HttpEndpoint, ProxyEndpoint, ServerEndpoint, ShardEndpoints,
};
use crate::error::{AtPath, Error, Result};
use crate::mysql_root::MysqlRoot;
use crate::process::{self, Process};
use crate::service::{self, Probe};
use crate::settings::Settings;
use crate::state::{GLOBAL, Node, Pair, State};
use crate::{
    Options, Progress, Server, accounts, dir_of, files, lock, pairs, ports, registration, replication,
    template, tls, topology,
};

/// Steps that are reported.
const STEPS: usize = 6;
const LOCALHOST: &str = "127.0.0.1";

struct Up {
    dir: PathBuf,
    options: Options,
    state: State,
    mysql: Option<MysqlRoot>,
    done: usize,
}

/// The whole of `up`.
pub(crate) async fn up(options: Options) -> Result<Endpoints> {
    options.check()?;
    files::make_dir(&options.dir)?;
    let dir = dir_of(&options.dir)?;
    let _lock = lock(&dir).await?;
    let state = State::plan(State::load(&dir)?, &options)?;
    let mut up = Up { dir, options, state, mysql: None, done: 0 };
    up.lay_out().await?;
    up.fill_data().await?;
    up.start_servers().await?;
    up.connect_pairs().await?;
    up.set_up_schemas().await?;
    up.start_usher().await?;
    up.finish()
}

impl Up {
    fn say(&self, text: &str) {
        report(&self.options, self.done, text, false);
    }

    fn step(&mut self, text: &str) {
        self.say(text);
        self.done += 1;
    }

    /// Folders, ports, keys: all that has to be on disk before anything is started.
    async fn lay_out(&mut self) -> Result<()> {
        self.step("choosing ports, making keys");
        for folder in ["logs", "run", "servers"] {
            files::make_dir(&self.dir.join(folder))?;
        }
        self.state.save(&self.dir)?;
        tls::ensure(&self.dir.join("tls"))?;
        template::memcached()?;
        match self.options.server {
            Server::Mariadb => {
                template::mariadbd()?;
            }
            Server::Mysql => {
                let (options, done) = (self.options.clone(), self.done);
                let say = move |text: &str| report(&options, done, text, false);
                self.mysql = Some(MysqlRoot::ensure(&say).await?);
            }
        }
        Ok(())
    }

    /// Gives each server that has none its data folder, a copy of one that is initialised now.
    async fn fill_data(&mut self) -> Result<()> {
        let data = |node: &Node| service::server_dir(&self.dir, &node.name).join("data");
        let empty: Vec<PathBuf> = self.state.servers.iter().map(data).filter(|data| !data.exists()).collect();
        self.step("initialising a data folder and copying it");
        if !empty.is_empty() {
            let template =
                template::ensure(&self.dir, self.state.server, self.mysql.as_ref(), &self.state.secrets)
                    .await?;
            let copies = empty.into_iter().map(|data| {
                let (dir, template) = (self.dir.clone(), template.clone());
                async move {
                    let copied = tokio::task::spawn_blocking(move || fill(&dir, &template, &data)).await;
                    copied.map_err(|e| Error::Option(format!("copying was interrupted: {e}")))?
                }
            });
            try_join_all(copies).await?;
        }
        template::remove(&self.dir)
    }

    async fn start_servers(&mut self) -> Result<()> {
        self.step("starting database servers and memcached");
        for node in self.state.servers.clone() {
            self.write_settings(&node)?;
            let argv = service::server_argv(&self.dir, &node, self.mysql.as_ref())?;
            if self.start(&node.name, argv, node.port).await? {
                self.state.ready_pairs.retain(|pair| *pair != node.pair);
                self.state.save(&self.dir)?;
            }
        }
        for service in self.state.memcached.clone() {
            let argv = service::memcached_argv(&self.dir, &service)?;
            self.start(&service.name, argv, service.port).await?;
        }
        let password = &self.state.secrets.admin;
        let servers = self.state.servers.iter().map(|n| self.ready(&n.name, Probe::Login(n, password)));
        let caches = self.state.memcached.iter().map(|m| self.ready(&m.name, Probe::Memcached(m.port)));
        try_join(try_join_all(servers), try_join_all(caches)).await?;
        Ok(())
    }

    fn write_settings(&self, node: &Node) -> Result<()> {
        let folder = service::server_dir(&self.dir, &node.name);
        files::make_dir(&folder.join("tmp"))?;
        let settings = Settings {
            server: self.state.server,
            node,
            data: &folder.join("data"),
            tmp: &folder.join("tmp"),
            tls: &self.dir.join("tls"),
            semi_sync_timeout_ms: self.state.semi_sync_timeout_ms,
            mysql: self.mysql.as_ref(),
        };
        files::write_private(&folder.join("my.cnf"), settings.to_cnf().as_bytes())
    }

    /// Starts a process unless it runs; says whether it had to. The command line is recorded before the start
    /// and the pid after it, so that no moment of death leaves a process that `down` would not find.
    async fn start(&mut self, name: &str, argv: Vec<String>, port: u16) -> Result<bool> {
        if let Some(recorded) = self.state.processes.get(name) {
            match recorded.runs() {
                true if recorded.argv == argv => return Ok(false),
                // By another program, such as an `usher` built elsewhere: this one takes over.
                true => recorded.stop().await?,
                false => recorded.ended().await,
            }
        }
        if let Some(found) = process::find(&argv) {
            self.record(name, found)?;
            return Ok(false);
        }
        if !ports::is_free(port) {
            return Err(Error::Port { name: name.to_owned(), port });
        }
        self.record(name, Process { pid: 0, argv: argv.clone() })?;
        let started = process::start(name, &argv, &service::log(&self.dir, name)).await?;
        self.record(name, started)?;
        Ok(true)
    }

    fn record(&mut self, name: &str, process: Process) -> Result<()> {
        self.state.processes.insert(name.to_owned(), process);
        self.state.save(&self.dir)
    }

    async fn ready(&self, name: &str, probe: Probe<'_>) -> Result<()> {
        let Some(process) = self.state.processes.get(name) else { return Ok(()) };
        service::await_ready(&self.dir, name, process, probe).await
    }

    /// Replication of the pairs of which a server was started since the last time that this step ended well;
    /// the global pair first, since its topology tells the writers of the others.
    async fn connect_pairs(&mut self) -> Result<()> {
        self.step("setting up replication");
        self.learn_writers().await?;
        self.connect(true).await?;
        self.learn_writers().await?;
        self.connect(false).await
    }

    async fn learn_writers(&mut self) -> Result<()> {
        let members: Vec<Node> = self.state.servers.iter().filter(|n| n.pair == GLOBAL).cloned().collect();
        let rows = topology::newest_rows(&members, &self.state.secrets.admin).await?;
        for (pair, row) in rows {
            if let Some(writer) = self.state.writers.get_mut(&pair) {
                *writer = row.writer;
            }
        }
        self.state.save(&self.dir)
    }

    async fn connect(&mut self, is_global: bool) -> Result<()> {
        let pairs = self.state.pairs()?;
        let global = pairs.iter().find(|p| p.name == GLOBAL).ok_or_else(no_global)?;
        let is_due = |p: &&Pair| (p.name == GLOBAL) == is_global && !self.state.ready_pairs.contains(&p.name);
        let due: Vec<&Pair> = pairs.iter().filter(is_due).collect();
        let work = due
            .iter()
            .map(|pair| pairs::set_up(self.state.server, pair, &global.writer, &self.state.secrets));
        let warnings = try_join_all(work).await?;
        for warning in warnings.iter().flatten() {
            report(&self.options, self.done, &warning.to_string(), true);
        }
        self.state.ready_pairs.extend(due.iter().map(|pair| pair.name.clone()));
        self.state.save(&self.dir)
    }

    /// usher's own schemas, the topology, and the application's database on every pair.
    async fn set_up_schemas(&mut self) -> Result<()> {
        self.step("applying schemas");
        config_file::write(&self.dir, &self.state)?;
        let pairs = self.state.pairs()?;
        let closed = self.closed(&pairs).await?;
        if !closed.is_empty() {
            let text = format!("schemas are left as they are: {} takes no writes now", closed.join(", "));
            report(&self.options, self.done, &text, true);
            return Ok(());
        }
        let work = pairs.iter().map(|pair| async {
            let mut writer = Connection::open(&pair.writer, &self.state.secrets.admin).await?;
            writer.run(&format!("CREATE DATABASE IF NOT EXISTS {APP}")).await?;
            writer.close().await;
            Ok::<_, Error>(())
        });
        try_join_all(work).await?;
        registration::register(&self.dir, &self.state).await
    }

    /// Pairs whose writer takes no writes, as while a flip waits for the controller to end it.
    async fn closed(&self, pairs: &[Pair]) -> Result<Vec<String>> {
        let mut closed = Vec::new();
        for pair in pairs {
            let mut writer = Connection::open(&pair.writer, &self.state.secrets.admin).await?;
            if replication::is_read_only(&mut writer).await? {
                closed.push(pair.name.clone());
            }
            writer.close().await;
        }
        Ok(closed)
    }

    /// The proxy and the controller, if the caller has brought the program.
    async fn start_usher(&mut self) -> Result<()> {
        let Some(binary) = self.options.usher_binary.clone().filter(|_| self.options.proxy) else {
            return Ok(());
        };
        self.step("starting the proxy and the controller");
        let binary = binary.canonicalize().at(&binary)?;
        for (name, port) in [("proxy", self.state.proxy_port), ("controller", self.state.controller_port)] {
            self.start(name, service::usher_argv(&self.dir, &binary, name), port).await?;
        }
        let proxy = Probe::Proxy(self.state.proxy_port, self.state.http_port);
        let controller = Probe::Health(self.state.controller_port);
        try_join(self.ready("proxy", proxy), self.ready("controller", controller)).await?;
        Ok(())
    }

    fn finish(&mut self) -> Result<Endpoints> {
        let endpoints = endpoints(&self.state)?;
        endpoints.save(&self.dir)?;
        template::sweep(&self.dir);
        self.done = STEPS;
        self.say("everything answers");
        Ok(endpoints)
    }
}

fn report(options: &Options, done: usize, text: &str, is_warning: bool) {
    if let Some(on_progress) = &options.on_progress {
        on_progress(Progress { done, total: STEPS, text: text.to_owned(), is_warning });
    }
}

fn no_global() -> Error {
    Error::State { path: PathBuf::from("state.json"), detail: "the global pair is missing".to_owned() }
}

fn fill(dir: &Path, template: &Path, data: &Path) -> Result<()> {
    if let Some(folder) = data.parent() {
        files::make_dir(folder)?;
    }
    template::copy(dir, template, data)
}

fn endpoints(state: &State) -> Result<Endpoints> {
    let server = |node: &Node| ServerEndpoint {
        name: node.name.clone(),
        host: LOCALHOST.to_owned(),
        port: node.port,
        user: accounts::ADMIN.to_owned(),
        password: state.secrets.admin.clone(),
        pid: state.processes.get(&node.name).map_or(0, |p| p.pid),
    };
    let of_pair = |pair: &Pair| ShardEndpoints {
        name: pair.name.clone(),
        members: pair.members.each_ref().map(server),
        replicas: pair.replicas.iter().map(server).collect(),
        writer: pair.writer.name.clone(),
    };
    let pairs = state.pairs()?;
    let (global, shards): (Vec<&Pair>, Vec<&Pair>) = pairs.iter().partition(|p| p.name == GLOBAL);
    let global = global.into_iter().map(of_pair).next().ok_or_else(no_global)?;
    Ok(Endpoints {
        proxy: ProxyEndpoint {
            host: LOCALHOST.to_owned(),
            port: state.proxy_port,
            user: APP.to_owned(),
            password: state.secrets.app.clone(),
            database: APP.to_owned(),
        },
        admin: AdminEndpoint {
            host: LOCALHOST.to_owned(),
            port: state.admin_port,
            user: CONSOLE.to_owned(),
            password: state.secrets.http_token.clone(),
        },
        http: HttpEndpoint {
            url: format!("http://{LOCALHOST}:{}", state.http_port),
            token: state.secrets.http_token.clone(),
        },
        global: GlobalEndpoints { members: global.members, writer: global.writer },
        shards: shards.into_iter().map(of_pair).collect(),
        memcached: state.memcached.iter().map(|m| format!("{LOCALHOST}:{}", m.port)).collect(),
    })
}
