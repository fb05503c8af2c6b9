//! The tables of docs/performance.md.

use std::fs;

use serde_json::Value;

use super::Options;
use crate::table::markdown;

const TARGETS: [&str; 3] = ["direct", "haproxy", "usher"];

/// All tables as Markdown.
pub(crate) fn text(points: &Value, long: &Value, idle: &Value, options: &Options) -> String {
    let speed = table(points, &["statements/s", "direct", "HAProxy", "usher", "usher / HAProxy"], |found| {
        let rates = TARGETS.map(|target| float(found(target), "per_second"));
        let mut row: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
        row.push(format!("{:.2}", rates[2] / rates[1]));
        row
    });
    let times = table(points, &["p50 / p99 in µs", "direct", "HAProxy", "usher"], |found| {
        let times = |target| (float(found(target), "p50_us"), float(found(target), "p99_us"));
        TARGETS.map(|target| format!("{:.0} / {:.0}", times(target).0, times(target).1)).to_vec()
    });
    let cpu = table(
        points,
        &["CPU µs of the proxy for a statement", "HAProxy", "usher", "usher / HAProxy"],
        |found| {
            let (haproxy, usher) = (float(found("haproxy"), "cpu_us"), float(found("usher"), "cpu_us"));
            vec![format!("{haproxy:.1}"), format!("{usher:.1}"), format!("{:.2}", usher / haproxy)]
        },
    );
    let bytes = table(long, &["MB/s of one result", "direct", "HAProxy", "usher"], |found| {
        TARGETS.map(|target| format!("{:.0}", float(found(target), "bytes_per_second") / 1e6)).to_vec()
    });
    let Options { seconds, rounds, .. } = options;
    format!(
        "{}; medians of {rounds} rounds of {seconds} s, the targets in turns. Rows are named by how the statement is \
         sent and by the number of connections.\n\n{speed}\n{times}\n{cpu}\n{bytes}\n\
         Memory of an idle connection that has run a query ({} of them): {:.1} KiB.\n",
        machine(),
        idle["connections"],
        float(idle, "bytes_each") / 1024.0
    )
}

/// A row for each case, in the order in which they were measured.
fn table<'a>(
    outcomes: &'a Value,
    head: &[&str],
    row: impl Fn(&dyn Fn(&str) -> &'a Value) -> Vec<String>,
) -> String {
    let all: Vec<&Value> = outcomes.as_array().into_iter().flatten().collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for case in all.iter().filter(|outcome| outcome["target"] == TARGETS[0]).map(|outcome| &outcome["case"]) {
        let found = |target: &str| -> &'a Value {
            let of_both = all.iter().find(|outcome| outcome["case"] == *case && outcome["target"] == target);
            of_both.copied().unwrap_or(&Value::Null)
        };
        let mut cells = vec![case.as_str().unwrap_or_default().to_owned()];
        cells.extend(row(&found));
        rows.push(cells);
    }
    markdown(head, &rows)
}

fn float(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or(f64::NAN)
}

/// Processors of this machine, as it names them.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names: Vec<&str> = info.lines().filter(|line| line.starts_with("model name")).collect();
    let name =
        names.first().and_then(|line| line.split_once(':')).map_or("processors", |(_, name)| name.trim());
    format!("{} × {name}, everything on this one machine", names.len().max(1))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn every_case_has_its_row() {
        let outcome = |target: &str, rate: f64| {
            json!({"case": "text, 1", "target": target, "per_second": rate, "p50_us": 1.0, "p99_us": 2.0,
                   "bytes_per_second": 1e6, "cpu_us": 4.0})
        };
        let outcomes = json!([outcome("direct", 900.0), outcome("haproxy", 600.0), outcome("usher", 300.0)]);
        let options = Line::parse_from(["bench"]).options;
        let text = text(&outcomes, &outcomes, &json!({"connections": 9, "bytes_each": 2048.0}), &options);
        assert!(text.contains("| text, 1 | 900 | 600 | 300 | 0.50 |"), "{text}");
        assert!(text.contains("(9 of them): 2.0 KiB"), "{text}");
    }
}
