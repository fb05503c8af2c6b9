//! One settings tree: read as TOML, overridden by `USHER_...` variables, checked as a whole, then used. Nothing
//! else in the product reads TOML or the environment. Every limit stands with its default in [`limits`].

mod env;
pub mod limits;
mod load;
mod network;
mod tree;

pub use limits::Limits;
pub use load::{ConfigError, load, parse};
pub use network::Network;
pub use tree::{
    Admin, BackendTls, Compression, Config, Controller, Endpoint, GlobalMaster, Http, Memcached, Proxy,
    Require, Successor, TlsMode, User,
};
