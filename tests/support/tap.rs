//! A wire between one replica and its Redis, in the test's hand: it passes, is slow, breaks, stands still or loses answers, as a
//! test says while it runs; and it counts what goes over it. It knows where a command and an answer begin and end, so that an
//! answer is lost only after Redis has carried the command out.

mod resp;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of what goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It arrives.
    Pass,
    /// It arrives so much later, in both directions.
    Slow(Duration),
    /// Connections are reset, also new ones as soon as they are there.
    Cut,
    /// Nothing moves, new connections neither; when it passes again, all that was sent arrives late.
    Stall,
    /// Connections are taken and what is sent disappears. One that has lost something stays dead, as nothing on it makes sense
    /// any more.
    Swallow,
    /// Commands are carried out and every so-manieth answer is thrown away; then the connection is reset, or never answers
    /// again. Answers to what a new connection begins with pass.
    LoseAnswers {
        /// Each one, each second one, …
        every: u64,
        /// The connection is reset; otherwise it stays, mute.
        reset: bool,
    },
    /// Commands do not reach Redis; each is answered with this line, such as `-LOADING …`.
    Say(&'static str),
}

/// Where Redis is.
#[derive(Clone, Debug)]
pub(crate) enum To {
    /// A Unix socket.
    Unix(PathBuf),
    /// An address.
    Tcp(SocketAddr),
}

/// What a new connection begins with, and what asks about the server: nothing is lost with its answer.
const SETTING_UP: [&str; 10] = [
    "HELLO",
    "AUTH",
    "CLIENT",
    "SELECT",
    "PING",
    "INFO",
    "ROLE",
    "SCRIPT",
    "SUBSCRIBE",
    "PSUBSCRIBE",
];

/// The wire. It ends when dropped.
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    to: To,
    mode: watch::Sender<Mode>,
    counts: Mutex<BTreeMap<String, u64>>,
    /// Answers that may be lost, for `every`.
    answers: AtomicU64,
    /// To be lost as they come.
    to_lose: AtomicUsize,
    lost: AtomicU64,
    connections: AtomicU64,
    open: AtomicUsize,
    bytes: AtomicU64,
}

impl Tap {
    pub(crate) async fn start(to: To) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to,
            mode: watch::Sender::new(Mode::Pass),
            counts: Mutex::default(),
            answers: AtomicU64::new(0),
            to_lose: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
        });
        let of = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            // They end with it.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                of.connections.fetch_add(1, SeqCst);
                connections.spawn(Arc::clone(&of).connection(client));
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// Where it listens, as a replica is told.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// From now on, also on connections that are open.
    pub(crate) fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Loses the next answers, as [`Mode::LoseAnswers`] with a reset does, and no others.
    pub(crate) fn lose_next(&self, answers: usize) {
        self.shared.to_lose.store(answers, SeqCst);
    }

    /// How many answers were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(SeqCst)
    }

    /// Commands that the replica sent, by name, since the start.
    pub(crate) fn commands(&self) -> BTreeMap<String, u64> {
        self.shared.counts.lock().unwrap().clone()
    }

    /// Connections that were made, and those that are open.
    pub(crate) fn connections(&self) -> (u64, usize) {
        let Shared {
            connections, open, ..
        } = &*self.shared;
        (connections.load(SeqCst), open.load(SeqCst))
    }

    /// Bytes that arrived, both ways.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(SeqCst)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Who owes the next answer.
enum Owed {
    Server { may_be_lost: bool },
    Ourselves(&'static str),
}

/// One connection and what is under way on it.
struct Wire<'s> {
    shared: &'s Shared,
    client: TcpStream,
    server: Box<dyn Stream>,
    sent: Vec<u8>,
    answered: Vec<u8>,
    owed: VecDeque<Owed>,
    /// It has subscribed: what comes answers nothing.
    subscribed: bool,
    /// It has lost something: nothing is sent to the client any more.
    mute: bool,
}

/// The connection is over: by a reset, or as one of the two ends it.
enum Over {
    Reset,
    Closed,
}

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

impl Shared {
    async fn connection(self: Arc<Self>, client: TcpStream) {
        self.open.fetch_add(1, SeqCst);
        // Also when the task is aborted.
        let _open = Open(&self.open);
        client.set_nodelay(true).unwrap();
        let mut mode = self.mode.subscribe();
        let moves = |mode: &Mode| !matches!(mode, Mode::Stall);
        if mode.wait_for(moves).await.is_err() {
            return;
        }
        let Ok(server) = self.dial().await else {
            return reset(&client);
        };
        let mut wire = Wire {
            shared: &self,
            client,
            server,
            sent: Vec::new(),
            answered: Vec::new(),
            owed: VecDeque::new(),
            subscribed: false,
            mute: false,
        };
        loop {
            match wire.step(&mut mode).await {
                Ok(()) => {}
                Err(Over::Reset) => return reset(&wire.client),
                Err(Over::Closed) => return,
            }
        }
    }

    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.to {
            To::Unix(path) => Box::new(UnixStream::connect(path).await?),
            To::Tcp(address) => Box::new(TcpStream::connect(address).await?),
        })
    }

    /// Whether an answer that may be lost is.
    fn loses(&self, mode: Mode) -> Option<Lose> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.to_lose.fetch_update(SeqCst, SeqCst, one_less).is_ok() {
            return Some(Lose::Reset);
        }
        let Mode::LoseAnswers { every, reset } = mode else {
            return None;
        };
        let count = self.answers.fetch_add(1, SeqCst) + 1;
        let lost = count.is_multiple_of(every);
        lost.then_some(if reset { Lose::Reset } else { Lose::Mute })
    }
}

enum Lose {
    Reset,
    Mute,
}

struct Open<'s>(&'s AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Closing it now tells the client so at once.
fn reset(client: &TcpStream) {
    let socket = socket2::SockRef::from(client);
    // A client that has left has nothing to be told.
    let _ = socket.set_linger(Some(Duration::ZERO));
}

impl Wire<'_> {
    /// Moves what has come, in one direction.
    async fn step(&mut self, mode: &mut watch::Receiver<Mode>) -> Result<(), Over> {
        let now = *mode.borrow_and_update();
        match now {
            Mode::Cut => return Err(Over::Reset),
            Mode::Stall => return mode.changed().await.map_err(|_| Over::Closed),
            _ => {}
        }
        tokio::select! {
            changed = mode.changed() => changed.map_err(|_| Over::Closed),
            read = self.client.read_buf(&mut self.sent) => match read? {
                0 => Err(Over::Closed),
                _ => self.commands(now).await,
            },
            read = self.server.read_buf(&mut self.answered) => match read? {
                0 => Err(Over::Closed),
                _ => self.answers(now).await,
            },
        }
    }

    /// What was sent meanwhile goes with the next: nothing is later by more than twice the time.
    async fn late(now: Mode) {
        if let Mode::Slow(by) = now {
            tokio::time::sleep(by).await;
        }
    }

    async fn commands(&mut self, now: Mode) -> Result<(), Over> {
        Self::late(now).await;
        let mut forward = Vec::new();
        let mut at = 0;
        while let Some(end) = resp::end(&self.sent, at) {
            let command = &self.sent[at..end];
            at = end;
            let name = resp::name(command);
            self.subscribed |= name.ends_with("SUBSCRIBE");
            let may_be_lost = !SETTING_UP.contains(&name.as_str());
            *self.shared.counts.lock().unwrap().entry(name).or_default() += 1;
            match now {
                Mode::Swallow => self.mute = true,
                Mode::Say(line) => self.owed.push_back(Owed::Ourselves(line)),
                _ => {
                    self.owed.push_back(Owed::Server { may_be_lost });
                    forward.extend_from_slice(command);
                }
            }
        }
        self.sent.drain(..at);
        self.shared.bytes.fetch_add(forward.len() as u64, SeqCst);
        self.server.write_all(&forward).await?;
        self.answer_ourselves().await
    }

    async fn answer_ourselves(&mut self) -> Result<(), Over> {
        while let Some(Owed::Ourselves(line)) = self.owed.front() {
            let line = format!("{line}\r\n");
            self.owed.pop_front();
            self.tell(line.as_bytes()).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, bytes: &[u8]) -> Result<(), Over> {
        if !self.mute {
            self.shared.bytes.fetch_add(bytes.len() as u64, SeqCst);
            self.client.write_all(bytes).await?;
        }
        Ok(())
    }

    async fn answers(&mut self, now: Mode) -> Result<(), Over> {
        Self::late(now).await;
        while let Some(end) = resp::end(&self.answered, 0) {
            let answer: Vec<u8> = self.answered.drain(..end).collect();
            let unasked = self.subscribed || resp::is_push(&answer);
            let may_be_lost = match unasked {
                true => false,
                false => matches!(
                    self.owed.pop_front(),
                    Some(Owed::Server { may_be_lost: true })
                ),
            };
            // Redis has answered: it has carried the command out.
            let lost = may_be_lost.then(|| self.shared.loses(now)).flatten();
            if lost.is_some() {
                self.shared.lost.fetch_add(1, SeqCst);
            }
            match lost {
                Some(Lose::Reset) => return Err(Over::Reset),
                Some(Lose::Mute) => self.mute = true,
                None if now == Mode::Swallow => self.mute = true,
                None => {}
            }
            self.tell(&answer).await?;
            self.answer_ourselves().await?;
        }
        Ok(())
    }
}
