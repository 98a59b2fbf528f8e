//! What survives what, and why: the question that an outage otherwise answers.

use crate::model::{Role, Server, Site};

/// What happens when one server dies.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Loss {
    /// The server.
    pub server: String,
    /// Whether visitors still get the site.
    pub survives: bool,
    /// Why, in plain words.
    pub reason: String,
}

impl Site {
    /// For each server, whether the site outlives it.
    pub fn survival(&self) -> Vec<Loss> {
        self.servers.iter().map(|server| self.loss_of(server)).collect()
    }

    fn loss_of(&self, server: &Server) -> Loss {
        let alone: Vec<&str> = [Role::Dns, Role::Edge, Role::Web, Role::App]
            .into_iter()
            .filter(|role| server.has(*role) && self.with_role(*role).count() == 1)
            .map(Role::name)
            .chain(self.primary().filter(|primary| primary.name == server.name).map(|_| "database"))
            .collect();
        let reason = match alone.as_slice() {
            [] => "another server has each of its roles".to_owned(),
            [one] => format!("no other server runs {one}"),
            [most @ .., last] => format!("no other server runs {} and {last}", most.join(", ")),
        };
        Loss { server: server.name.to_string(), survives: alone.is_empty(), reason }
    }
}
