//! docs/errors.md says of each error whether it is raised at all, and so does the code.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::shell::{root, say};

/// Where the errors are declared, and so no place that raises one.
const TABLE: &str = "crates/wire/src/sqlerr.rs";
const PAGE: &str = "docs/errors.md";
const MARK: &str = "*Not raised yet";

/// Compares the marks on the page with the sources; prints each that is wrong.
pub(crate) fn check() -> Result<bool> {
    let root = root()?;
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
    let (table, page) = (read(TABLE)?, read(PAGE)?);
    let declared = declared(&table);
    ensure!(!declared.is_empty(), "no errors are declared in {TABLE}");
    let mut sources = String::new();
    append_sources(&root.join("crates"), &root.join(TABLE), &mut sources)?;
    let mut good = true;
    for (name, number) in &declared {
        let paragraph = page.split("\n\n").find(|text| text.starts_with(&format!("**USHER-{number}**")));
        let paragraph = paragraph.with_context(|| format!("{PAGE} lacks USHER-{number}"))?;
        let marked = paragraph.replace('\n', " ").contains(MARK);
        if marked == is_raised(name, &sources) {
            let fault =
                if marked { "raised, but marked as not raised" } else { "not raised, and not marked" };
            say(&format!("errors: USHER-{number} ({name}) is {fault} in {PAGE}"));
            good = false;
        }
    }
    Ok(good)
}

/// Names and numbers: lines such as `    TooManyClients = 0101, 1040, ...`.
fn declared(table: &str) -> Vec<(&str, &str)> {
    table
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.split_once(" = "))
        .filter_map(|(name, rest)| Some((name, rest.split_once(',')?.0)))
        .filter(|(name, number)| {
            name.chars().all(char::is_alphanumeric) && number.len() == 4 && number.parse::<u16>().is_ok()
        })
        .collect()
}

fn is_raised(name: &str, sources: &str) -> bool {
    let used = format!("ErrorId::{name}");
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    sources.match_indices(&used).any(|(at, _)| sources.get(at + used.len()..).is_some_and(ends))
}

/// The text of every source in the `src` folders, but for one.
fn append_sources(folder: &Path, but: &Path, text: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("tests") {
            append_sources(&path, but, text)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") && path != but {
            text.push_str(&fs::read_to_string(&path).with_context(|| path.display().to_string())?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_whole() {
        let table = "errors! {\n    Held = 0411, 1205, \"HY000\", \"held\";\n    let other = 5,\n}";
        assert_eq!(declared(table), [("Held", "0411")]);
        assert!(is_raised("Held", "Failure::new(ErrorId::Held)"));
        assert!(!is_raised("Held", "ErrorId::HeldInTransaction ErrorId::Other"));
    }

    #[test]
    fn the_page_is_right() {
        assert!(check().unwrap());
    }
}
