//! The commands that are carried out in this process: serve, demo, check.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use super::out::{Cell, Out, Record};
use crate::config::{self, Config};
use crate::{app, demo};

#[derive(Debug, Args)]
pub(super) struct ConfigArg {
    /// The configuration; deploy/tollgate.toml has every key and its default
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Keep balances here, for the next time; otherwise they are gone at the end
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where clients call
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    proxy_listen: SocketAddr,
    /// Where the other commands are carried out
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9002")]
    control_listen: SocketAddr,
    /// Where health, readiness and metrics are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9003")]
    admin_listen: SocketAddr,
    /// Where the stand-in model answers; a free port if not given
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    #[arg(conflicts_with = "upstream")]
    upstream_listen: SocketAddr,
    /// Put a real endpoint behind it instead, by its URL
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
}

pub(super) fn serve(args: &ConfigArg) -> Result<(), Failure> {
    app::serve(load(args)?).map_err(Failure::local)
}

pub(super) fn check(args: &ConfigArg) -> Result<(), Failure> {
    let wrong = app::check(&load(args)?);
    if !wrong.is_empty() {
        let failure = Failure::usage(format!("{} cannot be used", args.config.display()));
        return Err(wrong
            .iter()
            .fold(failure, |failure, error| failure.with(error.to_string())));
    }
    let good = format!("{} is good", args.config.display());
    Out { json: false }.line(&Record(vec![("", Cell::Text(good))]))
}

pub(super) fn demo(args: DemoArgs) -> Result<(), Failure> {
    let options = demo::Options {
        data_dir: args.data_dir,
        proxy_listen: args.proxy_listen,
        control_listen: args.control_listen,
        admin_listen: args.admin_listen,
        upstream_listen: args.upstream_listen,
        upstream: args.upstream,
    };
    demo::run(options).map_err(Failure::local)
}

fn load(args: &ConfigArg) -> Result<Config, Failure> {
    // A variable that is not UTF-8 cannot be one of ours.
    let env = std::env::vars_os();
    let env =
        env.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    config::load(&args.config, env).map_err(|problems| {
        let failure = Failure::usage(format!("{} cannot be used", args.config.display()));
        let said = problems.into_iter();
        said.fold(failure, |failure, problem| {
            failure.with(format!("{}: {}", problem.key, problem.message))
        })
    })
}
