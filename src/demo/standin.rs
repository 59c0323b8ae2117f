//! A stand-in model endpoint for the demo and the tests: OpenAI's chat completions, embeddings and models, Anthropic's
//! messages, plain and streamed. It makes no claim to think: answers, ids and usage follow from the request alone, so
//! that what a call costs can be worked out beforehand. No metering and no prices here.
//!
//! **Usage.** A token is a word, as whitespace divides the text. The input is the words of all message texts (and of
//! Anthropic's `system`) and 3 per message; an embedding's input is its words alone. The output is the words of the
//! answer, cut at `max_tokens`, times `n`. The answer to `Say hello` is
//! `Hello from the stand-in model. You said: Say hello`: 9 words, and of what was said, never more than 16.
//!
//! **Knobs**, as request headers, for tests of what goes wrong:
//!
//! | header | what it does |
//! |---|---|
//! | `x-standin-delay-ms: N` | waits before the answer's head |
//! | `x-standin-token-delay-ms: N` | waits before each streamed token |
//! | `x-standin-status: N` | answers with this status and the API's error body |
//! | `x-standin-usage: none` or `null` | leaves the usage out, or says `null` |
//! | `x-standin-output-tokens: N` | an answer of so many words (still cut at `max_tokens`) |
//! | `x-standin-cached-tokens: N` | says that so many of the input tokens came from a cache |
//! | `x-standin-cut-after: N` | breaks the connection after so many events, or in the middle of a JSON body |

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use self::answer::{Answer, Body};
use self::knobs::Knobs;

mod answer;
mod anthropic;
mod knobs;
mod openai;
mod words;

/// The largest request body: enough for any test, and a bound on what one client can make it hold.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Connections at once; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 4_096;

/// How long answers may go on after shutdown. They are made up, so little is lost with them.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Between two tries after `accept` failed, as it does when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the stand-in listens and how fast it talks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Waits before each streamed token, unless a request says otherwise. Default zero.
    pub token_delay: Duration,
}

impl Settings {
    /// Talks as fast as it can.
    pub const fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            token_delay: Duration::ZERO,
        }
    }
}

/// A stand-in that is up.
#[derive(Debug)]
pub struct Running {
    /// Where it listens, with the port that it got.
    pub local_addr: SocketAddr,
    /// Ends when it has shut down.
    pub join: JoinHandle<()>,
}

/// Binds and serves until `shutdown` turns true (or its sender is gone), then lets answers finish for at most 5 s.
///
/// # Errors
///
/// The address cannot be bound.
pub async fn serve(settings: Settings, shutdown: watch::Receiver<bool>) -> io::Result<Running> {
    let listener = TcpListener::bind(settings.listen).await?;
    let local_addr = listener.local_addr()?;
    let standin = Arc::new(Standin {
        token_delay: settings.token_delay,
        calls: AtomicU64::new(0),
    });
    let join = tokio::spawn(accept(listener, standin, shutdown));
    Ok(Running { local_addr, join })
}

async fn accept(listener: TcpListener, standin: Arc<Standin>, mut shutdown: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => connection(stream, place, &standin, &graceful),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        // An error says that the sender is gone, which is the end as well.
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    drop(listener);
    // Past its bound, what is left is cut when the runtime ends.
    let _drained = tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await;
}

fn connection(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    standin: &Arc<Standin>,
    graceful: &GracefulShutdown,
) {
    // Tokens are small and should be seen at once. Without it they only come later, so an error changes nothing.
    let _best_effort = stream.set_nodelay(true);
    let standin = Arc::clone(standin);
    let service = service_fn(move |request| {
        let standin = Arc::clone(&standin);
        async move { Ok::<_, Infallible>(standin.answer(request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let served = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    let watched = graceful.watch(served);
    tokio::spawn(async move {
        // A client that breaks off is its own affair.
        let _broken = watched.await;
        drop(place);
    });
}

struct Standin {
    token_delay: Duration,
    calls: AtomicU64,
}

/// Which API a path belongs to: says in whose words an error is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    OpenAi,
    Anthropic,
}

/// A request that cannot be answered, and why.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    status: StatusCode,
    message: String,
}

impl Fault {
    fn bad(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
        }
    }
}

impl Standin {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let id = self.calls.fetch_add(1, Relaxed).saturating_add(1);
        let path = request.uri().path();
        let api = if path.starts_with("/v1/messages") {
            Api::Anthropic
        } else {
            Api::OpenAi
        };
        let answer = match self.try_answer(request, id).await {
            Ok(answer) => answer,
            Err(fault) => match api {
                Api::OpenAi => openai::error(&fault),
                Api::Anthropic => anthropic::error(&fault, id),
            },
        };
        let mut response = answer.into_response();
        let (name, prefix) = match api {
            Api::OpenAi => ("x-request-id", "req-standin-"),
            Api::Anthropic => ("request-id", "req_standin_"),
        };
        if let Ok(value) = HeaderValue::from_str(&format!("{prefix}{id}")) {
            response.headers_mut().insert(name, value);
        }
        response
    }

    async fn try_answer(&self, request: Request<Incoming>, id: u64) -> Result<Answer, Fault> {
        let (head, body) = request.into_parts();
        let knobs = Knobs::read(&head.headers, self.token_delay)?;
        let body = read(body).await?;
        tokio::time::sleep(knobs.delay).await;
        if let Some(status) = knobs.status {
            let message = format!("the stand-in was asked for status {}", status.as_u16());
            return Err(Fault { status, message });
        }
        match (&head.method, head.uri.path()) {
            (&Method::POST, "/v1/chat/completions") => openai::chat(&body, &knobs, id),
            (&Method::POST, "/v1/embeddings") => openai::embeddings(&body, &knobs),
            (&Method::GET, "/v1/models") => Ok(openai::models(&knobs)),
            (&Method::POST, "/v1/messages") => anthropic::messages(&body, &knobs, id),
            (&Method::POST, "/v1/messages/count_tokens") => anthropic::count_tokens(&body, &knobs),
            (method, path) => Err(Fault {
                status: StatusCode::NOT_FOUND,
                message: format!("the stand-in does not answer {method} {path}"),
            }),
        }
    }
}

async fn read(body: Incoming) -> Result<Bytes, Fault> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Fault {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            message: format!("the body is larger than {BODY_BYTES_MAX} bytes"),
        }),
        Err(error) => Err(Fault::bad(format!("the body broke off: {error}"))),
    }
}

fn parse<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::bad(format!("the body: {error}")))
}

impl Answer {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let kind = HeaderValue::from_static(self.content_type);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

#[cfg(test)]
mod tests;
