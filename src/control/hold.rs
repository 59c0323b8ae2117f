//! HoldService: holds for applications that call a model themselves. The gate decides; here is only its wire.

use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, answer};
use crate::app::random;
use crate::gate::{Caller, Charge, HoldError, HoldRequest, SettleAs};
use crate::money::Amount;
use crate::proto::convert::{
    FieldError, account_id, amount, amount_from, certainty, counts, counts_from, duration_from,
    key_id, model, timestamp, token, token_or_none,
};
use crate::proto::v1::{self, hold_service_server::HoldService};
use crate::refusal::{Reason, Refusal};
use crate::usage::Counts;

/// The longest secret that is looked at: no key is longer.
const SECRET_BYTES_MAX: usize = 512;

/// The longest hold id: an account's name, a replica's, and a request id.
const HOLD_ID_BYTES_MAX: usize = 512;

#[tonic::async_trait]
impl HoldService for Control {
    async fn hold(
        &self,
        request: Request<v1::HoldRequest>,
    ) -> Result<Response<v1::HoldResponse>, Status> {
        answer(self.set_aside(request.into_inner()).await)
    }

    async fn settle(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        answer(self.settled(request.into_inner()).await)
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        answer(self.released(&request.into_inner()))
    }
}

impl Control {
    async fn set_aside(&self, request: v1::HoldRequest) -> Result<v1::HoldResponse, Fault> {
        let caller = caller(request.caller)?;
        let named = !request.model.is_empty();
        if named {
            model("model", &request.model)?;
        } else if request.amount.is_none() {
            return Err(
                FieldError::missing("model", "the model to be called, or an amount").into(),
            );
        }
        let asked = match &request.amount {
            None => None,
            Some(asked) => Some(self.asked(&caller, asked).await?),
        };
        let request_id = match token_or_none("request_id", &request.request_id)? {
            Some(id) => id,
            None => made_up_id()?,
        };
        let grant = self
            .core()
            .gate
            .hold(HoldRequest {
                caller,
                model: Some(request.model).filter(|_| named),
                amount: asked,
                input: request.input_tokens,
                max_output: request.max_output_tokens,
                ttl: duration_from("ttl", request.ttl.as_ref())?,
                request_id,
            })
            .await?;
        let unit = self.hold_unit(&grant.id)?;
        Ok(v1::HoldResponse {
            hold: Some(v1::Hold {
                hold_id: grant.id,
                account_id: grant.account.to_string(),
                key_id: grant.key.to_string(),
                amount: Some(amount(grant.amount, &unit)),
                expire_time: Some(timestamp(grant.expires)),
            }),
        })
    }

    /// An amount to hold, checked against the unit of the caller's account.
    async fn asked(&self, caller: &Caller, asked: &v1::Amount) -> Result<Amount, Fault> {
        let core = self.core();
        let key = match caller {
            Caller::Secret(secret) => {
                let found = core
                    .sync
                    .identify(secret.as_bytes(), core.clock.now())
                    .await;
                found.map_err(Fault::Refused)?
            }
            Caller::Key(account, id) => {
                let found = core.sync.key(account, id).await?;
                found.ok_or(Fault::Refused(Refusal::new(Reason::KeyUnknown)))?
            }
        };
        let amount = amount_from("amount", Some(asked), &key.account().rules().unit)?;
        if amount.is_negative() {
            let problem = format!("is {amount}; an amount held is zero or more");
            return Err(FieldError::invalid("amount", problem).into());
        }
        Ok(amount)
    }

    async fn settled(&self, request: v1::SettleRequest) -> Result<v1::SettleResponse, Fault> {
        let id = hold_id(&request.hold_id)?;
        let unit = self.hold_unit(id)?;
        let how = match request.cost {
            Some(v1::settle_request::Cost::Counts(given)) => {
                SettleAs::Counts(counts_from("counts", &given.counts)?)
            }
            Some(v1::settle_request::Cost::Amount(given)) => {
                SettleAs::Amount(amount_from("amount", Some(&given), &unit)?)
            }
            None => return Err(FieldError::missing("cost", "the counts or the amount").into()),
        };
        self.core().gate.ready_hold(id, how).await;
        let (charge, replayed) = match self.core().gate.settle_hold(id, how) {
            Ok(charge) => (charge, false),
            // Every settled call is at least one request; a hold that ended with nothing at all was released.
            Err(HoldError::Settled(id, charge)) if charge.counts == Counts::default() => {
                return Err(Fault::HoldReleased(id));
            }
            Err(HoldError::Settled(_, charge)) => (charge, true),
            Err(error) => return Err(error.into()),
        };
        Ok(v1::SettleResponse {
            charge: Some(wire(&charge, &unit)),
            replayed,
        })
    }

    fn released(&self, request: &v1::ReleaseRequest) -> Result<v1::ReleaseResponse, Fault> {
        self.core().gate.release_hold(hold_id(&request.hold_id)?)?;
        Ok(v1::ReleaseResponse {})
    }

    fn hold_unit(&self, id: &str) -> Result<String, Fault> {
        Ok(self.core().gate.hold_unit(id)?)
    }
}

fn caller(caller: Option<v1::hold_request::Caller>) -> Result<Caller, FieldError> {
    match caller {
        Some(v1::hold_request::Caller::Secret(secret)) if secret.is_empty() => Err(
            FieldError::missing("secret", "the secret that was presented"),
        ),
        Some(v1::hold_request::Caller::Secret(secret)) if secret.len() > SECRET_BYTES_MAX => {
            let problem = format!("is longer than {SECRET_BYTES_MAX} bytes, which no key is");
            Err(FieldError::invalid("secret", problem))
        }
        Some(v1::hold_request::Caller::Secret(secret)) => Ok(Caller::Secret(secret)),
        Some(v1::hold_request::Caller::Key(name)) => Ok(Caller::Key(
            account_id("key.account_id", &name.account_id)?,
            key_id("key.key_id", &name.key_id)?,
        )),
        None => Err(FieldError::missing("caller", "a secret or a key")),
    }
}

fn hold_id(text: &str) -> Result<&str, FieldError> {
    if text.is_empty() {
        return Err(FieldError::missing("hold_id", "the id that Hold gave"));
    }
    if text.len() > HOLD_ID_BYTES_MAX {
        return Err(FieldError::invalid("hold_id", "is not one that Hold gave"));
    }
    Ok(text)
}

fn made_up_id() -> Result<String, Fault> {
    let bytes: [u8; 16] = random().map_err(|_| Fault::NoRandomness)?;
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(token("request_id", &id)?)
}

fn wire(charge: &Charge, unit: &str) -> v1::Charge {
    v1::Charge {
        amount: Some(amount(charge.amount, unit)),
        certainty: certainty(charge.certainty).into(),
        counts: counts(&charge.counts),
    }
}
