//! One settings tree: read as TOML, overridden by `USHER_...` variables, checked as a whole, then used. Nothing
//! else in the product reads TOML or the environment. Every limit stands with its default in [`limits`].

mod env;
pub mod limits;
mod load;
mod tree;

pub use limits::Limits;
pub use load::{ConfigError, load, parse};
pub use tree::{
    Admin, BackendTls, Config, Controller, Endpoint, GlobalMaster, Http, Memcached, Proxy, TlsMode, User,
};
