//! The plan cache: by digest, default schema, lexer mode and catalog.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use quick_cache::sync::Cache;
use usher_sql::{Catalog, Digest, Mode, Plan};

use crate::metrics::SessionMetrics;

/// Plans heavier than this are made anew each time: INSERTs of thousands of rows.
const WEIGHT_MAX: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PlanKey {
    digest: u128,
    schema: u64,
    mode: Mode,
    catalog: u64,
}

/// The plan cache.
#[derive(Debug)]
pub(crate) struct Plans {
    cache: Cache<PlanKey, Arc<Plan>>,
    hasher: RandomState,
}

impl Plans {
    pub(crate) fn new(max: usize) -> Self {
        Self { cache: Cache::new(max.max(1)), hasher: RandomState::new() }
    }

    /// A schema's part of the key; a session computes it once for each USE.
    pub(crate) fn schema_hash(&self, schema: Option<&str>) -> u64 {
        self.hasher.hash_one(schema)
    }

    /// The statement's plan.
    pub(crate) fn plan(
        &self,
        text: &[u8],
        digest: &Digest,
        schema: (Option<&str>, u64),
        mode: Mode,
        catalog: &Catalog,
        metrics: &SessionMetrics,
    ) -> Arc<Plan> {
        let key = PlanKey { digest: digest.hash, schema: schema.1, mode, catalog: catalog.version() };
        if let Some(plan) = self.cache.get(&key) {
            return plan;
        }
        metrics.planned.inc();
        let end = digest.end.min(text.len());
        let plan = Arc::new(usher_sql::plan(&text[..end], schema.0, mode, catalog));
        if plan.weight_bytes() <= WEIGHT_MAX {
            self.cache.insert(key, Arc::clone(&plan));
        }
        plan
    }
}
