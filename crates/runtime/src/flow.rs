//! What the nodes of one process know of each other: who has finished, whether to stop, and how
//! many records stand between them.

use std::{
    collections::BTreeMap,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use driftline_types::StageName;

/// Bounds on what a process holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records written but not yet read by the next node, over all edges, beyond which sources wait. Only what this process reads
    /// is counted: none where others read too.
    pub backlog_records: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { backlog_records: 20_000 }
    }
}

/// How the nodes are asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Sources stop; what is in the log is worked off. Buffered state is kept for the next run.
    Drain,
    /// Every node stops after its current batch.
    Now,
}

/// Shared by all nodes of a run.
pub(crate) struct Flow {
    finished: BTreeMap<StageName, AtomicBool>,
    stop: Mutex<Option<Stop>>,
    changed: Condvar,
    backlog: AtomicI64,
    limits: Limits,
}

impl Flow {
    pub(crate) fn new(nodes: impl IntoIterator<Item = StageName>, limits: Limits) -> Self {
        Self {
            finished: nodes.into_iter().map(|name| (name, AtomicBool::new(false))).collect(),
            stop: Mutex::new(None),
            changed: Condvar::new(),
            backlog: AtomicI64::new(0),
            limits,
        }
    }

    /// Notes that a node has written its last record.
    pub(crate) fn finish(&self, node: &StageName) {
        if let Some(flag) = self.finished.get(node) {
            flag.store(true, Ordering::Release);
        }
        self.changed.notify_all();
    }

    /// Returns whether all these nodes have written their last record. One that runs in another process never has.
    pub(crate) fn finished<'a>(&self, nodes: impl IntoIterator<Item = &'a StageName>) -> bool {
        nodes.into_iter().all(|name| self.finished.get(name).is_some_and(|flag| flag.load(Ordering::Acquire)))
    }

    /// Asks every node to end; a stronger request replaces a weaker one.
    pub(crate) fn stop(&self, how: Stop) {
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if *stop != Some(Stop::Now) {
            *stop = Some(how);
        }
        self.changed.notify_all();
    }

    /// Returns how the nodes were asked to end, if they were.
    pub(crate) fn stopping(&self) -> Option<Stop> {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes records written to an edge (one count a reader) or read from it.
    pub(crate) fn add_backlog(&self, records: i64) {
        self.backlog.fetch_add(records, Ordering::AcqRel);
        if records < 0 {
            self.changed.notify_all();
        }
    }

    /// Waits for `time`, until a stop is asked for. Used by sources.
    pub(crate) fn wait(&self, time: Duration) {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if stop.is_none() {
            let _ = self.changed.wait_timeout_while(stop, time, |stop| stop.is_none());
        }
    }

    /// Waits for `time`, until the nodes are asked to stop at once. Used between attempts at what has to be done before
    /// a drained run can end.
    pub(crate) fn pause(&self, time: Duration) {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if *stop != Some(Stop::Now) {
            let _ = self.changed.wait_timeout_while(stop, time, |stop| *stop != Some(Stop::Now));
        }
    }

    /// Waits until the backlog is below its limit or a stop is asked for.
    pub(crate) fn wait_for_room(&self) {
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        while stop.is_none() && self.backlog.load(Ordering::Acquire) > self.limits.backlog_records {
            let (guard, _) =
                self.changed.wait_timeout(stop, Duration::from_millis(20)).unwrap_or_else(PoisonError::into_inner);
            stop = guard;
        }
    }
}
