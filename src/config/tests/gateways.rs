//! `[envoy]` and `[forward_auth]`: off unless they are written, and what is wrong with them is told.

use super::*;
use crate::config::OnOverrun;

#[test]
fn they_are_off_unless_they_are_written() {
    let config = read("", NO_ENV).unwrap();
    assert!(config.envoy.is_none() && config.forward_auth.is_none());
    let config = read("[envoy]\n[forward_auth]", NO_ENV).unwrap();
    let (envoy, forward_auth) = (config.envoy.unwrap(), config.forward_auth.unwrap());
    assert_eq!(envoy.listen.to_string(), "127.0.0.1:9001");
    assert_eq!(forward_auth.listen.to_string(), "127.0.0.1:9004");
    assert_eq!((envoy.socket, envoy.on_overrun), (None, OnOverrun::Finish));
    assert_eq!(envoy.rate_limit.secret_entry, "api_key");
}

#[test]
fn what_is_wrong_with_them_is_told() {
    wrong(
        "[envoy]\nlisten = '0.0.0.0:9001'",
        "envoy.listen",
        "envoy.token",
    );
    wrong(
        "[forward_auth]\nlisten = '0.0.0.0:9004'",
        "forward_auth.listen",
        "forward_auth.token",
    );
    wrong("[envoy]\ntoken = 'short'", "envoy.token", "16 to 512");
    wrong(
        "[envoy]\nsocket = '127.0.0.1:1'",
        "envoy.socket",
        "Unix socket",
    );
    wrong("[envoy]\non_overrun = 'stop'", "envoy.on_overrun", "finish");
    wrong(
        "[envoy]\nmodel_header = 'a b'",
        "envoy.model_header",
        "header's name",
    );
    wrong(
        "[envoy]\nlisten = '127.0.0.1:9002'",
        "envoy.listen",
        "control.listen",
    );
    let twice = "[envoy]\nlisten = 'unix:/a'\nsocket = 'unix:/a'";
    wrong(twice, "envoy.socket", "envoy.listen");
    let caller = |rest: &str| format!("[envoy]\n[[envoy.rate_limit.callers]]\n{rest}");
    let rest = "account = 'a'\nkey = 'k'";
    wrong(
        &caller(rest),
        "envoy.rate_limit.callers[0].entries",
        "is missing",
    );
    let rest = "entries.x = 'y'\nkey = 'k'";
    wrong(
        &caller(rest),
        "envoy.rate_limit.callers[0].account",
        "is missing",
    );
    let rest = "entries.x = 1\naccount = 'a'\nkey = 'k'";
    wrong(
        &caller(rest),
        "envoy.rate_limit.callers[0].entries.x",
        "in quotes",
    );
}

#[test]
fn beside_them_a_route_need_not_lead_anywhere() {
    let route = "[[routes]]\npath = '/v1'\nmodel = 'm'";
    wrong(route, "routes[0].upstream", "is missing");
    let config = read(&format!("[envoy]\n{route}"), NO_ENV).unwrap();
    assert!(config.routes[0].upstream.is_none());
    let unknown = format!("[envoy]\n{route}\nupstream = 'x'");
    wrong(&unknown, "routes[0].upstream", "no [[upstreams]]");
}
