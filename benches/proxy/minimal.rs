//! The least that a reverse proxy on hyper is: one thread, its own pool of upstream connections, bodies streamed, hop-by-hop
//! headers taken out. What tollgate's cost is held against: everything above this is tollgate's own.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

/// Serves until it is killed. Says where on standard output.
pub(crate) fn serve(upstream: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    LocalSet::new().block_on(&runtime.unwrap(), async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let pool = Rc::new(Pool {
            upstream,
            idle: RefCell::default(),
        });
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let pool = Rc::clone(&pool);
            let forward = service_fn(move |request| forward(Rc::clone(&pool), request));
            let served = hyper::server::conn::http1::Builder::new()
                .writev(false)
                .serve_connection(TokioIo::new(stream), forward);
            spawn_local(async move {
                // The load closes its connections at the end of a round.
                let _gone = served.await;
            });
        }
    });
}

/// Upstream connections that are free. As many as clients at most, so it needs no bound.
struct Pool {
    upstream: SocketAddr,
    idle: RefCell<Vec<SendRequest<Incoming>>>,
}

impl Pool {
    async fn take(&self) -> SendRequest<Incoming> {
        loop {
            let idle = self.idle.borrow_mut().pop();
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return sender;
            }
        }
        let stream = TcpStream::connect(self.upstream).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut builder = http1::Builder::new();
        let (sender, connection) = builder
            .writev(false)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        spawn_local(connection);
        sender
    }
}

async fn forward(
    pool: Rc<Pool>,
    mut request: Request<Incoming>,
) -> Result<Response<Returning>, hyper::Error> {
    strip(request.headers_mut());
    let mut sender = pool.take().await;
    let mut response = sender.send_request(request).await?;
    strip(response.headers_mut());
    Ok(response.map(|body| Returning {
        body,
        back: Some((pool, sender)),
    }))
}

const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn strip(headers: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// A response's body that gives its connection back when it was read to its end.
struct Returning {
    body: Incoming,
    back: Option<(Rc<Pool>, SendRequest<Incoming>)>,
}

impl Body for Returning {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        if let Some((pool, sender)) = self.back.take()
            && self.body.is_end_stream()
        {
            pool.idle.borrow_mut().push(sender);
        }
    }
}
