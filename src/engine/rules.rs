//! What an account's calls go by, beyond the words on its first cache line. Pure: which of it holds is up to the call's own time.

use std::collections::BTreeSet;

use crate::clock::Timestamp;
use crate::id::AccountId;
use crate::ledger::Standing;
use crate::policy::{Budget, Policy};
use crate::refusal::Reason;

/// What an account's calls go by. Replaced whole when the book or the policy changes, or an instant named in it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The unit it pays in.
    pub unit: String,
    /// Its policy, with its own overrides, and with the rate that holds now.
    pub policy: Policy,
    /// Why all its calls are refused, if they are, and from when on.
    pub standing: Standing,
    /// What few accounts have. `None` for all others: their calls do not look at it.
    pub special: Option<Box<Special>>,
}

/// What few accounts have, and each of their calls is judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Special {
    /// From this instant on what was leased before must not be used: credit expires, or the floor is another.
    pub lease_ends: Option<Timestamp>,
    /// The rate and burst that hold from each of these instants on, ascending; `None` is no limit.
    pub rates: Vec<(Timestamp, Option<(u32, u32)>)>,
    /// What was reactivated: calls of the rest wait, while [`Reason::ReactivationRequired`] stands (A1-9).
    pub reactivated: BTreeSet<String>,
    /// The plans that pay before money does, in their order; none while they do not count (A1-5).
    pub plans: Vec<PlanRule>,
    /// What its calls may cost in a time.
    pub budgets: Vec<Budget>,
}

/// A plan that pays for an account's calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanRule {
    /// The account inside the account that has what is left of it.
    pub id: AccountId,
    /// What it is counted in.
    pub unit: String,
    /// The models it is for, as patterns; empty is all.
    pub scope: Vec<String>,
}

impl PlanRule {
    /// Whether it is for calls of a model.
    pub fn covers(&self, model: Option<&str>) -> bool {
        self.scope.is_empty() || self.scope.iter().any(|pattern| matches(pattern, model))
    }
}

/// Whether a pattern, as in the price book, is for a name: that name, or what it begins with if there is a `*` at the pattern's end.
pub fn matches(pattern: &str, name: Option<&str>) -> bool {
    match (pattern.strip_suffix('*'), name) {
        (Some(stem), Some(name)) => name.starts_with(stem),
        (None, Some(name)) => pattern == name,
        (_, None) => false,
    }
}

impl Rules {
    /// Nothing but a policy, in good standing.
    pub fn plain(unit: String, policy: Policy) -> Self {
        Self {
            unit,
            policy,
            standing: Standing::default(),
            special: None,
        }
    }

    /// Why a call is refused, by its own time and for its own capability.
    pub(super) fn refused(&self, capability: Option<&str>, at: Timestamp) -> Option<Reason> {
        self.standing.at(at).filter(|reason| {
            *reason != Reason::ReactivationRequired || !self.is_reactivated(capability)
        })
    }

    fn is_reactivated(&self, capability: Option<&str>) -> bool {
        let reactivated = self.special.iter().flat_map(|special| &special.reactivated);
        let mut patterns = reactivated.map(String::as_str);
        patterns.any(|pattern| pattern == "*" || matches(pattern, capability))
    }

    /// Whether what was leased must not be used at an instant.
    pub(super) fn lease_over(&self, at: Timestamp) -> bool {
        let ends = self.special.as_ref().and_then(|special| special.lease_ends);
        ends.is_some_and(|ends| at >= ends)
    }

    /// The same with the rate that holds at an instant; `None` if that is the one it has.
    pub(super) fn turned(&self, at: Timestamp) -> Option<Self> {
        let special = self.special.as_ref()?;
        let passed = special.rates.iter().take_while(|(from, _)| *from <= at);
        let passed = passed.count();
        let (_, rate) = special.rates.get(passed.checked_sub(1)?)?;
        let mut turned = self.clone();
        turned.policy.qps = rate.map(|(qps, _)| qps);
        turned.policy.burst = rate.map(|(_, burst)| burst);
        if let Some(special) = &mut turned.special {
            special.rates.drain(..passed);
        }
        Some(turned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: i64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    #[test]
    fn a_pattern_is_a_name_or_its_beginning() {
        for (pattern, name, want) in [
            ("vision", Some("vision"), true),
            ("vision", Some("vision-2"), false),
            ("vision*", Some("vision-2"), true),
            ("*", Some("x"), true),
            ("*", None, false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name:?}");
        }
    }

    #[test]
    fn what_was_reactivated_passes_and_the_rest_waits() {
        let mut rules = Rules::plain("USD".into(), Policy::default());
        rules.standing = Standing::always(Some(Reason::ReactivationRequired));
        let refused = |rules: &Rules, capability| rules.refused(capability, at(0));
        let waits = Some(Reason::ReactivationRequired);
        assert_eq!(refused(&rules, Some("a")), waits);
        let of = |patterns: &[&str]| {
            Some(Box::new(Special {
                reactivated: patterns.iter().map(|text| (*text).to_owned()).collect(),
                ..Special::default()
            }))
        };
        rules.special = of(&["face*"]);
        assert_eq!(refused(&rules, Some("face-1")), None);
        assert_eq!(refused(&rules, Some("body")), waits);
        assert_eq!(refused(&rules, None), waits);
        rules.special = of(&["*"]);
        assert_eq!(refused(&rules, None), None, "all of it was");
        rules.standing = Standing::always(Some(Reason::AccountClosed));
        assert_eq!(refused(&rules, None), Some(Reason::AccountClosed));
    }

    #[test]
    fn the_rate_and_the_lease_turn_at_their_instants() {
        let mut rules = Rules::plain(
            "USD".into(),
            Policy {
                qps: Some(10),
                ..Policy::default()
            },
        );
        rules.special = Some(Box::new(Special {
            lease_ends: Some(at(50)),
            rates: vec![(at(100), Some((100, 200))), (at(200), Some((10, 10)))],
            ..Special::default()
        }));
        assert!(!rules.lease_over(at(49)) && rules.lease_over(at(50)));
        assert_eq!(rules.turned(at(99)), None);
        let turned = rules.turned(at(100)).unwrap();
        assert_eq!(
            (turned.policy.qps, turned.policy.burst),
            (Some(100), Some(200))
        );
        assert_eq!(turned.turned(at(199)), None);
        let back = turned.turned(at(200)).unwrap();
        assert_eq!((back.policy.qps, back.policy.burst), (Some(10), Some(10)));
        // Several at once: the last one counts.
        assert_eq!(rules.turned(at(900)), Some(back));
    }
}
