//! Connecting to a server and logging in as an account.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use mainstay_http::tls::{ClientOptions, ClientTls, Pem, Protocols};
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};

use crate::auth::Plugin;
use crate::channel::{Channel, Stream};
use crate::topology::{Address, Server};
use crate::wire::capability::{ASKED_OF_SERVERS, EXTENDED_METADATA, PASSED_ON, SSL, STMT_BULK};
use crate::wire::handshake::{Greeting, Login, parse_switch};
use crate::wire::packet::Malformed;
use crate::wire::reply::{ERR, ErrPacket, OK};

/// Bytes of a packet of a login.
const LOGIN_PACKET: usize = 64 << 10;

/// Why there is no connection.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it took too long")]
    TimedOut,
    #[error("the server's greeting is malformed")]
    Malformed(#[from] Malformed),
    #[error("the server has no TLS")]
    NoTls,
    #[error("the server asks for {0}, which is not known here")]
    Plugin(String),
    #[error("the server wants the password itself, which is only sent over TLS or a Unix socket")]
    PasswordInTheOpen,
    #[error("the server lacks what the client was promised")]
    Capabilities,
    #[error("the server refused the login: {code} {message}")]
    Refused { code: u16, message: String },
}

impl ConnectError {
    /// Whether another attempt may succeed without anybody changing anything.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Io(_) | Self::TimedOut | Self::Malformed(_) => true,
            // Too many connections, host blocked, shutting down.
            Self::Refused { code, .. } => matches!(code, 1040 | 1053 | 1129 | 1203 | 1226),
            _ => false,
        }
    }
}

/// What servers said of themselves, which clients are told.
#[derive(Debug, Clone)]
pub(crate) struct Learned {
    /// A server said it; otherwise it is what every server of this kind has.
    pub(crate) known: bool,
    pub(crate) version: String,
    pub(crate) collation: u8,
    pub(crate) capabilities: u64,
}

impl Default for Learned {
    /// Before any server was reached.
    fn default() -> Self {
        Self {
            known: false,
            version: "5.5.5-10.11.0-MariaDB".to_owned(),
            collation: 45,
            capabilities: !(STMT_BULK | EXTENDED_METADATA),
        }
    }
}

impl From<&Greeting> for Learned {
    fn from(greeting: &Greeting) -> Self {
        Self {
            known: true,
            version: greeting.version.clone(),
            collation: greeting.collation,
            capabilities: greeting.capabilities,
        }
    }
}

/// How servers are connected to.
pub(crate) struct Dialer {
    authorities: Option<Pem>,
    by_name: RefCell<HashMap<Option<String>, ClientTls>>,
    timeout: Duration,
}

impl Dialer {
    pub(crate) fn new(authorities: Option<&PathBuf>, timeout: Duration) -> Result<Self, String> {
        let authorities = authorities
            .map(|path| {
                let text = std::fs::read(path)
                    .map_err(|error| format!("the authorities {} cannot be read: {error}", path.display()))?;
                Ok::<_, String>(Pem::new(path.display().to_string(), text))
            })
            .transpose()?;
        let dialer = Self { authorities, by_name: RefCell::default(), timeout };
        if dialer.authorities.is_some() {
            dialer.tls(None)?;
        }
        Ok(dialer)
    }

    fn tls(&self, name: Option<&String>) -> Result<ClientTls, String> {
        if let Some(tls) = self.by_name.borrow().get(&name.cloned()) {
            return Ok(tls.clone());
        }
        let options = ClientOptions {
            server_name: name.cloned(),
            authorities: self.authorities.clone(),
            certificate: None,
            protocols: Protocols::None,
        };
        let tls = ClientTls::new(&options).map_err(|error| error.to_string())?;
        self.by_name.borrow_mut().insert(name.cloned(), tls.clone());
        Ok(tls)
    }

    /// A connection on which the account is logged in, what the server said first, and the agreed capabilities.
    pub(crate) async fn connect(
        &self,
        server: &Server,
        account: &str,
        password: &[u8],
        profile: u64,
        collation: u8,
    ) -> Result<(Channel, Greeting, u64), ConnectError> {
        let login = self.log_in(server, account, password, profile, collation);
        tokio::time::timeout(self.timeout, login).await.map_err(|_| ConnectError::TimedOut)?
    }

    async fn log_in(
        &self,
        server: &Server,
        account: &str,
        password: &[u8],
        profile: u64,
        collation: u8,
    ) -> Result<(Channel, Greeting, u64), ConnectError> {
        let stream = match &server.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
        };
        let mut channel = Channel::new(stream);
        let (payload, mut sequence) = channel.packet_of(LOGIN_PACKET).await?;
        fail_on_error(&payload)?;
        let greeting = Greeting::parse(&payload)?;
        let mut capabilities = (profile & PASSED_ON) | ASKED_OF_SERVERS;
        if capabilities & !greeting.capabilities & !crate::wire::capability::CLIENT_MYSQL != 0 {
            return Err(ConnectError::Capabilities);
        }
        let plugin = Plugin::of(&greeting.plugin).unwrap_or_default();
        let mut login = Login {
            capabilities,
            longest: 1 << 30,
            collation: if collation == 0 { greeting.collation } else { collation },
            account: account.as_bytes().to_vec(),
            response: Vec::new(),
            schema: None,
            plugin: plugin.name().to_owned(),
        };
        let mut payload = BytesMut::new();
        if let (Some(_), Address::Tcp(address)) = (&self.authorities, &server.address) {
            if greeting.capabilities & SSL == 0 {
                return Err(ConnectError::NoTls);
            }
            capabilities |= SSL;
            login.capabilities = capabilities;
            login.put_head(&mut payload);
            sequence = channel.put(&payload, sequence.wrapping_add(1)).wrapping_sub(1);
            channel.flush().await?;
            payload.clear();
            let Stream::Tcp(stream) = channel.take_stream() else { return Err(ConnectError::NoTls) };
            let tls = self.tls(server.tls_name.as_ref()).map_err(io::Error::other)?;
            let stream = tls.connect(stream, Some(address.ip())).await?;
            channel.set_stream(Stream::Client(Box::new(stream)));
        }
        login.response = plugin.answer(password, &greeting.challenge);
        login.put(&mut payload);
        channel.put(&payload, sequence.wrapping_add(1));
        channel.flush().await?;
        prove(&mut channel, password, plugin).await?;
        Ok((channel, greeting, capabilities))
    }
}

/// Answers whatever the server asks until it is content.
async fn prove(channel: &mut Channel, password: &[u8], mut plugin: Plugin) -> Result<(), ConnectError> {
    // A switch of the plugin, and two packets of its own, are all that there may be.
    for _ in 0..6 {
        let (payload, sequence) = channel.packet_of(LOGIN_PACKET).await?;
        fail_on_error(&payload)?;
        let answer = match payload.first() {
            Some(&OK) => return Ok(()),
            Some(0xfe) => {
                let (name, new) = parse_switch(&payload)?;
                plugin = Plugin::of(&name).ok_or(ConnectError::Plugin(name))?;
                plugin.answer(password, &new)
            }
            // More data of caching_sha2_password: 3 is content, 4 wants the password.
            Some(1) => match payload.get(1) {
                Some(3) => continue,
                Some(4) if plugin == Plugin::CachingSha2 && channel.is_private() => [password, &[0]].concat(),
                Some(4) => return Err(ConnectError::PasswordInTheOpen),
                _ => return Err(Malformed.into()),
            },
            _ => return Err(Malformed.into()),
        };
        channel.put(&answer, sequence.wrapping_add(1));
        channel.flush().await?;
    }
    Err(Malformed.into())
}

fn fail_on_error(payload: &[u8]) -> Result<(), ConnectError> {
    if payload.first() != Some(&ERR) {
        return Ok(());
    }
    let error = ErrPacket::parse(payload)?;
    Err(ConnectError::Refused {
        code: error.code,
        message: String::from_utf8_lossy(error.message).into_owned(),
    })
}
