//! TenantService: the tenants that are set through this API, over those of the configuration.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, Thing, answer};
use super::mask::Mask;
use super::pages::{Filter, ROWS, cut};
use super::price::{check_etag, etag};
use crate::catalog::{CatalogError, InForce, Tenant};
use crate::policy::Overrides;
use crate::proto::convert::{
    FieldError, OVERRIDES, origin_or_none, overrides, overrides_from, policy_id, problems,
    set_override, tenant_id,
};
use crate::proto::v1::{self, tenant_service_server::TenantService};

/// How often an edit is tried against faster writers, if it names no etag: tenants are edited by people.
const TRIES_MAX: u32 = 16;

/// What an update may set, beside the fields of the overrides.
const FIELDS: [&str; 2] = ["policy_id", "overrides"];

#[tonic::async_trait]
impl TenantService for Control {
    async fn get_tenant(
        &self,
        request: Request<v1::GetTenantRequest>,
    ) -> Result<Response<v1::GetTenantResponse>, Status> {
        answer(self.one_tenant(&request.into_inner()).await)
    }

    async fn list_tenants(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Result<Response<v1::ListTenantsResponse>, Status> {
        answer(self.all_tenants(request.into_inner()).await)
    }

    async fn update_tenant(
        &self,
        request: Request<v1::UpdateTenantRequest>,
    ) -> Result<Response<v1::UpdateTenantResponse>, Status> {
        answer(self.change_tenant(request.into_inner()).await)
    }

    async fn delete_tenant(
        &self,
        request: Request<v1::DeleteTenantRequest>,
    ) -> Result<Response<v1::DeleteTenantResponse>, Status> {
        answer(self.drop_tenant(&request.into_inner()).await)
    }
}

impl Control {
    async fn one_tenant(
        &self,
        request: &v1::GetTenantRequest,
    ) -> Result<v1::GetTenantResponse, Fault> {
        let id = tenant_id("tenant_id", &request.tenant_id)?;
        self.look_again().await;
        Ok(v1::GetTenantResponse {
            tenant: Some(self.tenant_in_force(&id)?),
        })
    }

    async fn all_tenants(
        &self,
        mut request: v1::ListTenantsRequest,
    ) -> Result<v1::ListTenantsResponse, Fault> {
        let size = ROWS.of(std::mem::take(&mut request.page_size))?;
        let token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("ListTenants", &request);
        let after = filter.position(&token)?.unwrap_or_default();
        let origin = origin_or_none("origin", request.origin)?;
        self.look_again().await;
        let current = self.core().catalog.current();
        let later = current.tenants.iter().filter(|(id, _)| **id > after);
        let mut tenants: Vec<_> = later
            .map(|(id, each)| wire(&current, id, each))
            .filter(|tenant| origin.is_none_or(|origin| tenant.origin() == origin))
            .take(size.saturating_add(1))
            .collect();
        let more = cut(&mut tenants, size);
        let last = tenants.last().filter(|_| more);
        let next = last.map(|last| filter.token(&last.tenant_id));
        Ok(v1::ListTenantsResponse {
            tenants,
            next_page_token: next.unwrap_or_default(),
        })
    }

    async fn change_tenant(
        &self,
        request: v1::UpdateTenantRequest,
    ) -> Result<v1::UpdateTenantResponse, Fault> {
        let sent = request
            .tenant
            .ok_or_else(|| FieldError::missing("tenant", "the fields to set"))?;
        let id = tenant_id("tenant.tenant_id", &sent.tenant_id)?;
        let policy = match sent.policy_id.as_str() {
            "" => None,
            text => Some(policy_id("tenant.policy_id", text)?),
        };
        let given = match &sent.overrides {
            None => Overrides::default(),
            Some(sent) => overrides_from("tenant.overrides", sent, "")?,
        };
        let allowed = [FIELDS.as_slice(), OVERRIDES].concat();
        let mask = Mask::new(
            request.update_mask.as_ref(),
            &allowed,
            |field| match field {
                "policy_id" => policy.is_some(),
                "overrides" => sent.overrides.is_some(),
                _ => false,
            },
        )?;
        let edit = |current: &InForce| {
            let base = match current.tenants.get(&id) {
                Some(base) => base.clone(),
                None if request.allow_missing => Tenant::default(),
                None => return Err(Fault::NotFound(Thing::Tenant, id.clone())),
            };
            let changed = edited(base, policy.as_ref(), &given, &mask);
            check(current, &changed)?;
            let mut tenants = current.stored.tenants.clone();
            tenants.insert(id.clone(), changed);
            Ok(tenants)
        };
        self.edit_tenants(&sent.etag, edit).await?;
        Ok(v1::UpdateTenantResponse {
            tenant: Some(self.tenant_in_force(&id)?),
        })
    }

    async fn drop_tenant(
        &self,
        request: &v1::DeleteTenantRequest,
    ) -> Result<v1::DeleteTenantResponse, Fault> {
        let id = tenant_id("tenant_id", &request.tenant_id)?;
        let without = |current: &InForce| {
            let mut tenants = current.stored.tenants.clone();
            if tenants.remove(&id).is_some() {
                return Ok(tenants);
            }
            Err(if current.tenants.contains_key(&id) {
                Fault::TenantConfigured(id.clone())
            } else {
                Fault::NotFound(Thing::Tenant, id.clone())
            })
        };
        self.edit_tenants(&request.etag, without).await?;
        Ok(v1::DeleteTenantResponse {})
    }

    /// Replaces the stored tenants by what `edit` makes of them, if the etag is still current; without an etag, whatever they have
    /// become.
    async fn edit_tenants(
        &self,
        given: &str,
        edit: impl Fn(&InForce) -> Result<BTreeMap<String, Tenant>, Fault> + Send,
    ) -> Result<(), Fault> {
        let (catalog, store) = (&self.core().catalog, &*self.core().store);
        for _ in 0..TRIES_MAX {
            catalog.load(store).await?;
            let (version, tenants) = {
                let current = catalog.current();
                check_etag(given, current.tenants_version)?;
                (current.tenants_version, edit(&current)?)
            };
            match catalog.set_tenants(store, version, tenants).await {
                Err(CatalogError::Conflict(_)) => {}
                written => return Ok(written.map(drop)?),
            }
        }
        Err(Fault::Contended("the list of tenants".into()))
    }

    fn tenant_in_force(&self, id: &str) -> Result<v1::Tenant, Fault> {
        let current = self.core().catalog.current();
        let found = current.tenants.get(id);
        let found = found.ok_or_else(|| Fault::NotFound(Thing::Tenant, id.into()))?;
        Ok(wire(&current, id, found))
    }
}

fn edited(base: Tenant, policy: Option<&String>, given: &Overrides, mask: &Mask) -> Tenant {
    let mut tenant = base;
    if mask.has("policy_id") {
        tenant.policy = policy.cloned();
    }
    if mask.has("overrides") {
        tenant.overrides.clone_from(given);
    }
    for path in OVERRIDES.iter().filter(|path| mask.has(path)) {
        let field = path.strip_prefix("overrides.").unwrap_or(path);
        set_override(&mut tenant.overrides, given, field);
    }
    tenant
}

/// Whether there is such a policy, and the overrides go together with it.
fn check(current: &InForce, tenant: &Tenant) -> Result<(), Fault> {
    let name = tenant.policy.as_deref();
    let name = name.unwrap_or(crate::catalog::DEFAULT_POLICY);
    let policy = current.policy(name).ok_or_else(|| Fault::NoPolicy {
        name: name.into(),
        known: current.policy_names().collect::<Vec<_>>().join(", "),
    })?;
    problems("tenant.overrides", &tenant.overrides.over(policy))?;
    Ok(())
}

fn wire(current: &InForce, id: &str, each: &Tenant) -> v1::Tenant {
    let origin = if current.stored.tenants.contains_key(id) {
        v1::Origin::Store
    } else {
        v1::Origin::Configuration
    };
    v1::Tenant {
        tenant_id: id.into(),
        policy_id: each.policy.clone().unwrap_or_default(),
        overrides: Some(overrides(&each.overrides, "")),
        origin: origin.into(),
        etag: etag(current.tenants_version),
    }
}
