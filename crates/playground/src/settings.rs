//! The settings of each database server, as the text of its `my.cnf`.
//!
//! Every server starts read-only and does not start replicating by itself: whoever starts it has to look
//! first. Only the writer waits for acknowledgements (it is switched on when a member is opened), since a
//! standby that waits for an acknowledgement of what it applies would wait for ever once the writer is dead.

use std::path::Path;

use crate::Server;
use crate::mysql_root::MysqlRoot;
use crate::state::Node;

/// What both kinds of server have in common.
///
/// `sync_binlog` and `innodb_flush_log_at_trx_commit` stay at 1: an acknowledged write survives a crash here as
/// it must elsewhere. Small buffers, no asynchronous I/O (its kernel-wide limit is soon reached by many servers).
const COMMON: &str = "\
bind-address=127.0.0.1
skip-name-resolve
socket=mysql.sock
pid-file=mysqld.pid
max-connections=2000
max-allowed-packet=64M
character-set-server=utf8mb4
log-bin=binlog
relay-log=relay
binlog-format=ROW
binlog-row-image=FULL
binlog-row-metadata=FULL
sync-binlog=1
sync-relay-log=1
log-bin-trust-function-creators=ON
auto-increment-increment=2
innodb-flush-log-at-trx-commit=1
innodb-buffer-pool-size=32M
innodb-use-native-aio=OFF
performance-schema=OFF
event-scheduler=OFF
";

const MARIADB: &str = "\
read-only=ON
skip-slave-start
gtid-strict-mode=ON
log-slave-updates=ON
slave-net-timeout=4
innodb-log-file-size=32M
rpl-semi-sync-master-enabled=OFF
rpl-semi-sync-master-wait-point=AFTER_SYNC
rpl-semi-sync-slave-enabled=ON
";

const MYSQL: &str = "\
super-read-only=ON
skip-replica-start
gtid-mode=ON
enforce-gtid-consistency=ON
log-replica-updates=ON
replica-net-timeout=4
replica-parallel-workers=2
innodb-redo-log-capacity=64M
innodb-log-buffer-size=4M
mysqlx=OFF
secure-file-priv=
plugin-load-add=semisync_source.so
plugin-load-add=semisync_replica.so
rpl-semi-sync-source-enabled=OFF
rpl-semi-sync-source-wait-point=AFTER_SYNC
rpl-semi-sync-source-wait-no-replica=ON
rpl-semi-sync-replica-enabled=ON
";

/// What a server's settings depend on.
pub(crate) struct Settings<'a> {
    pub(crate) server: Server,
    pub(crate) node: &'a Node,
    /// The server's data folder.
    pub(crate) data: &'a Path,
    /// Its folder for temporary files, which a starting MariaDB empties: never to be shared.
    pub(crate) tmp: &'a Path,
    /// The folder of keys and certificates.
    pub(crate) tls: &'a Path,
    /// How long a commit waits for an acknowledgement before it goes on without, in milliseconds.
    pub(crate) semi_sync_timeout_ms: u64,
    /// Where MySQL is installed; `None` for MariaDB.
    pub(crate) mysql: Option<&'a MysqlRoot>,
}

impl Settings<'_> {
    /// The text of `my.cnf`.
    pub(crate) fn to_cnf(&self) -> String {
        let mut cnf = format!(
            "# {}: written by `usher playground up` at each start\n[mysqld]\ndatadir={}\ntmpdir={}\nport={}\nserver-id={}\n\
             auto-increment-offset={}\nssl-ca={tls}/ca.pem\nssl-cert={tls}/server-cert.pem\n\
             ssl-key={tls}/server-key.pem\n{COMMON}",
            self.node.name,
            self.data.display(),
            self.tmp.display(),
            self.node.port,
            self.node.server_id,
            self.node.offset,
            tls = self.tls.display(),
        );
        let timeout = self.semi_sync_timeout_ms;
        match self.server {
            Server::Mariadb => {
                cnf += MARIADB;
                cnf +=
                    &format!("gtid-domain-id={}\nrpl-semi-sync-master-timeout={timeout}\n", self.node.domain);
            }
            Server::Mysql => {
                cnf += MYSQL;
                cnf += &format!("rpl-semi-sync-source-timeout={timeout}\n");
            }
        }
        for setting in self.mysql.map(MysqlRoot::settings).unwrap_or_default() {
            cnf += &format!("{setting}\n");
        }
        if rustix::process::geteuid().is_root() {
            // Both servers refuse to run as root unless told so.
            cnf += "user=root\n";
        }
        cnf
    }
}
