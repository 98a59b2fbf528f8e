//! The plan as one worker carries it out: its routes, with files, pools and series at hand.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use mainstay_site::plan::{Backend, Target as PlannedTarget, WebApp, WebPlan};

use crate::fastcgi::{Client, Permits};
use crate::files::{Cache, Root, RootId};
use crate::metrics::{Metrics, TargetMetrics};
use crate::proxy::Proxy;
use crate::route::{Condition, Hosts};

/// What all workers share of the apps: how many connections each php-fpm takes, by its socket.
pub(crate) type SharedPermits = HashMap<std::path::PathBuf, Arc<Permits>>;

/// The permits of all php-fpm pools in a plan.
pub(crate) fn permits(plan: &WebPlan) -> SharedPermits {
    let apps = plan.routes.iter().filter_map(|route| match &route.target {
        PlannedTarget::App(app) => Some(app),
        _ => None,
    });
    apps.filter_map(|app| match &app.backend {
        Backend::FastCgi { socket, max_requests, .. } => Some((socket.clone(), Permits::new(*max_requests))),
        _ => None,
    })
    .collect()
}

/// A site, on one worker.
pub(crate) struct Site {
    pub(crate) hosts: Hosts,
    pub(crate) routes: Vec<(Condition, Target)>,
    pub(crate) files: Cache,
    /// Counts what no target took.
    pub(crate) nobody: Rc<TargetInfo>,
}

/// Who answers.
pub(crate) enum Target {
    App(Rc<App>),
    Static { root: RootId, info: Rc<TargetInfo> },
    Redirect { to: String, status: u16, info: Rc<TargetInfo> },
}

/// How a target is told in logs and metrics.
pub(crate) struct TargetInfo {
    pub(crate) name: String,
    pub(crate) release: Option<HeaderValue>,
    pub(crate) metrics: TargetMetrics,
}

/// An app.
pub(crate) struct App {
    pub(crate) info: Rc<TargetInfo>,
    pub(crate) public: RootId,
    pub(crate) mounts: Vec<(String, RootId)>,
    pub(crate) backend: AppBackend,
}

/// How an app is reached.
pub(crate) enum AppBackend {
    Php { client: Client, front_controller: Option<String> },
    Http(Proxy),
}

impl Site {
    pub(crate) fn new(plan: &WebPlan, permits: &SharedPermits, metrics: &Metrics) -> Self {
        let mut site = Self {
            hosts: Hosts::new(&plan.hosts),
            routes: Vec::new(),
            files: Cache::new(metrics.files.clone()),
            nobody: info("none", None, metrics),
        };
        let mut apps: HashMap<String, Rc<App>> = HashMap::new();
        let statics = info("static", None, metrics);
        let redirects = info("redirect", None, metrics);
        for route in &plan.routes {
            let target = match &route.target {
                PlannedTarget::App(app) => {
                    let known = apps.get(app.name.as_str()).map(Rc::clone);
                    let app = known.unwrap_or_else(|| {
                        let new = Rc::new(site.app(app, plan, permits, metrics));
                        apps.insert(app.name.to_string(), Rc::clone(&new));
                        new
                    });
                    Target::App(app)
                }
                PlannedTarget::Static { root } => Target::Static {
                    root: site.files.add(Root::new(root.clone())),
                    info: Rc::clone(&statics),
                },
                PlannedTarget::Redirect { to, status } => {
                    Target::Redirect { to: to.clone(), status: *status, info: Rc::clone(&redirects) }
                }
            };
            site.routes.push((Condition::new(route.host.as_ref(), &route.path), target));
        }
        site
    }

    fn app(&mut self, app: &WebApp, plan: &WebPlan, permits: &SharedPermits, metrics: &Metrics) -> App {
        let timeout = Duration::from_secs(u64::from(plan.limits.backend_timeout_secs.max(1)));
        let backend = match &app.backend {
            Backend::FastCgi { socket, front_controller, max_requests } => {
                let permits = permits.get(socket).map_or_else(|| Permits::new(*max_requests), Arc::clone);
                let client = Client::new(socket.clone(), permits, timeout);
                AppBackend::Php { client, front_controller: front_controller.clone() }
            }
            Backend::HttpSocket { socket } => AppBackend::Http(Proxy::to_socket(socket.clone(), timeout)),
            Backend::HttpPort { port_file } => AppBackend::Http(Proxy::to_port(port_file.clone(), timeout)),
        };
        App {
            info: info(app.name.as_str(), HeaderValue::from_str(&app.release).ok(), metrics),
            public: self.files.add(Root::new(app.public.clone())),
            mounts: app
                .mounts
                .iter()
                .map(|mount| (mount.path.clone(), self.files.add(Root::new(mount.root.clone()))))
                .collect(),
            backend,
        }
    }

    /// Keeps no connection any longer that no request uses.
    pub(crate) fn close_pools(&self) {
        for (_, target) in &self.routes {
            if let Target::App(app) = target
                && let AppBackend::Php { client, .. } = &app.backend
            {
                client.close_idle();
            }
        }
    }
}

fn info(name: &str, release: Option<HeaderValue>, metrics: &Metrics) -> Rc<TargetInfo> {
    Rc::new(TargetInfo { name: name.to_owned(), release, metrics: metrics.target(name) })
}
