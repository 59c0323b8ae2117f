//! The command line: what can be asked, how it is answered on the terminal, and with which exit code. What the commands do
//! is done elsewhere: by [`crate::app`] and [`crate::demo`] here, or by a tollgate that is asked over its control API.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::failure::Failure;
use self::remote::Remote;

mod account;
mod credit;
mod event;
mod failure;
mod hold;
mod invoice;
mod key;
mod ledger;
mod licence;
mod limits;
mod local;
mod out;
mod plan;
mod policy;
mod price;
mod refund;
mod remote;
mod simulate;
mod sync;
mod tenant;
mod usage;
mod values;
mod webhook;

/// Decides, meters and settles paid calls beside a model endpoint.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 2 wrong usage or a wrong value; 3 not found; 4 refused (a condition does not hold, a conflict, no \
permission, or a ledger that does not verify); 5 unavailable, try again; 1 anything else.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve, as the configuration says, until SIGTERM or SIGINT
    Serve(local::ConfigArg),
    /// Serve a stand-in model behind a tollgate, with an account to try it
    Demo(local::DemoArgs),
    /// Check a configuration and say everything that is wrong with it
    Check(local::ConfigArg),
    /// Foretell what a deployment costs Redis and how it behaves; asks no tollgate and no Redis
    Simulate(Box<simulate::Args>),
    /// Open, show, change, close and purge accounts
    Account(Group<account::Command>),
    /// Put money in, correct, and see what is left of it
    Credit(Group<credit::Command>),
    /// Make, show and revoke keys
    Key(Group<key::Command>),
    /// Show and set prices
    Price(Group<price::Command>),
    /// Show and set policies
    Policy(Group<policy::Command>),
    /// Sell and show plans, and rates for a time
    Plan(Group<plan::Command>),
    /// Issue, revoke and list offline licences
    Licence(Group<licence::Command>),
    /// Show what could be refunded, and refund it
    Refund(Group<refund::Command>),
    /// Close, settle and list invoices
    Invoice(Group<invoice::Command>),
    /// Show and set tenants
    Tenant(Group<tenant::Command>),
    /// Show what an account used, by hour, key and model; as a series; and what an amount buys
    Usage(Single<usage::Args>),
    /// List and verify ledgers
    Ledger(Group<ledger::Command>),
    /// Show events, or follow them
    Events(Single<event::Args>),
    /// Show webhook endpoints and their dead letters, and have these sent again
    Webhooks(Group<webhook::Command>),
    /// Publish what is settled
    Sync(Group<sync::Command>),
    /// Hold, settle and release, as an application does that calls a model itself
    Hold(Group<hold::Command>),
}

/// A command that has commands below it, and is carried out by a tollgate.
#[derive(Debug, Args)]
struct Group<C: Subcommand> {
    #[command(subcommand)]
    command: C,
    #[command(flatten)]
    remote: Remote,
}

/// A command without others below it, carried out by a tollgate.
#[derive(Debug, Args)]
struct Single<A: Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    remote: Remote,
}

/// Carries a command out and says how it went: answers on standard output, what went wrong on standard error.
pub fn run(cli: Cli) -> ExitCode {
    let json = cli.command.wants_json();
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(json);
            failure.exit.into()
        }
    }
}

impl Command {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Serve(args) => local::serve(&args),
            Self::Demo(args) => local::demo(args),
            Self::Check(args) => local::check(&args),
            Self::Simulate(args) => simulate::run(&args),
            remote => block_on(remote.run_remote()),
        }
    }

    fn wants_json(&self) -> bool {
        match self {
            Self::Simulate(args) => args.json,
            other => other.remote().is_some_and(|remote| remote.json),
        }
    }

    /// Where the command is carried out, if not here.
    const fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Serve(_) | Self::Demo(_) | Self::Check(_) | Self::Simulate(_) => None,
            Self::Account(group) => Some(&group.remote),
            Self::Credit(group) => Some(&group.remote),
            Self::Key(group) => Some(&group.remote),
            Self::Price(group) => Some(&group.remote),
            Self::Policy(group) => Some(&group.remote),
            Self::Plan(group) => Some(&group.remote),
            Self::Licence(group) => Some(&group.remote),
            Self::Refund(group) => Some(&group.remote),
            Self::Invoice(group) => Some(&group.remote),
            Self::Tenant(group) => Some(&group.remote),
            Self::Usage(single) => Some(&single.remote),
            Self::Ledger(group) => Some(&group.remote),
            Self::Events(single) => Some(&single.remote),
            Self::Webhooks(group) => Some(&group.remote),
            Self::Sync(group) => Some(&group.remote),
            Self::Hold(group) => Some(&group.remote),
        }
    }

    async fn run_remote(self) -> Result<(), Failure> {
        let Some(remote) = self.remote() else {
            return Ok(());
        };
        let session = remote.connect().await?;
        match self {
            Self::Serve(_) | Self::Demo(_) | Self::Check(_) | Self::Simulate(_) => Ok(()),
            Self::Account(group) => account::run(group.command, &session).await,
            Self::Credit(group) => credit::run(group.command, &session).await,
            Self::Key(group) => key::run(group.command, &session).await,
            Self::Price(group) => price::run(group.command, &session).await,
            Self::Policy(group) => policy::run(group.command, &session).await,
            Self::Plan(group) => plan::run(group.command, &session).await,
            Self::Licence(group) => licence::run(group.command, &session).await,
            Self::Refund(group) => refund::run(group.command, &session).await,
            Self::Invoice(group) => invoice::run(group.command, &session).await,
            Self::Tenant(group) => tenant::run(group.command, &session).await,
            Self::Usage(single) => usage::run(single.args, &session).await,
            Self::Ledger(group) => ledger::run(group.command, &session).await,
            Self::Events(single) => event::run(single.args, &session).await,
            Self::Webhooks(group) => webhook::run(group.command, &session).await,
            Self::Sync(group) => sync::run(group.command, &session).await,
            Self::Hold(group) => hold::run(group.command, &session).await,
        }
    }
}

fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.map_err(Failure::local)?.block_on(command)
}

#[cfg(test)]
mod tests;
