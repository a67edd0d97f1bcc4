//! What a core asks of control or tells it on its own account.

use nodedb_types::{CollectionId, CoreId, Failure, ShardId};

/// Sent over a ring of its own from each core to the first control worker.
#[derive(Debug)]
pub enum Upcall {
    /// The shard's lease of surrogates for a collection runs low; control gets one from shard 0
    /// and answers with `Op::Grant` or `Op::Deny`. Asked once until then.
    NeedExtent {
        core: CoreId,
        collection: CollectionId,
        shard: ShardId,
        big: bool,
    },
    /// The core is read-only until restart (W1).
    Latched { core: CoreId, why: Failure },
}
