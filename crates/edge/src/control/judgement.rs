//! What the control thread makes of health: it feeds the state machines, has upstreams checked, and tells workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Control, ToWorker, Told};
use crate::balance::UpstreamId;
use crate::health::{Action, CheckId, Condition, Event, GroupHealth};
use crate::in_force::SharedGroup;

impl Control {
    /// Brings health in line with the plan in force, and writes its boards.
    pub(super) fn follow_plan(&mut self, now: Instant) {
        let in_force = Arc::clone(&self.in_force);
        self.health.retain(|name, _| in_force.groups.contains_key(name));
        let planned = |id: &UpstreamId| {
            in_force.groups.values().any(|group| group.upstreams.iter().any(|upstream| upstream.id == *id))
        };
        self.came_up.retain(|id, _| planned(id));
        for (name, group) in &in_force.groups {
            let actions = if let Some(health) = self.health.get_mut(name) {
                health.update(&group.plan, now)
            } else {
                let mut health = GroupHealth::new(&group.plan, self.random.next(), now);
                let actions = health.handle(Event::Due, now);
                self.health.insert(name.clone(), health);
                actions
            };
            self.publish(name);
            self.act(name, actions);
        }
    }

    pub(super) fn judge(&mut self, name: &str, event: Event, now: Instant) {
        if let Some(health) = self.health.get_mut(name) {
            let doubted = if let Event::Silent(upstream) = event { Some(upstream) } else { None };
            let actions = health.handle(event, now);
            if let Some(upstream) = doubted
                && let Some(limit) = health.check_limit(upstream)
                && let Some(hurry) = self.hurry.remove(&upstream)
            {
                // Nobody hears it if the check has just ended.
                let _ = hurry.send(limit);
            }
            self.act(name, actions);
        }
    }

    fn act(&mut self, name: &str, actions: Vec<Action>) {
        let Some(group) = self.in_force.groups.get(name).cloned() else { return };
        let label: Arc<str> = Arc::from(name);
        let named = |id: UpstreamId| {
            group.upstreams.iter().find(|upstream| upstream.id == id).map_or("?", |upstream| &upstream.name)
        };
        for action in actions {
            match action {
                Action::StartCheck(check) => self.start_check(&group, check),
                Action::Publish => self.publish(name),
                Action::Changed { upstream, from, to } => {
                    let (state, before) = (to.word(), from.word());
                    let now = Instant::now();
                    let why = to.describe(now, now);
                    tracing::info!(
                        group = name,
                        upstream = named(upstream),
                        state,
                        before,
                        why,
                        "an upstream changed"
                    );
                    self.publish(name);
                    if matches!(to, Condition::Down(_)) {
                        self.tell_all(&ToWorker::Down(Arc::clone(&label), upstream));
                    }
                }
                Action::CameUp(upstream) => {
                    self.came_up.insert(upstream, Instant::now());
                    self.tell_all(&ToWorker::CameUp(Arc::clone(&label), upstream));
                }
            }
        }
    }

    /// Writes a group's fitness where workers read it, and in metrics.
    fn publish(&self, name: &str) {
        let (Some(group), Some(health)) = (self.in_force.groups.get(name), self.health.get(name)) else {
            return;
        };
        group.board.publish(health.fitness());
        for (index, upstream) in group.upstreams.iter().enumerate() {
            let (condition, _) = health.condition(index);
            let labels = [name, upstream.name.as_str()];
            self.metrics.upstream_up.with(&labels).set(i64::from(*condition == Condition::Up));
            let ejected = matches!(condition, Condition::Ejected { .. } | Condition::Probation);
            self.metrics.upstream_ejected.with(&labels).set(i64::from(ejected));
        }
        group.queue.tell();
    }

    fn start_check(&mut self, group: &Arc<SharedGroup>, check: CheckId) {
        let Some(index) = group.upstreams.iter().position(|upstream| upstream.id == check.upstream) else {
            return;
        };
        let (told, group) = (self.told.clone(), Arc::clone(group));
        let checker = self.checker.clone();
        let limit = self.health.get(&group.plan.name).and_then(|health| health.check_limit(check.upstream));
        let limit = limit.unwrap_or(Duration::ZERO);
        let (hurry, hurried) = oneshot::channel();
        self.hurry.insert(check.upstream, hurry);
        self.checks.spawn_local(async move {
            let result = checker.check(&group, index, limit, hurried).await;
            // The control thread reads for as long as it runs.
            let _ = told.send(Told::Checked(group, check, result)).await;
        });
    }
}
