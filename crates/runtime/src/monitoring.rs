//! What a run needs of its monitor: the bins that nodes count on, and a thread beside theirs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use driftline_stage::operator::{Bins, Schedule};
use driftline_types::StageName;

use crate::flow::{Flow, Stop};

/// How a run is monitored.
#[derive(Clone, Default)]
pub struct Monitoring {
    /// What each source and stage counts on; one that is not named counts on declared scales.
    pub bins: BTreeMap<StageName, Bins>,
    /// The probes that each source sends.
    pub probes: BTreeMap<StageName, Arc<Schedule>>,
    /// What watches the run from beside its nodes.
    pub companion: Option<Arc<dyn Companion>>,
}

/// Runs beside the nodes of a plan on a thread of its own and is no part of the graph: nothing waits for it but
/// the end of the run. What goes wrong with it is its own to report; it stops no node.
pub trait Companion: Send + Sync {
    /// Works until there is nothing more to come.
    fn run(&self, nodes: &Nodes);
}

/// The nodes that a companion runs beside.
pub struct Nodes {
    pub(crate) flow: Arc<Flow>,
    /// Those that write: sources and stages.
    pub(crate) writers: Vec<StageName>,
}

impl Nodes {
    /// Says whether every node of this process has written its last record.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.flow.finished(&self.writers)
    }

    /// Says whether the nodes were asked to stop before they came to their end.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.flow.stopping().is_some()
    }

    /// Says whether the run ends now, finished or not.
    #[must_use]
    pub fn cut_off(&self) -> bool {
        self.flow.stopping() == Some(Stop::Now)
    }

    /// Waits for `time`, or until the run is asked to stop.
    pub fn wait(&self, time: Duration) {
        self.flow.wait(time);
    }
}
