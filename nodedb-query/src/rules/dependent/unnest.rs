//! A part of a query for every combination of the values it refers to: the domain goes down through
//! its operators.

use super::*;

impl Rewriter {
    /// The combinations of values that a part is asked for.
    fn domain(&mut self, around: &Around<'_>) -> (Rel, Columns) {
        let columns: Columns = around
            .columns
            .iter()
            .map(|(_, data_type)| (self.fresh(), *data_type))
            .collect();
        let expressions = columns
            .iter()
            .zip(&around.columns)
            .map(|((id, _), of)| (*id, column(of)))
            .collect();
        let rel = Rel::Distinct {
            input: Box::new(Rel::Project {
                input: Box::new(around.rel.clone()),
                expressions,
            }),
            on: None,
            order: Vec::new(),
        };
        (rel, columns)
    }

    fn boxed(&mut self, rel: Rel, around: &Around<'_>) -> Result<(Box<Rel>, Columns)> {
        let (rel, domain) = self.unnest(rel, around)?;
        Ok((Box::new(rel), domain))
    }

    /// A part for every combination of the domain: its rows, with the domain's columns beside them.
    pub(super) fn unnest(&mut self, rel: Rel, around: &Around<'_>) -> Result<(Rel, Columns)> {
        if !around.is_met_in(&rel) {
            let (domain, columns) = self.domain(around);
            let is_one_row = matches!(&rel, Rel::Values { columns, rows } if columns.is_empty() && rows.len() == 1);
            let rel = match is_one_row {
                true => domain,
                false => join(JoinKind::Inner, domain, rel, Vec::new()),
            };
            return Ok((rel, columns));
        }
        match rel {
            Rel::Filter { input, predicate } => {
                let (input, domain) = self.boxed(*input, around)?;
                let predicate = bound(predicate, around, &domain);
                Ok((Rel::Filter { input, predicate }, domain))
            }
            Rel::Project { input, expressions } => {
                let (input, domain) = self.boxed(*input, around)?;
                let mut all = kept(&domain);
                let own = expressions.into_iter();
                all.extend(own.map(|(id, e)| (id, bound(e, around, &domain))));
                let rel = Rel::Project {
                    input,
                    expressions: all,
                };
                Ok((rel, domain))
            }
            Rel::Sort { input, mut keys } => {
                let (input, domain) = self.boxed(*input, around)?;
                for key in &mut keys {
                    key.expr = bound(take_expr(&mut key.expr), around, &domain);
                }
                Ok((Rel::Sort { input, keys }, domain))
            }
            Rel::Distinct { input, on, order } => self.distinct(*input, on, order, around),
            Rel::Window { input, calls } => self.window(*input, calls, around),
            Rel::Expand { input, calls } => {
                let (input, domain) = self.boxed(*input, around)?;
                let bind = |call: SetCall| SetCall {
                    arguments: bound_all(call.arguments, around, &domain),
                    ..call
                };
                let calls = calls.into_iter().map(|(id, c)| (id, bind(c))).collect();
                Ok((Rel::Expand { input, calls }, domain))
            }
            Rel::Series {
                column,
                data_type,
                arguments,
            } => {
                let (input, domain) = self.domain(around);
                let call = SetCall {
                    kind: SetCallKind::Series,
                    arguments: bound_all(arguments, around, &domain),
                    returns: data_type,
                };
                let rel = Rel::Expand {
                    input: Box::new(input),
                    calls: vec![(column, call)],
                };
                Ok((rel, domain))
            }
            Rel::Values { columns, rows } => self.values(columns, rows, around),
            Rel::Limit {
                input,
                limit,
                offset,
            } => self.limit(*input, limit, offset, around),
            Rel::Join {
                kind,
                left,
                right,
                on,
            } => self.join(kind, *left, *right, on, around),
            Rel::SetOperation {
                kind,
                all,
                left,
                right,
                columns,
            } => self.set_operation(kind, all, (*left, *right), columns, around),
            Rel::Aggregate {
                input,
                keys,
                sets,
                aggregates,
            } => self.aggregate(*input, keys, sets, aggregates, around),
            Rel::Recursive { .. } | Rel::Working { .. } => Err(Failure::unsupported(
                "a recursive query that refers to a query around it",
            )),
            Rel::Scan(_) | Rel::Virtual { .. } => Err(Failure::unsupported(
                "an index's answer that depends on a query around it",
            )),
        }
    }

    fn distinct(
        &mut self,
        input: Rel,
        on: Option<Vec<Expr>>,
        order: Vec<SortKey>,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        let (input, domain) = self.boxed(input, around)?;
        let on = on.map(|on| {
            let own = bound_all(on, around, &domain);
            domain.iter().map(column).chain(own).collect::<Vec<Expr>>()
        });
        let order = match order.is_empty() {
            true => order,
            false => {
                let own = order.into_iter().map(|key| SortKey {
                    expr: bound(key.expr, around, &domain),
                    ..key
                });
                ascending(&domain).chain(own).collect()
            }
        };
        Ok((Rel::Distinct { input, on, order }, domain))
    }

    fn window(
        &mut self,
        input: Rel,
        calls: Vec<(ColumnId, WindowCall)>,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        let (input, domain) = self.boxed(input, around)?;
        let bind = |call: WindowCall| {
            let mut partition: Vec<Expr> = domain.iter().map(column).collect();
            partition.extend(bound_all(call.partition, around, &domain));
            WindowCall {
                arguments: bound_all(call.arguments, around, &domain),
                filter: call.filter.map(|e| bound(e, around, &domain)),
                order: bound_keys(call.order, around, &domain),
                partition,
                ..call
            }
        };
        let calls = calls.into_iter().map(|(id, c)| (id, bind(c))).collect();
        Ok((Rel::Window { input, calls }, domain))
    }

    /// A list of rows for every combination: a projection of the domain for each row.
    fn values(
        &mut self,
        columns: Columns,
        rows: Vec<Vec<Expr>>,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        let mut all: Option<(Rel, Columns)> = None;
        for row in rows {
            let (input, domain) = self.domain(around);
            let own: Columns = columns.iter().map(|(_, t)| (self.fresh(), *t)).collect();
            let mut expressions = kept(&domain);
            let values = bound_all(row, around, &domain);
            expressions.extend(own.iter().map(|(id, _)| *id).zip(values));
            let one = Rel::Project {
                input: Box::new(input),
                expressions,
            };
            let fields: Columns = domain.into_iter().chain(own).collect();
            all = Some(match all {
                None => (one, fields),
                Some((before, before_fields)) => {
                    let united: Columns = before_fields
                        .iter()
                        .map(|(_, t)| (self.fresh(), *t))
                        .collect();
                    let rel = Rel::SetOperation {
                        kind: SetKind::Union,
                        all: true,
                        left: Box::new(before),
                        right: Box::new(one),
                        columns: united.clone(),
                    };
                    (rel, united)
                }
            });
        }
        let (rel, fields) =
            all.ok_or_else(|| Failure::internal("no rows that refer to something around"))?;
        let (domain, own) = fields.split_at(around.columns.len());
        let domain = domain.to_vec();
        let mut expressions = kept(&domain);
        let named = columns.iter().zip(own);
        expressions.extend(named.map(|((id, _), from)| (*id, column(from))));
        let rel = Rel::Project {
            input: Box::new(rel),
            expressions,
        };
        Ok((rel, domain))
    }

    /// The first rows for each combination.
    fn limit(
        &mut self,
        input: Rel,
        limit: Option<Expr>,
        offset: Option<Expr>,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        let (input, keys) = match input {
            Rel::Sort { input, keys } => (*input, keys),
            other => (other, Vec::new()),
        };
        let rows = |e: &Option<Expr>, what: &str| match e {
            Some(e) => crate::rules::row_count(e, what),
            None => Ok(None),
        };
        let limit = rows(&limit, "LIMIT")?;
        let offset = rows(&offset, "OFFSET")?.unwrap_or(0);
        let (input, domain) = self.unnest(input, around)?;
        let number = (self.fresh(), DataType::Int8);
        let order = bound_keys(keys, around, &domain);
        let call = WindowCall {
            kind: WindowKind::RowNumber,
            arguments: Vec::new(),
            filter: None,
            partition: domain.iter().map(column).collect(),
            order: order.clone(),
            frame: None,
            returns: DataType::Int8,
        };
        let shown = input.columns();
        let bigint = |n: u64| {
            let n = i64::try_from(n).unwrap_or(i64::MAX);
            Box::new(Expr::Constant(Value::Int8(n), DataType::Int8))
        };
        let mut terms = vec![Expr::Compare(
            CompareOp::Gt,
            Box::new(column(&number)),
            bigint(offset),
        )];
        if let Some(limit) = limit {
            let last = bigint(offset.saturating_add(limit));
            terms.push(Expr::Compare(
                CompareOp::LtEq,
                Box::new(column(&number)),
                last,
            ));
        }
        let rel = Rel::Project {
            input: Box::new(Rel::Filter {
                input: Box::new(Rel::Window {
                    input: Box::new(input),
                    calls: vec![(number.0, call)],
                }),
                predicate: Expr::all(terms),
            }),
            expressions: kept(&shown),
        };
        let rel = match order.is_empty() {
            true => rel,
            false => Rel::Sort {
                input: Box::new(rel),
                keys: order,
            },
        };
        Ok((rel, domain))
    }

    fn join(
        &mut self,
        kind: JoinKind,
        left: Rel,
        right: Rel,
        on: Expr,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        // The side whose rows are all kept must have them for every combination.
        let left_met = around.is_met_in(&left);
        let right_met = around.is_met_in(&right);
        let (with_left, with_right) = match kind {
            JoinKind::Inner => (left_met || !right_met, right_met),
            JoinKind::Left => (true, right_met),
            JoinKind::Right => (left_met, true),
            JoinKind::Full => (true, true),
        };
        let mut domains = Vec::new();
        let mut side = |rewriter: &mut Self, rel: Rel, wanted: bool| -> Result<Rel> {
            if !wanted {
                return Ok(rel);
            }
            let (rel, domain) = rewriter.unnest(rel, around)?;
            domains.push(domain);
            Ok(rel)
        };
        let left = side(self, left, with_left)?;
        let right = side(self, right, with_right)?;
        let both = match &domains[..] {
            [left, right] => same(left, right),
            _ => Vec::new(),
        };
        let first = domains.first().cloned().unwrap_or_default();
        let mut terms = bound(on, around, &first).conjuncts();
        terms.extend(both);
        let shown: Columns = left.columns().into_iter().chain(right.columns()).collect();
        let rel = join(kind, left, right, terms);
        match (kind, &domains[..]) {
            (JoinKind::Right, [_, right]) => Ok((rel, right.clone())),
            (JoinKind::Full, [left, right]) => {
                let domain: Columns = left.iter().map(|(_, t)| (self.fresh(), *t)).collect();
                let mut expressions = kept(&shown);
                for ((id, t), (l, r)) in domain.iter().zip(left.iter().zip(right)) {
                    expressions.push((*id, Expr::Coalesce(vec![column(l), column(r)], *t)));
                }
                let rel = Rel::Project {
                    input: Box::new(rel),
                    expressions,
                };
                Ok((rel, domain))
            }
            _ => Ok((rel, first)),
        }
    }

    fn set_operation(
        &mut self,
        kind: SetKind,
        all: bool,
        (left, right): (Rel, Rel),
        columns: Columns,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        let mut side = |rel: Rel| -> Result<Box<Rel>> {
            let own = rel.columns();
            let (rel, domain) = self.unnest(rel, around)?;
            let mut expressions = kept(&own);
            expressions.extend(kept(&domain));
            Ok(Box::new(Rel::Project {
                input: Box::new(rel),
                expressions,
            }))
        };
        let left = side(left)?;
        let right = side(right)?;
        let domain: Columns = around
            .columns
            .iter()
            .map(|(_, t)| (self.fresh(), *t))
            .collect();
        let rel = Rel::SetOperation {
            kind,
            all,
            left,
            right,
            columns: columns.into_iter().chain(domain.clone()).collect(),
        };
        Ok((rel, domain))
    }

    fn aggregate(
        &mut self,
        input: Rel,
        keys: Vec<(ColumnId, Expr)>,
        sets: Option<Vec<Vec<usize>>>,
        aggregates: Vec<(ColumnId, AggregateCall)>,
        around: &Around<'_>,
    ) -> Result<(Rel, Columns)> {
        let is_total = keys.is_empty() || sets.iter().flatten().any(Vec::is_empty);
        if is_total && sets.is_some() {
            return Err(Failure::unsupported(
                "an empty grouping set that refers to a query around it",
            ));
        }
        let (input, domain) = self.boxed(input, around)?;
        let mut all: Vec<(ColumnId, Expr)> = keys
            .into_iter()
            .map(|(id, e)| (id, bound(e, around, &domain)))
            .collect();
        let first = all.len();
        all.extend(kept(&domain));
        let sets = sets.map(|sets| {
            let whole = |mut set: Vec<usize>| {
                set.extend(first..first + domain.len());
                set
            };
            sets.into_iter().map(whole).collect::<Vec<_>>()
        });
        let bind = |call: AggregateCall| AggregateCall {
            arguments: bound_all(call.arguments, around, &domain),
            filter: call.filter.map(|e| bound(e, around, &domain)),
            order: bound_keys(call.order, around, &domain),
            ..call
        };
        let is_count = |call: &AggregateCall| {
            matches!(call.kind, AggregateKind::Count | AggregateKind::CountStar)
        };
        let mut shown: Vec<(ColumnId, Expr)> = Vec::new();
        let mut calls = Vec::new();
        for (id, call) in aggregates {
            let returns = call.returns;
            let zero = Expr::Constant(Value::Int8(0), DataType::Int8);
            let own = match is_total && is_count(&call) {
                true => self.fresh(),
                false => id,
            };
            let value = Expr::column(own, returns);
            shown.push((
                id,
                match own == id {
                    true => value,
                    false => Expr::Coalesce(vec![value, zero], returns),
                },
            ));
            calls.push((own, bind(call)));
        }
        let grouped = Rel::Aggregate {
            input,
            keys: all,
            sets,
            aggregates: calls,
        };
        if !is_total {
            return Ok((grouped, domain));
        }
        // A grouping of everything has a row even when there is nothing to group.
        let (every, every_domain) = self.domain(around);
        let on = same(&every_domain, &domain);
        let mut expressions = kept(&every_domain);
        expressions.extend(shown);
        let rel = Rel::Project {
            input: Box::new(join(JoinKind::Left, every, grouped, on)),
            expressions,
        };
        Ok((rel, every_domain))
    }
}
