//! `tollgate hold`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::out::{Cell, Record};
use super::remote::Session;
use super::values::{
    amount, amount_cell, counts_cell, duration, instant_cell, meter, pair, part, secret_from_stdin,
    unit_cell, wire_duration, word,
};
use crate::money::Amount;
use crate::proto::v1;
use crate::proto::v1::hold_request::Caller;
use crate::proto::v1::settle_request::Cost;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run every check of a call and set its expected cost aside
    Take {
        #[command(flatten)]
        caller: CallerArgs,
        /// The model to be called
        #[arg(long, required_unless_present = "amount")]
        model: Option<String>,
        /// Hold this much, instead of what the price says
        #[arg(long)]
        amount: Option<Amount>,
        /// Input tokens, as the application counts them
        #[arg(long, value_name = "TOKENS")]
        input: Option<u64>,
        /// The most output tokens that the call can make
        #[arg(long, value_name = "TOKENS")]
        max_output: Option<u64>,
        /// How long it lives, as 30s
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        ttl: Option<Duration>,
        /// The same id again gives the same hold while it is open
        #[arg(long, value_name = "ID")]
        request_id: Option<String>,
    },
    /// End a hold with what the call really cost
    Settle {
        hold: String,
        #[command(flatten)]
        cost: CostArgs,
    },
    /// End a hold without a charge
    Release { hold: String },
}

#[derive(Debug, Args)]
pub(super) struct CallerArgs {
    /// Who calls, by the first line of standard input: the secret
    #[arg(long, required_unless_present = "key", conflicts_with = "key")]
    secret_stdin: bool,
    /// Who calls, by the key's id
    #[arg(long, value_name = "ID", requires = "account")]
    key: Option<String>,
    /// The account that the key belongs to
    #[arg(long, value_name = "ID", requires = "key")]
    account: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct CostArgs {
    /// What was used, as input=120; may be given several times
    #[arg(long, value_name = "METER=COUNT", value_parser = count)]
    count: Vec<v1::MeterCount>,
    /// What it cost
    #[arg(long)]
    amount: Option<Amount>,
}

fn count(text: &str) -> Result<v1::MeterCount, String> {
    let (name, count) = pair(text)?;
    let count = count
        .parse()
        .map_err(|_| format!("`{count}` is not a count"))?;
    Ok(v1::MeterCount {
        meter: meter(name)?.into(),
        count,
    })
}

impl CallerArgs {
    fn caller(self) -> Result<Option<Caller>, Failure> {
        if self.secret_stdin {
            return Ok(Some(Caller::Secret(secret_from_stdin()?)));
        }
        let name = self.account.zip(self.key);
        Ok(name.map(|(account_id, key_id)| Caller::Key(v1::KeyName { account_id, key_id })))
    }
}

impl CostArgs {
    fn cost(self) -> Cost {
        match self.amount {
            Some(of) => Cost::Amount(amount(of)),
            None => Cost::Counts(v1::MeterCounts { counts: self.count }),
        }
    }
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let mut holds = session.holds();
    match command {
        Command::Take {
            caller,
            model,
            amount: of,
            input,
            max_output,
            ttl,
            request_id,
        } => {
            let request = v1::HoldRequest {
                caller: caller.caller()?,
                model: model.unwrap_or_default(),
                amount: of.map(amount),
                input_tokens: input,
                max_output_tokens: max_output,
                ttl: ttl.map(wire_duration),
                request_id: request_id.unwrap_or_default(),
            };
            let hold = part(holds.hold(request).await?.into_inner().hold, "hold")?;
            session.out.record(&show(&hold))
        }
        Command::Settle { hold, cost } => {
            let request = v1::SettleRequest {
                hold_id: hold.clone(),
                cost: Some(cost.cost()),
            };
            let settled = holds.settle(request).await?.into_inner();
            let charge = part(settled.charge, "charge")?;
            session.out.record(&Record(vec![
                ("hold", Cell::text(hold)),
                ("amount", amount_cell(charge.amount.as_ref())),
                ("unit", unit_cell(charge.amount.as_ref())),
                (
                    "certainty",
                    word(charge.certainty().as_str_name(), "CERTAINTY_"),
                ),
                ("counts", counts_cell(&charge.counts)),
                ("replayed", Cell::Flag(settled.replayed)),
            ]))
        }
        Command::Release { hold } => {
            let request = v1::ReleaseRequest {
                hold_id: hold.clone(),
            };
            holds.release(request).await?;
            session
                .out
                .record(&Record(vec![("released", Cell::text(hold))]))
        }
    }
}

fn show(hold: &v1::Hold) -> Record {
    Record(vec![
        ("hold", Cell::text(&hold.hold_id)),
        ("account", Cell::text(&hold.account_id)),
        ("key", Cell::text(&hold.key_id)),
        ("amount", amount_cell(hold.amount.as_ref())),
        ("unit", unit_cell(hold.amount.as_ref())),
        ("expires", instant_cell(hold.expire_time.as_ref())),
    ])
}
