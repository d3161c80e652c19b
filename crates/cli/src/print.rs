//! What is printed, for as long as somebody reads it: results on standard output, what is told to people on standard error.
//!
//! A reader that goes away, such as `head`, has what it wanted. That is no failure: a command that has more to do than to
//! print does it, and ends as it would have ended.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
};

pub(crate) use driftline_types::{counted, visible};

use crate::{exit::Failure, logging};

/// Prints text as it is; returns whether somebody reads it.
pub(crate) fn text(text: impl Display) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::running(format!("standard output: {error}"))),
    }
}

/// Prints a line; returns whether somebody reads it.
pub(crate) fn line(line: impl Display) -> Result<bool, Failure> {
    text(format_args!("{line}\n"))
}

/// Prints lines until nobody reads them any more; returns whether somebody does.
pub(crate) fn lines(lines: impl IntoIterator<Item = impl Display>) -> Result<bool, Failure> {
    for each in lines {
        if !line(each)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Tells people something, as `eprintln!` does; where log lines are for programs it is one of them.
macro_rules! tell {
    ($($text:tt)*) => { $crate::print::told(format_args!($($text)*)) };
}
pub(crate) use tell;

/// What [`tell`] does.
pub(crate) fn told(text: impl Display) {
    if logging::is_json() {
        let text = text.to_string();
        tracing::info!("{}", text.trim());
    } else {
        error_line(text);
    }
}

/// Prints a line on standard error; without a reader it is lost.
pub(crate) fn error_line(line: impl Display) {
    let line = visible(&line.to_string(), &LAYOUT);
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// The control characters of a text of several lines.
pub(crate) const LAYOUT: [char; 2] = ['\n', '\t'];
