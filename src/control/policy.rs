//! PolicyService: the policies that are set through this API, over those of the configuration.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, Thing, answer};
use super::mask::Mask;
use super::pages::{Filter, ROWS, cut};
use super::price::{check_etag, etag};
use crate::catalog::{CatalogError, DEFAULT_POLICY, InForce, presets};
use crate::policy::Policy;
use crate::proto::convert::{
    FieldError, RULES, is_given, origin_or_none, overrides_from, policy, policy_id, problems,
    rules, set_rule,
};
use crate::proto::v1::{self, policy_service_server::PolicyService};

/// How often an edit is tried against faster writers, if it names no etag: policies are edited by people.
const TRIES_MAX: u32 = 16;

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
        let origin = origin_or_none("origin", request.origin)?;
        self.look_again().await;
        let current = self.core().catalog.current();
        let mut names: Vec<&str> = current.policy_names().collect();
        names.sort_unstable();
        let later = names.into_iter().filter(|id| *id > after.as_str());
        let mut policies: Vec<_> = later
            .filter_map(|id| Some(wire(&current, id, current.policy(id)?)))
            .filter(|policy| origin.is_none_or(|origin| policy.origin() == origin))
            .take(size.saturating_add(1))
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
        let given = overrides_from("policy", &rules(&sent), "")?;
        let mask = Mask::new(request.update_mask.as_ref(), RULES, |field| {
            is_given(&given, field)
        })?;
        let edit = |current: &InForce| {
            let base = match current.policy(&id) {
                Some(base) => base.clone(),
                None if request.allow_missing => Policy::default(),
                None => return Err(Fault::NotFound(Thing::Policy, id.clone())),
            };
            let mut changed = base;
            for field in RULES.iter().filter(|field| mask.has(field)) {
                set_rule(&mut changed, &given, field);
            }
            problems("policy", &changed)?;
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
            Err(if current.policy(&id).is_some() {
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
        let found = current.policy(id);
        let found = found.ok_or_else(|| Fault::NotFound(Thing::Policy, id.into()))?;
        Ok(wire(&current, id, found))
    }
}

fn wire(current: &InForce, id: &str, each: &Policy) -> v1::Policy {
    let origin = if current.stored.policies.contains_key(id) {
        v1::Origin::Store
    } else if (id == DEFAULT_POLICY && *each == Policy::default())
        || (!current.policies.contains_key(id) && presets::all().contains_key(id))
    {
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
