//! What an error of etcd says of the request: done or not, and worth another attempt or not.

use bytes::Bytes;

use crate::{Error, LeaseId};

/// What became of one attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It was answered.
    Done(Bytes),
    /// It was decided against it, and would be anywhere.
    Refused(Error),
    /// This endpoint certainly did nothing. Another one may.
    NotDone(String),
    /// Nobody can say.
    Unknown(String),
}

/// Reads a code of gRPC (google/rpc/code.proto) and etcd's sentence (`rpctypes/error.go`).
///
/// What is not known to mean "not done" is taken as "may have been done".
pub(crate) fn verdict(code: i32, said: &str) -> Verdict {
    let why = said.to_owned();
    match code {
        5 if said.contains("lease not found") => Verdict::Refused(Error::LeaseGone { lease: LeaseId(0) }),
        8 if said.contains("space exceeded") => Verdict::Refused(Error::Full { why }),
        // Refused before it was proposed; another member may be less busy.
        8 if said.contains("too many requests") => Verdict::NotDone(why),
        3 | 5..=9 | 11 | 12 | 16 => Verdict::Refused(Error::Rejected { why }),
        // Said before anything is proposed. "Leader changed" and "timed out" are not: those came after.
        14 if said == "etcdserver: no leader" => Verdict::NotDone(why),
        _ => Verdict::Unknown(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_certainly_did_not_happen_is_said_not_to_have() {
        for (code, said) in [
            (14, "etcdserver: request timed out"),
            (14, "etcdserver: request timed out, possibly due to previous leader failure"),
            (14, "etcdserver: leader changed"),
            (14, "transport is closing"),
            (4, "context deadline exceeded"),
            (1, "context canceled"),
            (2, "unexpected"),
            (13, "internal"),
            (99, "a code that nobody knows"),
        ] {
            assert!(matches!(verdict(code, said), Verdict::Unknown(_)), "{code} {said}");
        }
        for (code, said) in [(14, "etcdserver: no leader"), (8, "etcdserver: too many requests")] {
            assert!(matches!(verdict(code, said), Verdict::NotDone(_)), "{code} {said}");
        }
        assert!(matches!(
            verdict(5, "etcdserver: requested lease not found"),
            Verdict::Refused(Error::LeaseGone { .. })
        ));
        assert!(matches!(
            verdict(8, "etcdserver: mvcc: database space exceeded"),
            Verdict::Refused(Error::Full { .. })
        ));
    }
}
