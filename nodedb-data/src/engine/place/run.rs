//! A packed R-tree: entries in the order of a Hilbert curve, with the bounds of every 16 of them,
//! of every 16 of those, and so on (Kamel and Faloutsos, "On Packing R-trees", 1993).
//!
//! Since the entries are in order, merging runs is merging lists, and since every node but the
//! last of a level is full, a node's entries follow from its position. So a search needs no
//! stack: at an entry where nodes begin it looks at the largest of them first and jumps over the
//! first that is not met.

use super::bounds::Bounds;

const FANOUT_BITS: usize = 4;
const FANOUT: usize = 1 << FANOUT_BITS;
/// Nodes of one level that an estimate looks at.
const ESTIMATE_NODES: usize = 256;

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) bounds: Bounds,
    pub(super) surrogate: u32,
}

/// Never changed once it is made.
pub(super) struct Run {
    /// Its name in images.
    id: u64,
    entries: Vec<Entry>,
    /// The lowest first; the highest has one node.
    levels: Vec<Vec<Bounds>>,
}

impl Run {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// From the leaf that begins at entry `at`: its entries if its bounds and those of all nodes
    /// that begin there are met, and the entry to go on with.
    pub(super) fn step(&self, at: usize, meets: impl Fn(&Bounds) -> bool) -> (&[Entry], usize) {
        let len = self.entries.len();
        for (level, nodes) in self.levels.iter().enumerate().rev() {
            let bits = (level + 1) * FANOUT_BITS;
            if at & ((1 << bits) - 1) == 0 && !meets(&nodes[at >> bits]) {
                return (&[], (at + (1 << bits)).min(len));
            }
        }
        let end = (at + FANOUT).min(len);
        (&self.entries[at..end], end)
    }

    /// Entries that meet the boxes, were they spread evenly in the nodes of a middle level.
    pub(super) fn estimate(&self, boxes: &[[f64; 4]]) -> f64 {
        let nodes_of = |(level, nodes): (usize, &Vec<Bounds>)| {
            let per_node = (self.entries.len() as f64 / nodes.len() as f64)
                .min((1u64 << ((level + 1) * FANOUT_BITS)) as f64);
            let share = |bounds: &Bounds| boxes.iter().map(|b| bounds.share(b)).sum::<f64>();
            nodes.iter().map(|bounds| share(bounds) * per_node).sum()
        };
        let levels = self.levels.iter().enumerate();
        let mut fine = levels.skip_while(|(_, nodes)| nodes.len() > ESTIMATE_NODES);
        fine.next().map_or(0.0, nodes_of)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let nodes: usize = self.levels.iter().map(Vec::capacity).sum();
        self.entries.capacity() * size_of::<Entry>() + nodes * size_of::<Bounds>()
    }
}

/// Makes a run from entries in its order.
pub(super) struct Builder(Run);

impl Builder {
    /// Room for at most so many; what is not used is given back.
    pub(super) fn with_capacity(entries: usize) -> Builder {
        let leaves = Vec::with_capacity(entries.div_ceil(FANOUT));
        Builder(Run {
            id: 0,
            entries: Vec::with_capacity(entries),
            levels: vec![leaves],
        })
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let Run {
            entries, levels, ..
        } = &mut self.0;
        let at = entries.len();
        entries.push(entry);
        for (level, nodes) in levels.iter_mut().enumerate() {
            match nodes.get_mut(at >> ((level + 1) * FANOUT_BITS)) {
                Some(node) => node.extend(&entry.bounds),
                None => nodes.push(entry.bounds),
            }
        }
        if let Some([first, second]) = levels.last().map(Vec::as_slice) {
            let mut root = *first;
            root.extend(second);
            levels.push(vec![root]);
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        self.0.entries()
    }

    pub(super) fn finish(mut self, id: u64) -> Run {
        self.0.id = id;
        self.0.entries.shrink_to_fit();
        self.0.levels.iter_mut().for_each(Vec::shrink_to_fit);
        self.0
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }
}
