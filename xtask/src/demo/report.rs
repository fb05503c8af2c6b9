//! What the demo has shown, as one small table.

use serde_json::Value;

use crate::table::aligned;

/// All that was measured.
pub(crate) struct Report {
    /// The same read with and without usher.
    pub(crate) latencies: Value,
    /// Each move.
    pub(crate) moves: Vec<Value>,
    /// The flip.
    pub(crate) flip: Value,
    /// The load's own report.
    pub(crate) run: Value,
    /// The proof.
    pub(crate) proof: Value,
}

impl Report {
    /// Whether nothing went wrong and everything acknowledged is there once.
    pub(crate) fn is_good(&self) -> bool {
        number(&self.run["errors"]) == 0 && self.proof["problem_count"].as_u64() == Some(0)
    }

    /// The table, and what is wrong if something is.
    pub(crate) fn to_text(&self) -> String {
        let rows: Vec<Vec<String>> =
            self.rows().into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        let mut text = aligned(&rows);
        for sample in self.run["error_samples"].as_array().into_iter().flatten() {
            text += &format!("error, {} times: {}\n", sample["count"], sample["message"]);
        }
        for problem in self.proof["problems"].as_array().into_iter().flatten() {
            text += &format!("problem: {problem}\n");
        }
        text += if self.is_good() {
            "proven: every acknowledged write is there exactly once, and nobody saw an error\n"
        } else {
            "NOT PROVEN: see above\n"
        };
        text
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let (run, proof) = (&self.run, &self.proof);
        let moved: u64 = self.moves.iter().map(|done| number(&done["rows_done"])).sum();
        vec![
            ("statements", format!("{} in {:.0} s", run["statements"], float(&run["seconds"]))),
            ("answers checked", format!("{}, {} wrong", run["checks"], run["wrong_answers"])),
            ("errors", run["errors"].to_string()),
            ("lock messages (users being moved)", run["locked"].to_string()),
            ("longest pause of a statement", format!("{:.0} ms", float(&run["longest_pause_ms"]))),
            ("users moved under load", format!("{} with {moved} rows", self.moves.len())),
            ("writes held by a move, online", self.pauses("online")),
            ("writes refused by a move, locked", self.pauses("locked")),
            ("writes held by the flip", format!("{} ms", number(&self.flip["hold_ms"]))),
            ("one read, without usher", self.latency("without")),
            ("one read, with usher", self.latency("with")),
            ("write operations acknowledged", run["acknowledged"].to_string()),
            ("acknowledged rows there exactly once", proof["present"].to_string()),
            ("values as last acknowledged", proof["values"].to_string()),
            ("problems found", proof["problem_count"].to_string()),
        ]
    }

    /// How long users' writes were kept waiting by the moves of one mode.
    fn pauses(&self, mode: &str) -> String {
        let of_mode = self.moves.iter().filter(|done| done["mode"] == mode);
        let mut times: Vec<u64> = of_mode.map(|done| number(&done["locked_ms"])).collect();
        times.sort_unstable();
        let at =
            |share: usize| times.get((times.len() * share).div_ceil(100).max(1) - 1).copied().unwrap_or(0);
        format!("{} moves: p50 {} ms, p99 {} ms, max {} ms", times.len(), at(50), at(99), at(100))
    }

    fn latency(&self, target: &str) -> String {
        let outcomes = self.latencies.as_array();
        let found = outcomes.and_then(|all| all.iter().find(|outcome| outcome["target"] == target));
        found.map_or_else(String::new, |outcome| {
            format!("p50 {:.0} us, p99 {:.0} us", float(&outcome["p50_us"]), float(&outcome["p99_us"]))
        })
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_good_only_without_errors_and_with_a_proof() {
        let report = |errors: u64, proof: Value| Report {
            latencies: json!([{"target": "with", "p50_us": 80.2, "p99_us": 120.0}]),
            moves: vec![
                json!({"rows_done": 20, "mode": "online", "locked_ms": 15}),
                json!({"rows_done": 2, "mode": "online", "locked_ms": 3}),
            ],
            flip: json!({"hold_ms": 50}),
            run: json!({"errors": errors}),
            proof,
        };
        let good = report(0, json!({"problem_count": 0}));
        assert!(good.is_good() && good.to_text().contains("2 with 22 rows"), "{}", good.to_text());
        assert!(good.to_text().contains("2 moves: p50 3 ms, p99 15 ms, max 15 ms"), "{}", good.to_text());
        assert!(!report(1, json!({"problem_count": 0})).is_good());
        assert!(!report(0, json!({})).is_good());
    }
}
