//! Connections to servers: login, pools, checkout with the session's settings, give-back, and the monitor that
//! tells which servers are up and how far each copy is. Knows nothing of users or of SQL beyond `SET`.

mod conn;
mod cut;
mod defaults;
mod error;
mod metrics;
mod monitor;
mod pool;
mod settings;
mod stream;
mod tls;

pub use conn::{Conn, Reply, gtid_of};
pub use defaults::Defaults;
pub use error::{BackendError, Fault};
pub use metrics::{BackendMetrics, WaitTimes};
pub use monitor::{HealthMap, Monitor};
pub use pool::{Account, Cutter, Lent, Pool, Pools};
pub use settings::{
    NAMES_VARIABLES, NULL_USER_VARIABLE, Settings, SettingsBuilder, TEXT_VARIABLES, canonical_variable,
    quoted_user_variable,
};
pub use stream::{Stream, prepare_socket};
pub use tls::client_tls;
