//! What can be asked on the command line. Names and exit codes are a contract: they stay.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use mainstay_site::{ServerName, SiteName};

/// One file describes the site, one binary keeps it standing.
#[derive(Debug, Parser)]
#[command(name = "mainstay", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Where {
    /// The folder of all sites' state
    #[arg(long, env = "MAINSTAY_STATE", default_value = "/var/lib/mainstay-lab", value_name = "DIR")]
    pub(crate) state: PathBuf,
    /// The site that is meant, where several are up
    #[arg(long, value_name = "NAME")]
    pub(crate) site: Option<SiteName>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a site file: every error, with its place and what would be right
    #[command(
        after_help = "Example:\n  mainstay check site.toml\n\nExit code: 0 if it is fine, 2 if it is wrong."
    )]
    Check {
        /// The site file
        site: PathBuf,
        /// Print the errors as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what each server will run, listen on, and let in and out
    #[command(after_help = "Example:\n  mainstay plan site.toml --json")]
    Plan {
        /// The site file
        site: PathBuf,
        /// Print the plans as JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring a site up on this machine, and prove that it stands
    #[command(
        after_help = "Examples:\n  mainstay up site.toml\n  mainstay up              writes the smallest site file and brings it up\n\n\
        A second `up` changes only what the file or the code base changed; it revives whatever died."
    )]
    Up {
        /// The site file; without one, the smallest is written to ./site.toml and used
        site: Option<PathBuf>,
        /// Return as soon as the servers run, without waiting for their roles and without the proof
        #[arg(long)]
        detach: bool,
        /// The folder of all sites' state
        #[arg(long, env = "MAINSTAY_STATE", default_value = "/var/lib/mainstay-lab", value_name = "DIR")]
        state: PathBuf,
    },
    /// Take a site down, in order
    #[command(
        after_help = "Examples:\n  mainstay down            data and logs stay; `up` goes on with them\n  mainstay down --purge    nothing stays"
    )]
    Down {
        /// Remove the site's state as well: databases, secrets, logs
        #[arg(long)]
        purge: bool,
        #[command(flatten)]
        place: Where,
    },
    /// Show servers and roles: state, process, restarts, memory, and how the load balancer finds the servers
    #[command(
        after_help = "Examples:\n  mainstay status\n  mainstay status --watch\n\nExit code: 0 if all is well, 1 if something is not."
    )]
    Status {
        /// Print it as JSON
        #[arg(long)]
        json: bool,
        /// Show it again every second, until interrupted
        #[arg(long, conflicts_with = "json")]
        watch: bool,
        #[command(flatten)]
        place: Where,
    },
    /// Run a command on a server of the lab, or on `client` or `internet`
    #[command(
        after_help = "Examples:\n  mainstay exec client -- curl -s http://www.foobar.com/\n  mainstay exec server1 -- ps aux"
    )]
    Exec {
        /// The host
        host: String,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
        #[command(flatten)]
        place: Where,
    },
    /// Read the logs of all servers and roles in the order of time
    #[command(after_help = "Examples:\n  mainstay logs -f\n  mainstay logs server1 --role web --since 10m")]
    Logs {
        /// Only this host
        host: Option<String>,
        /// Only this role: edge, web, dns, database, app-NAME, agent, access, ...
        #[arg(long)]
        role: Option<String>,
        /// Go on with what is added
        #[arg(short, long)]
        follow: bool,
        /// Only from this time on: 10m, 2h, 1d, or a time such as 2026-11-23T20:00:00Z
        #[arg(long, value_name = "T")]
        since: Option<String>,
        /// Print each line as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Where,
    },
    /// Run one server: what a real server's service manager starts
    #[command(after_help = "Example:\n  mainstay agent --server server1")]
    Agent {
        /// The server's name
        #[arg(long)]
        server: ServerName,
        /// The plan; without it the one that was delivered
        #[arg(long)]
        plan: Option<PathBuf>,
    },
    /// A role's own process
    #[command(hide = true, subcommand)]
    Role(Role),
    /// Becomes a child process as its supervisor described it
    #[command(hide = true)]
    ExecChild,
    /// A host of the lab
    #[command(hide = true, subcommand)]
    LabHost(LabHost),
    /// The way from this machine's browser into the lab
    #[command(hide = true)]
    LabGateway {
        /// The port of the real machine that HTTP is redirected to
        #[arg(long)]
        redirect_to: Option<u16>,
        /// Where it leads
        entries: Vec<std::net::SocketAddr>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// The load balancer
    Edge(RoleConfig),
    /// The web server
    Web(RoleConfig),
    /// The name server
    Dns(RoleConfig),
}

#[derive(Debug, Args)]
pub(crate) struct RoleConfig {
    /// The role's configuration, as the agent writes it
    #[arg(long)]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LabHost {
    /// Makes the namespaces and starts the first process in them
    Launch(HostSpec),
    /// The first process
    Init(HostSpec),
}

#[derive(Debug, Args)]
pub(crate) struct HostSpec {
    /// The host's description
    #[arg(long)]
    pub(crate) spec: PathBuf,
}
