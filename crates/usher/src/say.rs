//! What the command says: text for people, JSON for machines.

use std::io::Write;

use serde_json::{Value, json};

/// Where answers go: standard output, and errors to standard error.
#[derive(Debug)]
pub(crate) struct Say {
    pub(crate) json: bool,
}

impl Say {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// The answer in either form.
    pub(crate) fn answer(&self, machine: &Value, people: impl FnOnce() -> String) {
        let text = if self.json { machine.to_string() } else { people() };
        // A reader that has gone away needs no answer.
        let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    }

    /// A remark on the way, for people only.
    pub(crate) fn remark(&self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// The error that ends the command.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let text = if self.json {
            json!({"error": {"message": chain(error)}}).to_string()
        } else {
            format!("usher: {}", chain(error))
        };
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// The error and its causes; many say their cause in their own text already.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        if text.contains(&cause) {
            text
        } else if text.is_empty() {
            cause
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// A table without frames.
pub(crate) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(head.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    let lines: Vec<String> = table
        .to_string()
        .lines()
        .map(|line| line.trim_end().strip_prefix(' ').unwrap_or_default().to_owned())
        .collect();
    lines.join("\n")
}

/// Bytes as people read them.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Milliseconds as people read them.
pub(crate) fn time(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!((bytes(999).as_str(), bytes(1536).as_str()), ("999 B", "1.5 KiB"));
        assert_eq!(
            (time(999).as_str(), time(1_500).as_str(), time(61_000).as_str()),
            ("999 ms", "1.5 s", "1 min 1 s")
        );
    }
}
