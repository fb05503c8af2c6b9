//! What sessions count.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::pins::PinCounts;

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
    /// Clients that have not logged in yet.
    pub(crate) logins: Gauge,
    /// Clients refused as their address had its maximum, or too many failed logins.
    pub sources_refused: Counter,
    /// Logins with a wrong name or password.
    pub login_failures: Counter,
    /// Answers to failed logins that were put off.
    pub login_failures_delayed: Counter,
    /// TLS handshakes with clients, and those of them that resumed a session.
    pub(crate) tls_handshakes: Counter,
    pub(crate) tls_resumed: Counter,
    /// Connections that came with a PROXY protocol header.
    pub(crate) proxy_headers: Counter,
    /// Logins that agreed on compression.
    pub(crate) compressed: Counter,
    /// Reads of the TLS files while clients were served, by their outcome.
    pub tls_reloads: Counter,
    /// Those that failed: the old ones stay in use.
    pub tls_reloads_failed: Counter,
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
    /// Connections that stay with a session, by what is on them.
    pub(crate) pinned: PinCounts,
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
            logins: Gauge::default(),
            sources_refused: Counter::default(),
            login_failures: Counter::default(),
            login_failures_delayed: Counter::default(),
            tls_handshakes: Counter::default(),
            tls_resumed: Counter::default(),
            proxy_headers: Counter::default(),
            compressed: Counter::default(),
            tls_reloads: Counter::default(),
            tls_reloads_failed: Counter::default(),
            errors: Counter::default(),
            held: Counter::default(),
            holding: Gauge::default(),
            retried: Counter::default(),
            planned: Counter::default(),
            fenced: Counter::default(),
            pinned: PinCounts::default(),
            watermark_reads: Counter::default(),
        }
    }
}

impl SessionMetrics {
    fn register_doors(&self, r: &mut Registry) {
        let gauge = &self.logins;
        r.register("logins", "Clients that have not logged in yet", gauge.clone());
        let counters = [
            ("sources_refused", "Clients refused for their address", &self.sources_refused),
            ("login_failures", "Logins with a wrong name or password", &self.login_failures),
            ("login_failures_delayed", "Put-off answers to failed logins", &self.login_failures_delayed),
            ("tls_handshakes", "TLS handshakes with clients", &self.tls_handshakes),
            ("tls_resumed", "TLS handshakes that resumed a session", &self.tls_resumed),
            ("proxy_headers", "Connections with a PROXY protocol header", &self.proxy_headers),
            ("clients_compressed", "Logins that agreed on compression", &self.compressed),
            ("tls_reloads", "Reads of the TLS files while serving", &self.tls_reloads),
            ("tls_reloads_failed", "Reads of the TLS files that failed", &self.tls_reloads_failed),
        ];
        for (name, help, counter) in counters {
            r.register(name, help, counter.clone());
        }
    }

    /// Registers all of them under `usher_`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("usher");
        r.register("clients", "Clients connected now", self.clients.clone());
        r.register("clients_accepted", "Clients accepted", self.accepted.clone());
        r.register("clients_refused", "Clients refused", self.refused.clone());
        self.register_doors(r);
        r.register("statements", "Statements answered, by where", self.statements.clone());
        r.register("errors", "Errors of the proxy's own sent to clients", self.errors.clone());
        r.register("held", "Statements that were held for a flip or a cutover", self.held.clone());
        r.register("holding", "Statements held now", self.holding.clone());
        r.register("retried", "Statements sent again to another server", self.retried.clone());
        r.register("planned", "Plans made for unknown digests", self.planned.clone());
        r.register("fenced", "Write transactions that checked the ownership row", self.fenced.clone());
        r.register("pinned", "What keeps connections with their sessions", self.pinned.clone());
        r.register(
            "watermark_reads",
            "Reads sent to the writer as no copy had the user's own last write",
            self.watermark_reads.clone(),
        );
    }
}
