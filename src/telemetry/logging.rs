//! Log lines: text for people, JSON for programs. What is logged stands where it happens.

use std::io;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFormat, LogSettings};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter cannot be read.
    #[error("log.filter: {0}")]
    Filter(String),
    /// Another log was set up in this process.
    #[error("logging is set up already in this process")]
    Twice,
}

/// Sends all log lines of this process to standard error: standard output belongs to what a command answers.
pub fn init(settings: &LogSettings) -> Result<(), LoggingError> {
    let subscriber = subscriber(settings, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Twice)
}

/// The same towards any writer, for one thread or test.
pub fn subscriber<W>(
    settings: &LogSettings,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LoggingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = parse(&settings.filter).map_err(LoggingError::Filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    Ok(match settings.format {
        LogFormat::Text => {
            // Colours are for a terminal; a file or a collector gets escape codes.
            let terminal = io::IsTerminal::is_terminal(&io::stderr());
            Box::new(builder.with_ansi(terminal).finish())
        }
        // Fields at the top, as collectors index them; the span carries the request's id.
        LogFormat::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .finish(),
        ),
    })
}

/// Whether a filter can be read; if not, why.
pub fn check_filter(filter: &str) -> Result<(), String> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder()
        .with_regex(false)
        .parse(filter)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let written = Written::default();
        let writer = written.clone();
        let settings = LogSettings {
            format,
            filter: filter.into(),
        };
        let subscriber = subscriber(&settings, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", id = "r-1");
            let _entered = span.enter();
            tracing::info!(status = 200, "answered");
            tracing::debug!("detail");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_carry_fields_and_the_request() {
        let text = logged(LogFormat::Json, "info");
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "answered");
        assert_eq!(line["status"], 200);
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["span"]["id"], "r-1");
    }

    #[test]
    fn the_filter_decides_what_is_logged() {
        let check = |filter: &str, lines: usize| {
            let text = logged(LogFormat::Text, filter);
            assert_eq!(text.lines().count(), lines, "{filter}: {text}");
        };
        check("debug", 2);
        check("info", 1);
        check("warn", 0);
        check("warn,tollgate=debug", 2);
        for wrong in ["tollgate=loud", "a=b=c", "=="] {
            assert!(check_filter(wrong).is_err(), "{wrong}");
        }
    }
}
