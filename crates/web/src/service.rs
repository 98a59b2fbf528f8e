//! Answers requests on one worker.

use std::rc::Rc;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_LENGTH, LOCATION};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use mainstay_http::{Body, Request, Response, Service};

use crate::files::cache::Entry;
use crate::files::{Found, RootId, answer};
use crate::metrics::Metrics;
use crate::record::Record;
use crate::script::{self, Script};
use crate::site::{App, AppBackend, Site, Target};
use mainstay_http::access_log::AccessLog;
use mainstay_http::compress::{self, Wish};
use mainstay_http::networks::Networks;
use mainstay_http::pages;
use mainstay_http::path::{SitePath, under};
use mainstay_http::request_id::RequestIds;

use crate::{forwarded, php, proxy, route};

/// The index files of a folder, in the order in which they are looked for.
const INDEXES: [&str; 2] = ["index.html", "index.htm"];
/// What is allowed on a file.
const FILE_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
const X_RELEASE: HeaderName = HeaderName::from_static("x-release");

/// One worker's web server.
pub(crate) struct Web {
    pub(crate) site: Rc<Site>,
    pub(crate) metrics: Metrics,
    pub(crate) log: Rc<AccessLog>,
    pub(crate) ids: RequestIds,
    pub(crate) server: HeaderValue,
    pub(crate) compress: bool,
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Who is believed about clients.
    pub(crate) trusted: Networks,
}

impl Service for Web {
    async fn call(self: Rc<Self>, mut request: Request) -> Response {
        let told = forwarded::listen(&mut request, &self.trusted);
        let mut record = Record::new(&self, &request, told);
        let response = match self.decide(&request, &mut record) {
            Ok(Decision::Ready(response)) => response,
            // Apart on the heap, so that the many requests for files do not carry the room that these need.
            Ok(Decision::Script(app, script)) => Box::pin(self.run(&app, script, request, &mut record)).await,
            Ok(Decision::Forward(app)) => Box::pin(self.forward(&app, request, &mut record)).await,
            Err(status) => pages::error(status, &record.id),
        };
        self.finish(response, record)
    }
}

/// What is to be done with a request.
enum Decision {
    Ready(Response),
    Script(Rc<App>, Script),
    Forward(Rc<App>),
}

impl Web {
    /// Everything that needs no waiting. An error is the status of an error page.
    fn decide(&self, request: &Request, record: &mut Record) -> Result<Decision, StatusCode> {
        let host = request.host.as_deref().unwrap_or_default();
        let host = host.strip_suffix('.').unwrap_or(host);
        if !self.site.hosts.contains(host) {
            return Err(StatusCode::MISDIRECTED_REQUEST);
        }
        if request.uri.path() == "*" {
            return Ok(Decision::Ready(allowed(StatusCode::NO_CONTENT)));
        }
        if request.method == Method::TRACE || request.method == Method::CONNECT {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        let path = SitePath::parse(request.uri.path()).map_err(|_| StatusCode::BAD_REQUEST)?;
        let taken = self.site.routes.iter().find_map(|(condition, target)| {
            condition.takes(host, &path.decoded).map(|rest| (condition, target, rest))
        });
        let Some((condition, target, rest)) = taken else { return Err(StatusCode::NOT_FOUND) };
        match target {
            Target::Redirect { to, status, info } => {
                record.target = Rc::clone(info);
                let prefix = condition.path.strip_suffix('/').unwrap_or(&condition.path);
                // The prefix stands in the encoded path too, unless it was encoded in another way than in the plan.
                let rest = path.encoded.strip_prefix(prefix).unwrap_or(&path.encoded);
                redirect(*status, &route::location(to, rest, request.uri.query()))
            }
            Target::Static { root, info } => {
                record.target = Rc::clone(info);
                if path.is_hidden() || script::mentions_script(rest) {
                    return Err(StatusCode::NOT_FOUND);
                }
                match self.look(*root, rest, &path, request, record)? {
                    Look::Answer(response) => Ok(Decision::Ready(response)),
                    Look::Elsewhere => Err(StatusCode::NOT_FOUND),
                }
            }
            Target::App(app) => {
                record.target = Rc::clone(&app.info);
                if let Some(length) = request.headers.get(CONTENT_LENGTH) {
                    let length = length.to_str().ok().and_then(|length| length.parse().ok());
                    app.info.metrics.received.add(length.unwrap_or(0));
                }
                self.decide_app(app, rest, &path, request, record)
            }
        }
    }

    fn decide_app(
        &self,
        app: &Rc<App>,
        rest: &[u8],
        path: &SitePath<'_>,
        request: &Request,
        record: &Record,
    ) -> Result<Decision, StatusCode> {
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        let AppBackend::Php { front_controller, .. } = &app.backend else {
            if reads && request.upgrade.is_none() && !path.is_hidden() && !script::mentions_script(rest) {
                if let Some((root, rest)) = mount(app, rest) {
                    if let Look::Answer(response) = self.look(root, rest, path, request, record)? {
                        return Ok(Decision::Ready(response));
                    }
                } else if let Look::Answer(response) = self.look(app.public, rest, path, request, record)? {
                    return Ok(Decision::Ready(response));
                }
            }
            return Ok(Decision::Forward(Rc::clone(app)));
        };
        if path.is_hidden() {
            return Err(StatusCode::NOT_FOUND);
        }
        if let Some((root, rest)) = mount(app, rest) {
            // What visitors upload is never run, and a script among it never shown.
            if script::mentions_script(rest) {
                return Err(StatusCode::NOT_FOUND);
            }
            if let Look::Answer(response) = self.look(root, rest, path, request, record)? {
                return Ok(Decision::Ready(response));
            }
        } else if script::mentions_script(rest) {
            let named = script::named(&self.site.files, app.public, rest, record.started);
            if let Some(script) = named.map_err(|error| unreadable(&error))? {
                return Ok(Decision::Script(Rc::clone(app), script));
            }
        } else {
            if rest.ends_with(b"/") {
                let index = [rest, b"index.php"].concat();
                let found = self.site.files.find(app.public, &index, record.started);
                if matches!(found.map_err(|error| unreadable(&error))?, Found::File(_)) {
                    let script = Script { path: index, path_info: Vec::new() };
                    return Ok(Decision::Script(Rc::clone(app), script));
                }
            }
            if let Look::Answer(response) = self.look(app.public, rest, path, request, record)? {
                return Ok(Decision::Ready(response));
            }
        }
        match front_controller {
            Some(script) => {
                let script = Script { path: script.as_bytes().to_vec(), path_info: Vec::new() };
                Ok(Decision::Script(Rc::clone(app), script))
            }
            None => Err(StatusCode::NOT_FOUND),
        }
    }

    /// Looks for a file, or for a folder's index.
    fn look(
        &self,
        root: RootId,
        rest: &[u8],
        path: &SitePath<'_>,
        request: &Request,
        record: &Record,
    ) -> Result<Look, StatusCode> {
        let find = |path: &[u8]| {
            self.site.files.find(root, path, record.started).map_err(|error| unreadable(&error))
        };
        if rest.ends_with(b"/") {
            for index in INDEXES {
                if let Found::File(entry) = find(&[rest, index.as_bytes()].concat())? {
                    return Ok(Look::Answer(self.file(&entry, request, record)));
                }
            }
            return Ok(Look::Elsewhere);
        }
        match find(if rest.is_empty() { b"/" } else { rest })? {
            Found::File(entry) => Ok(Look::Answer(self.file(&entry, request, record))),
            Found::Nothing => Ok(Look::Elsewhere),
            Found::Folder => {
                for index in INDEXES.iter().chain(&["index.php"]) {
                    if matches!(find(&[rest, b"/", index.as_bytes()].concat())?, Found::File(_))
                        && matches!(request.method, Method::GET | Method::HEAD)
                    {
                        let query = request.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
                        let location = format!("{}/{query}", path.encoded);
                        return redirect(301, &location).map(|decision| match decision {
                            Decision::Ready(response) => Look::Answer(response),
                            _ => Look::Elsewhere,
                        });
                    }
                }
                Ok(Look::Elsewhere)
            }
        }
    }

    fn file(&self, entry: &Entry, request: &Request, record: &Record) -> Response {
        match request.method {
            Method::GET | Method::HEAD => {
                let boundary = || String::from_utf8_lossy(&record.id).into_owned();
                answer::answer(entry, &request.method, &request.headers, self.compress, boundary)
            }
            Method::OPTIONS => allowed(StatusCode::NO_CONTENT),
            _ => {
                let mut response = pages::error(StatusCode::METHOD_NOT_ALLOWED, &record.id);
                response.headers_mut().insert(ALLOW, FILE_METHODS);
                response
            }
        }
    }

    /// Lets PHP answer.
    async fn run(&self, app: &App, script: Script, request: Request, record: &mut Record) -> Response {
        let AppBackend::Php { client, .. } = &app.backend else {
            return pages::error(StatusCode::INTERNAL_SERVER_ERROR, &record.id);
        };
        let wish = self.wish(&request);
        let params = {
            use std::os::unix::ffi::OsStrExt as _;
            // It was parsed once already.
            let Ok(path) = SitePath::parse(request.uri.path()) else {
                return pages::error(StatusCode::BAD_REQUEST, &record.id);
            };
            let root = self.site.files.root(app.public).path().as_os_str().as_bytes();
            let is_secure = record.is_secure;
            let place = php::Place { root, path: &path, id: &record.id, listen: self.listen, is_secure };
            php::params(&request, &script, &place)
        };
        match php::ask(client, request, params).await {
            Ok((response, duration)) => pass_on(response, duration, wish.as_ref(), record),
            Err(failed) => fail(failed.status(), failed.reason(), &failed, record),
        }
    }

    /// Lets an app that speaks HTTP answer.
    async fn forward(&self, app: &App, mut request: Request, record: &mut Record) -> Response {
        let AppBackend::Http(proxy) = &app.backend else {
            return pages::error(StatusCode::INTERNAL_SERVER_ERROR, &record.id);
        };
        let wish = self.wish(&request);
        let Ok(path) = SitePath::parse(request.uri.path()).map(|path| path.encoded.into_owned()) else {
            return pages::error(StatusCode::BAD_REQUEST, &record.id);
        };
        let Ok(id) = HeaderValue::from_bytes(&record.id) else {
            return pages::error(StatusCode::INTERNAL_SERVER_ERROR, &record.id);
        };
        proxy::prepare(&mut request, &path, &id, record.is_secure);
        match proxy.ask(request).await {
            Ok((response, duration)) => pass_on(response, duration, wish.as_ref(), record),
            Err(failed) => fail(failed.status(), failed.reason(), &failed, record),
        }
    }

    fn wish(&self, request: &Request) -> Option<Wish> {
        let host = request.host.as_deref().unwrap_or_default();
        self.compress.then(|| Wish::of(&request.method, &request.headers, host))
    }

    fn finish(&self, mut response: Response, record: Record) -> Response {
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_bytes(&record.id) {
            headers.insert(X_REQUEST_ID, id);
        }
        headers.insert(X_SERVED_BY, self.server.clone());
        if let Some(release) = &record.target.release {
            headers.insert(X_RELEASE, release.clone());
        }
        let status = response.status();
        let body = std::mem::take(response.body_mut());
        *response.body_mut() = record.answered(status, body);
        response
    }
}

/// An app's response, compressed where that is wanted.
fn pass_on(response: Response, duration: Duration, wish: Option<&Wish>, record: &mut Record) -> Response {
    record.upstream = Some(duration);
    record.target.metrics.upstream_answered(duration);
    match wish {
        Some(wish) => compress::response(response, wish),
        None => response,
    }
}

/// A page instead of an app's response.
fn fail(status: StatusCode, reason: &str, error: &dyn std::fmt::Display, record: &Record) -> Response {
    record.target.metrics.upstream_failed(reason);
    if status.is_server_error() {
        let id = String::from_utf8_lossy(&record.id);
        tracing::warn!(app = record.target.name, request_id = %id, %error, "an app did not answer");
    }
    pages::error(status, &record.id)
}

/// What a look for a file came to.
enum Look {
    Answer(Response),
    Elsewhere,
}

/// The folder that lies elsewhere, if the path leads into one.
fn mount<'a>(app: &App, rest: &'a [u8]) -> Option<(RootId, &'a [u8])> {
    let inside = app.mounts.iter().filter_map(|(path, root)| Some((path.len(), *root, under(rest, path)?)));
    inside.max_by_key(|(length, ..)| *length).map(|(_, root, rest)| (root, rest))
}

fn redirect(status: u16, location: &str) -> Result<Decision, StatusCode> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let location = HeaderValue::from_str(location).map_err(|_| StatusCode::BAD_REQUEST)?;
    response.headers_mut().insert(LOCATION, location);
    Ok(Decision::Ready(response))
}

fn allowed(status: StatusCode) -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response.headers_mut().insert(ALLOW, FILE_METHODS);
    response
}

fn unreadable(error: &std::io::Error) -> StatusCode {
    tracing::error!(%error, "a file cannot be read");
    StatusCode::INTERNAL_SERVER_ERROR
}
