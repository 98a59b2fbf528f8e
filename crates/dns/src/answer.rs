//! From a query to its response: a pure function of the zones, the message and the transport.

use hickory_proto::ProtoError;
use hickory_proto::op::{Header, MessageType, Metadata, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};

use crate::key::Key;
use crate::question::{self, Content};
use crate::response::{Edns, Full, Section, UDP_BYTES, Writer};
use crate::zone::{Found, Node, Set, Zone, Zones};

/// What a client without EDNS can take over UDP (RFC 1035, 4.2.1).
const PLAIN_UDP_BYTES: u16 = 512;
/// Aliases followed for one question, so that a loop of them ends.
const ALIASES: usize = 8;

/// How the query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: the response is cut to what the client can take.
    Udp,
    /// Over a connection: the response may have 65,535 bytes.
    Tcp,
}

/// What kind of response it is. Rate limits count each kind apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Records.
    Answer,
    /// Other servers to ask.
    Referral,
    /// The name exists, but nothing of that type.
    NoData,
    /// The name does not exist.
    NameError,
    /// Refused, not understood, not implemented.
    Error,
}

/// What was answered, for limits and metrics. The response itself is in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// The kind of response.
    pub kind: Kind,
    /// The type asked for; none where the question could not be read.
    pub query_type: Option<RecordType>,
    /// The response code.
    pub code: ResponseCode,
    /// Whether the client was told to come back over TCP.
    pub truncated: bool,
    /// Where the question ends in the response.
    pub(crate) question_end: usize,
}

/// Answers a message into `response`, whose content is replaced. None: nothing is to be sent.
pub fn answer(
    zones: &Zones,
    message: &[u8],
    transport: Transport,
    response: &mut Vec<u8>,
) -> Option<Answered> {
    response.clear();
    let asked = question::read(message)?;
    let metadata = response_to(&asked.header);
    let written = match &asked.content {
        Content::OtherOperation => error(metadata, response, ResponseCode::NotImp, None, None),
        Content::Malformed(query) => error(metadata, response, ResponseCode::FormErr, query.as_ref(), None),
        Content::Question { query, edns } => {
            query_response(zones, metadata, query, *edns, transport, response)
        }
    };
    // Nothing but a fault of ours can make writing fail; silence is then the answer that harms nobody.
    written.inspect_err(|error| tracing::error!(%error, "a response could not be written")).ok()
}

/// The header of the response: same number, same wish for recursion, which we do not offer.
fn response_to(header: &Header) -> Metadata {
    let mut metadata = Metadata::new(header.metadata.id, MessageType::Response, header.metadata.op_code);
    metadata.recursion_desired = header.metadata.recursion_desired;
    metadata
}

fn error(
    mut metadata: Metadata,
    response: &mut Vec<u8>,
    code: ResponseCode,
    query: Option<&Query>,
    edns: Option<Edns>,
) -> Result<Answered, ProtoError> {
    metadata.response_code = code;
    let writer = Writer::new(response, PLAIN_UDP_BYTES, query, edns)?;
    let question_end = writer.question_end();
    writer.finish(metadata, false)?;
    let query_type = query.map(|query| query.query_type);
    Ok(Answered { kind: Kind::Error, query_type, code, truncated: false, question_end })
}

fn query_response(
    zones: &Zones,
    mut metadata: Metadata,
    query: &Query,
    edns: Option<Edns>,
    transport: Transport,
    response: &mut Vec<u8>,
) -> Result<Answered, ProtoError> {
    let key = Key::of(&query.name);
    let zone = match judge(zones, query, &key, edns) {
        Ok(zone) => zone,
        Err(code) => return error(metadata, response, code, Some(query), edns),
    };
    let size = match (transport, edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => PLAIN_UDP_BYTES,
        (Transport::Udp, Some(edns)) => edns.payload_bytes.clamp(PLAIN_UDP_BYTES, UDP_BYTES),
    };
    let writer = Writer::new(response, size, Some(query), edns)?;
    let question_end = writer.question_end();
    let mut search = Search { zone, query_type: query.query_type, writer, authoritative: true };
    let outcome = search.name(&query.name, key);
    metadata.authoritative = search.authoritative;
    let (kind, truncated) = match outcome {
        Ok(kind) => (kind, false),
        Err(Full) => (Kind::Answer, true),
    };
    if kind == Kind::NameError {
        metadata.response_code = ResponseCode::NXDomain;
    }
    search.writer.finish(metadata, truncated)?;
    let query_type = Some(query.query_type);
    Ok(Answered { kind, query_type, code: metadata.response_code, truncated, question_end })
}

/// Whether a well-formed question is for us; the zone that it is about, or the code that says no.
fn judge<'z>(
    zones: &'z Zones,
    query: &Query,
    key: &Key,
    edns: Option<Edns>,
) -> Result<&'z Zone, ResponseCode> {
    if edns.is_some_and(|edns| edns.version > 0) {
        return Err(ResponseCode::BADVERS);
    }
    match query.query_type {
        // A record of the message itself, never of a zone.
        RecordType::OPT => return Err(ResponseCode::FormErr),
        // Whole zones are for secondaries, which we have none of.
        RecordType::AXFR | RecordType::IXFR => return Err(ResponseCode::Refused),
        // RFC 6895, 3.1: 128 to 254 are no data but commands, none of which we know.
        other if (128..=254).contains(&u16::from(other)) => return Err(ResponseCode::NotImp),
        _ => {}
    }
    // Other classes include CHAOS, by which servers are asked for their version.
    if query.query_class != DNSClass::IN {
        return Err(ResponseCode::Refused);
    }
    zones.of(key, query.query_type).ok_or(ResponseCode::Refused)
}

/// The search for one question, which writes what it finds.
struct Search<'z, 'b> {
    zone: &'z Zone,
    query_type: RecordType,
    writer: Writer<'b>,
    authoritative: bool,
}

impl<'z> Search<'z, '_> {
    /// Answers for a name of the zone and follows its aliases while they stay in the zone (RFC 1034, 4.3.2).
    fn name(&mut self, name: &Name, key: Key) -> Result<Kind, Full> {
        let mut name = name;
        let mut key = key;
        for followed in 0..=ALIASES {
            let node = match self.zone.find(&key) {
                Found::Here(node) | Found::Wildcard(node) => node,
                Found::Delegated { exact: true, .. } if self.query_type == RecordType::DS => {
                    // The cut's DS would be ours to tell; we do not sign, so there is none.
                    return self.negative(Kind::NoData);
                }
                Found::Delegated { servers, cut, .. } => {
                    self.authoritative = followed > 0;
                    return self.referral(cut, servers);
                }
                Found::Nowhere => return self.negative(Kind::NameError),
            };
            let Some(alias) = self.alias(node) else { return self.node(name, node) };
            if followed == ALIASES {
                break;
            }
            self.writer.set(Section::Answer, name, alias.0, alias.0.ttl)?;
            name = alias.1;
            key = Key::of(name);
            if !key.is_within(&Key::of(&self.zone.apex)) {
                break;
            }
        }
        Ok(Kind::Answer)
    }

    /// The alias to follow instead of an answer.
    fn alias(&self, node: &'z Node) -> Option<(&'z Set, &'z Name)> {
        if matches!(self.query_type, RecordType::CNAME | RecordType::ANY) {
            return None;
        }
        let set = node.set(RecordType::CNAME)?;
        match set.data.first() {
            Some(RData::CNAME(target)) => Some((set, &target.0)),
            _ => None,
        }
    }

    fn node(&mut self, name: &Name, node: &'z Node) -> Result<Kind, Full> {
        let found = match self.query_type {
            RecordType::ANY => node.first_set(),
            query_type => node.set(query_type),
        };
        let Some(set) = found else { return self.negative(Kind::NoData) };
        self.writer.set(Section::Answer, name, set, set.ttl)?;
        // The addresses of name and mail servers spare the client a question; left out where they do not fit.
        let _ = self.additional(set, true).and_then(|()| self.additional(set, false));
        Ok(Kind::Answer)
    }

    fn negative(&mut self, kind: Kind) -> Result<Kind, Full> {
        let soa = self.zone.soa();
        self.writer.set(Section::Authority, &self.zone.apex, soa, soa.ttl)?;
        Ok(kind)
    }

    fn referral(&mut self, cut: &Name, servers: &'z Set) -> Result<Kind, Full> {
        self.writer.set(Section::Authority, cut, servers, servers.ttl)?;
        // RFC 9471: without the addresses of servers below the cut nobody finds them, so those have to fit.
        self.additional(servers, true)?;
        let _ = self.additional(servers, false);
        Ok(Kind::Referral)
    }

    fn additional(&mut self, set: &'z Set, inside: bool) -> Result<(), Full> {
        self.zone.hosts(set, inside).try_for_each(|host| self.writer.addresses(host))
    }
}
