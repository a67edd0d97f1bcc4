//! A bound write and its parameters become a plan: rows encoded, keys placed, reads nested.

use nodedb_bridge::schedule;

use super::*;

impl WriteTemplate {
    pub(in crate::bind) fn instantiate(&self, given: &Given<'_>) -> Result<Plan> {
        let source = match &self.kind {
            WriteKind::Rows { rows, conflict } => {
                let conflict = self.on_conflict(conflict, given)?;
                let mut writes = Vec::with_capacity(rows.len());
                for row in rows {
                    schedule::breathe();
                    let values = row
                        .iter()
                        .map(|e| given.value(e))
                        .collect::<Result<Vec<_>>>()?;
                    let write = insert_row(
                        &self.collection,
                        values,
                        conflict.clone(),
                        given.environment,
                    )?;
                    writes.push(write);
                }
                WriteSource::Keyed(distinct(&self.collection, writes)?)
            }
            WriteKind::Query { query, conflict } => {
                let conflict = self.on_conflict(conflict, given)?;
                WriteSource::Read {
                    read: Box::new(rules::plan_query(query.clone(), given)?),
                    sink: self.sink(SinkKind::Insert(conflict), given),
                }
            }
            WriteKind::Change {
                rel,
                scan,
                assignments,
                others,
                alone,
            } => {
                let others = (!alone).then_some(&others[..]);
                self.change(rel, scan, assignments.as_deref(), others, given)?
            }
        };
        Ok(Plan::Write(Box::new(WritePlan {
            command: self.command,
            collection: self.collection.clone(),
            returning: self.returning.clone(),
            source,
        })))
    }

    fn sink(&self, kind: SinkKind, given: &Given<'_>) -> Arc<Sink> {
        Arc::new(Sink {
            collection: self.collection.clone(),
            kind,
            returning: self.returning.clone(),
            environment: given.environment.clone(),
        })
    }

    fn on_conflict(&self, conflict: &Conflict, given: &Given<'_>) -> Result<OnConflict> {
        Ok(match conflict {
            Conflict::Fail => OnConflict::Fail,
            Conflict::Nothing => OnConflict::Nothing,
            Conflict::Update {
                condition,
                assignments,
                columns,
            } => {
                let condition = condition.clone().map(|e| given.fold(e)).transpose()?;
                let assignments = fold_all(assignments, given)?;
                let position = |id: ColumnId| columns.iter().position(|c| *c == id);
                let change = Change::new(
                    self.collection.clone(),
                    condition,
                    Some(assignments),
                    &position,
                )?;
                OnConflict::Rewrite(Arc::new(change))
            }
        })
    }

    fn change(
        &self,
        rel: &Rel,
        scan: &Scan,
        assignments: Option<&[(usize, Expr)]>,
        others: Option<&[(ColumnId, DataType)]>,
        given: &Given<'_>,
    ) -> Result<WriteSource> {
        let assignments = assignments.map(|list| fold_all(list, given)).transpose()?;
        if others.is_none()
            && let Some(writes) = self.by_key(rel, scan, assignments.as_deref(), given)?
        {
            return Ok(WriteSource::Keyed(writes));
        }
        let read = self.read(rel.clone(), scan, assignments.as_deref(), others);
        let kind = match assignments {
            Some(_) => SinkKind::Update,
            None => SinkKind::Delete,
        };
        Ok(WriteSource::Read {
            read: Box::new(rules::plan_query(read, given)?),
            sink: self.sink(kind, given),
        })
    }

    /// Writes by key, when the condition names every key and nothing else than the row is read.
    fn by_key(
        &self,
        rel: &Rel,
        scan: &Scan,
        assignments: Option<&[(usize, Expr)]>,
        given: &Given<'_>,
    ) -> Result<Option<Vec<RowWrite>>> {
        let Rel::Filter { predicate, .. } = rel else {
            return Ok(None);
        };
        let Some(key) = self.collection.key else {
            return Ok(None);
        };
        let own = |e: &Expr| {
            !e.has_subquery()
                && !e.any(|e| match e {
                    Expr::Volatile { .. } => true,
                    Expr::Column { id, .. } => scan.position(*id).is_none(),
                    _ => false,
                })
        };
        let list = assignments.unwrap_or_default();
        if !own(predicate) || list.iter().any(|(c, e)| *c == key || !own(e)) {
            return Ok(None);
        }
        let conjuncts = given.fold(predicate.clone())?.conjuncts();
        let Some((keys, rest)) = rules::keys_of(scan, conjuncts)? else {
            return Ok(None);
        };
        let condition = (!rest.is_empty()).then(|| Expr::all(rest));
        let position = |id: ColumnId| scan.position(id);
        let rewrite: Arc<dyn RowRewrite> = Arc::new(Change::new(
            self.collection.clone(),
            condition,
            assignments.map(<[_]>::to_vec),
            &position,
        )?);
        let mut writes = Vec::with_capacity(keys.len());
        for key in keys {
            let key = key_bytes(&key)?;
            writes.push(RowWrite {
                shard: shard_of(&key, given.environment),
                key,
                action: RowAction::Rewrite(rewrite.clone()),
            });
        }
        distinct(&self.collection, writes).map(Some)
    }

    /// The read behind an UPDATE or DELETE by predicate: which row version, and the row as it will
    /// be (or, for a DELETE that returns something, as it is).
    fn read(
        &self,
        rel: Rel,
        scan: &Scan,
        assignments: Option<&[(usize, Expr)]>,
        others: Option<&[(ColumnId, DataType)]>,
    ) -> Query {
        let identity_types = [
            DataType::Int8,
            DataType::Int8,
            DataType::Int4,
            DataType::Bytea,
        ];
        let mut expressions: Vec<(ColumnId, Expr)> = scan
            .identity
            .iter()
            .zip(identity_types)
            .map(|(id, t)| (*id, Expr::column(*id, t)))
            .collect();
        if assignments.is_some() || self.returning.is_some() {
            for (i, (id, column)) in scan
                .columns
                .iter()
                .zip(&self.collection.columns)
                .enumerate()
            {
                let new = assignments.and_then(|list| list.iter().find(|(c, _)| *c == i));
                match new {
                    // The new value may not take the old one's name.
                    Some((_, e)) => expressions.push((ColumnId(NEW_VALUES + i as u32), e.clone())),
                    None => expressions.push((*id, Expr::column(*id, column.data_type))),
                }
            }
        }
        if self.returning.is_some() {
            let joined = others.unwrap_or_default();
            expressions.extend(joined.iter().map(|(id, t)| (*id, Expr::column(*id, *t))));
        }
        let columns = expressions
            .iter()
            .map(|(id, e)| {
                let column = ResultColumn {
                    name: format!("{id:?}"),
                    data_type: e.data_type(),
                    shown_as: None,
                };
                (*id, column)
            })
            .collect();
        let mut rel = Rel::Project {
            input: Box::new(rel),
            expressions,
        };
        if others.is_some() {
            // A row that joins several times is changed once.
            rel = Rel::Distinct {
                input: Box::new(rel),
                on: Some(vec![Expr::column(scan.identity[0], DataType::Int8)]),
                order: Vec::new(),
            };
        }
        Query { rel, columns }
    }
}

fn fold_all(list: &[(usize, Expr)], given: &Given<'_>) -> Result<Vec<(usize, Expr)>> {
    list.iter()
        .map(|(c, e)| Ok((*c, given.fold(e.clone())?)))
        .collect()
}
