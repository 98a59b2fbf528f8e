//! What survives what, and why: the question that an outage otherwise answers.

use crate::model::{Role, Server, Site};
use crate::plan::cluster::Durability;

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
            .chain(self.needs(server))
            .collect();
        let reason = match alone.as_slice() {
            [] => "another server has each of its roles".to_owned(),
            [one] => format!("no other server runs {one}"),
            [most @ .., last] => format!("no other server runs {} and {last}", most.join(", ")),
        };
        Loss { server: server.name.to_string(), survives: alone.is_empty(), reason }
    }

    /// What the database loses with the server.
    fn needs(&self, server: &Server) -> Option<&'static str> {
        if !self.keeps_data(server) {
            return None;
        }
        let count = |role| self.with_role(role).count();
        if !self.has_replicas() {
            return Some("database");
        }
        if self.database.durability == Durability::NoLoss && count(Role::Database) == 2 {
            return Some("a second database, without which writes wait,");
        }
        let is_both = server.has(Role::Coordinator) && count(Role::Coordinator) == 1;
        is_both.then_some("the coordinator, without which no replica takes the primary's place")
    }
}
