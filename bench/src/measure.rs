//! Rounds of load against each target in turn, and their medians.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    client::{Client, Packet, execute, text},
    job::{Case, Idle, IdleResult, Kind, Measure, Outcome, Target},
    process,
};

/// Statements of each connection before the clock starts, to fill caches and pools.
const WARM_UP: usize = 20;

/// One round of one case against one target.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    bytes_per_second: f64,
    pub(crate) cpu_us: Option<f64>,
}

/// What one connection has seen.
#[derive(Debug, Default)]
struct Seen {
    nanos: Vec<u32>,
    bytes: u64,
}

/// Measures every case against every target; targets take turns.
pub(crate) fn measure(job: &Measure) -> Result<Vec<Outcome>> {
    ensure!(job.rounds > 0 && job.seconds > 0.0, "no rounds");
    let length = Duration::from_secs_f64(job.seconds);
    let mut outcomes = Vec::new();
    for case in &job.cases {
        ensure!(!case.keys.is_empty() && case.connections > 0, "{}: no keys or no connections", case.name);
        let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); job.targets.len()];
        for _ in 0..job.rounds {
            for (target, rounds) in job.targets.iter().zip(&mut rounds) {
                let round = round(case, target, length);
                rounds.push(round.with_context(|| format!("{} against {}", case.name, target.name))?);
            }
        }
        for (target, rounds) in job.targets.iter().zip(&rounds) {
            outcomes.push(outcome(case, target, rounds));
        }
    }
    Ok(outcomes)
}

/// Measures one case against one target once.
pub(crate) fn round(case: &Case, target: &Target, length: Duration) -> Result<Round> {
    let connected: Result<Vec<(Client, Vec<Packet>)>> =
        (0..case.connections).map(|number| connect(case, target, number)).collect();
    let connected = connected?;
    let ready = Barrier::new(connected.len() + 1);
    let (seen, spent, cpu) = thread::scope(|scope| {
        let ready = &ready;
        let threads: Vec<_> = connected
            .into_iter()
            .map(|(client, packets)| scope.spawn(move || one(client, &packets, ready, length)))
            .collect();
        ready.wait();
        let (began, before) = (Instant::now(), target.pid.map(process::cpu));
        let seen: Result<Vec<Seen>> = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a connection's thread died"))?)
            .collect();
        (seen, began.elapsed(), before.zip(target.pid.map(process::cpu)))
    });
    let seen = seen?;
    let mut nanos: Vec<u32> = seen.iter().flat_map(|seen| seen.nanos.iter().copied()).collect();
    nanos.sort_unstable();
    let statements = nanos.len() as f64;
    let bytes: u64 = seen.iter().map(|seen| seen.bytes).sum();
    let cpu_us = match cpu {
        Some((before, after)) => Some((after?.saturating_sub(before?)).as_secs_f64() * 1e6 / statements),
        None => None,
    };
    Ok(Round {
        per_second: statements / spent.as_secs_f64(),
        p50_us: quantile(&nanos, 50),
        p99_us: quantile(&nanos, 99),
        bytes_per_second: bytes as f64 / spent.as_secs_f64(),
        cpu_us,
    })
}

/// A connection with its packets: each begins at another key.
fn connect(case: &Case, target: &Target, number: usize) -> Result<(Client, Vec<Packet>)> {
    let mut client = Client::connect(target)?;
    let prepared = match case.kind {
        Kind::Prepared => Some(client.prepare(&case.sql)?),
        Kind::Text => None,
    };
    let first = number * case.keys.len() / case.connections;
    let keys = case.keys.iter().cycle().skip(first).take(case.keys.len());
    let packets: Result<Vec<Packet>> = keys
        .map(|key| match prepared {
            Some(statement) => execute(statement, *key),
            None => text(&case.sql.replace("{key}", &key.to_string())),
        })
        .collect();
    Ok((client, packets?))
}

fn one(mut client: Client, packets: &[Packet], ready: &Barrier, length: Duration) -> Result<Seen> {
    // Long answers need no warming up, and short ones are asked for often.
    let warm = if length.is_zero() { Ok(()) } else { warm_up(&mut client, packets) };
    // Whoever fails must still let the others begin.
    ready.wait();
    warm?;
    let mut seen = Seen::default();
    let (received, began) = (client.received, Instant::now());
    for packet in packets.iter().cycle() {
        let sent = Instant::now();
        if sent.duration_since(began) >= length {
            break;
        }
        client.run(packet)?;
        seen.nanos.push(u32::try_from(sent.elapsed().as_nanos()).unwrap_or(u32::MAX));
    }
    seen.bytes = client.received - received;
    Ok(seen)
}

fn warm_up(client: &mut Client, packets: &[Packet]) -> Result<()> {
    let began = Instant::now();
    for packet in packets.iter().cycle().take(WARM_UP) {
        client.run(packet)?;
        if began.elapsed() > Duration::from_millis(300) {
            break;
        }
    }
    Ok(())
}

/// A quantile of what is sorted, in microseconds.
fn quantile(sorted: &[u32], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |nanos| f64::from(*nanos) / 1e3)
}

fn outcome(case: &Case, target: &Target, rounds: &[Round]) -> Outcome {
    let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of).collect());
    let cpu: Vec<f64> = rounds.iter().filter_map(|round| round.cpu_us).collect();
    Outcome {
        case: case.name.clone(),
        target: target.name.clone(),
        per_second: middle(|round| round.per_second),
        p50_us: middle(|round| round.p50_us),
        p99_us: middle(|round| round.p99_us),
        bytes_per_second: middle(|round| round.bytes_per_second),
        cpu_us: (!cpu.is_empty()).then(|| median(cpu)),
    }
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Opens connections that run one statement each and then idle, and looks how much the process has grown.
pub(crate) fn idle(job: &Idle) -> Result<IdleResult> {
    let (_, bytes_each) = open_idle(job)?;
    Ok(IdleResult { connections: job.connections, bytes_each })
}

/// The connections, and how much each has made the process grow.
pub(crate) fn open_idle(job: &Idle) -> Result<(Vec<Client>, f64)> {
    let pid = job.target.pid.context("no process to look at")?;
    // The first ones pay for what all share.
    let mut clients = connections(job, job.connections.min(50))?;
    let before = process::memory(pid)?;
    clients.extend(connections(job, job.connections)?);
    let after = process::memory(pid)?;
    let grown = after.saturating_sub(before) as f64;
    Ok((clients, grown / job.connections.max(1) as f64))
}

fn connections(job: &Idle, count: usize) -> Result<Vec<Client>> {
    let one = |_| {
        let mut client = Client::connect(&job.target)?;
        client.query(&job.sql)?;
        client.rest();
        Ok(client)
    };
    (0..count).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_medians() {
        let sorted: Vec<u32> = (1..=100).map(|micros| micros * 1000).collect();
        assert_eq!((quantile(&sorted, 50), quantile(&sorted, 99)), (51.0, 100.0));
        assert_eq!(quantile(&[], 99), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
