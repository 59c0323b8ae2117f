//! Sockets, worker threads and their connections: who is let in, for how long, and how it ends. What a request does is up to
//! the exchange.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::Settings;
use super::client::{Client, TICKS, Watchdog, Word};
use super::exchange;
use super::wire::{Spoken, Wire};
use super::worker::Worker;

/// Connections that wait to be accepted, per worker.
const BACKLOG: i32 = 1024;
/// How long nothing is accepted after accepting failed for want of something that time may bring, such as a file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// The receive window of an HTTP/2 request's body: what one stream may make us hold.
const STREAM_WINDOW_BYTES: u32 = 1 << 18;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// The smallest buffer that hyper takes.
const BUFFER_BYTES_MIN: usize = 8 * 1024;
/// The most that one HTTP/1 connection holds of a body it is reading or writing: some times what a socket gives at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// Binds one listener per worker to one address; port 0 is any, the same for all.
pub(super) fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<StdListener>> {
    let shared = workers > 1;
    if shared && address.port() != 0 {
        // A shared port would be shared with another process as well, without a word.
        drop(bind_one(address, false)?);
    }
    let first = bind_one(address, shared)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..workers {
        listeners.push(bind_one(address, true)?);
    }
    Ok(listeners)
}

fn bind_one(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    // Each worker accepts for itself, and none wakes another.
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What one worker serves with.
pub(super) struct Server {
    pub(super) worker: Arc<Worker>,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) places: Arc<Semaphore>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) client_timeout: Duration,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Server {
    /// A server with a proxy's settings.
    pub(super) fn new(
        worker: Arc<Worker>,
        tls: Option<TlsAcceptor>,
        places: Arc<Semaphore>,
        stop: watch::Receiver<bool>,
        settings: &Settings,
    ) -> Arc<Self> {
        let header_bytes = settings.header_bytes_max.max(BUFFER_BYTES_MIN);
        let mut http1 = http1::Builder::new();
        http1
            // One buffer, one write: measured cheaper than gathering for messages of this size.
            .writev(false)
            .max_buf_size(header_bytes.max(BUFFER_BYTES))
            .max_header_size(header_bytes)
            // The watchdog does this, with one timer per connection instead of one per request.
            .header_read_timeout(None);
        if settings.headers_max != HEADERS_MAX_DEFAULT {
            // hyper keeps its own number of them on the stack, any other on the heap.
            http1.max_headers(settings.headers_max);
        }
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        Arc::new(Self {
            worker,
            tls,
            places,
            stop,
            client_timeout: settings.client_timeout,
            http1,
            http2,
        })
    }

    /// Accepts connections until told to stop. `alive` is held by each while it is served.
    pub(super) async fn accept(
        self: &Arc<Self>,
        listener: StdListener,
        alive: &mpsc::Sender<Infallible>,
    ) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        let mut stop = self.stop.clone();
        loop {
            // A place first: those that find none wait in the kernel's queue.
            let place = tokio::select! {
                biased;
                () = stopped(&mut stop) => return Ok(()),
                place = Arc::clone(&self.places).acquire_owned() => place,
            };
            let Ok(place) = place else {
                return Ok(());
            };
            let accepted = tokio::select! {
                biased;
                () = stopped(&mut stop) => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (server, alive) = (Arc::clone(self), alive.clone());
                    tokio::spawn(async move {
                        server.serve(stream, peer, place).await;
                        drop(alive);
                    });
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection ended");
            return;
        }
        let worker = Arc::clone(&self.worker);
        let client = Arc::new(Client::new(worker, peer, self.tls.is_some(), place));
        match &self.tls {
            None => self.serve_over(stream, client).await,
            Some(tls) => {
                let mut stop = self.stop.clone();
                let secured = tokio::select! {
                    biased;
                    () = stopped(&mut stop) => return,
                    secured = timeout(self.client_timeout, tls.accept(stream)) => secured,
                };
                match secured {
                    Ok(Ok(stream)) => self.serve_over(stream, client).await,
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
                    Err(_) => tracing::debug!("no TLS handshake in time"),
                }
            }
        }
    }

    async fn serve_over<IO>(&self, io: IO, client: Arc<Client>)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut wire = Wire::new(io, Arc::clone(&client));
        let mut stop = self.stop.clone();
        let spoken = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            spoken = timeout(self.client_timeout, wire.sniff()) => spoken,
        };
        let Ok(Ok(spoken)) = spoken else {
            return;
        };
        let (wire, of) = (TokioIo::new(wire), Arc::clone(&client));
        let service = service_fn(move |request| exchange::serve(Arc::clone(&of), request));
        match spoken {
            Spoken::Http1 => {
                let connection = self.http1.serve_connection(wire, service);
                self.run(connection.with_upgrades(), &client).await;
            }
            Spoken::Http2 => {
                let connection = self.http2.serve_connection(wire, service);
                self.run(connection, &client).await;
            }
        }
    }

    /// Runs a connection to its end: the client's, the watchdog's, or, once told to stop, that of what is in flight.
    async fn run<C>(&self, connection: C, client: &Arc<Client>)
    where
        C: Connection,
    {
        let mut connection = pin!(connection);
        let _watched = Watched(self.watch(client).abort_handle());
        let mut finishing = false;
        poll_fn(|cx| {
            client.told.register(cx.waker());
            loop {
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                    return Poll::Ready(());
                }
                match client.told.word() {
                    Word::Finish if !finishing => {
                        finishing = true;
                        connection.as_mut().finish();
                    }
                    Word::GoOn | Word::Finish => return Poll::Pending,
                    Word::End => {
                        tracing::debug!("connection held for nothing");
                        return Poll::Ready(());
                    }
                }
            }
        })
        .await;
    }

    /// Watches a connection from a task of its own, which costs its requests nothing: what stands beside a connection in one
    /// task is asked whenever the connection is.
    fn watch(&self, client: &Arc<Client>) -> JoinHandle<()> {
        let client = Arc::downgrade(client);
        let mut stop = self.stop.clone();
        let tick = self.client_timeout.checked_div(TICKS).unwrap_or_default();
        let mut ticks = interval(tick.max(Duration::from_millis(1)));
        tokio::spawn(async move {
            let mut watchdog = Watchdog::default();
            let mut stopping = false;
            loop {
                let stops = tokio::select! {
                    biased;
                    () = stopped(&mut stop), if !stopping => true,
                    _ = ticks.tick() => false,
                };
                let Some(client) = client.upgrade() else {
                    return;
                };
                if stops {
                    stopping = true;
                    client.told.tell(Word::Finish);
                } else if watchdog.tick(&client) {
                    client.told.tell(Word::End);
                    return;
                }
            }
        })
    }
}

/// The task that watches a connection, ended with it.
struct Watched(AbortHandle);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection that can be asked to end once what is in flight has.
trait Connection: Future<Output = hyper::Result<()>> {
    fn finish(self: Pin<&mut Self>);
}

impl<IO, S, B> Connection for http1::UpgradeableConnection<IO, S>
where
    IO: Read + Write + Send + Unpin + 'static,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<IO, S, B> Connection for http2::Connection<IO, S, TokioExecutor>
where
    IO: Read + Write + Unpin,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// How many headers hyper takes without being told.
pub(super) const HEADERS_MAX_DEFAULT: usize = 100;

/// Returns once told to stop; also if nobody is left to tell.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Whether accepting failed for the one connection only.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
