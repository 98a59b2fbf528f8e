//! Requests to the coordinator, with all that may become of them on the way.

use std::time::Duration;

use super::keeper::ANSWER_WITHIN;
use super::world::{What, World};
use crate::cluster::{Event, LeaseId, Outcome, Transaction};

impl World {
    pub(super) fn way_to_coordinator(&mut self) -> Duration {
        if !self.calm && self.dice.one_in(25) {
            self.dice.millis(20, 300)
        } else {
            self.dice.micros(500, 6000)
        }
    }

    pub(super) fn send(&mut self, server: usize, keeper: u64, id: u64, transaction: Transaction) {
        let unknown = Event::Answer { id, outcome: Outcome::Unknown };
        let is_lost = !self.reaches_coordinator(server) || !self.calm && self.dice.one_in(60);
        if is_lost {
            return self.after(ANSWER_WITHIN, What::Tell { server, keeper, event: unknown });
        }
        let transaction = Box::new(transaction);
        if !self.calm && self.dice.one_in(60) {
            // It lies somewhere, and comes when nobody waits for it any more.
            self.after(ANSWER_WITHIN, What::Tell { server, keeper, event: unknown });
            let delay = ANSWER_WITHIN + self.dice.millis(0, 3000);
            return self.after(delay, What::Transact { server, keeper, id, transaction, answers: false });
        }
        let delay = self.way_to_coordinator();
        self.after(delay, What::Transact { server, keeper, id, transaction, answers: true });
    }

    pub(super) fn transact(
        &mut self,
        server: usize,
        keeper: u64,
        id: u64,
        transaction: Transaction,
        answers: bool,
    ) {
        if self.coordinator.is_down {
            if answers {
                let event = Event::Answer { id, outcome: Outcome::Unknown };
                self.after(ANSWER_WITHIN, What::Tell { server, keeper, event });
            }
            return;
        }
        self.expire();
        let outcome = self.coordinator.transact(transaction);
        self.trace(|| format!("  {server} transaction {id}: {outcome:?}"));
        if matches!(outcome, Outcome::Won { .. }) {
            self.changed();
        }
        if answers {
            let is_heard = self.reaches_coordinator(server) && (self.calm || !self.dice.one_in(60));
            let (delay, outcome) = if is_heard {
                (self.way_to_coordinator(), outcome)
            } else {
                (ANSWER_WITHIN, Outcome::Unknown)
            };
            self.after(delay, What::Tell { server, keeper, event: Event::Answer { id, outcome } });
        }
    }

    /// Something was written: all that watch hear of it.
    pub(super) fn changed(&mut self) {
        self.check_view();
        let view = self.coordinator.view.clone();
        for server in 0..self.servers.len() {
            if self.reaches_coordinator(server) && self.servers[server].keeper.is_some() {
                let keeper = self.servers[server].keeper_number;
                let delay = if !self.calm && self.dice.one_in(20) {
                    self.dice.millis(10, 900)
                } else {
                    self.way_to_coordinator()
                };
                self.after(delay, What::Show { server, keeper, view: view.clone() });
            }
        }
        let leader = view.leader.as_ref().filter(|leader| leader.value.phase == crate::cluster::Phase::Open);
        let leader = leader.map(|leader| self.index(&leader.value.server));
        if leader.is_some() && leader != self.routed {
            let delay = self.dice.millis(1, 15);
            self.after(delay, What::Route { leader });
        }
    }

    pub(super) fn grant(&mut self, server: usize, number: u64, sent_at: Duration) {
        if self.coordinator.is_down {
            return self
                .after(ANSWER_WITHIN, What::Tell { server, keeper: number, event: Event::LeaseFailed });
        }
        let lease = self.coordinator.grant(self.now, self.timing.ttl);
        self.after(self.timing.ttl, What::Expire);
        if self.keeper(server, number).is_some() {
            let delay = self.way_to_coordinator();
            let event = Event::LeaseGranted { lease, sent_at };
            self.after(delay, What::Tell { server, keeper: number, event });
        }
    }

    pub(super) fn renew(&mut self, server: usize, number: u64) {
        let now = self.now;
        let reaches = self.reaches_coordinator(server);
        let Some(keeper) = self.keeper(server, number) else { return };
        let lease = keeper.lease.filter(|_| !keeper.frozen);
        self.after(self.timing.ttl / 6, What::Renew { server, keeper: number });
        if let Some(lease) = lease.filter(|_| reaches) {
            let delay = self.way_to_coordinator();
            self.after(delay, What::RenewAt { server, keeper: number, lease, sent_at: now });
        }
    }

    pub(super) fn renew_at(&mut self, server: usize, number: u64, lease: LeaseId, sent_at: Duration) {
        if self.coordinator.is_down {
            return;
        }
        self.expire();
        let event = if self.coordinator.renew(lease, self.now, self.timing.ttl) {
            self.after(self.timing.ttl, What::Expire);
            Event::LeaseRenewed { lease, sent_at }
        } else {
            if !self.reaches_coordinator(server) {
                return;
            }
            if let Some(keeper) = self.keeper(server, number) {
                keeper.lease = keeper.lease.filter(|known| *known != lease);
            }
            Event::LeaseLost { lease }
        };
        if self.reaches_coordinator(server) {
            let delay = if !self.calm && self.dice.one_in(10) {
                self.dice.millis(200, 2500)
            } else {
                self.way_to_coordinator()
            };
            self.after(delay, What::Tell { server, keeper: number, event });
        }
    }

    pub(super) fn expire(&mut self) {
        if !self.coordinator.is_down && self.coordinator.expire(self.now) {
            self.changed();
        }
    }
}
