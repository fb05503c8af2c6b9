//! Every limit of the product with its default: sizes in bytes, times in milliseconds unless the name says else.

use serde::{Deserialize, Serialize};

/// The `[limits]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Client connections a proxy takes at once; the next one gets error 1040.
    pub clients_max: usize,
    /// Client connections that have not logged in yet, at once; the next one gets error 1040.
    pub logins_max: usize,
    /// TLS handshakes with clients under way at once; the next ones wait, no longer than `login_ms`.
    pub tls_handshakes_max: usize,
    /// Client connections from one address (IPv6: from one /64) at once; the next one gets error 1040. 0 means no limit.
    pub clients_per_source_max: usize,
    /// Failed logins from one address that are answered at once. From then on the answer to each failed login from there
    /// is put off, twice as long each time.
    pub login_failures_free: usize,
    /// The longest an answer to a failed login is put off; 0 puts off none.
    pub login_failure_delay_ms: u64,
    /// Put-off answers to one address at once; meanwhile new connections from there get error 1129.
    pub login_failures_delayed_max: usize,
    /// An address without a failed login for this long, in seconds, has a clean sheet.
    pub login_failures_forget_s: u64,
    /// Addresses whose failed logins are remembered.
    pub sources_max: usize,
    /// Connections a proxy opens to one server.
    pub backends_per_server_max: usize,
    /// Idle connections a proxy keeps to one server.
    pub backends_per_server_idle_max: usize,
    /// The longest a statement waits for a free connection.
    pub checkout_wait_ms: u64,
    /// The longest a connection to a server may take, login included.
    pub connect_ms: u64,
    /// A server or client that is silent is asked for a sign of life by the system (TCP keepalive), and one that does not
    /// acknowledge what it was sent for this long is taken for gone (`TCP_USER_TIMEOUT`).
    pub peer_silent_ms: u64,
    /// Connections to a server are cut once its probes have had no answer for this long: statements under way get an
    /// error. A server that answers with errors, such as too many connections, is not lost.
    pub server_lost_ms: u64,
    /// The longest a client may take no byte of its answer: its session ends, and its transaction is rolled back.
    pub client_write_ms: u64,
    /// How often the files of `proxy.tls_cert`, `proxy.tls_key` and `proxy.tls_client_ca` are looked at for changes; 0
    /// leaves it to SIGHUP.
    pub tls_check_ms: u64,
    /// The longest a client may take to log in.
    pub login_ms: u64,
    /// The longest a statement is held during a flip or a cutover.
    pub hold_ms: u64,
    /// Statements held at once in one proxy.
    pub held_max: usize,
    /// The largest statement or packet a client may send.
    pub packet_bytes_max: usize,
    /// The largest statement naming a sharded table that is given to the parser; larger ones are INSERTs or refused.
    pub parse_bytes_max: usize,
    /// Plans kept, by digest.
    pub plans_max: usize,
    /// Prepared statements of one session.
    pub statements_per_session_max: usize,
    /// Bytes of the texts of one session's prepared statements that are longer than 4,096 bytes.
    pub prepared_bytes_per_session_max: usize,
    /// Prepared statements kept on one backend connection.
    pub statements_per_backend_max: usize,
    /// Users kept in the first-level cache of the directory.
    pub directory_users_max: usize,
    /// How long an unknown key is remembered as unknown.
    pub directory_unknown_ms: u64,
    /// How long a user's shard lives in memcached, in seconds.
    pub memcached_ttl_s: u32,
    /// The longest one exchange with memcached may take.
    pub memcached_ms: u64,
    /// Look-ups of the directory in the global master under way at once, for one proxy.
    pub directory_lookups_max: usize,
    /// The longest one look-up in the global master may take.
    pub directory_lookup_ms: u64,
    /// How often a proxy looks for a new version of the moving set and the topology.
    pub poll_ms: u64,
    /// How often a proxy probes each server: role, heartbeat, position.
    pub probe_ms: u64,
    /// The largest lag at which a replica takes reads.
    pub lag_ms_max: u64,
    /// Users whose last write is remembered until all replicas have it.
    pub watermarks_max: usize,
    /// A silent proxy is revoked after this.
    pub patience_ms: u64,
    /// The longest a move or a flip waits for running transactions to end before it gives up.
    pub drain_ms: u64,
    /// The longest an online move holds the user's writes at its cutover; it lets go then and tries again later.
    pub cutover_ms: u64,
    /// Rows of one batch of a copy or a purge.
    pub batch_rows_max: usize,
    /// Bytes of one batch of a copy.
    pub batch_bytes_max: usize,
    /// Time between a move's commit and the purge of the rows left behind, in seconds.
    pub purge_delay_s: u64,
    /// Moves that run at once.
    pub moves_max: usize,
    /// The longest a client may idle, in seconds, before it is closed.
    pub idle_client_s: u64,
    /// The same for clients that say that a person sits there (CLIENT_INTERACTIVE), as command line clients do.
    pub idle_interactive_client_s: u64,
    /// The smallest and first block of ids that a proxy takes from a sequence.
    pub id_block_min: u64,
    /// The largest block of ids that a proxy takes from a sequence.
    pub id_block_max: u64,
    /// The longest running clients are waited for when a proxy stops.
    pub stop_ms: u64,
    /// The longest another proxy is waited for when sessions are listed or ended.
    pub peer_ms: u64,
    /// The longest a client may idle in a transaction that holds a connection to a server, in seconds, before the
    /// transaction is rolled back and the client's connection is closed; 0 means no limit.
    pub idle_in_transaction_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients_max: 20_000,
            logins_max: 2_000,
            tls_handshakes_max: 500,
            clients_per_source_max: 0,
            login_failures_free: 10,
            login_failure_delay_ms: 5_000,
            login_failures_delayed_max: 1_000,
            login_failures_forget_s: 60,
            sources_max: 10_000,
            backends_per_server_max: 200,
            backends_per_server_idle_max: 100,
            checkout_wait_ms: 10_000,
            connect_ms: 3_000,
            peer_silent_ms: 30_000,
            server_lost_ms: 10_000,
            client_write_ms: 60_000,
            tls_check_ms: 5_000,
            login_ms: 10_000,
            hold_ms: 10_000,
            held_max: 2_000,
            packet_bytes_max: 64 << 20,
            parse_bytes_max: 64 << 10,
            plans_max: 10_000,
            statements_per_session_max: 16_382,
            prepared_bytes_per_session_max: 64 << 20,
            statements_per_backend_max: 500,
            directory_users_max: 1_000_000,
            directory_unknown_ms: 1_000,
            memcached_ttl_s: 3_600,
            memcached_ms: 100,
            directory_lookups_max: 64,
            directory_lookup_ms: 2_000,
            poll_ms: 50,
            probe_ms: 200,
            lag_ms_max: 1_000,
            watermarks_max: 100_000,
            patience_ms: 3_000,
            drain_ms: 5_000,
            cutover_ms: 5_000,
            batch_rows_max: 1_000,
            batch_bytes_max: 4 << 20,
            purge_delay_s: 900,
            moves_max: 4,
            idle_client_s: 28_800,
            idle_interactive_client_s: 28_800,
            id_block_min: 100,
            id_block_max: 10_000,
            stop_ms: 5_000,
            peer_ms: 1_000,
            idle_in_transaction_s: 0,
        }
    }
}
