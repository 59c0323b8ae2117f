//! Policies that come with the program, one for each provider whose billing rules were looked at: `policy = "openai-prepaid"` works with
//! no file. They are `deploy/policies/*.toml`, where each field names its rule.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::policy::Policy;

/// Each file has one table, `[policies.NAME]`, as it could stand in the configuration.
const FILES: [&str; 5] = [
    include_str!("../../deploy/policies/alibaba-visual.toml"),
    include_str!("../../deploy/policies/tencent-apigw.toml"),
    include_str!("../../deploy/policies/xiaomi-mimo.toml"),
    include_str!("../../deploy/policies/openai-prepaid.toml"),
    include_str!("../../deploy/policies/ai12z.toml"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    policies: BTreeMap<String, Policy>,
}

/// All presets by name. One of the same name that an operator sets is taken instead.
pub fn all() -> &'static BTreeMap<String, Policy> {
    static ALL: LazyLock<BTreeMap<String, Policy>> = LazyLock::new(|| {
        // A file that cannot be read is found by the test below, and would leave its name unknown.
        let read = |text: &&str| toml::from_str::<File>(text).ok();
        let files = FILES.iter().filter_map(read);
        files.flat_map(|file| file.policies).collect()
    });
    &ALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_reads_and_is_right() {
        for text in FILES {
            let file: Result<File, _> = toml::from_str(text);
            assert_eq!(file.err().map(|error| error.to_string()), None, "{text}");
        }
        let names: Vec<&str> = all().keys().map(String::as_str).collect();
        let want = [
            "ai12z",
            "alibaba-visual",
            "openai-prepaid",
            "tencent-apigw",
            "xiaomi-mimo",
        ];
        assert_eq!(names, want);
        for (name, policy) in all() {
            assert_eq!(policy.problems(), Vec::<String>::new(), "{name}");
            assert_ne!(*policy, Policy::default(), "{name}");
        }
    }
}
