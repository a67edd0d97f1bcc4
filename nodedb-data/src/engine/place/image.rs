//! The image of a place index (`docs/format/engines.md`): the places of the rows by extent, the
//! rows with NULL, the runs of the tree and its tail. All other sets follow from the places.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Poll;

use nodedb_types::geo::{Geometry, SRID_WGS84};
use nodedb_types::limits::EXTENT_SMALL;
use nodedb_types::{Result, Surrogate};

use super::Places;
use super::bounds::Bounds;
use super::run::{Builder, Entry, Run};
use super::store::{Place, Shapes, Store};
use super::tree::Tree;
use crate::engine::image::{Frozen, FrozenPart, PART_PIECE_BYTES, ThawPart, malformed};
use crate::engine::image_codec::{Reader, SetsPart, copy_units, poll_read_sets};
use crate::engine::surrogate_map::Extent;
use crate::pace::Turn;
use crate::set::RowSet;

const VERSION: u16 = 1;
const POINT: u8 = 1;
const SHAPE: u8 = 2;
const ENTRY_BYTES: usize = 20;
/// Entries of a run that are read or written for a unit.
const ENTRIES_PER_UNIT: usize = 4;
/// Units for a place that is read: measuring it and entering it into its sets.
const PLACE_UNITS: u32 = 2;
/// Bytes of a shape that is read and cost another.
const SHAPE_BYTES_PER_UNIT: usize = 128;

// Ids of parts end with what they stand for, since store and tree count on their own.
const OF_STORE: u64 = 0;
const OF_TREE: u64 = 1;

/// The reference systems of points.
#[derive(Clone)]
enum Systems {
    One(i32),
    Several(Rc<BTreeMap<i32, RowSet>>),
}

impl Systems {
    fn of(store: &Store, is_geodetic: bool) -> Systems {
        let systems = store.systems();
        match systems.first_key_value() {
            _ if is_geodetic => Systems::One(SRID_WGS84),
            Some((srid, _)) if systems.len() == 1 => Systems::One(*srid),
            _ => Systems::Several(Rc::new(systems.clone())),
        }
    }

    fn get(&self, row: u32) -> i32 {
        match self {
            Systems::One(srid) => *srid,
            Systems::Several(systems) => {
                let mut systems = systems.iter();
                let found = systems.find(|(_, rows)| rows.contains(row));
                found.map_or(0, |(srid, _)| *srid)
            }
        }
    }
}

/// The places of an extent.
struct ExtentPart {
    id: u64,
    number: u32,
    points: Option<Rc<Extent<[f64; 2]>>>,
    shapes: Option<Rc<Shapes>>,
    systems: Systems,
}

impl ExtentPart {
    /// Appends the place of the first row at or above `from`; gives the row.
    fn write(&self, from: u32, out: &mut Vec<u8>) -> Option<u32> {
        let first = self.number * EXTENT_SMALL;
        let points = self.points.as_ref();
        let point = points.and_then(|points| points.next((from - first) as usize));
        let point = point.map(|slot| first + slot as u32);
        let shapes = self.shapes.as_ref();
        let shape = shapes.and_then(|shapes| shapes.range(from..).next());
        let row = point.into_iter().chain(shape.map(|(row, _)| *row)).min()?;
        out.extend(((row - first) as u16).to_le_bytes());
        match shape {
            Some((at, ewkb)) if *at == row => {
                out.push(SHAPE);
                out.extend((ewkb.len() as u32).to_le_bytes());
                out.extend_from_slice(ewkb);
            }
            _ => {
                let point = points.and_then(|points| points.get((row - first) as usize));
                let [x, y] = point.unwrap_or_default();
                out.push(POINT);
                out.extend(self.systems.get(row).to_le_bytes());
                out.extend(x.to_le_bytes());
                out.extend(y.to_le_bytes());
            }
        }
        Some(row)
    }
}

impl FrozenPart for ExtentPart {
    fn id(&self) -> u64 {
        self.id
    }

    /// The cursor is 0 at first and then one more than the next slot.
    fn poll_write(
        &self,
        cursor: &mut u64,
        out: &mut Vec<u8>,
        turn: &Turn<'_>,
    ) -> Poll<Result<bool>> {
        let end = out.len() + PART_PIECE_BYTES;
        if *cursor == 0 {
            out.extend(self.number.to_le_bytes());
            *cursor = 1;
        }
        while out.len() < end {
            let before = out.len();
            let slot = (*cursor - 1) as u32;
            // Behind the last slot there is none, and in the last extent no number for it.
            let row = match slot < EXTENT_SMALL {
                true => self.write(self.number * EXTENT_SMALL + slot, out),
                false => None,
            };
            let Some(row) = row else {
                return Poll::Ready(Ok(false));
            };
            *cursor = u64::from(row % EXTENT_SMALL) + 2;
            if !turn.spend(copy_units(out.len() - before)) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(true))
    }
}

/// A run of the tree, or its tail.
struct EntriesPart {
    id: u64,
    entries: Entries,
}

enum Entries {
    Run(Rc<Run>),
    Tail(Vec<Entry>),
}

impl FrozenPart for EntriesPart {
    fn id(&self) -> u64 {
        self.id
    }

    /// The cursor counts entries.
    fn poll_write(
        &self,
        cursor: &mut u64,
        out: &mut Vec<u8>,
        turn: &Turn<'_>,
    ) -> Poll<Result<bool>> {
        let entries = match &self.entries {
            Entries::Run(run) => run.entries(),
            Entries::Tail(entries) => entries,
        };
        let end = out.len() + PART_PIECE_BYTES;
        let from = usize::try_from(*cursor).unwrap_or(usize::MAX);
        for piece in entries[from.min(entries.len())..].chunks(ENTRIES_PER_UNIT) {
            if out.len() >= end {
                return Poll::Ready(Ok(true));
            }
            for entry in piece {
                out.extend(entry.bounds.to_bytes());
                out.extend(entry.surrogate.to_le_bytes());
            }
            *cursor += piece.len() as u64;
            if !turn.spend(1) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(false))
    }
}

fn of_store(id: u64) -> u64 {
    id << 1 | OF_STORE
}

fn of_tree(id: u64) -> u64 {
    id << 1 | OF_TREE
}

fn extent_parts(store: &mut Store, is_geodetic: bool) -> Vec<Rc<dyn FrozenPart>> {
    let systems = Systems::of(store, is_geodetic);
    let mut extents: BTreeMap<u32, ExtentPart> = BTreeMap::new();
    let empty = |number: u32| ExtentPart {
        id: 0,
        number,
        points: None,
        shapes: None,
        systems: systems.clone(),
    };
    for (number, points) in store.points().extents() {
        let part = extents.entry(number).or_insert_with(|| empty(number));
        part.points = Some(points.clone());
    }
    for (number, shapes) in store.shapes() {
        let part = extents.entry(*number).or_insert_with(|| empty(*number));
        part.shapes = Some(shapes.clone());
    }
    let ids = &mut store.ids;
    let named = extents.into_values().map(|mut part| {
        let id = ids.known.entry(part.number).or_insert_with(|| {
            ids.next += 1;
            ids.next - 1
        });
        part.id = of_store(*id);
        Rc::new(part) as Rc<dyn FrozenPart>
    });
    named.collect()
}

impl Places {
    pub(super) fn frozen(&mut self) -> Frozen {
        let Places { store, tree, .. } = self;
        let ids = &mut store.ids;
        let nulls = *ids.nulls.get_or_insert_with(|| {
            ids.next += 1;
            ids.next - 1
        });
        let nulls = SetsPart::new(of_store(nulls), vec![store.nulls().clone()]);
        let mut parts: Vec<Rc<dyn FrozenPart>> = vec![Rc::new(nulls)];
        parts.extend(extent_parts(store, self.is_geodetic));
        let extents = parts.len() as u32 - 1;
        let (runs, tail_id, tail) = tree.freeze();
        for run in runs {
            parts.push(Rc::new(EntriesPart {
                id: of_tree(run.id()),
                entries: Entries::Run(run.clone()),
            }));
        }
        let runs = runs.len() as u32;
        parts.push(Rc::new(EntriesPart {
            id: of_tree(tail_id),
            entries: Entries::Tail(tail),
        }));
        let mut header = Vec::new();
        header.extend(VERSION.to_le_bytes());
        header.extend([u8::from(self.is_geodetic), 0]);
        header.extend(extents.to_le_bytes());
        header.extend(runs.to_le_bytes());
        header.extend(store.ids.next.to_le_bytes());
        header.extend(tree.next_id().to_le_bytes());
        Frozen::new(header, parts)
    }
}

/// An index on its way back.
pub(super) struct Thawing {
    extents: usize,
    runs: usize,
    next_of_store: u64,
    next_of_tree: u64,
    /// The number of the last extent that was begun.
    last_extent: Option<u32>,
    /// The next slot of the extent under way.
    next_slot: u16,
    /// The run under way.
    builder: Option<Builder>,
}

impl Thawing {
    pub(super) fn new(header: &[u8], parts: usize, index: &mut Places) -> Result<Thawing> {
        let mut reader = Reader::new(header, 0);
        if reader.u16()? != VERSION {
            return Err(malformed("a version that is not known"));
        }
        let (is_geodetic, _) = (reader.u8()?, reader.u8()?);
        let (extents, runs) = (reader.u32()? as usize, reader.u32()? as usize);
        let (next_of_store, next_of_tree) = (reader.u64()?, reader.u64()?);
        reader.end()?;
        if is_geodetic != u8::from(index.is_geodetic) {
            return Err(malformed("its places are of another kind"));
        }
        if extents + runs + 2 != parts {
            return Err(malformed("another number of parts"));
        }
        if next_of_store.max(next_of_tree) > u64::MAX >> 2 {
            return Err(malformed("no id is left"));
        }
        index.store.ids.next = next_of_store;
        index.tree.begin_at(next_of_tree);
        Ok(Thawing {
            extents,
            runs,
            next_of_store,
            next_of_tree,
            last_extent: None,
            next_slot: 0,
            builder: None,
        })
    }

    pub(super) fn poll_part(
        &mut self,
        part: &ThawPart<'_>,
        cursor: &mut u64,
        store: &mut Store,
        tree: &mut Tree,
        turn: &Turn<'_>,
    ) -> Poll<Result<()>> {
        let is_store = part.number <= self.extents;
        let (kind, next) = match is_store {
            true => (OF_STORE, self.next_of_store),
            false => (OF_TREE, self.next_of_tree),
        };
        let id = part.id >> 1;
        if part.id & 1 != kind || id >= next {
            return Poll::Ready(Err(malformed("a part's id that was not given")));
        }
        if part.number == 0 {
            let mut nulls = [store.take_nulls()];
            let polled = poll_read_sets(part.bytes, cursor, &mut nulls, turn);
            let [nulls] = nulls;
            store.restore_nulls(nulls, id);
            return polled;
        }
        if part.number == self.extents + self.runs + 1 {
            return Poll::Ready(restore_tail(part.bytes, id, tree));
        }
        loop {
            let step = match is_store {
                true => self.extent_step(part.bytes, id, cursor, store),
                false => self.run_step(part.bytes, id, cursor, tree),
            };
            match step {
                Err(failure) => return Poll::Ready(Err(failure)),
                Ok(None) => return Poll::Ready(Ok(())),
                Ok(Some(units)) if !turn.spend(units) => return Poll::Pending,
                Ok(Some(_)) => {}
            }
        }
    }

    /// Reads the next place of an extent and gives its units; none behind the last.
    fn extent_step(
        &mut self,
        bytes: &[u8],
        id: u64,
        cursor: &mut u64,
        store: &mut Store,
    ) -> Result<Option<u32>> {
        let mut reader = Reader::new(bytes, *cursor);
        if *cursor == 0 {
            let number = reader.u32()?;
            if self.last_extent >= Some(number) || number > u32::MAX / EXTENT_SMALL {
                return Err(malformed("extents are not in order"));
            }
            (self.last_extent, self.next_slot) = (Some(number), 0);
            *cursor = reader.cursor();
        }
        let number = self.last_extent.unwrap_or_default();
        if reader.is_at_end() {
            if self.next_slot == 0 {
                return Err(malformed("an extent without places"));
            }
            store.ids.known.insert(number, id);
            return Ok(None);
        }
        let before = reader.left();
        let slot = reader.u16()?;
        if slot < self.next_slot || u32::from(slot) >= EXTENT_SMALL {
            return Err(malformed("places are not in order"));
        }
        self.next_slot = slot + 1;
        let row = number * EXTENT_SMALL + u32::from(slot);
        let is_new = match read_place(&mut reader)? {
            place @ Place::Point { x, .. } => !x.is_nan() && store.restore(row, &place),
            place @ Place::Shape(_) => store.restore(row, &place),
        };
        if !is_new {
            return Err(malformed("a row has two places"));
        }
        *cursor = reader.cursor();
        let more = (before - reader.left()) / SHAPE_BYTES_PER_UNIT;
        Ok(Some(PLACE_UNITS + more as u32))
    }

    /// Reads the next entries of a run and gives their units; none behind the last.
    fn run_step(
        &mut self,
        bytes: &[u8],
        id: u64,
        cursor: &mut u64,
        tree: &mut Tree,
    ) -> Result<Option<u32>> {
        if *cursor == 0 {
            self.builder = Some(Builder::with_capacity(bytes.len() / ENTRY_BYTES));
        }
        let Some(builder) = &mut self.builder else {
            return Err(malformed("a run that was not begun"));
        };
        let mut reader = Reader::new(bytes, *cursor);
        if reader.is_at_end() {
            if builder.entries().is_empty() {
                return Err(malformed("a run without entries"));
            }
            let run = self.builder.take().map(|builder| builder.finish(id));
            run.into_iter().for_each(|run| tree.restore_run(run));
            return Ok(None);
        }
        let entry = read_entry(&mut reader)?;
        if let Some(last) = builder.entries().last()
            && !tree.follows(last, &entry)
        {
            return Err(malformed("entries are not in order"));
        }
        builder.push(entry);
        *cursor = reader.cursor();
        Ok(Some(1))
    }
}

fn read_place<'a>(reader: &mut Reader<'a>) -> Result<Place<'a>> {
    match reader.u8()? {
        POINT => Ok(Place::Point {
            srid: i32::from_le_bytes(reader.array()?),
            x: f64::from_le_bytes(reader.array()?),
            y: f64::from_le_bytes(reader.array()?),
        }),
        SHAPE => {
            let len = reader.u32()? as usize;
            let ewkb = reader.take(len)?;
            let is_whole = Geometry::from_ewkb(ewkb).is_ok();
            match Place::read(ewkb) {
                Ok(place @ Place::Shape(_)) if is_whole => Ok(place),
                _ => Err(malformed("a shape is none")),
            }
        }
        _ => Err(malformed("a place of no known kind")),
    }
}

fn read_entry(reader: &mut Reader<'_>) -> Result<Entry> {
    let bounds = Bounds::from_bytes(&reader.array()?);
    match Surrogate::new(reader.u32()?) {
        Some(surrogate) => Ok(Entry {
            bounds,
            surrogate: surrogate.get(),
        }),
        None => Err(malformed("an entry of no row")),
    }
}

/// The tail is small enough for one piece.
fn restore_tail(bytes: &[u8], id: u64, tree: &mut Tree) -> Result<()> {
    let (mut reader, mut tail) = (Reader::new(bytes, 0), Vec::new());
    while !reader.is_at_end() {
        tail.push(read_entry(&mut reader)?);
    }
    match tree.restore_tail(tail, id) {
        true => Ok(()),
        false => Err(malformed("the tail is too long")),
    }
}
