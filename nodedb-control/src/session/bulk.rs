//! What would keep a worker from its other sessions for too long.
//!
//! Decoding, placing and encoding the rows of a large statement takes milliseconds, and all that
//! time nobody else on that worker is answered. Such work goes to threads of the relational executor,
//! which have a low priority; the session awaits it. Without those threads (in a simulation) it is
//! done where it stands.

use nodedb_types::{Result, Value};

use crate::node::Worker;

/// Bytes of a message, or of a statement's parameters, from which on it goes aside: what a worker
/// deals with in about a tenth of a millisecond.
pub const BYTES: usize = 32 << 10;

/// Whether instantiating a statement with these parameters goes aside.
pub fn is_large(parameters: &[Value]) -> bool {
    let mut bytes = std::mem::size_of_val(parameters);
    parameters.iter().any(|value| {
        bytes += match value {
            Value::Text(v) | Value::Jsonb(v) => v.len(),
            Value::Bytea(v) | Value::Geometry(v) | Value::Geography(v) => v.len(),
            Value::Vector(v) => v.len() * 4,
            _ => 0,
        };
        bytes >= BYTES
    })
}

/// Does `work` on a thread for long computations.
pub async fn aside<T: Send + 'static>(
    worker: &Worker,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    match &worker.node.executor {
        Some(executor) => executor.compute(work).await,
        None => Ok(work()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_is_by_number_and_by_size() {
        assert!(!is_large(&[]));
        assert!(!is_large(&[Value::Int8(1), Value::Vector(vec![0.0; 384])]));
        assert!(is_large(&vec![
            Value::Int8(1);
            BYTES.div_ceil(size_of::<Value>())
        ]));
        assert!(is_large(&[Value::Vector(vec![0.0; BYTES / 4])]));
        assert!(is_large(&[Value::Null, Value::Text("x".repeat(BYTES))]));
    }
}
