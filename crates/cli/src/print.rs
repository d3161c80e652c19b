//! Standard output: results, for as long as somebody reads them.
//!
//! A reader that goes away, such as `head`, has what it wanted. That is no failure: a command that has more to do than to
//! print does it, and ends as it would have ended.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
};

use crate::exit::Failure;

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
