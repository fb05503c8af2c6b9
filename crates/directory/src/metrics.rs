//! What this crate counts. Handles are made here, kept by their users and registered once by the process.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The crate's metrics; clones share their values.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Look-ups answered by the first-level cache.
    pub l1_hits: Counter,
    /// Look-ups that it did not answer.
    pub l1_misses: Counter,
    /// Look-ups answered by memcached.
    pub l2_hits: Counter,
    /// Look-ups that it did not answer.
    pub l2_misses: Counter,
    /// Values in memcached older than this process knows to be true.
    pub l2_stale: Counter,
    /// Exchanges with memcached that failed or ran out of time.
    pub l2_failures: Counter,
    /// Memcached servers that are left alone for now.
    pub l2_servers_down: Gauge,
    /// Look-ups that asked the global master.
    pub lookups: Counter,
    /// Look-ups refused or given up for `limits.directory_lookups_max`.
    pub lookups_busy: Counter,
    /// Look-ups that had to do without the global master's writer.
    pub lookups_fallback: Counter,
    /// New users placed by this process.
    pub placed: Counter,
    /// Ids handed out.
    pub ids: Counter,
    /// Blocks of ids taken from the global master.
    pub id_blocks: Counter,
    /// The version that this process works by.
    pub version: Gauge,
    /// The version up to which all older work has ended.
    pub drained_version: Gauge,
    /// Entities in the moving set.
    pub moving: Gauge,
    /// 1 while the last poll of the global master succeeded.
    pub global_up: Gauge,
    /// Times that this proxy found itself revoked.
    pub revoked: Counter,
}

impl Metrics {
    /// Puts them all into `registry` under `directory_...`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("directory");
        let counters = [
            ("l1_hits", "Look-ups answered by the first-level cache", &self.l1_hits),
            ("l1_misses", "Look-ups not answered by the first-level cache", &self.l1_misses),
            ("l2_hits", "Look-ups answered by memcached", &self.l2_hits),
            ("l2_misses", "Look-ups not answered by memcached", &self.l2_misses),
            ("l2_stale", "Outdated values found in memcached and not used", &self.l2_stale),
            ("l2_failures", "Failed exchanges with memcached", &self.l2_failures),
            ("lookups", "Look-ups that asked the global master", &self.lookups),
            ("lookups_busy", "Look-ups refused because too many were under way", &self.lookups_busy),
            ("lookups_fallback", "Look-ups done without the global master's writer", &self.lookups_fallback),
            ("placed", "New users placed", &self.placed),
            ("ids", "Ids handed out", &self.ids),
            ("id_blocks", "Blocks of ids taken", &self.id_blocks),
            ("revoked", "Times that this proxy found itself revoked", &self.revoked),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let gauges = [
            ("l2_servers_down", "Memcached servers left alone for now", &self.l2_servers_down),
            ("version", "Version that this process works by", &self.version),
            ("drained_version", "Version up to which all older work has ended", &self.drained_version),
            ("moving", "Entities in the moving set", &self.moving),
            ("global_up", "Whether the last poll of the global master succeeded", &self.global_up),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
    }
}
