//! The admin socket: state, and live changes.

use http::{Method, StatusCode};
use mainstay_http::admin::{Call, Reply, Router};
use mainstay_http::metrics::Registry;
use mainstay_http::{Shutdown, role};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::control::{Command, Purge, Refusal, Setting};

/// The largest weight of an upstream.
const MOST_WEIGHT: u32 = 1000;

#[derive(Serialize)]
struct InForceReply {
    /// SHA-256 of the configuration in force, in hexadecimal.
    sha256: String,
    /// The last new configuration that was refused, and why, if none was taken over since.
    refused: Option<Refusal>,
}

/// The router of the role's admin socket.
pub(crate) fn router(registry: &Registry, shutdown: &Shutdown, commands: &mpsc::Sender<Command>) -> Router {
    let (status, config) = (commands.clone(), commands.clone());
    let (upstream, maintenance, purge) = (commands.clone(), commands.clone(), commands.clone());
    role::routes(registry, shutdown)
        .route(Method::GET, "/status", move |_| {
            let commands = status.clone();
            async move {
                match ask(&commands, Command::Status).await {
                    Ok(status) => Reply::json(&status),
                    Err(reply) => reply,
                }
            }
        })
        .route(Method::GET, "/config", move |_| {
            let commands = config.clone();
            async move {
                match ask(&commands, Command::Digest).await {
                    Ok((sha256, refused)) => Reply::json(&InForceReply { sha256, refused }),
                    Err(reply) => reply,
                }
            }
        })
        .route(Method::POST, "/upstream", move |call| {
            let commands = upstream.clone();
            async move {
                match setting(&call) {
                    Ok(setting) => changed(&commands, |reply| Command::Set(setting, reply)).await,
                    Err(why) => Reply::text(StatusCode::BAD_REQUEST, why + "\n"),
                }
            }
        })
        .route(Method::POST, "/cache/purge", move |call| {
            let commands = purge.clone();
            async move {
                let wish: Purge = match call.json() {
                    Ok(wish) => wish,
                    Err(reply) => return reply,
                };
                match ask(&commands, |reply| Command::Purge(wish, reply)).await {
                    Ok(Ok(count)) => Reply::text(StatusCode::OK, format!("{count}\n")),
                    Ok(Err(why)) => Reply::text(StatusCode::CONFLICT, why + "\n"),
                    Err(reply) => reply,
                }
            }
        })
        .route(Method::POST, "/maintenance*", move |call| {
            let commands = maintenance.clone();
            async move {
                let body = String::from_utf8_lossy(&call.body).into_owned();
                let wish = call.path.strip_prefix("/maintenance/").unwrap_or(body.trim());
                let on = match wish {
                    "on" => true,
                    "off" => false,
                    _ => {
                        return Reply::text(
                            StatusCode::BAD_REQUEST,
                            "say /maintenance/on or /maintenance/off\n",
                        );
                    }
                };
                changed(&commands, |reply| Command::Maintenance(on, reply)).await
            }
        })
}

fn setting(call: &Call) -> Result<Setting, String> {
    let named = |name: &str| {
        call.parameter(name).map(str::to_owned).ok_or_else(|| format!("the parameter `{name}` is missing"))
    };
    let weight = match call.parameter("weight") {
        None => None,
        Some(text) => Some(
            text.parse()
                .ok()
                .filter(|weight| *weight <= MOST_WEIGHT)
                .ok_or_else(|| format!("a weight is a number from 0 to {MOST_WEIGHT}"))?,
        ),
    };
    let drain = match call.parameter("drain") {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => return Err("`drain` is true or false".to_owned()),
    };
    if weight.is_none() && drain.is_none() {
        return Err("say `weight` or `drain`".to_owned());
    }
    Ok(Setting { group: named("group")?, upstream: named("name")?, weight, drain })
}

async fn changed(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Command,
) -> Reply {
    match ask(commands, command).await {
        Ok(Ok(())) => Reply::text(StatusCode::OK, "done\n"),
        Ok(Err(why)) => Reply::text(StatusCode::CONFLICT, why + "\n"),
        Err(reply) => reply,
    }
}

async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, Reply> {
    let gone = || Reply::text(StatusCode::SERVICE_UNAVAILABLE, "the role is stopping\n");
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}
