//! What of Check's question is read, and the service that reads it. Envoy shows a request whole, with both ends of its connection; of
//! that only some fields matter, and these stay in the message.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::codegen::BoxFuture;

use super::Envoy;
use super::fields::{Entry, Fields, Headers, Held, Malformed};
use super::unary::{self, Answer};

/// Room for as many headers as most requests have, with Envoy's own.
const HEADERS: usize = 24;

/// `envoy.service.auth.v3.CheckRequest`, as far as it is read.
#[derive(Debug, Default)]
pub(super) struct Question<'a> {
    pub(super) attributes: Option<Attributes<'a>>,
}

/// `envoy.service.auth.v3.AttributeContext`.
#[derive(Debug, Default)]
pub(super) struct Attributes<'a> {
    pub(super) request: Option<Asked<'a>>,
    pub(super) context_extensions: Vec<Entry<'a>>,
}

/// `AttributeContext.Request`.
#[derive(Debug, Default)]
pub(super) struct Asked<'a> {
    /// When it began, as it is written: it is part of a name, and nothing is made of it.
    pub(super) time: &'a [u8],
    pub(super) http: Option<Http<'a>>,
}

/// `AttributeContext.HttpRequest`.
#[derive(Debug, Default)]
pub(super) struct Http<'a> {
    pub(super) id: &'a [u8],
    pub(super) method: &'a [u8],
    pub(super) host: &'a [u8],
    pub(super) path: &'a [u8],
    pub(super) headers: Headers<'a>,
    /// All of its body that is shown.
    pub(super) body: &'a [u8],
}

impl<'a> Question<'a> {
    pub(super) fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        for field in Fields::of(message) {
            if let (1, Held::Bytes(attributes)) = field? {
                read.attributes.get_or_insert_default().read(attributes)?;
            }
        }
        Ok(read)
    }
}

impl<'a> Attributes<'a> {
    fn read(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields::of(message) {
            match field? {
                (4, Held::Bytes(request)) => self.request.get_or_insert_default().read(request)?,
                (10, Held::Bytes(entry)) => self.context_extensions.push(Entry::read(entry)?),
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'a> Asked<'a> {
    fn read(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields::of(message) {
            match field? {
                (1, Held::Bytes(time)) => self.time = time,
                (2, Held::Bytes(http)) => self.http.get_or_insert_default().read(http)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'a> Http<'a> {
    fn read(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        self.headers.0.reserve(HEADERS);
        for field in Fields::of(message) {
            let (number, Held::Bytes(held)) = field? else {
                continue;
            };
            match number {
                1 => self.id = held,
                2 => self.method = held,
                3 => self.headers.0.push(Entry::read(held)?),
                4 => self.path = held,
                5 => self.host = held,
                // As text, or raw: one of the two.
                11 | 12 if !held.is_empty() => self.body = held,
                // In the place of the others, if Envoy is to encode headers raw.
                13 => {
                    for header in Fields::of(held) {
                        if let (1, Held::Bytes(header)) = header? {
                            self.headers.0.push(Entry::read(header)?);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The path of `envoy.service.auth.v3.Authorization/Check`.
pub(super) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// `envoy.service.auth.v3.Authorization`.
#[derive(Clone)]
pub(super) struct Authorization(pub(super) Arc<Envoy>);

impl Authorization {
    /// Answers a question as it came.
    pub(super) fn answer(
        &self,
        request: Request<Incoming>,
    ) -> BoxFuture<Response<Answer>, Infallible> {
        let envoy = Arc::clone(&self.0);
        Box::pin(async move {
            let answered = match unary::question(request.into_body()).await {
                Ok(message) => match Question::read(&message) {
                    Ok(question) => envoy.check(&question).await,
                    Err(malformed) => Err(Status::invalid_argument(malformed.to_string())),
                },
                Err(status) => Err(status),
            };
            Ok(unary::answer(answered))
        })
    }
}

#[cfg(test)]
mod tests;
