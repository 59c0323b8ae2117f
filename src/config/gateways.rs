//! `[envoy]` and `[forward_auth]`: the edges beside other gateways. Each is off unless its section is there, or a variable sets a key
//! of it.

use http::HeaderName;
use toml::Value;

use super::reader::Reader;
use super::sections::{loopback, switch, token};
use super::values::{choice, header_name, listen, text};
use super::{EnvoySettings, ForwardAuthSettings, Listen, OnOverrun};
use crate::envoy::Limits;

/// `[envoy]`.
pub(super) fn envoy(mut section: Reader<'_>) -> EnvoySettings {
    let wants_token = section.has("token");
    let token = section.read_secret("token", token);
    let listen = section.read("listen", listen);
    let listen = listen.unwrap_or_else(|| Listen::Tcp(loopback(9001)));
    let socket = section.read("socket", socket);
    open_only_with_a_token(&section, "envoy", &listen, wants_token, 9001);
    let rate_limit = rate_limit(section.section_or_empty("rate_limit"));
    EnvoySettings {
        listen,
        socket,
        token,
        forward_key: switch(&mut section, "forward_key"),
        model_header: section.read("model_header", header),
        max_output_header: section.read("max_output_header", header),
        on_overrun: section
            .read("on_overrun", choice::<OnOverrun>)
            .unwrap_or_default(),
        rate_limit,
    }
}

fn rate_limit(mut section: Reader<'_>) -> Limits {
    let mut entry = |key, default: &str| {
        let read = section.read(key, text);
        read.unwrap_or_else(|| default.into())
    };
    Limits {
        secret_entry: entry("secret_entry", "api_key"),
        model_entry: entry("model_entry", "model"),
        hold_entry: entry("hold_entry", "hold"),
        meter_entry: entry("meter_entry", "meter"),
        callers: super::callers::callers(section.list("callers")),
    }
}

/// `[forward_auth]`.
pub(super) fn forward_auth(mut section: Reader<'_>) -> ForwardAuthSettings {
    let wants_token = section.has("token");
    let token = section.read_secret("token", token);
    let listen = section.read("listen", listen);
    let listen = listen.unwrap_or_else(|| Listen::Tcp(loopback(9004)));
    open_only_with_a_token(&section, "forward_auth", &listen, wants_token, 9004);
    ForwardAuthSettings {
        listen,
        token,
        forward_key: switch(&mut section, "forward_key"),
        model_header: section.read("model_header", header),
        max_output_header: section.read("max_output_header", header),
    }
}

/// Whoever reaches such an edge may say what a call has used.
fn open_only_with_a_token(
    section: &Reader<'_>,
    name: &str,
    listen: &Listen,
    wants_token: bool,
    port: u16,
) {
    if !listen.is_local() && !wants_token {
        section.problem(
            "listen",
            &format!(
                "is \"{listen}\", which others can reach, but nothing is asked of them; set {name}.token, or listen on \
                 \"127.0.0.1:{port}\""
            ),
        );
    }
}

fn socket(value: &Value) -> Result<Listen, String> {
    match listen(value)? {
        Listen::Tcp(_) => {
            Err("write a Unix socket, such as \"unix:/run/tollgate/envoy.sock\"".into())
        }
        unix @ Listen::Unix(_) => Ok(unix),
    }
}

fn header(value: &Value) -> Result<HeaderName, String> {
    header_name(&text(value)?)
}
