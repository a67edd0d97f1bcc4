//! Ids are newtypes, so that a shard is never passed where a core is meant.

use std::fmt;
use std::num::NonZeroU32;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(/// A collection, system or user. User collections start at [`CollectionId::FIRST_USER`].
    CollectionId(u32));
id!(/// An index of a collection; unique in the database.
    IndexId(u32));
id!(/// A change stream; unique in the database.
    StreamId(u32));
id!(/// A shard: the unit of everything durable. Fixed in number for the life of a data directory.
    ShardId(u16));
id!(/// A data plane thread of this run. `core = shard mod cores`.
    CoreId(u16));
id!(/// A commit timestamp: `max(previous + 1, unix_ms << 16)`. Zero is before everything.
    CommitTs(u64));
id!(/// A position in one shard's log. Internal; users see [`CommitTs`].
    Lsn(u64));
id!(/// Version of a collection's schema, one up with every change to it.
    SchemaVersion(u32));
id!(/// A client session of this run.
    SessionId(u64));
id!(/// Who wrote a row. Zero is the system itself.
    ActorId(u32));
id!(/// Follows a request across planes.
    TraceId(u64));
id!(/// A transaction. Drawn from the commit clock, so none returns after a restart.
    TxnId(u64));

impl CollectionId {
    /// Ids below this belong to system collections with compiled-in schemas.
    pub const FIRST_USER: CollectionId = CollectionId(1024);

    /// True for collections of the catalog, which emit no events.
    pub fn is_system(self) -> bool {
        self < Self::FIRST_USER
    }
}

impl ShardId {
    /// The shard that holds the catalog and the leases.
    pub const CATALOG: ShardId = ShardId(0);

    /// The core that owns this shard in a run with `cores` cores.
    pub fn core(self, cores: u16) -> CoreId {
        CoreId(self.0 % cores)
    }
}

impl ActorId {
    /// The server itself.
    pub const SYSTEM: ActorId = ActorId(0);
}

impl CommitTs {
    /// Milliseconds since the Unix epoch at which this timestamp was drawn (at the earliest).
    pub fn unix_ms(self) -> u64 {
        self.0 >> 16
    }
}

/// Names one row of the database at a time (I1). Never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Surrogate(NonZeroU32);

impl Surrogate {
    /// None for 0, which names no row.
    pub fn new(raw: u32) -> Option<Surrogate> {
        NonZeroU32::new(raw).map(Surrogate)
    }

    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The block of 65,536 ids it lies in: one roaring container.
    pub fn block(self) -> u16 {
        (self.get() >> 16) as u16
    }
}

impl fmt::Display for Surrogate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
