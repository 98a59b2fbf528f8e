//! The roles that run other people's programs: the database and the apps.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use mainstay_app::{Context, Secrets};
use mainstay_database::{Client, Place};
use mainstay_process::ChildSpec;
use mainstay_site::Plan;
use mainstay_site::plan::{AppPlan, Target};

/// A piece of work that takes a while and may be done again.
pub(crate) type Step = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The database, and what is done around its start.
pub(crate) struct Database {
    /// The server program.
    pub(crate) spec: ChildSpec,
    /// Before its first start: its data folder.
    pub(crate) prepare: Step,
    /// When it answers: accounts, databases, schemas.
    pub(crate) provision: Step,
}

/// The database, if the plan has one.
pub(crate) fn database(plan: &Plan) -> Result<Option<Database>, String> {
    let Some(database) = &plan.database else { return Ok(None) };
    let place = Place::default();
    let spec = mainstay_database::child(database, first_ipv4(plan), &place)
        .map_err(|error| format!("the database cannot run: {error}"))?;
    let database = Arc::new(database.clone());
    let prepare = {
        let (database, place) = (database.clone(), place.clone());
        step("the database cannot be prepared", move || mainstay_database::prepare(&database, &place))
    };
    let provision = step("the database cannot be provisioned", move || {
        let secrets = Secrets::default();
        let client = Client::new(&place)?;
        mainstay_database::provision(&database, &client, |name| secrets.read(name))
    });
    Ok(Some(Database { spec, prepare, provision }))
}

fn step<E: std::fmt::Display>(
    what: &'static str,
    work: impl Fn() -> Result<(), E> + Send + Sync + 'static,
) -> Step {
    Arc::new(move || work().map_err(|error| format!("{what}: {error}")))
}

/// What numbers the server among its replicas.
fn first_ipv4(plan: &Plan) -> Ipv4Addr {
    let ipv4 = |address: &IpAddr| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    };
    plan.addresses.iter().find_map(ipv4).unwrap_or(Ipv4Addr::LOCALHOST)
}

/// One app.
pub(crate) fn app(plan: &Plan, app: &AppPlan) -> Result<ChildSpec, String> {
    let secrets = Secrets::default();
    let routes = plan.web.iter().flat_map(|web| &web.routes);
    let mut known = routes.filter_map(|route| match &route.target {
        Target::App(web) if web.name == app.name => Some(web),
        _ => None,
    });
    let web = known.next();
    let context = Context { site: &plan.site, server: &plan.server, secrets: &secrets, web };
    let spec = mainstay_app::child(app, &context);
    spec.and_then(|spec| mainstay_app::seed(app).map(|()| spec))
        .map_err(|error| format!("the app {} cannot run: {error}", app.name))
}
