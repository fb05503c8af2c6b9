//! A proxy in this process, in front of real servers in a folder of its own.

#[allow(dead_code)] // only some tests speak packet by packet
pub(crate) mod client;

use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use usher_backend::{Account, BackendMetrics};
use usher_config::{Compression, Config};
use usher_directory::{Directory, Global, Metrics, Participant, Registration};
use usher_playground::{Endpoints, Options, Playground, TestFolder};
use usher_session::{Accounts, Balancers, Listener, SessionHooks, SessionMetrics, Setup, Shared};
use usher_wire::auth::ServerKey;

/// Servers in a folder; when dropped, they are stopped and the folder is removed.
pub(crate) struct Servers {
    folder: TestFolder,
    pub(crate) endpoints: Endpoints,
}

impl Servers {
    /// A global pair and one shard without replicas.
    pub(crate) async fn up(name: &str) -> Self {
        let folder = TestFolder::new(env!("CARGO_TARGET_TMPDIR").as_ref(), name);
        let options = Options { shards: 1, replicas: 0, proxy: false, ..Options::new(folder.path()) };
        let endpoints = Playground::up(options).await.unwrap();
        Self { folder, endpoints }
    }

    /// The settings that the playground wrote for its proxy, without TLS towards clients.
    pub(crate) fn config(&self) -> Config {
        let mut config = usher_config::load(&self.folder.path().join("usher.toml")).unwrap();
        if let Some(proxy) = &mut config.proxy {
            (proxy.tls_cert, proxy.tls_key) = (None, None);
        }
        config
    }
}

/// A proxy that serves until it is told to stop.
pub(crate) struct Proxy {
    stop: watch::Sender<bool>,
    done: oneshot::Receiver<()>,
}

impl Proxy {
    pub(crate) async fn start(config: &Config) -> Self {
        let proxy = config.proxy.as_ref().unwrap();
        let listener = Listener::bind(proxy.listen).unwrap();
        let key =
            tokio::task::spawn_blocking(|| ServerKey::generate(ServerKey::BITS)).await.unwrap().unwrap();
        let global = Global::new(&config.global, &config.backend_tls, &config.limits);
        let directory = Directory::new(global, &config.memcached, &config.limits, Metrics::default());
        let setup = Setup {
            limits: config.limits.clone(),
            accounts: Accounts::new(&config.users),
            backend: Account {
                user: proxy.backend_user.clone(),
                password: proxy.backend_password.clone(),
                tls: None,
                tls_optional: true,
            },
            tls: None,
            compression: Compression::default(),
            balancers: Balancers::default(),
            key: Arc::new(key),
            server_version: "10.11.0-MariaDB".to_owned(),
            address: ("here".to_owned(), 3306),
            proxy_id: proxy.id.clone(),
            token: String::new(),
            metrics: SessionMetrics::default(),
            backend_metrics: BackendMetrics::default(),
        };
        let shared = Shared::new(setup, Arc::clone(&directory));
        let who = Registration {
            proxy_id: proxy.id.clone(),
            boot_id: u64::from(std::process::id()),
            account: proxy.backend_user.clone(),
            http_address: None,
            number: proxy.number,
        };
        let hooks = Arc::new(SessionHooks(Arc::clone(&shared)));
        let participant = Participant::register(directory, who, hooks).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let (tell, done) = oneshot::channel();
        tokio::spawn(async move {
            let (ended, all_ended) = oneshot::channel::<()>();
            let served = async {
                usher_session::serve(listener, shared, stopped).await;
                let _ = ended.send(());
            };
            let polled = participant.run(async { drop(all_ended.await) });
            tokio::join!(polled, served).0.unwrap();
            // The servers may be gone already, if the test has failed.
            let _ = participant.leave(true).await;
            let _ = tell.send(());
        });
        Self { stop, done }
    }

    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        self.done.await.unwrap();
    }
}
