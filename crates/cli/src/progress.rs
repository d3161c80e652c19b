//! How far a run is: a line on a terminal, or a line of a log every few seconds.

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use driftline_runtime::{Metrics, NodeKind};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{logging, print};

/// Shows the progress of a run until it is finished.
pub(crate) struct Progress {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins to show it. Not where lines would fill a log: without a terminal, of a run that goes on for ever, and among log
    /// lines that are for programs.
    pub(crate) fn start(metrics: Arc<Metrics>, follow: bool) -> Option<Self> {
        let terminal = std::io::stderr().is_terminal();
        if !terminal && (follow || logging::is_json()) {
            return None;
        }
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let every = if terminal { Duration::from_millis(100) } else { Duration::from_secs(2) };
            let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
                bar.set_style(style);
            }
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let line = line(&metrics);
                if terminal {
                    bar.set_message(line);
                    bar.tick();
                } else {
                    print::tell!("{:.0} s: {line}", metrics.elapsed().as_secs_f64());
                }
            }
            bar.finish_and_clear();
        });
        Some(Self { stop, thread: Some(thread) })
    }

    pub(crate) fn finish(mut self) {
        // An error means that the thread has ended already.
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `microphone 1200 → vad 1100 → 24 asr …`: what each node has read and written.
fn line(metrics: &Metrics) -> String {
    let nodes = metrics.snapshot().into_iter().map(|node| match node.kind {
        NodeKind::Source => format!("{} {}", node.name, node.written),
        NodeKind::Stage => format!("{} {} → {}", node.name, node.read, node.written),
        NodeKind::Sink => format!("{} {}", node.name, node.read),
    });
    nodes.collect::<Vec<_>>().join(" │ ")
}
