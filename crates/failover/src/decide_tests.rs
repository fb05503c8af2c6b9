//! The core against a model of a pair: a run stopped before or after any effect, taken over by another that may be
//! stopped too, while the first wakes up and tries to go on.
#![allow(clippy::unwrap_used)]

use usher_topology::{Epoch, ServerId, ShardState};

use crate::{Plan, Row, Run, Step, decide};

const A: ServerId = ServerId(1);
const B: ServerId = ServerId(2);

/// A pair and its row; the sessions of earlier holders are gone once somebody else holds it.
#[derive(Debug, Clone)]
struct World {
    row: Row,
    writable: [bool; 2],
    written: [u64; 2],
    holder: u32,
}

impl World {
    fn new() -> Self {
        let row = Row { state: ShardState::Rw, epoch: Epoch(5), writer: A, flip_to: None, flip_by: None };
        Self { row, writable: [true, false], written: [7, 7], holder: 0 }
    }

    /// The replication between the two, and clients that write wherever they can by the row.
    fn breathe(&mut self) {
        assert!(!(self.writable[0] && self.writable[1]), "two writable members: {self:?}");
        let writer = usize::from(self.row.writer == B);
        if self.row.state == ShardState::Rw && self.writable[writer] {
            self.written[writer] += 1;
        }
    }

    fn replicate(&mut self) {
        let most = self.written[0].max(self.written[1]);
        self.written = [most, most];
    }

    fn check_end(&self) {
        assert_eq!(self.row.state, ShardState::Rw, "{self:?}");
        let writer = usize::from(self.row.writer == B);
        assert!(self.writable[writer] && !self.writable[1 - writer], "{self:?}");
        assert!(self.written[writer] >= self.written[1 - writer], "a write is lost: {self:?}");
        assert_eq!((self.row.flip_to, &self.row.flip_by), (None, &None));
    }
}

struct Runner {
    me: String,
    number: u32,
    plan: Plan,
    run: Run,
}

impl Runner {
    fn starting(world: &mut World, number: u32) -> Self {
        world.holder = number;
        Self {
            me: format!("r{number}"),
            number,
            plan: Plan { old: A, new: B, epoch: world.row.epoch },
            run: Run::default(),
        }
    }

    /// As `resume` does: ends the former holder's sessions, then fences its compare-and-sets.
    fn taking_over(world: &mut World, number: u32) -> Option<Self> {
        world.holder = number;
        if world.row.state != ShardState::Switching {
            return None;
        }
        let me = format!("r{number}");
        let committed = Some(world.row.writer) == world.row.flip_to;
        let mut run = Run { announced: true, ..Run::default() };
        world.row.flip_by = Some(me.clone());
        let plan = if committed {
            Plan {
                old: if world.row.writer == B { A } else { B },
                new: world.row.writer,
                epoch: Epoch(world.row.epoch.0 - 1),
            }
        } else {
            run.failure = Some("taken over".to_owned());
            world.row.epoch = Epoch(world.row.epoch.0 + 1);
            Plan { old: world.row.writer, new: world.row.flip_to.unwrap(), epoch: world.row.epoch }
        };
        Some(Self { me, number, plan, run })
    }

    fn holds(&self, world: &World) -> bool {
        world.holder == self.number
    }

    /// One step by a row read at some time before. `false` at the end.
    fn step(&mut self, seen: &Row, world: &mut World) -> bool {
        let (old, new) = if self.plan.old == A { (0, 1) } else { (1, 0) };
        let step = decide(&self.me, &self.plan, seen, &self.run);
        let on_servers = matches!(
            step,
            Step::Close
                | Step::EndSessions
                | Step::Position
                | Step::CatchUp
                | Step::Open
                | Step::Reopen
                | Step::Tidy
        );
        if on_servers && !self.holds(world) {
            return false;
        }
        // The conditions of the real statements, by the row as it is, not as it was seen.
        let row = world.row.clone();
        let announce = row.state == ShardState::Rw && row.epoch == self.plan.epoch;
        let commit = row.state == ShardState::Switching
            && row.epoch == self.plan.epoch
            && row.flip_to == Some(self.plan.new)
            && row.flip_by.as_deref() == Some(&self.me);
        let ended = u64::from(step == Step::Release);
        let end = row.state == ShardState::Switching && row.epoch.0 == self.plan.epoch.0 + ended;
        match step {
            Step::Announce if announce => {
                world.row.state = ShardState::Switching;
                world.row.flip_to = Some(self.plan.new);
                world.row.flip_by = Some(self.me.clone());
                self.run.announced = true;
            }
            Step::Drain => self.run.drained = true,
            Step::Close => {
                world.writable[old] = false;
                self.run.closed = true;
            }
            Step::EndSessions => self.run.ended = true,
            Step::Position => self.run.position = Some(world.written[old].to_string()),
            Step::CatchUp => {
                world.replicate();
                self.run.caught_up =
                    world.written[new] >= self.run.position.as_ref().unwrap().parse().unwrap();
            }
            Step::Commit if commit => {
                world.row.writer = self.plan.new;
                world.row.epoch = Epoch(self.plan.epoch.0 + 1);
            }
            Step::Open => {
                world.writable[new] = true;
                self.run.opened = true;
            }
            Step::Reopen => {
                world.writable[old] = true;
                self.run.reopened = true;
            }
            Step::Release | Step::Revert if end => {
                world.row.state = ShardState::Rw;
                world.row.flip_to = None;
                world.row.flip_by = None;
            }
            Step::Tidy => self.run.tidied = true,
            Step::Announce | Step::Commit | Step::Release | Step::Revert => return false,
            Step::Done | Step::Undone | Step::Lost => return false,
        }
        world.breathe();
        true
    }

    fn go(&mut self, world: &mut World, steps: usize) {
        for _ in 0..steps {
            let seen = world.row.clone();
            if !self.step(&seen, world) {
                return;
            }
        }
    }
}

const ENOUGH: usize = 30;

#[test]
fn an_undisturbed_flip_ends_with_the_new_writer() {
    let mut world = World::new();
    Runner::starting(&mut world, 1).go(&mut world, ENOUGH);
    world.check_end();
    assert_eq!((world.row.writer, world.row.epoch), (B, Epoch(6)));
}

#[test]
fn a_failure_before_the_commit_is_undone() {
    for stop in 1..=6 {
        let mut world = World::new();
        let mut runner = Runner::starting(&mut world, 1);
        runner.go(&mut world, stop);
        runner.run.failure = Some("a reason".to_owned());
        runner.go(&mut world, ENOUGH);
        world.check_end();
        assert_eq!((world.row.writer, world.row.epoch), (A, Epoch(5)));
    }
}

#[test]
fn a_crash_anywhere_twice_is_resumed_and_sleepers_do_no_harm() {
    for first_stop in 0..12 {
        for second_stop in 0..8 {
            for sleeper_read_late in [false, true] {
                let mut world = World::new();
                let mut sleeper = Runner::starting(&mut world, 1);
                sleeper.go(&mut world, first_stop);
                let seen = world.row.clone();
                if let Some(mut second) = Runner::taking_over(&mut world, 2) {
                    second.go(&mut world, second_stop);
                }
                let seen = if sleeper_read_late { world.row.clone() } else { seen };
                sleeper.step(&seen, &mut world);
                if let Some(mut third) = Runner::taking_over(&mut world, 3) {
                    third.go(&mut world, ENOUGH);
                }
                sleeper.go(&mut world, ENOUGH);
                world.check_end();
            }
        }
    }
}

/// The commit is sent, its answer does not come, and the statement is executed after so many more steps of the run.
fn commit_executed_late(raises: bool, delay: usize) -> World {
    let mut world = World::new();
    let mut runner = Runner::starting(&mut world, 1);
    while decide(&runner.me, &runner.plan, &world.row, &runner.run) != Step::Commit {
        runner.go(&mut world, 1);
    }
    let sent = runner.plan.epoch;
    // As the engine does on an error of unknown outcome.
    if raises {
        world.row.epoch = Epoch(world.row.epoch.0 + 1);
        runner.plan.epoch = world.row.epoch;
    }
    runner.run.failure = Some("no answer".to_owned());
    runner.go(&mut world, delay);
    if world.row.state == ShardState::Switching && world.row.epoch == sent {
        world.row.writer = B;
        world.row.epoch = Epoch(sent.0 + 1);
    }
    runner.go(&mut world, ENOUGH);
    if let Some(mut next) = Runner::taking_over(&mut world, 2) {
        next.go(&mut world, ENOUGH);
    }
    world
}

#[test]
fn a_commit_of_unknown_outcome_does_no_harm() {
    for delay in 0..4 {
        let world = commit_executed_late(true, delay);
        world.check_end();
        assert_eq!(world.row.writer, A);
    }
}

#[test]
fn without_the_raised_epoch_it_would() {
    let harm = (0..4).any(|delay| std::panic::catch_unwind(|| commit_executed_late(false, delay)).is_err());
    assert!(harm, "the model does not see what the raise is for");
}
