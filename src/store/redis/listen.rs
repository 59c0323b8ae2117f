//! Changes told by other replicas (and by this one): a second connection that subscribes to the channel, for as long as the
//! store lives. Whenever it has subscribed anew, listeners are told that they may have missed some.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::broadcast;
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};

use super::super::{Change, Scarce, StoreError};
use super::link::Link;
use crate::id::AccountId;

/// The first pause after a failure; doubled after each further one.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest pause. Changes reach a replica with the next answers too, so a second more of silence hurts nobody.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// After so much silence the connection is asked whether it still stands.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What is written on the channel. The first letter says what; names have no `|` in them, but for documents', which come last.
pub(super) fn text(change: &Change) -> String {
    match change {
        Change::Account(account, version) => format!("a|{version}|{account}"),
        Change::Scarce(account, Scarce::Money) => format!("s|{account}"),
        Change::Scarce(account, Scarce::Shares(rate, places)) => {
            format!("r|{rate}|{places}|{account}")
        }
        Change::Document(name) => format!("d|{name}"),
        Change::All => "*".into(),
    }
}

/// Reads [`text`] back. What is not understood (a newer tollgate's word) may concern anything.
fn parse(text: &str) -> Change {
    let known = match text.split_once('|') {
        Some(("a", rest)) => rest.split_once('|').and_then(|(version, account)| {
            let account = AccountId::stored(account).ok()?;
            Some(Change::Account(account, version.parse().ok()?))
        }),
        Some(("s", account)) => AccountId::stored(account)
            .ok()
            .map(|account| Change::Scarce(account, Scarce::Money)),
        Some(("r", rest)) => shares(rest),
        Some(("d", name)) => Some(Change::Document(name.into())),
        _ => None,
    };
    known.unwrap_or(Change::All)
}

fn shares(text: &str) -> Option<Change> {
    let (rate, rest) = text.split_once('|')?;
    let (places, account) = rest.split_once('|')?;
    let shares = Scarce::Shares(rate.parse().ok()?, places.parse().ok()?);
    Some(Change::Scarce(AccountId::stored(account).ok()?, shares))
}

/// Listens until it is aborted. No failure and no panic ends it.
pub(super) async fn run(
    link: Arc<Link>,
    channel: String,
    patience: Duration,
    changes: broadcast::Sender<Change>,
) {
    let mut pause = PAUSE_MIN;
    loop {
        let mut heard = false;
        let listening = listen(&link, &channel, patience, &changes, &mut heard);
        match AssertUnwindSafe(listening).catch_unwind().await {
            Ok(Ok(())) => tracing::warn!("the connection for changes was closed"),
            Ok(Err(error)) => tracing::warn!(%error, "no connection for changes"),
            Err(_) => tracing::error!("listening for changes panicked; starting over"),
        }
        pause = if heard {
            PAUSE_MIN
        } else {
            pause.saturating_mul(2).min(PAUSE_MAX)
        };
        sleep(pause).await;
    }
}

/// One connection's life. `heard` is set once it has subscribed.
async fn listen(
    link: &Link,
    channel: &str,
    patience: Duration,
    changes: &broadcast::Sender<Change>,
    heard: &mut bool,
) -> Result<(), StoreError> {
    let connecting = async {
        let (connection, post) = link.subscription().await?;
        let (mut sink, stream) = connection.split();
        let subscribed = sink.subscribe(channel).await;
        subscribed.map_err(|error| lost(&error))?;
        Ok::<_, StoreError>((sink, stream, post))
    };
    let (mut sink, mut stream, post) = timeout(patience, connecting).await.map_err(slow)??;
    *heard = true;
    // An error of `send` means that nobody listens: here and below.
    let _ = changes.send(Change::All);
    let lost_post = post.lost();
    tokio::pin!(lost_post);
    loop {
        let next = tokio::select! {
            next = timeout(SILENCE_MAX, stream.next()) => next,
            () = &mut lost_post => return Ok(()),
        };
        match next {
            Ok(Some(message)) => {
                let text = String::from_utf8_lossy(message.get_payload_bytes());
                let _ = changes.send(parse(&text));
            }
            Ok(None) => return Ok(()),
            Err(_) => timeout(patience, sink.ping::<redis::Value>())
                .await
                .map_err(slow)?
                .map(drop)
                .map_err(|error| lost(&error))?,
        }
    }
}

fn slow(_: Elapsed) -> StoreError {
    lost(&"it does not answer in time")
}

fn lost(why: &dyn Display) -> StoreError {
    StoreError::Unavailable(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_read_back() {
        let account = AccountId::new("org/team:1").unwrap();
        for change in [
            Change::Account(account.clone(), 7),
            Change::Scarce(account.clone(), Scarce::Money),
            Change::Scarce(account, Scarce::Shares(12, 0)),
            Change::Document("prices|2".into()),
            Change::All,
        ] {
            assert_eq!(parse(&text(&change)), change);
        }
        for odd in ["", "x|y", "a|1", "a|x|b", "s|a b", "r|1|a", "r|x|2|a"] {
            assert_eq!(parse(odd), Change::All, "{odd}");
        }
    }
}
