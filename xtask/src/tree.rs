//! The arrows between crates: each stands on a floor and imports from below only.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::shell::{ask, cargo, say};

/// Each crate's floor (docs/architecture.md).
const FLOORS: &[(&str, u8)] = &[
    ("usher", 5),
    ("usher-playground", 5),
    ("usher-admin", 4),
    ("usher-session", 3),
    ("usher-mover", 3),
    ("usher-failover", 3),
    ("usher-backend", 2),
    ("usher-directory", 2),
    ("usher-stream", 2),
    ("usher-wire", 1),
    ("usher-sql", 1),
    ("usher-topology", 1),
    ("usher-config", 1),
];
/// Arrows that are allowed on one floor: the binary starts playgrounds, and settings name shards.
const LEVEL: &[(&str, &str)] = &[("usher", "usher-playground"), ("usher-config", "usher-topology")];
/// Who must not reach whom, directly or through others: a runtime, or those who know of moves and flips.
const APART: &[(&str, &[&str])] = &[
    ("usher-wire", &["tokio", "mio"]),
    ("usher-sql", &["tokio", "mio"]),
    ("usher-topology", &["tokio", "mio"]),
    ("usher-session", &["usher-mover", "usher-failover", "usher-admin"]),
];
const NO_NAMES: &[&str] = &["common", "util", "utils", "helpers", "misc"];

/// Package names and what each imports when it is built (not for its tests).
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Checks the workspace; prints each arrow that runs back up.
pub(crate) fn check() -> Result<bool> {
    let metadata = ask(&mut cargo(&["metadata", "--format-version", "1", "--quiet"])?)?;
    let (ours, arrows) = (in_crates(&metadata)?, arrows(&metadata)?);
    let faults = faults(&ours, &arrows);
    for fault in &faults {
        say(&format!("arrows: {fault}"));
    }
    if faults.is_empty() {
        say(&format!("arrows: {} crates, none runs back up", ours.len()));
    }
    Ok(faults.is_empty())
}

/// The packages under `crates/`.
fn in_crates(metadata: &Value) -> Result<BTreeSet<String>> {
    let packages = metadata["packages"].as_array().context("no packages in cargo's answer")?;
    let ours = packages
        .iter()
        .filter(|package| package["source"].is_null())
        .filter(|package| package["manifest_path"].as_str().is_some_and(|path| path.contains("/crates/")));
    Ok(ours.filter_map(|package| package["name"].as_str().map(str::to_owned)).collect())
}

fn arrows(metadata: &Value) -> Result<Arrows> {
    let packages = metadata["packages"].as_array().context("no packages in cargo's answer")?;
    let names: BTreeMap<&str, &str> = packages
        .iter()
        .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
        .collect();
    let nodes = metadata["resolve"]["nodes"].as_array().context("no graph in cargo's answer")?;
    let mut arrows = Arrows::new();
    for node in nodes {
        let Some(name) = node["id"].as_str().and_then(|id| names.get(id)) else { continue };
        let imports = node["deps"].as_array().into_iter().flatten().filter(|dep| is_built(dep));
        let imports = imports.filter_map(|dep| names.get(dep["pkg"].as_str()?));
        arrows.entry((*name).to_owned()).or_default().extend(imports.map(|name| (*name).to_owned()));
    }
    Ok(arrows)
}

/// Whether a dependency is one of the crate itself, not of its tests.
fn is_built(dependency: &Value) -> bool {
    let mut kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
    kinds.any(|kind| kind["kind"] != "dev")
}

fn faults(ours: &BTreeSet<String>, arrows: &Arrows) -> Vec<String> {
    let mut faults = Vec::new();
    let floor = |name: &str| FLOORS.iter().find(|(known, _)| *known == name).map(|(_, floor)| *floor);
    for name in ours {
        if NO_NAMES.contains(&name.trim_start_matches("usher-")) {
            faults.push(format!("{name} is no room of the house: a type lives with what decides it"));
        }
        let Some(from) = floor(name) else {
            faults.push(format!("{name} has no floor; see docs/architecture.md"));
            continue;
        };
        for import in arrows.get(name).into_iter().flatten() {
            let to = floor(import);
            let level = LEVEL.contains(&(name.as_str(), import.as_str()));
            if to.is_some_and(|to| to >= from) && !level {
                faults.push(format!("{name} (floor {from}) imports {import} (floor {})", to.unwrap_or(0)));
            }
        }
    }
    for (from, never) in APART {
        let reached = reached(arrows, from);
        for name in never.iter().filter(|name| reached.contains(**name)) {
            faults.push(format!("{from} reaches {name}, which it must not"));
        }
    }
    faults
}

/// All that a crate is built on.
fn reached(arrows: &Arrows, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from.to_owned()];
    while let Some(name) = next.pop() {
        for import in arrows.get(&name).into_iter().flatten() {
            if reached.insert(import.clone()) {
                next.push(import.clone());
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house(arrows: &[(&str, &str)]) -> Vec<String> {
        let mut map = Arrows::new();
        for (from, to) in arrows {
            map.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        let ours = arrows.iter().map(|(from, _)| (*from).to_owned()).collect();
        faults(&ours, &map)
    }

    #[test]
    fn arrows_down_are_fine() {
        assert_eq!(house(&[("usher-session", "usher-wire"), ("usher-config", "usher-topology")]), [""; 0]);
    }

    #[test]
    fn arrows_up_or_level_are_told() {
        assert_eq!(house(&[("usher-wire", "usher-backend")]).len(), 1);
        assert_eq!(house(&[("usher-mover", "usher-failover")]).len(), 1);
        assert_eq!(house(&[("usher-common", "libc")]).len(), 2);
    }

    #[test]
    fn what_is_reached_through_others_counts() {
        let faults = house(&[("usher-sql", "quiet"), ("quiet", "tokio")]);
        assert!(faults.iter().any(|fault| fault.contains("reaches tokio")), "{faults:?}");
    }
}
