//! The protocol run against a small world in memory: every crash point, every abort point, two movers.

#![allow(clippy::unwrap_used)]
use super::*;

const SRC: ShardId = ShardId(1);
const DST: ShardId = ShardId(2);

/// The rows of one move. `apply` does to them what the engine's statements do, each step as one or more transactions.
#[derive(Debug, Clone, Copy)]
struct World {
    facts: Facts,
    /// A cutover is run in one go where it may be.
    at_once: bool,
}

impl World {
    fn new() -> Self {
        Self {
            at_once: false,
            facts: Facts {
                phase: Phase::Registered,
                wish: Wish::Run,
                online: false,
                overdue: false,
                src: SRC,
                dst: DST,
                directory: DirectoryFact {
                    shard: SRC,
                    state: UserState::Active,
                    generation: Generation(7),
                    own_gen: Generation(3),
                    ours: false,
                },
                epochs_at_drain: None,
                epochs_now: (Epoch(1), Epoch(1)),
                shards_writable: true,
                source: Some(OwnFact { state: OwnState::Owned, own_gen: Generation(3), ours: false }),
                target: None,
                progress: None,
                held: true,
                purge_due: true,
            },
        }
    }

    fn online() -> Self {
        let mut world = Self::new();
        world.facts.online = true;
        world
    }

    fn online_at_once() -> Self {
        Self { at_once: true, ..Self::online() }
    }

    /// What one cutover in one go does, part by part.
    fn cutover() -> Vec<fn(&mut Self, Step)> {
        let mut parts = Self::parts_of(Step::Drain { from: Generation(0) });
        parts.extend(Self::parts_of(Step::Close));
        parts.push(|w, _| w.one(Step::Commit));
        parts.push(|w, _| w.one(Step::OwnTarget));
        parts
    }

    fn parts(&self, step: Step) -> Vec<fn(&mut Self, Step)> {
        let incoming = self.facts.target.is_some_and(|own| own.state == OwnState::Incoming);
        let ready = incoming && self.facts.progress == Some(ProgressFact::Open { mine: true });
        let known = self.facts.epochs_at_drain == Some(self.facts.epochs_now);
        match step {
            Step::Drain { .. } if self.at_once && ready && known => Self::cutover(),
            step => Self::parts_of(step),
        }
    }

    fn cas(&mut self, state: UserState, phase: Phase) {
        self.facts.directory.state = state;
        self.facts.directory.ours = true;
        self.facts.directory.generation.0 += 1;
        self.facts.phase = phase;
    }

    fn own(state: OwnState, own_gen: u64) -> Option<OwnFact> {
        Some(OwnFact { state, own_gen: Generation(own_gen), ours: true })
    }

    /// The parts of a step, in order; a crash may come after any.
    fn parts_of(step: Step) -> Vec<fn(&mut Self, Step)> {
        match step {
            Step::Drain { .. } => vec![|w, step| {
                let Step::Drain { from } = step else { unreachable!() };
                w.facts.source = Self::own(OwnState::Locked, from.0 + 1);
                w.facts.epochs_at_drain = Some(w.facts.epochs_now);
            }],
            Step::Close => vec![
                |w, _| {
                    let own_gen = w.facts.source.unwrap().own_gen.0 + 1;
                    w.facts.progress = Some(ProgressFact::Closed);
                    w.facts.target = Self::own(OwnState::Ready, own_gen);
                },
                |w, _| w.facts.phase = Phase::Closed,
            ],
            Step::CancelTarget => vec![|w, _| {
                w.facts.progress = Some(ProgressFact::Aborted);
                if w.facts.target.is_some() {
                    w.facts.target = Self::own(OwnState::Gone, 9);
                }
            }],
            Step::Purge => vec![|_, _| {}, |w, _| {
                w.facts.source = None;
                w.facts.phase = Phase::Purged;
            }],
            _ => vec![Self::one],
        }
    }

    fn one(&mut self, step: Step) {
        match step {
            Step::Fence => self.cas(UserState::Moving, Phase::Registered),
            Step::FenceBarrier => self.facts.phase = Phase::Fenced,
            Step::Lock => self.cas(UserState::Locked, self.facts.phase),
            Step::Follow => self.facts.phase = Phase::CaughtUp,
            Step::Tail => self.facts.phase = Phase::Copied,
            Step::Unlock { own_gen } => {
                self.facts.directory.own_gen = own_gen;
                self.facts.overdue = false;
                self.cas(UserState::Moving, Phase::Fenced);
            }
            Step::LockBarrier => {
                self.facts.phase = Phase::Locked;
                self.facts.epochs_at_drain = Some(self.facts.epochs_now);
            }
            Step::DrainStandby => self.facts.phase = Phase::Drained,
            Step::Reconfirm => {
                self.facts.phase = Phase::Locked;
                self.facts.epochs_at_drain = Some(self.facts.epochs_now);
            }
            Step::Prepare => {
                if self.facts.phase == Phase::CaughtUp {
                    self.facts.phase = Phase::Fenced;
                }
                self.facts.progress = Some(ProgressFact::Open { mine: true });
                self.facts.target = Self::own(OwnState::Incoming, 0);
            }
            Step::Copy | Step::RecordCopied => self.facts.phase = Phase::Copied,
            Step::Verify => self.facts.phase = Phase::Verified,
            Step::Commit => {
                self.facts.directory.shard = DST;
                self.facts.directory.own_gen = self.facts.target.unwrap().own_gen;
                self.cas(UserState::Settling, Phase::Committed);
            }
            Step::OwnTarget => self.facts.target.as_mut().unwrap().state = OwnState::Owned,
            Step::ReleaseSource => self.facts.source.as_mut().unwrap().state = OwnState::Gone,
            Step::Announce => self.facts.phase = Phase::Owned,
            Step::Settle => self.cas(UserState::Active, Phase::PurgePending),
            Step::Release => self.facts.held = false,
            Step::Finish => self.facts.phase = Phase::Finished,
            Step::AbortDirectory { own_gen } => {
                self.facts.directory.own_gen = own_gen;
                self.cas(UserState::Active, Phase::Aborting);
            }
            Step::Reown => {
                let own_gen = self.facts.directory.own_gen.0;
                self.facts.source = Self::own(OwnState::Owned, own_gen);
            }
            Step::PurgeTarget => self.facts.target = None,
            Step::FinishAbort => self.facts.phase = Phase::Aborted,
            other => panic!("{other:?} changes nothing"),
        }
    }

    fn owners(&self) -> usize {
        [self.facts.source, self.facts.target]
            .iter()
            .flatten()
            .filter(|own| own.state == OwnState::Owned)
            .count()
    }

    /// Runs to the end, checking the invariants after each part. `stop_after` parts a crash comes: the next mover
    /// has a new epoch.
    fn run(&mut self, stop_after: usize) -> usize {
        let mut done = 0;
        for _ in 0..60 {
            let step = decide(&self.facts);
            if step == Step::Over {
                return done;
            }
            assert!(!matches!(step, Step::Stop(_)), "{step:?} at {self:?}");
            for part in self.parts(step) {
                part(self, step);
                self.check();
                done += 1;
                if done == stop_after {
                    if let Some(ProgressFact::Open { mine }) = &mut self.facts.progress {
                        *mine = false;
                    }
                    return done;
                }
            }
        }
        panic!("it does not end: {self:?}");
    }

    /// Runs without a crash until the stage is reached.
    fn until(&mut self, phase: Phase) {
        while self.facts.phase != phase {
            let step = decide(&self.facts);
            assert!(!matches!(step, Step::Stop(_) | Step::Over | Step::Wait(_)), "{step:?} at {self:?}");
            for part in self.parts(step) {
                part(self, step);
            }
        }
    }

    fn check(&self) {
        assert!(self.owners() <= 1, "two owners: {self:?}");
        let names = self.facts.directory.shard;
        let owner_is_named = |own: Option<OwnFact>, shard| {
            own.is_none_or(|own| own.state != OwnState::Owned || names == shard)
        };
        assert!(owner_is_named(self.facts.source, SRC) && owner_is_named(self.facts.target, DST), "{self:?}");
    }

    fn assert_whole(&self) {
        let (own, other) = if self.facts.directory.shard == SRC {
            (self.facts.source, self.facts.target)
        } else {
            (self.facts.target, self.facts.source)
        };
        let own = own.unwrap();
        assert_eq!((own.state, own.own_gen), (OwnState::Owned, self.facts.directory.own_gen), "{self:?}");
        assert!(other.is_none(), "{self:?}");
        assert_eq!(self.facts.directory.state, UserState::Active);
    }
}

const MODES: [fn() -> World; 3] = [World::new, World::online, World::online_at_once];

#[test]
fn an_undisturbed_move_ends_on_the_target() {
    for new in MODES {
        let mut world = new();
        world.run(usize::MAX);
        assert_eq!(world.facts.phase, Phase::Finished);
        assert_eq!(world.facts.directory.shard, DST);
        world.assert_whole();
    }
}

#[test]
fn an_online_cutover_that_takes_too_long_lets_the_user_go_and_is_tried_again() {
    too_late_at_any_point(World::online);
    too_late_at_any_point(World::online_at_once);
}

fn too_late_at_any_point(new: fn() -> World) {
    let parts = new().run(usize::MAX);
    for late in 1..=parts {
        for crash in 1..8 {
            let mut world = new();
            world.run(late);
            let locked = world.facts.directory.state == UserState::Locked;
            let open = matches!(world.facts.progress, Some(ProgressFact::Open { .. }));
            world.facts.overdue = true;
            // The crash has cost the mover its epoch: it takes the progress row over first.
            assert!(!locked || (decide(&world.facts) == Step::Prepare) == open, "{world:?}");
            if let Some(ProgressFact::Open { mine }) = &mut world.facts.progress {
                *mine = true;
            }
            let unlocks = locked && open;
            assert_eq!(matches!(decide(&world.facts), Step::Unlock { .. }), unlocks, "{world:?}");
            // Whether it is late is known to one mover alone.
            world.run(crash);
            world.facts.overdue = false;
            world.run(usize::MAX);
            assert_eq!((world.facts.phase, world.facts.directory.shard), (Phase::Finished, DST));
            world.assert_whole();
        }
    }
}

#[test]
fn a_user_is_locked_only_by_a_mover_that_has_caught_up_itself() {
    let mut world = World::online();
    world.until(Phase::CaughtUp);
    assert_eq!(decide(&world.facts), Step::Lock);
    world.facts.progress = Some(ProgressFact::Open { mine: false });
    assert_eq!(decide(&world.facts), Step::Prepare);
    world.one(Step::Prepare);
    assert_eq!(decide(&world.facts), Step::Follow);
}

#[test]
fn every_crash_point_resumes_to_the_end() {
    for new in MODES {
        every_crash_point_resumes(new);
    }
}

fn every_crash_point_resumes(new: fn() -> World) {
    let parts = new().run(usize::MAX);
    for crash in 1..=parts {
        let mut world = new();
        world.run(crash);
        world.run(usize::MAX);
        assert_eq!(world.facts.phase, Phase::Finished, "crash after part {crash}");
        world.assert_whole();
    }
}

#[test]
fn every_point_can_be_aborted_and_an_abort_may_crash_too() {
    for new in MODES {
        every_point_can_be_aborted(new, false);
    }
    // Also a cutover that was broken off before.
    every_point_can_be_aborted(World::online, true);
    every_point_can_be_aborted(World::online_at_once, true);
}

fn every_point_can_be_aborted(new: fn() -> World, overdue: bool) {
    let parts = new().run(usize::MAX);
    for point in 0..=parts {
        for crash in 1..10 {
            let mut world = new();
            if point > 0 {
                world.run(point);
            }
            if overdue {
                world.facts.overdue = true;
                world.run(1);
                world.facts.overdue = false;
            }
            let committed = world.facts.phase.is_committed();
            world.facts.wish = Wish::Abort;
            world.run(crash);
            world.run(usize::MAX);
            let (phase, shard) = if committed { (Phase::Finished, DST) } else { (Phase::Aborted, SRC) };
            assert_eq!(
                (world.facts.phase, world.facts.directory.shard),
                (phase, shard),
                "at {point}, {crash}"
            );
            world.assert_whole();
        }
    }
}

#[test]
fn a_flip_after_the_drain_goes_through_the_stages_again() {
    for new in MODES {
        a_flip_at_any_point(new);
    }
}

fn a_flip_at_any_point(new: fn() -> World) {
    let parts = new().run(usize::MAX);
    for point in 1..=parts {
        let mut world = new();
        world.run(point);
        world.facts.epochs_now.0.0 += 1;
        world.facts.epochs_now.1.0 += 1;
        let before = world.facts.phase;
        if before >= Phase::Drained && !before.is_committed() {
            assert_eq!(decide(&world.facts), Step::Reconfirm);
        }
        world.run(usize::MAX);
        world.assert_whole();
    }
}

#[test]
fn a_shard_that_is_switching_is_waited_for_but_not_by_an_abort() {
    let mut world = World::new();
    world.run(5);
    world.facts.shards_writable = false;
    assert_eq!(decide(&world.facts), Step::Wait(Waiting::Shards));
    world.facts.wish = Wish::Abort;
    assert!(matches!(decide(&world.facts), Step::AbortDirectory { .. }));
}

#[test]
fn a_pause_holds_before_the_commit_only() {
    let mut world = World::new();
    world.facts.wish = Wish::Pause;
    assert_eq!(decide(&world.facts), Step::Wait(Waiting::Paused));
    world.facts.wish = Wish::Run;
    world.until(Phase::Committed);
    world.facts.wish = Wish::Pause;
    assert_eq!(decide(&world.facts), Step::OwnTarget);
}

#[test]
fn a_purge_waits_for_its_time() {
    let mut world = World::new();
    world.until(Phase::PurgePending);
    world.facts.purge_due = false;
    assert_eq!(decide(&world.facts), Step::Release);
    world.run(1);
    assert_eq!(decide(&world.facts), Step::Wait(Waiting::PurgeTime));
}

#[test]
fn a_mover_without_lease_that_drains_during_the_abort_is_undone() {
    let mut world = World::new();
    world.until(Phase::Locked);
    world.facts.wish = Wish::Abort;
    world.run(1);
    assert_eq!(world.facts.phase, Phase::Aborting);
    // The other mover's statement is conditional on generation 3 and so still succeeds here, before the re-own.
    world.facts.source = World::own(OwnState::Locked, 4);
    world.run(usize::MAX);
    world.assert_whole();
    assert!(world.facts.source.unwrap().own_gen > Generation(4), "its next try finds another generation");
}

#[test]
fn contradicting_rows_stop_the_move() {
    let mut lost = World::new();
    lost.until(Phase::Closed);
    lost.facts.target.as_mut().unwrap().state = OwnState::Owned;
    lost.facts.wish = Wish::Abort;
    assert_eq!(decide(&lost.facts), Step::Stop(Contradiction::LostCommit));

    let mut stolen = World::new();
    stolen.facts.directory.shard = ShardId(9);
    assert_eq!(decide(&stolen.facts), Step::Stop(Contradiction::Directory));

    let mut back = World::new();
    back.until(Phase::PurgePending);
    back.facts.directory.shard = SRC;
    assert_eq!(
        decide(&back.facts),
        Step::Stop(Contradiction::Directory),
        "no purge of a shard that is named"
    );
}
