//! Any command that listens on `$SOCKET` or `$PORT`.
//!
//! Such a program opens its listener itself, so two of it cannot overlap: the old one stops first, and the web server
//! holds requests back until the new one answers.

use std::time::Duration;

use mainstay_process::{ChildSpec, FileSpec, Probe, Replace, Signal, Stop};
use mainstay_site::plan::{AppPlan, CommandListen};
use mainstay_site::{AppName, paths};

use crate::{WEB_USER, release_folder, role_name, user};

/// Ports of commands: below the ephemeral ones, above what servers commonly use.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;

/// The port of an app that listens on one; it follows from the name, so that nothing has to be remembered.
pub fn port(app: &AppName) -> u16 {
    // FNV-1a: stable between versions, which the standard library's hashes are not.
    let hash = app
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    FIRST_PORT + (hash % u32::from(PORTS)) as u16
}

pub(crate) fn child(plan: &AppPlan, command: &[String], listen: CommandListen) -> ChildSpec {
    let name = role_name(&plan.name);
    let user = user(&plan.name);
    let socket = paths::app_socket(&plan.name);
    let port = port(&plan.name);
    let (variable, value, ready, files) = match listen {
        CommandListen::Socket => {
            let ready = match &plan.readiness_path {
                Some(path) => Probe::UnixHttp { socket: socket.clone(), path: path.clone() },
                None => Probe::UnixConnect { path: socket.clone() },
            };
            ("SOCKET", socket.display().to_string(), ready, Vec::new())
        }
        CommandListen::Port => {
            let ready = match &plan.readiness_path {
                Some(path) => Probe::TcpHttp { port, path: path.clone() },
                None => Probe::TcpConnect { port },
            };
            let file = FileSpec {
                path: paths::role_run(&name).join("port"),
                content: port.to_string(),
                user: user.clone(),
                group: WEB_USER.to_owned(),
                mode: 0o640,
            };
            ("PORT", port.to_string(), ready, vec![file])
        }
    };
    // The web server's group must be able to connect to a socket that the command makes; and a socket that a
    // killed one left behind would keep the next from making its own.
    let script = "umask 007; [ -z \"$SOCKET\" ] || rm -f \"$SOCKET\"; exec \"$@\"";
    let mut args = vec!["-c".to_owned(), script.to_owned(), "sh".to_owned()];
    args.extend(command.iter().cloned());
    ChildSpec {
        name,
        program: "/bin/sh".into(),
        args,
        env: [(variable.to_owned(), value)].into(),
        user,
        directory: release_folder(plan),
        sockets: Vec::new(),
        folders: Vec::new(),
        files,
        ready,
        ready_within: Duration::from_mins(1),
        stop: Stop { signal: Signal::Terminate, grace: Duration::from_secs(30) },
        replace: Replace::StopFirst,
        memory: plan.memory,
        processes: Some(plan.processes),
        capabilities: Vec::new(),
    }
}
