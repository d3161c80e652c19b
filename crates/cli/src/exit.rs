//! How the command ends.

use std::process::ExitCode;

use driftline_runtime::End;

/// Exit codes of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: it did what was asked. Dead letters are no failure; the summary counts them.
    Success,
    /// 1: it failed while running, or a test of a pipeline failed.
    Failed,
    /// 2: the arguments or the pipeline file are wrong; nothing was run.
    Usage,
    /// 130: it was asked to stop before its sources ended, and did so in order; what takes all their records was not made.
    /// Asked again, or while it worked on what a run had left, it ended at once.
    Stopped,
}

impl From<End> for Exit {
    fn from(end: End) -> Self {
        match end {
            End::Finished => Self::Success,
            End::Stopped | End::CutOff => Self::Stopped,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Stopped => 130,
        })
    }
}

/// Why the command failed, in words for people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub(crate) fn usage(message: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Usage, message: message.to_string() }
    }

    pub(crate) fn running(message: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Failed, message: message.to_string() }
    }

    pub(crate) fn stopped(message: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Stopped, message: message.to_string() }
    }
}
