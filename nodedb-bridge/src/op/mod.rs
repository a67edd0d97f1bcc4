//! What engines can do: one contract file each, and one line in [`CONTRACTS`].
//!
//! The planner is generic over a contract. It shows each engine the calls it meets in a WHERE or
//! ORDER BY clause as a [`Call`] (a comparison is a call named by its operator) and takes the op
//! that comes back; it knows no engine by name.

pub mod ordered;
pub mod place;
pub mod text;
pub mod vector;

use nodedb_types::schema::{Collection, Index};
use nodedb_types::{Result, Value};

/// A predicate that an engine's index answers.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineOp {
    Ordered(ordered::Op),
    Text(text::Op),
    Place(place::Op),
}

impl EngineOp {
    /// The predicate for people; `columns` are the names of the index's columns.
    pub fn show(&self, columns: &[&str]) -> String {
        match self {
            EngineOp::Ordered(op) => op.show(columns),
            EngineOp::Text(op) => op.show(columns),
            EngineOp::Place(op) => op.show(columns),
        }
    }
}

/// A ranking that an engine can do inside an allowed set.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineRank {
    Text(text::Rank),
    Vector(vector::Rank),
}

impl EngineRank {
    /// The ranking for people.
    pub fn show(&self) -> String {
        match self {
            EngineRank::Text(rank) => format!("bm25 of {}", rank.query),
            EngineRank::Vector(rank) => format!("nearest by {}", rank.metric.operator()),
        }
    }
}

/// A value as SQL writes it, cut where it is long.
fn shown(value: &Value) -> String {
    let mut text = String::new();
    nodedb_types::text::format(value, &mut text);
    if let Some((end, _)) = text.char_indices().nth(VALUE_CHARS_SHOWN) {
        text.replace_range(end.., "…");
    }
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Bool(_)
        | Value::Int2(_)
        | Value::Int4(_)
        | Value::Int8(_)
        | Value::Float4(_)
        | Value::Float8(_)
        | Value::Numeric(_) => text,
        _ => format!("'{text}'"),
    }
}

/// An argument of a call: a column of the collection, a constant, or the collection itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    Column(usize),
    Constant(Value),
    Relation,
}

/// A function call or comparison as an engine is asked about it. Comparisons are given with the
/// column on the left. Names are lower case: `=`, `<`, `in`, `between`, `is null`,
/// `text_match`, `st_dwithin`, `<=>`.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub name: String,
    pub arguments: Vec<Argument>,
}

/// Characters of a value that a predicate for people shows.
const VALUE_CHARS_SHOWN: usize = 40;

/// Options of an index in canonical form, as `WITH (name = value)` lists them.
pub type IndexOptions = Vec<(String, String)>;

/// What an engine tells the planner about itself.
pub struct Contract {
    /// The index method, such as `fulltext`.
    pub method: &'static str,
    /// Other names of it.
    pub aliases: &'static [&'static str],
    /// Checks a `CREATE INDEX` (columns, operator class, options); fails with 22023, 42804 or
    /// 0A000. Gives the options in canonical form.
    pub check_index: fn(&Collection, &Index) -> Result<IndexOptions>,
    /// The op by which `index` answers `call` exactly, if it can.
    pub predicate: fn(&Collection, &Index, &Call) -> Result<Option<EngineOp>>,
    /// One op for both of two, where a row must satisfy both, if there is one.
    pub both: fn(&EngineOp, &EngineOp) -> Option<EngineOp>,
    /// The ranking for an ORDER BY term.
    pub rank: fn(&Collection, &Index, &Call) -> Result<Option<EngineRank>>,
}

/// Every engine with an index method. Adding one adds a line.
pub static CONTRACTS: &[&Contract] = &[
    &ordered::CONTRACT,
    &text::CONTRACT,
    &place::CONTRACT,
    &vector::CONTRACT,
];

/// The contract behind an index method's name.
pub fn contract(method: &str) -> Option<&'static Contract> {
    CONTRACTS
        .iter()
        .copied()
        .find(|c| c.method == method || c.aliases.contains(&method))
}
