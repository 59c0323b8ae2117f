//! What a webhook says: an event as JSON, in the envelope that Standard Webhooks proposes. The same bytes each time.

use serde_json::json;

use crate::ledger::Event;

/// The body of a webhook. Amounts are decimal strings in the account's unit; `unit` is null for an account that is not there any more.
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
        },
    });
    body.to_string().into_bytes()
}
