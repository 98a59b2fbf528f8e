//! Counts the frames that cost work and bring nothing, and cuts a connection that sends too many.
//!
//! The `h2` crate bounds what one frame may do; this bounds how many there may be. `PING`, `SETTINGS` and reset floods
//! (CVE-2023-44487, CVE-2019-9512, CVE-2019-9515, CVE-2025-8671) are one frame repeated.

pub(crate) const FRAME_HEAD: usize = 9;
/// A reset costs a started request, so it weighs more than other frames.
const RESET_WEIGHT: u64 = 8;
/// Bytes that we send for each frame of flow control that a client owes us.
const BYTES_PER_CREDIT: u64 = 512;

/// Follows the frames of one direction; a pure decision.
#[derive(Debug)]
pub(crate) struct FrameMeter {
    per_second: u64,
    credit: u64,
    refilled_ms: u64,
    head: [u8; FRAME_HEAD],
    have: usize,
    payload_left: usize,
}

impl FrameMeter {
    /// A meter for a stream that begins with a preface of `preface` bytes.
    pub(crate) fn new(per_second: u32, preface: usize) -> Self {
        let per_second = u64::from(per_second.max(1));
        Self {
            per_second,
            credit: per_second,
            refilled_ms: 0,
            head: [0; FRAME_HEAD],
            have: 0,
            payload_left: preface,
        }
    }

    /// Looks at received bytes. False: too many frames without use.
    pub(crate) fn received(&mut self, mut bytes: &[u8], now_ms: u64) -> bool {
        let passed = now_ms.saturating_sub(self.refilled_ms);
        self.refilled_ms = now_ms;
        // Downloads earn credit beyond one second's worth: their windows are updated often.
        let full = self.per_second.max(self.credit);
        self.credit = (self.credit + self.per_second * passed / 1000).min(full);
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skip = self.payload_left.min(bytes.len());
                self.payload_left -= skip;
                bytes = &bytes[skip..];
                continue;
            }
            let take = (FRAME_HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            bytes = &bytes[take..];
            if self.have == FRAME_HEAD {
                self.have = 0;
                self.payload_left =
                    u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize;
                let Some(credit) = self.credit.checked_sub(self.weight()) else { return false };
                self.credit = credit;
            }
        }
        true
    }

    /// What we send, the client has to acknowledge.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let most = self.per_second * 16;
        self.credit = (self.credit + bytes as u64 / BYTES_PER_CREDIT).min(most.max(self.credit));
    }

    /// What the frame whose head was just completed costs (RFC 9113, 6).
    fn weight(&self) -> u64 {
        const END: u8 = 1;
        let (kind, flags) = (self.head[3], self.head[4]);
        match kind {
            // DATA and HEADERS are of use, and bounded elsewhere; empty DATA is not, unless it ends a stream.
            0 if self.payload_left == 0 && flags & END == 0 => 1,
            0 | 1 => 0,
            3 => RESET_WEIGHT,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FrameMeter;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.extend(std::iter::repeat_n(0, usize::from(length)));
        bytes
    }

    #[test]
    fn floods_are_cut_and_requests_are_not() {
        for (kind, length) in [(0, 0), (2, 5), (3, 4), (4, 0), (6, 8), (8, 4), (9, 0)] {
            let mut meter = FrameMeter::new(100, 24);
            assert!(meter.received(&[0; 24], 0));
            assert!((0..200).any(|_| !meter.received(&frame(kind, 0, length), 0)), "frame {kind}");
        }
        let mut meter = FrameMeter::new(100, 0);
        assert!(
            (0..10_000).all(|_| meter.received(&frame(1, 5, 30), 0) && meter.received(&frame(0, 0, 30), 0))
        );
    }

    #[test]
    fn a_download_may_update_its_windows() {
        let mut meter = FrameMeter::new(100, 0);
        assert!((0..10_000).all(|_| {
            meter.sent(16 * 1024);
            meter.received(&frame(8, 0, 4), 0) && meter.received(&frame(8, 0, 4), 0)
        }));
    }

    #[test]
    fn time_refills_and_splits_do_not_matter() {
        let mut meter = FrameMeter::new(100, 24);
        assert!(meter.received(&[0; 24], 0));
        for second in 0..100 {
            for _ in 0..90 {
                for byte in frame(6, 0, 8) {
                    assert!(meter.received(&[byte], second * 1000));
                }
            }
        }
    }
}
