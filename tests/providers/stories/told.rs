//! What each story tells.

use super::Story;
use crate::providers::world::{DAY, HOUR, NS, World};

/// What of an account is shown at each state.
const STANDING: [&str; 8] = [
    "state",
    "balance",
    "debt",
    "overdue_since",
    "refused",
    "suspends",
    "purgeable_from",
    "pending_capabilities",
];

const PAID: [&str; 5] = ["kind", "amount", "debt_paid", "state", "balance"];

/// A story begins with an account and a key.
async fn begin(
    name: &'static str,
    preset: &str,
    more: &str,
    title: &str,
    about: &str,
    rules: &str,
) -> Story {
    let world = World::empty(preset, more).await;
    let mut story = Story::of(name, world, title, about).await;
    story.say(
        "All of it is copied from a run (`tests/providers/stories.rs`), with this for a call, and `flat`, `face-detect` and `ocr-read` at 1.00 \
         a call, `metered` at 0.01 for each token of its answer, held for one token beforehand:",
    );
    story.say(
        "```sh\ncall() {\n  curl -si http://127.0.0.1:8080/v1/chat/completions -H 'authorization: Bearer sk-caller-a' \\\n    \
         -H 'content-type: application/json' -d '{\"model\":\"'$1'\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}'\n}\n```",
    );
    let line = format!("account create a --unit USD --policy {preset}{rules}");
    story
        .cli_of(&line, &["account", "state", "policy", "balance"])
        .await;
    story
        .cli_in(
            "key create a --id k-a --secret-stdin",
            "sk-caller-a",
            &["key", "account", "state"],
        )
        .await;
    story
}

#[tokio::test]
async fn alibaba_visual() {
    let about = "Pay as you go, with plans and rates beside it. An account that owes is refused at once, suspended after 24 hours, and \
                 then reactivated capability by capability.";
    let rules = " --capability 'face*' --capability 'ocr*'";
    let mut story = begin(
        "alibaba_visual",
        "alibaba-visual",
        "",
        "Alibaba Cloud Visual Intelligence",
        about,
        rules,
    )
    .await;
    story
        .cli_of(
            "credit recharge a 1.00 --order-id order-1 --request-id pay-1",
            &PAID,
        )
        .await;
    story.say("A call that costs more than was held for it takes the balance below zero. It was made, so it is charged (A1-1).");
    story.call_of("metered", 400).await;
    story.world.mark();
    story.cli_of("account get a", &STANDING).await;
    story.say("From now on calls fail (A1-6), and the backend has heard of it (A1-2).");
    story.call("face-detect").await;
    story.cli("events --account a --kind account.overdue").await;
    story.at(DAY - NS, "One nano-second before 24 hours are over it is still so: a top-up would be all that is needed (A1-8). Then:").await;
    story.at(DAY, "**24 hours:** suspended (A1-7).").await;
    story.call("face-detect").await;
    story.say("While anything is owed, nothing is reactivated (A1-9).");
    story
        .cli("account reactivate a 'face*' --request-id react-0")
        .await;
    story
        .cli_of(
            "credit recharge a 10.00 --order-id order-2 --request-id pay-2",
            &PAID,
        )
        .await;
    story.call("face-detect").await;
    story
        .cli_of(
            "account reactivate a 'face*' --request-id react-1",
            &["kind", "state", "pending_capabilities"],
        )
        .await;
    story.call("face-detect").await;
    story.call("ocr-read").await;
    story
        .cli_of(
            "account reactivate a 'ocr*' --request-id react-2",
            &["kind", "state", "pending_capabilities"],
        )
        .await;
    story.call("ocr-read").await;
    story.cli("ledger list a").await;
    story.end();
}

#[tokio::test]
async fn tencent_apigw() {
    let about = "Billed by the hour and late, so nothing is held for a call. An account that owes is served for 24 hours, inclusive, then \
                 suspended; paid within 180 days it resumes by itself.";
    let rules = " --recipient creator@example.com --recipient collaborator@example.com";
    let mut story = begin(
        "tencent_apigw",
        "tencent-apigw",
        "",
        "Tencent Cloud API Gateway",
        about,
        rules,
    )
    .await;
    story
        .cli_of(
            "credit recharge a 1.00 --order-id order-1 --request-id pay-1",
            &PAID,
        )
        .await;
    story.call("flat").await;
    story.at(HOUR, "The bill of the hour arrives (A2-1).").await;
    story
        .cli_of(
            "credit late-charge a 2.50 --note 'traffic of 22:00' --request-id bill-1",
            &["kind", "amount", "debt_made", "state", "balance"],
        )
        .await;
    story.world.mark();
    story.call("flat").await;
    story
        .at(
            DAY,
            "**24 hours:** the last instant of the grace is within it (A2-2).",
        )
        .await;
    story.call("flat").await;
    story
        .at(
            DAY + NS,
            "**One nano-second later:** suspended, and everybody is told (A2-3).",
        )
        .await;
    story.call("flat").await;
    story
        .cli("events --account a --kind account.suspended")
        .await;
    story.cli_of("account get a", &STANDING).await;
    story
        .at(
            NS + DAY + 180 * DAY - NS,
            "**180 days later, less a nano-second:** paid, it resumes by itself (A2-4).",
        )
        .await;
    story
        .cli_of(
            "credit recharge a 10.00 --order-id order-2 --request-id pay-2",
            &PAID,
        )
        .await;
    story.call("flat").await;
    story.say("Had it not been paid, it would be `PURGE_ELIGIBLE` one nano-second later: `tollgate account purge` would then delete it, and nothing does \
               so by itself (A2-5).");
    story.end();
}

#[tokio::test]
async fn xiaomi_mimo() {
    let about = "Prepaid, with gifts, token plans, refunds and invoices. Once the balance is negative there are no calls, and the next \
                 recharge pays what is owed first.";
    let points = "[[prices]]\npattern = \"flat\"\nunit = \"points\"\nrates.request = \"10\"\n";
    let mut story = begin(
        "xiaomi_mimo",
        "xiaomi-mimo",
        points,
        "Xiaomi MiMo open platform",
        about,
        "",
    )
    .await;
    story
        .cli_of(
            "credit recharge a 2.00 --order-id order-1 --request-id pay-1",
            &PAID,
        )
        .await;
    story.call_of("metered", 300).await;
    story.call("flat").await;
    story.say("A gift pays no debt; a recharge does, before it is credit (A3-13).");
    story
        .cli_of(
            "credit grant a 5.00 --order-id coupon-1 --request-id gift-1",
            &PAID,
        )
        .await;
    story.call("flat").await;
    story
        .cli_of(
            "credit recharge a 20.00 --order-id order-2 --request-id pay-2",
            &PAID,
        )
        .await;
    story.call("flat").await;
    story.say("A token plan has a unit of its own, here ten points a call, and is used before money (A3-2).");
    story
        .cli_of(
            "plan buy a tokens 20 --unit points --order-id plan-1 --request-id plan-1",
            &["plan", "unit", "remaining", "state"],
        )
        .await;
    story.call("flat").await;
    story.cli("plan list a").await;
    story.say("A refund: what was paid and is left, less what was invoiced, and neither the gift nor the plan (A3-6, A3-9).");
    story
        .cli_of(
            "account set-invoiced a order-2 8.00 --request-id inv-1",
            &["kind", "state", "refundable"],
        )
        .await;
    story.cli("refund show a").await;
    story
        .cli_of(
            "refund begin a refund-1 --reason 'moves away' --request-id ref-1",
            &["kind", "state", "refundable"],
        )
        .await;
    story.say("From now on no calls and no recharges (A3-7).");
    story.call("flat").await;
    story
        .cli("credit recharge a 5.00 --order-id order-3 --request-id pay-3")
        .await;
    story.world.mark();
    story.at(3 * DAY, "**Three days later** the money is on its way, and the account is closed with it (A3-8).").await;
    story
        .cli_of(
            "refund complete a refund-1 --close --request-id ref-2",
            &["kind", "amount", "refunded", "state", "balance"],
        )
        .await;
    story.call("flat").await;
    story.cli("ledger list a").await;
    story.end();
}

#[tokio::test]
async fn openai_prepaid() {
    let about = "Credits are bought ahead, expire after a year and are not refunded. When all is consumed calls return a quota error. An \
                 account may be invoiced for the excess instead.";
    let mut story = begin(
        "openai_prepaid",
        "openai-prepaid",
        "",
        "OpenAI prepaid billing",
        about,
        "",
    )
    .await;
    story.say("The least that can be bought is 5.00, the most depends on the trust tier (A4-2).");
    story
        .cli("credit recharge a 4.00 --order-id order-0 --request-id pay-0")
        .await;
    story
        .cli_of(
            "credit recharge a 5.00 --order-id order-1 --request-id pay-1",
            &PAID,
        )
        .await;
    story.cli("credit blocks a").await;
    story.say("All of it is used, and a little more: the cut-off comes late (A4-7).");
    story.call_of("metered", 550).await;
    story.call("flat").await;
    story
        .cli_of(
            "credit recharge a 10.00 --order-id order-2 --request-id pay-2",
            &PAID,
        )
        .await;
    story.call("flat").await;
    story.say("Auto-recharge: below 9.00 the backend is asked for 20.00, once, and answers under the key that it was given (A4-3).");
    story
        .cli_of(
            "account update a --auto-recharge below=9.00,amount=20.00,cool_down=1h",
            &["state", "balance"],
        )
        .await;
    story
        .cli("events --account a --kind recharge.requested")
        .await;
    story.say("Credit first, the excess invoiced up to 50.00 (A4-1).");
    story
        .cli_of(
            "account update a --mode credit_then_invoice --invoice-limit 50.00",
            &["state", "balance"],
        )
        .await;
    story.call_of("metered", 1_200).await;
    story
        .cli_of("account get a", &["state", "balance", "debt", "refused"])
        .await;
    story
        .cli_of(
            "invoice close a inv-2026-03 --request-id close-1",
            &["invoice", "amount", "state", "balance"],
        )
        .await;
    story.say("Back to prepaid only when the arrears are settled (A4-8).");
    story.cli("account update a --mode prepaid_only").await;
    story
        .cli_of(
            "invoice settle a inv-2026-03 --request-id settle-1",
            &["invoice", "state", "balance"],
        )
        .await;
    story
        .cli_of(
            "account update a --mode prepaid_only",
            &["state", "balance"],
        )
        .await;
    story.world.mark();
    story.end();
}

#[tokio::test]
async fn ai12z() {
    let about = "Prepaid with auto-charge: below 10.00 the backend is asked to charge the card for 50.00. What an amount buys, and what was used, is \
                 told by model and service.";
    let mut story = begin("ai12z", "ai12z", "", "ai12z", about, "").await;
    story.cli_of("credit recharge a 12.00 --order-id charge-1 --note 'card ending in 4242' --request-id pay-1", &PAID).await;
    story.say(
        "How many requests that buys: by the price, until there is something to go by (A5-1).",
    );
    story
        .cli("usage estimate a 12.00 --model flat --model free")
        .await;
    story.call_of("metered", 100).await;
    story.call_of("metered", 250).await;
    story.cli("usage estimate a --model metered").await;
    story.say("The balance fell below 10.00: the backend is asked, charges the card that it knows, and recharges (A5-2, A5-3).");
    story
        .cli("events --account a --kind recharge.requested")
        .await;
    story.cli_of("credit recharge a 50.00 --order-id charge-2 --note 'card ending in 4242' --request-id pay-2", &PAID).await;
    story.say("Invoices and usage (A5-4, A5-5).");
    story.cli("ledger list a --kind recharge").await;
    story.cli("usage series a --step hour --by model").await;
    story.end();
}
