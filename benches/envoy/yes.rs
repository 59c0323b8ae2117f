//! The least that an authorizer on tonic is: it always says yes, and reads access logs to throw them away.

use std::net::Ipv4Addr;

use auth::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::accesslog::v3 as log;
use envoy_types::pb::envoy::service::auth::v3 as auth;
use envoy_types::pb::google::rpc;
use futures_util::StreamExt as _;
use log::access_log_service_server::{AccessLogService, AccessLogServiceServer};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

struct Yes;

#[tonic::async_trait]
impl Authorization for Yes {
    async fn check(
        &self,
        _: Request<auth::CheckRequest>,
    ) -> Result<Response<auth::CheckResponse>, Status> {
        let ok = auth::check_response::HttpResponse::OkResponse(auth::OkHttpResponse::default());
        Ok(Response::new(auth::CheckResponse {
            status: Some(rpc::Status::default()),
            http_response: Some(ok),
            dynamic_metadata: None,
        }))
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
pub(crate) fn serve() {
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
            .add_service(AuthorizationServer::new(Yes))
            .add_service(AccessLogServiceServer::new(Yes))
            .serve_with_incoming(incoming)
            .await
            .unwrap();
    });
}
