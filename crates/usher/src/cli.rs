//! The command line, as documented for scripts: names and meanings are a contract.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};

/// Makes many MySQL or MariaDB servers look like one.
#[derive(Debug, Parser)]
#[command(name = "usher", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// The configuration file.
    #[arg(long, global = true, env = "USHER_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Answer in JSON, for machines.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Real local servers in a folder, for a first try.
    Playground {
        #[command(subcommand)]
        command: PlaygroundCommand,
    },
    /// Run a proxy: what applications connect to.
    Proxy,
    /// Run a controller: moves, flips that were interrupted, HTTP.
    Controller,
    /// The tables of usher itself.
    Schema {
        #[command(subcommand)]
        command: SchemaCommand,
    },
    /// Where users live.
    User {
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Who may log in to the proxies; changes hold for all of them within moments.
    Account {
        #[command(subcommand)]
        command: AccountCommand,
    },
    /// Move users between shards.
    Move {
        #[command(subcommand)]
        command: MoveCommand,
    },
    /// Pairs, their writers and their share of new users.
    Shard {
        #[command(subcommand)]
        command: ShardCommand,
    },
    /// The catalog of the application's tables.
    Table {
        #[command(subcommand)]
        command: TableCommand,
    },
    /// Spread users evenly.
    Rebalance {
        #[command(subcommand)]
        command: RebalanceCommand,
    },
    /// Compare the copies of users' rows.
    Verify,
    /// Look at everything as a monitoring plugin does: exit code 0 ok, 1 warning, 2 critical, 3 unknown.
    Check,
    /// Show how the proxy routes a statement.
    Explain {
        /// The statement.
        statement: String,
        /// Log in to the proxy as this user of the configuration; the first one with a password if not given.
        #[arg(long)]
        user: Option<String>,
    },
    /// Show what runs at present.
    Top,
}

impl Command {
    /// The plain message for what is part of the contract but does not exist yet.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        match self {
            Self::Rebalance { .. } => {
                Some("`usher rebalance` is not supported yet; move users one by one with `usher move start`")
            }
            Self::Verify => {
                Some("`usher verify` is not supported yet; each move verifies its own user's rows")
            }
            Self::Top => {
                Some("`usher top` is not supported yet; see the dashboard of the proxy or the controller")
            }
            Self::Move { command: MoveCommand::Undo { .. } } => {
                Some("`usher move undo` is not supported yet; move the user back with `usher move start`")
            }
            Self::Table { command: TableCommand::Set { .. } } => Some(
                "`usher table set` is not supported yet; give the table its comment 'usher:sharded key=...' by \
                 CREATE TABLE through the proxy",
            ),
            _ => None,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlaygroundCommand {
    /// Make or complete it; returns once everything answers.
    Up(Up),
    /// End every process; the data stays.
    Down {
        #[arg(long, default_value = "playground")]
        dir: PathBuf,
    },
    /// Show every process.
    Status {
        #[arg(long, default_value = "playground")]
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The folder; made if it does not exist.
    #[arg(long, default_value = "playground")]
    pub(crate) dir: PathBuf,
    /// Number of shards [default: as many as are there, or 2]
    #[arg(long)]
    pub(crate) shards: Option<u16>,
    /// Replicas of each shard [default: as many as are there, or 1]
    #[arg(long)]
    pub(crate) replicas: Option<u16>,
    /// Which server to run [default: the one that is there, or mariadb]
    #[arg(long, value_parser = ["mariadb", "mysql"])]
    pub(crate) server: Option<String>,
    /// Take consecutive ports from here on instead of random free ones.
    #[arg(long)]
    pub(crate) port_base: Option<u16>,
    /// Load this many users of the example application.
    #[arg(long, value_name = "USERS")]
    pub(crate) load: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SchemaCommand {
    /// Bring the global master and every shard to the newest version.
    Apply,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Show where a user lives.
    Where { user: String },
    /// List users in the order of their keys.
    List {
        /// Only those of this shard.
        #[arg(long)]
        shard: Option<String>,
        /// Only those behind this one.
        #[arg(long)]
        after: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Give a new user its shard now.
    Place { user: String },
    /// Keep a user where it is.
    Pin {
        user: String,
        /// Why.
        #[arg(long, default_value = "pinned by hand")]
        reason: String,
        /// Lift it.
        #[arg(long)]
        off: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Add an account; asks for its password unless an option gives it.
    Add {
        name: String,
        #[command(flatten)]
        options: AccountOptions,
    },
    /// Change what is named of an account; the rest stays.
    Set {
        name: String,
        #[command(flatten)]
        options: AccountOptions,
    },
    /// Take an account away and end its sessions.
    Drop { name: String },
    /// List all accounts, those of this configuration file too.
    List,
    /// Show one account.
    Show { name: String },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("secret"))]
pub(crate) struct AccountOptions {
    /// Ask for a password on the terminal, or take the first line of standard input.
    #[arg(long, group = "secret")]
    pub(crate) password: bool,
    /// The password is the first line of this file.
    #[arg(long, value_name = "FILE", group = "secret")]
    pub(crate) password_file: Option<PathBuf>,
    /// No password is needed to log in.
    #[arg(long, group = "secret")]
    pub(crate) no_password: bool,
    /// Its hash: SHA256(SHA256(password)) or SHA1(SHA1(password)) in hexadecimal digits.
    #[arg(long, value_name = "HEX", group = "secret")]
    pub(crate) hash: Option<String>,
    /// How it logs in [default: caching_sha2_password]
    #[arg(long, value_parser = ["caching_sha2_password", "mysql_native_password"])]
    pub(crate) plugin: Option<String>,
    /// Schemas that it may use, with commas between; '*' is all but usher's own.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) schemas: Option<Vec<String>>,
    /// Schema of a session that names none; '' for none.
    #[arg(long, value_name = "NAME")]
    pub(crate) default_schema: Option<String>,
    /// Refuse all that is not a plain read.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) read_only: Option<bool>,
    /// Let it send administrators' statements, and see and end everybody's sessions.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) admin: Option<bool>,
    /// What its connections must have.
    #[arg(long, value_parser = ["none", "tls", "x509"])]
    pub(crate) require: Option<String>,
    /// Let nobody log in; sessions go on.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) locked: Option<bool>,
    /// Connections at once through one proxy; 0 is no limit.
    #[arg(long, value_name = "N")]
    pub(crate) connections_max: Option<usize>,
    /// Statements a second through one proxy; 0 is no limit.
    #[arg(long, value_name = "N")]
    pub(crate) statements_per_s_max: Option<usize>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("mode"))]
pub(crate) struct MoveStart {
    /// The user.
    #[arg(long)]
    pub(crate) user: String,
    /// The shard that shall have it.
    #[arg(long, value_name = "SHARD")]
    pub(crate) to: String,
    /// Refuse the user's writes while its rows are copied.
    #[arg(long, group = "mode")]
    pub(crate) locked: bool,
    /// Copy while the user writes; writes wait for a moment at the end. This is the default.
    #[arg(long, group = "mode")]
    pub(crate) online: bool,
    /// Why; it stands in the history.
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Do not wait for it; needs a running controller.
    #[arg(long)]
    pub(crate) detach: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MoveCommand {
    /// Move a user.
    Start(MoveStart),
    /// Show one move.
    Status { id: u64 },
    /// List moves, the newest first.
    List {
        /// Also those that are over.
        #[arg(long)]
        all: bool,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Stop a move where it is; its user stays locked.
    Pause { id: u64 },
    /// Let a paused or failed move go on.
    Resume { id: u64 },
    /// Undo a move that is not committed.
    Abort { id: u64 },
    /// Move a user back.
    Undo { id: u64 },
    /// Delete what a committed move has left on its source, now.
    Purge { id: u64 },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ShardCommand {
    /// Show all shards and their servers.
    List,
    /// Make a shard known.
    Add(ShardAdd),
    /// Make the other member the writer; clients see a short pause.
    Flip {
        shard: String,
        /// The member to become the writer.
        #[arg(long, value_name = "SERVER")]
        to: Option<String>,
    },
    /// Give a shard no new users any more.
    Drain { shard: String },
}

#[derive(Debug, Args)]
pub(crate) struct ShardAdd {
    /// Its name.
    pub(crate) shard: String,
    /// A member of the pair, as name=host:port; the first is the writer.
    #[arg(long = "member", value_name = "NAME=HOST:PORT", required = true, num_args = 1)]
    pub(crate) members: Vec<String>,
    /// A replica, as name=host:port.
    #[arg(long = "replica", value_name = "NAME=HOST:PORT", num_args = 1)]
    pub(crate) replicas: Vec<String>,
    /// Its share of new users.
    #[arg(long, default_value_t = 100)]
    pub(crate) weight: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TableCommand {
    /// List the catalog.
    List,
    /// Change an entry.
    Set { table: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RebalanceCommand {
    /// Show which moves would even the shards out.
    Plan,
    /// Run them.
    Run,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
