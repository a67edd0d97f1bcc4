//! The node's latch (W1): after a failed sync, or a failed write that was no full disk, the whole
//! node is read-only until it is restarted. Cores share it; the first reason stays.

use std::sync::{Arc, OnceLock};

use nodedb_types::{Failure, Result, SqlState};

/// Shared by all cores of a node.
#[derive(Clone, Default, Debug)]
pub struct NodeLatch(Arc<OnceLock<Failure>>);

impl NodeLatch {
    /// Makes the node read-only. True for the first call.
    pub fn set(&self, why: Failure) -> bool {
        self.0.set(why).is_ok()
    }

    pub fn why(&self) -> Option<&Failure> {
        self.0.get()
    }

    /// Fails with 25006 when the node is read-only.
    pub fn check(&self) -> Result<()> {
        let Some(why) = self.why() else {
            return Ok(());
        };
        let failure = Failure::new(
            SqlState::ReadOnly,
            "the node is read-only after a failed write",
        );
        Err(failure
            .with_detail(why.message().to_owned())
            .with_hint("Restart the server once the disk works again."))
    }
}

/// What a writer is told whose rows were on their way to the disk when it failed.
pub fn outcome_unknown(why: &Failure) -> Failure {
    Failure::new(
        SqlState::IoError,
        "the write may or may not have become durable",
    )
    .with_detail(why.message().to_owned())
    .with_hint("The node is read-only until it is restarted; look then whether it took effect.")
}
