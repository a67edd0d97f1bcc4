//! `EXPLAIN`: a plan as a tree of lines, with what the cores reported after `ANALYZE`.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;

use nodedb_bridge::op::EngineOp;
use nodedb_bridge::plan::{Direction, LeafReport, Order, Output, SetExpr, SetQuery, Source};
use nodedb_types::{Collection, DataType};

use crate::executor::probe::ranked_by;
use crate::expr::{ColumnId, Expr};
use crate::plan::{GetPlan, Plan, SetPlan, WritePlan, WriteSource};
use crate::rel::{Rel, SortKey, SubqueryKind};
use crate::{LeafRun, RelationalPlan, catalog::Catalog};

/// What a run of the plan has shown.
#[derive(Debug, Default, Clone)]
pub struct Analyzed {
    /// Rows that the statement gave or changed.
    pub rows: u64,
    pub elapsed_ns: u64,
    /// What each core did for each leaf.
    pub runs: Vec<LeafRun>,
}

/// The lines of `EXPLAIN`, or of `EXPLAIN ANALYZE` when the plan was run.
pub fn explain(plan: &Plan, catalog: &dyn Catalog, analyzed: Option<&Analyzed>) -> Vec<String> {
    let mut lines = Lines {
        lines: Vec::new(),
        analyzed,
        catalog,
        subplans: Rc::default(),
    };
    lines.plan(plan, 0);
    if let Some(run) = analyzed {
        lines.lines.push(format!("Rows: {}", run.rows));
        lines.lines.push(format!(
            "Execution Time: {:.3} ms",
            run.elapsed_ns as f64 / 1e6
        ));
    }
    lines.lines
}

struct Lines<'a> {
    lines: Vec<String>,
    analyzed: Option<&'a Analyzed>,
    catalog: &'a dyn Catalog,
    /// Subqueries inside expressions that have been numbered.
    subplans: Rc<Cell<usize>>,
}

impl Lines<'_> {
    /// A node of the tree, as PostgreSQL indents it.
    fn node(&mut self, depth: usize, text: String) {
        self.lines.push(match depth {
            0 => text,
            _ => format!("{}->  {text}", " ".repeat(depth * 6 - 4)),
        });
    }

    /// A property of the node above it.
    fn detail(&mut self, depth: usize, text: String) {
        self.lines
            .push(format!("{}{text}", " ".repeat(depth * 6 + 2)));
    }

    fn plan(&mut self, plan: &Plan, depth: usize) {
        match plan {
            Plan::Get(get) => self.get(get, depth),
            Plan::Set(set) => self.set(set, depth),
            Plan::Relational(relational) => self.relational(relational, depth),
            Plan::Write(write) => self.write(write, depth),
        }
    }

    fn get(&mut self, plan: &GetPlan, depth: usize) {
        self.node(depth, format!("Get on {}", plan.collection.name));
        self.detail(depth, format!("Keys: {}", plan.get.keys.len()));
        if let Some(filter) = &plan.get.filter {
            self.detail(depth, format!("Filter: {filter:?}"));
        }
    }

    fn write(&mut self, plan: &WritePlan, depth: usize) {
        self.node(
            depth,
            format!("{:?} on {}", plan.command, plan.collection.name),
        );
        match &plan.source {
            WriteSource::Keyed(rows) => self.detail(depth, format!("Keys: {}", rows.len())),
            WriteSource::Read { read, .. } => self.plan(read, depth + 1),
        }
    }

    fn set(&mut self, plan: &SetPlan, depth: usize) {
        let what = match plan.query.output {
            Output::Count => "Count",
            Output::Rows(_) => "Set Query",
        };
        self.node(depth, format!("{what} on {}", plan.collection.name));
        if let Some(limit) = plan.limit {
            self.detail(depth, format!("Limit: {limit}"));
        }
        if plan.offset > 0 {
            self.detail(depth, format!("Offset: {}", plan.offset));
        }
        // What a write read was read by its own rules, and was not watched.
        let watched = self.analyzed.filter(|run| !run.runs.is_empty());
        let runs: Option<Vec<&LeafRun>> = watched.map(|run| run.runs.iter().collect());
        self.query(&plan.collection, &plan.query, runs.as_deref(), depth);
    }

    /// How a set query is answered, and what each core did for it where it was run.
    fn query(
        &mut self,
        collection: &Collection,
        query: &SetQuery,
        runs: Option<&[&LeafRun]>,
        depth: usize,
    ) {
        let indexes = self.catalog.indexes(collection.id);
        let name_of = |id| {
            let found = indexes.iter().find(|i| i.id == id);
            found.map_or_else(|| "?".to_owned(), |i| format!("{} ({})", i.name, i.method))
        };
        if let Some(order) = order_of(query, &name_of) {
            self.detail(depth, format!("Order: {order}"));
        }
        self.detail(depth, format!("Set: {}", set_of(&query.set)));
        let key = collection.key.map(|key| &*collection.columns[key].name);
        let by_keys = |op: &nodedb_bridge::op::ordered::Op| {
            let shown = EngineOp::Ordered(op.clone()).show(key.as_slice());
            format!("{shown} by keys")
        };
        for (i, source) in query.sources.iter().enumerate() {
            let mut line = match source {
                Source::Index { index, op } => {
                    let found = indexes.iter().find(|i| i.id == *index);
                    let columns: Vec<&str> = found
                        .map(|i| {
                            i.columns
                                .iter()
                                .map(|c| &*collection.columns[*c].name)
                                .collect()
                        })
                        .unwrap_or_default();
                    format!("{} by {}", op.show(&columns), name_of(*index))
                }
                Source::Keys(op) => by_keys(op),
                Source::KeyList(list) => by_keys(list.op()),
                Source::Expression(e) => format!("{e:?} by rows"),
            };
            if let Some(runs) = runs {
                let of = |r: &LeafReport| r.sources.get(i).map_or((0, 0), |s| (s.rows, s.blocks));
                let total = runs.iter().map(|run| of(&run.report));
                let (rows, blocks) = total.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
                line.push_str(&format!(" (rows={rows} blocks={blocks})"));
            }
            self.detail(depth, format!("Source {}: {line}", i + 1));
        }
        for run in runs.unwrap_or_default() {
            self.core(&run.report, depth);
        }
    }

    /// What one core did.
    fn core(&mut self, report: &LeafReport, depth: usize) {
        let mut line = format!("Core {}:", report.core);
        if let Some(rows) = report.set_rows {
            line.push_str(&format!(" set of {rows} rows,"));
        }
        if let Some(ranking) = &report.ranking {
            line.push_str(&format!(" {ranking},"));
        }
        line.push_str(&format!(
            " fetched={} examined={} cpu={:.3} ms",
            report.rows_fetched,
            report.rows_examined,
            report.cpu_ns as f64 / 1e6
        ));
        self.detail(depth, line);
    }

    fn relational(&mut self, plan: &RelationalPlan, depth: usize) {
        let mut names = Vec::new();
        names_of(&plan.query.rel, &mut names);
        for (id, column) in &plan.query.columns {
            if !names.iter().any(|(known, _)| known == id) {
                names.push((*id, column.name.clone()));
            }
        }
        self.rel(&plan.query.rel, &names, depth, Vec::new());
    }

    /// `above`: subqueries of projections, to be shown below the node that stands for them.
    fn rel(
        &mut self,
        rel: &Rel,
        names: &[(ColumnId, String)],
        depth: usize,
        above: Vec<(usize, Rel)>,
    ) {
        let name = |id: ColumnId| {
            let found = names.iter().find(|(known, _)| *known == id);
            found.map_or_else(|| format!("{id:?}"), |(_, name)| name.clone())
        };
        // Subqueries met in this node's expressions, to be shown below it.
        let subplans = RefCell::new(above);
        let count = self.subplans.clone();
        let show = |e: &Expr| {
            let (e, shown) = with_subplans(e, &count, &mut subplans.borrow_mut());
            e.display(&|id| {
                let found = shown.iter().find(|(known, ..)| *known == id);
                match found {
                    Some((_, kind, number)) => subplan_name(*kind, *number),
                    None => name(id),
                }
            })
        };
        let keys = |keys: &[SortKey]| {
            let shown: Vec<String> = keys
                .iter()
                .map(|k| {
                    let direction = if k.descending { " DESC" } else { "" };
                    format!("{}{direction}", show(&k.expr))
                })
                .collect();
            shown.join(", ")
        };
        let mut below = depth + 1;
        match rel {
            Rel::Scan(scan) => {
                let own = &scan.collection.name;
                self.node(
                    depth,
                    match scan.name == *own {
                        true => format!("Leaf on {own}"),
                        false => format!("Leaf on {own} {}", scan.name),
                    },
                );
                let mut runs: Vec<&LeafRun> = self
                    .analyzed
                    .iter()
                    .flat_map(|run| &run.runs)
                    .filter(|run| run.leaf == Some(scan.id))
                    .collect();
                runs.sort_by_key(|run| run.report.core);
                match runs.first().and_then(|run| run.query.clone()) {
                    Some(query) => self.query(&scan.collection, &query, Some(&runs), depth),
                    None => runs.iter().for_each(|run| self.core(&run.report, depth)),
                }
            }
            Rel::Virtual { table, .. } => self.node(depth, format!("Catalog Table {table:?}")),
            Rel::Values { rows, .. } => self.node(depth, format!("Values ({} rows)", rows.len())),
            Rel::Filter { predicate, .. } => {
                self.node(depth, "Filter".to_owned());
                self.detail(depth, format!("Condition: {}", show(predicate)));
            }
            // A projection says little; its input takes its place, and its subqueries.
            Rel::Project { .. } => below = depth,
            Rel::Join { kind, on, .. } => {
                self.node(depth, format!("{kind:?} Join"));
                self.detail(depth, format!("Condition: {}", show(on)));
            }
            Rel::Aggregate { keys, .. } => {
                self.node(depth, "Aggregate".to_owned());
                if !keys.is_empty() {
                    let shown: Vec<String> = keys.iter().map(|(_, e)| show(e)).collect();
                    self.detail(depth, format!("Group Key: {}", shown.join(", ")));
                }
            }
            Rel::Window { .. } => self.node(depth, "WindowAgg".to_owned()),
            Rel::Sort { keys: order, .. } => {
                self.node(depth, "Sort".to_owned());
                self.detail(depth, format!("Sort Key: {}", keys(order)));
            }
            Rel::Limit { limit, offset, .. } => {
                self.node(depth, "Limit".to_owned());
                if let Some(index) = ranked_by(rel) {
                    let order = "its subquery is evaluated first, then rows are ranked by";
                    self.detail(depth, format!("Order: {order} {index}"));
                }
                for (what, e) in [("Limit", limit), ("Offset", offset)] {
                    if let Some(e) = e {
                        self.detail(depth, format!("{what}: {}", show(e)));
                    }
                }
            }
            Rel::Distinct { .. } => self.node(depth, "Unique".to_owned()),
            Rel::SetOperation { kind, all, .. } => {
                let all = if *all { " All" } else { "" };
                self.node(depth, format!("{kind:?}{all}"));
            }
            Rel::Recursive { name, .. } => self.node(depth, format!("Recursive {name}")),
            Rel::Working { name, .. } => self.node(depth, format!("Working Table {name}")),
            Rel::Expand { .. } => self.node(depth, "ProjectSet".to_owned()),
            Rel::Series { .. } => self.node(depth, "Function generate_series".to_owned()),
        }
        for e in unshown(rel) {
            with_subplans(e, &count, &mut subplans.borrow_mut());
        }
        let subplans = subplans.into_inner();
        if let Rel::Project { input, .. } = rel {
            return self.rel(input, names, below, subplans);
        }
        for (number, subplan) in subplans {
            self.detail(depth, format!("SubPlan {number}"));
            self.rel(&subplan, names, depth + 1, Vec::new());
        }
        for input in rel.inputs() {
            self.rel(input, names, below, Vec::new());
        }
    }
}

/// Expressions of a node that no line of it shows; their subqueries are shown below it.
fn unshown(rel: &Rel) -> Vec<&Expr> {
    fn keys(order: &[SortKey]) -> impl Iterator<Item = &Expr> {
        order.iter().map(|key| &key.expr)
    }
    match rel {
        Rel::Values { rows, .. } => rows.iter().flatten().collect(),
        Rel::Project { expressions, .. } => expressions.iter().map(|(_, e)| e).collect(),
        Rel::Aggregate { aggregates, .. } => aggregates
            .iter()
            .flat_map(|(_, a)| a.arguments.iter().chain(&a.filter).chain(keys(&a.order)))
            .collect(),
        Rel::Window { calls, .. } => calls
            .iter()
            .flat_map(|(_, w)| {
                let decisive = w.filter.iter().chain(&w.partition);
                w.arguments.iter().chain(decisive).chain(keys(&w.order))
            })
            .collect(),
        Rel::Distinct { on, order, .. } => on.iter().flatten().chain(keys(order)).collect(),
        Rel::Expand { calls, .. } => calls.iter().flat_map(|(_, c)| &c.arguments).collect(),
        Rel::Series { arguments, .. } => arguments.iter().collect(),
        _ => Vec::new(),
    }
}

/// Stand-ins of subqueries in an expression that is shown: what they are, and their numbers.
type Shown = Vec<(ColumnId, SubqueryKind, usize)>;

/// The expression with stand-ins for its subqueries; those are numbered and added to `found`.
fn with_subplans(e: &Expr, count: &Cell<usize>, found: &mut Vec<(usize, Rel)>) -> (Expr, Shown) {
    let mut shown = Shown::new();
    let stand_in = |part: Expr| {
        let Expr::Subquery(subquery) = part else {
            return Ok::<_, Infallible>(part);
        };
        let number = count.get() + 1;
        count.set(number);
        let id = ColumnId(u32::MAX - number as u32);
        let data_type = subquery.columns.first().map_or(DataType::Bool, |(_, t)| *t);
        shown.push((id, subquery.kind, number));
        found.push((number, subquery.rel));
        let plan = Expr::column(id, data_type);
        Ok(match (subquery.kind, subquery.operand) {
            (SubqueryKind::In, Some(operand)) => Expr::InList(Box::new(operand), vec![plan]),
            (SubqueryKind::Any(op) | SubqueryKind::All(op), Some(operand)) => {
                Expr::Compare(op, Box::new(operand), Box::new(plan))
            }
            (_, _) => plan,
        })
    };
    let Ok(e) = e.clone().transform(&mut { stand_in });
    (e, shown)
}

fn subplan_name(kind: SubqueryKind, number: usize) -> String {
    match kind {
        SubqueryKind::Scalar => format!("(SubPlan {number})"),
        SubqueryKind::In => format!("SubPlan {number}"),
        SubqueryKind::Exists => format!("EXISTS (SubPlan {number})"),
        SubqueryKind::Any(_) => format!("ANY (SubPlan {number})"),
        SubqueryKind::All(_) => format!("ALL (SubPlan {number})"),
    }
}

/// Names of the columns that relations bring.
fn names_of(rel: &Rel, names: &mut Vec<(ColumnId, String)>) {
    match rel {
        Rel::Scan(scan) => {
            let own = scan.columns.iter().zip(&scan.collection.columns);
            names.extend(own.map(|(id, c)| (*id, format!("{}.{}", scan.name, c.name))));
            names.extend(scan.extras.iter().map(|e| {
                let shown = e.query.display(&|id| format!("{id:?}"));
                (e.column, format!("{}({}, {shown})", e.name, scan.name))
            }));
        }
        Rel::Virtual { table, columns } => {
            let own = columns.iter().zip(table.table.columns());
            names.extend(own.map(|(id, c)| (*id, c.name)));
        }
        _ => {}
    }
    for input in rel.inputs() {
        names_of(input, names);
    }
    for e in rel.clone().expressions_mut() {
        e.visit(&mut |part| {
            if let Expr::Subquery(subquery) = part {
                names_of(&subquery.rel, names);
            }
        });
    }
}

fn order_of(query: &SetQuery, name_of: &dyn Fn(nodedb_types::IndexId) -> String) -> Option<String> {
    let word = |direction: &Direction| match direction {
        Direction::Ascending => "ascending",
        Direction::Descending => "descending",
    };
    Some(match &query.order {
        Order::Any => return None,
        Order::Key(direction) => format!("key, {}", word(direction)),
        Order::Index { index, direction } => format!("{}, {}", name_of(*index), word(direction)),
        Order::Rank(spec) => {
            let by = match spec.index {
                Some(index) => name_of(index),
                None => "the rows' column".to_owned(),
            };
            format!("{}, ranked by {by}", spec.rank.show())
        }
    })
}

fn set_of(set: &SetExpr) -> String {
    let list = |sets: &[SetExpr], word: &str| {
        let shown: Vec<String> = sets.iter().map(set_of).collect();
        format!("({})", shown.join(word))
    };
    match set {
        SetExpr::All => "all rows".to_owned(),
        SetExpr::Nothing => "no rows".to_owned(),
        SetExpr::Source(i) => format!("{}", i + 1),
        SetExpr::And(sets) => list(sets, " AND "),
        SetExpr::Or(sets) => list(sets, " OR "),
        SetExpr::Not(set) => format!("NOT {}", set_of(set)),
        SetExpr::IsUnknown(set) => format!("{} IS UNKNOWN", set_of(set)),
    }
}
