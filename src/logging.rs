//! The log: lines to standard error through a bounded queue, so that a reader that stops reading stops nobody else.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};

use crate::config::{Config, LogFormat};

/// Lines that wait for the writer; beyond, they are lost and counted (`millrace_queue_overflows_total{queue="log"}`).
const LINES_MAX: usize = 8_192;

static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts it. Dropping the guard writes what waits.
pub fn start(config: &Config) -> anyhow::Result<WorkerGuard> {
    // Its client says each time that it connects; what the directory says is enough.
    let filter = format!("async_nats=warn,{}", config.log.filter);
    let filter = tracing_subscriber::EnvFilter::try_new(filter)?;
    let terminal = std::io::stderr().is_terminal();
    let json = match config.log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).lossy(true);
    let (writer, guard) = builder.finish(std::io::stderr());
    let _ = LOST.set(writer.error_counter());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    if json {
        log.json().flatten_event(true).init();
    } else {
        log.with_ansi(terminal).with_target(false).init();
    }
    Ok(guard)
}

/// Lines lost so far.
pub fn lines_lost() -> u64 {
    LOST.get().map_or(0, |lost| lost.dropped_lines() as u64)
}
