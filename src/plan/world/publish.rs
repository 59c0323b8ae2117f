//! Messages of the simulated account's replicas, and their answers: `Sync::publish` and `Sync::answer`, step by step.

use std::sync::Arc;
use std::time::Duration;

use super::super::number::{nanos, real, whole};
use super::seat::{Sent, Way};
use super::tasks::Purpose;
use super::{BACKEND, Event, Play, Told, World, tasks};
use crate::money::Amount;
use crate::store::Publish;
use crate::sync::line::{Give, Need, Next};

/// As in `sync::drive`.
const AGAIN_MAX: u32 = 4;
const DRY_MAX: Duration = Duration::from_millis(100);

impl World<'_> {
    /// A replica's message goes out, unless one is on its way.
    pub(super) fn send(&mut self, replica: u32, give: Give, way: Way, tries: u32) {
        let now = self.at();
        let (engine, times) = (Arc::clone(&self.engine), *self.times());
        let policy = self.policy.clone();
        let least = self.price.waits_for();
        let Some(seat) = self.seat(replica) else {
            return;
        };
        // Each call waits for the same.
        let need = Need {
            all: Amount::from_nanos(seat.need),
            least: least.min(Amount::from_nanos(seat.need)),
        };
        seat.line.collect(&seat.account, &engine, now);
        let message = seat
            .line
            .message(&seat.account, need, give, &policy, &times, now);
        let Some(message) = message else { return };
        let (lead, rest) = self.in_pipeline(way);
        let arrives = self.now.saturating_add(self.wire.half).saturating_add(lead);
        if let Some(seat) = self.seat(replica) {
            seat.sent = Some(Sent {
                message,
                give,
                way,
                tries,
                rest,
                answer: None,
                answered_at: 0,
            });
        }
        self.push(arrives, Event::Arrive(replica));
    }

    /// How long what goes before it in a round keeps a message, and how long its answer waits for those after it.
    fn in_pipeline(&mut self, way: Way) -> (u64, u64) {
        if way == Way::Alone || self.wire.pipeline <= 0.0 {
            return (0, 0);
        }
        let before = (self.random.unit() * (self.wire.pipelines + 1.0)).floor();
        let trip = real(self.wire.half) * 2.0 + self.wire.pipeline;
        let part = self.random.unit();
        let lead = before * trip + part * self.wire.pipeline;
        (whole(lead), whole((1.0 - part) * self.wire.pipeline))
    }

    /// A message is with the store.
    pub(super) fn arrive(&mut self, replica: u32) {
        let (now, at) = (self.now, self.at());
        let Some(seat) = self.seat(replica) else {
            return;
        };
        let id = seat.id.clone();
        let Some(mut sent) = seat.sent.take() else {
            return;
        };
        self.count(&sent);
        let alone = sent.way == Way::Alone;
        let takes = self.wire.message(sent.message.usage.len(), alone);
        let done = self.shop.serve(now, takes);
        // It cannot fail: sums stay within the range, and the account is there.
        sent.answer = self.shop.publish(&id, &sent.message, at).ok();
        sent.answered_at = done;
        let back = done
            .saturating_add(self.wire.half)
            .saturating_add(sent.rest);
        let hour = sent.message.usage.iter().filter_map(|row| row.hour).max();
        let mut old = None;
        if let Some(seat) = self.seat(replica) {
            if hour.is_some() && hour != seat.hour {
                old = seat.hour;
                seat.hour = hour;
            }
            seat.sent = Some(sent);
        }
        if let Some(old) = old {
            self.shop.forget(&id, old);
        }
        self.push(back, Event::Answer(replica));
        self.watch_balance();
    }

    fn count(&mut self, sent: &Sent) {
        let Publish {
            believed,
            new,
            usage,
            ..
        } = &sent.message;
        let seen = &mut self.seen;
        let spent = u64::from(new.spend != believed.spend);
        let (all, with_spend) = match sent.way {
            Way::Round => (&mut seen.round, &mut seen.round_spent),
            Way::Alone => (&mut seen.lone, &mut seen.lone_spent),
        };
        *all = all.saturating_add(1);
        *with_spend = with_spend.saturating_add(spent);
        let rows = u64::try_from(usage.len().div_ceil(2)).unwrap_or(u64::MAX);
        seen.rows = seen.rows.saturating_add(rows);
    }

    /// A billing backend sees the account run low.
    fn watch_balance(&mut self) {
        let Some(percent) = self.scene.deployment.recharge_at else {
            return;
        };
        if self.recharging || self.scene.play == Play::Dry {
            return;
        }
        let part = f64::from(percent) / 100.0;
        let all = super::real_money(self.recharge.nanos());
        let least = Amount::from_nanos(super::whole_money(all * part));
        let total = self.shop.desk.head.total;
        let book = self.shop.desk.book.as_ref();
        let low = book.is_some_and(|book| {
            let balance = book.balance(total);
            balance < least || balance < self.price.hold
        });
        if low {
            self.recharging = true;
            let id = self.task(None, tasks::recharge());
            self.push(self.now.saturating_add(nanos(BACKEND)), Event::GoOn(id));
        }
    }

    /// An answer is back.
    pub(super) fn answer(&mut self, replica: u32) {
        let now = self.at();
        let times = *self.times();
        let policy = self.policy.clone();
        let Some(seat) = self.seat(replica) else {
            return;
        };
        let Some(sent) = seat.sent.take() else { return };
        let next = seat
            .line
            .answer(&seat.account, sent.answer.as_ref(), &policy, &times, now);
        if sent.answer.as_ref().is_some_and(|answer| answer.applied) {
            seat.known_at = sent.answered_at;
        }
        let fenced = sent.answer.as_ref().is_some_and(|answer| answer.fenced);
        if next.short && !next.scarce && !next.refresh && !fenced {
            let pause = times.interval.min(DRY_MAX);
            seat.account.dry_until(now.mono.plus(pause));
        }
        let asks = Next {
            again: next.again,
            ..Next::default()
        } != next;
        if asks {
            let steps = tasks::attend(&next);
            let id = self.task(Some(replica), steps);
            self.push(self.now, Event::GoOn(id));
        }
        if next.again {
            if sent.tries.saturating_add(1) < AGAIN_MAX {
                self.send(replica, sent.give, sent.way, sent.tries.saturating_add(1));
            } else {
                self.wake(replica);
            }
        } else if !asks {
            self.wake(replica);
        }
        self.schedule(replica);
    }

    /// Something was told on the channel.
    pub(super) fn told(&mut self, replica: u32, told: Told) {
        let (policy, changed) = (self.policy.clone(), self.changed);
        let Some(seat) = self.seat(replica) else {
            return;
        };
        match told {
            Told::Version(version) => {
                if seat.line.known.version < version {
                    let paid = changed.is_some_and(|(at, _)| at == version);
                    let purpose = if paid {
                        Purpose::Recharge
                    } else {
                        Purpose::Refresh
                    };
                    let id = self.task(Some(replica), tasks::refresh(purpose));
                    self.push(self.now, Event::GoOn(id));
                }
            }
            Told::Money => self.send(replica, Give::Money, Way::Alone, 0),
            Told::Shares(rate, places) => {
                seat.line.heard(rate, places, &policy);
                self.send(replica, Give::Spare, Way::Alone, 0);
            }
        }
        self.schedule(replica);
    }
}
