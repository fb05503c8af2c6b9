//! Results of suites, and the differences that are known: docs/suites.txt.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::shell::{root, say};

/// The list: a suite, a test and the reason on a line, by tabs.
const FILE: &str = "docs/suites.txt";

/// What a suite's tests came to; of a name that is there several times the worst counts.
#[derive(Debug, Default)]
pub(super) struct Results(BTreeMap<String, String>);

impl Results {
    /// Reads a runner's lines: `pass`, `fail` or `skip`, a tab, the test's name.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("no results in {}", file.display()))?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    fn parse(text: &str) -> Self {
        let mut results = BTreeMap::new();
        for (result, name) in text.lines().filter_map(|line| line.split_once('\t')) {
            let before = results.entry(name.to_owned()).or_insert_with(|| result.to_owned());
            if before != "fail" {
                *before = result.to_owned();
            }
        }
        Self(results)
    }

    pub(super) fn passed(&self) -> usize {
        self.0.values().filter(|result| *result == "pass").count()
    }

    /// The tests that pass here and not there.
    pub(super) fn lost_in(&self, other: &Self) -> BTreeSet<String> {
        let passes = |results: &Self, name: &str| results.0.get(name).is_some_and(|result| result == "pass");
        self.0.keys().filter(|name| passes(self, name) && !passes(other, name)).cloned().collect()
    }
}

/// The differences that are known, by suite and test, with their reasons.
#[derive(Debug)]
pub(super) struct Known(BTreeMap<(String, String), String>);

impl Known {
    pub(super) fn read() -> Result<Self> {
        let text = fs::read_to_string(root()?.join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut known = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let parts: Vec<&str> = line.split('\t').collect();
            ensure!(
                parts.len() == 3 && !parts[2].is_empty(),
                "{FILE}: no suite, test and reason in {line:?}"
            );
            known.insert((parts[0].to_owned(), parts[1].to_owned()), parts[2].to_owned());
        }
        Ok(Self(known))
    }

    /// Says what is new and what is gone; `false` if something is new.
    pub(super) fn judge(&self, suite: &str, differs: &BTreeSet<String>) -> bool {
        let listed = |test: &String| self.0.get(&(suite.to_owned(), test.clone()));
        let mut good = true;
        for test in differs {
            match listed(test) {
                Some(reason) => say(&format!("{suite}: {test}: known: {reason}")),
                None => {
                    say(&format!("{suite}: {test}: passes directly and NOT through usher"));
                    good = false;
                }
            }
        }
        let gone = self.0.keys().filter(|(of, test)| of == suite && !differs.contains(test));
        for (_, test) in gone {
            say(&format!("{suite}: {test}: a known difference is gone: take it out of {FILE}"));
        }
        good
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_difference_is_new_unless_it_is_listed() {
        let direct = Results::parse("pass\ta\npass\tb\nfail\tc\npass\td\nfail\td\n");
        let proxied = Results::parse("pass\ta\nfail\tb\npass\tc\n");
        assert_eq!(direct.passed(), 2);
        let differs = direct.lost_in(&proxied);
        assert_eq!(differs.iter().collect::<Vec<_>>(), ["b"]);
        let known = Known::parse("# a list\n\nsuite\tb\tbecause\n").unwrap();
        assert!(known.judge("suite", &differs));
        assert!(!known.judge("other", &differs));
        assert!(Known::parse("suite\tb\n").is_err());
    }

    #[test]
    fn the_list_can_be_read() {
        Known::read().unwrap();
    }
}
