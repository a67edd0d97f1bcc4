//! Texts as keys of a sorted map.
//!
//! A map of plain texts looks behind a pointer for every comparison on the way down, mostly into
//! memory that is not in any cache. A [`Sorted`] carries the first bytes of its text, which decide
//! nearly all of them. Look-ups go by a borrowed text with its first bytes ([`Head`]).

use std::borrow::Borrow;
use std::cmp::Ordering;

/// A text of a sorted map.
#[derive(Clone, Debug)]
pub(super) struct Sorted<T> {
    head: u64,
    text: T,
}

/// A borrowed text with its first bytes.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    head: u64,
    text: &'a str,
}

/// What both are ordered by: the order of the texts.
pub(super) trait Place {
    fn place(&self) -> Head<'_>;
}

/// The first eight bytes as a number; zeros stand behind a shorter text. Different numbers are in
/// the order of their texts.
fn head(text: &str) -> u64 {
    let mut bytes = [0; 8];
    let len = text.len().min(8);
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    u64::from_be_bytes(bytes)
}

impl<T: AsRef<str>> Sorted<T> {
    pub(super) fn new(text: T) -> Sorted<T> {
        Sorted {
            head: head(text.as_ref()),
            text,
        }
    }

    pub(super) fn text(&self) -> &str {
        self.text.as_ref()
    }
}

impl<'a> Head<'a> {
    pub(super) fn new(text: &'a str) -> Head<'a> {
        Head {
            head: head(text),
            text,
        }
    }
}

impl<T: AsRef<str>> Place for Sorted<T> {
    fn place(&self) -> Head<'_> {
        Head {
            head: self.head,
            text: self.text(),
        }
    }
}

impl Place for Head<'_> {
    fn place(&self) -> Head<'_> {
        *self
    }
}

impl<'a, T: AsRef<str> + 'a> Borrow<dyn Place + 'a> for Sorted<T> {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

impl Ord for dyn Place + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.place(), other.place());
        a.head.cmp(&b.head).then_with(|| a.text.cmp(b.text))
    }
}

impl PartialOrd for dyn Place + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Place + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for dyn Place + '_ {}

impl<T: AsRef<str>> Ord for Sorted<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        let heads = self.head.cmp(&other.head);
        heads.then_with(|| self.text().cmp(other.text()))
    }
}

impl<T: AsRef<str>> PartialOrd for Sorted<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: AsRef<str>> PartialEq for Sorted<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T: AsRef<str>> Eq for Sorted<T> {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_order_is_that_of_the_texts(a in "[a\\x00é]{0,11}", b in "[a\\x00é]{0,11}") {
            let (x, y) = (Sorted::new(a.clone()), Sorted::new(b.clone()));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x == y, a == b);
            let (x, y): (&dyn Place, &dyn Place) = (&Head::new(&a), &y);
            prop_assert_eq!(x.cmp(y), a.cmp(&b));
        }
    }

    #[test]
    fn a_map_finds_by_borrowed_texts() {
        let texts = ["debug", "debugger", "debugging", "performance"];
        let map: BTreeMap<_, _> = texts.iter().map(|t| (Sorted::new(*t), *t)).collect();
        for text in texts {
            let found = map.get(&Head::new(text) as &dyn Place);
            assert_eq!(found, Some(&text));
        }
        assert_eq!(map.get(&Head::new("debugs") as &dyn Place), None);
        assert_eq!(map.keys().map(Sorted::text).collect::<Vec<_>>(), texts);
    }
}
