//! Capabilities: what client and server agree on in the handshake. The lower 32 bits are MySQL's, the upper MariaDB's.

/// The server calls rows "found", not "affected".
pub const FOUND_ROWS: u64 = 1 << 1;
/// A schema is named at login.
pub const CONNECT_WITH_DB: u64 = 1 << 3;
/// Packets travel compressed (zlib).
pub const COMPRESS: u64 = 1 << 5;
/// The client can send files for `LOAD DATA LOCAL`.
pub const LOCAL_FILES: u64 = 1 << 7;
/// Spaces are allowed before the `(` of a function.
pub const IGNORE_SPACE: u64 = 1 << 8;
/// The protocol of 4.1 and later: the only one spoken here.
pub const PROTOCOL_41: u64 = 1 << 9;
/// The other time-out for idle connections.
pub const INTERACTIVE: u64 = 1 << 10;
/// TLS is switched on before the login.
pub const SSL: u64 = 1 << 11;
/// Status flags tell of transactions.
pub const TRANSACTIONS: u64 = 1 << 13;
/// Authentication of 4.1 and later.
pub const SECURE_CONNECTION: u64 = 1 << 15;
/// Several statements in one command.
pub const MULTI_STATEMENTS: u64 = 1 << 16;
/// Several results of one statement.
pub const MULTI_RESULTS: u64 = 1 << 17;
/// The same for prepared statements.
pub const PS_MULTI_RESULTS: u64 = 1 << 18;
/// Authentication plugins are named.
pub const PLUGIN_AUTH: u64 = 1 << 19;
/// The client tells attributes of itself.
pub const CONNECT_ATTRS: u64 = 1 << 20;
/// The length of the authentication data is length-encoded.
pub const PLUGIN_AUTH_LENENC: u64 = 1 << 21;
/// The client can tell the user that the password has expired.
pub const EXPIRED_PASSWORDS: u64 = 1 << 22;
/// OK packets tell how the session's state changed.
pub const SESSION_TRACK: u64 = 1 << 23;
/// Result sets end with an OK packet; there is no EOF after the columns.
pub const DEPRECATE_EOF: u64 = 1 << 24;
/// A MariaDB server leaves bit 0 clear; it is MySQL's `LONG_PASSWORD`.
pub const CLIENT_MYSQL: u64 = 1;
/// MariaDB: one prepared statement with many rows of parameters.
pub const STMT_BULK: u64 = 1 << 34;
/// MariaDB: columns tell of types such as JSON.
pub const EXTENDED_METADATA: u64 = 1 << 35;

/// What changes nothing but how a session behaves on a server, passed on as the client asked for it.
pub const PASSED_ON: u64 = FOUND_ROWS
    | LOCAL_FILES
    | IGNORE_SPACE
    | INTERACTIVE
    | MULTI_STATEMENTS
    | MULTI_RESULTS
    | PS_MULTI_RESULTS
    | DEPRECATE_EOF
    | STMT_BULK
    | EXTENDED_METADATA
    | (1 << 2)
    | (1 << 4)
    | (1 << 6)
    | (1 << 12)
    | EXPIRED_PASSWORDS;

/// What the router itself asks of every server.
pub const ASKED_OF_SERVERS: u64 =
    PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | PLUGIN_AUTH | PLUGIN_AUTH_LENENC | SESSION_TRACK;

/// What is offered to clients, apart from TLS, if the servers have what is passed on.
pub const OFFERED: u64 = PASSED_ON
    | CONNECT_WITH_DB
    | COMPRESS
    | PROTOCOL_41
    | TRANSACTIONS
    | SECURE_CONNECTION
    | PLUGIN_AUTH
    | CONNECT_ATTRS
    | PLUGIN_AUTH_LENENC
    | SESSION_TRACK;

/// Status: a transaction is open.
pub const STATUS_IN_TRANSACTION: u16 = 1;
/// Status: every statement is a transaction of its own.
pub const STATUS_AUTOCOMMIT: u16 = 2;
/// Status: another result follows.
pub const STATUS_MORE_RESULTS: u16 = 8;
/// Status: rows are fetched through a cursor.
pub const STATUS_CURSOR_EXISTS: u16 = 0x40;
/// Status: the cursor has no more rows.
pub const STATUS_LAST_ROW_SENT: u16 = 0x80;
/// Status: a backslash is an ordinary character.
pub const STATUS_NO_BACKSLASH_ESCAPES: u16 = 0x200;
/// Status: the OK packet tells of changed session state.
pub const STATUS_SESSION_STATE_CHANGED: u16 = 0x4000;
/// Status (MariaDB): double quotes are around names.
pub const STATUS_ANSI_QUOTES: u16 = 0x8000;
