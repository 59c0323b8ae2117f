//! A client's connection as bytes: which HTTP it begins with, whether its client takes what is written, and a close that the
//! client can read its answer before. What the bytes mean is up to hyper.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::client::Client;

/// What an HTTP/2 connection begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a closing connection is still read. A client that is refused in the middle of a long request often reads its
/// answer only once it has sent it all; and a close with bytes unread is a reset, which takes the answer away from it.
const LINGER_TIME: Duration = Duration::from_secs(5);
/// What is read at once to be thrown away.
const LINGER_BYTES: usize = 16 * 1024;

/// Which HTTP a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A client's connection.
pub(super) struct Wire<IO> {
    io: IO,
    client: Arc<Client>,
    /// The beginning, read to tell what is spoken, and still to be given out.
    begin: [u8; PREFACE.len()],
    have: usize,
    given: usize,
    /// The client has closed its side.
    ended: bool,
    linger: Option<Linger>,
}

/// A connection that is closed on our side, and read until it is on the other.
struct Linger {
    limit: Pin<Box<Sleep>>,
    scratch: Box<[u8; LINGER_BYTES]>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire<IO> {
    /// A connection that was just made.
    pub(super) const fn new(io: IO, client: Arc<Client>) -> Self {
        Self {
            io,
            client,
            begin: [0; PREFACE.len()],
            have: 0,
            given: 0,
            ended: false,
            linger: None,
        }
    }

    /// Reads until it is clear what is spoken: HTTP/2 if the connection begins with its preface, whatever was negotiated.
    /// Waits without a limit of its own.
    pub(super) async fn sniff(&mut self) -> io::Result<Spoken> {
        loop {
            let Some(room) = self
                .begin
                .get_mut(self.have..)
                .filter(|room| !room.is_empty())
            else {
                return Ok(Spoken::Http2);
            };
            let read = self.io.read(room).await?;
            self.have = self.have.saturating_add(read);
            let so_far = self.begin.get(..self.have).unwrap_or_default();
            if read == 0 || !PREFACE.starts_with(so_far) {
                return Ok(Spoken::Http1);
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < self.have {
            let left = self.begin.get(self.given..self.have).unwrap_or_default();
            let (now, _) = left.split_at(left.len().min(buf.remaining()));
            buf.put_slice(now);
            self.given = self.given.saturating_add(now.len());
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        self.client.wrote(wrote.is_ready());
        wrote
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.client.wrote(wrote.is_ready());
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let linger = match &mut this.linger {
            Some(linger) => linger,
            None => {
                ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                if this.ended || this.client.worker.is_closing() {
                    return Poll::Ready(Ok(()));
                }
                this.linger.insert(Linger {
                    limit: Box::pin(sleep(LINGER_TIME)),
                    scratch: Box::new([0; LINGER_BYTES]),
                })
            }
        };
        while linger.limit.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut *linger.scratch);
            // However it fails, the connection is over.
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
