//! The synchronous set, as its leader lets it shrink and grow.
//!
//! What must hold at each moment: whoever can acknowledge is in the set, and, while it is strict, at least one of it has every acknowledged commit.

use std::time::Duration;

use super::keys::{Key, Mode, Promotion, State, Sync, Value};
use super::machine::Machine;
use super::position::{Epoch, Name};
use super::rules::Rule;
use super::state::{Purpose, Removing};
use super::words::{Job, Transaction};

/// A replica that is this far behind gains nothing for the set yet.
const LAG_TO_JOIN: u64 = 1000;

impl Machine {
    pub(super) fn manage_set(&mut self, now: Duration) {
        let Some(sync) = self.sync().cloned() else { return };
        let sync = sync.value;
        self.note_losses(&sync, now);
        // What is written decides who may be let in.
        if self.flight.as_ref().is_some_and(|(_, purpose)| *purpose == Purpose::Sync) {
            return;
        }
        if self.admit(&sync, now) || self.removes(&sync, now) {
            return;
        }
        match sync.mode {
            // Without the coordinator the set cannot be written, and who is shut out for nothing claims when it is back.
            Mode::Strict if !self.hears(now) => self.lost_since.clear(),
            Mode::Strict => self.shrink(&sync, now),
            Mode::Degraded | Mode::Unprotected => self.form(&sync, now),
        }
        self.grow(&sync, now);
    }

    /// Whether a replica streams from this server in this epoch.
    pub(super) fn is_healthy(&self, name: &Name) -> bool {
        let Some(member) = self.view.members.get(name) else { return false };
        let member = &member.value;
        let attached = self.seen.as_ref().is_some_and(|seen| seen.attached.contains(name));
        // One whose disk is full is attached and takes nothing in.
        let is_well = member.not_promotable.is_none() || member.promotion == Promotion::Never;
        attached
            && is_well
            && member.streaming
            && member.state == State::Replica
            && Some(member.epoch) == self.led_epoch()
    }

    /// Whether the coordinator answered lately, so that what others told through it is what they are.
    fn hears(&self, now: Duration) -> bool {
        self.proven.is_some_and(|proven| now.saturating_sub(proven) < self.settings.timing.ttl / 3)
    }

    /// The epoch that this server leads, open or not yet: replicas come before the first write, too.
    fn led_epoch(&self) -> Option<Epoch> {
        self.open.or_else(|| self.leads().map(|leader| leader.value.epoch))
    }

    fn note_losses(&mut self, sync: &Sync, now: Duration) {
        if self.seen_up().is_none() {
            return;
        }
        for member in &sync.members {
            if self.is_healthy(member) {
                self.lost_since.remove(member);
            } else {
                self.lost_since.entry(member.clone()).or_insert(now);
            }
        }
        self.lost_since.retain(|name, _| sync.members.contains(name));
    }

    fn is_lost(&self, name: &Name, after: Duration, now: Duration) -> bool {
        self.lost_since.get(name).is_some_and(|since| now.saturating_sub(*since) >= after)
    }

    /// Lets those stream that are of the set, or that showed that they acknowledge nothing. Who was shut out proves that anew, under
    /// the set as it is now.
    fn admit(&mut self, sync: &Sync, now: Duration) -> bool {
        let revision = self.sync().map_or(0, |sync| sync.revision);
        let epoch = self.led_epoch();
        let mut wanted: Vec<Name> = self.admitted.clone().unwrap_or_else(|| sync.members.clone());
        let leaves =
            |name: &Name| self.removing.as_ref().is_some_and(|removing| removing.members.contains(name));
        for (name, member) in &self.view.members {
            let member = &member.value;
            let is_harmless = (!member.acknowledging || !self.keeps(Rule::OnlyMembersAcknowledge))
                && member.sync_revision >= revision
                && Some(member.epoch) == epoch
                && member.lineage == epoch;
            if *name != self.settings.me
                && !wanted.contains(name)
                && (sync.members.contains(name) || is_harmless)
                && !leaves(name)
            {
                wanted.push(name.clone());
            }
        }
        if self.admitted.as_ref() == Some(&wanted) {
            return false;
        }
        self.run(Job::Admit { members: wanted }, now);
        true
    }

    /// Carries on with a removal: shut out, then prove, then write.
    fn removes(&mut self, sync: &Sync, now: Duration) -> bool {
        let Some(removing) = self.removing.clone() else { return false };
        if !removing.members.iter().any(|member| sync.members.contains(member)) {
            self.removing = None;
            return false;
        }
        let Some(excluded) = removing.excluded else {
            if self.keeps(Rule::ExcludeBeforeShrink) {
                let rest = self.admitted.iter().flatten().filter(|name| !removing.members.contains(name));
                let members = rest.cloned().collect();
                self.run(Job::Admit { members }, now);
            } else {
                self.removing = Some(Removing { excluded: Some(now), ..removing });
            }
            return true;
        };
        let stays = |name: &&Name| !removing.members.contains(name);
        let rest: Vec<Name> = sync.members.iter().filter(stays).cloned().collect();
        if sync.mode != Mode::Strict {
            self.write_set(sync, rest, sync.mode, now);
            return true;
        }
        if rest.is_empty() {
            // Here alone are all acknowledged writes then, and nobody else may lead.
            let mode = if self.is_no_loss() { Mode::Unprotected } else { Mode::Degraded };
            self.write_set(sync, rest, mode, now);
            return true;
        }
        // A write that was sent after the exclusion and was acknowledged is at one of the rest, and so is everything before it.
        let proven = self.acknowledged.is_some_and(|sent| sent >= excluded);
        if proven || !self.keeps(Rule::ProveBeforeShrink) {
            self.write_set(sync, rest, Mode::Strict, now);
            return true;
        }
        // Without that proof the others may have gone as well.
        let timing = &self.settings.timing;
        if rest.iter().all(|name| self.is_lost(name, timing.degrade_after, now))
            && self.may_empty(&sync.members)
        {
            self.removing = Some(Removing { members: sync.members.clone(), excluded: None });
        } else if now.saturating_sub(excluded) >= timing.shrink_after
            && removing.members.iter().any(|member| self.view.members.contains_key(member))
        {
            // Nobody else acknowledges either, and one came back: it has not left yet.
            self.removing = None;
            self.lost_since.clear();
        }
        true
    }

    fn shrink(&mut self, sync: &Sync, now: Duration) {
        let timing = self.settings.timing.clone();
        let healthy = sync.members.iter().any(|name| self.is_healthy(name));
        let needs_seed = |machine: &Self, name: &Name| {
            machine.view.members.get(name).is_some_and(|member| {
                matches!(member.value.state, State::NeedsSeed | State::Absent | State::Seeding)
            })
        };
        let lost = |machine: &Self, after| {
            let seed_first = |name: &&Name| (!needs_seed(machine, name), (*name).clone());
            sync.members
                .iter()
                .filter(|name| machine.is_lost(name, after, now))
                .min_by_key(seed_first)
                .cloned()
        };
        if healthy {
            if let Some(member) = lost(self, timing.shrink_after) {
                self.report(format!("{member} leaves the synchronous set"));
                self.removing = Some(Removing { members: vec![member], excluded: None });
            }
            return;
        }
        let all_lost = sync.members.iter().all(|name| self.is_lost(name, timing.degrade_after, now));
        if all_lost && self.may_empty(&sync.members) {
            self.report("no replica acknowledges; the primary alone has everything".to_owned());
            self.removing = Some(Removing { members: sync.members.clone(), excluded: None });
        }
    }

    /// Whether the set may be left without anyone. A database that may lose nothing waits, unless one of them can only come back without
    /// its data.
    fn may_empty(&self, members: &[Name]) -> bool {
        !self.is_no_loss()
            || members.iter().any(|name| {
                self.view.members.get(name).is_some_and(|member| {
                    matches!(member.value.state, State::NeedsSeed | State::Absent | State::Seeding)
                })
            })
    }

    /// Makes the set strict: its members acknowledge, then commits wait for that, then one of them is shown to have everything.
    fn form(&mut self, sync: &Sync, now: Duration) {
        let timing = self.settings.timing.clone();
        if let Some(member) =
            sync.members.iter().find(|name| self.is_lost(name, timing.shrink_after, now)).cloned()
        {
            self.removing = Some(Removing { members: vec![member], excluded: None });
            return;
        }
        let acknowledges = sync.members.iter().any(|name| {
            self.is_healthy(name)
                && self.view.members.get(name).is_some_and(|member| member.value.acknowledging)
        });
        let Some(seen) = self.seen_up() else { return };
        let semi_sync = seen.semi_sync;
        if acknowledges && !semi_sync {
            self.run(Job::SetSemiSync { on: true }, now);
            return;
        }
        let proven = self
            .acknowledged
            .is_some_and(|sent| sent >= self.set_since && self.semi_since.is_some_and(|since| sent >= since));
        if !sync.members.is_empty() && (proven && acknowledges || !self.keeps(Rule::ProveBeforeStrict)) {
            self.write_set(sync, sync.members.clone(), Mode::Strict, now);
            return;
        }
        // Commits wait only as long as someone may acknowledge soon.
        let waits_in_vain = semi_sync
            && !self.is_no_loss()
            && !acknowledges
            && self.semi_since.is_some_and(|since| now.saturating_sub(since) >= timing.degrade_after);
        if waits_in_vain && sync.mode == Mode::Unprotected {
            self.write_set(sync, sync.members.clone(), Mode::Degraded, now);
        } else if waits_in_vain || semi_sync && !self.waits_for_replicas(sync.mode) && sync.members.is_empty()
        {
            self.run(Job::SetSemiSync { on: false }, now);
        }
    }

    fn grow(&mut self, sync: &Sync, now: Duration) {
        if self.removing.is_some() || self.job.is_some() {
            return;
        }
        let Some(seen) = self.seen_up() else { return };
        let here = seen.applied.seq;
        let joins = |name: &Name| {
            !sync.members.contains(name)
                && self.is_healthy(name)
                && self.admitted.iter().flatten().any(|admitted| admitted == name)
                && self.view.members.get(name).is_some_and(|member| {
                    member.value.state == State::Replica && member.value.received.seq + LAG_TO_JOIN >= here
                })
        };
        let Some(joining) = self.view.members.keys().find(|name| joins(name)).cloned() else { return };
        let mut members = sync.members.clone();
        members.push(joining);
        self.write_set(sync, members, sync.mode, now);
    }

    fn write_set(&mut self, sync: &Sync, members: Vec<Name>, mode: Mode, now: Duration) {
        if !self.may_transact(now) {
            return;
        }
        let value = Sync { epoch: sync.epoch, primary: sync.primary.clone(), members, mode };
        let compare = vec![self.as_seen(Key::Leader), self.as_seen(Key::Sync)];
        let put = vec![(Value::Sync(value), None)];
        self.transact(Purpose::Sync, Transaction { compare, put, delete: Vec::new() });
    }
}
