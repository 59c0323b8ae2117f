//! A receiver of webhooks: takes them, or answers otherwise, as a test says while it runs; and remembers what it took.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::http::{Message, Wire};
use crate::support::until;

/// What it does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Takes it: 200.
    Take,
    /// Takes it so much later.
    Slow(Duration),
    /// Answers this.
    Say(&'static str),
    /// Reads it, and does not answer until the mode is another.
    Hold,
}

pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    serving: Option<tokio::task::JoinHandle<()>>,
}

struct Shared {
    mode: watch::Sender<Mode>,
    taken: Mutex<Vec<Message>>,
    /// Messages that were read, taken or not; and those that are held.
    seen: AtomicUsize,
    held: Mutex<Vec<String>>,
}

pub(super) fn id(message: &Message) -> String {
    message.header("webhook-id").expect("an id").to_owned()
}

impl Receiver {
    pub(super) async fn start() -> Self {
        let shared = Arc::new(Shared {
            mode: watch::Sender::new(Mode::Take),
            taken: Mutex::default(),
            seen: AtomicUsize::new(0),
            held: Mutex::default(),
        });
        let mut receiver = Self {
            address: ([127, 0, 0, 1], 0).into(),
            shared,
            serving: None,
        };
        receiver.up().await;
        receiver
    }

    /// Listens, also again on the port that it had.
    pub(super) async fn up(&mut self) {
        let bind = async || TcpListener::bind(self.address).await.ok();
        let listener = until("the receiver's port is free", bind).await;
        self.address = listener.local_addr().unwrap();
        let shared = Arc::clone(&self.shared);
        self.serving = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(Arc::clone(&shared).serve(Wire::over(stream)));
                while connections.try_join_next().is_some() {}
            }
        }));
    }

    /// Is away: connections are refused.
    pub(super) async fn down(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }

    pub(super) fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// The ids of those that were taken, in the order in which they were.
    pub(super) fn taken(&self) -> Vec<String> {
        self.messages().iter().map(id).collect()
    }

    /// Those that were taken.
    pub(super) fn messages(&self) -> Vec<Message> {
        self.shared.taken.lock().unwrap().clone()
    }

    /// How many messages came, taken or not.
    pub(super) fn seen(&self) -> usize {
        self.shared.seen.load(SeqCst)
    }

    /// The ids of those that wait for their answer.
    pub(super) fn held(&self) -> Vec<String> {
        self.shared.held.lock().unwrap().clone()
    }

    /// Waits until so many more have come than `before`.
    pub(super) async fn sees(&self, before: usize, more: usize) {
        let seen = async || (self.seen() >= before + more).then_some(());
        crate::support::within(super::TAKE_OVER_MAX, "the receiver sees messages", seen).await;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, mut wire: Wire) {
        while let Some(message) = wire.message().await {
            if !message.whole {
                return;
            }
            self.seen.fetch_add(1, SeqCst);
            let mut mode = self.mode.subscribe();
            if *mode.borrow() == Mode::Hold {
                self.held.lock().unwrap().push(id(&message));
            }
            let Ok(mode) = mode
                .wait_for(|mode| *mode != Mode::Hold)
                .await
                .map(|mode| *mode)
            else {
                return;
            };
            let status = match mode {
                Mode::Take | Mode::Hold => "200 OK",
                Mode::Slow(time) => {
                    // Not a wait for anything: the delay is what is tested.
                    tokio::time::sleep(time).await;
                    "200 OK"
                }
                Mode::Say(status) => status,
            };
            if status == "200 OK" {
                self.taken.lock().unwrap().push(message);
            }
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            wire.send(answer).await;
        }
    }
}
