//! The least that an authorizer on tonic is: it always says yes, and reads access logs to throw them away. Its yes says nothing else, or
//! what tollgate's says with it, which then is the same for all.

use std::net::Ipv4Addr;

use auth::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::accesslog::v3 as log;
use envoy_types::pb::envoy::service::auth::v3 as auth;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use envoy_types::pb::google::rpc;
use futures_util::StreamExt as _;
use log::access_log_service_server::{AccessLogService, AccessLogServiceServer};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// What it always answers.
#[derive(Clone)]
struct Yes(auth::CheckResponse);

/// Nothing but yes.
fn bare() -> auth::CheckResponse {
    let ok = auth::check_response::HttpResponse::OkResponse(auth::OkHttpResponse::default());
    auth::CheckResponse {
        status: Some(rpc::Status::default()),
        http_response: Some(ok),
        dynamic_metadata: None,
    }
}

/// A yes with a hold, rate headers, the caller's key taken out, and what the access log is to say: as long as tollgate's.
fn full() -> auth::CheckResponse {
    let hold = "bench~r-0123456789abcdef~01234567.0123456789abcdef0123456789abcdef";
    let header = |(name, value): (&str, &str)| core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: name.into(),
            value: value.into(),
            raw_value: Vec::new(),
        }),
        append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    let rate = [
        ("ratelimit-policy", "\"qps\";q=1000000;w=1"),
        ("ratelimit", "\"qps\";r=999999;t=1"),
        ("x-ratelimit-limit-requests", "1000000"),
        ("x-ratelimit-remaining-requests", "999999"),
        ("x-ratelimit-reset-requests", "1ms"),
    ];
    let ok = auth::OkHttpResponse {
        headers: vec![header(("x-tollgate-hold", hold))],
        headers_to_remove: vec!["authorization".into()],
        response_headers_to_add: rate.map(header).into(),
        ..Default::default()
    };
    let said = [
        ("hold", hold),
        ("account", "bench"),
        ("key", "bench"),
        ("model", "bench"),
    ];
    let fields = said.map(|(name, value)| {
        let kind = Some(Kind::StringValue(value.into()));
        (name.to_owned(), Value { kind })
    });
    auth::CheckResponse {
        http_response: Some(auth::check_response::HttpResponse::OkResponse(ok)),
        dynamic_metadata: Some(Struct {
            fields: fields.into(),
        }),
        ..bare()
    }
}

#[tonic::async_trait]
impl Authorization for Yes {
    async fn check(
        &self,
        _: Request<auth::CheckRequest>,
    ) -> Result<Response<auth::CheckResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }
}

#[tonic::async_trait]
impl AccessLogService for Yes {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<log::StreamAccessLogsMessage>>,
    ) -> Result<Response<log::StreamAccessLogsResponse>, Status> {
        let mut lines = request.into_inner();
        while let Some(Ok(_)) = lines.next().await {}
        Ok(Response::new(log::StreamAccessLogsResponse {}))
    }
}

/// Serves until it is killed. Says where on standard output.
pub(crate) fn serve(is_full: bool) {
    let yes = Yes(if is_full { full() } else { bare() });
    // As `#[tokio::main]` has it, and as `serve` has the connections: a worker for each core it may use, and no waiting for more to send.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        Server::builder()
            .add_service(AuthorizationServer::new(yes.clone()))
            .add_service(AccessLogServiceServer::new(yes))
            .serve_with_incoming(incoming)
            .await
            .unwrap();
    });
}
