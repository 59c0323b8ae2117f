//! What a webhook says: an event as JSON, in the envelope that Standard Webhooks proposes. The same bytes each time.

use serde_json::json;

use crate::ledger::Event;

/// The body of a webhook. Amounts are decimal strings in the account's unit; `unit` is null for an account that is not there any more;
/// `about` (the order, refund, invoice or plan) and `idempotency_key` (of `recharge.requested`) for kinds that have none.
pub fn body(event: &Event, unit: Option<&str>) -> Vec<u8> {
    let body = json!({
        "type": event.kind.name(),
        "timestamp": event.time.to_string(),
        "data": {
            "event_id": event.id,
            "account_id": event.account.as_str(),
            "unit": unit,
            "balance": event.balance.to_string(),
            "amount": event.amount.to_string(),
            "about": event.about,
            "idempotency_key": event.idempotency_key,
            "recipients": event.recipients,
        },
    });
    body.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::id::AccountId;
    use crate::ledger::EventKind;
    use crate::proto::convert::{event_kind, event_kind_name, event_kind_names};

    #[test]
    fn a_body_says_what_happened_and_whom_to_tell() {
        let event = Event {
            id: "a/7/0".into(),
            account: AccountId::new("a").unwrap(),
            time: Timestamp::from_nanos(0),
            kind: EventKind::AccountSuspended,
            balance: "-1.5".parse().unwrap(),
            amount: "1.5".parse().unwrap(),
            about: None,
            idempotency_key: None,
            recipients: vec!["owner@x.test".into(), "ops@x.test".into()],
        };
        let said: serde_json::Value = serde_json::from_slice(&body(&event, Some("USD"))).unwrap();
        let due = json!({
            "type": "account.suspended", "timestamp": "1970-01-01T00:00:00Z",
            "data": {
                "event_id": "a/7/0", "account_id": "a", "unit": "USD", "balance": "-1.50", "amount": "1.50",
                "about": null, "idempotency_key": null, "recipients": ["owner@x.test", "ops@x.test"],
            },
        });
        assert_eq!(said, due);
    }

    /// Filters are written in the names of the wire's kinds, and compared with those of the ledger's.
    #[test]
    fn every_kind_has_one_name() {
        let read = |name: &String| {
            let kind: EventKind = serde_json::from_value(name.as_str().into()).unwrap();
            assert_eq!(
                (kind.name(), event_kind_name(event_kind(kind)).as_str()),
                (name.as_str(), name.as_str())
            );
        };
        let all: Vec<_> = event_kind_names().collect();
        all.iter().for_each(read);
        assert!(all.len() >= 18, "{all:?}");
    }
}
