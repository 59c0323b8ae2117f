//! A bare HTTP/1.1 client, and the reading of messages that it shares with the scripted upstream: what is on the wire is what a
//! test sees.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One message as it was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// The first line.
    pub(crate) start: String,
    /// Names in lower case, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// It came to its end as its framing says.
    pub(crate) whole: bool,
}

impl Message {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn status(&self) -> u16 {
        self.start
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .parse()
            .unwrap_or(0)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }
}

/// A connection that messages are read from.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect(to).await.unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Writes; a peer that has left is no failure.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    async fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece).await {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                true
            }
        }
    }

    /// Whether the peer has closed: waits for it, and throws away what comes before.
    pub(crate) async fn closed(&mut self) {
        while self.more().await {
            self.buffer.clear();
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Some(line);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(self.buffer.drain(..length).collect())
    }

    async fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else {
                return Some(fields);
            };
            fields.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }

    /// First line and headers; `None` if the peer closed before.
    pub(crate) async fn head(&mut self) -> Option<Message> {
        let start = self.line().await?;
        let headers = self.fields().await?;
        Some(Message {
            start,
            headers,
            ..Message::default()
        })
    }

    /// One chunk of a chunked body; `None` at its end or if it breaks off.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.line().await?;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            return None;
        }
        let chunk = self.exactly(size).await?;
        self.line().await?;
        Some(chunk)
    }

    /// The body that goes with a head.
    pub(crate) async fn body(&mut self, message: &mut Message) {
        if message.header("transfer-encoding") == Some("chunked") {
            while let Some(size) = self.line().await {
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                if size == 0 {
                    if let Some(trailers) = self.fields().await {
                        message.trailers = trailers;
                        message.whole = true;
                    }
                    return;
                }
                let Some(chunk) = self.exactly(size).await else {
                    return;
                };
                message.body.extend(chunk);
                if self.line().await.is_none() {
                    return;
                }
            }
            return;
        }
        let length = message
            .header("content-length")
            .map_or(0, |text| text.parse().unwrap());
        while self.buffer.len() < length && self.more().await {}
        message.whole = self.buffer.len() >= length;
        let end = length.min(self.buffer.len());
        message.body = self.buffer.drain(..end).collect();
    }

    /// A whole message.
    pub(crate) async fn message(&mut self) -> Option<Message> {
        let mut message = self.head().await?;
        self.body(&mut message).await;
        Some(message)
    }
}

/// A `POST` with the key of the account `a` and a JSON body.
pub(crate) fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: tollgate.test\r\nauthorization: Bearer sk-a\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// The same as one call on a connection of its own.
pub(crate) async fn call(to: SocketAddr, request: impl AsRef<[u8]>) -> Message {
    let mut wire = Wire::connect(to).await;
    wire.send(request).await;
    wire.message().await.expect("an answer")
}
