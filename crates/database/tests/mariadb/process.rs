//! Starting a server, and asking one that does not answer.

use std::time::{Duration, Instant};

use mainstay_database::mariadb::server::{Failure, Server, StartError};
use mainstay_database::mariadb::{ActionError, Role, SqlError, view};

use mainstay_database::prepare;

use crate::servers::{Authority, Member, Servers};

fn failure(result: Result<(), StartError>) -> Failure {
    match result {
        Err(StartError::Ended { failure, .. }) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_in_a_type() {
    let mut servers = Servers::stopped(2).await;
    servers.members[0].start(Role::Replica).await;
    let again = servers.members[0].try_start(Role::Replica).await;
    assert!(matches!(again, Err(StartError::Running(_))), "{again:?}");
    servers.members[0].view().await;
    // The address of the first.
    let taken = servers.members[0].plan.listen;
    let own = std::mem::replace(&mut servers.members[1].plan.listen, taken);
    let why = failure(servers.members[1].try_start(Role::Replica).await);
    assert!(matches!(why, Failure::AddressTaken(_)), "{why:?}");
    servers.members[1].plan.listen = own;
    // The data of the first.
    let data = servers.members[0].place.data.clone();
    let own = std::mem::replace(&mut servers.members[1].place.data, data);
    servers.members[1].write_settings();
    match servers.members[1].start.start(Role::Replica, Duration::from_secs(4)).await {
        // It waits for half a minute.
        Err(StartError::NotYet { so_far: Failure::DataHeld(_), mut server, .. }) => {
            server.kill().await.unwrap();
        }
        other => panic!("{other:?}"),
    }
    servers.members[1].place.data = own;
    // A certificate that is none.
    let certificate = servers.members[1].tls.certificate.clone();
    let good = std::fs::read(&certificate).unwrap();
    std::fs::write(&certificate, "no certificate").unwrap();
    let why = failure(servers.members[1].try_start(Role::Replica).await);
    assert!(matches!(why, Failure::Settings(_)), "{why:?}");
    std::fs::write(&certificate, good).unwrap();
    // Data that are damaged.
    let data = servers.members[1].place.data.join("ibdata1");
    let whole = std::fs::read(&data).unwrap();
    let mut damaged = whole.clone();
    damaged[16384 * 5..16384 * 9].fill(0x5a);
    std::fs::write(&data, damaged).unwrap();
    let why = failure(servers.members[1].try_start(Role::Replica).await);
    assert!(matches!(why, Failure::Damaged(_)) && why.needs_seeding(), "{why:?}");
    std::fs::write(&data, whole).unwrap();
    servers.members[1].start(Role::Replica).await;
}

#[tokio::test]
async fn a_frozen_or_dead_server_costs_a_bounded_time() {
    let mut servers = Servers::stopped(1).await;
    servers.members[0].start(Role::Replica).await;
    let member = &servers.members[0];
    member.freeze();
    let began = Instant::now();
    let looked = view::look(&member.start.socket, &member.start.user, Duration::from_millis(200)).await;
    assert!(matches!(looked, Err(ActionError::Sql(SqlError::TimedOut(_)))), "{looked:?}");
    assert!(looked.unwrap_err().is_silence());
    assert!(began.elapsed() < Duration::from_secs(2));
    servers.members[0].kill().await;
    let member = &servers.members[0];
    let looked = view::look(&member.start.socket, &member.start.user, Duration::from_millis(200)).await;
    assert!(matches!(looked, Err(ActionError::Sql(SqlError::Unreachable(_)))), "{looked:?}");
}

#[tokio::test]
async fn a_session_whose_answer_did_not_come_is_not_used_again() {
    let mut servers = Servers::stopped(1).await;
    servers.members[0].start(Role::Replica).await;
    let mut session = servers.members[0].session().await;
    let late = session.query("SELECT SLEEP(1), 'late'", Duration::from_millis(100)).await;
    assert!(matches!(late, Err(SqlError::TimedOut(_))));
    assert!(matches!(session.query("SELECT 1", Duration::from_secs(5)).await, Err(SqlError::Lost(_))));
    let mut session = servers.members[0].session().await;
    let several =
        session.query_all("SELECT 1; SELECT NULL, 'x'; DO 1", Duration::from_secs(5)).await.unwrap();
    assert_eq!((several.len(), several[0].single(), several[1].single()), (3, Some("1"), None));
    let refused = session.query_all("SELECT 1; SELECT nothing", Duration::from_secs(5)).await;
    assert!(matches!(&refused, Err(SqlError::Refused { code: 1054, .. })), "{refused:?}");
    assert_eq!(session.query("SELECT 2", Duration::from_secs(5)).await.unwrap().single(), Some("2"));
}

#[tokio::test]
async fn the_next_keeper_adopts_a_server_and_can_watch_and_kill_it() {
    let mut servers = Servers::stopped(1).await;
    servers.members[0].start(Role::Replica).await;
    let first = servers.members[0].server.take().unwrap();
    let identity = first.identity();
    let mut adopted = Server::adopt(identity).unwrap().unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), adopted.ended()).await.is_err());
    servers.members[0].view().await;
    // Frozen is no way to survive it. The first keeper reaps, as whoever inherits its children does.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(identity.pid).unwrap(),
        rustix::process::Signal::STOP,
    )
    .unwrap();
    adopted.kill().await.unwrap();
    drop(first);
    assert!(Server::adopt(identity).unwrap().is_none());
}

#[tokio::test]
async fn the_servers_own_user_is_let_in_without_a_password_and_nobody_else_is() {
    use std::os::unix::fs::PermissionsExt as _;
    if crate::servers::user() != "root" {
        return;
    }
    let folder = crate::servers::folder();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut member = Member::new(folder.path(), 0, &Authority::new());
    "nobody".clone_into(&mut member.place.user);
    member.start.become_user = Some("nobody".to_owned());
    prepare(&member.plan, &member.place).unwrap();
    for path in [&member.place.run, &member.tls.key, folder.path()] {
        assert!(
            std::process::Command::new("chown").arg("-R").arg("nobody").arg(path).status().unwrap().success()
        );
    }
    let mut servers = Servers::of(folder, member);
    servers.members[0].start(Role::Replica).await;
    let as_user = |user: &str, account: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", user, "--clear-groups", "mariadb", "--no-defaults", "--batch", "-N"]);
        command
            .arg(format!("--user={account}"))
            .arg(format!("--socket={}", servers.members[0].start.socket.display()));
        let output = command.args(["-e", "SELECT CURRENT_USER()"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(as_user("nobody", "nobody"), "nobody@localhost");
    assert_eq!(as_user("daemon", "nobody"), "");
    assert_eq!(as_user("nobody", "root"), "");
    assert_eq!(servers.members[0].value("SELECT CURRENT_USER()").await, "root@localhost");
}
