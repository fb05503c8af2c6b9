//! Text in columns.

/// Columns as wide as their widest word: the first to the left, the others to the right.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|word| word.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (word, width)) in row.iter().zip(&widths).enumerate() {
            line += &if column == 0 { format!("{word:<width$}") } else { format!("  {word:>width$}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// A table of Markdown.
pub(crate) fn markdown(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text =
        format!("| {} |\n|---|{}\n", head.join(" | "), "---:|".repeat(head.len().saturating_sub(1)));
    for row in rows {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let row = |words: [&str; 2]| words.map(str::to_owned).to_vec();
        assert_eq!(aligned(&[row(["a", "10"]), row(["long", "9"])]), "a     10\nlong   9\n");
    }
}
