//! A new member is born from another's data, and an interrupted birth leaves nothing behind.

use mainstay_database::mariadb::replica::{self, Was};
use mainstay_database::mariadb::seed::{Offer, SeedError, Seeding, State, donate};
use mainstay_database::mariadb::{Position, Role};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use crate::servers::{Member, SOON, Servers};

const MEMORY: u64 = 64 * 1024 * 1024;

fn offer(donor: &Member) -> Offer<'_> {
    Offer { place: &donor.place, settings: &donor.start.file, threads: 2, bytes_per_sec: None }
}

/// Copies the donor's data over a socket pair, and tells how often each side saw progress.
async fn copy(donor: &Member, seeding: &mut Seeding) -> Result<(Position, usize), SeedError> {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let mut steps = Vec::new();
    let offer = offer(donor);
    let (sent, received) = tokio::join!(
        async {
            let sent = donate(&offer, &mut here, |_| {}).await;
            drop(here);
            sent
        },
        seeding.receive("a donor", &mut there, MEMORY, |progress| steps.push(progress)),
    );
    let position = received?;
    let last = steps.last().unwrap();
    assert_eq!(last.bytes, sent.unwrap().bytes);
    assert!(last.about_bytes > 0 && last.bytes < last.about_bytes * 3, "{last:?}");
    Ok((position, steps.len()))
}

#[tokio::test]
async fn a_third_member_is_born_from_a_replica_and_catches_up() {
    let mut servers = Servers::running(3).await;
    // The third as it is before anything: no data at all.
    servers.members[2].kill().await;
    std::fs::remove_dir_all(&servers.members[2].place.data).unwrap();
    servers.members[0].insert(1).await;
    servers.members[1].caught_up(&servers.members[0]).await;

    let mut seeding = Seeding::open(&servers.members[2].place).unwrap();
    // The primary goes on writing while it is copied.
    let mut writer = servers.members[0].session().await;
    let writing = tokio::spawn(async move {
        for id in 100..200_u64 {
            writer.query(&crate::servers::insert(id), SOON).await.unwrap();
        }
    });
    let (position, steps) = copy(&servers.members[1], &mut seeding).await.unwrap();
    assert!(steps > 10, "{steps}");
    writing.await.unwrap();
    servers.members[0].insert(2).await;
    assert!(servers.members[0].position().await.has(&position));

    seeding.swap().unwrap();
    assert_eq!(*seeding.state(), State::Swapped { position: position.clone() });
    servers.members[2].start(Role::Replica).await;
    let [primary, _, born] = &servers.members[..] else { unreachable!() };
    replica::begin_at(&mut born.session().await, &position, SOON).await.unwrap();
    born.follow(primary, Was::Replica, true).await;
    born.caught_up(primary).await;
    assert_eq!(born.ids().await, primary.ids().await);
    primary.when("it acknowledges too", |view| view.acknowledging_replicas == 2).await;
    seeding.finish().unwrap();
    assert_eq!(born.view().await.binlog_pos, primary.position().await, "one history, none of its own");
}

#[tokio::test]
async fn a_seeding_that_is_killed_starts_over_and_succeeds_and_the_old_data_stay_until_then() {
    let mut servers = Servers::running(2).await;
    servers.members[0].insert(1).await;
    servers.members[1].caught_up(&servers.members[0]).await;
    servers.members[1].stop().await;
    let place = servers.members[1].place.clone();
    let donor = &servers.members[0];

    // The receiver goes in the middle, as a killed process does: nothing of it runs on, and its record stays.
    {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let mut seeding = Seeding::open(&place).unwrap();
        let (sender, mut half) = tokio::sync::mpsc::unbounded_channel();
        let offer = offer(donor);
        tokio::select! {
            sent = donate(&offer, &mut here, |_| {}) => panic!("{sent:?}"),
            received = seeding.receive("a donor", &mut there, MEMORY, |progress| {
                if progress.bytes > 3_000_000 { let _ = sender.send(()); }
            }) => panic!("{received:?}"),
            _ = half.recv() => {}
        }
    }
    assert!(place.data.with_extension("seed").exists());
    let mut seeding = Seeding::open(&place).unwrap();
    assert_eq!(*seeding.state(), State::Idle);
    assert!(!place.data.with_extension("seed").exists(), "started over cleanly");

    // The donor goes in the middle: the stream ends, and that is no copy.
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let (received, ()) = tokio::join!(seeding.receive("a donor", &mut there, MEMORY, |_| {}), async {
        let offer = offer(donor);
        let (sender, mut half) = tokio::sync::mpsc::unbounded_channel();
        tokio::select! {
            sent = donate(&offer, &mut here, |progress| if progress.bytes > 3_000_000 { let _ = sender.send(()); }) => panic!("{sent:?}"),
            _ = half.recv() => {}
        }
        here.shutdown().await.unwrap();
        drop(here);
    });
    assert!(matches!(received, Err(SeedError::Stream(_))), "{received:?}");
    assert!(place.data.join("mysql").is_dir(), "the old data are as they were");

    let (position, _) = copy(donor, &mut seeding).await.unwrap();
    seeding.swap().unwrap();
    assert!(place.data.with_extension("previous").join("mysql").is_dir());
    servers.members[1].start(Role::Replica).await;
    let [primary, born] = &servers.members[..] else { unreachable!() };
    replica::begin_at(&mut born.session().await, &position, SOON).await.unwrap();
    born.follow(primary, Was::Replica, true).await;
    born.caught_up(primary).await;
    assert_eq!(born.ids().await, [1]);
    Seeding::open(&place).unwrap().finish().unwrap();
    assert!(!place.data.with_extension("previous").exists());
}

#[tokio::test]
async fn a_donor_that_cannot_tells_the_receiver_why() {
    let mut servers = Servers::running(2).await;
    servers.members[1].stop().await;
    let [donor, receiver] = &mut servers.members[..] else { unreachable!() };
    donor.place.user = "nobody-of-that-name".to_owned();
    let mut seeding = Seeding::open(&receiver.place).unwrap();
    let error = copy(donor, &mut seeding).await.unwrap_err();
    assert!(matches!(&error, SeedError::Donor(words) if words.contains("Access denied")), "{error}");
}
