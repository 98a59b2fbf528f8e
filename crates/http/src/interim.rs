//! Interim responses (1xx) on their way from a service to the client (RFC 9110, 15.2).

use std::cell::Cell;
use std::rc::Rc;

use http::{HeaderMap, StatusCode};

/// Interim responses to one request at most.
pub(crate) const MOST_INTERIM: usize = 16;

type Send = dyn Fn(StatusCode, HeaderMap);

/// Passes interim responses to the client while its request is worked on: 103 Early Hints, 102 Processing, and the 100
/// of an upstream that was asked to `Expect`. Clones are the same way to the same client. The default leads nowhere.
#[derive(Clone, Default)]
pub struct Interim(Option<Rc<Way>>);

struct Way {
    left: Cell<usize>,
    send: Box<Send>,
}

impl Interim {
    /// A way to a client, for the engine and for services that stand between it and another service.
    pub fn new(send: impl Fn(StatusCode, HeaderMap) + 'static) -> Self {
        Self(Some(Rc::new(Way { left: Cell::new(MOST_INTERIM), send: Box::new(send) })))
    }

    /// Sends one. Ignored without harm: what is no interim status or 101, what comes after the final response began,
    /// what comes after the 16th, and everything to clients of HTTP/1.0, which know no interim responses.
    pub fn send(&self, status: StatusCode, headers: HeaderMap) {
        let Some(way) = &self.0 else { return };
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS || way.left.get() == 0 {
            return;
        }
        way.left.set(way.left.get() - 1);
        (way.send)(status, headers);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use http::{HeaderMap, StatusCode};

    use super::{Interim, MOST_INTERIM};

    #[test]
    fn only_interim_statuses_pass_and_not_too_many() {
        let count = Rc::new(Cell::new(0));
        let counted = Rc::clone(&count);
        let interim = Interim::new(move |_, _| counted.set(counted.get() + 1));
        for status in [StatusCode::OK, StatusCode::SWITCHING_PROTOCOLS, StatusCode::NOT_FOUND] {
            interim.send(status, HeaderMap::new());
        }
        assert_eq!(count.get(), 0);
        for _ in 0..100 {
            interim.send(StatusCode::EARLY_HINTS, HeaderMap::new());
        }
        assert_eq!(count.get(), MOST_INTERIM);
    }
}
