//! The login of a client, and `COM_CHANGE_USER`.

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mainstay_http::tls;

use super::{Closed, Flow, Session};
use crate::auth::Plugin;
use crate::backend::{Role, State};
use crate::channel::{Channel, Command, Stream};
use crate::route::{Await, To};
use crate::wire::capability::{COMPRESS, MULTI_STATEMENTS, OFFERED, PASSED_ON, SSL, STATUS_AUTOCOMMIT};
use crate::wire::handshake::{ChangeUser, Greeting, Login, switch, tls_request};
use crate::wire::reply::{FRESH, err, ok};
use crate::worker::{Account, Worker};

/// Bytes of a packet of a login.
const LOGIN_PACKET: usize = 64 << 10;

/// Why a login comes to nothing.
enum Refused {
    /// Nobody is there to be told.
    Gone,
    /// The client is told.
    Told { payload: BytesMut, sequence: u8, reason: &'static str },
}

impl From<io::Error> for Refused {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Logs a client in; `None` if that fails.
pub(super) async fn log_in(stream: Stream, worker: &Rc<Worker>) -> Option<Session> {
    let mut client = Channel::new(stream);
    let limit = Duration::from_millis(worker.limits.login_ms);
    let result = tokio::time::timeout(limit, greet(&mut client, worker)).await;
    let refused = match result {
        Ok(Ok(accepted)) => {
            let mut session = session(worker, client, accepted);
            return session.open().await.ok().map(|()| session);
        }
        Ok(Err(refused)) => refused,
        Err(_) => Refused::Gone,
    };
    match refused {
        Refused::Gone => worker.metrics.refused.with(&["left"]).inc(),
        Refused::Told { payload, sequence, reason } => {
            worker.metrics.refused.with(&[reason]).inc();
            client.put(&payload, sequence);
            // Whether it still listens changes nothing.
            let _ = client.flush().await;
            client.close().await;
        }
    }
    None
}

struct Accepted {
    login: Login,
    account: Rc<Account>,
    place: crate::worker::ClientPlace,
    sequence: u8,
    number: u32,
    capabilities: u64,
}

async fn greet(client: &mut Channel, worker: &Rc<Worker>) -> Result<Accepted, Refused> {
    let number = worker.kills.number();
    let challenge = Plugin::Native.challenge().map_err(|_| Refused::Gone)?;
    let learned = worker.learned.borrow().clone();
    // What servers do not have is not offered.
    let mut offered = OFFERED & (learned.capabilities | !PASSED_ON);
    if worker.tls.is_some() && !client.is_private() {
        offered |= SSL;
    }
    let greeting = Greeting {
        version: learned.version,
        connection: number,
        challenge: challenge.clone(),
        capabilities: offered,
        collation: learned.collation,
        status: FRESH,
        plugin: Plugin::Native.name().to_owned(),
    };
    let mut payload = BytesMut::new();
    greeting.put(&mut payload);
    client.put(&payload, 0);
    client.flush().await?;
    // Clients do not wait after they have asked for TLS.
    let (mut payload, mut sequence) = client.lone_packet(LOGIN_PACKET).await?;
    if tls_request(&payload).is_some() {
        secure(client, worker).await?;
        (payload, sequence) = client.packet_of(LOGIN_PACKET).await?;
    }
    let login = Login::parse(&payload).map_err(|_| Refused::Told {
        payload: err(1043, "08S01", "the login is malformed, or of before MySQL 4.1"),
        sequence: sequence.wrapping_add(1),
        reason: "malformed",
    })?;
    let proof = Proof {
        account: &login.account,
        plugin: Plugin::of(&login.plugin).or(login.plugin.is_empty().then_some(Plugin::Native)),
        challenge: &challenge,
        response: &login.response,
    };
    let (account, sequence) = prove(client, worker, &proof, sequence).await?;
    let Some(place) = account.enter() else {
        return Err(Refused::Told {
            payload: err(
                1226,
                "42000",
                &format!("the account {} has as many clients as it may", account.name),
            ),
            sequence,
            reason: "too many of the account",
        });
    };
    let capabilities = login.capabilities & offered;
    Ok(Accepted { login, account, place, sequence, number, capabilities })
}

async fn secure(client: &mut Channel, worker: &Rc<Worker>) -> Result<(), Refused> {
    let (Some(settings), Stream::Tcp(stream)) = (&worker.tls, client.take_stream()) else {
        return Err(Refused::Gone);
    };
    match tls::accept(stream, settings, &worker.metrics.tls).await {
        Ok((stream, _)) => client.set_stream(Stream::Server(Box::new(stream))),
        Err(error) => {
            worker.metrics.tls.failed(&error);
            return Err(Refused::Gone);
        }
    }
    Ok(())
}

/// What a client says of itself.
struct Proof<'a> {
    account: &'a [u8],
    plugin: Option<Plugin>,
    challenge: &'a [u8],
    response: &'a [u8],
}

/// The account, if the client proves that it knows the password; and the next sequence number.
async fn prove(
    client: &mut Channel,
    worker: &Rc<Worker>,
    proof: &Proof<'_>,
    mut sequence: u8,
) -> Result<(Rc<Account>, u8), Refused> {
    let account = worker.accounts.get(proof.account).cloned();
    let (plugin, password) = match &account {
        Some(account) => (account.plugin, &account.password[..]),
        // Unknown accounts are treated like others, so that nobody learns which there are.
        None => (Plugin::Native, &worker.nobody[..]),
    };
    let mut right;
    let mut with_password = !proof.response.is_empty();
    if proof.plugin == Some(plugin) && plugin != Plugin::Ed25519 {
        right = plugin.is_answer(password, proof.challenge, proof.response);
    } else {
        let challenge = plugin.challenge().map_err(|_| Refused::Gone)?;
        client.put(&switch(plugin.name(), &challenge), sequence.wrapping_add(1));
        client.flush().await?;
        let (response, next) = client.packet_of(LOGIN_PACKET).await?;
        sequence = next;
        right = plugin.is_answer(password, &challenge, &response);
        with_password |= !response.is_empty();
    }
    right &= account.is_some();
    let name = String::from_utf8_lossy(proof.account).into_owned();
    let known = account.as_ref().map_or("unknown", |account| &account.name);
    worker.metrics.logins.with(&[known, if right { "ok" } else { "denied" }]).inc();
    sequence = sequence.wrapping_add(1);
    match account {
        Some(account) if right => {
            if plugin == Plugin::CachingSha2 && with_password {
                // The answer was as good as the password itself.
                sequence = client.put(&[1, 3], sequence);
            }
            Ok((account, sequence))
        }
        _ => Err(Refused::Told {
            payload: err(
                1045,
                "28000",
                &format!(
                    "Access denied for user '{name}' at the router (using password: {})",
                    if with_password { "YES" } else { "NO" }
                ),
            ),
            sequence,
            reason: "denied",
        }),
    }
}

fn session(worker: &Rc<Worker>, mut client: Channel, accepted: Accepted) -> Session {
    let Accepted { login, account, place, sequence, number, capabilities } = accepted;
    // The answer to the login goes out when the schema is known to be there.
    client.output.reserve(16);
    let entry = worker.kills.enter(number, &account.name);
    let state = State {
        schema: login.schema.map(Bytes::from),
        several: capabilities & MULTI_STATEMENTS != 0,
        ..State::default()
    };
    Session {
        worker: Rc::clone(worker),
        account,
        place,
        entry,
        client,
        capabilities,
        collation: login.collation,
        primary: None,
        replica: None,
        last: Role::Primary,
        state,
        version: worker.number(),
        status: STATUS_AUTOCOMMIT,
        bound: None,
        bound_by_lock: false,
        next_transaction: false,
        position: crate::gtid::Position::default(),
        wrote_unseen: false,
        last_insert_id: 0,
        statements: std::collections::HashMap::new(),
        next_statement: u32::from(sequence),
        last_prepared: None,
        prepared_bytes: 0,
        cursors: 0,
    }
}

impl Session {
    /// Ends the login: says OK, if the schema is there.
    async fn open(&mut self) -> Flow {
        // The sequence number was kept here, for want of another use before the first statement.
        let sequence = std::mem::take(&mut self.next_statement) as u8;
        self.enter_schema(sequence).await?;
        if self.capabilities & COMPRESS != 0 {
            self.client.compress();
        }
        Ok(())
    }

    async fn enter_schema(&mut self, sequence: u8) -> Flow {
        if self.state.schema.is_some() {
            let deadline = Instant::now() + self.worker.limits.hold();
            let ready = self.ready(To::Any, Await::Nothing, deadline).await;
            if let Err(refusal) = ready {
                self.client.put(&refusal.payload, sequence);
                let _ = self.client.flush().await;
                return Err(Closed);
            }
        }
        self.client.put(&ok(self.status), sequence);
        self.client.flush().await.map_err(|_| Closed)
    }

    pub(super) async fn change_user(&mut self, command: &Command) -> Flow {
        let Ok(change) = ChangeUser::parse(command.body(), self.capabilities) else {
            return self.fail(1047, "08S01", "the change of user is malformed").await;
        };
        let proof =
            Proof { account: &change.account, plugin: None, challenge: &[], response: &change.response };
        let worker = Rc::clone(&self.worker);
        let limit = Duration::from_millis(worker.limits.login_ms);
        let proved = tokio::time::timeout(limit, prove(&mut self.client, &worker, &proof, 0)).await;
        let (account, sequence) = match proved {
            Ok(Ok(proved)) => proved,
            Ok(Err(Refused::Told { payload, sequence, .. })) => {
                self.client.put(&payload, sequence);
                let _ = self.client.flush().await;
                return Err(Closed);
            }
            Ok(Err(Refused::Gone)) | Err(_) => return Err(Closed),
        };
        self.begin_anew();
        if !Rc::ptr_eq(&account, &self.account) {
            let Some(place) = account.enter() else {
                self.client.put(&err(1226, "42000", "the account has as many clients as it may"), sequence);
                let _ = self.client.flush().await;
                return Err(Closed);
            };
            debug_assert!(account.clients.load(Ordering::Relaxed) > 0);
            (self.account, self.place) = (account, place);
            self.entry = self.worker.kills.enter(self.entry.number, &self.account.name);
            self.position = crate::gtid::Position::default();
        }
        self.collation = change.collation.unwrap_or(self.collation);
        self.state.schema = change.schema.map(Bytes::from);
        self.enter_schema(sequence).await
    }
}
