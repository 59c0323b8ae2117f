//! LicenceService: offline licences are signed, listed and taken back here; [`crate::licence`] says what they are, the gate judges them.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, Thing, answer};
use super::key::patterns;
use super::pages::{Filter, ROWS, cut};
use crate::app::random;
use crate::catalog::CatalogError;
use crate::clock::Timestamp;
use crate::licence::{Invalid, Issued, LICENCES_MAX, Licence, LicenceError};
use crate::proto::convert::{FieldError, account_id, licence_id, note, timestamp, timestamp_from};
use crate::proto::v1::{self, LicenceState, licence_service_server::LicenceService};

/// How often a change is tried against faster writers.
const TRIES_MAX: u32 = 16;

/// How many patterns a licence may have: it carries them with it.
const MODELS_MAX: usize = 100;

type All = BTreeMap<String, Issued>;

#[tonic::async_trait]
impl LicenceService for Control {
    async fn issue_licence(
        &self,
        request: Request<v1::IssueLicenceRequest>,
    ) -> Result<Response<v1::IssueLicenceResponse>, Status> {
        answer(self.issued(request.into_inner()).await)
    }

    async fn revoke_licence(
        &self,
        request: Request<v1::RevokeLicenceRequest>,
    ) -> Result<Response<v1::RevokeLicenceResponse>, Status> {
        answer(self.licence_revoked(&request.into_inner()).await)
    }

    async fn list_licences(
        &self,
        request: Request<v1::ListLicencesRequest>,
    ) -> Result<Response<v1::ListLicencesResponse>, Status> {
        answer(self.licences(request.into_inner()).await)
    }
}

impl Control {
    async fn issued(
        &self,
        request: v1::IssueLicenceRequest,
    ) -> Result<v1::IssueLicenceResponse, Fault> {
        let signer = self.0.signer.as_ref().ok_or(Fault::NoSigner)?;
        let sent = request
            .licence
            .ok_or_else(|| FieldError::missing("licence", "the licence to issue"))?;
        let now = self.core().clock.now().wall;
        let account = account_id("licence.account_id", &sent.account_id)?;
        // An account that is not there would be found out only where calls are counted.
        self.read(&account).await?;
        let id = match sent.licence_id.as_str() {
            "" => made_up_id()?,
            text => licence_id("licence.licence_id", text)?,
        };
        let activates = timestamp_from("licence.activate_time", sent.activate_time.as_ref())?;
        let expires = timestamp_from("licence.expire_time", sent.expire_time.as_ref())?;
        let expires = expires.ok_or_else(|| {
            FieldError::missing(
                "licence.expire_time",
                "from when on it is not good any more",
            )
        })?;
        if expires <= now {
            let problem = format!("is {expires}, which is not after now");
            return Err(FieldError::invalid("licence.expire_time", problem).into());
        }
        let licence = Licence {
            id: id.clone(),
            kid: signer.kid().into(),
            account,
            activates: activates.unwrap_or(now),
            expires,
            models: patterns("licence.models", &sent.models, MODELS_MAX)?,
        };
        let token = signer.sign(licence.clone()).map_err(unsigned)?;
        let issued = Issued {
            licence,
            issued: now,
            revoked: None,
            note: note("licence.note", &sent.note)?,
        };
        self.edit_licences(|all| {
            if all.contains_key(&id) {
                return Err(Fault::LicenceExists(id.clone()));
            }
            if all.len() >= LICENCES_MAX {
                // Those that are over are refused for that, whatever the document says.
                all.retain(|_, other| other.licence.expires > now);
            }
            all.insert(id.clone(), issued.clone());
            Ok(())
        })
        .await?;
        Ok(v1::IssueLicenceResponse {
            licence: Some(wire(&issued, now)),
            token,
        })
    }

    async fn licence_revoked(
        &self,
        request: &v1::RevokeLicenceRequest,
    ) -> Result<v1::RevokeLicenceResponse, Fault> {
        let id = licence_id("licence_id", &request.licence_id)?;
        let now = self.core().clock.now().wall;
        let revoke = |all: &mut All| {
            let missing = || Fault::NotFound(Thing::Licence, id.clone());
            let found = all.get_mut(&id).ok_or_else(missing)?;
            found.revoked = Some(found.revoked.unwrap_or(now));
            Ok(())
        };
        let all = self.edit_licences(revoke).await?;
        // Before it is answered: should this replica die right after, and the store be away when it is back, it stays refused.
        self.core().sync.remember_documents().await;
        Ok(v1::RevokeLicenceResponse {
            licence: all.get(&id).map(|found| wire(found, now)),
        })
    }

    async fn licences(
        &self,
        mut request: v1::ListLicencesRequest,
    ) -> Result<v1::ListLicencesResponse, Fault> {
        let size = ROWS.of(std::mem::take(&mut request.page_size))?;
        let token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("ListLicences", &request);
        let after = filter.position(&token)?.unwrap_or_default();
        let account = match request.account_id.as_str() {
            "" => None,
            text => Some(account_id("account_id", text)?),
        };
        let states = states("states", &request.states)?;
        self.look_again().await;
        let now = self.core().clock.now().wall;
        let stored = self.core().catalog.licences().stored();
        let later = stored.issued.iter().filter(|(id, _)| **id > after);
        let of = later.filter(|(_, each)| {
            account
                .as_ref()
                .is_none_or(|account| *account == each.licence.account)
        });
        let mut licences: Vec<v1::Licence> = of
            .map(|(_, each)| wire(each, now))
            .filter(|shown| states.is_empty() || states.contains(&shown.state()))
            .take(size.saturating_add(1))
            .collect();
        let more = cut(&mut licences, size);
        let last = licences.last().filter(|_| more);
        let next = last.map(|last| filter.token(&last.licence_id));
        Ok(v1::ListLicencesResponse {
            licences,
            next_page_token: next.unwrap_or_default(),
        })
    }

    /// Replaces the stored licences by what `edit` makes of them, whatever they have become. What stays the same is not written.
    async fn edit_licences(
        &self,
        edit: impl Fn(&mut All) -> Result<(), Fault> + Send,
    ) -> Result<All, Fault> {
        let (catalog, store) = (&self.core().catalog, &*self.core().store);
        for _ in 0..TRIES_MAX {
            catalog.load(store).await?;
            let (version, before) = {
                let stored = catalog.licences().stored();
                (stored.version, stored.issued.clone())
            };
            let mut after = before.clone();
            edit(&mut after)?;
            if after == before {
                return Ok(after);
            }
            match catalog.set_licences(store, version, after.clone()).await {
                Err(CatalogError::Conflict(_)) => {}
                written => return Ok(written.map(|_| after)?),
            }
        }
        Err(Fault::Contended("the list of licences".into()))
    }
}

fn made_up_id() -> Result<String, Fault> {
    let bytes: [u8; 12] = random().map_err(|_| Fault::NoRandomness)?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("lic_{hex}"))
}

fn unsigned(error: LicenceError) -> Fault {
    let field = match error {
        LicenceError::Id(_) => "licence.licence_id",
        LicenceError::Time { .. } => "licence.expire_time",
        LicenceError::Model(_) | LicenceError::TooLong(_) => "licence.models",
    };
    Fault::Field(FieldError::invalid(field, error.to_string()))
}

fn wire(issued: &Issued, now: Timestamp) -> v1::Licence {
    let Issued {
        licence,
        issued: created,
        revoked,
        note,
    } = issued;
    let state = match licence.standing(*revoked, now) {
        None => LicenceState::Active,
        Some(Invalid::NotYet) => LicenceState::Pending,
        Some(Invalid::Expired) => LicenceState::Expired,
        Some(Invalid::Revoked) => LicenceState::Revoked,
        // It was made here.
        Some(Invalid::Forged) => LicenceState::Unspecified,
    };
    v1::Licence {
        licence_id: licence.id.clone(),
        account_id: licence.account.to_string(),
        models: licence.models.clone(),
        activate_time: Some(timestamp(licence.activates)),
        expire_time: Some(timestamp(licence.expires)),
        state: state.into(),
        create_time: Some(timestamp(*created)),
        revoke_time: revoked.map(timestamp),
        signing_key_id: licence.kid.clone(),
        note: note.clone(),
    }
}

fn states(field: &str, numbers: &[i32]) -> Result<Vec<LicenceState>, FieldError> {
    let state = |(index, number): (usize, &i32)| match LicenceState::try_from(*number) {
        Ok(LicenceState::Unspecified) | Err(_) => Err(FieldError::invalid(
            format!("{field}[{index}]"),
            format!("is {number}; it must be LICENCE_STATE_PENDING, _ACTIVE, _EXPIRED or _REVOKED"),
        )),
        Ok(state) => Ok(state),
    };
    numbers.iter().enumerate().map(state).collect()
}
