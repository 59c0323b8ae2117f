//! The slots of a cluster: which one a key falls into, how a cluster tells who has which, and what a node answers that does not
//! have it. Pure.

use redis::{ServerErrorKind, Value};

use super::super::super::StoreError;
use super::ask::take;
use super::dial::Address;

/// How many slots a cluster has.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a key: that of what stands in its first braces, if anything does.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = |key: &'_ [u8]| {
        let open = key.iter().position(|byte| *byte == b'{')?;
        let rest = key.get(open.checked_add(1)?..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close)
            .filter(|tag| !tag.is_empty())
            .map(<[u8]>::to_vec)
    };
    let tag = tag(key);
    crc16(tag.as_deref().unwrap_or(key)) & SLOTS.saturating_sub(1)
}

/// Whether a script may have all these keys.
pub(in super::super) fn in_one_slot<K: AsRef<str>>(keys: &[K]) -> bool {
    let mut slots = keys.iter().map(|key| slot(key.as_ref().as_bytes()));
    let first = slots.next();
    slots.all(|slot| Some(slot) == first)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let start = crc ^ u16::from(*byte).rotate_right(8);
        (0..8).fold(start, |crc: u16, _| {
            let shifted = crc.wrapping_shl(1);
            if crc & 0x8000 == 0 {
                shifted
            } else {
                shifted ^ 0x1021
            }
        })
    })
}

/// A range of slots, both ends in it, and who has it.
pub(super) type Range = (u16, u16, Address);

/// What a node tells of its cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// It sees all slots served. A node that is cut off from the others does not.
    pub(super) whole: bool,
    pub(super) ranges: Vec<Range>,
    /// Masters that have no slots yet.
    pub(super) others: Vec<Address>,
}

impl Told {
    /// The nodes that have slots, as often as they have ranges of them.
    pub(super) fn served(&self) -> impl Iterator<Item = &Address> {
        self.ranges.iter().map(|(.., address)| address)
    }
}

/// Reads the answers to `CLUSTER INFO`, `CLUSTER SLOTS` and `CLUSTER NODES` of the node at `asked`.
pub(super) fn told(asked: &Address, replies: Vec<Value>) -> Result<Told, StoreError> {
    let mut replies = replies.into_iter();
    let mut next = || replies.next().unwrap_or_default();
    let (info, slots, nodes) = (next(), next(), next());
    let info: String = take(info)?;
    let whole = info.lines().any(|line| line.trim() == "cluster_state:ok");
    let mut ranges = Vec::new();
    for entry in take::<Vec<Vec<Value>>>(slots)? {
        let mut entry = entry.into_iter();
        let mut next = || entry.next().unwrap_or_default();
        let (first, last): (u16, u16) = (take(next())?, take(next())?);
        let mut master = take::<Vec<Value>>(next())?.into_iter();
        let host: Option<String> = take(master.next().unwrap_or_default())?;
        let port: u16 = take(master.next().unwrap_or_default())?;
        if let Some(address) = located(asked, host.as_deref().unwrap_or_default(), port) {
            ranges.push((first, last, address));
        }
    }
    if ranges.is_empty() {
        return Err(StoreError::Unavailable(
            "it is in no cluster that serves slots".into(),
        ));
    }
    let others = take::<String>(nodes)?;
    let others = others.lines().filter_map(|line| slotless(asked, line));
    let others = others.collect();
    Ok(Told {
        whole,
        ranges,
        others,
    })
}

/// A node's address. What has no host is where the node is that was asked; one that has no port has none.
fn located(asked: &Address, host: &str, port: u16) -> Option<Address> {
    let Address::Tcp(own, _) = asked else {
        return None;
    };
    let host = if matches!(host, "" | "?") { own } else { host };
    (port != 0).then(|| Address::Tcp(host.into(), port))
}

/// The address in a line of `CLUSTER NODES`, if it is a master in good health without slots.
fn slotless(asked: &Address, line: &str) -> Option<Address> {
    let mut words = line.split_ascii_whitespace();
    let place = words.nth(1)?;
    let mut flags = words.next()?.split(',');
    let healthy = flags.clone().any(|flag| flag == "master")
        && !flags.any(|flag| matches!(flag, "fail" | "fail?" | "handshake" | "noaddr" | "myself"));
    // Its master, two times, an epoch and the link come before its slots.
    if !healthy || words.nth(5).is_some() {
        return None;
    }
    let (host, port) = place.split('@').next()?.rsplit_once(':')?;
    located(asked, host, port.parse().ok()?)
}

/// What to do about a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the reply.
    Done,
    /// The slot lives there now.
    Moved(u16, Address),
    /// This once, ask there.
    Ask(Address),
    /// Its keys are on their way: a little later.
    Later,
    /// The cluster is not what we take it for, or cannot serve for now.
    Stale,
}

/// Judges a reply of the node at `asked`. All but [`Verdict::Done`] mean that nothing was carried out.
pub(super) fn verdict(asked: &Address, reply: &Value) -> Verdict {
    let Value::ServerError(error) = reply else {
        return Verdict::Done;
    };
    let target = || {
        let mut words = error.details()?.split_ascii_whitespace();
        let slot: u16 = words.next()?.parse().ok()?;
        let (host, port) = words.next()?.rsplit_once(':')?;
        let host = host.trim_matches(['[', ']']);
        Some((slot, located(asked, host, port.parse().ok()?)?))
    };
    match error.kind() {
        Some(ServerErrorKind::Moved) => match target() {
            Some((slot, address)) => Verdict::Moved(slot, address),
            None => Verdict::Stale,
        },
        Some(ServerErrorKind::Ask) => match target() {
            Some((_, address)) => Verdict::Ask(address),
            None => Verdict::Stale,
        },
        Some(ServerErrorKind::TryAgain) => Verdict::Later,
        Some(
            ServerErrorKind::ClusterDown | ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown,
        ) => Verdict::Stale,
        _ => Verdict::Done,
    }
}

#[cfg(test)]
mod tests;
