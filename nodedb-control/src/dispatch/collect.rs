//! Reading an answer whole: the small replies, of which there is one of a kind, and those of several
//! cores that make one answer.

use std::future::poll_fn;
use std::task::Poll;

use arrow::array::RecordBatch;
use nodedb_bridge::plan::{Extent, LeafReport, TextStatistics};
use nodedb_bridge::reply::{Frame, ReplyReader};
use nodedb_bridge::request::CoreReport;
use nodedb_types::{CommitTs, Failure, Result};

use super::Dispatcher;

/// What a stream without an end means: the core dropped the work without an answer.
pub fn broken_off() -> Failure {
    Failure::internal("a core dropped a request without an answer")
}

/// A frame that the request does not give.
pub fn unexpected(frame: &Frame) -> Failure {
    let kind = match frame {
        Frame::Batch(_) => "rows",
        Frame::Row(_) => "a row",
        Frame::Count(_) => "a count",
        Frame::Written(_) => "a number of written rows",
        Frame::Statistics(_) => "statistics",
        Frame::Vote { .. } => "a vote",
        Frame::Leased(_) => "a lease",
        Frame::Report(_) => "a report",
        Frame::Progress { .. } => "progress",
        Frame::End(_) => "the end",
        Frame::Failed(_) => "a failure",
    };
    Failure::internal(format!(
        "a core answered with {kind} where that makes no sense"
    ))
}

/// The answers of several cores, to be read as one.
pub struct Gathered {
    /// By position; none where the stream has ended.
    readers: Vec<Option<ReplyReader>>,
}

impl Gathered {
    pub fn new(readers: Vec<ReplyReader>) -> Gathered {
        Gathered {
            readers: readers.into_iter().map(Some).collect(),
        }
    }

    fn len(&self) -> usize {
        self.readers.len()
    }

    /// Feeds each frame before the ends to `take`, with the position of its stream. A failure ends
    /// it, and the work on the other cores with it; one that the rows are the reason of only when
    /// the cores before have ended, so that which of several counts is no matter of time.
    pub async fn drain(mut self, mut take: impl FnMut(usize, Frame) -> Result<()>) -> Result<()> {
        let mut failed = None;
        poll_fn(|cx| {
            let mut at = 0;
            let mut is_waiting = false;
            while at < self.readers.len() {
                let Some(reader) = &mut self.readers[at] else {
                    at += 1;
                    continue;
                };
                match reader.poll_next(cx) {
                    Poll::Ready(Some(Frame::End(_))) => self.readers[at] = None,
                    Poll::Ready(Some(Frame::Failed(failure))) if failure.is_of_values() => {
                        self.readers.truncate(at);
                        failed = Some(failure);
                    }
                    Poll::Ready(Some(Frame::Failed(failure))) => return Poll::Ready(Err(failure)),
                    Poll::Ready(Some(_)) if failed.is_some() => {}
                    Poll::Ready(Some(frame)) => take(at, frame)?,
                    Poll::Ready(None) => return Poll::Ready(Err(broken_off())),
                    Poll::Pending => {
                        is_waiting = true;
                        at += 1;
                    }
                }
            }
            match is_waiting {
                true => Poll::Pending,
                false => Poll::Ready(failed.take().map_or(Ok(()), Err)),
            }
        })
        .await
    }

    /// The rows of each stream.
    pub async fn batches(self) -> Result<Vec<Vec<RecordBatch>>> {
        let mut parts = vec![Vec::new(); self.len()];
        self.drain(|at, frame| match frame {
            Frame::Batch(batch) => {
                parts[at].push(batch);
                Ok(())
            }
            other => Err(unexpected(&other)),
        })
        .await?;
        Ok(parts)
    }

    /// The sum of the counts.
    pub async fn count(self) -> Result<u64> {
        let counts = self.each(|frame| match frame {
            Frame::Count(n) => Ok(n),
            other => Err(other),
        });
        Ok(counts.await?.into_iter().sum())
    }

    /// The statistics of all, merged.
    pub async fn statistics(self) -> Result<TextStatistics> {
        let parts = self.each(|frame| match frame {
            Frame::Statistics(part) => Ok(part),
            other => Err(other),
        });
        let mut all = TextStatistics::default();
        for part in parts.await? {
            all.merge(&part);
        }
        Ok(all)
    }

    /// The answers, of which each stream has one of one kind.
    async fn each<T>(
        self,
        kind: impl Fn(Frame) -> std::result::Result<T, Frame>,
    ) -> Result<Vec<T>> {
        let mut got: Vec<Option<T>> = std::iter::repeat_with(|| None).take(self.len()).collect();
        self.drain(|at, frame| {
            if got[at].is_some() {
                return Err(unexpected(&frame));
            }
            got[at] = Some(kind(frame).map_err(|frame| unexpected(&frame))?);
            Ok(())
        })
        .await?;
        got.into_iter()
            .map(|one| one.ok_or_else(broken_off))
            .collect()
    }
}

impl Dispatcher {
    /// Feeds each frame before the end to `take`; gives the core's report, if it sent one.
    pub async fn drain(
        &self,
        mut reader: ReplyReader,
        mut take: impl FnMut(Frame) -> Result<()>,
    ) -> Result<Option<Box<LeafReport>>> {
        loop {
            match reader.next().await {
                Some(Frame::End(report)) => return Ok(report),
                Some(Frame::Failed(failure)) => return Err(failure),
                Some(frame) => take(frame)?,
                None => return Err(broken_off()),
            }
        }
    }

    /// An answer without content: the work is done and durable.
    pub async fn done(&self, reader: ReplyReader) -> Result<()> {
        self.drain(reader, |frame| Err(unexpected(&frame))).await?;
        Ok(())
    }

    /// Waits for all of them, also when one fails; then gives the first failure.
    pub async fn all_done(&self, readers: Vec<ReplyReader>) -> Result<()> {
        let ends = readers.into_iter().map(|reader| self.done(reader));
        for end in futures::future::join_all(ends).await {
            end?;
        }
        Ok(())
    }

    /// Rows to be returned, and the number of rows changed.
    pub async fn written(&self, reader: ReplyReader) -> Result<(Vec<RecordBatch>, u64)> {
        let (mut batches, mut rows) = (Vec::new(), 0);
        self.drain(reader, |frame| match frame {
            Frame::Batch(batch) => {
                batches.push(batch);
                Ok(())
            }
            Frame::Written(n) => {
                rows = n;
                Ok(())
            }
            other => Err(unexpected(&other)),
        })
        .await?;
        Ok((batches, rows))
    }

    pub async fn batches(&self, reader: ReplyReader) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        self.drain(reader, |frame| match frame {
            Frame::Batch(batch) => {
                batches.push(batch);
                Ok(())
            }
            other => Err(unexpected(&other)),
        })
        .await?;
        Ok(batches)
    }

    /// One row as it is encoded, if there is one.
    pub async fn row(&self, reader: ReplyReader) -> Result<Option<Box<[u8]>>> {
        let mut row = None;
        self.drain(reader, |frame| match frame {
            Frame::Row(bytes) => {
                row = Some(bytes);
                Ok(())
            }
            other => Err(unexpected(&other)),
        })
        .await?;
        Ok(row)
    }

    pub async fn vote(&self, reader: ReplyReader) -> Result<CommitTs> {
        self.one(reader, |frame| match frame {
            Frame::Vote { prepare_ts } => Ok(prepare_ts),
            other => Err(other),
        })
        .await
    }

    pub async fn leased(&self, reader: ReplyReader) -> Result<Extent> {
        self.one(reader, |frame| match frame {
            Frame::Leased(extent) => Ok(extent),
            other => Err(other),
        })
        .await
    }

    pub async fn report(&self, reader: ReplyReader) -> Result<CoreReport> {
        self.one(reader, |frame| match frame {
            Frame::Report(report) => Ok(*report),
            other => Err(other),
        })
        .await
    }

    /// An answer of exactly one frame of one kind.
    async fn one<T>(
        &self,
        reader: ReplyReader,
        kind: impl Fn(Frame) -> std::result::Result<T, Frame>,
    ) -> Result<T> {
        let mut got = None;
        self.drain(reader, |frame| {
            if got.is_some() {
                return Err(unexpected(&frame));
            }
            got = Some(kind(frame).map_err(|frame| unexpected(&frame))?);
            Ok(())
        })
        .await?;
        got.ok_or_else(broken_off)
    }
}
