//! Structured logs on standard error: text for people, JSON for collectors.

mod patient;

use std::sync::Mutex;

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

use self::patient::Patient;

/// How logs look and how much of them there is.
#[derive(Debug, Args)]
pub(crate) struct LogFlags {
    /// What is logged: error, warn, info, debug or trace, or per module (`info,herald_speaker=debug`).
    #[arg(
        long,
        global = true,
        env = "HERALD_LOG",
        default_value = "info,kube_client=error",
        value_name = "FILTER"
    )]
    log_level: Targets,
    /// One line of text or one JSON object per message.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl LogFlags {
    /// Installs the subscriber; called once, before anything is logged.
    pub(crate) fn init(self) {
        let Self { log_level, log_format } = self;
        let note = match log_format {
            LogFormat::Text => |lost| format!(" WARN {}\n", lost_lines(lost)),
            LogFormat::Json => {
                |lost| format!("{{\"level\":\"WARN\",\"fields\":{{\"message\":\"{}\"}}}}\n", lost_lines(lost))
            }
        };
        let logs = fmt::layer().with_writer(Mutex::new(Patient::new(std::io::stderr(), note)));
        let filtered = registry().with(log_level);
        match log_format {
            LogFormat::Text => filtered.with(logs).init(),
            LogFormat::Json => filtered.with(logs.json()).init(),
        }
    }
}

fn lost_lines(lost: u64) -> String {
    format!("{lost} lines of the log are lost: whoever reads standard error did not keep up")
}
