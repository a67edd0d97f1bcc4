//! The query task: everything between a request and the frames of its reply.

use std::rc::Rc;

use nodedb_bridge::op::EngineRank;
use nodedb_bridge::plan::{
    LeafReport, Order, Output, OutputColumn, SetQuery, Source, SourceReport, TextStatistics,
};
use nodedb_bridge::reply::Frame;
use nodedb_types::{Collection, Failure, IndexId, Result};

use super::context::Context;
use super::part::{Part, index_of};
use super::rows::Rows;
use super::scan::Scan;
use super::send::Sender;
use super::{ordered, rank};

/// What is known at the end beside the rows.
#[derive(Default)]
struct Totals {
    set_rows: Option<u64>,
    ranking: Option<String>,
    fetched: u64,
}

/// Answers a set query over this core's shards of its collection; the caller has waited for what
/// the statement must see, and sends the last frame. Gives the report that `explain` asks for.
///
/// A count with a limit stops there: it is the smaller of the two.
///
/// Fails with 57014 when nobody wants the answer any more, 53200 when the statement's memory is
/// used up, 72000 when its snapshot is too old, and whatever an expression fails with.
pub async fn run(
    query: &SetQuery,
    shards: Vec<Rc<dyn Rows>>,
    cx: &Context,
) -> Result<Option<Box<LeafReport>>> {
    cx.metered(query.explain, answer(query, shards, cx))
        .await
        .map(|report| {
            report.map(|mut report| {
                report.cpu_ns = cx.cpu_ns();
                report
            })
        })
}

async fn answer(
    query: &SetQuery,
    shards: Vec<Rc<dyn Rows>>,
    cx: &Context,
) -> Result<Option<Box<LeafReport>>> {
    cx.check()?;
    if let Output::Rows(columns) = &query.output
        && columns.contains(&OutputColumn::Score)
        && !matches!(query.order, Order::Rank(_))
    {
        return Err(Failure::internal("a score without a ranking"));
    }
    let wanted = shards.into_iter();
    let wanted = wanted.filter(|rows| query.shard.is_none_or(|shard| rows.shard() == shard));
    let mut parts = Vec::new();
    for rows in wanted {
        parts.push(Part::new(query, rows)?);
    }
    let totals = match &query.output {
        Output::Count => count(query, &parts, cx).await?,
        Output::Rows(columns) => match parts.first().map(|part| part.collection.clone()) {
            Some(collection) => {
                let mut sender = Sender::new(cx, &collection, columns, &parts, query.limit)?;
                let mut totals = rows(query, &parts, cx, &mut sender).await?;
                sender.flush().await?;
                totals.fetched = sender.fetched;
                totals
            }
            None => Totals::default(),
        },
    };
    Ok(query
        .explain
        .then(|| Box::new(report(query, &parts, cx, totals))))
}

async fn count(query: &SetQuery, parts: &[Part], cx: &Context) -> Result<Totals> {
    let limit = query.limit.unwrap_or(u64::MAX);
    let mut rows = 0;
    'parts: for part in parts {
        let mut scan = Scan::new(part, cx, query.limit.is_some());
        while rows < limit {
            match scan.next().await? {
                Some(piece) => rows += piece.len(),
                None => continue 'parts,
            }
        }
        break;
    }
    cx.send(Frame::Count(rows.min(limit))).await?;
    Ok(Totals {
        set_rows: query.limit.is_none().then_some(rows),
        ..Totals::default()
    })
}

async fn rows(
    query: &SetQuery,
    parts: &[Part],
    cx: &Context,
    sender: &mut Sender<'_>,
) -> Result<Totals> {
    if query.limit == Some(0) {
        return Ok(Totals::default());
    }
    match &query.order {
        Order::Any => any(query, parts, cx, sender).await,
        Order::Key(direction) => {
            let set_rows = ordered::send(cx, parts, ordered::By::Key, *direction, sender).await?;
            Ok(Totals {
                set_rows,
                ..Totals::default()
            })
        }
        Order::Index { index, direction } => {
            let by = ordered::By::Index(*index);
            let set_rows = ordered::send(cx, parts, by, *direction, sender).await?;
            Ok(Totals {
                set_rows,
                ..Totals::default()
            })
        }
        Order::Rank(spec) => {
            let outcome = rank::send(cx, parts, spec, sender).await?;
            Ok(Totals {
                set_rows: Some(outcome.set_rows),
                ranking: Some(outcome.how),
                fetched: 0,
            })
        }
    }
}

async fn any(
    query: &SetQuery,
    parts: &[Part],
    cx: &Context,
    sender: &mut Sender<'_>,
) -> Result<Totals> {
    let mut set_rows = 0;
    for part in parts {
        let mut scan = Scan::new(part, cx, query.limit.is_some());
        while !sender.is_done()
            && let Some(piece) = scan.next().await?
        {
            set_rows += piece.len();
            let block = piece.block;
            for row in piece.into_rows().surrogates(block) {
                if sender.is_done() {
                    break;
                }
                sender.row(part, row, None).await?;
            }
        }
    }
    Ok(Totals {
        set_rows: query.limit.is_none().then_some(set_rows),
        ..Totals::default()
    })
}

fn report(query: &SetQuery, parts: &[Part], cx: &Context, totals: Totals) -> LeafReport {
    let collection = parts.first().map(|part| &*part.collection);
    let source = |source: &Source| SourceReport {
        source: describe(source, parts.first(), collection),
        ..SourceReport::default()
    };
    let mut sources: Vec<_> = query.sources.iter().map(source).collect();
    for part in parts {
        part.report(&mut sources);
    }
    LeafReport {
        core: cx.core().0,
        sources,
        set_rows: totals.set_rows,
        ranking: totals.ranking,
        rows_fetched: totals.fetched,
        rows_examined: parts.iter().map(|part| part.examined.get()).sum(),
        cpu_ns: 0,
    }
}

fn describe(source: &Source, part: Option<&Part>, collection: Option<&Collection>) -> String {
    match source {
        Source::Index { index, .. } => {
            let engine = part.and_then(|part| part.rows.index(*index));
            engine.map_or_else(String::new, |engine| engine.borrow().describe().to_owned())
        }
        Source::Keys(_) | Source::KeyList(_) => "keys".to_owned(),
        Source::Expression(expression) => {
            let name = |at: &usize| {
                collection?
                    .columns
                    .get(*at)
                    .map(|column| column.name.clone())
            };
            let names: Vec<_> = expression.columns().iter().filter_map(name).collect();
            format!("filter on {}", names.join(", "))
        }
    }
}

/// The first round of a ranking whose scores need statistics over all shards: the part of this
/// core's shards, as of the applied state.
pub async fn statistics(
    index: IndexId,
    rank: &EngineRank,
    shards: &[Rc<dyn Rows>],
    cx: &Context,
) -> Result<TextStatistics> {
    cx.check()?;
    let mut total = TextStatistics::default();
    for rows in shards {
        let engine = index_of(&**rows, index)?;
        let mut ranking = engine.borrow().ranking(rank)?;
        let part = cx
            .drive(|turn| engine.borrow().poll_statistics(&mut ranking, turn))
            .await?;
        total.merge(&part);
    }
    Ok(total)
}
