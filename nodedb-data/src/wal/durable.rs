//! The proof that a record is on disk (W1).

use super::codec::Position;

/// What a statement left for the moment at which it is durable, with the proof that it is.
///
/// Only a finished flush makes one, so code that applies, replies or emits and takes a `Durable`
/// cannot run too early.
#[derive(Debug)]
#[must_use = "what it holds has been committed and waits to be applied"]
pub struct Durable<T> {
    value: T,
    position: Position,
    end: Position,
}

impl<T> Durable<T> {
    pub(super) fn new(value: T, position: Position, end: Position) -> Durable<T> {
        Durable {
            value,
            position,
            end,
        }
    }

    pub fn value(&self) -> &T {
        &self.value
    }

    pub fn into_value(self) -> T {
        self.value
    }

    /// Where the frame with its records begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Where that frame ends: the chain is durable up to here.
    pub fn end(&self) -> Position {
        self.end
    }

    /// The same proof for a part of the value, or for something made of it.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Durable<U> {
        Durable {
            value: change(self.value),
            position: self.position,
            end: self.end,
        }
    }
}
