//! Conditions as sources of a set query.

use std::sync::Arc;

use nodedb_bridge::op::{contract, ordered};
use nodedb_bridge::plan::{KeyList, SetExpr, Source};
use nodedb_types::{DataType, Result, Value};

use super::{call_of, extra_call};
use crate::expr::Expr;
use crate::expr::compiled::Compiled;
use crate::rel::{ColumnId, Extra, Scan};

/// The sources of a set query under construction.
pub(crate) struct Sources<'a> {
    scan: &'a Scan,
    pub list: Vec<Source>,
    /// The conditions that each source stands for, so that one asked twice is one source.
    asked: Vec<Asked>,
}

/// A condition and the source that an index has for it.
type Answered = (Expr, Option<Source>);

/// A condition, or two that one source answers together.
struct Asked(Expr, Option<Expr>);

impl Asked {
    fn is(&self, first: &Expr, second: Option<&Expr>) -> bool {
        let seconds = match (&self.1, second) {
            (Some(mine), Some(other)) => mine.is_alike(other),
            (None, None) => true,
            _ => false,
        };
        seconds && self.0.is_alike(first)
    }
}

impl<'a> Sources<'a> {
    pub(crate) fn new(scan: &'a Scan) -> Sources<'a> {
        Sources {
            scan,
            list: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// The set of rows for which every condition is true.
    pub(crate) fn set_of_all(&mut self, conjuncts: Vec<Expr>) -> Result<SetExpr> {
        let known = conjuncts.into_iter().map(|e| self.without_null_queries(e));
        let known = known.collect();
        self.junction(known, true)
    }

    /// A NULL text query is unknown for every row.
    fn without_null_queries(&self, e: Expr) -> Expr {
        e.replace(&|part| match part {
            Expr::Column { id, data_type, .. } => {
                let extra = self.scan.extras.iter().find(|extra| extra.column == *id)?;
                let query = extra.query.constant()?;
                query
                    .is_null()
                    .then(|| Expr::Constant(Value::Null, *data_type))
            }
            _ => None,
        })
    }

    /// The set of rows for which a condition is true.
    pub(crate) fn set_of(&mut self, e: Expr) -> Result<SetExpr> {
        match e {
            Expr::Constant(Value::Bool(true), _) => Ok(SetExpr::All),
            Expr::Constant(Value::Bool(false), _) => Ok(SetExpr::Nothing),
            Expr::And(terms) => self.junction(terms, true),
            Expr::Or(terms) => self.junction(terms, false),
            Expr::Not(inner) if self.asks_index(&inner)? => {
                Ok(SetExpr::Not(Box::new(self.set_of(*inner)?)))
            }
            Expr::IsNull(inner)
                if inner.data_type() == DataType::Bool && self.asks_index(&inner)? =>
            {
                Ok(SetExpr::IsUnknown(Box::new(self.set_of(*inner)?)))
            }
            e => match self.index_source(&e)? {
                Some(source) => Ok(SetExpr::Source(self.add(source, Asked(e, None)))),
                None => self.expression(e),
            },
        }
    }

    fn known(&self, first: &Expr, second: Option<&Expr>) -> Option<usize> {
        self.asked.iter().position(|asked| asked.is(first, second))
    }

    /// The source, or the one that there is already for the same.
    fn add(&mut self, source: Source, asked: Asked) -> usize {
        self.known(&asked.0, asked.1.as_ref()).unwrap_or_else(|| {
            self.list.push(source);
            self.asked.push(asked);
            self.list.len() - 1
        })
    }

    /// Terms that no index answers become one expression.
    fn junction(&mut self, terms: Vec<Expr>, and: bool) -> Result<SetExpr> {
        let mut sets = Vec::new();
        let mut plain = Vec::new();
        let (met, terms) = match and {
            true => self.met(terms)?,
            false => (Vec::new(), self.with_sources(terms)?),
        };
        sets.extend(met);
        for (term, source) in terms {
            if let Some(source) = source {
                sets.push(SetExpr::Source(self.add(source, Asked(term, None))));
            } else if term.constant().is_some() || self.asks_index(&term)? {
                sets.push(self.set_of(term)?);
            } else {
                plain.push(term);
            }
        }
        if plain.len() == 1 {
            sets.extend(plain.pop().map(|e| self.expression(e)).transpose()?);
        } else if !plain.is_empty() {
            let all = if and {
                Expr::And(plain)
            } else {
                Expr::Or(plain)
            };
            sets.push(self.expression(all)?);
        }
        Ok(match sets.len() {
            0 if and => SetExpr::All,
            0 => SetExpr::Nothing,
            1 => sets.remove(0),
            _ if and => SetExpr::And(sets),
            _ => SetExpr::Or(sets),
        })
    }

    /// Of conditions that must all be met, those that one op of an index answers together, such as
    /// the two bounds of a range; and the other conditions, with what an index has for each.
    fn met(&mut self, terms: Vec<Expr>) -> Result<(Vec<SetExpr>, Vec<Answered>)> {
        let mut sets = Vec::new();
        let mut rest: Vec<Answered> = Vec::new();
        for (term, source) in self.with_sources(terms)? {
            let pair = source.as_ref().and_then(|source| {
                let joined = |(at, (_, earlier)): (usize, &Answered)| {
                    Some((at, both(earlier.as_ref()?, source, self.scan)?))
                };
                rest.iter().enumerate().find_map(joined)
            });
            match pair {
                Some((at, source)) => {
                    let (earlier, _) = rest.remove(at);
                    let at = self.add(source, Asked(earlier, Some(term)));
                    sets.push(SetExpr::Source(at));
                }
                None => rest.push((term, source)),
            }
        }
        Ok((sets, rest))
    }

    fn with_sources(&self, terms: Vec<Expr>) -> Result<Vec<Answered>> {
        let answered = |term| {
            let source = self.index_source(&term)?;
            Ok((term, source))
        };
        terms.into_iter().map(answered).collect()
    }

    fn expression(&mut self, e: Expr) -> Result<SetExpr> {
        if let Some(at) = self.known(&e, None) {
            return Ok(SetExpr::Source(at));
        }
        let source = Source::Expression(Arc::new(Compiled::new(&e, self.scan)?));
        Ok(SetExpr::Source(self.add(source, Asked(e, None))))
    }

    /// Whether any part of a condition is answered by an index.
    fn asks_index(&self, e: &Expr) -> Result<bool> {
        if self.index_source(e)?.is_some() {
            return Ok(true);
        }
        match e {
            Expr::And(terms) | Expr::Or(terms) => {
                for term in terms {
                    if self.asks_index(term)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Expr::Not(inner) => self.asks_index(inner),
            Expr::IsNull(inner) if inner.data_type() == DataType::Bool => self.asks_index(inner),
            _ => Ok(false),
        }
    }

    fn index_source(&self, e: &Expr) -> Result<Option<Source>> {
        if let Expr::Column { id, .. } = e
            && let Some(extra) = self.extra(*id)
        {
            return self.extra_source(extra);
        }
        let Some(call) = call_of(self.scan, e) else {
            return Ok(None);
        };
        if let Some(key) = self.scan.collection.key
            && let Some(op) = ordered::of_column(&self.scan.collection, key, &call)
        {
            return Ok(Some(match (op, self.scan.shards) {
                (ordered::Op::In(values), Some((shards, seed))) => {
                    Source::KeyList(Arc::new(KeyList::new(values, shards, seed)?))
                }
                (op, _) => Source::Keys(op),
            }));
        }
        for index in self.scan.indexes.iter() {
            let Some(contract) = contract(&index.method) else {
                continue;
            };
            if let Some(op) = (contract.predicate)(&self.scan.collection, index, &call)? {
                return Ok(Some(Source::Index {
                    index: index.id,
                    op,
                }));
            }
        }
        Ok(None)
    }

    fn extra(&self, id: ColumnId) -> Option<&'a Extra> {
        self.scan
            .extras
            .iter()
            .find(|e| e.column == id && !e.is_score())
    }

    fn extra_source(&self, extra: &Extra) -> Result<Option<Source>> {
        let Some(contract) = contract(&extra.index.method) else {
            return Ok(None);
        };
        let op = (contract.predicate)(&self.scan.collection, &extra.index, &extra_call(extra))?;
        Ok(op.map(|op| Source::Index {
            index: extra.index.id,
            op,
        }))
    }

    /// The source behind a `text_match` whose value is wanted as a column; `None` for a NULL query,
    /// which is unknown for every row.
    pub(crate) fn truth(&mut self, id: ColumnId) -> Result<Option<usize>> {
        let Some(extra) = self.extra(id) else {
            return Ok(None);
        };
        let asked = Expr::column(id, DataType::Bool);
        if let Some(at) = self.known(&asked, None) {
            return Ok(Some(at));
        }
        let source = self.extra_source(extra)?;
        Ok(source.map(|source| self.add(source, Asked(asked, None))))
    }
}

/// The source for both of two conditions on the same index, or on the key.
fn both(a: &Source, b: &Source, scan: &Scan) -> Option<Source> {
    if let (Source::Keys(a), Source::Keys(b)) = (a, b) {
        return ordered::both_of(a, b).map(Source::Keys);
    }
    let (
        Source::Index { index, op: first },
        Source::Index {
            index: other,
            op: second,
        },
    ) = (a, b)
    else {
        return None;
    };
    let found = scan
        .indexes
        .iter()
        .find(|i| i.id == *index && i.id == *other)?;
    let op = (contract(&found.method)?.both)(first, second)?;
    Some(Source::Index { index: *index, op })
}
