//! PolicyService: the policies that are set through this API, over those of the configuration.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, Thing, answer};
use super::mask::Mask;
use super::pages::{Filter, ROWS, cut};
use super::price::{check_etag, etag};
use crate::catalog::{CatalogError, DEFAULT_POLICY, InForce};
use crate::policy::Policy;
use crate::proto::convert::{FieldError, policy, policy_from, policy_id};
use crate::proto::v1::{self, policy_service_server::PolicyService};

/// How often an edit is tried against faster writers, if it names no etag: policies are edited by people.
const TRIES_MAX: u32 = 16;

/// What an update may set.
const FIELDS: [&str; 10] = [
    "block_when",
    "credit_limit",
    "hold",
    "hold_ttl",
    "unsettled",
    "qps",
    "burst",
    "concurrency",
    "low_balance",
    "store_outage",
];

#[tonic::async_trait]
impl PolicyService for Control {
    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        answer(self.one_policy(&request.into_inner()).await)
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        answer(self.all_policies(request.into_inner()).await)
    }

    async fn update_policy(
        &self,
        request: Request<v1::UpdatePolicyRequest>,
    ) -> Result<Response<v1::UpdatePolicyResponse>, Status> {
        answer(self.change_policy(request.into_inner()).await)
    }

    async fn delete_policy(
        &self,
        request: Request<v1::DeletePolicyRequest>,
    ) -> Result<Response<v1::DeletePolicyResponse>, Status> {
        answer(self.drop_policy(&request.into_inner()).await)
    }
}

impl Control {
    async fn one_policy(
        &self,
        request: &v1::GetPolicyRequest,
    ) -> Result<v1::GetPolicyResponse, Fault> {
        let id = policy_id("policy_id", &request.policy_id)?;
        self.look_again().await;
        Ok(v1::GetPolicyResponse {
            policy: Some(self.policy_in_force(&id)?),
        })
    }

    async fn all_policies(
        &self,
        mut request: v1::ListPoliciesRequest,
    ) -> Result<v1::ListPoliciesResponse, Fault> {
        let size = ROWS.of(std::mem::take(&mut request.page_size))?;
        let token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("ListPolicies", &request);
        let after = filter.position(&token)?.unwrap_or_default();
        self.look_again().await;
        let current = self.core().catalog.current();
        let later = current.policies.iter().filter(|(id, _)| **id > after);
        let mut policies: Vec<_> = later
            .take(size.saturating_add(1))
            .map(|(id, each)| wire(&current, id, each))
            .collect();
        let more = cut(&mut policies, size);
        let last = policies.last().filter(|_| more);
        let next = last.map(|last| filter.token(&last.policy_id));
        Ok(v1::ListPoliciesResponse {
            policies,
            next_page_token: next.unwrap_or_default(),
        })
    }

    async fn change_policy(
        &self,
        request: v1::UpdatePolicyRequest,
    ) -> Result<v1::UpdatePolicyResponse, Fault> {
        let sent = request
            .policy
            .ok_or_else(|| FieldError::missing("policy", "the fields to set"))?;
        let id = policy_id("policy.policy_id", &sent.policy_id)?;
        let mask = Mask::new(request.update_mask.as_ref(), &FIELDS, |field| {
            present(&sent, field)
        })?;
        let edit = |current: &InForce| {
            let base = match current.policies.get(&id) {
                Some(base) => base.clone(),
                None if request.allow_missing => Policy::default(),
                None => return Err(Fault::NotFound(Thing::Policy, id.clone())),
            };
            let changed = policy_from("policy", &sent, base, |field| mask.has(field))?;
            let mut policies = current.stored.policies.clone();
            policies.insert(id.clone(), changed);
            Ok(policies)
        };
        self.edit_policies(&sent.etag, edit).await?;
        Ok(v1::UpdatePolicyResponse {
            policy: Some(self.policy_in_force(&id)?),
        })
    }

    async fn drop_policy(
        &self,
        request: &v1::DeletePolicyRequest,
    ) -> Result<v1::DeletePolicyResponse, Fault> {
        let id = policy_id("policy_id", &request.policy_id)?;
        let without = |current: &InForce| {
            let mut policies = current.stored.policies.clone();
            if policies.remove(&id).is_some() {
                return Ok(policies);
            }
            Err(if current.policies.contains_key(&id) {
                Fault::PolicyConfigured(id.clone())
            } else {
                Fault::NotFound(Thing::Policy, id.clone())
            })
        };
        self.edit_policies(&request.etag, without).await?;
        Ok(v1::DeletePolicyResponse {})
    }

    /// Replaces the stored policies by what `edit` makes of them, if the etag is still current; without an etag, whatever they
    /// have become.
    async fn edit_policies(
        &self,
        given: &str,
        edit: impl Fn(&InForce) -> Result<BTreeMap<String, Policy>, Fault> + Send,
    ) -> Result<(), Fault> {
        let (catalog, store) = (&self.core().catalog, &*self.core().store);
        for _ in 0..TRIES_MAX {
            catalog.load(store).await?;
            let (version, policies) = {
                let current = catalog.current();
                check_etag(given, current.policies_version)?;
                (current.policies_version, edit(&current)?)
            };
            match catalog.set_policies(store, version, policies).await {
                Err(CatalogError::Conflict(_)) => {}
                written => return Ok(written.map(drop)?),
            }
        }
        Err(Fault::Contended("the list of policies".into()))
    }

    fn policy_in_force(&self, id: &str) -> Result<v1::Policy, Fault> {
        let current = self.core().catalog.current();
        let found = current.policies.get(id);
        let found = found.ok_or_else(|| Fault::NotFound(Thing::Policy, id.into()))?;
        Ok(wire(&current, id, found))
    }
}

fn present(sent: &v1::Policy, field: &str) -> bool {
    match field {
        "block_when" => sent.block_when != 0,
        "credit_limit" => sent.credit_limit.is_some(),
        "hold" => sent.hold.is_some(),
        "hold_ttl" => sent.hold_ttl.is_some(),
        "unsettled" => sent.unsettled != 0,
        "qps" => sent.qps.is_some(),
        "burst" => sent.burst.is_some(),
        "concurrency" => sent.concurrency.is_some(),
        "low_balance" => sent.low_balance.is_some(),
        _ => sent.store_outage != 0,
    }
}

fn wire(current: &InForce, id: &str, each: &Policy) -> v1::Policy {
    let origin = if current.stored.policies.contains_key(id) {
        v1::Origin::Store
    } else if id == DEFAULT_POLICY && *each == Policy::default() {
        v1::Origin::BuiltIn
    } else {
        v1::Origin::Configuration
    };
    v1::Policy {
        origin: origin.into(),
        etag: etag(current.policies_version),
        ..policy(id, each, "")
    }
}
