//! What can go wrong with a command, from the control API's words to the user's and to an exit code.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The kinds of failure that a script can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Other,
    Usage,
    NotFound,
    Refused,
    Unavailable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Other => 1_u8,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Refused => 4,
            Exit::Unavailable => 5,
        })
    }
}

/// Why a command was not carried out.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// The gRPC code's name; `LOCAL` if the failure is this side's.
    code: &'static str,
    /// The stable reason of google.rpc.ErrorInfo.
    reason: Option<String>,
    message: String,
    /// More lines: wrong fields, when to try again, how to repeat.
    details: Vec<String>,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: "LOCAL",
            reason: None,
            message: message.into(),
            details: Vec::new(),
        }
    }

    /// Something on this machine failed.
    pub(super) fn local(error: impl Error) -> Self {
        Self::new(Exit::Other, chain(&error))
    }

    /// The command makes no sense as it was given.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// It was carried out and the answer is no.
    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    /// Nobody answers.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            code: "UNAVAILABLE",
            ..Self::new(Exit::Unavailable, message)
        }
    }

    /// The same with another line below it.
    pub(super) fn with(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    pub(super) fn print(&self, as_json: bool) {
        let text = if as_json {
            format!("{}\n", self.to_json())
        } else {
            self.to_text()
        };
        // With standard error gone as well, the exit code is all that is left to say it.
        let _unsaid = std::io::stderr().write_all(text.as_bytes());
    }

    fn to_json(&self) -> Value {
        json!({"error": {
            "code": self.code,
            "reason": self.reason,
            "message": self.message,
            "details": self.details,
        }})
    }

    fn to_text(&self) -> String {
        let reason = self.reason.as_ref().map(|reason| format!(" [{reason}]"));
        let first = format!("error: {}{}", self.message, reason.unwrap_or_default());
        let lines = [first].into_iter();
        let lines = lines.chain(self.details.iter().map(|detail| format!("  {detail}")));
        lines
            .map(|line| super::out::printable(&line) + "\n")
            .collect()
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let (exit, code) = kind(status.code());
        let mut details = Vec::new();
        if let Some(bad) = status.get_details_bad_request() {
            let violations = bad.field_violations.into_iter();
            details
                .extend(violations.map(|wrong| format!("{}: {}", wrong.field, wrong.description)));
        }
        let retry = status.get_details_retry_info();
        if let Some(wait) = retry.and_then(|retry| retry.retry_delay) {
            details.push(format!("try again in {wait:?}"));
        }
        let message = match status.message() {
            "" => status.code().description().to_owned(),
            said => said.to_owned(),
        };
        // A status with a source was made on this side, of a connection that failed, whatever its code: the server's own
        // have none. Why it failed stands in the sources.
        let (exit, message) = match status.source() {
            Some(source) => (Exit::Unavailable, format!("{message}: {}", chain(source))),
            None => (exit, message),
        };
        Self {
            exit,
            code,
            reason: status.get_details_error_info().map(|info| info.reason),
            message,
            details,
        }
    }
}

const fn kind(code: Code) -> (Exit, &'static str) {
    match code {
        Code::Ok => (Exit::Other, "OK"),
        Code::Cancelled => (Exit::Other, "CANCELLED"),
        Code::Unknown => (Exit::Other, "UNKNOWN"),
        Code::Internal => (Exit::Other, "INTERNAL"),
        Code::DataLoss => (Exit::Other, "DATA_LOSS"),
        Code::Unimplemented => (Exit::Other, "UNIMPLEMENTED"),
        Code::InvalidArgument => (Exit::Usage, "INVALID_ARGUMENT"),
        Code::NotFound => (Exit::NotFound, "NOT_FOUND"),
        Code::AlreadyExists => (Exit::Refused, "ALREADY_EXISTS"),
        Code::PermissionDenied => (Exit::Refused, "PERMISSION_DENIED"),
        Code::Unauthenticated => (Exit::Refused, "UNAUTHENTICATED"),
        Code::ResourceExhausted => (Exit::Refused, "RESOURCE_EXHAUSTED"),
        Code::FailedPrecondition => (Exit::Refused, "FAILED_PRECONDITION"),
        Code::Aborted => (Exit::Refused, "ABORTED"),
        Code::OutOfRange => (Exit::Refused, "OUT_OF_RANGE"),
        Code::Unavailable => (Exit::Unavailable, "UNAVAILABLE"),
        Code::DeadlineExceeded => (Exit::Unavailable, "DEADLINE_EXCEEDED"),
    }
}

/// An error and what caused it, each said once.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
