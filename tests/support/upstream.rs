//! A scripted upstream on a port of its own: it reads requests as they stand on the wire and answers as the test says.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::http::{Message, Wire};
use super::until;

/// How one request is answered.
pub(crate) enum Reply {
    /// These bytes, as they stand.
    Bytes(Vec<u8>),
    /// These bytes, then whatever the test sends, piece by piece; closed when it ends.
    Pieces(Vec<u8>, mpsc::UnboundedReceiver<Vec<u8>>),
    /// Nothing, ever.
    Hang,
    /// These bytes, then the connection is reset.
    Reset(Vec<u8>),
}

impl Reply {
    /// A whole answer with a length.
    pub(crate) fn whole(status: &str, kind: &str, body: &str) -> Self {
        let length = body.len();
        Self::Bytes(
            format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}")
                .into(),
        )
    }

    pub(crate) fn json(body: &str) -> Self {
        Self::whole("200 OK", "application/json", body)
    }

    /// A chunked event stream, one chunk per event.
    pub(crate) fn events(events: &[&str]) -> Self {
        let mut bytes = EVENTS_HEAD.as_bytes().to_vec();
        for event in events {
            bytes.extend(chunk(event));
        }
        bytes.extend(b"0\r\n\r\n");
        Self::Bytes(bytes)
    }

    /// A chunked event stream that the test writes.
    pub(crate) fn stream() -> (Self, mpsc::UnboundedSender<Vec<u8>>) {
        Self::begun(Self::Bytes(EVENTS_HEAD.into()))
    }

    /// Bytes, and what the test writes after them.
    pub(crate) fn begun(start: Self) -> (Self, mpsc::UnboundedSender<Vec<u8>>) {
        let Self::Bytes(start) = start else {
            panic!("bytes are wanted");
        };
        let (sender, pieces) = mpsc::unbounded_channel();
        (Self::Pieces(start, pieces), sender)
    }
}

const EVENTS_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// One chunk of a chunked body.
pub(crate) fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

#[derive(Default)]
struct Shared {
    /// What every request is answered with; it is counted, and not kept.
    standing: Option<Vec<u8>>,
    script: Mutex<VecDeque<Reply>>,
    seen: Mutex<Vec<Message>>,
    heads: AtomicUsize,
    connections: AtomicUsize,
    closed: AtomicUsize,
}

/// The upstream. It ends with the test's runtime.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Without a script, to be written with [`Upstream::then`].
    pub(crate) async fn start() -> Self {
        Self::with(None).await
    }

    /// Answers every request in the same way, as fast as it can: for load.
    pub(crate) async fn always(reply: Reply) -> Self {
        let Reply::Bytes(bytes) = reply else {
            panic!("bytes are wanted");
        };
        Self::with(Some(bytes)).await
    }

    async fn with(standing: Option<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            standing,
            ..Shared::default()
        });
        let of = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let of = Arc::clone(&of);
                of.connections.fetch_add(1, SeqCst);
                tokio::spawn(async move {
                    of.serve(Wire::over(stream)).await;
                    of.closed.fetch_add(1, SeqCst);
                });
            }
        });
        Self { address, shared }
    }

    /// Says how the next request that has no answer yet is answered.
    pub(crate) fn then(&self, reply: Reply) -> &Self {
        self.shared.script.lock().unwrap().push_back(reply);
        self
    }

    /// The requests that were read whole, so far.
    pub(crate) fn seen(&self) -> Vec<Message> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many heads of requests were read, so far.
    pub(crate) fn heads(&self) -> usize {
        self.shared.heads.load(SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// Waits until this many requests have been read.
    pub(crate) async fn has_seen(&self, count: usize) {
        until("the upstream sees the request", async || {
            (self.seen().len() >= count).then_some(())
        })
        .await;
    }

    /// Waits until this many heads of requests have been read.
    pub(crate) async fn has_begun(&self, count: usize) {
        let heads = &self.shared.heads;
        until("the upstream sees a head", async || {
            (heads.load(SeqCst) >= count).then_some(())
        })
        .await;
    }

    /// Waits until this many connections are over.
    pub(crate) async fn has_closed(&self, count: usize) {
        let closed = &self.shared.closed;
        until("the upstream is let go", async || {
            (closed.load(SeqCst) >= count).then_some(())
        })
        .await;
    }
}

impl Shared {
    async fn serve(&self, mut wire: Wire) {
        while let Some(mut request) = wire.head().await {
            self.heads.fetch_add(1, SeqCst);
            wire.body(&mut request).await;
            if !request.whole {
                return;
            }
            if let Some(bytes) = &self.standing {
                wire.send(bytes).await;
                continue;
            }
            self.seen.lock().unwrap().push(request);
            let reply = self.script.lock().unwrap().pop_front();
            match reply.unwrap_or_else(|| Reply::whole("404 Not Found", "text/plain", "no script"))
            {
                Reply::Bytes(bytes) => wire.send(bytes).await,
                Reply::Hang => return wire.closed().await,
                Reply::Reset(bytes) => {
                    wire.send(bytes).await;
                    let socket = socket2::SockRef::from(&wire.stream);
                    socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
                    return;
                }
                Reply::Pieces(head, mut pieces) => {
                    wire.send(head).await;
                    loop {
                        tokio::select! {
                            piece = pieces.recv() => match piece {
                                Some(piece) => wire.send(piece).await,
                                None => return,
                            },
                            () = wire.closed() => return,
                        }
                    }
                }
            }
        }
    }
}
