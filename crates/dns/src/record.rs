//! Records of the plan in the codec's terms.

use hickory_proto::rr::rdata::{A, AAAA, CAA, CNAME, MX, NS, SOA, TXT};
use hickory_proto::rr::{Name, RData};
use mainstay_site::plan::{RecordData, Soa};

use crate::zone::ZoneError;

/// The longest string inside a TXT record (RFC 1035, 3.3).
const STRING_BYTES: usize = 255;

/// A name of the plan: in full, without the final dot; empty for the root.
pub(crate) fn name(text: &str) -> Result<Name, ZoneError> {
    let wrong = |reason: String| ZoneError::Name { name: text.to_owned(), reason };
    if text.is_empty() {
        return Ok(Name::root());
    }
    if text.split('.').any(str::is_empty) {
        return Err(wrong("it has an empty part between two dots".to_owned()));
    }
    Name::from_labels(text.split('.').map(str::as_bytes)).map_err(|error| wrong(error.to_string()))
}

pub(crate) fn soa(soa: &Soa) -> Result<RData, ZoneError> {
    // RFC 1035 has these as 32 bits without a sign; the codec has them with one, and nobody waits 68 years.
    let seconds = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    Ok(RData::SOA(SOA::new(
        name(&soa.primary)?,
        name(&soa.mailbox)?,
        soa.serial,
        seconds(soa.refresh),
        seconds(soa.retry),
        seconds(soa.expire),
        soa.minimum,
    )))
}

pub(crate) fn data(data: &RecordData) -> Result<RData, ZoneError> {
    Ok(match data {
        RecordData::A { address } => RData::A(A(*address)),
        RecordData::Aaaa { address } => RData::AAAA(AAAA(*address)),
        RecordData::Ns { target } => RData::NS(NS(name(target)?)),
        RecordData::Cname { target } => RData::CNAME(CNAME(name(target)?)),
        RecordData::Mx { preference, target } => RData::MX(MX::new(*preference, name(target)?)),
        RecordData::Txt { text } => RData::TXT(TXT::from_bytes(strings(text))),
        RecordData::Caa { critical, tag, value } => {
            if tag.is_empty() || tag.len() > 255 || !tag.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(ZoneError::CaaTag { tag: tag.clone() });
            }
            let mut caa = CAA::new_issue(*critical, None, Vec::new());
            caa.tag.clone_from(tag);
            caa.value = value.as_bytes().to_vec();
            RData::CAA(caa)
        }
    })
}

/// The strings of a TXT record; it has at least one, be it empty.
fn strings(text: &str) -> Vec<&[u8]> {
    if text.is_empty() { vec![b""] } else { text.as_bytes().chunks(STRING_BYTES).collect() }
}
