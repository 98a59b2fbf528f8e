//! Changes by hand, without a plan: each holds until the plan says something else about the same thing.

use std::collections::HashMap;

use mainstay_site::plan::EdgePlan;
use mainstay_site::plan::edge::{Maintenance, Upstream};

use super::Setting;

/// The changes that were made.
#[derive(Default)]
pub(super) struct LiveChanges {
    /// By group and name.
    upstreams: HashMap<(String, String), Change>,
    /// Turned on or off, while the plan said this.
    maintenance: Option<(bool, Option<Maintenance>)>,
}

struct Change {
    planned: Upstream,
    weight: Option<u32>,
    drain: Option<bool>,
}

impl LiveChanges {
    /// Changes an upstream of this plan.
    pub(super) fn set(&mut self, plan: &EdgePlan, setting: &Setting) -> Result<(), String> {
        let group = plan.groups.iter().find(|group| group.name == setting.group);
        let group = group.ok_or_else(|| format!("there is no group {}", setting.group))?;
        let planned = group.upstreams.iter().find(|upstream| upstream.name == setting.upstream);
        let planned = planned
            .ok_or_else(|| format!("the group {} has no upstream {}", setting.group, setting.upstream))?;
        let key = (setting.group.clone(), setting.upstream.clone());
        let kept = self.upstreams.entry(key).or_insert_with(|| Change {
            planned: planned.clone(),
            weight: None,
            drain: None,
        });
        kept.weight = setting.weight.or(kept.weight);
        kept.drain = setting.drain.or(kept.drain);
        tracing::info!(group = setting.group, upstream = setting.upstream, weight = ?kept.weight, drain = ?kept.drain, "changed live");
        Ok(())
    }

    /// Turns maintenance on or off.
    pub(super) fn maintain(&mut self, plan: &EdgePlan, on: bool) {
        self.maintenance = Some((on, plan.maintenance.clone()));
    }

    /// The plan with the changes that hold under it.
    pub(super) fn on(&self, plan: &EdgePlan) -> EdgePlan {
        let mut plan = plan.clone();
        for group in &mut plan.groups {
            for upstream in &mut group.upstreams {
                let key = (group.name.clone(), upstream.name.clone());
                if let Some(kept) = self.upstreams.get(&key).filter(|kept| kept.planned == *upstream) {
                    upstream.weight = kept.weight.unwrap_or(upstream.weight);
                    upstream.drain = kept.drain.unwrap_or(upstream.drain);
                }
            }
        }
        if let Some((on, planned)) = &self.maintenance
            && *planned == plan.maintenance
        {
            plan.maintenance = on.then(|| plan.maintenance.take().unwrap_or_else(by_hand));
        }
        plan
    }

    /// Forgets the changes that do not hold under a plan.
    pub(super) fn forget_but(&mut self, plan: &EdgePlan) {
        self.upstreams.retain(|(group, name), kept| {
            let group = plan.groups.iter().find(|planned| planned.name == *group);
            let upstream =
                group.and_then(|group| group.upstreams.iter().find(|planned| planned.name == *name));
            upstream == Some(&kept.planned)
        });
        if self.maintenance.as_ref().is_some_and(|(_, planned)| *planned != plan.maintenance) {
            self.maintenance = None;
        }
    }
}

/// Maintenance that was turned on without a plan.
fn by_hand() -> Maintenance {
    Maintenance {
        message: "This site is being worked on. Please come back in a few minutes.".to_owned(),
        retry_after_secs: 60,
        allow: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn plan() -> EdgePlan {
        let upstream = fixture::upstream("a", "127.0.0.1:1".parse().unwrap());
        fixture::plan("127.0.0.1:80".parse().unwrap(), vec![fixture::group("web", vec![upstream])])
    }

    fn setting(weight: Option<u32>, drain: Option<bool>) -> Setting {
        Setting { group: "web".to_owned(), upstream: "a".to_owned(), weight, drain }
    }

    #[test]
    fn changes_of_an_upstream_add_up_and_end_when_the_plan_changes_it() {
        let (planned, mut live) = (plan(), LiveChanges::default());
        live.set(&planned, &setting(Some(7), None)).unwrap();
        live.set(&planned, &setting(None, Some(true))).unwrap();
        let upstream = &live.on(&planned).groups[0].upstreams[0];
        assert_eq!((upstream.weight, upstream.drain), (7, true));
        live.forget_but(&planned);
        assert_eq!(live.on(&planned).groups[0].upstreams[0].weight, 7);
        let mut next = planned.clone();
        next.groups[0].upstreams[0].weight = 50;
        assert_eq!(live.on(&next), next);
        live.forget_but(&next);
        assert_eq!(live.on(&planned), planned);
    }

    #[test]
    fn maintenance_by_hand_holds_until_the_plan_says_something_else() {
        let (planned, mut live) = (plan(), LiveChanges::default());
        live.maintain(&planned, true);
        assert_eq!(live.on(&planned).maintenance, Some(by_hand()));
        let mut next = planned.clone();
        next.maintenance = Some(Maintenance { message: "Moving house".to_owned(), ..by_hand() });
        live.forget_but(&next);
        assert_eq!(live.on(&next), next);
        live.maintain(&next, false);
        assert_eq!(live.on(&next).maintenance, None);
    }

    #[test]
    fn what_the_plan_does_not_know_is_not_changed() {
        let wrong = Setting { upstream: "b".to_owned(), ..setting(Some(1), None) };
        let refused = LiveChanges::default().set(&plan(), &wrong).unwrap_err();
        assert_eq!(refused, "the group web has no upstream b");
    }
}
