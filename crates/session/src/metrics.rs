//! What sessions count.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Where a statement went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Went {
    Writer,
    Copy,
    Proxy,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WentLabel {
    pub(crate) to: Went,
}

/// Handles of the sessions' metrics; cloned, they count together.
#[derive(Debug, Clone)]
pub struct SessionMetrics {
    /// Clients connected now.
    pub clients: Gauge,
    /// Clients accepted.
    pub accepted: Counter,
    /// Clients refused: too many, wrong password, garbage.
    pub refused: Counter,
    /// Statements answered by a writer, a copy, or the proxy itself.
    pub(crate) to_writer: Counter,
    pub(crate) to_copy: Counter,
    pub(crate) in_proxy: Counter,
    statements: Family<WentLabel, Counter>,
    /// Errors of our own sent to clients.
    pub errors: Counter,
    /// Statements that were held for a flip or a cutover.
    pub held: Counter,
    /// Statements held now.
    pub holding: Gauge,
    /// Statements sent again to another server after the first was lost or had turned read-only.
    pub retried: Counter,
    /// Plans made, as their digest was not known.
    pub planned: Counter,
    /// Users being fenced: write transactions that checked the ownership row.
    pub fenced: Counter,
    /// Reads sent to the writer as no copy had the user's own last write.
    pub watermark_reads: Counter,
}

impl Default for SessionMetrics {
    fn default() -> Self {
        let statements = Family::<WentLabel, Counter>::default();
        let of = |to| statements.get_or_create(&WentLabel { to }).clone();
        Self {
            to_writer: of(Went::Writer),
            to_copy: of(Went::Copy),
            in_proxy: of(Went::Proxy),
            statements,
            clients: Gauge::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            errors: Counter::default(),
            held: Counter::default(),
            holding: Gauge::default(),
            retried: Counter::default(),
            planned: Counter::default(),
            fenced: Counter::default(),
            watermark_reads: Counter::default(),
        }
    }
}

impl SessionMetrics {
    /// Registers all of them under `usher_`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("usher");
        r.register("clients", "Clients connected now", self.clients.clone());
        r.register("clients_accepted", "Clients accepted", self.accepted.clone());
        r.register("clients_refused", "Clients refused", self.refused.clone());
        r.register("statements", "Statements answered, by where", self.statements.clone());
        r.register("errors", "Errors of the proxy's own sent to clients", self.errors.clone());
        r.register("held", "Statements that were held for a flip or a cutover", self.held.clone());
        r.register("holding", "Statements held now", self.holding.clone());
        r.register("retried", "Statements sent again to another server", self.retried.clone());
        r.register("planned", "Plans made for unknown digests", self.planned.clone());
        r.register("fenced", "Write transactions that checked the ownership row", self.fenced.clone());
        r.register(
            "watermark_reads",
            "Reads sent to the writer as no copy had the user's own last write",
            self.watermark_reads.clone(),
        );
    }
}
