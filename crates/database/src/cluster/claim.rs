//! Who claims the leadership when nobody leads, and when.

use std::time::Duration;

use super::keys::{Given, Intent, Key, Leader, Mode, Phase, Promotion, Value};
use super::machine::Machine;
use super::position::{Epoch, Name};
use super::rules::Rule;
use super::state::Purpose;
use super::words::{Sql, Transaction};

/// Changes of leader are counted over this time.
pub(super) const DAMPED_OVER: Duration = Duration::from_mins(5);
/// So many changes in that time are no flapping yet.
const CHANGES_UNDAMPED: u32 = 5;
/// Each change beyond delays a claim by this much.
const DAMPED_BY: Duration = Duration::from_secs(2);
/// The longest that flapping delays a claim.
const DAMPED_AT_MOST: Duration = Duration::from_secs(10);
/// Ends of mariadbd are counted over this time.
pub(super) const CRASHES_WITHIN: Duration = Duration::from_mins(1);
/// One that ended more often leaves the lead to others, if there are any.
const CRASHES_ALLOWED: usize = 3;
/// A server that is neither of the synchronous set nor the last primary claims this much later.
const OTHERS_WAIT: Duration = Duration::from_secs(2);
/// For so long it leaves it to them.
const CRASHED_WAITS: Duration = Duration::from_secs(3);

impl Machine {
    /// Why this server could not lead now.
    pub(super) fn why_not_promotable(&self) -> Option<String> {
        if let Some(reason) = &self.needs_seed {
            return Some(reason.clone());
        }
        if !self.is_up() {
            return Some("its mariadbd does not run".to_owned());
        }
        if let Some(seen) = &self.seen {
            if seen.disk_full {
                return Some("its disk is full".to_owned());
            }
            let position = seen.received.later(seen.applied);
            if let Some(stamp) = self.stamp
                && !self.view.is_history(stamp.epoch, position)
                && self.keeps(Rule::CheckLineage)
            {
                return Some("its data is no part of history".to_owned());
            }
            if let Sql::Failed(error) = &seen.sql {
                return Some(format!("it cannot apply: {error}"));
            }
        }
        if self.promotion_of(&self.settings.me) == Promotion::Never {
            return Some("the site's file says never".to_owned());
        }
        None
    }

    /// Whether an operator, or the last leader, named this server, or nobody else may lead.
    pub(super) fn is_called(&self) -> bool {
        let me = &self.settings.me;
        let nominated = self.nominee().is_some_and(|nominee| nominee == me);
        nominated || self.is_overriding() || self.is_alone()
    }

    /// Whether nobody but this server may lead.
    fn is_alone(&self) -> bool {
        !self.is_strict() && self.sync().is_some_and(|sync| sync.value.primary == self.settings.me)
    }

    pub(super) fn nominee(&self) -> Option<&Name> {
        self.view.epoch.as_ref()?.value.released.as_ref()?.nominee.as_ref()
    }

    /// Whether an operator wants this server to lead although writes may be lost.
    pub(super) fn is_overriding(&self) -> bool {
        matches!(self.view.intent.as_ref().map(|intent| &intent.value),
            Some(Intent::Promote { to, .. }) if *to == self.settings.me)
    }

    /// Who may claim: the synchronous set and the last primary; or that one alone, where the set proves nothing.
    fn candidates(&self) -> Vec<Name> {
        let Some(sync) = self.sync() else { return vec![self.settings.me.clone()] };
        let mut names = vec![sync.value.primary.clone()];
        if sync.value.mode == Mode::Strict || !self.keeps(Rule::OnlyTheLastPrimary) {
            names.extend(sync.value.members.iter().cloned());
        }
        names
    }

    pub(super) fn claim(&mut self, now: Duration) {
        let (Some(lease), Some(since)) = (self.lease, self.leaderless) else { return };
        let me = self.settings.me.clone();
        let overriding = self.is_overriding();
        let allowed = self.why_not_promotable().is_none()
            || self.is_called() && self.is_up() && self.needs_seed.is_none();
        if self.is_paused()
            || self.seen_up().is_none()
            || self.stamp.is_none()
            || !allowed
            || !(overriding || self.candidates().contains(&me) || self.is_strict())
            || !self.may_transact(now)
            || now.saturating_sub(since) < self.claim_delay()
        {
            return;
        }
        let identity = self.view.identity.as_ref().map(|identity| &identity.value.initialised_by);
        let given = match &self.view.epoch {
            Some(given) => given.value.epoch,
            // The first epoch is its who made the first data.
            None if identity == Some(&me) => Epoch(0),
            None => return,
        };
        let epoch = given.next();
        let leader = Leader {
            epoch,
            server: me.clone(),
            phase: Phase::Recovering,
            since_ms: self.wall_ms,
            hold: None,
        };
        let compare = vec![(Key::Leader, 0), self.as_seen(Key::Epoch)];
        let put = vec![
            (Value::Leader(leader), Some(lease.id)),
            (Value::Epoch(Given { epoch, server: me, released: None }), None),
        ];
        self.called = self.is_called().then_some(epoch);
        self.transact(Purpose::Claim { epoch }, Transaction { compare, put, delete: Vec::new() });
    }

    /// How long this server leaves the claim to better ones.
    fn claim_delay(&self) -> Duration {
        if self.is_overriding() {
            return Duration::ZERO;
        }
        let timing = &self.settings.timing;
        let me = &self.settings.me;
        let nominee = self.nominee();
        let mine = self.seen_up().map_or(0, |seen| seen.received.seq);
        let rank = |name: &Name, received: u64| {
            let prefers = self.promotion_of(name) == Promotion::Prefer;
            (nominee == Some(name), received, prefers, std::cmp::Reverse(name.clone()))
        };
        let my_rank = rank(me, mine);
        let better = self
            .candidates()
            .iter()
            .filter(|name| *name != me)
            .filter_map(|name| self.view.members.get(name).map(|member| (name, &member.value)))
            .filter(|(name, member)| member.not_promotable.is_none() || nominee == Some(name))
            .filter(|(name, member)| rank(name, member.received.seq) > my_rank)
            .count();
        let mut delay = timing.claim_step * better as u32;
        let released = self.view.epoch.as_ref().is_some_and(|given| given.value.released.is_some());
        // It lost its lease and nothing else: it takes up its epoch again as soon as it reaches the coordinator.
        if self.is_attached_alive() && !released {
            delay += timing.resume_grace;
        }
        // Others than the candidates can only lead for them, where none of them may.
        if !self.candidates().contains(me) {
            delay += OTHERS_WAIT;
        }
        if self.crashes.len() > CRASHES_ALLOWED {
            delay += CRASHED_WAITS;
        }
        let flaps = (self.changes.len() as u32).saturating_sub(CHANGES_UNDAMPED);
        let planned = nominee == Some(me);
        if planned { delay } else { delay + (DAMPED_BY * flaps).min(DAMPED_AT_MOST) }
    }

    /// Takes the leader's key up again after the lease was lost, where nobody led in between: then nobody revoked, and the
    /// epoch is still this server's.
    pub(super) fn resume(&mut self, epoch: Epoch, now: Duration) {
        let Some(lease) = self.lease else { return };
        let me = self.settings.me.clone();
        let is_ours = self.view.epoch.as_ref().is_some_and(|given| {
            given.value.epoch == epoch && given.value.server == me && given.value.released.is_none()
        });
        if self.view.leader.is_some() || !is_ours || !self.may_transact(now) {
            return;
        }
        let leader = Leader { epoch, server: me, phase: Phase::Open, since_ms: self.wall_ms, hold: None };
        let compare = vec![(Key::Leader, 0), self.as_seen(Key::Epoch)];
        let put = vec![(Value::Leader(leader), Some(lease.id))];
        self.transact(Purpose::Resume, Transaction { compare, put, delete: Vec::new() });
    }
}
