//! The documentation names settings that exist, and all of them.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use usher_config::{Limits, parse};

const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");
/// Sections whose settings are written `section.setting`.
const SECTIONS: &[&str] = &["global", "proxy", "controller", "http", "memcached", "backend_tls", "limits"];

/// Whether the settings tree has this setting: one that it has not is refused by name, whatever its value.
fn exists(section: &str, setting: &str) -> bool {
    let text = format!("[{section}]\n{setting} = {{}}\n");
    let refused = parse(&text, Path::new("x.toml"), std::iter::empty()).unwrap_err().to_string();
    !refused.contains("unknown field")
}

/// Every `section.setting` of a text.
fn settings(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.'));
    words
        .filter_map(|word| word.trim_matches('.').split_once('.'))
        .filter(|(section, _)| SECTIONS.contains(section))
}

/// Files below a folder with this ending.
fn files(folder: PathBuf, ending: &str) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![folder], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false if entry.path().extension().is_some_and(|found| found == ending) => {
                    found.push(entry.path());
                }
                false => {}
            }
        }
    }
    found
}

#[test]
fn settings_named_in_the_pages_exist() {
    assert!(exists("limits", "hold_ms") && exists("global", "user") && !exists("limits", "hold_max"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = files(root.join("docs"), "md");
    pages.push(root.join("README.md"));
    let mut seen = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for (section, setting) in text.split('`').skip(1).step_by(2).flat_map(settings) {
            assert!(exists(section, setting), "{}: {section}.{setting}", page.display());
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// In messages as in code: whatever follows `limits.` and is named as limits are, with a unit or an end.
#[test]
fn limits_named_in_the_code_exist() {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let this = Path::new(file!()).file_name().unwrap();
    let mut seen = 0;
    for source in files(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), "rs") {
        let text = std::fs::read_to_string(&source).unwrap();
        for rest in text.split("limits.").skip(1).filter(|_| source.file_name().unwrap() != this) {
            let (name, behind) = rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
            let is_limit = ["_ms", "_s", "_max", "_min"].iter().any(|end| name.ends_with(end));
            if is_limit && !behind.starts_with('(') {
                assert!(exists("limits", name), "{}: limits.{name}", source.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

/// The name and the comment of each field in a source.
fn fields(source: &str) -> Vec<(&str, String)> {
    let (mut found, mut comment) = (Vec::new(), String::new());
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            comment = format!("{comment} {text}").trim().to_owned();
        } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")) {
            found.push((name, std::mem::take(&mut comment)));
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
    found
}

#[test]
fn the_page_has_every_limit_with_its_default() {
    let defaults = toml::Table::try_from(Limits::default()).unwrap();
    let limits = fields(include_str!("../src/limits.rs"));
    assert_eq!(limits.len(), defaults.len());
    for (name, comment) in limits {
        let row = format!("| `{name}` | {} | {comment} |", defaults[name]);
        assert!(CONFIGURATION.contains(&row), "{row}");
    }
}

#[test]
fn the_page_has_every_other_setting() {
    let (_, tables) = include_str!("../src/tree.rs").split_once("/// The `[global]` table.").unwrap();
    for (name, comment) in fields(tables).into_iter().filter(|(name, _)| !name.starts_with("const ")) {
        let row = format!("` | `{name}` | {comment} |");
        assert!(CONFIGURATION.contains(&row), "{row}");
    }
}
