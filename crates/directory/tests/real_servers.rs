//! The directory against real servers.
#![allow(clippy::unwrap_used, missing_docs, clippy::await_holding_lock)]

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use support::{Deployment, Memcache, PROXY_ACCOUNT, limits, until};
use usher_directory::barrier::Patience;
use usher_directory::rows::{self, DirectoryChange, MoveMode, MoveUpdate, NewMove};
use usher_directory::{EntityState, Error, State, end_abandoned_schema_change, schema};
use usher_topology::{Epoch, Generation, Key, MoveId, ShardId, ShardState};

fn user(id: u32) -> Key {
    Key::Int(i128::from(id))
}

fn new_move(key: &Key, src: ShardId) -> NewMove {
    NewMove {
        key: key.clone(),
        src,
        dst: ShardId(3 - src.0),
        mode: MoveMode::Online,
        phase: "registered".to_owned(),
        started_by: "test".to_owned(),
        reason: "because".to_owned(),
    }
}

fn to_state(state: EntityState) -> DirectoryChange {
    DirectoryChange { state: Some(state), ..DirectoryChange::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_is_applied_once_and_the_state_loads_whole() {
    let deployment = Deployment::fresh().await;
    let global = deployment.access();
    assert_eq!(schema::apply(&global).await.unwrap().applied, []);
    let state = State::load(&global).await.unwrap();
    assert_eq!(state.topology.shards.len(), 3);
    assert_eq!(state.topology.shard_named("s2").unwrap().writer().unwrap().name, "b1");
    assert_eq!(state.version, 4, "one for the beginning and one for each shard registered");
    for server in &deployment.shards {
        let beats: Option<u8> = server.value("SELECT COUNT(*) FROM usher.heartbeat").await;
        assert_eq!(beats, Some(1));
    }
    let table = rows::TableRow {
        schema: "photos".to_owned(),
        name: "photo".to_owned(),
        kind: rows::TableKind::Sharded,
        entity: "user".to_owned(),
        key_column: Some("user_id".to_owned()),
        key_type: Some(rows::KeyType::Int),
        sequence_column: Some("id".to_owned()),
        columns: vec!["id".to_owned(), "user_id".to_owned()],
        state: rows::TableState::Ready,
    };
    assert_eq!(rows::upsert_table(&global, &table).await.unwrap(), 5);
    assert_eq!(State::load(&global).await.unwrap().tables, std::slice::from_ref(&table));
    assert_eq!(rows::delete_table(&global, "photos", "photo").await.unwrap(), Some(6));
    assert_eq!(rows::delete_table(&global, "photos", "photo").await.unwrap(), None);
    assert_eq!(State::load(&global).await.unwrap().version, 6, "what changed nothing raised nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_one_compare_and_set_after_another() {
    let deployment = Deployment::fresh().await;
    let (global, directory) = (deployment.access(), deployment.directory(&[]).await);
    let key = user(623);
    let placed = directory.place(&key).await.unwrap();
    let (id, version) = rows::insert_move(&global, &new_move(&key, placed.shard)).await.unwrap();
    let again = rows::insert_move(&global, &new_move(&key, placed.shard)).await.unwrap_err();
    assert!(matches!(again, Error::Conflict(_)), "{again}");
    let nobody = rows::insert_move(&global, &new_move(&user(9), ShardId(1))).await.unwrap_err();
    assert!(nobody.to_string().contains("not in the directory"), "{nobody}");

    let lease = Duration::from_secs(60);
    let epoch = rows::take_mover_lease(&global, id, "c1", lease).await.unwrap().unwrap();
    assert_eq!(rows::take_mover_lease(&global, id, "c2", lease).await.unwrap(), None, "c1's lease runs");
    assert!(rows::renew_mover_lease(&global, id, epoch, lease).await.unwrap());

    let update = MoveUpdate { phase: Some("fence".to_owned()), ..MoveUpdate::default() };
    let moving = to_state(EntityState::Moving);
    let lost = rows::cas_directory(&global, &key, Generation(7), &moving, Some((id, epoch, &update))).await;
    assert_eq!(lost.unwrap(), None, "another generation");
    let lost =
        rows::cas_directory(&global, &key, Generation(1), &moving, Some((id, epoch + 1, &update))).await;
    assert_eq!(lost.unwrap(), None, "another mover");
    let changed = rows::cas_directory(&global, &key, Generation(1), &moving, Some((id, epoch, &update)));
    let changed = changed.await.unwrap().unwrap();
    assert_eq!((changed.generation, changed.version), (Generation(2), version + 1));

    let state = directory.refresh().await.unwrap();
    let entry = state.moving.get(&key).unwrap();
    assert_eq!((entry.located.state, entry.located.generation), (EntityState::Moving, Generation(2)));
    assert_eq!((entry.row.phase.as_str(), entry.row.generation), ("fence", Generation(2)));

    let flip = DirectoryChange {
        shard: Some(ShardId(3 - placed.shard.0)),
        state: Some(EntityState::Settling),
        own_gen: Some(Generation(3)),
        min_gtid: Some(Some("0-11-7".to_owned())),
        epochs: vec![(ShardId(1), Epoch(1)), (ShardId(2), Epoch(9))],
        ..DirectoryChange::default()
    };
    let lost = rows::cas_directory(&global, &key, Generation(2), &flip, None).await.unwrap();
    assert_eq!(lost, None, "a shard has another epoch");
    let flip = DirectoryChange { epochs: vec![(ShardId(1), Epoch(1)), (ShardId(2), Epoch(1))], ..flip };
    assert!(rows::cas_directory(&global, &key, Generation(2), &flip, None).await.unwrap().is_some());
    assert_eq!(directory.cached(&key), Some(Some(entry.located)), "the state held is older");
    directory.refresh().await.unwrap();
    assert_eq!(directory.cached(&key), None, "settling: asked each time");
    let located = directory.locate(&key).await.unwrap().unwrap();
    assert_eq!((located.shard, located.own_gen), (flip.shard.unwrap(), Generation(3)));

    let active = DirectoryChange { min_gtid: Some(None), ..to_state(EntityState::Active) };
    rows::cas_directory(&global, &key, Generation(3), &active, None).await.unwrap().unwrap();
    let release = MoveUpdate { release: true, purge_in: Some(Duration::from_secs(900)), ..update };
    rows::update_move(&global, id, epoch, &release, true).await.unwrap().unwrap();
    let state = directory.refresh().await.unwrap();
    assert!(state.moving.is_empty());
    assert_eq!(state.moving.left_behind()[0].id, id, "its rows are still to be purged");
    assert!(state.moving.left_behind()[0].purge_in_ms.unwrap() > 890_000);
    rows::finish_move(&global, id, epoch, &MoveUpdate::default()).await.unwrap().unwrap();
    assert!(directory.refresh().await.unwrap().moving.left_behind().is_empty());
    // The time that is left goes by between two looks.
    let timeless = |row: rows::MoveRow| rows::MoveRow { purge_in_ms: None, ..row };
    let row = timeless(rows::move_row(&global, id).await.unwrap().unwrap());
    assert!(!row.active && row.finished_at_ms.is_some());
    let listed = rows::list_moves(&global, false, 10).await.unwrap();
    assert_eq!(listed.into_iter().map(timeless).collect::<Vec<_>>(), [row]);
    assert!(
        rows::insert_move(&global, &new_move(&key, located.shard)).await.is_ok(),
        "a move back may begin"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_who_change_one_row_at_once_one_wins() {
    let deployment = Deployment::fresh().await;
    let (global, directory) = (deployment.access(), deployment.directory(&[]).await);
    let key = user(1);
    directory.place(&key).await.unwrap();
    let before = State::load(&global).await.unwrap().version;
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (global, key) = (global.clone(), key.clone());
            tokio::spawn(async move {
                rows::cas_directory(&global, &key, Generation(1), &to_state(EntityState::Moving), None).await
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        won += usize::from(task.await.unwrap().unwrap().is_some());
    }
    assert_eq!(won, 1);
    assert_eq!(State::load(&global).await.unwrap().version, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flip_is_checked_by_epoch_and_membership() {
    let deployment = Deployment::fresh().await;
    let global = deployment.access();
    let (s1, writer) = (ShardId(1), deployment.shards[0].server().id);
    let other = deployment.shards[1].server().id;
    let flip = usher_directory::Flip { to: writer, by: "c1".to_owned() };
    let from = [ShardState::Rw];
    let (held, open) = (ShardState::Switching, ShardState::Rw);
    assert_eq!(rows::cas_shard_state(&global, s1, Epoch(2), &from, held, Some(&flip)).await.unwrap(), None);
    assert!(rows::cas_shard_state(&global, s1, Epoch(1), &from, held, Some(&flip)).await.unwrap().is_some());
    assert_eq!(State::load(&global).await.unwrap().flips.get(&s1), Some(&flip));
    assert_eq!(rows::cas_shard_state(&global, s1, Epoch(1), &from, held, None).await.unwrap(), None);
    assert_eq!(
        rows::cas_shard_writer(&global, s1, Epoch(1), other, open).await.unwrap(),
        None,
        "not a member"
    );
    assert!(rows::cas_shard_writer(&global, s1, Epoch(1), writer, open).await.unwrap().is_some());
    assert_eq!(rows::cas_shard_writer(&global, s1, Epoch(1), writer, open).await.unwrap(), None);
    let state = State::load(&global).await.unwrap();
    assert_eq!((state.topology.shard(s1).unwrap().epoch, state.flips.len()), (Epoch(2), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_who_place_one_user_get_one_place() {
    let deployment = Deployment::fresh().await;
    let directories = [deployment.directory(&[]).await, deployment.directory(&[]).await];
    for key in [user(77), Key::Text("zoë q".into())] {
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let (directory, key) = (Arc::clone(&directories[n % 2]), key.clone());
                tokio::spawn(async move { directory.place(&key).await.unwrap() })
            })
            .collect();
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await.unwrap());
        }
        assert!(answers.iter().all(|located| *located == answers[0]), "{answers:?}");
        let rows: Option<u32> = deployment
            .global
            .value(&format!("SELECT COUNT(*) FROM usher.directory WHERE entity_key = '{key}'"))
            .await;
        assert_eq!(rows, Some(1));
        let mut owners = 0;
        for server in &deployment.shards {
            let owned = format!(
                "SELECT COUNT(*) FROM usher.ownership WHERE entity_key = '{key}' AND state = 'owned'"
            );
            owners += server.value::<u32>(&owned).await.unwrap();
        }
        assert_eq!(owners, 1);
    }
    let placed: u64 = directories.iter().map(|directory| directory.metrics().placed.get()).sum();
    assert_eq!(placed, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_for_one_user_cause_one_look_up() {
    let deployment = Deployment::fresh().await;
    let key = user(5);
    deployment.directory(&[]).await.place(&key).await.unwrap();
    let directory = deployment.directory(&[]).await;
    // The first connection's own statements are not what is counted.
    directory.locate(&user(6)).await.unwrap();
    // Look-ups are prepared; what a new connection asks first is not.
    let before = deployment.global.status("Com_stmt_execute").await;
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let (directory, key) = (Arc::clone(&directory), key.clone());
            tokio::spawn(async move { directory.locate(&key).await.unwrap().unwrap().shard })
        })
        .collect();
    let mut shards = HashSet::new();
    for task in tasks {
        shards.insert(task.await.unwrap());
    }
    assert_eq!(shards.len(), 1);
    assert_eq!(deployment.global.status("Com_stmt_execute").await - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_users_are_remembered_for_a_moment_and_never_after_placing() {
    let deployment = Deployment::fresh().await;
    let directory = deployment.directory(&[]).await;
    let key = user(404);
    assert_eq!(directory.locate(&key).await.unwrap(), None);
    assert_eq!(directory.cached(&key), Some(None));
    let lookups = directory.metrics().lookups.get();
    assert_eq!(directory.locate(&key).await.unwrap(), None);
    assert_eq!(directory.metrics().lookups.get(), lookups);
    let placed = directory.place(&key).await.unwrap();
    assert_eq!(directory.cached(&key), Some(Some(placed)));
    until("the unknown entry to expire", async || directory.cached(&user(405)).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memcached_answers_when_the_first_level_is_empty() {
    let deployment = Deployment::fresh().await;
    let (m1, m2) = (Memcache::start(), Memcache::start());
    let (one, two) = (deployment.directory(&[&m1, &m2]).await, deployment.directory(&[&m1, &m2]).await);
    for key in [user(8), Key::Text("two words".into())] {
        let placed = one.place(&key).await.unwrap();
        one.clear_cache();
        assert_eq!(one.locate(&key).await.unwrap(), Some(placed), "a miss that fills");
        let lookups = two.metrics().lookups.get();
        let hits = two.metrics().l2_hits.get();
        assert_eq!(two.locate(&key).await.unwrap(), Some(placed));
        assert_eq!(two.metrics().lookups.get(), lookups, "the global master was not asked");
        assert_eq!(two.metrics().l2_hits.get(), hits + 1);
        // Either copy alone will do.
        two.clear_cache();
    }
    m1.crash();
    one.clear_cache();
    let (lookups, began) = (one.metrics().lookups.get(), Instant::now());
    assert!(one.locate(&user(8)).await.unwrap().is_some());
    assert_eq!(one.metrics().lookups.get(), lookups, "the second copy answered");
    assert!(began.elapsed() < Duration::from_millis(limits().memcached_ms + 50));
    assert_eq!(one.forget(&user(8)).await, [m1.address()], "one could not be told");
    one.clear_cache();
    one.locate(&user(8)).await.unwrap();
    assert_eq!(one.metrics().lookups.get(), lookups + 1, "the other copy is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memcached_that_hangs_costs_its_deadline_once() {
    let deployment = Deployment::fresh().await;
    let (m1, m2) = (Memcache::start(), Memcache::start());
    let directory = deployment.directory(&[&m1, &m2]).await;
    for id in 0..20 {
        directory.place(&user(id)).await.unwrap();
    }
    m1.freeze();
    m2.freeze();
    let deadline = Duration::from_millis(limits().memcached_ms);
    let mut slow = 0;
    for id in 0..20 {
        directory.clear_cache();
        let began = Instant::now();
        assert!(directory.locate(&user(id)).await.unwrap().is_some());
        assert!(began.elapsed() < 2 * deadline + Duration::from_millis(150), "{:?}", began.elapsed());
        slow += usize::from(began.elapsed() >= deadline);
    }
    assert!(slow <= 1, "{slow} look-ups waited for servers known to be down");
    assert_eq!(directory.metrics().l2_servers_down.get(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_from_before_a_move_is_refused_after_it() {
    let deployment = Deployment::fresh().await;
    let (global, m1) = (deployment.access(), Memcache::start());
    let directory = deployment.directory(&[&m1]).await;
    let key = user(31);
    let placed = directory.place(&key).await.unwrap();
    let (id, _) = rows::insert_move(&global, &new_move(&key, placed.shard)).await.unwrap();
    let epoch = rows::take_mover_lease(&global, id, "c1", Duration::from_secs(60)).await.unwrap().unwrap();
    let steps = [
        to_state(EntityState::Moving),
        to_state(EntityState::Locked),
        DirectoryChange { shard: Some(ShardId(3 - placed.shard.0)), ..to_state(EntityState::Settling) },
        to_state(EntityState::Active),
    ];
    for (generation, step) in (1..).zip(&steps) {
        let update = MoveUpdate::default();
        let change =
            rows::cas_directory(&global, &key, Generation(generation), step, Some((id, epoch, &update)));
        change.await.unwrap().unwrap();
        directory.refresh().await.unwrap();
    }
    directory.forget(&key).await;
    let end = MoveUpdate { release: true, ..MoveUpdate::default() };
    rows::update_move(&global, id, epoch, &end, true).await.unwrap().unwrap();
    directory.refresh().await.unwrap();
    assert_eq!((directory.pinned_users(), directory.state().moving.len()), (1, 0));
    // As if a proxy that was paused for long had stored it.
    let stale = format!("1 {} 1 1 {key}", placed.shard);
    let stored = m1.raw(&format!("set usher:user:{key} 0 60 {}\r\n{stale}\r\n", stale.len()));
    assert_eq!(stored, "STORED\r\n");
    let located = directory.locate(&key).await.unwrap().unwrap();
    assert_eq!(located.shard, ShardId(3 - placed.shard.0));
    assert_eq!(directory.metrics().l2_stale.get(), 1);
    assert_eq!(m1.raw(&format!("get usher:user:{key}\r\n")), "END\r\n", "and it was deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_unique_and_consecutive_over_two_proxies() {
    let deployment = Deployment::fresh().await;
    let directories = [deployment.directory(&[]).await, deployment.directory(&[]).await];
    rows::ensure_sequence(&deployment.access(), "photos.photo", 1000).await.unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let directory = Arc::clone(&directories[n % 2]);
            tokio::spawn(async move {
                let mut taken = Vec::new();
                for round in 0..200u64 {
                    let n = 1 + round % 7;
                    let first = match directory.take_ids_now("photos.photo", n) {
                        Some(first) => first,
                        None => directory.take_ids("photos.photo", n).await.unwrap(),
                    };
                    taken.extend(first..first + n);
                }
                taken
            })
        })
        .collect();
    let (mut all, mut count) = (HashSet::new(), 0);
    for task in tasks {
        let taken = task.await.unwrap();
        count += taken.len();
        all.extend(taken);
    }
    assert_eq!(all.len(), count, "an id was given twice");
    assert!(*all.iter().min().unwrap() >= 1000);
    let blocks: u64 = directories.iter().map(|directory| directory.metrics().id_blocks.get()).sum();
    assert!(blocks < 60, "{blocks} blocks for {count} ids: blocks grow with use");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explicit_id_is_never_given_again() {
    let deployment = Deployment::fresh().await;
    let (one, two) = (deployment.directory(&[]).await, deployment.directory(&[]).await);
    assert_eq!(one.take_ids("a.b", 3).await.unwrap(), 1, "an unregistered sequence begins at 1");
    one.raise_sequence("a.b", 10).await.unwrap();
    assert_eq!(one.take_ids_now("a.b", 1), Some(11), "within the block in hand");
    one.raise_sequence("a.b", 5_000_000).await.unwrap();
    assert_eq!(one.take_ids_now("a.b", 1), None);
    assert_eq!(one.take_ids("a.b", 2).await.unwrap(), 5_000_001);
    assert!(two.take_ids("a.b", 1).await.unwrap() > 5_000_002);
    assert!(one.take_ids("a.b", 50_000).await.unwrap() > 5_000_002, "more than the largest block");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_global_master_known_users_are_served_and_new_ones_refused() {
    let deployment = Deployment::fresh().await;
    let (setup, directory) = (deployment.directory(&[]).await, deployment.directory(&[]).await);
    let placed = setup.place(&user(1)).await.unwrap();
    let cached = directory.place(&user(2)).await.unwrap();
    directory.take_ids("a.b", 1).await.unwrap();
    deployment.global.crash();
    assert_eq!(directory.locate(&user(2)).await.unwrap(), Some(cached));
    let found = directory.locate(&user(1)).await.unwrap().unwrap();
    assert_eq!((found.shard, found.own_gen), (placed.shard, placed.own_gen), "the shards know");
    assert_eq!(directory.locate(&user(3)).await.unwrap(), None, "all shards say so");
    assert!(directory.place(&user(3)).await.unwrap_err().is_global_unavailable());
    assert!(directory.take_ids_now("a.b", 1).is_some());
    assert!(directory.take_ids("a.b", 1_000_000).await.unwrap_err().is_global_unavailable());
    deployment.shards[1].crash();
    assert!(directory.locate(&user(4)).await.unwrap_err().is_global_unavailable(), "one shard could not say");
    deployment.shards[1].start();
    deployment.global.start();
    until("the writer to be found again", async || directory.place(&user(3)).await.is_ok()).await;
    assert_eq!(rows::list_moves(&deployment.access(), true, 1).await.unwrap(), []);
    assert_eq!(rows::move_row(&deployment.access(), MoveId(1)).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_member_is_not_written_to() {
    let deployment = Deployment::fresh().await;
    let directory = deployment.directory(&[]).await;
    directory.place(&user(1)).await.unwrap();
    // The control account could write here nevertheless.
    deployment.global.run("SET GLOBAL read_only = 1").await;
    assert!(directory.place(&user(2)).await.unwrap_err().is_global_unavailable());
    let rows: Option<u32> = deployment.global.value("SELECT COUNT(*) FROM usher.directory").await;
    assert_eq!(rows, Some(1));
    deployment.global.run("SET GLOBAL read_only = 0").await;
    until("the writer to be found again", async || directory.place(&user(2)).await.is_ok()).await;
}

/// A process that placed a user, and stood still before it wrote the ownership row, while the user was moved away.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_placing_does_not_bring_back_a_user_who_left() {
    let deployment = Deployment::fresh().await;
    let key = Key::Int(77);
    for server in &deployment.shards {
        server.run("INSERT INTO usher.ownership (entity_key, own_gen, state) VALUES ('77', 4, 'gone')").await;
    }
    let directory = deployment.directory(&[]).await;
    let error = directory.place(&key).await.unwrap_err();
    assert!(error.to_string().contains("does not own it"), "{error}");
    assert_eq!(directory.cached(&key), None, "nor is the user routed there");
    for server in &deployment.shards {
        let owned = server.value::<u64>("SELECT COUNT(*) FROM usher.ownership WHERE state = 'owned'").await;
        assert_eq!(owned, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_changes_and_moves_exclude_each_other() {
    let deployment = Deployment::fresh().await;
    let (global, directory) = (deployment.access(), deployment.directory(&[]).await);
    let key = user(1);
    let placed = directory.place(&key).await.unwrap();
    let change = rows::begin_schema_change(&global, PROXY_ACCOUNT.0, "ALTER TABLE t").await.unwrap();
    let refused = rows::insert_move(&global, &new_move(&key, placed.shard)).await.unwrap_err();
    assert!(
        matches!(&refused, Error::SchemaChange { statement } if statement == "ALTER TABLE t"),
        "{refused}"
    );
    let second = rows::begin_schema_change(&global, "px2", "DROP TABLE t").await.unwrap_err();
    assert_eq!(second, refused);
    rows::end_schema_change(&global, change.ticket + 1).await.unwrap();
    assert_eq!(rows::schema_change(&global).await.unwrap(), Some(change.clone()), "another one's ticket");
    rows::end_schema_change(&global, change.ticket).await.unwrap();
    rows::insert_move(&global, &new_move(&key, placed.shard)).await.unwrap();
    let refused = rows::begin_schema_change(&global, PROXY_ACCOUNT.0, "ALTER TABLE t").await.unwrap_err();
    assert!(refused.to_string().contains("of user 1 is under way"), "{refused}");
}

/// What a proxy that is gone may have left running is ended before a move may begin.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_change_of_a_proxy_that_is_gone_is_ended() {
    let deployment = Deployment::fresh().await;
    let global = deployment.access();
    deployment
        .global
        .run("INSERT INTO usher.proxies (proxy_id, boot_id, account) VALUES ('p1', 7, 'px1')")
        .await;
    let patience = Patience::of(&limits());
    rows::begin_schema_change(&global, PROXY_ACCOUNT.0, "ALTER TABLE t").await.unwrap();
    assert!(!end_abandoned_schema_change(&global, patience).await.unwrap(), "its proxy lives");
    let mut running = deployment.shards[1].conn(PROXY_ACCOUNT).await.unwrap();
    deployment.global.run("UPDATE usher.proxies SET alive_at = NOW(3) - INTERVAL 1 HOUR").await;
    assert!(end_abandoned_schema_change(&global, patience).await.unwrap(), "it is silent");
    assert!(running.query_drop("SELECT 1").await.is_err());
    assert_eq!(rows::schema_change(&global).await.unwrap(), None);

    deployment.shards[1].run(&format!("ALTER USER {}@'%' ACCOUNT UNLOCK", PROXY_ACCOUNT.0)).await;
    rows::begin_schema_change(&global, PROXY_ACCOUNT.0, "ALTER TABLE t").await.unwrap();
    deployment.global.run("DELETE FROM usher.proxies").await;
    let mut running = deployment.shards[1].conn(PROXY_ACCOUNT).await.unwrap();
    assert!(end_abandoned_schema_change(&global, patience).await.unwrap(), "it has left");
    assert!(running.query_drop("SELECT 1").await.is_err());
}
