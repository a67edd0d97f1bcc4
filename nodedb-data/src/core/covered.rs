//! What the cores of a node tell each other about their checkpoints, so that no log goes that
//! another core may need.
//!
//! * No checkpoint begins before every core has recovered: a start reads all shards' roots.
//! * Chains of older starts go when every core has written a checkpoint of each of its shards.
//! * A decision goes when no core has the transaction open any more: each core publishes the
//!   oldest transaction that it keeps. One is entered before its vote, hence before its decision,
//!   and taken out when its outcome is durable here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use nodedb_types::{CoreId, TxnId};

/// Shared by all cores of a node.
#[derive(Clone, Debug)]
pub struct Covered(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    recovered: AtomicU32,
    checkpointed: AtomicU32,
    older_gone: AtomicBool,
    /// The oldest open transaction of each core: 0 before it is known, the maximum for none.
    open: Box<[AtomicU64]>,
}

impl Covered {
    pub fn new(cores: u16) -> Covered {
        Covered(Arc::new(Inner {
            recovered: AtomicU32::new(0),
            checkpointed: AtomicU32::new(0),
            older_gone: AtomicBool::new(false),
            open: (0..cores).map(|_| AtomicU64::new(0)).collect(),
        }))
    }

    fn is_all(&self, count: &AtomicU32) -> bool {
        count.load(Ordering::Acquire) as usize == self.0.open.len()
    }

    /// A core has ended its recovery. Once by each.
    pub fn note_recovered(&self) {
        self.0.recovered.fetch_add(1, Ordering::AcqRel);
    }

    pub fn all_recovered(&self) -> bool {
        self.is_all(&self.0.recovered)
    }

    /// A core has checkpoints of all its shards that name its chain of this start. Once by each.
    pub fn note_checkpointed(&self) {
        self.0.checkpointed.fetch_add(1, Ordering::AcqRel);
    }

    pub fn all_checkpointed(&self) -> bool {
        self.is_all(&self.0.checkpointed)
    }

    /// The chains of older starts have been removed.
    pub fn note_older_gone(&self) {
        self.0.older_gone.store(true, Ordering::Release);
    }

    pub fn is_older_gone(&self) -> bool {
        self.0.older_gone.load(Ordering::Acquire)
    }

    /// The oldest transaction that a core keeps.
    pub fn publish_open(&self, core: CoreId, oldest: Option<TxnId>) {
        let place = &self.0.open[usize::from(core.0)];
        let value = oldest.map_or(u64::MAX, |txn| txn.0);
        if place.load(Ordering::Relaxed) != value {
            place.store(value, Ordering::SeqCst);
        }
    }

    /// Transactions below this one are open nowhere.
    pub fn oldest_open(&self) -> TxnId {
        let all = self.0.open.iter().map(|o| o.load(Ordering::SeqCst));
        TxnId(all.min().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_has_said_nothing_holds_all_back() {
        let covered = Covered::new(2);
        covered.publish_open(CoreId(0), None);
        assert_eq!(covered.oldest_open(), TxnId(0));
        covered.publish_open(CoreId(1), Some(TxnId(7)));
        assert_eq!(covered.oldest_open(), TxnId(7));
        covered.publish_open(CoreId(1), None);
        assert_eq!(covered.oldest_open(), TxnId(u64::MAX));
        covered.note_recovered();
        assert!(!covered.all_recovered());
        covered.note_recovered();
        assert!(covered.all_recovered() && !covered.all_checkpointed());
    }
}
