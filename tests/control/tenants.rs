//! TenantService, the presets, and every field of a policy.

use prost_types::FieldMask;
use tollgate::policy::Policy;
use tollgate::proto::v1;
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::policy_service_client::PolicyServiceClient;
use v1::tenant_service_client::TenantServiceClient;

use super::{Api, UNIT, refused, said, violations};

fn client(api: &Api) -> TenantServiceClient<Channel> {
    TenantServiceClient::new(api.channel.clone())
}

fn policies(api: &Api) -> PolicyServiceClient<Channel> {
    PolicyServiceClient::new(api.channel.clone())
}

fn plain(units: i64) -> Option<v1::Amount> {
    Some(v1::Amount {
        unit: String::new(),
        nanos: units * UNIT,
    })
}

async fn set(api: &Api, tenant: v1::Tenant, paths: &[&str]) -> Result<v1::Tenant, Status> {
    let request = v1::UpdateTenantRequest {
        tenant: Some(tenant),
        update_mask: Some(FieldMask {
            paths: paths.iter().map(ToString::to_string).collect(),
        }),
        allow_missing: true,
    };
    let answer = client(api).update_tenant(request).await?;
    Ok(answer.into_inner().tenant.unwrap())
}

fn partner() -> v1::Tenant {
    v1::Tenant {
        tenant_id: "partner".into(),
        policy_id: "openai-prepaid".into(),
        overrides: Some(v1::Overrides {
            qps: Some(7),
            credit_limit: plain(3),
            ..v1::Overrides::default()
        }),
        ..v1::Tenant::default()
    }
}

#[tokio::test]
async fn an_account_has_its_own_rules_then_its_tenants_then_the_default() {
    let (api, _) = Api::under(Policy::default()).await;
    let made = set(&api, partner(), &[]).await.unwrap();
    assert_eq!(
        (made.origin(), made.policy_id.as_str()),
        (v1::Origin::Store, "openai-prepaid")
    );
    let create = v1::CreateAccountRequest {
        account: Some(v1::Account {
            account_id: "a".into(),
            unit: "USD".into(),
            tenant_id: "partner".into(),
            overrides: Some(v1::Overrides {
                qps: Some(9),
                ..v1::Overrides::default()
            }),
            ..v1::Account::default()
        }),
        request_id: String::new(),
    };
    let account = api.accounts().create_account(create).await.unwrap();
    let account = account.into_inner().account.unwrap();
    let rules = account.effective_policy.unwrap();
    assert_eq!(
        (rules.qps, rules.credit_limit.unwrap().nanos),
        (Some(9), 3 * UNIT)
    );
    assert_eq!(account.tenant_id, "partner");
    // The tenant changes under it; one field alone.
    let tenant = v1::Tenant {
        overrides: Some(v1::Overrides {
            credit_limit: plain(4),
            ..v1::Overrides::default()
        }),
        ..partner()
    };
    let changed = set(&api, tenant, &["overrides.credit_limit"])
        .await
        .unwrap();
    let own = changed.overrides.unwrap();
    assert_eq!((own.qps, own.credit_limit), (Some(7), plain(4)));
    let now = api.get("a").await.effective_policy.unwrap();
    assert_eq!(now.credit_limit.unwrap().nanos, 4 * UNIT);
    let stale = v1::Tenant {
        etag: made.etag,
        ..partner()
    };
    assert_eq!(
        refused(set(&api, stale, &[]).await),
        said(Code::Aborted, "ETAG_MISMATCH")
    );
    let delete = async || {
        let request = v1::DeleteTenantRequest {
            tenant_id: "partner".into(),
            etag: String::new(),
        };
        client(&api).delete_tenant(request).await
    };
    delete().await.unwrap();
    assert_eq!(
        refused(delete().await),
        said(Code::NotFound, "TENANT_NOT_FOUND")
    );
    let now = api.get("a").await.effective_policy.unwrap();
    assert_eq!(now.credit_limit.unwrap().nanos, 0, "as if it had none");
}

#[tokio::test]
async fn wrong_tenants_are_said() {
    let (api, _) = Api::under(Policy::default()).await;
    let policy = v1::Tenant {
        policy_id: "none".into(),
        ..partner()
    };
    assert_eq!(
        refused(set(&api, policy, &[]).await),
        said(Code::NotFound, "POLICY_NOT_FOUND")
    );
    let name = v1::Tenant {
        tenant_id: "a b".into(),
        ..partner()
    };
    assert_eq!(violations(set(&api, name, &[]).await), ["tenant.tenant_id"]);
    assert_eq!(
        violations(set(&api, partner(), &["balance"]).await),
        ["update_mask"]
    );
    let limit = v1::Tenant {
        overrides: Some(v1::Overrides {
            credit_limit: plain(-1),
            ..v1::Overrides::default()
        }),
        ..partner()
    };
    assert_eq!(
        violations(set(&api, limit, &[]).await),
        ["tenant.overrides.credit_limit"]
    );
    let missing = v1::UpdateTenantRequest {
        tenant: Some(partner()),
        ..v1::UpdateTenantRequest::default()
    };
    assert_eq!(
        refused(client(&api).update_tenant(missing).await),
        said(Code::NotFound, "TENANT_NOT_FOUND")
    );
    for name in ["t1", "t2", "t3"] {
        let tenant = v1::Tenant {
            tenant_id: name.into(),
            ..partner()
        };
        set(&api, tenant, &[]).await.unwrap();
    }
    let page = async |token: &str, origin: v1::Origin| {
        let request = v1::ListTenantsRequest {
            page_size: 2,
            page_token: token.into(),
            origin: origin.into(),
        };
        client(&api).list_tenants(request).await
    };
    let first = page("", v1::Origin::Store).await.unwrap().into_inner();
    assert_eq!(first.tenants.len(), 2);
    let other = page(&first.next_page_token, v1::Origin::Unspecified).await;
    assert_eq!(
        refused(other),
        said(Code::InvalidArgument, "PAGE_TOKEN_MISMATCH")
    );
    let second = page(&first.next_page_token, v1::Origin::Store)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (second.tenants.len(), second.next_page_token.as_str()),
        (1, "")
    );
}

#[tokio::test]
async fn presets_are_there_and_can_be_put_over() {
    let (api, _) = Api::under(Policy::default()).await;
    let built_in = v1::ListPoliciesRequest {
        origin: v1::Origin::BuiltIn.into(),
        ..v1::ListPoliciesRequest::default()
    };
    let all = policies(&api)
        .list_policies(built_in)
        .await
        .unwrap()
        .into_inner()
        .policies;
    let names: Vec<_> = all.iter().map(|policy| policy.policy_id.as_str()).collect();
    for name in [
        "ai12z",
        "alibaba-visual",
        "openai-prepaid",
        "tencent-apigw",
        "xiaomi-mimo",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let alibaba = all
        .iter()
        .find(|policy| policy.policy_id == "alibaba-visual")
        .unwrap();
    assert_eq!(alibaba.resume(), v1::Resume::Reactivate);
    let over = v1::UpdatePolicyRequest {
        policy: Some(v1::Policy {
            policy_id: "alibaba-visual".into(),
            qps: Some(3),
            ..v1::Policy::default()
        }),
        ..v1::UpdatePolicyRequest::default()
    };
    let over = policies(&api)
        .update_policy(over)
        .await
        .unwrap()
        .into_inner()
        .policy
        .unwrap();
    assert_eq!((over.origin(), over.qps), (v1::Origin::Store, Some(3)));
    assert_eq!(
        over.resume(),
        v1::Resume::Reactivate,
        "the rest is the preset's"
    );
    let delete = async |name: &str| {
        let request = v1::DeletePolicyRequest {
            policy_id: name.into(),
            etag: String::new(),
        };
        policies(&api).delete_policy(request).await
    };
    delete("alibaba-visual").await.unwrap();
    assert_eq!(
        refused(delete("ai12z").await),
        said(Code::FailedPrecondition, "POLICY_CONFIGURED")
    );
}

#[tokio::test]
async fn every_field_of_a_policy_is_set_and_cleared() {
    let (api, _) = Api::under(Policy::default()).await;
    let length = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let deadline = |seconds, inclusive| {
        Some(v1::Deadline {
            after: length(seconds),
            inclusive,
        })
    };
    let full = v1::Policy {
        policy_id: "full".into(),
        block_when: v1::BlockWhen::ZeroOrLess.into(),
        credit_limit: plain(1),
        hold: Some(v1::HoldRule {
            mode: v1::HoldMode::Fixed.into(),
            amount: plain(2),
        }),
        hold_ttl: length(60),
        unsettled: v1::Unsettled::Charge.into(),
        qps: Some(1),
        burst: Some(2),
        concurrency: Some(3),
        low_balance: plain(3),
        store_outage: v1::StoreOutage::UpTo.into(),
        store_outage_limit: plain(4),
        grace: deadline(10, true),
        grace_limit: plain(5),
        suspend_after: deadline(20, false),
        resume: v1::Resume::Reactivate.into(),
        capabilities: vec!["vision*".into()],
        purge_after: length(30),
        plans_while_overdue: v1::WhileOverdue::Available.into(),
        qps_plans_while_overdue: v1::WhileOverdue::Available.into(),
        plan_shortfall: v1::PlanShortfall::Whole.into(),
        gifts_pay_debt: Some(true),
        purchase_min: plain(6),
        purchase_max: plain(70),
        purchase_max_by_tier: [("gold".to_owned(), plain(80).unwrap())].into(),
        credit_expires_after: length(40),
        refunds: v1::Refunds::Never.into(),
        alerts: vec![plain(8).unwrap(), plain(9).unwrap()],
        credit_expiring_notice: length(5),
        enforcement: v1::Enforcement::Shadow.into(),
        live_time: super::at(99),
        mode: v1::BillingMode::CreditThenInvoice.into(),
        invoice_limit: plain(10),
        auto_recharge: Some(v1::AutoRecharge {
            below: plain(1),
            amount: plain(11),
            cool_down: length(50),
            monthly_max: plain(100),
        }),
        budgets: vec![v1::Budget {
            amount: plain(12),
            period: v1::BudgetPeriod::Day.into(),
            capability: "vision*".into(),
        }],
        ..v1::Policy::default()
    };
    let set = async |policy: v1::Policy, paths: &[&str]| {
        let request = v1::UpdatePolicyRequest {
            policy: Some(policy),
            update_mask: Some(FieldMask {
                paths: paths.iter().map(ToString::to_string).collect(),
            }),
            allow_missing: true,
        };
        let answer = policies(&api).update_policy(request).await?;
        let policy = answer.into_inner().policy.unwrap();
        Ok::<_, Status>(v1::Policy {
            origin: 0,
            etag: String::new(),
            ..policy
        })
    };
    assert_eq!(
        set(full.clone(), &[]).await.unwrap(),
        full,
        "each comes back as it was sent"
    );
    // One at a time: named and absent, it is the default's; the others stay. Those that need each other go together.
    let empty = v1::Policy {
        policy_id: "full".into(),
        ..v1::Policy::default()
    };
    let cleared = set(empty.clone(), &["*"]).await.unwrap();
    let read = v1::GetPolicyRequest {
        policy_id: "default".into(),
    };
    let default = policies(&api)
        .get_policy(read)
        .await
        .unwrap()
        .into_inner()
        .policy
        .unwrap();
    let default = v1::Policy {
        policy_id: "full".into(),
        origin: 0,
        etag: String::new(),
        ..default
    };
    assert_eq!(cleared, default);
    let one = set(full.clone(), &["alerts", "grace", "store_outage"])
        .await
        .unwrap();
    let expected = v1::Policy {
        alerts: full.alerts.clone(),
        grace: full.grace,
        store_outage: full.store_outage,
        store_outage_limit: full.store_outage_limit.clone(),
        ..default
    };
    assert_eq!(one, expected);
    let check = async |edit: &dyn Fn(&mut v1::Policy), field: &str| {
        let mut wrong = empty.clone();
        edit(&mut wrong);
        assert_eq!(violations(set(wrong, &["*"]).await), [field]);
    };
    check(
        &|policy| policy.grace = deadline(0, false),
        "policy.grace.after",
    )
    .await;
    check(
        &|policy| policy.grace = Some(v1::Deadline::default()),
        "policy.grace.after",
    )
    .await;
    check(
        &|policy| policy.purchase_min = plain(0),
        "policy.purchase_min",
    )
    .await;
    check(
        &|policy| policy.store_outage = v1::StoreOutage::UpTo.into(),
        "policy.store_outage_limit",
    )
    .await;
    check(
        &|policy| policy.store_outage_limit = plain(1),
        "policy.store_outage_limit",
    )
    .await;
    check(&|policy| policy.mode = 9, "policy.mode").await;
    check(
        &|policy| policy.alerts = vec![super::usd(1).unwrap()],
        "policy.alerts[0].unit",
    )
    .await;
    check(
        &|policy| policy.auto_recharge = Some(v1::AutoRecharge::default()),
        "policy.auto_recharge.amount",
    )
    .await;
    check(&|policy| policy.grace_limit = plain(1), "policy").await;
    check(&|policy| policy.purge_after = length(1), "policy").await;
}
