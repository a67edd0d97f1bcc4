//! One reader of a change stream: a task of the plane.
//!
//! It reads from the log until it reaches the bus's window and from the window from then on; when
//! the window moves on before it (a slow reader, a core that left events out), it returns to the
//! log where it was. A read that does not follow ends with what was committed when it began.
//!
//! A page of the log is held by those only who have a turn, until they have sent what they read
//! back. One whose reader takes nothing while others wait for a turn forgets what it has not sent
//! and reads that again later, from the part of the commit where it stopped. Waiting for news needs none.

mod render;

use std::rc::Rc;
use std::sync::Arc;

use futures::future::{Either, select};
use nodedb_bridge::event::EventBatch;
use nodedb_bridge::port::{
    EventPosition, LogQuery, ReaderGone, StreamEvent, StreamRequest, StreamSender,
};
use nodedb_types::limits::{STREAM_LOG_PAGE_BYTES, STREAM_PAGE_BYTES};
use nodedb_types::{CollectionId, CommitTs, Result};

use crate::bus::{Next, position};
use crate::plane::{Shared, Turn};
use render::Render;

/// Serves one read until it ends, fails, or its reader goes away.
pub async fn serve(
    shared: Rc<Shared>,
    request: StreamRequest,
    mut to: StreamSender,
    gone: ReaderGone,
) {
    let work = async move {
        let mut reader = Reader::new(&shared, &request);
        loop {
            match reader.next().await {
                Ok(Some(piece)) if piece.is_empty() => {}
                Ok(Some(piece)) => {
                    let mut sent = std::pin::pin!(to.send(Ok(piece)));
                    if reader.turn.is_some() {
                        let wanted = std::pin::pin!(shared.wanted());
                        match select(sent.as_mut(), wanted).await {
                            Either::Left((true, _)) => continue,
                            Either::Left((false, _)) => return,
                            Either::Right(((), _)) => reader.give_back(),
                        }
                    }
                    if !sent.await {
                        return;
                    }
                }
                Ok(None) => return to.end().await,
                Err(failure) => {
                    // Nobody may be left to hear it.
                    to.send(Err(failure)).await;
                    return;
                }
            }
        }
    };
    match select(std::pin::pin!(work), gone).await {
        Either::Left(((), _)) | Either::Right(((), _)) => {}
    }
}

struct Reader<'a> {
    shared: &'a Shared,
    collection: CollectionId,
    render: Render,
    retention_bytes: u64,
    /// The first commit of the stream.
    first: CommitTs,
    /// The next event wanted; `None`: the oldest kept.
    at: Option<EventPosition>,
    /// Where a read ends that does not follow.
    before: CommitTs,
    /// Read and not sent: the batch and its next event.
    ready: std::collections::VecDeque<(Arc<EventBatch>, usize)>,
    /// The last batch that events were taken from, and how many of its events.
    taken: (EventPosition, usize),
    /// Events of that batch which are passed over where it is read again.
    passed: usize,
    /// While it may hold a page of the log.
    turn: Option<Turn>,
}

impl Reader<'_> {
    fn new<'a>(shared: &'a Shared, request: &StreamRequest) -> Reader<'a> {
        let stream = &request.stream;
        let first = CommitTs(stream.created.0 + 1);
        let now = shared.bus.borrow().now();
        Reader {
            shared,
            collection: stream.collection,
            render: Render::new(&request.collection),
            retention_bytes: stream.retention_bytes,
            first,
            at: request
                .since
                .map(|since| EventPosition::at(since.max(first))),
            before: if request.follow {
                CommitTs(u64::MAX)
            } else {
                CommitTs(now.0 + 1)
            },
            ready: std::collections::VecDeque::new(),
            taken: (EventPosition::default(), 0),
            passed: 0,
            turn: None,
        }
    }

    /// The next piece, which may be empty; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<StreamEvent>>> {
        if !self.ready.is_empty() {
            return self.render().map(Some);
        }
        // Those who wait come first.
        self.turn = None;
        let from = self.at.unwrap_or(EventPosition::at(self.first));
        if from.commit_ts >= self.before {
            return Ok(None);
        }
        // Taken before the look, so that news in between is not missed.
        let news = self.shared.news.notified();
        let next =
            self.shared
                .bus
                .borrow()
                .next(self.collection, from, self.before, STREAM_PAGE_BYTES);
        match next {
            // What was committed before this read began may be in the rings still.
            Next::Wait if self.shared.drain() => {}
            Next::Wait => news.await,
            Next::Window(batches, next) => {
                self.ready.extend(batches.into_iter().map(|b| (b, 0)));
                self.at = Some(next);
            }
            Next::Log { before } => {
                let turn = self.shared.turn().await;
                let (page, turn) = self.shared.log.page(self.query(before), turn).await?;
                self.turn = Some(turn);
                let batches = page.batches.into_iter().map(|b| (Arc::new(b), 0));
                self.ready.extend(batches);
                if !page.again {
                    self.at = Some(page.next.unwrap_or(EventPosition::at(before)));
                }
            }
        }
        self.render().map(Some)
    }

    fn query(&self, before: CommitTs) -> LogQuery {
        LogQuery {
            collection: self.collection,
            from: self.at,
            since: self.first,
            before,
            retention_bytes: self.retention_bytes,
            bytes_max: STREAM_LOG_PAGE_BYTES,
        }
    }

    /// Forgets what was read back and not sent. It is read again from the last batch that
    /// something was taken from; before that, `at` is where it was.
    fn give_back(&mut self) {
        if !self.ready.is_empty() {
            self.ready.clear();
            let (batch, taken) = self.taken;
            self.at = Some(batch);
            self.passed = taken;
        }
        self.turn = None;
    }

    /// Takes about a page from what is ready.
    fn render(&mut self) -> Result<Vec<StreamEvent>> {
        let mut piece = Vec::new();
        let mut bytes = 0;
        while bytes < STREAM_PAGE_BYTES
            && let Some((batch, next)) = self.ready.front_mut()
        {
            let Some(event) = batch.events.get(*next) else {
                self.ready.pop_front();
                continue;
            };
            *next += 1;
            if event.collection == self.collection {
                let place = position(batch);
                if self.taken.0 != place {
                    (self.taken, self.passed) = ((place, 0), 0);
                }
                if self.passed > 0 {
                    self.passed -= 1;
                    continue;
                }
                self.taken.1 += 1;
                let made = self.render.event(event)?;
                let image = |image: &Option<String>| image.as_ref().map_or(0, String::len);
                bytes += made.key.len() + image(&made.before) + image(&made.after);
                piece.push(made);
            }
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::log::LogClient;
    use crate::plane::Plane;
    use crate::tests::node::{Node, PAGE_PARTS, ids, request, update, wait};

    /// A commit that the log gives in many parts, and a reader that gives its turn back after each
    /// piece of it: it goes on with the part where it stopped, whatever came before.
    #[test]
    fn a_commit_is_read_on_from_the_part_where_its_reader_stopped() {
        let (mut node, events) = Node::new(64);
        let wide = "x".repeat(STREAM_PAGE_BYTES / 3);
        let ts = node.begin(0);
        let rows: Vec<i64> = (0..300).collect();
        let changes = rows.iter().map(|id| update(ts, *id, &wide));
        node.finish(0, ts, changes.collect());
        let (log, thread) = LogClient::start(node.open_log()).unwrap();
        let (plane, streams) = Plane::new(events, node.clock.clone(), log);
        let shared = plane.shared();
        shared.drain();
        let request = request(None, false);
        let (mut got, mut pieces) = (Vec::new(), 0);
        wait(async {
            let mut reader = Reader::new(&shared, &request);
            while let Some(piece) = reader.next().await.unwrap() {
                got.extend(ids(&piece));
                reader.give_back();
                pieces += 1;
            }
        });
        assert_eq!(got, rows);
        assert!(pieces > 80);
        assert!(node.log.given.load(Ordering::Relaxed) <= pieces * PAGE_PARTS as u64);
        drop((plane, shared, streams));
        thread.join().unwrap();
    }
}
