//! `usher move ...`

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use usher_directory::State;
use usher_directory::rows::{MoveMode, MoveRow};
use usher_mover::{MoveError, Mover, Outcome, Phase, StartMove};
use usher_topology::MoveId;

use crate::cli::{MoveCommand, MoveStart};
use crate::deployment::{Deployment, shard_name, who};
use crate::say::{Say, bytes, table, time};
use crate::users::key;

/// How often a move's row is read while it is watched.
const LOOK: Duration = Duration::from_millis(200);
/// How often its progress is printed where there is no terminal.
const PRINT: Duration = Duration::from_secs(2);

/// `usher move start`
pub(crate) async fn start(deployment: &Deployment, start: MoveStart, say: &Say) -> anyhow::Result<()> {
    let mode = if start.locked { MoveMode::Locked } else { MoveMode::Online };
    let controller = deployment.live_controller().await?;
    if start.detach && controller.is_none() {
        anyhow::bail!(
            "no controller runs, so nobody would do it: start `usher controller`, or leave --detach out"
        );
    }
    let mover = deployment.mover(&who());
    let request = StartMove { key: key(&start.user)?, to: start.to, mode, by: who(), reason: start.reason };
    let id = mover.request(&request).await?;
    if start.detach {
        say.answer(&json!({"id": id}), || {
            format!("move {id} is registered; `usher move status {id}` shows it")
        });
        return Ok(());
    }
    watch(deployment, &mover, id, controller.as_deref(), say).await
}

/// All the others.
pub(crate) async fn run(deployment: &Deployment, command: MoveCommand, say: &Say) -> anyhow::Result<()> {
    let mover = deployment.mover(&who());
    match command {
        MoveCommand::Status { id } => status(deployment, &mover, MoveId(id), say).await,
        MoveCommand::List { all, limit } => list(deployment, &mover, all, limit, say).await,
        MoveCommand::Pause { id } => {
            mover.pause(MoveId(id)).await?;
            say.answer(&json!({"id": id, "want": "pause"}), || {
                format!(
                    "move {id} stops where it is; a user that is locked stays locked until resume or abort"
                )
            });
            Ok(())
        }
        MoveCommand::Resume { id } => {
            mover.resume(MoveId(id)).await?;
            wait_or_drive(deployment, &mover, MoveId(id), say).await
        }
        MoveCommand::Abort { id } => {
            mover.abort(MoveId(id)).await?;
            wait_or_drive(deployment, &mover, MoveId(id), say).await
        }
        MoveCommand::Purge { id } => {
            mover.purge_now(MoveId(id)).await?;
            status(deployment, &mover, MoveId(id), say).await
        }
        MoveCommand::Start(_) | MoveCommand::Undo { .. } => {
            anyhow::bail!("this command is not supported yet")
        }
    }
}

async fn wait_or_drive(deployment: &Deployment, mover: &Mover, id: MoveId, say: &Say) -> anyhow::Result<()> {
    let controller = deployment.live_controller().await?;
    watch(deployment, mover, id, controller.as_deref(), say).await
}

/// Shows a move until it has nothing more to do at once. Without a controller this process runs it.
async fn watch(
    deployment: &Deployment,
    mover: &Mover,
    id: MoveId,
    controller: Option<&str>,
    say: &Say,
) -> anyhow::Result<()> {
    let mut view = View::new(say);
    match controller {
        Some(name) => view.note(&format!("move {id}, run by {name}")),
        None => view.note(&format!("move {id}, run here, as no controller runs")),
    }
    let mut driving = controller.is_none().then(|| Box::pin(drive(mover, id)));
    let mut driven = None;
    loop {
        let row = mover.status(id).await?;
        view.show(&row);
        if settled(&row, controller.is_some()) || driven.is_some() {
            break;
        }
        match driving.as_mut() {
            Some(task) => tokio::select! {
                outcome = task => {
                    driving = None;
                    driven = Some(outcome);
                }
                () = tokio::time::sleep(LOOK) => {}
            },
            None => tokio::time::sleep(LOOK).await,
        }
    }
    // The rows may show the end a moment before the one who runs it returns.
    if let Some(task) = driving {
        driven = Some(task.await);
    }
    view.end();
    if let Some(Err(error)) = driven {
        return Err(anyhow::Error::new(error).context(format!("move {id}")));
    }
    conclude(deployment, mover, id, say).await
}

/// Runs the move, again while a shard is not writable for the moment.
async fn drive(mover: &Mover, id: MoveId) -> Result<Outcome, MoveError> {
    loop {
        match mover.drive(id).await? {
            Outcome::Waiting => tokio::time::sleep(LOOK).await,
            outcome => return Ok(outcome),
        }
    }
}

/// Whether nothing more is to be seen soon.
fn settled(row: &MoveRow, by_controller: bool) -> bool {
    let Ok(phase) = Phase::parse(&row.phase) else { return true };
    let waits = phase == Phase::PurgePending && !row.active;
    let paused = by_controller && row.want.as_str() == "pause" && !phase.is_committed();
    phase.is_over() || waits || paused
}

async fn conclude(deployment: &Deployment, mover: &Mover, id: MoveId, say: &Say) -> anyhow::Result<()> {
    let row = mover.status(id).await?;
    let state = deployment.state().await?;
    let phase = Phase::parse(&row.phase)?;
    say.answer(&view(&row, &state), || sentence(&row, phase, &state));
    if phase == Phase::Aborted && row.want.as_str() != "abort" {
        anyhow::bail!(
            "move {id} was undone: {}",
            row.error.as_deref().unwrap_or("see the log of the controller")
        );
    }
    Ok(())
}

fn sentence(row: &MoveRow, phase: Phase, state: &State) -> String {
    let (from, to) = (shard_name(state, row.src), shard_name(state, row.dst));
    let copied = format!("{} rows, {}", row.rows_done, bytes(row.bytes_done));
    let how = if row.mode == MoveMode::Online { "held" } else { "refused" };
    let locked = row.locked_ms.map(|ms| format!(", writes {how} for {}", time(ms))).unwrap_or_default();
    let MoveRow { id, key, .. } = row;
    match phase {
        Phase::Finished => {
            format!("move {id}: user {key} lives on {to} ({copied}{locked}); {from} is purged")
        }
        Phase::Aborted => format!("move {id}: undone, user {key} lives on {from} as before"),
        Phase::PurgePending | Phase::Purged => {
            let purge = row
                .purge_in_ms
                .and_then(|ms| u64::try_from(ms).ok())
                .map_or_else(String::new, |ms| format!("; what is left on {from} is purged in {}", time(ms)));
            format!("move {id}: user {key} lives on {to} ({copied}{locked}){purge}")
        }
        _ => {
            let error =
                row.error.as_deref().map(|error| format!("; last trouble: {error}")).unwrap_or_default();
            let want =
                if row.want.as_str() == "run" { String::new() } else { format!(", wanted: {}", row.want) };
            let left = row.eta_ms.map(|ms| format!(", about {} left", time(ms))).unwrap_or_default();
            format!(
                "move {id}: user {key} from {from} to {to}: {phase}{want}, {} of {} rows{left}{error}",
                row.rows_done, row.rows_total
            )
        }
    }
}

fn view(row: &MoveRow, state: &State) -> Value {
    json!({"id": row.id, "user": row.key.to_string(), "from": shard_name(state, row.src),
           "to": shard_name(state, row.dst), "mode": row.mode, "phase": row.phase, "want": row.want,
           "rows_total": row.rows_total, "rows_done": row.rows_done, "bytes_done": row.bytes_done,
           "eta_ms": row.eta_ms, "locked_ms": row.locked_ms, "purge_in_ms": row.purge_in_ms,
           "mover": row.mover_id, "error": row.error, "reason": row.reason,
           "finished_at_ms": row.finished_at_ms})
}

async fn status(deployment: &Deployment, mover: &Mover, id: MoveId, say: &Say) -> anyhow::Result<()> {
    let row = mover.status(id).await?;
    let state = deployment.state().await?;
    let phase = Phase::parse(&row.phase)?;
    say.answer(&view(&row, &state), || sentence(&row, phase, &state));
    Ok(())
}

async fn list(
    deployment: &Deployment,
    mover: &Mover,
    all: bool,
    limit: u32,
    say: &Say,
) -> anyhow::Result<()> {
    let rows = mover.list(!all, limit).await?;
    let state = deployment.state().await?;
    say.answer(&json!({"moves": rows.iter().map(|row| view(row, &state)).collect::<Vec<_>>()}), || {
        let line = |row: &MoveRow| {
            vec![
                row.id.to_string(),
                row.key.to_string(),
                shard_name(&state, row.src),
                shard_name(&state, row.dst),
                row.phase.clone(),
                row.want.to_string(),
                format!("{}/{}", row.rows_done, row.rows_total),
                row.error.clone().unwrap_or_default(),
            ]
        };
        table(&["MOVE", "USER", "FROM", "TO", "PHASE", "WANT", "ROWS", "TROUBLE"], rows.iter().map(line))
    });
    Ok(())
}

/// A move's progress: a bar on a terminal, else a line now and then.
struct View<'a> {
    say: &'a Say,
    bar: Option<ProgressBar>,
    last: (String, Option<Instant>),
}

impl<'a> View<'a> {
    fn new(say: &'a Say) -> Self {
        let is_terminal = !say.json && std::io::stderr().is_terminal();
        let bar = is_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let template = "{prefix} [{bar:30}] {human_pos}/{human_len} rows {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self { say, bar, last: (String::new(), None) }
    }

    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => self.say.remark(text),
        }
    }

    fn show(&mut self, row: &MoveRow) {
        let rate = rate(row);
        let left = row.eta_ms.map(|ms| format!(", {} left", time(ms))).unwrap_or_default();
        let message = format!("{}{rate}{left}", bytes(row.bytes_done));
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("{:<13}", row.phase));
            bar.set_length(row.rows_total.max(row.rows_done));
            bar.set_position(row.rows_done);
            bar.set_message(message);
            return;
        }
        let due = self.last.1.is_none_or(|at| at.elapsed() >= PRINT);
        if self.last.0 != row.phase || due {
            self.say
                .remark(&format!("{}: {} of {} rows, {message}", row.phase, row.rows_done, row.rows_total));
            self.last = (row.phase.clone(), Some(Instant::now()));
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Rows a second since the move began.
fn rate(row: &MoveRow) -> String {
    let ms = row.updated_at_ms.saturating_sub(row.created_at_ms);
    match (row.rows_done * 1_000).checked_div(ms) {
        Some(rate) if rate > 0 => format!(", {rate} rows/s"),
        _ => String::new(),
    }
}
