//! Positions in a server's history, MariaDB's and MySQL's, compared only with their own kind.
//!
//! MariaDB: `domain-server-sequence`, a position is the last one of each domain and covers all before it
//! (<https://mariadb.com/kb/en/gtid/>). MySQL: `uuid[:tag]:first-last[:…]`, a set of intervals
//! (<https://dev.mysql.com/doc/refman/9.7/en/replication-gtids-concepts.html>).

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

/// A text that is no GTID position of either kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a GTID position: {0:?}")]
pub struct GtidError(String);

/// A set of transactions that a server has executed, or that a reader needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GtidPosition {
    /// MariaDB: for each domain the server and sequence number of the last transaction.
    MariaDb(BTreeMap<u32, (u32, u64)>),
    /// MySQL: for each `uuid` or `uuid:tag` the sorted, disjoint intervals, both ends included.
    MySql(BTreeMap<String, Vec<(u64, u64)>>),
}

impl GtidPosition {
    /// Reads either form; the empty text is an empty MariaDB position, which everything covers.
    ///
    /// # Errors
    /// [`GtidError`] when the text is neither form.
    pub fn parse(text: &str) -> Result<Self, GtidError> {
        let bad = || GtidError(text.chars().take(200).collect());
        if text.contains(':') {
            return parse_mysql(text).map(Self::MySql).ok_or_else(bad);
        }
        let mut domains = BTreeMap::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (domain, last) = parse_mariadb_item(item).ok_or_else(bad)?;
            domains.insert(domain, last);
        }
        Ok(Self::MariaDb(domains))
    }

    /// Whether every transaction of `other` is in this position too. Positions of different families never cover
    /// each other, except that all cover the empty one.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::MariaDb(theirs)) if theirs.is_empty() => true,
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => theirs
                .iter()
                .all(|(domain, (_, sequence))| ours.get(domain).is_some_and(|(_, have)| have >= sequence)),
            (Self::MySql(ours), Self::MySql(theirs)) => theirs
                .iter()
                .all(|(source, wanted)| ours.get(source).is_some_and(|have| intervals_cover(have, wanted))),
            _ => false,
        }
    }

    /// Adds what `other` has. Mixed families keep `self` unchanged.
    pub fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => {
                for (domain, last) in theirs {
                    let entry = ours.entry(*domain).or_insert(*last);
                    if last.1 > entry.1 {
                        *entry = *last;
                    }
                }
            }
            (Self::MySql(ours), Self::MySql(theirs)) => {
                for (source, intervals) in theirs {
                    let all = ours.entry(source.clone()).or_default();
                    all.extend(intervals);
                    normalise(all);
                }
            }
            _ => {}
        }
    }
}

impl fmt::Display for GtidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        match self {
            Self::MariaDb(domains) => {
                for (domain, (server, sequence)) in domains {
                    write!(f, "{separator}{domain}-{server}-{sequence}")?;
                    separator = ",";
                }
            }
            Self::MySql(sources) => {
                for (source, intervals) in sources {
                    write!(f, "{separator}{source}")?;
                    for (first, last) in intervals {
                        if first == last { write!(f, ":{first}")? } else { write!(f, ":{first}-{last}")? }
                    }
                    separator = ",";
                }
            }
        }
        Ok(())
    }
}

fn parse_mariadb_item(item: &str) -> Option<(u32, (u32, u64))> {
    let mut parts = item.splitn(3, '-');
    let domain = parts.next()?.parse().ok()?;
    let server = parts.next()?.parse().ok()?;
    let sequence = parts.next()?.parse().ok()?;
    Some((domain, (server, sequence)))
}

fn parse_mysql(text: &str) -> Option<BTreeMap<String, Vec<(u64, u64)>>> {
    let mut sources: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let mut parts = item.split(':').map(str::trim);
        let uuid = parts.next().filter(|uuid| uuid.len() == 36)?.to_ascii_lowercase();
        let mut source = uuid.clone();
        for part in parts {
            // A tag starts with a letter or underscore; intervals follow it until the next tag.
            if part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                source = format!("{uuid}:{}", part.to_ascii_lowercase());
                continue;
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let interval = (first.parse().ok()?, last.parse().ok()?);
            if interval.0 == 0 || interval.0 > interval.1 {
                return None;
            }
            sources.entry(source.clone()).or_default().push(interval);
        }
    }
    sources.values_mut().for_each(normalise);
    Some(sources)
}

fn normalise(intervals: &mut Vec<(u64, u64)>) {
    intervals.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(intervals.len());
    for &(first, last) in intervals.iter() {
        match merged.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    *intervals = merged;
}

fn intervals_cover(have: &[(u64, u64)], wanted: &[(u64, u64)]) -> bool {
    wanted.iter().all(|want| have.iter().any(|had| had.0 <= want.0 && want.1 <= had.1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> GtidPosition {
        GtidPosition::parse(text).unwrap()
    }

    #[test]
    fn mariadb_positions_cover_what_came_before() {
        assert!(at("1-11-20,2-21-5").covers(&at("1-12-20")));
        assert!(!at("1-11-19").covers(&at("1-12-20")));
        assert!(!at("2-11-99").covers(&at("1-12-20")), "another domain says nothing");
        assert!(at("1-11-1").covers(&at("")));
        assert!(at("").covers(&at("")));
    }

    #[test]
    fn mysql_sets_cover_by_interval_and_tag() {
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        assert!(at(&format!("{uuid}:1-10:12")).covers(&at(&format!("{uuid}:5"))));
        assert!(!at(&format!("{uuid}:1-10:12")).covers(&at(&format!("{uuid}:11"))));
        assert!(!at(&format!("{uuid}:1-10")).covers(&at(&format!("{uuid}:mv:1"))), "a tag is its own source");
        assert!(at(&format!("{uuid}:1-10:mv:1-3")).covers(&at(&format!("{uuid}:mv:2"))));
        assert!(at(&format!("{uuid}:1-10")).covers(&at("")));
    }

    #[test]
    fn display_parses_back() {
        for text in ["1-11-20,2-21-5", "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-10:12", ""] {
            assert_eq!(at(text).to_string(), text);
        }
    }

    #[test]
    fn merged_sets_join_neighbours() {
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let mut all = at(&format!("{uuid}:1-4"));
        all.merge(&at(&format!("{uuid}:5-9")));
        assert_eq!(all, at(&format!("{uuid}:1-9")));
        let mut maria = at("1-1-5");
        maria.merge(&at("1-2-4,3-1-1"));
        assert_eq!(maria, at("1-1-5,3-1-1"));
    }

    #[test]
    fn rubbish_is_refused() {
        for text in ["abc", "1-2", "1-2-x", "nouuid:1", "3e11fa47-71ca-11e1-9e33-c80aa9429562:9-1"] {
            assert!(GtidPosition::parse(text).is_err(), "{text}");
        }
    }
}
