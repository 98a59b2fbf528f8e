//! The leader that recovers: all of the synchronous set revoke, the one with the most drains and is promoted.

use std::time::Duration;

use super::keys::{History, Intent, Key, Leader, Member, Mode, Phase, Promotion, State, Sync, Value};
use super::machine::Machine;
use super::position::{Epoch, Gtid, Name};
use super::rules::Rule;
use super::state::{Plan, Purpose, Recovery, Server};
use super::words::{Io, Job, Observed, Sql, Transaction};

/// Epochs that are remembered.
const HISTORY_KEPT: usize = 32;
/// Under an operator's order, those that do not answer are waited for this long.
const OVERRIDE_WAITS: Duration = Duration::from_secs(3);

/// What the reports of a set say together.
struct Survey {
    missing: Vec<Name>,
    best: Option<(Name, Gtid)>,
    loss_accepted: bool,
}

impl Machine {
    pub(super) fn recover(&mut self, now: Duration) {
        let Some(leader) = self.leads().cloned() else { return };
        let epoch = leader.value.epoch;
        if self.open.is_some() {
            return self.kill("it still takes writes of an older epoch", now);
        }
        match self.server {
            Server::Killing { .. } => return,
            Server::Down | Server::NoData => return self.release("its mariadbd does not run", None, now),
            Server::Up => {}
        }
        self.begin(epoch, now);
        if !self.is_settled() {
            self.reassert(now);
        }
        let Some(seen) = self.seen_up().cloned() else { return };
        if !seen.read_only {
            return self.kill("it takes writes without having been opened", now);
        }
        if seen.io != Io::Off || seen.acknowledging || !self.is_flushed {
            return self.run(Job::Revoke, now);
        }
        self.revoked = epoch;
        let plan = self.recovery.as_ref().and_then(|recovery| recovery.promoted.clone());
        match plan {
            Some(plan) if self.job.is_none() => self.open_epoch_as(&leader.value, &plan, now),
            Some(_) => {}
            None => self.prepare(&leader.value, &seen, now),
        }
    }

    fn begin(&mut self, epoch: Epoch, now: Duration) {
        if self.recovery.as_ref().is_some_and(|recovery| recovery.epoch == epoch) {
            return;
        }
        let released = self.view.history.keys().next_back().is_none();
        let why = if released { "the first" } else { "the last leader let go or its lease ran out" };
        self.recovery = Some(Recovery {
            epoch,
            since: now,
            noticed: self.noticed.take().unwrap_or(now),
            why: self.lost_why.take().unwrap_or_else(|| why.to_owned()),
            steps: Vec::new(),
            promoted: None,
            failed: 0,
            first_write_told: false,
        });
        self.leaving = None;
        self.removing = None;
        self.mark("led", now);
    }

    /// What must hold before the promotion, each in its turn.
    fn prepare(&mut self, leader: &Leader, seen: &Observed, now: Duration) {
        let epoch = leader.epoch;
        if let Some(Intent::Promote { to, .. }) = self.view.intent.as_ref().map(|intent| &intent.value)
            && *to != self.settings.me
        {
            let to = to.clone();
            let cannot = self.view.members.get(&to).map(|member| member.value.state);
            if matches!(cannot, Some(State::Replica | State::Revoked | State::Recovering)) {
                return self.hand_over("an operator named another", to, now);
            }
            return self.end_intent(format!("{to} cannot lead: {cannot:?}"), now);
        }
        let survey = self.survey(epoch, now);
        if !survey.missing.is_empty() {
            // It leads only because an operator wanted it to, and does not any more.
            if let Some(primary) = self.only_primary() {
                return self.hand_over("it alone has everything", primary, now);
            }
            let names: Vec<&str> = survey.missing.iter().map(Name::as_str).collect();
            let names = names.join(", ");
            return self.hold(
                leader,
                format!(
                    "{names} may have acknowledged writes that nobody else has. Bring {names} back; or, if it is lost for good, accept \
                     that such writes are lost: `mainstay db switchover --to SERVER --accept-loss`"
                ),
                now,
            );
        }
        self.mark("revoked", now);
        if let Some(reason) = self.why_not_promotable()
            && !self.was_called(epoch)
        {
            return match self.equal_to(epoch, seen.received) {
                Some(to) => self.hand_over(&reason, to, now),
                None => self.hold(leader, format!("{} has the most, but {reason}", self.settings.me), now),
            };
        }
        if let Some((name, best)) = survey.best
            && best.seq > seen.received.seq
            && self.keeps(Rule::ComparePositions)
        {
            return self.yield_or_catch_up(leader, &name, best, seen, now);
        }
        if seen.has_unapplied() && self.keeps(Rule::DrainFirst) {
            return self.drain(leader, seen, now);
        }
        self.mark("drained", now);
        self.promote(epoch, seen, survey.loss_accepted, now);
    }

    /// Reads the reports: who has not revoked yet, and who has the most.
    fn survey(&mut self, epoch: Epoch, now: Duration) -> Survey {
        let me = self.settings.me.clone();
        let mut missing = Vec::new();
        let mut best: Option<(Name, Gtid)> = None;
        let mut loss_accepted = false;
        if let Some(sync) = self.sync() {
            let sync = &sync.value;
            let required: Vec<Name> = match sync.mode {
                Mode::Strict if self.keeps(Rule::RevokeAll) => sync.members.clone(),
                Mode::Degraded | Mode::Unprotected if self.keeps(Rule::OnlyTheLastPrimary) => {
                    vec![sync.primary.clone()]
                }
                _ => Vec::new(),
            };
            missing = required
                .into_iter()
                .filter(|name| *name != me)
                .filter(|name| {
                    // A last primary that is not the leader vouches for nothing that it did not say by leading.
                    sync.mode != Mode::Strict || self.reports_of(epoch).all(|(reporter, _)| reporter != name)
                })
                .collect();
        }
        let waited =
            self.recovery.as_ref().map_or(Duration::ZERO, |recovery| now.saturating_sub(recovery.since));
        if self.is_overriding() {
            loss_accepted = waited >= OVERRIDE_WAITS;
            if loss_accepted {
                missing.clear();
            }
        }
        for (name, member) in self.reports_of(epoch) {
            let is_better = best.as_ref().is_none_or(|(_, most)| member.received.seq > most.seq);
            // What it cannot apply, nobody can have from it.
            let is_of_use = !loss_accepted || member.applied.reaches(member.received);
            if *name != me && is_better && is_of_use && self.is_member_of_history(member) {
                best = Some((name.clone(), member.received));
            }
        }
        Survey { missing, best, loss_accepted }
    }

    /// The last primary, where only that may lead and it could.
    fn only_primary(&self) -> Option<Name> {
        let sync = &self.sync()?.value;
        let can = self.view.members.get(&sync.primary).is_some_and(|member| {
            member.value.not_promotable.is_none()
                && matches!(member.value.state, State::Revoked | State::Replica)
        });
        (sync.mode != Mode::Strict && can && !self.is_overriding()).then(|| sync.primary.clone())
    }

    /// The reports of those that revoked for this epoch.
    fn reports_of(&self, epoch: Epoch) -> impl Iterator<Item = (&Name, &Member)> {
        self.view
            .members
            .iter()
            .map(|(name, member)| (name, &member.value))
            .filter(move |(_, member)| member.revoked_epoch >= epoch && member.lineage.is_some())
    }

    fn is_member_of_history(&self, member: &Member) -> bool {
        member
            .lineage
            .is_some_and(|lineage| self.view.is_history(lineage, member.received.later(member.applied)))
    }

    /// Another that has as much and could lead.
    fn equal_to(&self, epoch: Epoch, received: Gtid) -> Option<Name> {
        self.reports_of(epoch)
            .filter(|(name, _)| **name != self.settings.me)
            .find(|(_, member)| member.not_promotable.is_none() && member.received.seq >= received.seq)
            .map(|(name, _)| name.clone())
    }

    fn yield_or_catch_up(
        &mut self,
        leader: &Leader,
        name: &Name,
        best: Gtid,
        seen: &Observed,
        now: Duration,
    ) {
        let Some(member) = self.view.members.get(name).map(|member| member.value.clone()) else { return };
        if member.not_promotable.is_none() && !self.was_called(leader.epoch) {
            return self.hand_over("another has more", name.clone(), now);
        }
        if !member.applied.reaches(best) {
            let reason = member.not_promotable.unwrap_or_else(|| "it still applies".to_owned());
            return self.hold(leader, format!("{name} has the most: {reason}"), now);
        }
        if seen.has_unapplied() {
            return self.drain(leader, seen, now);
        }
        let (Some(lineage), Some(stamp)) = (member.lineage, self.stamp) else { return };
        if !self.view.is_history(stamp.epoch, seen.applied) {
            return self.hold(
                leader,
                format!("{name} has more, and {} has another history", self.settings.me),
                now,
            );
        }
        self.run(Job::CatchUp { from: name.clone(), to: best, lineage: lineage.max(stamp.epoch) }, now);
    }

    fn drain(&mut self, leader: &Leader, seen: &Observed, now: Duration) {
        match &seen.sql {
            Sql::Running => self.run(Job::Drain { to: seen.received }, now),
            Sql::Off => self.run(Job::RescueRelay, now),
            Sql::Failed(error) => {
                let reason = format!("{} cannot apply what it received: {error}", self.settings.me);
                match self.equal_to(leader.epoch, seen.received) {
                    Some(to) => self.hand_over(&reason, to, now),
                    None => self.hold(leader, reason, now),
                }
            }
        }
    }

    fn promote(&mut self, epoch: Epoch, seen: &Observed, loss_accepted: bool, now: Duration) {
        let gtid = seen.applied;
        let members: Vec<Name> = self
            .reports_of(epoch)
            .filter(|(name, member)| {
                **name != self.settings.me
                    && self.is_member_of_history(member)
                    && gtid.reaches(member.received)
                    && matches!(member.state, State::Replica | State::Revoked)
                    && (member.not_promotable.is_none() || member.promotion == Promotion::Never)
            })
            .map(|(name, _)| name.clone())
            .collect();
        let has_all = self
            .reports_of(epoch)
            .any(|(name, member)| members.contains(name) && member.received.reaches(gtid));
        let mode = if !members.is_empty() && (has_all || !self.keeps(Rule::ProveAtOpening)) {
            Mode::Strict
        } else if self.settings.servers.len() > 1 && !self.is_no_loss() && members.is_empty() {
            Mode::Degraded
        } else {
            Mode::Unprotected
        };
        let semi_sync = self.waits_for_replicas(mode) && self.keeps(Rule::SemiSyncBeforeOpen);
        let admit = members.clone();
        if self.job.is_none() && now >= self.retry_at {
            if let Some(recovery) = &mut self.recovery {
                recovery.promoted = Some(Plan { gtid, members, mode, loss_accepted });
            }
            self.run(Job::Promote { epoch, semi_sync, admit }, now);
        }
    }

    fn open_epoch_as(&mut self, leader: &Leader, plan: &Plan, now: Duration) {
        // A promotion that failed is made again, on what is known then.
        if self.stamp.is_none_or(|stamp| stamp.epoch != leader.epoch || !stamp.led) {
            if let Some(recovery) = &mut self.recovery {
                recovery.promoted = None;
            }
            return;
        }
        if !self.is_settled() || !self.may_transact(now) {
            return;
        }
        let Some(recovery) = self.recovery.clone() else { return };
        let epoch = leader.epoch;
        let me = self.settings.me.clone();
        let history = History {
            primary: me.clone(),
            promotion_gtid: plan.gtid,
            previous: self.view.history.keys().next_back().copied().unwrap_or_default(),
            why: recovery.why,
            loss_accepted: plan.loss_accepted,
            opened_ms: self.wall_ms,
            timeline: recovery.steps,
        };
        let sync = Sync { epoch, primary: me, members: plan.members.clone(), mode: plan.mode };
        let open = Leader { phase: Phase::Open, since_ms: self.wall_ms, hold: None, ..leader.clone() };
        let mut compare = vec![self.as_seen(Key::Leader), self.as_seen(Key::Sync)];
        let put = vec![
            (Value::Leader(open), self.lease.map(|lease| lease.id)),
            (Value::Sync(sync), None),
            (Value::History(epoch, history), None),
        ];
        let mut delete: Vec<Key> = Vec::new();
        let kept = self.view.history.len().saturating_sub(HISTORY_KEPT);
        delete.extend(self.view.history.keys().take(kept).map(|epoch| Key::History(*epoch)));
        if self.is_overriding() {
            compare.push(self.as_seen(Key::Intent));
            delete.push(Key::Intent);
        }
        self.transact(Purpose::Open { epoch }, Transaction { compare, put, delete });
    }

    /// Whether this server leads in this epoch because an operator or the last leader named it.
    fn was_called(&self, epoch: Epoch) -> bool {
        self.called == Some(epoch) || self.is_overriding()
    }

    fn hand_over(&mut self, why: &str, to: Name, now: Duration) {
        self.release(why, Some(to), now);
    }

    /// Stays leader without opening, and says why.
    fn hold(&mut self, leader: &Leader, reason: String, now: Duration) {
        let waited =
            self.recovery.as_ref().map_or(Duration::ZERO, |recovery| now.saturating_sub(recovery.since));
        // Those that are well answer within this time; only then it is worth a word.
        if waited < Duration::from_millis(500) || leader.hold.as_ref() == Some(&reason) {
            return;
        }
        if !self.is_settled() || !self.may_transact(now) {
            return;
        }
        self.report(format!("{} holds: {reason}", self.settings.me));
        let value = Leader { hold: Some(reason), ..leader.clone() };
        let put = vec![(Value::Leader(value), self.lease.map(|lease| lease.id))];
        let compare = vec![self.as_seen(Key::Leader)];
        self.transact(Purpose::Other, Transaction { compare, put, delete: Vec::new() });
    }
}
