//! What of Check's question is read, and the service that reads it. Envoy shows a request whole, with both ends of its connection; of
//! that only some fields matter, and these are not copied out of the message: decoding all of it into strings and maps costs as much
//! as the decision.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, UnaryService};
use tonic_prost::ProstCodec;

use super::Envoy;
use crate::gateway::Lines;
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;

/// `envoy.service.auth.v3.CheckRequest`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Question {
    #[prost(message, optional, tag = "1")]
    pub(super) attributes: Option<Attributes>,
}

/// `envoy.service.auth.v3.AttributeContext`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Attributes {
    #[prost(message, optional, tag = "4")]
    pub(super) request: Option<Asked>,
    /// A map: on the wire, a list of entries.
    #[prost(message, repeated, tag = "10")]
    pub(super) context_extensions: Vec<Entry>,
}

/// `AttributeContext.Request`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Asked {
    #[prost(message, optional, tag = "1")]
    pub(super) time: Option<prost_types::Timestamp>,
    #[prost(message, optional, tag = "2")]
    pub(super) http: Option<Http>,
}

/// `AttributeContext.HttpRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Http {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) method: Bytes,
    #[prost(message, repeated, tag = "3")]
    pub(super) headers: Vec<Entry>,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) path: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) host: Bytes,
    #[prost(bytes = "bytes", tag = "11")]
    pub(super) body: Bytes,
    #[prost(bytes = "bytes", tag = "12")]
    pub(super) raw_body: Bytes,
    /// In the place of `headers`, if Envoy is to encode them raw.
    #[prost(message, optional, tag = "13")]
    pub(super) header_map: Option<HeaderMap>,
}

/// `envoy.config.core.v3.HeaderMap`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HeaderMap {
    #[prost(message, repeated, tag = "1")]
    pub(super) headers: Vec<Entry>,
}

/// An entry of a map, and `envoy.config.core.v3.HeaderValue`, which begins in the same way.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entry {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) raw_value: Bytes,
}

impl Entry {
    pub(super) fn value(&self) -> &[u8] {
        match self.raw_value.is_empty() {
            true => &self.value,
            false => &self.raw_value,
        }
    }
}

impl Http {
    /// The headers, in whichever form they came.
    pub(super) fn lines(&self) -> Headers<'_> {
        Headers(match &self.header_map {
            Some(map) => &map.headers,
            None => &self.headers,
        })
    }

    /// All of its body that is shown.
    pub(super) fn shown(&self) -> &[u8] {
        match self.raw_body.is_empty() {
            true => &self.body,
            false => &self.raw_body,
        }
    }
}

/// A request's headers.
pub(super) struct Headers<'a>(&'a [Entry]);

impl Lines for Headers<'_> {
    fn line(&self, name: &str) -> Option<&[u8]> {
        let mut all = self.0.iter();
        let found = all.find(|entry| entry.key == name.as_bytes())?;
        Some(found.value())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.0.iter();
        names.filter_map(|entry| std::str::from_utf8(&entry.key).ok())
    }
}

/// The path of `envoy.service.auth.v3.Authorization/Check`.
pub(super) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// `envoy.service.auth.v3.Authorization`.
#[derive(Clone)]
pub(super) struct Authorization(pub(super) Arc<Envoy>);

impl UnaryService<Question> for Authorization {
    type Response = CheckResponse;
    type Future = BoxFuture<tonic::Response<CheckResponse>, Status>;

    fn call(&mut self, request: tonic::Request<Question>) -> Self::Future {
        let envoy = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = envoy.check(&request.into_inner()).await;
            answer.map(tonic::Response::new)
        })
    }
}

impl Authorization {
    /// Answers a question as it came.
    pub(super) fn answer(
        &self,
        request: Request<Incoming>,
    ) -> BoxFuture<Response<Body>, Infallible> {
        let service = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<CheckResponse, Question>::default();
            let largest = Some(super::MESSAGE_BYTES_MAX);
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(largest, None);
            Ok(grpc.unary(service, request).await)
        })
    }
}
