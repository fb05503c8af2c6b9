//! What a machine can judge without running the product.

use anyhow::Result;

use crate::{
    errors,
    shell::{cargo, passes, say},
    tree,
};

/// Runs every check even where one has failed.
pub(crate) fn run() -> Result<bool> {
    let format = passes(&mut cargo(&["fmt", "--all", "--check"])?)?
        & passes(&mut cargo(&["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"])?)?;
    let arrows = tree::check()?;
    let errors = errors::check()?;
    let lints = passes(&mut cargo(&[
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ])?)?;
    let mut doc = cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--locked"])?;
    let docs = passes(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    for (name, good) in
        [("format", format), ("arrows", arrows), ("errors", errors), ("lints", lints), ("docs", docs)]
    {
        say(&format!("{name:<8} {}", if good { "ok" } else { "FAILED" }));
    }
    Ok(format && arrows && errors && lints && docs)
}
