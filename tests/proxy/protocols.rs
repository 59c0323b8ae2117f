//! HTTP/2, TLS, upgrades, and the corners of HTTP/1.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tollgate::proxy::TlsFiles;
use tollgate::route::HttpVersion;

use super::passing::{ASK, CHAT, SAID};
use crate::support::edge::{Edge, Plan};
use crate::support::http::{Wire, call, post};
use crate::support::upstream::{Reply, Upstream};

/// Says [`SAID`], and in a header which HTTP it was asked in.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let version = format!("{:?}", request.version());
    let authority = request.uri().authority().map(ToString::to_string);
    let body = request.into_body().collect().await?.to_bytes();
    let response = Response::builder()
        .header("x-spoken", version)
        .header("x-authority", authority.unwrap_or_default())
        .header("x-body", body.len());
    Ok(response.body(Full::from(SAID)).unwrap())
}

/// An upstream that speaks both versions, over TLS if it is given a certificate.
async fn speaks_both(tls: Option<rustls::ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tls.map(|tls| tokio_rustls::TlsAcceptor::from(Arc::new(tls)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                match acceptor {
                    None => {
                        let io = TokioIo::new(stream);
                        let _ = server.serve_connection(io, service_fn(answer)).await;
                    }
                    Some(acceptor) => {
                        let Ok(stream) = acceptor.accept(stream).await else {
                            return;
                        };
                        let io = TokioIo::new(stream);
                        let _ = server.serve_connection(io, service_fn(answer)).await;
                    }
                }
            });
        }
    });
    address
}

struct Certificate {
    dir: tempfile::TempDir,
    files: TlsFiles,
}

/// A certificate for `localhost` that trusts itself.
fn certificate() -> Certificate {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        cert_file: dir.path().join("cert.pem"),
        key_file: dir.path().join("key.pem"),
    };
    std::fs::write(&files.cert_file, made.cert.pem()).unwrap();
    std::fs::write(&files.key_file, made.signing_key.serialize_pem()).unwrap();
    Certificate { dir, files }
}

fn server_config(files: &TlsFiles, alpn: &[&[u8]]) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_file(&files.cert_file).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&files.key_file).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

#[tokio::test]
async fn an_upstream_is_spoken_to_in_the_version_that_is_configured_or_agreed() {
    let own = certificate();
    for (tls, http, alpn, spoken) in [
        (false, HttpVersion::Auto, &[][..], "HTTP/1.1"),
        (false, HttpVersion::Http2, &[][..], "HTTP/2.0"),
        (
            true,
            HttpVersion::Auto,
            &[b"h2".as_slice(), b"http/1.1"][..],
            "HTTP/2.0",
        ),
        (
            true,
            HttpVersion::Auto,
            &[b"http/1.1".as_slice()][..],
            "HTTP/1.1",
        ),
        (
            true,
            HttpVersion::Http1,
            &[b"h2".as_slice(), b"http/1.1"][..],
            "HTTP/1.1",
        ),
        (
            true,
            HttpVersion::Http2,
            &[b"h2".as_slice(), b"http/1.1"][..],
            "HTTP/2.0",
        ),
    ] {
        let config = tls.then(|| server_config(&own.files, alpn));
        let address = speaks_both(config).await;
        let mut plan = Plan::before(address);
        plan.upstream.tls = tls;
        plan.upstream.http = http;
        plan.upstream.host = "localhost".into();
        plan.upstream.ca_file = Some(own.files.cert_file.clone());
        let edge = plan.start().await;
        // Twice: the connection is kept.
        for _ in 0..2 {
            let got = call(edge.address, post(CHAT, ASK)).await;
            assert_eq!(got.status(), 200, "{tls} {http:?} {}", got.text());
            assert_eq!(got.header("x-spoken"), Some(spoken), "{tls} {http:?}");
            assert_eq!(got.header("x-body"), Some(ASK.len().to_string().as_str()));
            assert_eq!(got.text(), SAID);
        }
        edge.check_spent("0.228").await;
    }
    drop(own.dir);
}

#[tokio::test]
async fn an_upstream_whose_certificate_is_not_trusted_is_a_502() {
    let own = certificate();
    let address = speaks_both(Some(server_config(&own.files, &[]))).await;
    let mut plan = Plan::before(address);
    plan.upstream.tls = true;
    plan.upstream.host = "localhost".into();
    let edge = plan.start().await;
    assert_eq!(call(edge.address, post(CHAT, ASK)).await.status(), 502);
    edge.check_spent("0").await;
}

/// Two calls at once on one HTTP/2 connection.
async fn check_http2<IO>(io: IO, edge: &Edge, upstream: &Upstream)
where
    IO: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let calls = (0..2).map(|_| {
        upstream.then(Reply::json(SAID));
        let mut sender = sender.clone();
        let request = Request::post(format!("http://tollgate.test{CHAT}"))
            .header("authorization", "Bearer sk-a")
            .body(Full::new(Bytes::from(ASK)))
            .unwrap();
        tokio::spawn(async move { sender.send_request(request).await.unwrap() })
    });
    for call in calls.collect::<Vec<_>>() {
        let response = call.await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, SAID);
    }
    let seen = &upstream.seen()[0];
    assert_eq!(seen.header("x-forwarded-host"), Some("tollgate.test"));
    assert_eq!(
        seen.header("host"),
        Some(upstream.address.to_string().as_str())
    );
    edge.check_spent("0.228").await;
}

#[tokio::test]
async fn a_client_may_speak_http2_without_tls() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let stream = TcpStream::connect(edge.address).await.unwrap();
    check_http2(TokioIo::new(stream), &edge, &upstream).await;
}

#[tokio::test]
async fn a_client_may_speak_http2_over_tls() {
    let own = certificate();
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.settings.tls = Some(own.files.clone());
    let edge = plan.start().await;
    let mut roots = rustls::RootCertStore::empty();
    let trusted = CertificateDer::from_pem_file(&own.files.cert_file).unwrap();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    check_http2(TokioIo::new(stream), &edge, &upstream).await;
    assert_eq!(
        upstream.seen()[0].header("x-forwarded-proto"),
        Some("https")
    );
}

#[tokio::test]
async fn an_upgraded_connection_passes_both_ways_and_is_charged_when_it_ends() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.terms.model = Some("flat".parse().unwrap());
    let edge = plan.start().await;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                  sec-websocket-accept: x\r\n\r\n";
    let (reply, pieces) = Reply::begun(Reply::Bytes(answer.into()));
    upstream.then(reply);
    let mut client = Wire::connect(edge.address).await;
    client
        .send(
            "GET /v1/realtime HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-a\r\n\
             connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: y\r\n\r\n",
        )
        .await;
    let got = client.head().await.unwrap();
    assert_eq!(got.status(), 101);
    assert_eq!(got.header("upgrade"), Some("websocket"));
    assert_eq!(got.header("connection"), Some("upgrade"));
    assert_eq!(got.header("sec-websocket-accept"), Some("x"));
    let seen = &upstream.seen()[0];
    assert_eq!(seen.header("upgrade"), Some("websocket"));
    assert_eq!(seen.header("connection"), Some("upgrade"));
    client.send("up").await;
    pieces.send(b"5\r\nhello\r\n".to_vec()).unwrap();
    assert_eq!(client.chunk().await.unwrap(), b"hello");
    drop(pieces);
    client.closed().await;
    drop(client);
    edge.check_spent("1").await;
}

#[tokio::test]
async fn an_upstream_is_not_asked_to_turn_a_connection_into_another_http() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    upstream.then(Reply::json(SAID));
    let h2c = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n";
    let ask = post(CHAT, ASK).replacen("authorization", &format!("{h2c}authorization"), 1);
    assert_eq!(call(edge.address, ask).await.status(), 200);
    let seen = &upstream.seen()[0];
    for name in ["upgrade", "http2-settings"] {
        assert_eq!(seen.header(name), None, "{seen:?}");
    }
    let upgrades = |value: &str| value.to_ascii_lowercase().contains("upgrade");
    assert!(!seen.header("connection").is_some_and(upgrades), "{seen:?}");
    edge.check_spent("0.114").await;
}

#[tokio::test]
async fn a_head_request_has_a_length_and_no_body() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.terms.model = Some("flat".parse().unwrap());
    let edge = plan.start().await;
    let empty = "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n";
    upstream.then(Reply::Bytes(empty.into()));
    upstream.then(Reply::Bytes("HTTP/1.1 204 No Content\r\n\r\n".into()));
    let mut client = Wire::connect(edge.address).await;
    let ask = |method: &str| format!("{method} /x HTTP/1.1\r\nhost: x\r\nx-api-key: sk-a\r\n\r\n");
    client.send(ask("HEAD")).await;
    let got = client.head().await.unwrap();
    assert_eq!(
        (got.status(), got.header("content-length")),
        (200, Some("1234"))
    );
    client.send(ask("DELETE")).await;
    assert_eq!(client.message().await.unwrap().status(), 204);
    edge.check_spent("2").await;
}

#[tokio::test]
async fn a_target_may_be_absolute_and_a_client_old() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    upstream.then(Reply::json(SAID)).then(Reply::json(SAID));
    let absolute = post(CHAT, ASK).replacen(CHAT, &format!("http://other.test{CHAT}"), 1);
    assert_eq!(call(edge.address, absolute).await.status(), 200);
    let seen = &upstream.seen()[0];
    assert_eq!(seen.start, format!("POST {CHAT} HTTP/1.1"));
    let old = post(CHAT, ASK).replacen("HTTP/1.1", "HTTP/1.0", 1);
    let got = call(edge.address, old).await;
    assert_eq!((got.status(), got.text().as_str()), (200, SAID));
    assert_eq!(upstream.seen()[1].start, format!("POST {CHAT} HTTP/1.1"));
    edge.check_spent("0.228").await;
}

#[tokio::test]
async fn a_length_and_chunks_at_once_are_framed_anew() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    upstream.then(Reply::json(SAID));
    let both = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-a\r\n\
                content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut request = both.as_bytes().to_vec();
    request.extend(crate::support::upstream::chunk(ASK));
    request.extend(b"0\r\n\r\n");
    let got = call(edge.address, request).await;
    let seen = upstream.seen();
    match got.status() {
        400 => assert!(seen.is_empty()),
        status => {
            assert_eq!(status, 200);
            assert_eq!(seen[0].body, ASK.as_bytes());
            let framings = ["content-length", "transfer-encoding"];
            let said = framings
                .iter()
                .filter(|name| seen[0].header(name).is_some());
            assert_eq!(said.count(), 1, "{:?}", seen[0]);
        }
    }
}
