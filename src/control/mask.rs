//! Field masks (AIP-134): which fields of an update are set.

use prost_types::FieldMask;

use super::errors::Fault;
use crate::proto::convert::{FieldError, shown};

/// The fields that an update sets.
pub(super) struct Mask(Vec<&'static str>);

impl Mask {
    /// Of the `allowed` fields, those that the mask names; with an empty mask those that are `present`; with `*` all.
    pub(super) fn new(
        mask: Option<&FieldMask>,
        allowed: &[&'static str],
        present: impl Fn(&str) -> bool,
    ) -> Result<Self, Fault> {
        let paths = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
        if paths.is_empty() {
            return Ok(Self(
                allowed
                    .iter()
                    .copied()
                    .filter(|field| present(field))
                    .collect(),
            ));
        }
        if paths.iter().any(|path| path == "*") {
            return Ok(Self(allowed.to_vec()));
        }
        let find = |path: &String| {
            let known = allowed.iter().copied().find(|field| field == path);
            known.ok_or_else(|| {
                let problem = format!(
                    "`{}` cannot be set; it may name {} or *",
                    shown(path),
                    allowed.join(", ")
                );
                Fault::Field(FieldError::invalid("update_mask", problem))
            })
        };
        paths.iter().map(find).collect::<Result<_, _>>().map(Self)
    }

    /// Whether the update sets this field.
    pub(super) fn has(&self, field: &str) -> bool {
        self.0.contains(&field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_names_what_is_set() {
        let check = |paths: &[&str], expected: Option<&[&str]>| {
            let mask = FieldMask {
                paths: paths.iter().map(ToString::to_string).collect(),
            };
            let read = Mask::new(Some(&mask), &["a", "b", "c"], |field| field == "b");
            assert_eq!(
                read.ok().map(|mask| mask.0).as_deref(),
                expected,
                "{paths:?}"
            );
        };
        check(&["a"], Some(&["a"]));
        check(&["c", "a"], Some(&["c", "a"]));
        check(&["*"], Some(&["a", "b", "c"]));
        check(&[], Some(&["b"]));
        check(&["d"], None);
        check(&["a", ""], None);
    }
}
