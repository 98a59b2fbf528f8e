//! The agent's metrics, in the Prometheus text format, out of the same status that people see.

use std::fmt::Write;

use mainstay_process::ChildStatus;
use mainstay_process::supervise::State;

use crate::ServerStatus;

type Value = fn(&ChildStatus) -> Option<f64>;

/// Name, type, help, value.
const PER_ROLE: [(&str, &str, &str, Value); 8] = [
    ("mainstay_role_ready", "gauge", "Whether the role serves.", |role| {
        Some(f64::from(u8::from(role.state == State::Ready)))
    }),
    ("mainstay_role_failed", "gauge", "Whether the role falls again and again.", |role| {
        Some(f64::from(u8::from(role.state == State::Failed)))
    }),
    ("mainstay_role_draining_generations", "gauge", "Generations that still finish their work.", |role| {
        Some(role.draining as f64)
    }),
    ("mainstay_role_restarts_total", "counter", "Restarts after falls, since the agent started.", |role| {
        Some(role.restarts as f64)
    }),
    ("mainstay_role_log_lines_dropped_total", "counter", "Log lines that could not be written.", |role| {
        Some(role.log_lines_dropped as f64)
    }),
    ("mainstay_role_memory_bytes", "gauge", "Memory of the role without file cache.", |role| {
        role.memory_bytes.map(|bytes| bytes as f64)
    }),
    ("mainstay_role_cpu_seconds_total", "counter", "Processor time of the role.", |role| role.cpu_seconds),
    ("mainstay_role_processes", "gauge", "Processes of the role.", |role| {
        role.processes.map(|count| count as f64)
    }),
];

pub(crate) fn render(status: &ServerStatus) -> String {
    let mut text = String::new();
    for (name, kind, help, value) in PER_ROLE {
        head(&mut text, name, kind, help);
        for role in &status.roles {
            if let Some(value) = value(role) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{name}{{role=\"{}\"}} {value}", role.name);
            }
        }
    }
    for (name, help, value) in [
        (
            "mainstay_agent_uptime_seconds",
            "How long the agent has been running.",
            status.agent.uptime_seconds,
        ),
        ("mainstay_agent_settled", "Whether the plan was carried out.", u64::from(status.settled)),
        ("mainstay_agent_problems", "What stands in the plan's way.", status.problems.len() as u64),
    ] {
        head(&mut text, name, "gauge", help);
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AgentInfo;

    #[test]
    fn every_role_has_its_series_and_what_is_not_known_has_none() {
        let role = ChildStatus {
            name: "web".into(),
            state: State::Ready,
            pid: Some(7),
            generation: Some(1),
            since: None,
            changing: false,
            draining: 0,
            restarts: 3,
            falls: 0,
            last_exit: None,
            rejected: None,
            user: "mainstay-web".into(),
            listens: Vec::new(),
            memory_bytes: Some(1024),
            cpu_seconds: None,
            processes: None,
            not_ready: None,
            last_words: Vec::new(),
            log_lines_dropped: 0,
        };
        let status = ServerStatus {
            server: "server1".into(),
            site: "foobar".into(),
            plan: "0".into(),
            settled: true,
            problems: Vec::new(),
            agent: AgentInfo { pid: 1, version: "1".into(), uptime_seconds: 9 },
            roles: vec![role],
            totals: None,
            edge: None,
        };
        let text = render(&status);
        assert!(text.contains("mainstay_role_ready{role=\"web\"} 1\n"));
        assert!(text.contains("# TYPE mainstay_role_restarts_total counter\n"));
        assert!(text.contains("mainstay_role_restarts_total{role=\"web\"} 3\n"));
        assert!(text.contains("mainstay_role_memory_bytes{role=\"web\"} 1024\n"));
        assert!(!text.contains("mainstay_role_cpu_seconds_total{"));
        assert!(text.contains("mainstay_agent_settled 1\n"));
    }
}
