//! The full-text index against a scan of its rows: random documents, queries and budgets, writes
//! and upkeep between the turns of a reader, tails and runs of a few documents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;

use nodedb_bridge::op::text::{Op, Query, Rank, parse};
use nodedb_types::schema::{Engine as Storage, IndexState};
use nodedb_types::{CollectionId, Column, IndexId, SchemaVersion, Value, row};
use proptest::prelude::*;

use super::*;
use crate::engine::mix;

const TYPES: [DataType; 3] = [DataType::Int4, DataType::Text(None), DataType::Text(None)];

pub(super) type Text = [Option<String>; 2];
pub(super) type Model = BTreeMap<u32, Text>;

fn collection() -> Collection {
    let column = |(name, data_type): (&str, DataType)| Column {
        name: name.to_owned(),
        data_type,
        not_null: false,
    };
    Collection {
        id: CollectionId::FIRST_USER,
        name: "c".to_owned(),
        engine: Storage::DocumentStrict,
        version: SchemaVersion(1),
        columns: ["n", "title", "body"]
            .into_iter()
            .zip(TYPES)
            .map(column)
            .collect(),
        key: None,
    }
}

fn definition(analyzer: &str) -> Index {
    Index {
        id: IndexId(1),
        name: "c_text".to_owned(),
        collection: CollectionId::FIRST_USER,
        method: "fulltext".to_owned(),
        columns: vec![1, 2],
        operator_class: None,
        options: vec![("analyzer".to_owned(), analyzer.to_owned())],
        state: IndexState::Public,
    }
}

pub(super) fn analyzer(name: &str) -> Analyzer {
    Analyzer::of(&definition(name)).unwrap()
}

pub(super) fn open(english: bool, limits: Limits) -> FullText {
    let name = if english { "english" } else { "simple" };
    FullText::with_limits(&definition(name), &collection(), limits).unwrap()
}

fn encode(text: &Text) -> Vec<u8> {
    let text = text.clone().map(|t| t.map_or(Value::Null, Value::Text));
    let [title, body] = text;
    row::encode(&[Value::Int4(7), title, body], &TYPES).unwrap()
}

pub(super) fn write(index: &mut FullText, model: &mut Model, id: u32, new: Option<Text>) {
    let before = model.get(&id).map(encode);
    let after = new.as_ref().map(encode);
    let before = before.as_ref().map(|row| RowView::new(row).unwrap());
    let after = after.as_ref().map(|row| RowView::new(row).unwrap());
    let surrogate = Surrogate::new(id).unwrap();
    index
        .apply(surrogate, before.as_ref(), after.as_ref())
        .unwrap();
    match new {
        Some(text) => model.insert(id, text),
        None => model.remove(&id),
    };
}

/// Polls with at most `units` a turn until it is done, with `between` after each turn.
pub(super) fn finish<T>(
    index: &mut FullText,
    units: u32,
    mut step: impl FnMut(&FullText, &Turn<'_>) -> Poll<Result<T>>,
    mut between: impl FnMut(&mut FullText),
) -> T {
    loop {
        let budget = Budget::new(units);
        let turn = Turn {
            budget: &budget,
            waker: Waker::noop(),
        };
        if let Poll::Ready(done) = step(index, &turn) {
            return done.unwrap();
        }
        assert!(budget.is_spent(), "it stopped with units left");
        between(index);
    }
}

/// Upkeep to its end.
pub(super) fn settle(index: &mut FullText, units: u32) {
    while index.work(&Budget::new(units)).unwrap() {}
}

// The oracle.

/// Position and token of a document's tokens.
fn analysed(text: &Text) -> Option<Vec<(u32, String)>> {
    if text.iter().all(Option::is_none) {
        return None;
    }
    let (mut found, mut base) = (Vec::new(), 0);
    for column in text {
        let column = column.as_deref().unwrap_or("");
        let runs = column.split(|c: char| !c.is_alphanumeric());
        let runs = (0..).zip(runs.filter(|run| !run.is_empty()));
        let mut last = 0;
        for (at, run) in runs.filter(|(_, run)| run.len() <= 40) {
            found.push((base + at, run.to_lowercase()));
            last = at;
        }
        base += last + 1000;
    }
    Some(found)
}

pub(super) struct Oracle {
    pub(super) analyzer: Analyzer,
}

impl Oracle {
    fn stem(&self, token: &str) -> String {
        self.analyzer.stem(token).into_owned()
    }

    fn words(&self, text: &str) -> Vec<(u32, String)> {
        let tokens = analysed(&[Some(text.to_owned()), None]).unwrap();
        let tokens = tokens.into_iter();
        tokens.map(|(at, token)| (at, self.stem(&token))).collect()
    }

    pub(super) fn holds(&self, query: &Query, text: &Text) -> Option<bool> {
        Some(self.matches(query, &analysed(text)?))
    }

    fn matches(&self, query: &Query, tokens: &[(u32, String)]) -> bool {
        match query {
            Query::And(list) => list.iter().all(|q| self.matches(q, tokens)),
            Query::Or(list) => list.iter().any(|q| self.matches(q, tokens)),
            Query::Not(inner) => !self.matches(inner, tokens),
            Query::Prefix(prefix) => {
                let prefix = prefix.to_lowercase();
                tokens.iter().any(|(_, token)| token.starts_with(&prefix))
            }
            Query::Word(text) | Query::Phrase(text) => {
                let words = self.words(text);
                let stems: BTreeSet<_> = tokens.iter().map(|(at, t)| (*at, self.stem(t))).collect();
                let begins = |start: u32| {
                    let at = |offset| start + offset - words[0].0;
                    words
                        .iter()
                        .all(|(offset, stem)| stems.contains(&(at(*offset), stem.clone())))
                };
                !words.is_empty() && tokens.iter().any(|(start, _)| begins(*start))
            }
        }
    }

    /// Frequencies of the scored terms in a document, repeats one by one.
    fn frequencies(&self, query: &Query, tokens: &[(u32, String)]) -> Vec<u32> {
        let count = |wanted: &dyn Fn(&str) -> bool| {
            tokens.iter().filter(|(_, token)| wanted(token)).count() as u32
        };
        match query {
            Query::Not(_) => Vec::new(),
            Query::And(list) | Query::Or(list) => {
                let list = list.iter();
                list.flat_map(|q| self.frequencies(q, tokens)).collect()
            }
            Query::Prefix(prefix) => {
                let prefix = prefix.to_lowercase();
                vec![count(&|token| token.starts_with(&prefix))]
            }
            Query::Word(text) | Query::Phrase(text) => {
                let words = self.words(text).into_iter();
                words
                    .map(|(_, stem)| count(&|token| self.stem(token) == stem))
                    .collect()
            }
        }
    }

    fn scores(&self, query: &Query, model: &Model) -> BTreeMap<u32, f64> {
        let documents: BTreeMap<u32, _> = model
            .iter()
            .filter_map(|(id, text)| Some((*id, analysed(text)?)))
            .collect();
        let frequencies: BTreeMap<u32, Vec<u32>> = documents
            .iter()
            .map(|(id, tokens)| (*id, self.frequencies(query, tokens)))
            .collect();
        let count = documents.len() as f64;
        let mean = documents.values().map(Vec::len).sum::<usize>() as f64 / count;
        let score = |id: &u32| {
            let length = documents[id].len() as f64;
            let terms = frequencies[id].iter().enumerate();
            let terms = terms.filter(|(_, tf)| **tf > 0).map(|(term, tf)| {
                let holders = frequencies.values().filter(|of| of[term] > 0);
                let df = holders.count() as f64;
                let idf = (1.0 + (count - df + 0.5) / (df + 0.5)).ln();
                let tf = f64::from(*tf);
                idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / mean))
            });
            terms.fold(0.0, |sum, score| sum + score)
        };
        documents.keys().map(|id| (*id, score(id))).collect()
    }
}

// What random runs are made of.

const WORDS: [&str; 16] = [
    "run",
    "running",
    "Runs",
    "debug",
    "debugging",
    "debugger",
    "memory",
    "memories",
    "a",
    "the",
    "École",
    "x86",
    "xray",
    "ΣΑΣ",
    "a-b",
    "loooooooooooooooooooooooooooooooooooooooong",
];

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(WORDS.to_vec()).prop_map(str::to_owned)
}

fn words(max: usize) -> impl Strategy<Value = String> {
    let between = prop::sample::select(vec![" ", ", ", "_", " ... "]);
    prop::collection::vec((word(), between), 0..max).prop_map(|list| {
        let parts = list
            .iter()
            .map(|(word, between)| format!("{word}{between}"));
        parts.collect()
    })
}

fn texts() -> impl Strategy<Value = Text> {
    let column = |max| prop::option::weighted(0.8, words(max));
    (column(4), column(14)).prop_map(|(title, body)| [title, body])
}

pub(super) fn queries() -> impl Strategy<Value = Query> {
    let prefix = prop::sample::select(vec!["r", "Deb", "debugg", "mem", "x", "é", "zz", "a-"]);
    let leaf = prop_oneof![
        4 => word().prop_map(Query::Word),
        2 => prefix.prop_map(|p| Query::Prefix(p.to_owned())),
        3 => words(4).prop_map(Query::Phrase),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let list = || prop::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            list().prop_map(|list| match list.is_empty() {
                true => Query::Or(Vec::new()),
                false => Query::And(list),
            }),
            list().prop_map(Query::Or),
            inner.clone().prop_map(|query| Query::Not(Box::new(query))),
        ]
    })
}

fn ids() -> impl Strategy<Value = u32> {
    (0u32..3, 1u32..12).prop_map(|(block, low)| block << 16 | low)
}

pub(super) fn writes(max: usize) -> impl Strategy<Value = Vec<(u32, Option<Text>)>> {
    let write = (ids(), prop::option::weighted(0.8, texts()));
    prop::collection::vec(write, 0..max)
}

pub(super) fn limits() -> impl Strategy<Value = Limits> {
    let units = prop_oneof![1u32..40, Just(10_000)];
    (1usize..8, 2usize..4, units).prop_map(|(tail_documents, fan_in, apply_units)| Limits {
        tail_documents,
        tail_bytes: 1 << 20,
        fan_in,
        apply_units,
    })
}

/// Writes all rows, with upkeep now and then.
pub(super) fn filled(
    index: &mut FullText,
    writes: Vec<(u32, Option<Text>)>,
    work: &[u32],
) -> Model {
    let mut model = Model::new();
    for (at, (id, new)) in writes.into_iter().enumerate() {
        write(index, &mut model, id, new);
        if let Some(units) = work.get(at % (work.len() + 1)) {
            index.work(&Budget::new(*units)).unwrap();
        }
    }
    model
}

fn rank(query: &Query, statistics: Option<TextStatistics>) -> EngineRank {
    EngineRank::Text(Rank {
        query: Arc::new(query.clone()),
        statistics: statistics.map(Arc::new),
    })
}

pub(super) fn of_rows(index: &FullText, model: &Model) -> Hashes {
    let mut hashes = Hashes::new();
    for (id, text) in model {
        let stored = encode(text);
        let view = RowView::new(&stored).unwrap();
        let hash = index.row_hash(Surrogate::new(*id).unwrap(), &view).unwrap();
        mix(&mut hashes, *id, hash);
    }
    hashes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn sources_equal_a_scan(
        english in any::<bool>(),
        limits in limits(),
        load in writes(50),
        work in prop::collection::vec(1u32..200, 0..4),
        churn in writes(12),
        queries in prop::collection::vec(queries(), 1..5),
        wanted in prop::option::of(prop::collection::btree_set(0u16..14, 0..10)),
        units in prop_oneof![Just(1u32), 1u32..60, Just(10_000)],
    ) {
        let mut index = open(english, limits);
        let oracle = Oracle { analyzer: analyzer(if english { "english" } else { "simple" }) };
        let mut model = filled(&mut index, load, &work);
        let mut churn = churn.into_iter();
        for query in &queries {
            let op = EngineOp::Text(Op { query: Arc::new(query.clone()) });
            let mut source = index.source(&op).unwrap();
            // Rows that change from here on are corrected by the caller.
            let mut steady = model.clone();
            let mut between = |index: &mut FullText, steady: &mut Model, model: &mut Model| {
                index.work(&Budget::new(units)).unwrap();
                if let Some((id, new)) = churn.next() {
                    steady.remove(&id);
                    write(index, model, id, new);
                }
            };
            let truth = |id: &u32, rows: &Model| oracle.holds(query, &rows[id]);
            for block in 0..3u16 {
                let next = finish(
                    &mut index,
                    units,
                    |index, turn| index.poll_next_block(&mut source, block, turn),
                    |index| between(index, &mut steady, &mut model),
                );
                let mut rows = steady.keys().filter(|id| (**id >> 16) as u16 >= block);
                let first = rows.find(|id| truth(id, &steady) == Some(true));
                if let Some(first) = first {
                    prop_assert!(next.is_some_and(|next| next <= (first >> 16) as u16));
                }
                let wanted: Option<BlockSet> = wanted.as_ref().map(|w| w.iter().copied().collect());
                let got = finish(
                    &mut index,
                    units,
                    |index, turn| index.poll_block(&mut source, block, wanted.as_ref(), turn),
                    |index| between(index, &mut steady, &mut model),
                );
                let asked = |low: u16| wanted.as_ref().is_none_or(|w| w.contains(low));
                for id in steady.keys().filter(|id| (**id >> 16) as u16 == block) {
                    let low = *id as u16;
                    if asked(low) {
                        let expected = truth(id, &steady);
                        prop_assert_eq!(got.yes.contains(low), expected == Some(true), "{:x}", id);
                        prop_assert_eq!(got.unknown.contains(low), expected.is_none());
                    }
                }
                for low in got.yes.iter().chain(got.unknown.iter()) {
                    let id = u32::from(block) << 16 | u32::from(low);
                    prop_assert!(!asked(low) || model.contains_key(&id) || !steady.contains_key(&id));
                }
            }
            for (id, text) in &model {
                let stored = encode(text);
                let view = RowView::new(&stored).unwrap();
                prop_assert_eq!(index.matches(&source, &view).unwrap(), truth(id, &model));
            }
        }
    }

    #[test]
    fn rankings_equal_a_scan(
        limits in limits(),
        load in writes(50),
        work in prop::collection::vec(1u32..200, 0..4),
        query in queries(),
        elsewhere in writes(10),
        allowed in prop::collection::btree_set(ids(), 0..40),
        many in any::<bool>(),
        k in 0usize..12,
        units in prop_oneof![Just(1u32), 1u32..60, Just(10_000)],
    ) {
        let mut index = open(true, limits);
        let oracle = Oracle { analyzer: analyzer("english") };
        let model = filled(&mut index, load, &work);
        // Another shard, with rows of its own.
        let mut other = open(true, limits);
        let elsewhere = filled(&mut other, elsewhere, &[]);
        let all: Model = elsewhere
            .iter()
            .map(|(id, text)| (id | 1 << 31, text.clone()))
            .chain(model.clone())
            .collect();
        let scores = oracle.scores(&query, &all);
        let mut statistics = TextStatistics::default();
        for index in [&mut index, &mut other] {
            let mut ranking = index.ranking(&rank(&query, None)).unwrap();
            let part = finish(
                index,
                units,
                |index, turn| index.poll_statistics(&mut ranking, turn),
                |index| { index.work(&Budget::new(units)).unwrap(); },
            );
            statistics.merge(&part);
        }
        let mut ranking = index.ranking(&rank(&query, Some(statistics))).unwrap();
        for (id, text) in &model {
            let stored = encode(text);
            let score = index.score(&ranking, &RowView::new(&stored).unwrap()).unwrap();
            match (score, scores.get(id)) {
                (Some(score), Some(expected)) => prop_assert!((score - expected).abs() < 1e-9),
                (score, expected) => prop_assert_eq!(score, expected.copied()),
            }
        }
        // Many rows of a block take another way than few.
        let fill = if many { 100u32..200 } else { 0..0 };
        let allowed: RowSet = allowed.into_iter().filter(|id| model.contains_key(id)).chain(fill).collect();
        let ranked = finish(
            &mut index,
            units,
            |index, turn| index.poll_rank(&mut ranking, &allowed, k, turn),
            |index| { index.work(&Budget::new(units)).unwrap(); },
        );
        let mut expected: Vec<(f64, u32)> = allowed
            .iter()
            .filter_map(|id| Some((*scores.get(&id)?, id)))
            .collect();
        expected.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        prop_assert!(ranked.rows.is_sorted_by(|a, b| a.0 >= b.0));
        for (score, id) in &ranked.rows {
            prop_assert!((scores[id] - score).abs() < 1e-9);
            let stored = encode(&model[id]);
            let alone = index.score(&ranking, &RowView::new(&stored).unwrap()).unwrap();
            prop_assert_eq!(alone, Some(*score));
        }
        let worst = k.min(expected.len()).checked_sub(1).map(|at| expected[at].0);
        let kept = expected.iter().filter(|(score, _)| worst.is_some_and(|w| *score > w + 1e-9));
        let got: BTreeSet<u32> = ranked.rows.iter().map(|(_, id)| *id).collect();
        for (_, id) in kept {
            prop_assert!(got.contains(id));
        }
        prop_assert!(ranked.rows.len() >= k.min(expected.len()));
        prop_assert!(ranked.rows.iter().all(|(s, _)| worst.is_some_and(|w| *s > w - 1e-9)));
        prop_assert_eq!(got.len(), ranked.rows.len());
    }

    #[test]
    fn hashes_tell_a_wrong_entry(
        limits in limits(),
        load in writes(50),
        work in prop::collection::vec(1u32..200, 0..4),
        units in prop_oneof![Just(1u32), 1u32..60, Just(10_000)],
    ) {
        let mut index = open(true, limits);
        let model = filled(&mut index, load, &work);
        let of_entries = |index: &mut FullText| {
            let (mut survey, mut hashes) = (TextSurvey::default(), Hashes::new());
            finish(
                index,
                units,
                |index, turn| index.poll_hashes(&mut survey, &mut hashes, turn),
                |index| { index.work(&Budget::new(units)).unwrap(); },
            );
            hashes
        };
        prop_assert_eq!(of_rows(&index, &model), of_entries(&mut index));
        settle(&mut index, units);
        prop_assert_eq!(of_rows(&index, &model), of_entries(&mut index));
        if let Some(id) = model.keys().next() {
            // The index has been told of another text than the row has.
            let mut told = model.clone();
            write(&mut index, &mut told, *id, Some([Some("other words".to_owned()), None]));
            prop_assert_ne!(of_rows(&index, &model), of_entries(&mut index));
        }
    }

    #[test]
    fn nothing_is_left_of_rows_that_went(
        limits in limits(),
        load in writes(40),
        work in prop::collection::vec(1u32..200, 0..4),
    ) {
        let mut index = open(true, limits);
        let mut model = filled(&mut index, load, &work);
        for id in model.clone().into_keys() {
            write(&mut index, &mut model, id, None);
        }
        settle(&mut index, 50);
        let state = index.state.get_mut();
        prop_assert_eq!(state.backlog.bytes(), 0);
        prop_assert!(state.corpus.documents().is_empty() && state.corpus.nulls().is_empty());
        prop_assert_eq!(state.corpus.length(), 0);
        let tail = state.corpus.tail();
        prop_assert_eq!((tail.tokens(), tail.documents.len(), tail.document_bytes()), (0, 0, 0));
        // A run without live documents goes, and a sealed tail becomes no run without one.
        prop_assert_eq!(state.corpus.parts().len(), 1);
    }
}

#[test]
fn applying_twice_is_applying_once() {
    let mut index = open(true, Limits::default());
    let text = |text: &str| encode(&[Some(text.to_owned()), None]);
    let (one, two) = (text("one"), text("two two"));
    let (one, two) = (RowView::new(&one).unwrap(), RowView::new(&two).unwrap());
    let row = Surrogate::new(7).unwrap();
    for _ in 0..2 {
        index.apply(row, None, Some(&one)).unwrap();
        assert_eq!(index.state.get_mut().corpus.length(), 1);
    }
    // An update of a row that a build has not reached, and the build reaching it afterwards.
    let other = Surrogate::new(8).unwrap();
    index.apply(other, Some(&one), Some(&two)).unwrap();
    index.apply(other, None, Some(&two)).unwrap();
    assert_eq!(index.state.get_mut().corpus.length(), 3);
    for _ in 0..2 {
        index.apply(row, Some(&one), None).unwrap();
        index.apply(other, Some(&two), None).unwrap();
        let corpus = &mut index.state.get_mut().corpus;
        assert_eq!((corpus.length(), corpus.tail().tokens()), (0, 0));
    }
}

/// A text of about the size with words that are all different.
pub(super) fn large(bytes: usize) -> String {
    let words = (0..bytes / 7).map(|n| format!("w{n:05x} "));
    words.collect()
}

#[test]
fn a_large_row_takes_many_turns_and_no_reader_misses_it() {
    let mut index = open(true, Limits::default());
    let mut model = Model::new();
    write(
        &mut index,
        &mut model,
        1,
        Some([Some(large(400_000)), None]),
    );
    // What comes behind it waits with it, in order.
    write(
        &mut index,
        &mut model,
        2,
        Some([Some("w00000 small".to_owned()), None]),
    );
    assert!(!index.state.get_mut().backlog.is_empty());
    let query = Arc::new(parse("w00000").unwrap());
    let mut source = index.source(&EngineOp::Text(Op { query })).unwrap();
    let mut turns = 0;
    let units = 5_000;
    let mut overdrawn = 0;
    let truth = loop {
        let budget = Budget::new(units);
        let turn = Turn {
            budget: &budget,
            waker: Waker::noop(),
        };
        let polled = index.poll_block(&mut source, 0, None, &turn);
        overdrawn = overdrawn.max(budget.overdrawn());
        match polled {
            Poll::Ready(truth) => break truth.unwrap(),
            Poll::Pending => turns += 1,
        }
    };
    assert!(truth.yes.iter().eq([1, 2]));
    assert!(
        turns > 20,
        "57,000 new words are more than {turns} turns' work"
    );
    assert!(overdrawn < 2_000, "a piece overdrew {overdrawn} units");
    assert_eq!(index.state.get_mut().backlog.bytes(), 0);
    // Taking it out again is cut as well.
    write(&mut index, &mut model, 1, None);
    assert!(!index.state.get_mut().backlog.is_empty());
    settle(&mut index, units);
    assert_eq!(index.state.get_mut().corpus.tail().tokens(), 2);
}

#[test]
fn writers_of_large_rows_are_held_back() {
    let mut index = open(true, Limits::default());
    let mut model = Model::new();
    for id in 1..5 {
        write(
            &mut index,
            &mut model,
            id,
            Some([Some(large(400_000)), None]),
        );
    }
    let held = index.state.get_mut().backlog.bytes();
    assert!(held > BACKLOG_BYTES);
    let budget = Budget::new(100);
    let turn = Turn {
        budget: &budget,
        waker: Waker::noop(),
    };
    assert!(index.poll_ready(&turn).is_pending());
    assert!(index.bytes() > held);
    settle(&mut index, 5_000);
    assert!(index.poll_ready(&turn).is_ready());
}

#[test]
fn other_ops_are_refused() {
    let index = open(true, Limits::default());
    let op = EngineOp::Ordered(nodedb_bridge::op::ordered::Op::IsNull);
    assert!(index.source(&op).is_err());
    let query = parse("a").unwrap();
    let mut ranking = index.ranking(&rank(&query, None)).unwrap();
    let budget = Budget::new(100);
    let turn = Turn {
        budget: &budget,
        waker: Waker::noop(),
    };
    let ranked = index.poll_rank(&mut ranking, &RowSet::new(), 3, &turn);
    assert!(matches!(ranked, Poll::Ready(Err(_))));
}

#[test]
fn what_a_merge_has_made_goes_in_pieces_too() {
    let limits = Limits {
        tail_documents: 1,
        fan_in: 2,
        ..Limits::default()
    };
    let mut index = open(true, limits);
    let mut model = Model::new();
    write(&mut index, &mut model, 1, Some([Some(large(70_000)), None]));
    while !index.state.get_mut().backlog.is_empty() {
        let _ = index.work(&Budget::new(500)).unwrap();
    }
    let pieces = |index: &mut FullText| {
        let turns = std::iter::repeat_with(|| index.dismantle(&Budget::new(500)));
        turns.take_while(|more| *more).count()
    };
    // The tail is sealed, and half of its run is made.
    (0..200).for_each(|_| assert!(index.work(&Budget::new(500)).unwrap()));
    let of_tail = 10_000 * 3 * 4 / 500;
    let turns = pieces(&mut index);
    assert!(turns > of_tail + 20, "{turns}");
    assert_eq!(index.state.get_mut().corpus.retired(), 0);
}
