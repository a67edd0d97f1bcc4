//! The sessions of this node: how a cancel request finds the statement it means.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nodedb_types::limits::CONNECTIONS_MAX;
use nodedb_types::{Failure, Result, SessionId, SqlState};

use super::cancel::Cancel;

/// Every session that is open.
#[derive(Default)]
pub struct Registry {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Entry>>,
}

struct Entry {
    secret: Vec<u8>,
    cancel: Arc<Cancel>,
}

/// A session's place in the registry; dropping it leaves.
pub struct Registered {
    pub id: SessionId,
    pub cancel: Arc<Cancel>,
    registry: Arc<Registry>,
}

impl Registry {
    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `secret`: what a cancel request must bring along. 53300 when there are too many.
    pub fn enter(self: &Arc<Self>, secret: Vec<u8>) -> Result<Registered> {
        let mut open = self.entries();
        if open.len() >= CONNECTIONS_MAX {
            return Err(Failure::new(
                SqlState::TooManyConnections,
                "sorry, too many clients already",
            ));
        }
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let cancel = Arc::new(Cancel::default());
        let entry = Entry {
            secret,
            cancel: cancel.clone(),
        };
        open.insert(id, entry);
        Ok(Registered {
            id: SessionId(id),
            cancel,
            registry: self.clone(),
        })
    }

    /// Stops what the session runs now. A wrong secret does nothing, and nothing is said about it.
    pub fn cancel(&self, process: u32, secret: &[u8]) {
        let open = self.entries();
        let entry = open.iter().find(|(id, _)| **id as u32 == process);
        if let Some((_, entry)) = entry
            && !entry.secret.is_empty()
            && same(&entry.secret, secret)
        {
            entry.cancel.raise();
        }
    }

    pub fn len(&self) -> usize {
        self.entries().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Compares without telling by its time where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (a, b)| d | (a ^ b)) == 0
}

impl Drop for Registered {
    fn drop(&mut self) {
        // Work that waits for the session's answer stops where it still can.
        self.cancel.raise();
        self.registry.entries().remove(&self.id.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_secret_cancels() {
        let registry = Arc::new(Registry::default());
        let session = registry.enter(vec![1, 2, 3, 4]).expect("there is room");
        let process = session.id.0 as u32;
        registry.cancel(process, &[1, 2, 3]);
        registry.cancel(process, &[1, 2, 3, 5]);
        registry.cancel(process + 1, &[1, 2, 3, 4]);
        assert!(!session.cancel.is_raised());
        registry.cancel(process, &[1, 2, 3, 4]);
        assert!(session.cancel.is_raised());
        drop(session);
        assert!(registry.is_empty());
    }
}
