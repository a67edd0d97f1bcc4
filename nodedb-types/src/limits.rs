//! Every bound of the server in one place, each with its reason (B1).

/// Fewest shards of a data directory: enough to spread over the cores of a laptop.
pub const SHARDS_MIN: u16 = 4;
/// Most shards: a record per shard for each schema step must stay cheap.
pub const SHARDS_MAX: u16 = 256;

/// Largest encoded row, bytes. Below it a row fits a frame of the WAL beside its before image.
pub const ROW_BYTES_MAX: usize = 480 << 10;
/// Largest reply frame, bytes, unless it holds a single row.
pub const FRAME_BYTES_MAX: usize = 256 << 10;
/// Largest WAL frame, bytes: the records of one statement for one core.
pub const WAL_FRAME_BYTES_MAX: usize = 1 << 20;
/// Largest chunk of staged rows, bytes.
pub const STAGE_CHUNK_BYTES_MAX: usize = 1 << 20;
/// Most memory that one statement's new rows and held replies may take, bytes.
pub const STATEMENT_BYTES_MAX: usize = 256 << 20;
/// Longest key, canonical bytes: several fit one page of an index.
pub const KEY_BYTES_MAX: usize = 1024;
/// Widest vector: its row stays under [`ROW_BYTES_MAX`].
pub const VECTOR_DIMENSIONS_MAX: usize = 16_000;
/// Deepest nesting of geometry collections: readers recurse.
pub const GEOMETRY_DEPTH_MAX: usize = 64;
/// Most columns of a collection: PostgreSQL's figure.
pub const COLUMNS_MAX: usize = 1600;
/// Longest name, bytes: PostgreSQL's figure.
pub const NAME_BYTES_MAX: usize = 63;

/// Longest statement, bytes.
pub const STATEMENT_TEXT_BYTES_MAX: usize = 16 << 20;
/// Deepest nesting of parentheses and the like in a statement.
pub const STATEMENT_DEPTH_MAX: usize = 256;
/// Most operators in one run of a statement; a longer chain would recurse too deeply when planned.
pub const STATEMENT_TERMS_MAX: usize = 10_000;
/// Most parameters of a statement: the protocol counts them in 16 bits.
pub const PARAMETERS_MAX: usize = 65_535;
/// Longest message a client may send, bytes, before its body is read.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Requests that wait in the ring of one worker and one core.
pub const REQUEST_RING: usize = 1024;
/// Frames in a reply stream: its credits.
pub const REPLY_CREDITS: usize = 8;
/// Streams that one worker has open at a time; each is in the doorbell ring at most once.
pub const STREAMS_PER_WORKER_MAX: usize = 16_384;
/// Events that wait in a core's ring to the event plane.
pub const EVENT_RING: usize = 4096;
/// Connections of all protocols together.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Prepared statements and portals of one session together.
pub const PREPARED_PER_SESSION_MAX: usize = 10_000;

/// Target of one turn of a core, microseconds of its CPU time (P2).
pub const TURN_TARGET_US: u64 = 500;
/// Bound of one turn of a core, microseconds of its CPU time (P2).
pub const TURN_MAX_US: u64 = 2_000;

/// Ids in one block of set evaluation: one roaring container.
pub const BLOCK_IDS: u32 = 65_536;
/// Size of a first lease of surrogates.
pub const EXTENT_SMALL: u32 = 1_024;
/// Size of a lease once a shard's collection holds [`EXTENT_SMALL_COUNT`] small ones.
pub const EXTENT_BIG: u32 = 65_536;
/// Small leases before big ones begin.
pub const EXTENT_SMALL_COUNT: usize = 16;

/// Rows that a core evaluates an expression over in one piece.
pub const EXPRESSION_ROWS_MAX: usize = 256;
/// Tries of a statement over several shards that met a locked key, before 40001.
pub const STATEMENT_RETRIES_MAX: u32 = 10;
/// History that a core keeps for old snapshots, bytes; beyond it the oldest statement fails.
pub const HISTORY_BYTES_MAX: usize = 256 << 20;
/// Rows and key pages that a core has memory for at the least, bytes: what the steps of the
/// statements under way read must fit several times.
pub const LEAF_BYTES_MIN: usize = 16 << 20;
/// Change streams keep this much of the log by default, bytes.
pub const STREAM_RETENTION_BYTES: u64 = 1 << 30;
/// Reads of change streams that are open at a time. One that waits for news holds next to nothing;
/// one whose client has stalled holds three pieces of about [`STREAM_PAGE_BYTES`].
pub const STREAM_READERS_MAX: usize = 1024;
/// Reads of change streams at a time that read back from the log: each holds a page of it. The
/// others wait for their turn.
pub const STREAM_LOG_READERS_MAX: usize = 64;
/// How long a read keeps its turn while its client takes nothing and others wait for theirs. What
/// it has read back and not sent is read again afterwards.
pub const STREAM_LOG_STALL_MS_MAX: u64 = 500;
/// Rows of a stream that are made ready at a time, bytes as stored.
pub const STREAM_PAGE_BYTES: usize = 64 << 10;
/// Rows of a stream that are read back from the log at a time, bytes as stored: a page reads
/// whole blocks of log, so small pages would read them again and again.
pub const STREAM_LOG_PAGE_BYTES: usize = 512 << 10;
/// Newest events that readers get without the log, bytes as stored.
pub const STREAM_WINDOW_BYTES: usize = 2 << 20;
/// Events that wait for slower cores before they are final, bytes as stored; beyond it they are
/// dropped and read back from the log.
pub const STREAM_PENDING_BYTES_MAX: usize = 4 << 20;
/// Bytes of log that are read back for streams in a second: writers share the disk.
pub const STREAM_LOG_BYTES_PER_SECOND: u64 = 128 << 20;
/// Statements in the plan cache of a worker.
pub const PLAN_CACHE_ENTRIES: usize = 1024;
/// What they weigh together, bytes, about.
pub const PLAN_CACHE_BYTES: usize = 64 << 20;
/// What the heaviest of them weighs: a large `INSERT` of values, which comes once, drives out
/// nothing.
pub const PLAN_CACHE_ENTRY_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(STREAM_LOG_READERS_MAX < STREAM_READERS_MAX);
const _: () = assert!(STREAM_READERS_MAX < CONNECTIONS_MAX);
const _: () = assert!(PLAN_CACHE_ENTRY_BYTES_MAX * 16 <= PLAN_CACHE_BYTES);
const _: () = assert!(ROW_BYTES_MAX * 2 + 4096 <= WAL_FRAME_BYTES_MAX);
const _: () = assert!(ROW_BYTES_MAX <= STAGE_CHUNK_BYTES_MAX);
const _: () = assert!(ROW_BYTES_MAX * 16 <= LEAF_BYTES_MIN);
const _: () = assert!(VECTOR_DIMENSIONS_MAX * 4 < ROW_BYTES_MAX);
const _: () = assert!(EXTENT_BIG == BLOCK_IDS && EXTENT_BIG.is_multiple_of(EXTENT_SMALL));
const _: () = assert!(SHARDS_MIN.is_power_of_two() && SHARDS_MAX.is_power_of_two());
