//! A response being written: sections in order, cut to what the client can take.

use hickory_proto::ProtoError;
use hickory_proto::op::{Header, HeaderCounts, Metadata, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, Place};

use crate::zone::{Node, Set};

/// What we take and send over UDP: fits every path without fragments (DNS flag day 2020).
pub(crate) const UDP_BYTES: u16 = 1232;
/// An OPT record without options.
const OPT_BYTES: u16 = 11;
/// Bit 1 of the third byte of a message.
const TRUNCATED: u8 = 0x02;
/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 12;

/// What the client told of itself by EDNS (RFC 6891).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edns {
    pub(crate) payload_bytes: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
}

/// The record did not fit any more, or cannot be written at all.
pub(crate) struct Full;

/// Where records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// The writer. Sections are to be filled in their order.
pub(crate) struct Writer<'b> {
    encoder: BinEncoder<'b>,
    header: Place<Header>,
    edns: Option<Edns>,
    size: u16,
    question_end: usize,
    counts: HeaderCounts,
}

impl<'b> Writer<'b> {
    /// Begins a response of at most `size` bytes, in an empty buffer.
    pub(crate) fn new(
        buffer: &'b mut Vec<u8>,
        size: u16,
        question: Option<&Query>,
        edns: Option<Edns>,
    ) -> Result<Self, ProtoError> {
        buffer.clear();
        let mut encoder = BinEncoder::new(buffer);
        encoder.set_max_size(size - if edns.is_some() { OPT_BYTES } else { 0 });
        let header = encoder.place::<Header>()?;
        let mut counts = HeaderCounts::default();
        if let Some(question) = question {
            question.emit(&mut encoder)?;
            counts.queries = 1;
        }
        Ok(Self { question_end: encoder.offset(), encoder, header, edns, size, counts })
    }

    /// Where the question ends.
    pub(crate) fn question_end(&self) -> usize {
        self.question_end
    }

    /// Writes all records of a set under a name of the caller's choice, or none of them.
    pub(crate) fn set(&mut self, section: Section, owner: &Name, set: &Set, ttl: u32) -> Result<(), Full> {
        let start = self.encoder.offset();
        for data in &set.data {
            if record(&mut self.encoder, owner, set.record_type, ttl, data).is_err() {
                self.encoder.set_offset(start);
                self.encoder.trim();
                return Err(Full);
            }
        }
        let count = match section {
            Section::Answer => &mut self.counts.answers,
            Section::Authority => &mut self.counts.authorities,
            Section::Additional => &mut self.counts.additionals,
        };
        *count += set.data.len() as u16;
        Ok(())
    }

    /// Writes the addresses of a host into the additional section.
    pub(crate) fn addresses(&mut self, host: &Node) -> Result<(), Full> {
        host.addresses().try_for_each(|set| self.set(Section::Additional, &host.name, set, set.ttl))
    }

    /// Leaves only the question, and tells the client to come back over TCP.
    fn truncate(&mut self) {
        self.encoder.set_offset(self.question_end);
        self.encoder.trim();
        self.counts = HeaderCounts { queries: self.counts.queries, ..HeaderCounts::default() };
    }

    /// Writes the OPT record and the header. With `truncated` nothing but the question is kept.
    pub(crate) fn finish(mut self, mut metadata: Metadata, truncated: bool) -> Result<(), ProtoError> {
        if truncated {
            self.truncate();
            metadata.truncation = true;
        }
        self.encoder.set_max_size(self.size);
        if let Some(edns) = self.edns {
            opt(&mut self.encoder, edns, metadata.response_code)?;
            self.counts.additionals += 1;
        }
        self.header.replace(&mut self.encoder, Header { metadata, counts: self.counts })
    }
}

fn record(
    encoder: &mut BinEncoder<'_>,
    owner: &Name,
    record_type: RecordType,
    ttl: u32,
    data: &impl BinEncodable,
) -> Result<(), ProtoError> {
    owner.emit(encoder)?;
    record_type.emit(encoder)?;
    DNSClass::IN.emit(encoder)?;
    encoder.emit_u32(ttl)?;
    let length = encoder.place::<u16>()?;
    data.emit(encoder)?;
    let bytes = encoder.len_since_place(&length) as u16;
    length.replace(encoder, bytes)
}

fn opt(encoder: &mut BinEncoder<'_>, edns: Edns, code: ResponseCode) -> Result<(), ProtoError> {
    encoder.emit_u8(0)?;
    RecordType::OPT.emit(encoder)?;
    encoder.emit_u16(UDP_BYTES)?;
    // The upper bits of the response code, our version (0), the flags, no options. RFC 3225 wants DO sent back as it came.
    encoder.emit_u32(u32::from(code.high()) << 24 | u32::from(edns.dnssec_ok) << 15)?;
    encoder.emit_u16(0)
}

/// Turns a finished response into its truncated form: only header and question, with the client told to use TCP.
pub(crate) fn cut(response: &mut Vec<u8>, question_end: usize) {
    response.truncate(question_end);
    if let Some(flags) = response.get_mut(2) {
        *flags |= TRUNCATED;
    }
    if let Some(counts) = response.get_mut(6..HEADER_BYTES) {
        counts.fill(0);
    }
}
