//! Looks at mariadbd, several times a second.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Hands;
use crate::cluster::{Gtid, Io, Name, Observed, Sql};
use crate::mariadb::view::{Stream, Thread, ThreadState, View, view};
use crate::mariadb::{ActionError, Position, Session, binlog};

/// A stream without a sign of life for so long is not alive.
const ALIVE_WITHIN: Duration = Duration::from_millis(1200);
/// The source has no such place (`ER_MASTER_FATAL_ERROR_READING_BINLOG`).
const NO_SUCH_PLACE: u32 = 1236;
/// With less room than this, mariadbd cannot go on for long.
const LEAST_FREE_BYTES: u64 = 32 << 20;

/// What looks have in common.
#[derive(Default)]
pub(super) struct Looks {
    session: Rc<RefCell<Option<Session>>>,
    pulse: RefCell<Option<(u64, Instant)>>,
}

impl Looks {
    /// One look, in bounded time. Nothing is kept of a session that did not answer.
    pub(super) async fn look(&self, hands: &Hands, within: Duration) -> Result<Observed, ActionError> {
        let kept = self.session.borrow_mut().take();
        let mut session = match kept {
            Some(session) => session,
            None => tokio::time::timeout(within, hands.mariadbd.session())
                .await
                .unwrap_or(Err(crate::mariadb::SqlError::TimedOut(within)))?,
        };
        let seen = view(&mut session, within).await?;
        *self.session.borrow_mut() = Some(session);
        Ok(self.observed(hands, &seen))
    }

    /// Another mariadbd is another stream.
    pub(super) fn forget(&self) {
        self.session.borrow_mut().take();
        self.pulse.borrow_mut().take();
    }

    fn observed(&self, hands: &Hands, seen: &View) -> Observed {
        let applied = seen.applied();
        let received = received(hands, seen, &applied);
        let member = |server_id: u32| hands.setup.at(std::net::Ipv4Addr::from(server_id).into());
        Observed {
            applied: gtid(&applied),
            received: gtid(&received),
            io: seen.stream.as_ref().map_or(Io::Off, |stream| self.io(stream)),
            source: seen.stream.as_ref().and_then(|stream| source(hands, stream)),
            sql: seen.stream.as_ref().map_or(Sql::Off, |stream| sql(&stream.applier)),
            acknowledging: seen.may_acknowledge,
            read_only: seen.read_only,
            semi_sync: seen.waits,
            attached: seen.receivers.iter().filter_map(|receiver| member(receiver.server_id?)).collect(),
            disk_full: is_full(hands),
        }
    }

    fn io(&self, stream: &Stream) -> Io {
        match stream.receiver.state {
            ThreadState::Stopped if stream.receiver.error == NO_SUCH_PLACE => Io::Refused,
            ThreadState::Stopped => Io::Off,
            ThreadState::Connecting => Io::Connecting,
            ThreadState::Running => {
                let mut pulse = self.pulse.borrow_mut();
                let since = match *pulse {
                    Some((known, since)) if known == stream.pulse => since,
                    _ => Instant::now(),
                };
                *pulse = Some((stream.pulse, since));
                Io::Streaming { alive: since.elapsed() < ALIVE_WITHIN }
            }
        }
    }
}

/// What it received. A server that was started anew knows only what it applied; the rest is in the files.
fn received(hands: &Hands, seen: &View, applied: &Position) -> Position {
    let received = seen.received();
    let knows = seen.stream.as_ref().is_none_or(|stream| stream.receiver.runs() || stream.applier.runs());
    if knows {
        return received;
    }
    match binlog::last(&hands.relay_index(), applied) {
        Ok(last) => received.clone().further(last).unwrap_or(received),
        Err(error) => {
            tracing::warn!(%error, "the relay log's files cannot be read");
            received
        }
    }
}

fn source(hands: &Hands, stream: &Stream) -> Option<Name> {
    let address: std::net::IpAddr = stream.host.parse().ok()?;
    hands.setup.listening((address, stream.port).into())
}

fn sql(applier: &Thread) -> Sql {
    match (applier.state, applier.error) {
        (ThreadState::Stopped, 0) => Sql::Off,
        (ThreadState::Stopped, error) => Sql::Failed(format!("{error}: {}", applier.message)),
        _ => Sql::Running,
    }
}

fn is_full(hands: &Hands) -> bool {
    rustix::fs::statvfs(&hands.setup.place.data)
        .is_ok_and(|free| free.f_bavail.saturating_mul(free.f_frsize) < LEAST_FREE_BYTES)
}

/// The cluster has one domain.
pub(super) fn gtid(position: &Position) -> Gtid {
    position.of(0).map_or(Gtid::NONE, |gtid| Gtid { domain: gtid.domain, server: gtid.server, seq: gtid.seq })
}

/// Likewise, the other way.
pub(super) fn position(gtid: Gtid) -> Position {
    let mut position = Position::default();
    if gtid.seq > 0 {
        position.advance(crate::mariadb::Gtid { domain: gtid.domain, server: gtid.server, seq: gtid.seq });
    }
    position
}
