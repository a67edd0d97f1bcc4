//! Long work that `SHOW JOBS` lists: the building of indexes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nodedb_types::{CommitTs, Failure};

/// Jobs that are kept after their end, so that their outcome can be read.
const FINISHED_KEPT: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    Running,
    Done,
    Failed(String),
}

impl JobState {
    pub fn name(&self) -> &'static str {
        match self {
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Failed(_) => "failed",
        }
    }
}

/// One job: `done` of `total` rows per core, added up.
#[derive(Debug)]
pub struct Job {
    pub id: u64,
    pub kind: &'static str,
    /// What it works on, such as the index's name.
    pub object: String,
    pub started: CommitTs,
    /// By core.
    progress: Vec<(AtomicU64, AtomicU64)>,
    state: Mutex<JobState>,
}

impl Job {
    pub fn report(&self, core: usize, done: u64, total: u64) {
        self.progress[core].0.store(done, Ordering::Relaxed);
        self.progress[core].1.store(total, Ordering::Relaxed);
    }

    /// Rows done and in all, as far as known.
    pub fn progress(&self) -> (u64, u64) {
        self.progress.iter().fold((0, 0), |(done, total), part| {
            (
                done + part.0.load(Ordering::Relaxed),
                total + part.1.load(Ordering::Relaxed),
            )
        })
    }

    pub fn state(&self) -> JobState {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clone()
    }

    pub fn finish(&self, outcome: Result<(), &Failure>) {
        let state = match outcome {
            Ok(()) => JobState::Done,
            Err(failure) => JobState::Failed(failure.message().to_owned()),
        };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// The jobs of this run: those that run and the last that ended.
#[derive(Debug, Default)]
pub struct Jobs {
    last_id: AtomicU64,
    jobs: Mutex<VecDeque<Arc<Job>>>,
}

impl Jobs {
    pub fn start(
        &self,
        kind: &'static str,
        object: String,
        started: CommitTs,
        cores: u16,
    ) -> Arc<Job> {
        let job = Arc::new(Job {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            kind,
            object,
            started,
            progress: (0..cores).map(|_| Default::default()).collect(),
            state: Mutex::new(JobState::Running),
        });
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.push_back(job.clone());
        while jobs.len() > FINISHED_KEPT {
            let Some(ended) = jobs.iter().position(|j| j.state() != JobState::Running) else {
                break;
            };
            jobs.remove(ended);
        }
        job
    }

    pub fn list(&self) -> Vec<Arc<Job>> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.iter().cloned().collect()
    }
}
