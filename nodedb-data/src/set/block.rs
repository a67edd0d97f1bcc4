//! The ids of one block of 65,536 surrogates: a sorted array while few, a bitmap above.
//!
//! These are the two containers of the roaring format (Lemire et al., "Roaring Bitmaps:
//! Implementation of an Optimized Software Library", 2018, section 2). They are our own because
//! evaluation goes container by container and the `roaring` crate does not hand out one of them.
//! The form follows from the cardinality alone, so equal sets have equal forms.
//!
//! Roaring changes to bitmaps where they take less room, above 4096 ids. Here they begin at a
//! fourth of that: two bitmaps meet in less than a microsecond however full they are, two arrays
//! of 2000 ids in several. Arrays are put together without branches on what is in them, which no
//! processor could foresee.

use nodedb_types::limits::BLOCK_IDS;
use nodedb_types::simd::words::count_ones;

/// Above this many ids a set is a bitmap.
const SPARSE_MAX: usize = 1024;
const WORDS: usize = BLOCK_IDS as usize / 64;

type Words = [u64; WORDS];

/// A set of ids within one block, each by its low 16 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct BlockSet(Form);

#[derive(Clone, PartialEq, Eq)]
enum Form {
    /// Ascending, at most [`SPARSE_MAX`].
    Sparse(Vec<u16>),
    /// More than [`SPARSE_MAX`] bits are set; `len` counts them.
    Dense { words: Box<Words>, len: u32 },
}

impl Default for BlockSet {
    fn default() -> BlockSet {
        BlockSet::new()
    }
}

fn zeroed() -> Box<Words> {
    vec![0u64; WORDS]
        .into_boxed_slice()
        .try_into()
        .expect("as long as it was made")
}

fn bit(low: u16) -> (usize, u64) {
    (usize::from(low) / 64, 1 << (low % 64))
}

impl BlockSet {
    pub const fn new() -> BlockSet {
        BlockSet(Form::Sparse(Vec::new()))
    }

    /// Every id from `low` to `high`, both included.
    pub fn range(low: u16, high: u16) -> BlockSet {
        if low > high {
            return BlockSet::new();
        }
        if usize::from(high - low) < SPARSE_MAX {
            return BlockSet(Form::Sparse((low..=high).collect()));
        }
        let mut words = zeroed();
        for low in low..=high {
            let (word, mask) = bit(low);
            words[word] |= mask;
        }
        BlockSet::from_words(words)
    }

    /// From ids in ascending order; repeats are allowed.
    pub fn from_sorted(ids: impl IntoIterator<Item = u16>) -> BlockSet {
        let mut list: Vec<u16> = ids.into_iter().collect();
        debug_assert!(list.is_sorted());
        list.dedup();
        BlockSet::from_ascending(list)
    }

    /// From ids each of which is larger than the one before.
    fn from_ascending(list: Vec<u16>) -> BlockSet {
        if list.len() <= SPARSE_MAX {
            return BlockSet(Form::Sparse(list));
        }
        let mut words = zeroed();
        for low in list {
            let (word, mask) = bit(low);
            words[word] |= mask;
        }
        BlockSet::from_words(words)
    }

    /// Brings words into the form that their cardinality asks for.
    fn from_words(words: Box<Words>) -> BlockSet {
        let len = count_ones(&words[..]);
        if len as usize > SPARSE_MAX {
            return BlockSet(Form::Dense { words, len });
        }
        let mut list = Vec::with_capacity(len as usize);
        list.extend(Bits::new(&words));
        BlockSet(Form::Sparse(list))
    }

    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Sparse(list) => list.len(),
            Form::Dense { len, .. } => *len as usize,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn contains(&self, low: u16) -> bool {
        match &self.0 {
            Form::Sparse(list) => list.binary_search(&low).is_ok(),
            Form::Dense { words, .. } => {
                let (word, mask) = bit(low);
                words[word] & mask != 0
            }
        }
    }

    /// True when the id was not there.
    pub fn insert(&mut self, low: u16) -> bool {
        match &mut self.0 {
            Form::Sparse(list) => {
                // Ids mostly come in ascending order.
                let at = match list.last() {
                    Some(&last) if last < low => list.len(),
                    None => 0,
                    Some(_) => match list.binary_search(&low) {
                        Ok(_) => return false,
                        Err(at) => at,
                    },
                };
                list.insert(at, low);
                if list.len() > SPARSE_MAX {
                    let mut words = zeroed();
                    for &low in list.iter() {
                        let (word, mask) = bit(low);
                        words[word] |= mask;
                    }
                    let len = list.len() as u32;
                    self.0 = Form::Dense { words, len };
                }
                true
            }
            Form::Dense { words, len } => {
                let (word, mask) = bit(low);
                let new = words[word] & mask == 0;
                words[word] |= mask;
                *len += u32::from(new);
                new
            }
        }
    }

    /// True when the id was there.
    pub fn remove(&mut self, low: u16) -> bool {
        match &mut self.0 {
            Form::Sparse(list) => match list.binary_search(&low) {
                Ok(at) => {
                    list.remove(at);
                    true
                }
                Err(_) => false,
            },
            Form::Dense { words, len } => {
                let (word, mask) = bit(low);
                if words[word] & mask == 0 {
                    return false;
                }
                words[word] &= !mask;
                *len -= 1;
                if *len as usize <= SPARSE_MAX {
                    let list = Bits::new(words).collect();
                    self.0 = Form::Sparse(list);
                }
                true
            }
        }
    }

    /// Ascending.
    pub fn iter(&self) -> Ids<'_> {
        match &self.0 {
            Form::Sparse(list) => Ids::Sparse(list.iter()),
            Form::Dense { words, .. } => Ids::Dense(Bits::new(words)),
        }
    }

    /// The ids at or above `low`, ascending.
    pub fn iter_from(&self, low: u16) -> Ids<'_> {
        match &self.0 {
            Form::Sparse(list) => {
                let at = list.partition_point(|&id| id < low);
                Ids::Sparse(list[at..].iter())
            }
            Form::Dense { words, .. } => {
                let mut bits = Bits::new(words);
                let (word, mask) = bit(low);
                bits.at = word;
                bits.word = words[word] & !(mask - 1);
                Ids::Dense(bits)
            }
        }
    }

    /// All ids, ascending.
    pub fn to_vec(&self) -> Vec<u16> {
        let mut ids = Vec::with_capacity(self.len());
        self.ids_from(0, self.len(), &mut ids);
        ids
    }

    /// Appends the first `most` ids at or above `low` to `to`.
    pub fn ids_from(&self, low: u16, most: usize, to: &mut Vec<u16>) {
        match &self.0 {
            Form::Sparse(list) => {
                let at = list.partition_point(|&id| id < low);
                to.extend(list[at..].iter().take(most));
            }
            Form::Dense { words, .. } => {
                let (first, mask) = bit(low);
                let mut before = mask - 1;
                let mut room = most;
                for (at, word) in words.iter().enumerate().skip(first) {
                    let mut left = *word & !before;
                    before = 0;
                    let count = room.min(left.count_ones() as usize);
                    // Told beforehand how many there are, it need not look for room for each.
                    to.extend((0..count).map(|_| {
                        let low = at as u32 * 64 + left.trailing_zeros();
                        left &= left.wrapping_sub(1);
                        low as u16
                    }));
                    room -= count;
                    if room == 0 {
                        break;
                    }
                }
            }
        }
    }

    /// The next 64 ids, from a multiple of 64, of which some at or above `low` are there: their
    /// number by 64, and a bit for each that is there, the lowest for the first.
    pub fn next_word(&self, low: u16) -> Option<(usize, u64)> {
        let (first, mask) = bit(low);
        match &self.0 {
            Form::Sparse(list) => {
                let rest = &list[list.partition_point(|&id| id < low)..];
                let at = usize::from(*rest.first()?) / 64;
                let same = rest.iter().take_while(|id| usize::from(**id) / 64 == at);
                Some((at, same.fold(0, |word, id| word | bit(*id).1)))
            }
            Form::Dense { words, .. } => {
                let here = words[first] & !(mask - 1);
                if here != 0 {
                    return Some((first, here));
                }
                let mut rest = words.iter().enumerate().skip(first + 1);
                rest.find(|(_, word)| **word != 0)
                    .map(|(at, word)| (at, *word))
            }
        }
    }

    /// Appends the first `most` ids at or above `low` to `to`, as surrogates of `block`.
    pub fn surrogates_from(&self, block: u16, low: u16, most: usize, to: &mut Vec<u32>) {
        let whole = |low: u16| u32::from(block) << 16 | u32::from(low);
        // Told apart here, not for each id.
        match self.iter_from(low) {
            Ids::Sparse(ids) => to.extend(ids.take(most).map(|low| whole(*low))),
            Ids::Dense(ids) => to.extend(ids.take(most).map(whole)),
        }
    }

    /// The ids as surrogates of `block`, ascending.
    pub fn surrogates(&self, block: u16) -> impl Iterator<Item = u32> + '_ {
        let base = u32::from(block) << 16;
        self.iter().map(move |low| base | u32::from(low))
    }

    /// Keeps what is in both.
    pub fn intersect(&mut self, other: &BlockSet) {
        match (&mut self.0, &other.0) {
            (Form::Sparse(mine), Form::Sparse(theirs)) if is_comparable(mine, theirs) => {
                keep(mine, theirs, true);
            }
            (Form::Sparse(list), _) => list.retain(|&low| other.contains(low)),
            (Form::Dense { .. }, Form::Sparse(list)) => {
                let kept = list
                    .iter()
                    .copied()
                    .filter(|&low| self.contains(low))
                    .collect();
                self.0 = Form::Sparse(kept);
            }
            (Form::Dense { words, .. }, Form::Dense { words: theirs, .. }) => {
                for (mine, theirs) in words.iter_mut().zip(theirs.iter()) {
                    *mine &= theirs;
                }
                self.normalise();
            }
        }
    }

    /// Adds what is in the other.
    pub fn union(&mut self, other: &BlockSet) {
        if other.is_empty() {
            return;
        }
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        match (&mut self.0, &other.0) {
            (Form::Dense { words, .. }, Form::Dense { words: theirs, .. }) => {
                for (mine, theirs) in words.iter_mut().zip(theirs.iter()) {
                    *mine |= theirs;
                }
                self.normalise();
            }
            (Form::Dense { .. }, Form::Sparse(list)) => {
                for &low in list {
                    self.insert(low);
                }
            }
            (Form::Sparse(list), Form::Dense { .. }) => {
                let mut merged = other.clone();
                for &low in list.iter() {
                    merged.insert(low);
                }
                *self = merged;
            }
            (Form::Sparse(mine), Form::Sparse(theirs)) => {
                *self = BlockSet::from_ascending(merge(mine, theirs));
            }
        }
    }

    /// Takes out what is in the other.
    pub fn subtract(&mut self, other: &BlockSet) {
        if other.is_empty() {
            return;
        }
        match (&mut self.0, &other.0) {
            (Form::Sparse(mine), Form::Sparse(theirs)) if is_comparable(mine, theirs) => {
                keep(mine, theirs, false);
            }
            (Form::Sparse(list), _) => list.retain(|&low| !other.contains(low)),
            (Form::Dense { words, .. }, Form::Sparse(list)) => {
                for &low in list {
                    let (word, mask) = bit(low);
                    words[word] &= !mask;
                }
                self.normalise();
            }
            (Form::Dense { words, .. }, Form::Dense { words: theirs, .. }) => {
                for (mine, theirs) in words.iter_mut().zip(theirs.iter()) {
                    *mine &= !theirs;
                }
                self.normalise();
            }
        }
    }

    /// Recounts a dense form after its words have changed.
    fn normalise(&mut self) {
        if let Form::Dense { words, .. } = std::mem::take(self).0 {
            *self = BlockSet::from_words(words);
        }
    }

    /// Bytes held on the heap.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Form::Sparse(list) => list.capacity() * 2,
            Form::Dense { .. } => WORDS * 8,
        }
    }
}

impl FromIterator<u16> for BlockSet {
    /// In any order.
    fn from_iter<I: IntoIterator<Item = u16>>(ids: I) -> BlockSet {
        let mut list: Vec<u16> = ids.into_iter().collect();
        list.sort_unstable();
        BlockSet::from_sorted(list)
    }
}

impl std::fmt::Debug for BlockSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Whether walking along both lists is cheaper than searching one for each id of the other.
fn is_comparable(mine: &[u16], theirs: &[u16]) -> bool {
    theirs.len() / 8 < mine.len()
}

/// Keeps of an ascending list what is in another (`shared`), or what is not.
fn keep(mine: &mut Vec<u16>, theirs: &[u16], shared: bool) {
    let (mut from, mut to, mut at) = (0, 0, 0);
    while from < mine.len() && at < theirs.len() {
        let (a, b) = (mine[from], theirs[at]);
        mine[to] = a;
        // One of mine is decided when theirs has reached it.
        let decided = a <= b;
        to += usize::from(decided && (a == b) == shared);
        from += usize::from(decided);
        at += usize::from(b <= a);
    }
    if !shared {
        mine.copy_within(from.., to);
        to += mine.len() - from;
    }
    mine.truncate(to);
}

/// Two ascending lists as one, without repeats.
fn merge(mine: &[u16], theirs: &[u16]) -> Vec<u16> {
    let mut merged = vec![0; mine.len() + theirs.len()];
    let (mut from, mut at, mut to) = (0, 0, 0);
    while from < mine.len() && at < theirs.len() {
        let (a, b) = (mine[from], theirs[at]);
        merged[to] = a.min(b);
        to += 1;
        from += usize::from(a <= b);
        at += usize::from(b <= a);
    }
    merged.truncate(to);
    merged.extend_from_slice(&mine[from..]);
    merged.extend_from_slice(&theirs[at..]);
    merged
}

/// What ids of a block can be added to.
pub trait Gather {
    fn add(&mut self, low: u16);
    fn add_all(&mut self, ids: &BlockSet);
}

impl Gather for BlockSet {
    fn add(&mut self, low: u16) {
        self.insert(low);
    }

    fn add_all(&mut self, ids: &BlockSet) {
        self.union(ids);
    }
}

impl Gather for BlockBuilder {
    fn add(&mut self, low: u16) {
        self.insert(low);
    }

    fn add_all(&mut self, ids: &BlockSet) {
        self.union(ids);
    }
}

/// A set under way: always words, so that adding costs the same however many there are.
pub struct BlockBuilder(Box<Words>);

impl Default for BlockBuilder {
    fn default() -> BlockBuilder {
        BlockBuilder(zeroed())
    }
}

impl BlockBuilder {
    pub fn insert(&mut self, low: u16) {
        let (word, mask) = bit(low);
        self.0[word] |= mask;
    }

    /// Adds the ids of bits, the lowest of which is 64 times `at`.
    pub fn insert_word(&mut self, at: usize, bits: u64) {
        self.0[at] |= bits;
    }

    pub fn union(&mut self, ids: &BlockSet) {
        match &ids.0 {
            Form::Sparse(list) => list.iter().for_each(|low| self.insert(*low)),
            Form::Dense { words, .. } => {
                for (mine, theirs) in self.0.iter_mut().zip(words.iter()) {
                    *mine |= theirs;
                }
            }
        }
    }

    pub fn finish(self) -> BlockSet {
        BlockSet::from_words(self.0)
    }
}

/// The set bits of words, ascending.
#[derive(Clone)]
pub struct Bits<'a> {
    words: &'a Words,
    at: usize,
    word: u64,
}

impl<'a> Bits<'a> {
    fn new(words: &'a Words) -> Bits<'a> {
        Bits {
            words,
            at: 0,
            word: words[0],
        }
    }
}

impl Iterator for Bits<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        while self.word == 0 {
            self.at += 1;
            self.word = *self.words.get(self.at)?;
        }
        let low = self.at as u32 * 64 + self.word.trailing_zeros();
        self.word &= self.word - 1;
        Some(low as u16)
    }
}

/// Iterator over a [`BlockSet`].
#[derive(Clone)]
pub enum Ids<'a> {
    Sparse(std::slice::Iter<'a, u16>),
    Dense(Bits<'a>),
}

impl Iterator for Ids<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        match self {
            Ids::Sparse(list) => list.next().copied(),
            Ids::Dense(bits) => bits.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Ids in runs, so that both forms and their borders are met.
    fn ids() -> impl Strategy<Value = BTreeSet<u16>> {
        prop::collection::vec((any::<u16>(), 0u16..3000), 0..5).prop_map(|runs| {
            runs.into_iter()
                .flat_map(|(low, len)| low..=low.saturating_add(len))
                .collect()
        })
    }

    fn block(ids: &BTreeSet<u16>) -> BlockSet {
        BlockSet::from_sorted(ids.iter().copied())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn algebra_equals_the_model(a in ids(), b in ids(), at in any::<u16>()) {
            let (mine, theirs) = (block(&a), block(&b));
            prop_assert!(mine.iter().eq(a.iter().copied()));
            prop_assert!(mine.to_vec().iter().eq(a.iter()));
            let mut some = Vec::new();
            mine.ids_from(at, b.len(), &mut some);
            prop_assert!(some.iter().eq(a.range(at..).take(b.len())));
            prop_assert!(mine.iter_from(at).eq(a.range(at..).copied()));
            let (mut words, mut next) = (BlockBuilder::default(), Some(at));
            while let Some((word, bits)) = next.and_then(|low| mine.next_word(low)) {
                prop_assert!(bits != 0);
                words.insert_word(word, bits);
                next = ((word + 1) * 64).try_into().ok();
            }
            prop_assert!(words.finish().iter().eq(a.range(at..).copied()));
            prop_assert_eq!(mine.len(), a.len());
            let mut set = mine.clone();
            set.intersect(&theirs);
            prop_assert_eq!(&set, &block(&a.intersection(&b).copied().collect()));
            let mut set = mine.clone();
            set.union(&theirs);
            prop_assert_eq!(&set, &block(&a.union(&b).copied().collect()));
            let mut set = mine.clone();
            set.subtract(&theirs);
            prop_assert_eq!(&set, &block(&a.difference(&b).copied().collect()));
        }

        #[test]
        fn single_ids_equal_the_model(a in ids(), steps in prop::collection::vec((any::<bool>(), any::<u16>()), 0..200)) {
            let (mut set, mut model) = (block(&a), a);
            for (add, low) in steps {
                if add {
                    prop_assert_eq!(set.insert(low), model.insert(low));
                } else {
                    prop_assert_eq!(set.remove(low), model.remove(&low));
                }
                prop_assert_eq!(set.contains(low), add);
            }
            prop_assert_eq!(set, block(&model));
        }
    }

    #[test]
    fn the_form_follows_the_cardinality() {
        let mut set = BlockSet::range(0, (SPARSE_MAX - 1) as u16);
        assert!(matches!(set.0, Form::Sparse(_)));
        assert!(set.insert(u16::MAX));
        assert!(matches!(set.0, Form::Dense { .. }));
        assert!(set.remove(0));
        assert_eq!(set.len(), SPARSE_MAX);
        assert!(matches!(set.0, Form::Sparse(_)));
        assert_eq!(BlockSet::range(0, u16::MAX).len(), 65_536);
        assert_eq!(BlockSet::range(0, u16::MAX).iter().last(), Some(u16::MAX));
    }
}
