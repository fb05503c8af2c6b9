//! The fuzz targets in `fuzz/`, built with a stable toolchain: coverage by flags of the compiler, as cargo-fuzz has them
//! with `--sanitizer none`.

use std::{
    collections::VecDeque,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt::{self, Wanted},
    shell::{cargo, root, run, say},
    table::aligned,
};

/// What cargo-fuzz gives the compiler without a sanitizer.
const COVERAGE: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];
/// The longest input, in bytes, and what it may cost: a target that takes longer for one input hangs, one that holds
/// more memory after millions of them grows.
const LIMITS: &[&str] =
    &["-max_len=1024", "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=1"];
/// How long a run may take beyond its time until it is ended: inputs of the corpus come first.
const GRACE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which targets; all if none is named.
    targets: Vec<String>,
    /// How long to search, all targets together.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Keep what was found that reaches new code: fuzz/corpus gets the smallest set of inputs that reaches all of it.
    #[arg(long)]
    keep: bool,
    /// Where the search begins: the same number tries the same inputs, as long as the time lasts. Random if not given.
    #[arg(long)]
    seed: Option<u32>,
}

/// One target under way.
struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    since: Instant,
}

/// Builds and runs them; `false` if one has found a fault.
pub(crate) fn run_all(options: &Options) -> Result<bool> {
    apt::install(Wanted::Fuzzing)?;
    let house = House::new()?;
    let mut targets: VecDeque<String> = house.targets(&options.targets)?.into();
    house.build(&targets)?;
    let cores = thread::available_parallelism().map_or(1, usize::from).min(targets.len());
    let each = (options.seconds * cores as u64 / targets.len() as u64).max(1);
    // libFuzzer takes 0 for "any".
    let seed = options.seed.unwrap_or_else(rand::random).max(1);
    say(&format!("{} targets, {each} s each, {cores} at a time, seed {seed}", targets.len()));
    let head = ["target", "seconds", "inputs", "coverage", "memory MB", ""].map(str::to_owned).to_vec();
    let (mut running, mut rows, mut good) = (Vec::new(), vec![head], true);
    while !(targets.is_empty() && running.is_empty()) {
        while running.len() < cores
            && let Some(name) = targets.pop_front()
        {
            running.push(house.start(name, each, seed)?);
        }
        let Some(at) = ended(&mut running, Duration::from_secs(each) + GRACE)? else {
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        let mut one = running.swap_remove(at);
        let passed = one.child.wait()?.success();
        good &= passed;
        rows.push(one.report(passed)?);
        if passed && options.keep {
            house.keep(&one.name)?;
        }
    }
    say(aligned(&rows).trim_end());
    Ok(good)
}

/// The first that is over; one that does not end in time is ended.
fn ended(running: &mut [Running], longest: Duration) -> Result<Option<usize>> {
    for (at, one) in running.iter_mut().enumerate() {
        if one.child.try_wait()?.is_some() {
            return Ok(Some(at));
        }
        if one.since.elapsed() > longest {
            say(&format!("{} does not end", one.name));
            one.child.kill()?;
            return Ok(Some(at));
        }
    }
    Ok(None)
}

impl Running {
    /// A line of the table; what a target says of a fault is shown.
    fn report(&self, passed: bool) -> Result<Vec<String>> {
        let log = String::from_utf8_lossy(&fs::read(&self.log)?).into_owned();
        if !passed {
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.len().saturating_sub(60);
            say(&format!("{}:\n{}", self.name, lines[last..].join("\n")));
        }
        let stat = |name: &str| {
            let line = log.lines().find_map(|line| line.strip_prefix(&format!("stat::{name}:")));
            line.unwrap_or_default().trim().to_owned()
        };
        let reached = log.lines().rev().find_map(|line| line.split_once(" cov: ")?.1.split(' ').next());
        Ok(vec![
            self.name.clone(),
            self.since.elapsed().as_secs().to_string(),
            stat("number_of_executed_units"),
            reached.unwrap_or_default().to_owned(),
            stat("peak_rss_mb"),
            if passed { "ok" } else { "FAILED" }.to_owned(),
        ])
    }
}

/// Where things are.
struct House {
    /// The package.
    fuzz: PathBuf,
    /// What is built, found and logged; not part of the repository.
    target: PathBuf,
    /// The machine, as the compiler calls it. Named, so that build scripts are built without coverage.
    triple: String,
}

impl House {
    fn new() -> Result<Self> {
        let rustc = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
        let text = String::from_utf8_lossy(&rustc.stdout).into_owned();
        let triple =
            text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
        let root = root()?;
        Ok(Self { fuzz: root.join("fuzz"), target: root.join("target/fuzz"), triple: triple.to_owned() })
    }

    /// All targets, or those wanted.
    fn targets(&self, wanted: &[String]) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.fuzz.join("fuzz_targets"))? {
            let path = entry?.path();
            all.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
        all.sort();
        if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
            bail!("no target is called {unknown}; there are {}", all.join(", "));
        }
        Ok(if wanted.is_empty() { all } else { wanted.to_vec() })
    }

    fn build(&self, targets: &VecDeque<String>) -> Result<()> {
        let mut build = cargo(&["build", "--quiet", "--release", "--locked"])?;
        build.arg("--manifest-path").arg(self.fuzz.join("Cargo.toml"));
        build.arg("--target-dir").arg(&self.target).args(["--target", &self.triple]);
        for name in targets {
            build.args(["--bin", name]);
        }
        run(build.env("RUSTFLAGS", COVERAGE.join(" ")))
    }

    fn program(&self, name: &str) -> Command {
        Command::new(self.target.join(&self.triple).join("release").join(name))
    }

    /// A folder of the target's, made if it is not there.
    fn folder(&self, of: &Path, what: &str, name: &str) -> Result<PathBuf> {
        let folder = of.join(what).join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn start(&self, name: String, seconds: u64, seed: u32) -> Result<Running> {
        let artifacts = self.folder(&self.fuzz, "artifacts", &name)?;
        let mut command = self.program(&name);
        command.args(LIMITS).arg(format!("-max_total_time={seconds}")).arg(format!("-seed={seed}"));
        command.arg(format!("-artifact_prefix={}/", artifacts.display()));
        if name.starts_with("sql") {
            command.arg(format!("-dict={}", self.fuzz.join("dictionaries/sql.dict").display()));
        }
        // What is found goes into the first folder; all others are read only.
        command.arg(self.folder(&self.target, "found", &name)?);
        for folder in ["corpus", "regressions"] {
            let folder = self.fuzz.join(folder).join(&name);
            if folder.is_dir() {
                command.arg(folder);
            }
        }
        let log = self.folder(&self.target, "logs", "")?.join(format!("{name}.log"));
        let file = File::create(&log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        Ok(Running { child: child.context("cannot run a fuzz target")?, name, log, since: Instant::now() })
    }

    /// Puts the smallest set of inputs that reaches as much as all that were found into the corpus.
    fn keep(&self, name: &str) -> Result<()> {
        let corpus = self.folder(&self.fuzz, "corpus", name)?;
        let small = self.folder(&self.target, "small", name)?;
        fs::remove_dir_all(&small)?;
        fs::create_dir_all(&small)?;
        let mut merge = self.program(name);
        // Edges alone count, not how often each is passed: few files, and a run soon finds the rest again.
        merge.args(LIMITS).args(["-set_cover_merge=1", "-use_counters=0"]).arg(&small);
        merge.arg(self.folder(&self.target, "found", name)?).arg(&corpus);
        let log = File::create(self.target.join("logs").join(format!("{name}.merge.log")))?;
        run(merge.stdout(log.try_clone()?).stderr(log))?;
        fs::remove_dir_all(&corpus)?;
        fs::create_dir_all(&corpus)?;
        for entry in fs::read_dir(&small)? {
            let entry = entry?;
            fs::copy(entry.path(), corpus.join(entry.file_name()))?;
        }
        Ok(())
    }
}
