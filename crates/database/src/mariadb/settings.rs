//! The configuration of a member of a cluster, and the command line that starts it.
//!
//! The file is the same on every member apart from names, addresses and numbers of its own: which role a server has is never
//! in it. The server always starts closed (`read_only`), without replication threads and without waiting for
//! acknowledgements; its keeper opens it. The role is a word on the command line, chosen anew before every start.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use mainstay_site::plan::DatabasePlan;
use serde::{Deserialize, Serialize};

use crate::{Place, configuration};

/// How long a replica that stops receiving tries to reach its primary to end its stream there, in seconds.
const KILL_CONNECTION_TIMEOUT_SECS: u32 = 1;
/// A primary that sends nothing for so long, heartbeats neither, is connected to anew, in seconds. Its keeper
/// notices sooner, by the stream's pulse; this is for a replica whose keeper is gone.
const SILENCE_SECS: u32 = 4;

/// What a server is started as: what recovery does to transactions that were in the binary log and not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// They are kept and shown. Only for a server whose every transaction is known to be in the cluster's history: the first
    /// start of all, or one after a clean stop as the leader of the same epoch.
    Primary,
    /// They are cut off. For every other start.
    Replica,
}

/// Whether a replica's acknowledgement means that the transaction is on its disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acknowledged {
    /// It is in the replica's page cache: it survives a killed process, not a power cut of primary and replica at once.
    #[default]
    Received,
    /// It is on the replica's disk as well (`sync_relay_log = 1`). The server syncs after every event, about five to a
    /// transaction, and not for several transactions at once, so a busy primary has a fraction of its commits.
    OnDisk,
}

/// Files of the site's authority and of this server's certificate, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// This server's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// All that a member's configuration depends on.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// Its share of the site's plan.
    pub plan: &'a DatabasePlan,
    /// Its address, which numbers it among its fellows.
    pub server: Ipv4Addr,
    /// Its folders.
    pub place: &'a Place,
    /// Its certificate.
    pub tls: &'a TlsFiles,
    /// What an acknowledgement means.
    pub acknowledged: Acknowledged,
    /// Threads that apply what was received.
    pub applier_threads: u16,
    /// A port for the keeper and people when all connections are taken, if one is wanted.
    pub extra_port: Option<u16>,
}

/// The server's number among its fellows.
pub fn server_id(server: Ipv4Addr) -> u32 {
    u32::from(server)
}

impl Settings<'_> {
    /// The content of the configuration file.
    pub fn text(&self) -> String {
        let mut text = configuration::of(self.plan, self.server, self.place);
        let relay_sync = match self.acknowledged {
            Acknowledged::OnDisk => 1,
            Acknowledged::Received => 10_000,
        };
        let _ = write!(
            text,
            "\n\
             # a member of a cluster: closed and idle until its keeper says otherwise\n\
             read_only = 1\n\
             report_host = {address}\n\
             # named from within the data folder, which is copied to other servers and moved when it is swapped\n\
             log_bin = binlog\n\
             log_bin_index = binlog.index\n\
             relay_log = relay\n\
             relay_log_index = relay.index\n\
             \n\
             # what is acknowledged is at a replica: waited for without end, before anyone sees it\n\
             rpl_semi_sync_slave_enabled = 1\n\
             rpl_semi_sync_slave_kill_conn_timeout = {KILL_CONNECTION_TIMEOUT_SECS}\n\
             rpl_semi_sync_master_enabled = 0\n\
             rpl_semi_sync_master_wait_point = AFTER_SYNC\n\
             rpl_semi_sync_master_wait_no_slave = 1\n\
             rpl_semi_sync_master_timeout = {never}\n\
             sync_relay_log = {relay_sync}\n\
             relay_log_recovery = 0\n\
             relay_log_purge = 1\n\
             master_verify_checksum = 1\n\
             slave_sql_verify_checksum = 1\n\
             slave_net_timeout = {SILENCE_SECS}\n\
             slave_parallel_mode = optimistic\n\
             slave_parallel_threads = {threads}\n\
             # binary logs go when the slowest replica has them, which only the keepers know\n\
             expire_logs_days = 0\n\
             session_track_system_variables = \"autocommit,character_set_client,character_set_connection,\
             character_set_results,time_zone,last_gtid\"\n\
             \n\
             # nothing goes over the network in the clear\n\
             require_secure_transport = 1\n\
             tls_version = TLSv1.2,TLSv1.3\n\
             ssl_ca = {authority}\n\
             ssl_cert = {certificate}\n\
             ssl_key = {key}\n",
            address = self.plan.listen.ip(),
            never = u64::MAX,
            threads = self.applier_threads,
            authority = self.tls.authority.display(),
            certificate = self.tls.certificate.display(),
            key = self.tls.key.display(),
        );
        if let Some(port) = self.extra_port {
            let _ = write!(text, "extra_port = {port}\nextra_max_connections = 4\n");
        }
        text
    }
}

impl Role {
    /// The word for `--init-rpl-role`.
    fn word(self) -> &'static str {
        match self {
            Self::Primary => "MASTER",
            Self::Replica => "SLAVE",
        }
    }
}

/// What `mariadbd` is told when it starts: its file, its role, and where its log of errors goes.
pub fn arguments(file: &Path, role: Role, error_log: &Path) -> Vec<String> {
    vec![
        format!("--defaults-file={}", file.display()),
        format!("--init-rpl-role={}", role.word()),
        format!("--log-error={}", error_log.display()),
    ]
}

#[cfg(test)]
mod tests {
    use mainstay_site::ByteSize;
    use mainstay_site::plan::Engine;

    use super::*;

    fn text(server: Ipv4Addr) -> String {
        let plan = DatabasePlan {
            engine: Engine::Mariadb,
            listen: (server, 3306).into(),
            allowed_hosts: Vec::new(),
            memory: ByteSize::from_mebibytes(512),
            connections: 50,
            databases: Vec::new(),
            cluster: None,
        };
        let tls = TlsFiles { authority: "/ca".into(), certificate: "/cert".into(), key: "/key".into() };
        let place = Place::default();
        Settings {
            plan: &plan,
            server,
            place: &place,
            tls: &tls,
            acknowledged: Acknowledged::OnDisk,
            applier_threads: 4,
            extra_port: Some(3307),
        }
        .text()
    }

    /// The value that counts is the last one in the file.
    fn value<'a>(text: &'a str, name: &str) -> &'a str {
        let found = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(" = ")).next_back();
        found.unwrap()
    }

    #[test]
    fn a_member_starts_closed_and_its_file_knows_no_role() {
        let text = text(Ipv4Addr::new(10, 10, 0, 11));
        assert!(!text.contains("init"));
        for (name, expected) in [
            ("read_only", "1"),
            ("skip_slave_start", "1"),
            ("rpl_semi_sync_master_enabled", "0"),
            ("rpl_semi_sync_master_wait_point", "AFTER_SYNC"),
            ("gtid_strict_mode", "1"),
            ("log_slave_updates", "1"),
            ("sync_binlog", "1"),
            ("expire_logs_days", "0"),
            ("relay_log_recovery", "0"),
            ("require_secure_transport", "1"),
        ] {
            assert_eq!(value(&text, name), expected, "{name}");
        }
    }

    #[test]
    fn members_differ_by_their_own_names_and_numbers_only() {
        let (one, two) = (text(Ipv4Addr::new(10, 10, 0, 11)), text(Ipv4Addr::new(10, 10, 0, 12)));
        let differing: Vec<&str> = one
            .lines()
            .zip(two.lines())
            .filter(|(left, right)| left != right)
            .filter_map(|(left, _)| left.split(' ').next())
            .collect();
        assert_eq!(differing, ["bind_address", "server_id", "report_host"]);
    }
}
