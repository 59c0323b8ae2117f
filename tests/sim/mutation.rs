//! Mistakes on purpose.

use std::time::Duration;

use tollgate::books::remember::{PutBack, Stands};
use tollgate::clock::Monotonic;
use tollgate::id::ReplicaId;
use tollgate::money::Amount;
use tollgate::store::desk::Desk;
use tollgate::store::shared::Ground;
use tollgate::store::{Publish, Published, StoreError};

use super::replica::Loaded;
use super::setup::LEASE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    TakesInUncompared,
}

impl Mutation {
    pub(crate) fn fenced(_mutation: Option<Self>, age: Duration) -> bool {
        age < Duration::from_micros(LEASE)
    }

    pub(crate) fn publish(
        _mutation: Option<Self>,
        desk: &mut Desk,
        who: &ReplicaId,
        message: &Publish,
        ground: &Ground,
    ) -> Result<Published, StoreError> {
        desk.publish(who, message, ground)
    }

    pub(crate) fn lapse(_mutation: Option<Self>, desk: &mut Desk, age: Duration, ground: &Ground) {
        super::store::lapse(desk, age, ground);
    }

    pub(crate) fn message(
        _mutation: Option<Self>,
        _loaded: &mut Loaded,
        _message: &mut Publish,
        _before: Amount,
    ) {
    }

    pub(crate) fn answer(
        _mutation: Option<Self>,
        _loaded: &Loaded,
        _answer: Option<&mut Published>,
        _now: Monotonic,
    ) -> Amount {
        Amount::ZERO
    }

    pub(crate) fn answered(
        _mutation: Option<Self>,
        _loaded: &Loaded,
        _answer: Option<&Published>,
        _before: Amount,
        _now: Monotonic,
    ) {
    }

    pub(crate) fn stands(_mutation: Option<Self>, stands: Option<Stands>) -> Option<Stands> {
        stands
    }

    pub(crate) fn plan(_mutation: Option<Self>, plan: PutBack) -> PutBack {
        plan
    }
}
