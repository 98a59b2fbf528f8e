//! The plan in force as one worker carries it out: its routes compiled, with groups, limits and series at hand.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use mainstay_http::networks::Networks;
use mainstay_site::plan::edge::{EdgeRoute, HashKey, PathCondition, RouteAction};

use crate::balance::random::Random;
use crate::cache::WorkerCache;
use crate::fields::Edits;
use crate::in_force::{InForce, Slots};
use crate::metrics::{Metrics, RouteMetrics};
use crate::rate::{RateFields, RateTable, policy_field};
use crate::route::{Hosts, Routes};
use crate::target::{self, Change};
use crate::upstreams::Group;

/// A plan, on one worker.
pub(crate) struct Site {
    pub(crate) in_force: Arc<InForce>,
    pub(crate) hosts: Hosts,
    pub(crate) routes: Routes,
    pub(crate) targets: Vec<Rc<Route>>,
    pub(crate) groups: HashMap<String, Rc<Group>>,
    pub(crate) trusted: Networks,
    pub(crate) maintenance: Option<Closed>,
    pub(crate) cache: Option<Rc<WorkerCache>>,
    /// Stands for what no route took.
    pub(crate) nobody: Rc<Route>,
    /// No request needs a look at its fields before its route is known.
    pub(crate) passes: bool,
}

/// Maintenance.
pub(crate) struct Closed {
    pub(crate) message: String,
    pub(crate) retry_after_secs: u32,
    pub(crate) allow: Networks,
}

/// A route.
pub(crate) struct Route {
    pub(crate) name: String,
    pub(crate) metrics: RouteMetrics,
    pub(crate) action: Action,
    pub(crate) request_edits: Edits,
    pub(crate) response_edits: Edits,
    pub(crate) body_bytes: u64,
    pub(crate) timeout: Option<Duration>,
    pub(crate) rates: Vec<Rate>,
    pub(crate) slots: Option<Arc<Slots>>,
    pub(crate) cache: bool,
    /// Clients must have shown a certificate.
    pub(crate) client_certificate: bool,
    /// Usual requests may be passed on with their fields as bytes: nothing is to be changed in them, counted by them or
    /// kept of them.
    pub(crate) passes: bool,
    /// Its part of the cache: it may choose by more than the URL.
    pub(crate) partition: Arc<str>,
}

/// A rate limit.
pub(crate) struct Rate {
    pub(crate) by: Option<HashKey>,
    pub(crate) table: Arc<RateTable>,
    /// What clients are told of it.
    pub(crate) policy: HeaderValue,
    pub(crate) fields: RateFields,
}

/// What becomes of a request.
pub(crate) enum Action {
    Forward(Forward),
    Redirect {
        to: String,
        status: StatusCode,
        /// Segments of the route's prefix.
        segments: usize,
    },
    Respond {
        status: StatusCode,
        body: Bytes,
    },
}

/// How a request is forwarded.
pub(crate) struct Forward {
    pub(crate) groups: Vec<(Rc<Group>, u32)>,
    pub(crate) change: Change,
    pub(crate) host: Option<HeaderValue>,
}

impl Site {
    /// Carries a plan out. Groups that stay go on as they are.
    pub(crate) fn new(
        in_force: &Arc<InForce>,
        metrics: &Metrics,
        random: &mut Random,
        before: Option<&Self>,
        now: Instant,
    ) -> Result<Self, String> {
        let plan = &in_force.plan;
        let mut groups = HashMap::new();
        for planned in &plan.groups {
            let shared = &in_force.groups[&planned.name];
            let group = match before.and_then(|before| before.groups.get(&planned.name)) {
                Some(group) => {
                    group.update(in_force, shared, metrics, now)?;
                    Rc::clone(group)
                }
                None => Rc::new(Group::new(in_force, shared, metrics, random.next(), now)?),
            };
            groups.insert(planned.name.clone(), group);
        }
        let mut targets = Vec::with_capacity(plan.routes.len());
        for planned in &plan.routes {
            let route = Route::new(planned, in_force, &groups, metrics)
                .map_err(|error| format!("route {}: {error}", planned.name))?;
            targets.push(Rc::new(route));
        }
        let cache = in_force.cache.as_ref().map(|cache| {
            let kept = before.and_then(|before| before.cache.clone());
            kept.filter(|kept| Arc::ptr_eq(kept.cache(), cache))
                .unwrap_or_else(|| Rc::new(WorkerCache::new(cache)))
        });
        let maintenance = match &plan.maintenance {
            Some(closed) => Some(Closed {
                message: closed.message.clone(),
                retry_after_secs: closed.retry_after_secs,
                allow: Networks::parse(&closed.allow)?,
            }),
            None => None,
        };
        let conditions = plan.routes.iter().map(|route| (route.name.as_str(), &route.condition));
        let routes = Routes::compile(conditions)?;
        Ok(Self {
            passes: maintenance.is_none()
                && !routes.ask_for_fields()
                // What clients showed is told in a field.
                && plan.client_certificates.is_none(),
            hosts: Hosts::new(&plan.hosts),
            routes,
            targets,
            groups,
            trusted: Networks::parse(&plan.trusted_proxies)?,
            maintenance,
            cache,
            nobody: Rc::new(Route {
                name: "none".to_owned(),
                metrics: metrics.route("none"),
                action: Action::Respond { status: StatusCode::NOT_FOUND, body: Bytes::new() },
                request_edits: Edits::default(),
                response_edits: Edits::default(),
                body_bytes: plan.limits.body.bytes(),
                timeout: None,
                rates: Vec::new(),
                slots: None,
                cache: false,
                client_certificate: false,
                passes: false,
                partition: Arc::from("none"),
            }),
            in_force: Arc::clone(in_force),
        })
    }

    /// Whether a plan can be carried out; nothing is changed by asking.
    pub(crate) fn check(in_force: &Arc<InForce>, metrics: &Metrics, now: Instant) -> Result<(), String> {
        Self::new(in_force, metrics, &mut Random::new(0), None, now).map(|_| ())
    }
}

impl Route {
    fn new(
        planned: &EdgeRoute,
        in_force: &InForce,
        groups: &HashMap<String, Rc<Group>>,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        let action = match &planned.action {
            RouteAction::Forward { groups: named, rewrite, host } => Action::Forward(Forward {
                groups: named
                    .iter()
                    .filter_map(|(name, weight)| Some((Rc::clone(groups.get(name)?), *weight)))
                    .collect(),
                change: Change::compile(rewrite.as_ref(), &planned.condition.path)?,
                host: match host {
                    Some(host) => {
                        let value = HeaderValue::from_str(host);
                        Some(value.map_err(|_| format!("`{host}` is no host"))?)
                    }
                    None => None,
                },
            }),
            RouteAction::Redirect { to, status } => Action::Redirect {
                to: to.clone(),
                status: StatusCode::from_u16(*status)
                    .ok()
                    .filter(StatusCode::is_redirection)
                    .ok_or_else(|| format!("{status} is no status of a redirect"))?,
                segments: match &planned.condition.path {
                    PathCondition::Prefix(path) => target::segments(path),
                    PathCondition::Exact(_) | PathCondition::Suffix(_) => 0,
                },
            },
            RouteAction::Respond { status, body } => Action::Respond {
                status: StatusCode::from_u16(*status)
                    .ok()
                    .filter(|status| !status.is_informational())
                    .ok_or_else(|| format!("{status} is no status of an answer"))?,
                body: Bytes::from(body.clone()),
            },
        };
        let by = |name: &String| {
            in_force.plan.rates.iter().find(|rate| rate.name == *name).and_then(|rate| rate.by.clone())
        };
        let rates = planned.rates.iter().filter_map(|name| {
            let table = Arc::clone(in_force.rates.get(name)?);
            let policy = HeaderValue::try_from(policy_field(table.limit())).ok()?;
            let fields = RateFields::new(table.limit());
            Some(Rate { by: by(name), policy, fields, table })
        });
        let request_edits = Edits::compile(&planned.request_fields)?;
        let response_edits = Edits::compile(&planned.response_fields)?;
        let slots = in_force.slots.get(&planned.name).cloned();
        let passes = matches!(action, Action::Forward(_))
            && request_edits.is_empty()
            && response_edits.is_empty()
            && planned.rates.is_empty()
            && slots.is_none()
            && !planned.cache;
        Ok(Self {
            name: planned.name.clone(),
            metrics: metrics.route(&planned.name),
            action,
            request_edits,
            response_edits,
            body_bytes: planned.body.unwrap_or(in_force.plan.limits.body).bytes(),
            timeout: (planned.timeout_ms > 0).then(|| Duration::from_millis(planned.timeout_ms)),
            rates: rates.collect(),
            slots,
            cache: planned.cache,
            client_certificate: planned.client_certificate,
            passes,
            partition: Arc::from(planned.name.as_str()),
        })
    }
}
