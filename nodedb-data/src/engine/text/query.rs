//! A query made ready: its distinct terms, its phrases, the order in which sets are put together,
//! and its row-wise form.
//!
//! A *term* selects tokens: those with a stem, or those that begin with a prefix. A word that
//! analyses to one token is its stem's term, to several a phrase, to none matches nothing. What
//! scores is every term that does not stand under NOT: a word its stem, a phrase each of its
//! words, a prefix as one term. A term that stands there twice counts twice.

use std::collections::BTreeMap;

use nodedb_bridge::op::text::Query;
use nodedb_types::{Failure, Result, SqlState};

use super::analyze::{Analyzer, Cursor, Positions};

/// Nesting and words that a query may have, however it came here: it is made ready in one piece.
const DEPTH_MAX: usize = 64;
const WORDS_MAX: usize = 2048;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Term {
    Stem(Box<str>),
    /// Lower-cased.
    Prefix(Box<str>),
}

/// What has a set of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    Term(usize),
    Phrase(usize),
}

/// Two or more words: each a term, and how far it stands behind the first.
pub(super) type Phrase = Vec<(u32, usize)>;

#[derive(Debug)]
pub(super) enum Node {
    Nothing,
    Leaf(Leaf),
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
}

/// One step of putting sets together on a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Pushes no rows.
    Nothing,
    /// Pushes the leaf's rows.
    Leaf(Leaf),
    /// Keeps of the top what is in the leaf's rows.
    AndLeaf(Leaf),
    /// Puts the two on top together.
    And,
    Or,
    /// The documents that are not on top.
    Not,
    /// Goes on at a later step when the top is empty.
    SkipIfEmpty(usize),
}

pub(super) struct Compiled {
    pub(super) terms: Vec<Term>,
    pub(super) phrases: Vec<Phrase>,
    pub(super) node: Node,
    pub(super) steps: Vec<Step>,
    /// Terms that score, ascending, with how often each stands in the query.
    pub(super) scored: Vec<(usize, u32)>,
    /// First bytes of the terms, ascending, each with the term; terms that any token may meet
    /// come first.
    first: Vec<(Option<u8>, usize)>,
}

/// Where the terms stand in one document.
pub(super) struct Occurrences {
    /// By term, ascending.
    pub(super) positions: Vec<Vec<u32>>,
    pub(super) length: u32,
}

/// A query on its way to [`Compiled`].
struct Compiler<'a> {
    analyzer: &'a Analyzer,
    terms: BTreeMap<Term, usize>,
    /// How often each term scores.
    times: Vec<u32>,
    phrases: Vec<Phrase>,
    words: usize,
}

impl Compiler<'_> {
    fn node(&mut self, query: &Query, scores: bool, depth: usize) -> Result<Node> {
        if depth > DEPTH_MAX {
            return Err(too_complex("a text query is nested too deeply"));
        }
        Ok(match query {
            Query::And(list) => Node::And(self.nodes(list, scores, depth)?),
            Query::Or(list) => Node::Or(self.nodes(list, scores, depth)?),
            Query::Not(inner) => Node::Not(Box::new(self.node(inner, false, depth + 1)?)),
            Query::Prefix(prefix) => {
                let prefix = prefix.to_lowercase().into_boxed_str();
                Node::Leaf(Leaf::Term(self.term(Term::Prefix(prefix), scores)?))
            }
            Query::Word(text) | Query::Phrase(text) => self.words(text, scores)?,
        })
    }

    fn nodes(&mut self, list: &[Query], scores: bool, depth: usize) -> Result<Vec<Node>> {
        let list = list.iter();
        list.map(|query| self.node(query, scores, depth + 1))
            .collect()
    }

    fn words(&mut self, text: &str, scores: bool) -> Result<Node> {
        let mut words: Phrase = Vec::new();
        let (mut cursor, mut lower) = (Cursor::default(), String::new());
        while let Some((position, token)) = cursor.next(text, &mut lower) {
            let term = Term::Stem(self.analyzer.stem(token).into());
            words.push((position, self.term(term, scores)?));
        }
        Ok(match words[..] {
            [] => Node::Nothing,
            [(_, only)] => Node::Leaf(Leaf::Term(only)),
            [(first, _), ..] => {
                for (offset, _) in &mut words {
                    *offset -= first;
                }
                self.phrases.push(words);
                Node::Leaf(Leaf::Phrase(self.phrases.len() - 1))
            }
        })
    }

    fn term(&mut self, term: Term, scores: bool) -> Result<usize> {
        self.words += 1;
        if self.words > WORDS_MAX {
            return Err(too_complex(format!(
                "a text query may have at most {WORDS_MAX} words"
            )));
        }
        let next = self.terms.len();
        let at = *self.terms.entry(term).or_insert(next);
        if at == next {
            self.times.push(0);
        }
        self.times[at] += u32::from(scores);
        Ok(at)
    }
}

fn too_complex(message: impl Into<String>) -> Failure {
    Failure::new(SqlState::StatementTooComplex, message)
}

impl Compiled {
    /// Fails with 54001 for a query that is too large.
    pub(super) fn new(query: &Query, analyzer: &Analyzer) -> Result<Compiled> {
        let mut compiler = Compiler {
            analyzer,
            terms: BTreeMap::new(),
            times: Vec::new(),
            phrases: Vec::new(),
            words: 0,
        };
        let node = compiler.node(query, true, 0)?;
        let mut steps = Vec::new();
        emit(&node, &mut steps);
        let mut terms: Vec<(usize, Term)> = compiler
            .terms
            .into_iter()
            .map(|(term, at)| (at, term))
            .collect();
        terms.sort_unstable_by_key(|(at, _)| *at);
        let first = terms.iter();
        let mut first: Vec<_> = first
            .map(|(at, term)| (term.text().bytes().next(), *at))
            .collect();
        first.sort_unstable();
        let scored = compiler.times.iter().copied().enumerate();
        Ok(Compiled {
            terms: terms.into_iter().map(|(_, term)| term).collect(),
            phrases: compiler.phrases,
            node,
            steps,
            scored: scored.filter(|(_, times)| *times > 0).collect(),
            first,
        })
    }

    /// Reads a row's columns, empty ones for NULL.
    pub(super) fn occurrences(&self, columns: &[&str], analyzer: &Analyzer) -> Occurrences {
        let mut found = Occurrences {
            positions: vec![Vec::new(); self.terms.len()],
            length: 0,
        };
        let (mut positions, mut lower) = (Positions::default(), String::new());
        for text in columns {
            let mut cursor = Cursor::default();
            while let Some((position, token)) = cursor.next(text, &mut lower) {
                found.length += 1;
                let position = positions.place(position);
                self.meet(token, analyzer, |term| {
                    found.positions[term].push(position);
                });
            }
            positions.next_column();
        }
        found
    }

    /// Calls `met` for each term that selects the token. Few tokens begin as a term does, so few
    /// are stemmed.
    fn meet(&self, token: &str, analyzer: &Analyzer, mut met: impl FnMut(usize)) {
        let first = token.bytes().next();
        let from = self.first.partition_point(|(byte, _)| *byte < first);
        let any = self.first.iter().take_while(|(byte, _)| byte.is_none());
        let same = self.first[from..]
            .iter()
            .take_while(|(byte, _)| *byte == first);
        let mut stem = None;
        for (_, term) in any.chain(same) {
            let selects = match &self.terms[*term] {
                Term::Prefix(prefix) => token.starts_with(&**prefix),
                Term::Stem(wanted) => {
                    **stem.get_or_insert_with(|| analyzer.stem(token)) == **wanted
                }
            };
            if selects {
                met(*term);
            }
        }
    }

    /// The query's value for a document.
    pub(super) fn holds(&self, found: &Occurrences) -> bool {
        self.node_holds(&self.node, found)
    }

    fn node_holds(&self, node: &Node, found: &Occurrences) -> bool {
        match node {
            Node::Nothing => false,
            Node::Leaf(Leaf::Term(term)) => !found.positions[*term].is_empty(),
            Node::Leaf(Leaf::Phrase(phrase)) => {
                let words = &self.phrases[*phrase];
                let mut starts = found.positions[words[0].1].clone();
                for (offset, term) in &words[1..] {
                    keep_followed(&mut starts, *offset, &found.positions[*term]);
                }
                !starts.is_empty()
            }
            Node::And(list) => list.iter().all(|node| self.node_holds(node, found)),
            Node::Or(list) => list.iter().any(|node| self.node_holds(node, found)),
            Node::Not(node) => !self.node_holds(node, found),
        }
    }
}

impl Term {
    fn text(&self) -> &str {
        match self {
            Term::Stem(text) | Term::Prefix(text) => text,
        }
    }
}

/// Keeps the starts that have a position `offset` behind them. All lists are ascending.
pub(super) fn keep_followed(starts: &mut Vec<u32>, offset: u32, positions: &[u32]) {
    let mut at = 0;
    starts.retain(|start| {
        let wanted = start + offset;
        while positions.get(at).is_some_and(|position| *position < wanted) {
            at += 1;
        }
        positions.get(at) == Some(&wanted)
    });
}

/// Writes the steps of a node. In an AND, plain terms come first and phrases last, since a phrase
/// looks at each row that is left.
fn emit(node: &Node, steps: &mut Vec<Step>) {
    match node {
        Node::Nothing => steps.push(Step::Nothing),
        Node::Leaf(leaf) => steps.push(Step::Leaf(*leaf)),
        Node::Not(inner) => {
            emit(inner, steps);
            steps.push(Step::Not);
        }
        Node::Or(list) => {
            steps.push(Step::Nothing);
            for node in list {
                emit(node, steps);
                steps.push(Step::Or);
            }
        }
        Node::And(list) => {
            let cost = |node: &&Node| match node {
                Node::Nothing | Node::Leaf(Leaf::Term(_)) => 0,
                Node::And(_) | Node::Or(_) | Node::Not(_) => 1,
                Node::Leaf(Leaf::Phrase(_)) => 2,
            };
            let mut order: Vec<&Node> = list.iter().collect();
            order.sort_by_key(cost);
            let mut skips = Vec::new();
            for (at, node) in order.into_iter().enumerate() {
                if at > 0 {
                    skips.push(steps.len());
                    steps.push(Step::SkipIfEmpty(0));
                }
                match node {
                    Node::Leaf(leaf) if at > 0 => steps.push(Step::AndLeaf(*leaf)),
                    node => {
                        emit(node, steps);
                        if at > 0 {
                            steps.push(Step::And);
                        }
                    }
                }
            }
            let end = steps.len();
            for skip in skips {
                steps[skip] = Step::SkipIfEmpty(end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nodedb_bridge::op::text::parse;

    use super::super::tests::analyzer;
    use super::*;

    fn compiled(text: &str) -> Compiled {
        Compiled::new(&parse(text).unwrap(), &analyzer("english")).unwrap()
    }

    #[test]
    fn terms_are_counted_and_what_is_denied_does_not_score() {
        let query =
            compiled("debugging OR (debug \"profile the debugger\" mem*) NOT slow NOT mem*");
        let stem = |text: &str| Term::Stem(text.into());
        let terms = [
            stem("debug"),
            stem("profil"),
            stem("the"),
            stem("debugg"),
            Term::Prefix("mem".into()),
            stem("slow"),
        ];
        assert_eq!(query.terms, terms);
        assert_eq!(query.scored, [(0, 2), (1, 1), (2, 1), (3, 1), (4, 1)]);
        assert_eq!(query.phrases, [[(0, 1), (1, 2), (2, 3)]]);
    }

    #[test]
    fn words_that_are_several_tokens_or_none() {
        let long = "x".repeat(41);
        let query = compiled(&format!("a-b \"a {long} b\" {long} ..."));
        assert_eq!(query.phrases, [vec![(0, 0), (1, 1)], vec![(0, 0), (2, 1)]]);
        assert!(matches!(&query.node, Node::And(list)
            if matches!(list[..], [Node::Leaf(_), Node::Leaf(_), Node::Nothing, Node::Nothing])));
    }

    #[test]
    fn an_and_asks_for_phrases_last_and_stops_when_nothing_is_left() {
        let steps = compiled("\"a b\" (c OR d) e").steps;
        let term = |at| Leaf::Term(at);
        let expected = [
            Step::Leaf(term(4)),
            Step::SkipIfEmpty(10),
            Step::Nothing,
            Step::Leaf(term(2)),
            Step::Or,
            Step::Leaf(term(3)),
            Step::Or,
            Step::And,
            Step::SkipIfEmpty(10),
            Step::AndLeaf(Leaf::Phrase(0)),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_query_too_deep_is_refused() {
        let deep = (0..100).fold(Query::Word("a".to_owned()), |query, _| {
            Query::Not(Box::new(query))
        });
        let refused = Compiled::new(&deep, &analyzer("simple"));
        assert_eq!(
            refused.err().map(|failure| failure.code()),
            Some(SqlState::StatementTooComplex)
        );
    }

    #[test]
    fn starts_that_are_followed() {
        let mut starts = vec![1, 4, 6, 9];
        keep_followed(&mut starts, 2, &[0, 3, 5, 8, 11]);
        assert_eq!(starts, [1, 6, 9]);
        keep_followed(&mut starts, 1, &[]);
        assert!(starts.is_empty());
    }
}
