//! Who gets in: the token, mTLS, where it may listen; health and reflection.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use tokio::sync::watch;
use tollgate::control::{Listen, Settings, Tls, serve};
use tollgate::proto::{DESCRIPTORS, v1};
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ListServiceResponse, ServerReflectionRequest};
use v1::account_service_client::AccountServiceClient;

use super::{connect, loopback, refused, said};
use crate::support::node::Node;

async fn start(settings: Settings) -> (Node, tollgate::control::Running, watch::Sender<bool>) {
    let node = Node::embedded();
    let (stop, stopping) = watch::channel(false);
    let running = serve(node.core.clone(), settings, stopping).await.unwrap();
    (node, running, stop)
}

async fn list(channel: Channel, authorization: Option<&str>) -> Result<(), Status> {
    let mut request = Request::new(v1::ListAccountsRequest::default());
    if let Some(value) = authorization {
        request
            .metadata_mut()
            .insert("authorization", MetadataValue::try_from(value).unwrap());
    }
    AccountServiceClient::new(channel)
        .list_accounts(request)
        .await
        .map(drop)
}

#[tokio::test]
async fn it_does_not_start_open_to_others() {
    let node = Node::embedded();
    let check = async |listen: &str, token: Option<&str>, part: Option<&str>| {
        let (_stop, stopping) = watch::channel(false);
        let settings = Settings {
            listen: Listen::Tcp(listen.parse().unwrap()),
            token: token.map(Into::into),
            ..loopback()
        };
        let started = serve(node.core.clone(), settings, stopping).await;
        match (started, part) {
            (Ok(running), None) => running.join.abort(),
            (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{error}"),
            (Ok(_), Some(_)) => panic!("{listen} with {token:?} must not start"),
            (Err(error), None) => panic!("{listen}: {error}"),
        }
    };
    check("0.0.0.0:0", None, Some("control.token")).await;
    check("0.0.0.0:0", None, Some("client_ca")).await;
    check("192.0.2.1:0", None, Some("which others can reach")).await;
    check("0.0.0.0:0", Some(""), Some("control.token must be")).await;
    check("0.0.0.0:0", Some("s3cret"), None).await;
    check("127.0.0.1:0", None, None).await;
    check("[::ffff:127.0.0.1]:0", None, None).await;
}

#[tokio::test]
async fn the_token_is_asked_of_everybody() {
    let token = Some("s3cret".into());
    let (_node, running, _stop) = start(Settings {
        token,
        ..loopback()
    })
    .await;
    let channel = connect(&running).await;
    list(channel.clone(), Some("Bearer s3cret")).await.unwrap();
    let none = list(channel.clone(), None).await;
    assert_eq!(refused(none), said(Code::Unauthenticated, "TOKEN_REQUIRED"));
    let wrong = list(channel, Some("Bearer s3cre7")).await;
    assert_eq!(refused(wrong), said(Code::Unauthenticated, "TOKEN_WRONG"));
}

/// Every method there is, asked without the token: a service that is added without the guard fails here.
#[tokio::test]
async fn no_method_is_left_unguarded() {
    let token = Some("s3cret".into());
    let (_node, running, _stop) = start(Settings {
        token,
        ..loopback()
    })
    .await;
    let channel = connect(&running).await;
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let mut methods = vec!["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned()];
    for file in &files {
        for service in &file.service {
            let of = |method: &prost_types::MethodDescriptorProto| {
                format!("/{}.{}/{}", file.package(), service.name(), method.name())
            };
            methods.extend(service.method.iter().map(of));
        }
    }
    assert!(methods.len() > 30, "{methods:?}");
    for method in methods {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let path = PathAndQuery::try_from(method.as_str()).unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let answer = client.unary(Request::new(()), path, codec).await;
        assert_eq!(
            refused(answer),
            said(Code::Unauthenticated, "TOKEN_REQUIRED"),
            "{method}"
        );
    }
}

async fn health(channel: Channel) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let answer = HealthClient::new(channel).check(request).await?;
    Ok(answer.into_inner().status())
}

#[tokio::test]
async fn health_is_served_to_everybody() {
    let token = Some("s3cret".into());
    let (_node, running, _stop) = start(Settings {
        token,
        ..loopback()
    })
    .await;
    let channel = connect(&running).await;
    assert_eq!(health(channel).await.unwrap(), ServingStatus::Serving);
}

#[tokio::test]
async fn reflection_lists_the_services_and_describes_them() {
    let (_node, running, _stop) = start(loopback()).await;
    let channel = connect(&running).await;
    let ask = async |message: MessageRequest| {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message),
        };
        let mut client = ServerReflectionClient::new(channel.clone());
        let answer = client
            .server_reflection_info(tokio_stream::iter([request]))
            .await;
        let answer = answer.unwrap().into_inner().message().await.unwrap();
        answer.unwrap().message_response.unwrap()
    };
    let services = ask(MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(ListServiceResponse { service }) = services else {
        panic!("{services:?}")
    };
    let names: Vec<_> = service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in [
        "Account", "Credit", "Event", "Hold", "Key", "Ledger", "Policy", "Price", "Sync", "Usage",
    ] {
        let name = format!("tollgate.v1.{name}Service");
        assert!(names.contains(&name.as_str()), "{name}: {names:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol("tollgate.v1.Account".into());
    assert!(matches!(
        ask(symbol).await,
        MessageResponse::FileDescriptorResponse(_)
    ));
}

/// An authority and certificates of it, written where the server reads them.
struct Certificates {
    dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { dir, ca }
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.into()]).unwrap();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn server(&self, mutual: bool) -> Tls {
        let (cert, key) = self.issue("localhost", ExtendedKeyUsagePurpose::ServerAuth);
        Tls {
            cert: self.write("cert.pem", &cert),
            key: self.write("key.pem", &key),
            client_ca: mutual.then(|| self.write("ca.pem", &self.ca.pem())),
        }
    }

    async fn connect(
        &self,
        address: SocketAddr,
        identity: Option<Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let trust = Certificate::from_pem(self.ca.pem());
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(trust)
            .domain_name("localhost");
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
        endpoint.connect().await
    }
}

#[tokio::test]
async fn with_a_client_ca_only_its_clients_get_in() {
    let certificates = Certificates::new();
    // Off loopback: that is what it is for. Reached over loopback all the same.
    let settings = Settings {
        listen: Listen::Tcp("0.0.0.0:0".parse().unwrap()),
        tls: Some(certificates.server(true)),
        ..loopback()
    };
    let (_node, running, _stop) = start(settings).await;
    let address = SocketAddr::from(([127, 0, 0, 1], running.local_addr.unwrap().port()));
    let identity = |from: &Certificates| {
        let (cert, key) = from.issue("client", ExtendedKeyUsagePurpose::ClientAuth);
        Some(Identity::from_pem(cert, key))
    };
    let good = certificates
        .connect(address, identity(&certificates))
        .await
        .unwrap();
    list(good, None).await.unwrap();
    for wrong in [None, identity(&Certificates::new())] {
        // With TLS 1.3 the client learns that it is refused when it first reads.
        match certificates.connect(address, wrong).await {
            Err(_) => {}
            Ok(channel) => {
                assert!(list(channel.clone(), None).await.is_err());
                assert!(health(channel).await.is_err(), "not even health");
            }
        }
    }
    let plain = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await;
    if let Ok(channel) = plain {
        assert!(list(channel, None).await.is_err());
    }
}

#[tokio::test]
async fn tls_goes_with_a_token_too() {
    let certificates = Certificates::new();
    let settings = Settings {
        token: Some("s3cret".into()),
        tls: Some(certificates.server(false)),
        ..loopback()
    };
    let (_node, running, _stop) = start(settings).await;
    let channel = certificates
        .connect(running.local_addr.unwrap(), None)
        .await
        .unwrap();
    list(channel.clone(), Some("Bearer s3cret")).await.unwrap();
    assert_eq!(refused(list(channel, None).await).0, Code::Unauthenticated);
}

#[tokio::test]
async fn files_that_are_missing_or_wrong_are_named() {
    let node = Node::embedded();
    let certificates = Certificates::new();
    let check = async |tls: Tls, part: &str| {
        let (_stop, stopping) = watch::channel(false);
        let settings = Settings {
            tls: Some(tls),
            ..loopback()
        };
        let error = serve(node.core.clone(), settings, stopping)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    };
    let good = certificates.server(false);
    check(
        Tls {
            cert: "/nowhere.pem".into(),
            ..good.clone()
        },
        "control.tls.cert: `/nowhere.pem`",
    )
    .await;
    check(
        Tls {
            client_ca: Some("/nowhere.pem".into()),
            ..good.clone()
        },
        "control.tls.client_ca",
    )
    .await;
    let nonsense = certificates.write("nonsense.pem", "nonsense");
    check(
        Tls {
            key: nonsense,
            ..good
        },
        "control.tls: ",
    )
    .await;
}

async fn over_unix(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()))?;
    endpoint.connect().await
}

#[tokio::test]
async fn a_unix_socket_is_for_this_user_and_replaces_one_that_was_left() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    // What a process that was killed leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let settings = Settings {
        listen: Listen::Unix(path.clone()),
        ..loopback()
    };
    let (node, running, stop) = start(settings.clone()).await;
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let channel = over_unix(&path).await.unwrap();
    list(channel.clone(), None).await.unwrap();
    let (_other, stopping) = watch::channel(false);
    let second = serve(node.core.clone(), settings, stopping)
        .await
        .unwrap_err();
    assert!(second.to_string().contains("another process"), "{second}");
    drop(channel);
    stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(10), running.join)
        .await
        .expect("drained")
        .unwrap();
    let (_other, stopping) = watch::channel(false);
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let settings = Settings {
        listen: Listen::Unix(file.clone()),
        ..loopback()
    };
    assert!(serve(node.core.clone(), settings, stopping).await.is_err());
    assert_eq!(std::fs::read_to_string(file).unwrap(), "precious");
}
