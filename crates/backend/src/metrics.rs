//! What the pools count.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A histogram from a millisecond to half a minute.
#[derive(Debug, Clone)]
pub struct WaitTimes(pub(crate) Histogram);

impl Default for WaitTimes {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(0.001, 2.0, 16)))
    }
}

/// Handles of the pools' metrics; cloned, they count together.
#[derive(Debug, Clone, Default)]
pub struct BackendMetrics {
    /// Connections opened.
    pub opened: Counter,
    /// Connections closed, for whatever reason.
    pub closed: Counter,
    /// Connections open now.
    pub open: Gauge,
    /// Connections lent out now.
    pub lent: Gauge,
    /// Checkouts that had to wait for a connection.
    pub waits: Counter,
    /// Checkouts that wait now.
    pub waiting: Gauge,
    /// How long those that waited did, in seconds.
    pub wait_seconds: WaitTimes,
    /// Checkouts that gave up waiting.
    pub exhausted: Counter,
    /// Checkouts that had to change a connection's settings.
    pub settings_applied: Counter,
    /// Failed connects and logins.
    pub connect_errors: Counter,
}

impl BackendMetrics {
    /// Registers all of them under `usher_backend_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("usher_backend");
        registry.register("opened", "Connections opened to servers", self.opened.clone());
        registry.register("closed", "Connections to servers closed", self.closed.clone());
        registry.register("open", "Connections to servers open now", self.open.clone());
        registry.register("lent", "Connections to servers in use now", self.lent.clone());
        registry.register("waits", "Checkouts that waited for a free connection", self.waits.clone());
        registry.register("waiting", "Checkouts that wait for a free connection now", self.waiting.clone());
        registry.register(
            "wait_seconds",
            "How long checkouts waited that had to, given up or not",
            self.wait_seconds.0.clone(),
        );
        registry.register("exhausted", "Checkouts that gave up waiting", self.exhausted.clone());
        registry.register(
            "settings_applied",
            "Checkouts that changed a connection's settings",
            self.settings_applied.clone(),
        );
        registry.register("connect_errors", "Failed connects and logins", self.connect_errors.clone());
    }
}
