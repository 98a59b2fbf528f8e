//! The commands: the first byte of what a client sends.

/// The connection ends.
pub const QUIT: u8 = 0x01;
/// Another schema.
pub const INIT_DB: u8 = 0x02;
/// Statements as text.
pub const QUERY: u8 = 0x03;
/// Columns of a table (old).
pub const FIELD_LIST: u8 = 0x04;
/// A line about the server.
pub const STATISTICS: u8 = 0x09;
/// Ends a statement or a connection (old).
pub const PROCESS_KILL: u8 = 0x0c;
/// Nothing but an answer.
pub const PING: u8 = 0x0e;
/// Another account on the same connection.
pub const CHANGE_USER: u8 = 0x11;
/// The binary log.
pub const BINLOG_DUMP: u8 = 0x12;
/// A replica introduces itself.
pub const REGISTER_SLAVE: u8 = 0x15;
/// Prepares a statement.
pub const STMT_PREPARE: u8 = 0x16;
/// Executes a prepared statement.
pub const STMT_EXECUTE: u8 = 0x17;
/// A part of a long parameter; there is no answer.
pub const STMT_SEND_LONG_DATA: u8 = 0x18;
/// Forgets a prepared statement; there is no answer.
pub const STMT_CLOSE: u8 = 0x19;
/// Forgets long parameters and cursors.
pub const STMT_RESET: u8 = 0x1a;
/// Switches several statements in one command on or off.
pub const SET_OPTION: u8 = 0x1b;
/// Rows of a cursor.
pub const STMT_FETCH: u8 = 0x1c;
/// The session begins anew.
pub const RESET_CONNECTION: u8 = 0x1f;
/// MariaDB: a prepared statement with many rows of parameters.
pub const STMT_BULK_EXECUTE: u8 = 0xfa;

/// What it is called in metrics and logs.
pub fn name(command: u8) -> &'static str {
    match command {
        QUIT => "quit",
        INIT_DB => "init_db",
        QUERY => "query",
        FIELD_LIST => "field_list",
        STATISTICS => "statistics",
        PROCESS_KILL => "process_kill",
        PING => "ping",
        CHANGE_USER => "change_user",
        BINLOG_DUMP => "binlog_dump",
        REGISTER_SLAVE => "register_slave",
        STMT_PREPARE => "stmt_prepare",
        STMT_EXECUTE => "stmt_execute",
        STMT_SEND_LONG_DATA => "stmt_send_long_data",
        STMT_CLOSE => "stmt_close",
        STMT_RESET => "stmt_reset",
        SET_OPTION => "set_option",
        STMT_FETCH => "stmt_fetch",
        RESET_CONNECTION => "reset_connection",
        STMT_BULK_EXECUTE => "stmt_bulk_execute",
        _ => "other",
    }
}
