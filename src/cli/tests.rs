//! The command line by itself: what parses, and that clap finds no contradiction in it. The answers of a server are tested
//! in `tests/cli.rs`.

use clap::{CommandFactory, Parser};

use super::*;

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn what_parses() {
    for (good, line) in [
        (true, "account get demo --json"),
        (true, "account --json get demo"),
        (true, "account --control http://127.0.0.1:1 get demo"),
        (
            true,
            "account create demo --unit USD --qps 10 --hold capped:0.50",
        ),
        (false, "account create demo"),
        (false, "account create demo --unit USD --hold capped"),
        (true, "account update demo --clear qps --clear name"),
        (false, "account update demo --clear balance"),
        (true, "credit recharge demo 10.00 --order-id o-1"),
        (false, "credit recharge demo 10.00"),
        (false, "credit recharge demo 1e3 --order-id o-1"),
        (false, "credit recharge demo 0.0000000001 --order-id o-1"),
        (true, "credit adjust demo -1.50 --note wrong"),
        (true, "credit late-charge demo 6.00"),
        (
            true,
            "price set gpt-4o* --unit USD --rate input=2.50/million --rate request=0.01",
        ),
        (false, "price set gpt-4o* --unit USD"),
        (false, "price set gpt-4o* --unit USD --rate words=1"),
        (
            true,
            "usage demo --since 2026-01-31T00:00:00Z --key k --key l",
        ),
        (false, "usage demo --since yesterday"),
        (true, "ledger list demo --kind late_charge --newest"),
        (false, "ledger list demo --kind late"),
        (false, "ledger list demo --kind unspecified"),
        (true, "usage series demo --step month --by service"),
        (false, "usage series demo --step year"),
        (false, "usage series"),
        (false, "usage"),
        (true, "usage estimate demo 10.00 --model m"),
        (true, "account mark-overdue demo --note late"),
        (false, "account reactivate demo"),
        (true, "plan buy demo p 5 --unit points --order-id o"),
        (false, "plan buy demo p 5 --order-id o"),
        (true, "plan qps list demo --state active --json"),
        (true, "licence issue demo --expires 2026-12-31T00:00:00Z"),
        (false, "licence issue demo"),
        (true, "refund complete demo r --close"),
        (true, "tenant set t --grace 24h:inclusive --clear qps"),
        (false, "tenant set t --clear balance"),
        (true, "events --follow --after 7 --kind balance.low"),
        (true, "hold take --key k --account a --model m"),
        (false, "hold take --model m"),
        (false, "hold take --key k --model m"),
        (false, "hold take --key k --account a"),
        (true, "hold settle h --count input=5 --count output=9"),
        (false, "hold settle h"),
        (false, "hold settle h --count input=5 --amount 1"),
        (true, "sync now --timeout 500ms"),
        (true, "demo --data-dir d --proxy-listen 127.0.0.1:0"),
        (
            false,
            "demo --upstream https://api.example.com --upstream-listen 127.0.0.1:0",
        ),
        (true, "serve --config f"),
        (true, "simulate"),
        (
            true,
            "simulate --replicas 3,100 --rps 10 --spread zipf:0.8 --json",
        ),
        (
            true,
            "simulate --recharge-at never --round-trip 200us --config f",
        ),
        (false, "simulate --replicas 3..5"),
        (false, "simulate --spread normal"),
        (false, "simulate --control http://127.0.0.1:1"),
    ] {
        let words = ["tollgate"].into_iter().chain(line.split(' '));
        let parsed = Cli::try_parse_from(words);
        assert_eq!(parsed.is_ok(), good, "{line}: {parsed:?}");
    }
}
