//! The server's own configuration file: nothing of the machine's is read.

use std::net::Ipv4Addr;

use mainstay_site::plan::{DatabasePlan, Engine};

use crate::Place;

/// Memory per client connection that is set aside before the buffer pool gets the rest: thread stack, sort and join buffers.
const CONNECTION_BYTES: u64 = 1024 * 1024;
/// Below this much memory the performance schema is left out: it would take a large part of it.
const PERFORMANCE_SCHEMA_FROM_MIB: u64 = 2048;

pub(crate) fn of(plan: &DatabasePlan, server: Ipv4Addr, place: &Place) -> String {
    let memory = plan.memory.bytes();
    let mebibyte = 1024 * 1024;
    let connections = u64::from(plan.connections) * CONNECTION_BYTES;
    // A quarter of the memory at most is set aside for connections; of the rest, three quarters hold pages.
    let pool = ((memory - connections.min(memory / 4)) / 4 * 3 / mebibyte).max(24);
    let redo = (pool / 4).clamp(32, 2048);
    let performance_schema = u8::from(plan.memory.mebibytes() >= PERFORMANCE_SCHEMA_FROM_MIB);
    let (data, run) = (place.data.display(), place.run.display());
    let common = format!(
        "[mysqld]\n\
         datadir = {data}\n\
         socket = {socket}\n\
         tmpdir = {temporary}\n\
         pid_file = {run}/mysqld.pid\n\
         bind_address = {address}\n\
         port = {port}\n\
         skip_name_resolve = 1\n\
         symbolic_links = 0\n\
         local_infile = 0\n\
         secure_file_priv = {data}\n\
         character_set_server = utf8mb4\n\
         max_connections = {max_connections}\n\
         max_allowed_packet = 64M\n\
         performance_schema = {performance_schema}\n\
         \n\
         # memory: {memory_text}\n\
         innodb_buffer_pool_size = {pool}M\n\
         tmp_table_size = 16M\n\
         max_heap_table_size = 16M\n\
         table_open_cache = 1000\n\
         \n\
         # every commit is on disk before it is acknowledged\n\
         innodb_flush_log_at_trx_commit = 1\n\
         sync_binlog = 1\n\
         innodb_flush_method = O_DIRECT\n\
         innodb_file_per_table = 1\n\
         \n\
         # fit to be a primary or a replica from the first transaction on\n\
         server_id = {server_id}\n\
         log_bin = {data}/binlog\n\
         binlog_format = ROW\n\
         binlog_row_image = FULL\n\
         binlog_checksum = CRC32\n\
         max_binlog_size = 256M\n\
         skip_slave_start = 1\n",
        socket = place.socket().display(),
        temporary = place.temporary().display(),
        address = plan.listen.ip(),
        port = plan.listen.port(),
        max_connections = plan.connections,
        memory_text = plan.memory,
        server_id = u32::from(server),
    );
    let engine = match plan.engine {
        Engine::Mariadb => format!(
            "innodb_log_file_size = {redo}M\n\
             innodb_snapshot_isolation = ON\n\
             collation_server = utf8mb4_general_ci\n\
             gtid_strict_mode = 1\n\
             log_slave_updates = 1\n\
             gtid_domain_id = 0\n\
             expire_logs_days = 7\n\
             thread_handling = one-thread-per-connection\n\
             aria_pagecache_buffer_size = 16M\n\
             key_buffer_size = 8M\n"
        ),
        Engine::Mysql => format!(
            "innodb_redo_log_capacity = {redo}M\n\
             gtid_mode = ON\n\
             enforce_gtid_consistency = ON\n\
             mysqlx = 0\n\
             binlog_expire_logs_seconds = 604800\n"
        ),
    };
    common + &engine
}

#[cfg(test)]
mod tests {
    use mainstay_site::ByteSize;

    use super::*;

    fn pool(mebibytes: u64, connections: u32) -> u64 {
        let plan = DatabasePlan {
            engine: Engine::Mariadb,
            listen: ([127, 0, 0, 1], 3306).into(),
            allowed_hosts: Vec::new(),
            memory: ByteSize::from_mebibytes(mebibytes),
            connections,
            databases: Vec::new(),
            cluster: None,
        };
        let text = of(&plan, Ipv4Addr::new(10, 10, 0, 11), &Place::default());
        let line = text.lines().find_map(|line| line.strip_prefix("innodb_buffer_pool_size = ")).unwrap();
        line.trim_end_matches('M').parse().unwrap()
    }

    #[test]
    fn the_buffer_pool_grows_with_the_memory_and_never_takes_it_all() {
        assert_eq!(pool(1024, 100), 693);
        assert!(pool(64, 100_000) >= 24);
        assert!(pool(65_536, 200) > 40_000 && pool(65_536, 200) < 65_536);
    }
}
