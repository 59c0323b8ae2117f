//! A line between a gateway and tollgate, in the test's hand: it can lose what comes back, and it can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of what goes over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It arrives.
    Whole,
    /// What tollgate says waits.
    Mute,
    /// It is lost, and nobody gets through.
    Cut,
}

/// The line. It ends with the test's runtime.
pub(crate) struct Cable {
    pub(crate) at: SocketAddr,
    state: watch::Sender<State>,
    turned_away: Arc<AtomicU64>,
}

impl Cable {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let state = watch::Sender::new(State::Whole);
        let turned_away = Arc::new(AtomicU64::new(0));
        let (seen, count) = (state.subscribe(), Arc::clone(&turned_away));
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                if *seen.borrow() == State::Cut {
                    count.fetch_add(1, SeqCst);
                    continue;
                }
                tokio::spawn(connection(from, target, seen.clone()));
            }
        });
        Self {
            at,
            state,
            turned_away,
        }
    }

    /// From now on, also on connections that are open.
    pub(crate) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// How many connections came while it was cut.
    pub(crate) fn turned_away(&self) -> u64 {
        self.turned_away.load(SeqCst)
    }
}

async fn connection(mut from: TcpStream, target: SocketAddr, state: watch::Receiver<State>) {
    let mut to = TcpStream::connect(target).await.unwrap();
    let (asks, hears) = from.split();
    let (answers, told) = to.split();
    let (mut cut, speaks) = (state.clone(), state);
    tokio::select! {
        () = copy(asks, told, None) => {}
        () = copy(answers, hears, Some(speaks)) => {}
        _ = cut.wait_for(|state| *state == State::Cut) => {}
    }
}

/// Until either end is gone; while the line is mute, what has come waits.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mute: Option<watch::Receiver<State>>,
) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        if let Some(state) = &mut mute
            && state.wait_for(|state| *state != State::Mute).await.is_err()
        {
            return;
        }
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
