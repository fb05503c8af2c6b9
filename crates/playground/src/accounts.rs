//! The accounts that each server has, as SQL for the first data folder.

use crate::Server;
use crate::state::Secrets;

/// The account with all privileges: directory, topology, moves, flips.
pub(crate) const ADMIN: &str = "usher_admin";
/// The replication account.
pub(crate) const REPLICATION: &str = "usher_repl";

/// What a proxy may do with the application's data. Not ALL: that would include the right to write to a
/// read-only server, and `read_only` has to stop a proxy that missed a flip. Nor RELOAD, which allows to reset
/// the binary log.
const PROXY_PRIVILEGES: &str = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, INDEX, ALTER, REFERENCES, \
     CREATE TEMPORARY TABLES, LOCK TABLES, EXECUTE, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, \
     EVENT, TRIGGER, PROCESS, SHOW DATABASES, REPLICATION CLIENT";

/// The account of proxy number `n` (from 1); each proxy instance has its own, so that one can be revoked alone.
pub(crate) fn proxy(n: usize) -> String {
    format!("usher_px{n}")
}

/// Statements that make the accounts, one a line, as a server's bootstrap mode wants them.
pub(crate) fn statements(server: Server, secrets: &Secrets) -> String {
    let plugin = match server {
        Server::Mariadb => "IDENTIFIED BY",
        Server::Mysql => "IDENTIFIED WITH caching_sha2_password BY",
    };
    let (first, root, extra) = match server {
        // Bootstrap mode has no privilege tables loaded. Root logs in by socket, as Debian has it.
        Server::Mariadb => (
            "FLUSH PRIVILEGES;\n",
            "DELETE FROM mysql.global_priv WHERE User = '';\n".to_owned(),
            ", SLAVE MONITOR",
        ),
        Server::Mysql => ("", format!("ALTER USER root@localhost IDENTIFIED BY '{}';\n", secrets.admin), ""),
    };
    let mut sql = format!("{first}{root}");
    let mut add = |user: &str, password: &str, privileges: &str| {
        sql +=
            &format!("CREATE USER '{user}'@'%' {plugin} '{password}';\nGRANT {privileges} TO '{user}'@'%'");
        sql += if user == ADMIN { " WITH GRANT OPTION;\n" } else { ";\n" };
    };
    add(ADMIN, &secrets.admin, "ALL PRIVILEGES ON *.*");
    add(REPLICATION, &secrets.replication, "REPLICATION SLAVE ON *.*");
    for (n, password) in (1..).zip(&secrets.proxies) {
        add(&proxy(n), password, &format!("{PROXY_PRIVILEGES}{extra} ON *.*"));
    }
    sql
}
