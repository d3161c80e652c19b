//! Log lines: on standard error, and at the collector where telemetry names one.

use std::{
    io::IsTerminal,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use driftline_pipeline::{LogFormat, Plan};
use driftline_runtime::Telemetry;
use tracing_subscriber::{EnvFilter, Layer, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{exit::Failure, log, run::with_cause};

/// What the command logs where `DRIFTLINE_LOG` says nothing else: it tells in other ways how it goes. The decoder of audio
/// is silent: it names no file, and a source says itself which recording it refuses, and which is cut off.
pub(crate) const COMMAND: &str = "warn,symphonia=off";
/// What a process logs that serves until it is stopped, or tells all by log lines: also which partitions it takes over and
/// gives up.
pub(crate) const SERVICE: &str = "warn,driftline=info,symphonia=off";

/// The variable that says what is logged.
const VARIABLE: &str = "DRIFTLINE_LOG";

/// How log lines are written, once logging has started.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// What log lines are sent with, until the last is written.
static TELEMETRY: Mutex<Option<Arc<Telemetry>>> = Mutex::new(None);

/// Starts the telemetry of a pipeline and logging as it says, and tells the pipeline's warnings.
pub(crate) fn start_of(plan: &Plan, usually: &str) -> Result<Option<Arc<Telemetry>>, Failure> {
    let telemetry = Telemetry::start(plan).map_err(|error| Failure::running(with_cause(&error)))?.map(Arc::new);
    start(usually, plan.telemetry.logs, telemetry.clone())?;
    log::tell_warnings(plan);
    Ok(telemetry)
}

/// Starts logging, once a process. `DRIFTLINE_LOG` says what is logged, else `usually`; what happens while a traced
/// batch is worked on carries the ids of its trace. `telemetry` is kept until logging [ends](end).
pub(crate) fn start(usually: &str, format: LogFormat, telemetry: Option<Arc<Telemetry>>) -> Result<(), Failure> {
    let filter = match std::env::var_os(VARIABLE) {
        Some(text) => filter(&text.to_string_lossy())?,
        None => EnvFilter::new(usually),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match format {
        // Colours are for people: a log that is kept in a file has none.
        LogFormat::Text if !std::io::stderr().is_terminal() => lines.with_ansi(false).compact().boxed(),
        LogFormat::Text => lines.compact().boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let collector = telemetry.as_deref().and_then(Telemetry::log_layer);
    tracing_subscriber::registry().with(filter).with(lines).with(collector).init();
    // A second start would have panicked above.
    let _ = FORMAT.set(format);
    *TELEMETRY.lock().unwrap_or_else(PoisonError::into_inner) = telemetry;
    Ok(())
}

/// Reads what is to be logged. A word alone must be a level: as the name of a target it would log nothing, or nothing else.
fn filter(text: &str) -> Result<EnvFilter, Failure> {
    let is_known = |part: &str| part.contains(['=', '[', ']', '}']) || part.trim().parse::<LevelFilter>().is_ok();
    let filter = EnvFilter::try_new(text).ok().filter(|_| text.split(',').all(is_known));
    filter.ok_or_else(|| {
        Failure::usage(format!(
            "{VARIABLE}: found {text:?}, allowed are error, warn, info, debug, trace and off, and TARGET=LEVEL, \
             separated by commas"
        ))
    })
}

/// Lets telemetry go, which sends the last log lines: there are no more.
pub(crate) fn end() {
    let telemetry = TELEMETRY.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop(telemetry);
}

/// Whether standard error is for programs: then nothing but log lines stands there.
pub(crate) fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for text in ["", "info", "WARN", "off", "warn,driftline=debug", "driftline[stage]=info"] {
            assert!(filter(text).is_ok(), "{text}");
        }
        for text in ["nonsense", "info,nonsense", "driftline=loud"] {
            let Failure { exit, message } = filter(text).unwrap_err();
            assert!(message.starts_with(&format!("DRIFTLINE_LOG: found {text:?}, allowed are error")), "{message}");
            assert_eq!(exit, crate::Exit::Usage);
        }
    }
}
