//! DataFusion's memory, charged to the statement's account.

use std::fmt;
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};
use nodedb_bridge::account::MemoryAccount;

/// A pool whose limit is the account's. Operators that can spill do so when it is used up.
pub(super) struct AccountPool(pub Arc<MemoryAccount>);

impl fmt::Debug for AccountPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountPool({:?})", self.0)
    }
}

impl fmt::Display for AccountPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "statement account, {} bytes used", self.0.used())
    }
}

impl MemoryPool for AccountPool {
    fn name(&self) -> &str {
        "statement"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        // The caller cannot be refused here; what it takes is still accounted where it fits, and
        // the next request that can be refused is.
        if self.0.charge(additional).is_err() {
            let room = additional.min(1);
            let _ = self.0.charge(room);
        }
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.0.release(shrink.min(self.0.used()));
    }

    fn try_grow(&self, _: &MemoryReservation, additional: usize) -> Result<()> {
        self.0
            .charge(additional)
            .map_err(|failure| DataFusionError::ResourcesExhausted(failure.message().to_owned()))
    }

    fn reserved(&self) -> usize {
        self.0.used()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Unknown
    }
}
