//! LicenceService.

use tokio::sync::watch;
use tollgate::catalog::Layer;
use tollgate::clock::Clock;
use tollgate::control::{Signing, StartError, serve};
use tollgate::licence::Signer;
use tollgate::policy::Policy;
use tollgate::proto::v1::{self, LicenceState};
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::licence_service_client::LicenceServiceClient;

use super::{Api, NOON, at, loopback, refused, said, violations};
use crate::support::node::{Node, call, layer, terms};

fn client(api: &Api) -> LicenceServiceClient<Channel> {
    LicenceServiceClient::new(api.channel.clone())
}

/// A replica that signs what it checks.
async fn signing(dir: &std::path::Path) -> (Api, Clock) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pem = pair.serialize_pem();
    let key_file = dir.join("licences.pem");
    std::fs::write(&key_file, &pem).unwrap();
    let public_key = Signer::from_pem("2026", pem.as_bytes())
        .unwrap()
        .public_key();
    let clock = Clock::manual(NOON);
    let layer = Layer {
        licence_keys: [("2026".to_owned(), public_key)].into(),
        ..layer(Policy::default())
    };
    let node = Node::embedded_under(clock.clone(), layer);
    let settings = tollgate::control::Settings {
        signing: Some(Signing {
            kid: "2026".into(),
            key_file,
            public_key,
        }),
        ..loopback()
    };
    (Api::set(node, settings).await, clock)
}

fn licence(id: &str, from: i64, to: i64) -> v1::Licence {
    v1::Licence {
        licence_id: id.into(),
        account_id: "a".into(),
        models: vec!["fl*".into()],
        activate_time: at(from),
        expire_time: at(to),
        ..v1::Licence::default()
    }
}

async fn issue(api: &Api, licence: v1::Licence) -> Result<v1::IssueLicenceResponse, Status> {
    let request = v1::IssueLicenceRequest {
        licence: Some(licence),
    };
    Ok(client(api).issue_licence(request).await?.into_inner())
}

#[tokio::test]
async fn a_licence_passes_from_its_activation_until_it_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let (api, clock) = signing(dir.path()).await;
    api.open("a").await.unwrap();
    let issued = issue(&api, licence("lic-1", 10, 100)).await.unwrap();
    let (shown, token) = (issued.licence.unwrap(), issued.token);
    assert_eq!(
        (shown.state(), shown.signing_key_id.as_str()),
        (LicenceState::Pending, "2026")
    );
    let terms = terms();
    let passes = async || {
        api.node
            .core
            .gate
            .admit(&call(&token, "flat", &terms))
            .await
            .is_ok()
    };
    assert!(!passes().await);
    clock.advance(std::time::Duration::from_secs(10));
    assert!(passes().await, "the account has no money, and needs none");
    let revoke = async || {
        let request = v1::RevokeLicenceRequest {
            licence_id: "lic-1".into(),
        };
        client(&api)
            .revoke_licence(request)
            .await
            .unwrap()
            .into_inner()
            .licence
            .unwrap()
    };
    assert_eq!(
        (revoke().await.state(), revoke().await.revoke_time),
        (LicenceState::Revoked, at(10))
    );
    assert!(!passes().await);
}

#[tokio::test]
async fn licences_are_listed_and_their_mistakes_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let (api, _) = signing(dir.path()).await;
    api.open("a").await.unwrap();
    for (id, from) in [("l1", 0), ("l2", 5), ("l3", 0)] {
        issue(&api, licence(id, from, 9)).await.unwrap();
    }
    let twice = issue(&api, licence("l1", 0, 9)).await;
    assert_eq!(refused(twice), said(Code::AlreadyExists, "LICENCE_EXISTS"));
    let check = async |licence: v1::Licence, field: &str| {
        assert_eq!(violations(issue(&api, licence).await), [field]);
    };
    check(licence("x", -9, 0), "licence.expire_time").await;
    check(licence("x", 9, 9), "licence.expire_time").await;
    check(licence("a b", 0, 9), "licence.licence_id").await;
    check(
        v1::Licence {
            expire_time: None,
            ..licence("x", 0, 9)
        },
        "licence.expire_time",
    )
    .await;
    check(
        v1::Licence {
            models: vec!["a*b".into()],
            ..licence("x", 0, 9)
        },
        "licence.models[0]",
    )
    .await;
    let nobody = v1::Licence {
        account_id: "nobody".into(),
        ..licence("x", 0, 9)
    };
    assert_eq!(
        refused(issue(&api, nobody).await),
        said(Code::NotFound, "ACCOUNT_NOT_FOUND")
    );
    let unknown = v1::RevokeLicenceRequest {
        licence_id: "none".into(),
    };
    let unknown = client(&api).revoke_licence(unknown).await;
    assert_eq!(refused(unknown), said(Code::NotFound, "LICENCE_NOT_FOUND"));
    let list = async |states: &[LicenceState], page_size, token: &str| {
        let request = v1::ListLicencesRequest {
            account_id: "a".into(),
            page_size,
            page_token: token.into(),
            states: states.iter().map(|state| (*state).into()).collect(),
        };
        let page = client(&api).list_licences(request).await?.into_inner();
        let ids = page.licences.into_iter().map(|licence| licence.licence_id);
        Ok::<_, Status>((ids.collect::<Vec<_>>(), page.next_page_token))
    };
    let active = [LicenceState::Active];
    let (first, next) = list(&active, 1, "").await.unwrap();
    assert_eq!(first, ["l1"]);
    assert_eq!(list(&active, 1, &next).await.unwrap().0, ["l3"]);
    assert_eq!(
        refused(list(&[], 1, &next).await),
        said(Code::InvalidArgument, "PAGE_TOKEN_MISMATCH")
    );
}

#[tokio::test]
async fn who_has_no_key_issues_nothing_and_another_one_does_not_start() {
    let (api, _) = Api::under(Policy::default()).await;
    api.open("a").await.unwrap();
    let refusal = issue(&api, licence("l", 0, 9)).await;
    assert_eq!(
        refused(refusal),
        said(Code::FailedPrecondition, "LICENCES_NOT_CONFIGURED")
    );
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("key.pem");
    let pems = [(); 2].map(|()| {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        pair.serialize_pem()
    });
    let other = Signer::from_pem("k", pems[1].as_bytes()).unwrap();
    for pem in [pems[0].as_str(), "no key"] {
        std::fs::write(&key_file, pem).unwrap();
        let settings = tollgate::control::Settings {
            signing: Some(Signing {
                kid: "k".into(),
                key_file: key_file.clone(),
                public_key: other.public_key(),
            }),
            ..loopback()
        };
        let (_stop, stopping) = watch::channel(false);
        let started = serve(api.node.core.clone(), settings, stopping).await;
        assert!(
            matches!(started, Err(StartError::Signing { .. })),
            "{started:?}"
        );
    }
}
