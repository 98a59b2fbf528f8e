//! Reading a query: what is asked, by a client that can take how much. Anything else in the message is stepped over.

use hickory_proto::op::{Header, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

use crate::response::{Edns, HEADER_BYTES};

/// A message that wants a response.
pub(crate) struct Asked {
    pub(crate) header: Header,
    pub(crate) content: Content,
}

/// What the message holds.
pub(crate) enum Content {
    /// An operation other than a query; the rest was not read, since its form is not ours to know.
    OtherOperation,
    /// A query that cannot be read; the question is there if that much could be.
    Malformed(Option<Query>),
    /// One question.
    Question { query: Query, edns: Option<Edns> },
}

/// Reads a message. None: there is nobody to answer, because it has no header or is itself a response; answering
/// those would let two servers talk to each other for ever.
pub(crate) fn read(message: &[u8]) -> Option<Asked> {
    if message.len() < HEADER_BYTES {
        return None;
    }
    let mut decoder = BinDecoder::new(message);
    let header = Header::read(&mut decoder).ok()?;
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let content = if header.metadata.op_code == OpCode::Query {
        query(&mut decoder, &header)
    } else {
        Content::OtherOperation
    };
    Some(Asked { header, content })
}

fn query(decoder: &mut BinDecoder<'_>, header: &Header) -> Content {
    // RFC 9619: a query has exactly one question.
    if header.counts.queries != 1 {
        return Content::Malformed(None);
    }
    let Ok(query) = Query::read(decoder) else { return Content::Malformed(None) };
    match rest(decoder, header) {
        Ok(edns) => Content::Question { query, edns },
        Err(_) => Content::Malformed(Some(query)),
    }
}

/// Steps over the records behind the question and takes the OPT record out of them.
fn rest(decoder: &mut BinDecoder<'_>, header: &Header) -> Result<Option<Edns>, DecodeError> {
    let before = usize::from(header.counts.answers) + usize::from(header.counts.authorities);
    let all = before + usize::from(header.counts.additionals);
    let mut edns = None;
    for index in 0..all {
        let name = Name::read(decoder)?;
        let record_type = RecordType::read(decoder)?;
        let class = decoder.read_u16()?.unverified();
        let ttl = decoder.read_u32()?.unverified();
        let length = decoder.read_u16()?.unverified();
        let data = decoder.read_slice(usize::from(length))?.unverified();
        if record_type == RecordType::OPT {
            // RFC 6891, 6.1.1: one at most, in the additional section, at the root.
            if edns.is_some() || index < before || !name.is_root() {
                return Err(DecodeError::DuplicateEdns);
            }
            options(data)?;
            edns =
                Some(Edns { payload_bytes: class, version: (ttl >> 16) as u8, dnssec_ok: ttl & 0x8000 != 0 });
        }
    }
    Ok(edns)
}

/// Options are not used, but have to be whole.
fn options(data: &[u8]) -> Result<(), DecodeError> {
    let mut decoder = BinDecoder::new(data);
    while !decoder.is_empty() {
        decoder.read_u16()?.unverified();
        let length = decoder.read_u16()?.unverified();
        decoder.read_slice(usize::from(length))?.unverified();
    }
    Ok(())
}
