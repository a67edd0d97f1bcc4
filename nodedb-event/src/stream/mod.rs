//! One reader of a change stream: a task of the plane.
//!
//! It reads from the log until it reaches the bus's window and from the window from then on; when
//! the window moves on before it (a slow reader, a core that left events out), it returns to the
//! log where it was. A read that does not follow ends with what was committed when it began.
//!
//! A page of the log is held by those only who have a turn: a read that ends for as long as it
//! runs, one that follows until it has sent what it read back. Waiting for news needs none.

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

use crate::bus::Next;
use crate::plane::{Shared, Turn};
use render::Render;

/// Serves one read until it ends, fails, or its reader goes away.
pub async fn serve(
    shared: Rc<Shared>,
    request: StreamRequest,
    turn: Option<Turn>,
    mut to: StreamSender,
    gone: ReaderGone,
) {
    let work = async move {
        let mut reader = Reader::new(&shared, &request, turn);
        loop {
            match reader.next().await {
                Ok(Some(piece)) if piece.is_empty() => {}
                Ok(Some(piece)) => {
                    if !to.send(Ok(piece)).await {
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
    /// While it may hold a page of the log.
    turn: Option<Turn>,
    follow: bool,
}

impl Reader<'_> {
    fn new<'a>(shared: &'a Shared, request: &StreamRequest, turn: Option<Turn>) -> Reader<'a> {
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
            turn,
            follow: request.follow,
        }
    }

    /// The next piece, which may be empty; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<StreamEvent>>> {
        if !self.ready.is_empty() {
            return self.render().map(Some);
        }
        if self.follow {
            self.turn = None;
        }
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
                if self.turn.is_none() {
                    self.turn = Some(self.shared.turn().await?);
                }
                let page = self.shared.log.page(self.query(before)).await?;
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
                let made = self.render.event(event)?;
                let image = |image: &Option<String>| image.as_ref().map_or(0, String::len);
                bytes += made.key.len() + image(&made.before) + image(&made.after);
                piece.push(made);
            }
        }
        Ok(piece)
    }
}
