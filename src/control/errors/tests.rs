//! What each kind of fault tells its caller.

use super::*;
use crate::store::StoreError;

fn check(fault: Fault, code: Code, reason: &str, retries: bool) {
    let shown = format!("{fault:?}");
    let status = Status::from(fault);
    let details = status.get_error_details();
    let info = details
        .error_info()
        .expect("every status carries its reason");
    assert_eq!(
        (status.code(), info.reason.as_str(), info.domain.as_str()),
        (code, reason, DOMAIN),
        "{shown}"
    );
    assert_eq!(details.retry_info().is_some(), retries, "{shown}");
}

#[test]
fn refusals_keep_their_reasons() {
    for reason in Reason::ALL {
        let status = Status::from(Fault::Refused(Refusal::new(reason)));
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, reason.name());
        assert_ne!(
            status.code(),
            Code::Unauthenticated,
            "that is about the control token"
        );
    }
    let wait = Duration::from_millis(120);
    let status = Status::from(Fault::Refused(Refusal::after(Reason::QpsExceeded, wait)));
    let details = status.get_error_details();
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(wait));
}

#[test]
fn what_may_be_repeated_says_when() {
    check(
        StoreError::Unavailable("x".into()).into(),
        Code::Unavailable,
        "STORE_UNAVAILABLE",
        true,
    );
    check(
        Fault::Contended("x".into()),
        Code::Aborted,
        "CONTENDED",
        true,
    );
    check(
        Fault::Followers,
        Code::ResourceExhausted,
        "FOLLOWERS_LIMIT",
        true,
    );
    check(
        Fault::RequestIdReused("x".into()),
        Code::AlreadyExists,
        "IDEMPOTENCY_KEY_REUSED",
        false,
    );
    check(
        Rejected::OutOfRange.into(),
        Code::OutOfRange,
        "AMOUNT_OUT_OF_RANGE",
        false,
    );
}

#[test]
fn a_wrong_field_is_a_violation() {
    let status = Status::from(Fault::from(Rejected::NotPositive(Amount::ZERO)));
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    assert_eq!(
        violations.first().map(|violation| violation.field.as_str()),
        Some("amount")
    );
}

#[test]
fn a_status_fits_into_a_header_whatever_was_sent() {
    let huge = "x".repeat(1 << 20);
    let error = FieldError::invalid("note", huge.clone());
    for fault in [Fault::Field(error), Fault::NotFound(Thing::Account, huge)] {
        let status = Status::from(fault);
        assert!(status.message().len() + status.details().len() < 6_000);
    }
}
