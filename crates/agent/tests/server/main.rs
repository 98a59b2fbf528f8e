//! Whole servers, each in namespaces of its own: real agents that are killed, replaced and stopped under requests.
//!
//! This binary plays every part of `mainstay`: the test runner, the agent, the shim, and a role `web` that answers each
//! request with its process number.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod stage;
mod stories;
mod web_role;

use std::process::{Command, ExitCode, Stdio};

use mainstay_agent::AgentOptions;
use mainstay_process::cgroup::Cgroups;

type Story = fn();

/// Each is a promise.
const STORIES: [(&str, Story); 6] = [
    ("a_killed_agent_costs_no_request_and_its_successor_adopts_the_roles", stories::killed_agent),
    ("another_version_of_the_binary_replaces_the_roles_and_costs_no_request", stories::other_version),
    (
        "roles_that_a_changed_plan_no_longer_has_stop_and_an_ordered_stop_leaves_nothing",
        stories::changed_plan,
    ),
    (
        "php_and_the_database_are_replaced_without_a_failed_request_and_back_soon_when_killed",
        stories::php_and_database,
    ),
    ("a_role_that_hangs_is_replaced", stories::hung_role),
    ("a_missing_user_is_told_with_the_command_that_makes_it_and_cured_by_making_it", stories::missing_user),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["exec-child"] => {
            u8::try_from(mainstay_process::exec_child()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        ["role", "web", "--config", config] => web_role::run(config),
        ["agent"] => agent(),
        ["story", name] => {
            stage::set();
            STORIES.iter().find(|(promise, _)| *promise == name).unwrap().1();
            ExitCode::SUCCESS
        }
        _ => run_tests(&words),
    }
}

fn agent() -> ExitCode {
    match mainstay_agent::run(AgentOptions { server: "server1".parse().unwrap(), plan: None }) {
        Ok(ended) => ExitCode::from(ended.exit_code()),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What the test runner asks of a test binary: `--list`, or the names to run.
fn run_tests(words: &[&str]) -> ExitCode {
    if words.contains(&"--list") {
        for (name, _) in STORIES.iter().filter(|_| !words.contains(&"--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&str> = words.iter().copied().filter(|word| !word.starts_with('-')).collect();
    let stories = STORIES.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name));
    let failed: Vec<&str> = stories.map(|(name, _)| *name).filter(|name| !holds(name)).collect();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("failed: {failed:?}");
    ExitCode::FAILURE
}

/// Runs a story in namespaces and a control group of its own. When it ends, the kernel ends everything in them.
fn holds(name: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("{name}: passed over, for only root can make namespaces");
        return true;
    }
    let groups = Cgroups::discover(&format!("mainstay-test-agent-{}", std::process::id())).ok();
    let group = groups
        .as_ref()
        .map(|groups| groups.role("server", None, None).and_then(|role| role.make_generation(1)).unwrap());
    let files = group.iter().flat_map(mainstay_process::cgroup::GenerationGroup::procs_files);
    let join = files.fold(String::new(), |join, file| format!("{join}echo 0 > {}; ", file.display()));
    let unshare = "exec unshare --mount --net --pid --ipc --uts --fork --kill-child --mount-proc \"$@\"";
    let this = std::env::current_exe().unwrap();
    let status = Command::new("/bin/sh")
        .args(["-c", &format!("{join}{unshare}"), "sh"])
        .arg(&this)
        .args(["story", name])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    if let Some(groups) = groups {
        groups.remove().unwrap();
    }
    status.success()
}
