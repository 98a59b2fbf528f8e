//! Where a statement goes: a pure decision.

use crate::config::Consistency;
use crate::statement::{Hint, Kind, Statement};

/// The kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// The primary.
    Primary,
    /// A replica, if one is fit, otherwise the primary.
    Replica,
    /// Whichever the session is connected to.
    Any,
    /// The server that ran the last statement.
    Last,
}

/// What must be waited for on a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Await {
    /// Nothing.
    Nothing,
    /// The session's own writes.
    OwnWrites,
}

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: To,
    pub(crate) wait: Await,
    pub(crate) why: &'static str,
}

/// What of a session matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// A transaction is open, or the next statement opens one.
    pub(crate) in_transaction: bool,
    /// It is bound to its connection to the primary, and why.
    pub(crate) bound: Option<&'static str>,
    /// It wrote something whose position is not known.
    pub(crate) wrote_unseen: bool,
    pub(crate) consistency: Consistency,
}

pub(crate) fn decide(statement: &Statement, view: View) -> Route {
    let primary = |why| Route { to: To::Primary, wait: Await::Nothing, why };
    if statement.kind == Kind::Diagnostics {
        return Route { to: To::Last, wait: Await::Nothing, why: statement.why };
    }
    if view.in_transaction {
        return primary("a transaction is open");
    }
    if let Some(why) = view.bound {
        return primary(why);
    }
    match statement.kind {
        Kind::Read => {}
        Kind::Set | Kind::SetNames | Kind::Use | Kind::Empty
            if statement.bind == crate::statement::Bind::Nothing =>
        {
            return Route { to: To::Any, wait: Await::Nothing, why: statement.why };
        }
        _ => return primary(statement.why),
    }
    let consistency = match statement.hint {
        Some(Hint::Primary) => return primary("a comment asks for the primary"),
        Some(Hint::Replica | Hint::Eventual) => Consistency::Eventual,
        Some(Hint::Session) => Consistency::Session,
        Some(Hint::Strong) => Consistency::Strong,
        None => view.consistency,
    };
    if statement.tableless && statement.hint.is_none() {
        return Route { to: To::Any, wait: Await::Nothing, why: "it reads no tables" };
    }
    match consistency {
        Consistency::Eventual => {
            Route { to: To::Replica, wait: Await::Nothing, why: "a plain read that may be a moment old" }
        }
        Consistency::Session if view.wrote_unseen => {
            primary("the session wrote something whose position is not known")
        }
        Consistency::Session => Route {
            to: To::Replica,
            wait: Await::OwnWrites,
            why: "a plain read that sees the session's own writes",
        },
        Consistency::Strong => primary("the read must see all writes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{Mode, classify};

    const IDLE: View =
        View { in_transaction: false, bound: None, wrote_unseen: false, consistency: Consistency::Session };

    fn route(text: &str, view: View) -> Route {
        decide(&classify(text.as_bytes(), Mode::default()), view)
    }

    #[test]
    fn plain_reads_go_to_replicas_and_all_else_to_the_primary() {
        assert_eq!(route("SELECT a FROM t", IDLE).to, To::Replica);
        assert_eq!(route("SELECT a FROM t", IDLE).wait, Await::OwnWrites);
        for text in ["UPDATE t SET a = 1", "SELECT a FROM t FOR UPDATE", "BEGIN", "SELECT f(1)", "SET @a = 1"]
        {
            assert_eq!(route(text, IDLE).to, To::Primary, "{text}");
        }
        assert_eq!(route("SELECT 1", IDLE).to, To::Any);
        assert_eq!(route("SHOW WARNINGS", IDLE).to, To::Last);
    }

    #[test]
    fn a_transaction_and_what_binds_a_session_keep_reads_on_the_primary() {
        assert_eq!(route("SELECT a FROM t", View { in_transaction: true, ..IDLE }).to, To::Primary);
        assert_eq!(route("SELECT a FROM t", View { bound: Some("x"), ..IDLE }).to, To::Primary);
        assert_eq!(route("SELECT a FROM t", View { wrote_unseen: true, ..IDLE }).to, To::Primary);
        let hinted = "/* mainstay: replica */ SELECT a FROM t";
        assert_eq!(route(hinted, View { in_transaction: true, ..IDLE }).to, To::Primary);
    }

    #[test]
    fn consistency_and_hints_decide_about_reads() {
        let strong = View { consistency: Consistency::Strong, ..IDLE };
        assert_eq!(route("SELECT a FROM t", strong).to, To::Primary);
        assert_eq!(route("/* mainstay: eventual */ SELECT a FROM t", strong).wait, Await::Nothing);
        assert_eq!(route("/* mainstay: session */ SELECT a FROM t", strong).wait, Await::OwnWrites);
        assert_eq!(route("/* mainstay: primary */ SELECT a FROM t", IDLE).to, To::Primary);
        assert_eq!(route("/* mainstay: replica */ UPDATE t SET a = 1", IDLE).to, To::Primary);
    }
}
