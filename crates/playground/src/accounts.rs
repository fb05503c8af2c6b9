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
     EVENT, TRIGGER";
/// What it may do with the server.
const PROXY_SERVER_PRIVILEGES: &str = "PROCESS, SHOW DATABASES, REPLICATION CLIENT";

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
        // To see which XA transactions are prepared, and end them where they are; to see what routines leave behind.
        Server::Mysql => (
            "",
            format!("ALTER USER root@localhost IDENTIFIED BY '{}';\n", secrets.admin),
            ", XA_RECOVER_ADMIN, SHOW_ROUTINE",
        ),
    };
    let mut sql = format!("{first}{root}");
    let account = |user: &str, password: &str, privileges: &str| {
        let option = if user == ADMIN { " WITH GRANT OPTION" } else { "" };
        format!(
            "CREATE USER '{user}'@'%' {plugin} '{password}';\nGRANT {privileges} TO '{user}'@'%'{option};\n"
        )
    };
    sql += &account(ADMIN, &secrets.admin, "ALL PRIVILEGES ON *.*");
    sql += &account(REPLICATION, &secrets.replication, "REPLICATION SLAVE ON *.*");
    for (n, password) in (1..).zip(&secrets.proxies) {
        let user = proxy(n);
        match server {
            Server::Mariadb => {
                sql += &account(&user, password, &format!("{PROXY_SERVER_PRIVILEGES}{extra} ON *.*"));
                sql += &proxy_grants(&user);
            }
            // MySQL is to give up patterns of databases, and has nothing that takes away from *.* by default.
            Server::Mysql => {
                let all = format!("{PROXY_PRIVILEGES}, {PROXY_SERVER_PRIVILEGES}{extra} ON *.*");
                sql += &account(&user, password, &all);
            }
        }
    }
    sql
}

/// The rights of a proxy's account on all databases but usher's own and the server's. Of several patterns that fit a
/// database the closest counts alone, so the narrow grants take away what the wide one gives.
fn proxy_grants(user: &str) -> String {
    let mut sql = String::new();
    for (privileges, on) in [
        (PROXY_PRIVILEGES, "`%`.*"),
        // To read the fence, and to lock it against the mover.
        ("SELECT, LOCK TABLES", "`usher`.*"),
        // CREATE, as the table may not be there yet.
        ("CREATE, UPDATE", "`usher`.`heartbeat`"),
        ("SELECT", "`mysql`.*"),
        ("SELECT, EXECUTE", "`sys`.*"),
    ] {
        sql += &format!("GRANT {privileges} ON {on} TO '{user}'@'%';\n");
    }
    sql
}
