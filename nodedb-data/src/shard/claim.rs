//! Claims: rows that somebody is changing and that are not applied yet.
//!
//! Every change of a row passes through a claim on its key. It begins as a lock while its
//! statement is being checked, is *pending* from the append to the log until it is applied, and
//! in a transaction is *prepared* in between. What others may do follows from the phase of the
//! claim's owner, which all of a statement's claims share:
//!
//! | phase | a writer of the key | a reader at snapshot s waits |
//! |---|---|---|
//! | planning | waits, or votes no | no |
//! | logged at ts | builds on it | while ts <= s |
//! | prepared, voted at p | waits, or votes no | while p <= s |
//! | decided at ts | builds on it | while ts <= s |
//! | over (applied or discarded) | does not see it | no |
//!
//! Claims of one key stand in the order of the log; only the last can be planning or prepared.

use std::cell::Cell;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use nodedb_types::{CommitTs, Surrogate, TxnId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::chunks::SplitMap;

/// How far the owner of claims has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Checks go on; nothing is logged.
    Planning,
    /// The change is in the log's open group at this timestamp, and will be applied.
    Logged(CommitTs),
    /// A transaction's rows are logged or about to be; `None` until it has voted.
    Prepared(Option<CommitTs>),
    /// The transaction's commit is known and will be applied.
    Decided(CommitTs),
    /// Applied or discarded.
    Over,
}

/// A statement or transaction that holds claims.
#[derive(Debug)]
pub struct Owner {
    phase: Cell<Phase>,
    txn: Option<TxnId>,
}

impl Owner {
    pub fn new(txn: Option<TxnId>) -> Rc<Owner> {
        Rc::new(Owner {
            phase: Cell::new(Phase::Planning),
            txn,
        })
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
    }

    pub fn txn(&self) -> Option<TxnId> {
        self.txn
    }

    /// Whether a reader at `snapshot` has to wait for the end of this.
    pub fn delays(&self, snapshot: CommitTs) -> bool {
        match self.phase() {
            Phase::Planning | Phase::Prepared(None) | Phase::Over => false,
            Phase::Logged(ts) | Phase::Decided(ts) | Phase::Prepared(Some(ts)) => ts <= snapshot,
        }
    }

    /// The timestamp that the owner's rows have or will have.
    pub fn commit_ts(&self) -> Option<CommitTs> {
        match self.phase() {
            Phase::Logged(ts) | Phase::Decided(ts) => Some(ts),
            Phase::Planning | Phase::Prepared(_) | Phase::Over => None,
        }
    }

    /// Nothing of the owner has or will have a timestamp below this; `None` once it is over, or
    /// while it has no bound because it neither took a timestamp nor voted.
    pub fn lower_bound(&self) -> Option<CommitTs> {
        match self.phase() {
            Phase::Logged(ts) | Phase::Decided(ts) | Phase::Prepared(Some(ts)) => Some(ts),
            Phase::Planning | Phase::Prepared(None) | Phase::Over => None,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.phase(), Phase::Planning | Phase::Prepared(_))
    }
}

/// A row as the next writer finds it.
#[derive(Clone, Debug)]
pub struct Newest {
    pub surrogate: Surrogate,
    /// Commit timestamp of this version.
    pub version: CommitTs,
    pub birth: CommitTs,
    pub row: Arc<[u8]>,
}

/// What a claim leaves behind: the row's identity and its new content.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// None while no surrogate has been given to a new row.
    pub surrogate: Option<Surrogate>,
    /// None: the owner's commit is the row's birth.
    pub birth: Option<CommitTs>,
    /// None: the row is deleted (or is not made after all).
    pub row: Option<Arc<[u8]>>,
}

struct Claim {
    owner: Rc<Owner>,
    after: Claimed,
}

/// What a writer finds at a key.
pub enum Found {
    /// No claim: the applied state decides.
    Applied,
    /// An open claim of somebody else.
    Locked,
    /// The row after the last claim; `None`: there is no row.
    Pending(Option<Newest>),
    /// The writer's own claim.
    Own(Claimed),
}

/// Hashes a key in one go, which for short ones is several times cheaper than in a stream.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// The length, which stands before the bytes.
    fn write_usize(&mut self, length: usize) {
        self.0 ^= length as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The claims on one table's keys.
#[derive(Default)]
pub struct Claims {
    by_key: SplitMap<Arc<[u8]>, Vec<Claim>, BuildHasherDefault<KeyHasher>>,
    /// Owners with claims here that were logged or prepared.
    owners: Vec<Rc<Owner>>,
}

impl Claims {
    /// What `writer` finds at the key.
    pub fn find(&self, key: &[u8], writer: &Rc<Owner>) -> Found {
        // What is over is taken out piece by piece and counts for nothing meanwhile.
        let counts = |c: &&Claim| c.owner.phase() != Phase::Over;
        let claims = self.by_key.get(key);
        let Some(last) = claims.and_then(|claims| claims.iter().rev().find(counts)) else {
            return Found::Applied;
        };
        if Rc::ptr_eq(&last.owner, writer) {
            return Found::Own(last.after.clone());
        }
        if last.owner.is_open() {
            return Found::Locked;
        }
        let version = last
            .owner
            .commit_ts()
            .expect("an owner that is neither open nor over has it");
        let Claimed {
            surrogate: Some(surrogate),
            birth,
            row: Some(row),
        } = &last.after
        else {
            return Found::Pending(None);
        };
        Found::Pending(Some(Newest {
            surrogate: *surrogate,
            version,
            birth: birth.unwrap_or(version),
            row: row.clone(),
        }))
    }

    /// Claims the key for the writer, who has just looked at it, or changes its claim.
    pub fn put(&mut self, key: &Arc<[u8]>, writer: &Rc<Owner>, after: Claimed) {
        let claim = |after| Claim {
            owner: writer.clone(),
            after,
        };
        let Some(claims) = self.by_key.get_mut(&**key) else {
            self.by_key.insert(key.clone(), vec![claim(after)]);
            return;
        };
        match claims.last_mut() {
            Some(last) if Rc::ptr_eq(&last.owner, writer) => last.after = after,
            _ => claims.push(claim(after)),
        }
    }

    /// Ends the owner's claim on the key.
    pub fn remove(&mut self, key: &[u8], owner: &Rc<Owner>) {
        if let Some(claims) = self.by_key.get_mut(key) {
            claims.retain(|c| !Rc::ptr_eq(&c.owner, owner));
            if claims.is_empty() {
                self.by_key.remove(key);
            }
        }
    }

    /// The owner's rows here are logged or prepared: readers of the whole table look at it.
    pub fn enter(&mut self, owner: &Rc<Owner>) {
        if !self.owners.iter().any(|o| Rc::ptr_eq(o, owner)) {
            self.owners.push(owner.clone());
        }
    }

    /// The owner is over here.
    pub fn leave(&mut self, owner: &Rc<Owner>) {
        self.owners.retain(|o| !Rc::ptr_eq(o, owner));
    }

    /// Whether a reader of the whole table at `snapshot` has to wait.
    pub fn delay_all(&self, snapshot: CommitTs) -> bool {
        self.owners.iter().any(|o| o.delays(snapshot))
    }

    /// Whether a reader of the key at `snapshot` has to wait.
    pub fn delay_key(&self, key: &[u8], snapshot: CommitTs) -> bool {
        let claims = self.by_key.get(key);
        claims.is_some_and(|claims| claims.iter().any(|c| c.owner.delays(snapshot)))
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty() && self.owners.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(row: Option<&[u8]>) -> Claimed {
        Claimed {
            surrogate: Surrogate::new(7),
            birth: None,
            row: row.map(Into::into),
        }
    }

    #[test]
    fn later_writers_build_on_what_is_logged() {
        let mut claims = Claims::default();
        let (first, second) = (Owner::new(None), Owner::new(None));
        let key: Arc<[u8]> = b"k"[..].into();
        assert!(matches!(claims.find(&key, &first), Found::Applied));
        claims.put(&key, &first, claimed(Some(b"a")));
        assert!(matches!(claims.find(&key, &second), Found::Locked));
        assert!(matches!(claims.find(&key, &first), Found::Own(_)));
        first.set_phase(Phase::Logged(CommitTs(5)));
        claims.enter(&first);
        let Found::Pending(Some(newest)) = claims.find(&key, &second) else {
            panic!("the pending row is found")
        };
        assert_eq!(
            (newest.version, newest.birth, &newest.row[..]),
            (CommitTs(5), CommitTs(5), &b"a"[..])
        );
        claims.put(&key, &second, claimed(None));
        second.set_phase(Phase::Logged(CommitTs(6)));
        claims.enter(&second);
        let third = Owner::new(None);
        assert!(matches!(claims.find(&key, &third), Found::Pending(None)));
        claims.remove(&key, &first);
        claims.leave(&first);
        assert!(claims.delay_key(&key, CommitTs(6)) && !claims.delay_key(&key, CommitTs(5)));
        claims.remove(&key, &second);
        claims.leave(&second);
        assert!(claims.is_empty());
    }

    #[test]
    fn readers_wait_for_what_may_be_below_them() {
        let owner = Owner::new(Some(TxnId(1)));
        let at = CommitTs(10);
        for (phase, delays) in [
            (Phase::Planning, false),
            (Phase::Prepared(None), false),
            (Phase::Prepared(Some(CommitTs(10))), true),
            (Phase::Prepared(Some(CommitTs(11))), false),
            (Phase::Decided(CommitTs(12)), false),
            (Phase::Decided(CommitTs(9)), true),
            (Phase::Logged(CommitTs(10)), true),
            (Phase::Over, false),
        ] {
            owner.set_phase(phase);
            assert_eq!(owner.delays(at), delays, "{phase:?}");
        }
    }
}
