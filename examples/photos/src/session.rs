//! One connection of the application: statements plain and prepared, transactions, resets and reconnects.

use std::{sync::Arc, time::Duration};

use mysql_async::{ChangeUserOpts, Conn, Row, Value, prelude::Queryable as _};
use rand::{Rng as _, rngs::StdRng};
use tokio::time::{Instant, timeout};

use crate::{
    failure::{Failure, Fault},
    rows::plain,
    tally::{Kind, Live},
    target::Target,
};

/// What a statement gave.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) rows: Vec<Row>,
    pub(crate) affected: u64,
    pub(crate) last_id: i64,
}

/// A connection that counts and times what it does.
pub(crate) struct Session {
    target: Target,
    conn: Option<Conn>,
    /// As the application has set it on this connection.
    pub(crate) autocommit: bool,
    open: bool,
    statement_timeout: Duration,
    pub(crate) rng: StdRng,
    live: Arc<Live>,
}

impl Session {
    pub(crate) fn new(target: Target, statement_timeout: Duration, rng: StdRng, live: Arc<Live>) -> Self {
        Session { target, conn: None, autocommit: true, open: false, statement_timeout, rng, live }
    }

    /// Opens the connection if there is none.
    pub(crate) async fn ensure(&mut self) -> Result<(), Failure> {
        if self.conn.is_none() {
            let conn = self.target.connect().await;
            self.conn = Some(conn.map_err(|error| Failure::from_driver(error, "connect"))?);
            self.autocommit = true;
            self.open = false;
        }
        Ok(())
    }

    /// One statement, half of them prepared and half of them plain text.
    pub(crate) async fn ask(&mut self, kind: Kind, sql: &str, params: Vec<Value>) -> Result<Answer, Failure> {
        let prepared = self.rng.random_bool(0.5);
        let Some(conn) = self.conn.as_mut() else {
            return Err(Failure::new(Fault::Lost, "the connection is gone", sql));
        };
        let started = Instant::now();
        let exchange = async {
            let rows = if prepared {
                conn.exec::<Row, _, _>(sql, params).await?
            } else {
                conn.query::<Row, _>(plain(sql, &params)).await?
            };
            let last_id = conn.last_insert_id().and_then(|id| i64::try_from(id).ok()).unwrap_or(0);
            Ok(Answer { rows, affected: conn.affected_rows(), last_id })
        };
        let result = match timeout(self.statement_timeout, exchange).await {
            Ok(result) => result.map_err(|error| Failure::from_driver(error, sql)),
            Err(_) => {
                Err(Failure::new(Fault::Lost, format!("no answer in {:?}", self.statement_timeout), sql))
            }
        };
        match &result {
            Ok(_) => self.live.answered(kind, started.elapsed(), sql),
            Err(failure) if failure.fault == Fault::Lost => self.drop_connection(),
            Err(_) => {}
        }
        result
    }

    pub(crate) async fn read(&mut self, sql: &str, params: Vec<Value>) -> Result<Vec<Row>, Failure> {
        Ok(self.ask(Kind::Read, sql, params).await?.rows)
    }

    /// A write that must touch exactly `rows` rows; returns the generated id, 0 if there was none.
    pub(crate) async fn write(&mut self, sql: &str, params: Vec<Value>, rows: u64) -> Result<i64, Failure> {
        // Alone in autocommit, a write is final as soon as it is sent.
        let deciding = !self.in_transaction();
        let answer =
            self.ask(Kind::Write, sql, params).await.map_err(|failure| Failure { deciding, ..failure })?;
        if answer.affected != rows {
            let message = format!("{} rows affected and should be {rows}", answer.affected);
            return Err(Failure { deciding, ..Failure::new(Fault::Wrong, message, sql) });
        }
        Ok(answer.last_id)
    }

    /// True between [`Session::begin`] and its end, and always where autocommit is off.
    pub(crate) fn in_transaction(&self) -> bool {
        self.open || !self.autocommit
    }

    /// Opens a transaction: with a statement, or by doing nothing where autocommit is off.
    pub(crate) async fn begin(&mut self) -> Result<(), Failure> {
        if self.autocommit {
            let sql = if self.rng.random_bool(0.5) { "BEGIN" } else { "START TRANSACTION" };
            self.command(sql).await?;
        }
        self.open = true;
        Ok(())
    }

    /// Ends the transaction if one can be open.
    pub(crate) async fn end(&mut self, commit: bool) -> Result<(), Failure> {
        if !self.in_transaction() {
            return Ok(());
        }
        self.open = false;
        let ended = self.command(if commit { "COMMIT" } else { "ROLLBACK" }).await;
        ended.map_err(|failure| Failure { deciding: commit, ..failure })
    }

    /// After a failure: leaves no transaction open, or no connection.
    pub(crate) async fn recover(&mut self) {
        if self.conn.is_some() && self.in_transaction() && self.end(false).await.is_err() {
            self.drop_connection();
        }
        self.open = false;
    }

    async fn command(&mut self, sql: &str) -> Result<(), Failure> {
        let Some(conn) = self.conn.as_mut() else {
            return Err(Failure::new(Fault::Lost, "the connection is gone", sql));
        };
        let started = Instant::now();
        let result = match timeout(self.statement_timeout, conn.query_drop(sql)).await {
            Ok(result) => result.map_err(|error| Failure::from_driver(error, sql)),
            Err(_) => {
                Err(Failure::new(Fault::Lost, format!("no answer in {:?}", self.statement_timeout), sql))
            }
        };
        match &result {
            Ok(()) => self.live.answered(Kind::Control, started.elapsed(), sql),
            Err(failure) if failure.fault == Fault::Lost => self.drop_connection(),
            Err(_) => {}
        }
        result
    }

    /// Turns autocommit on or off for this connection.
    pub(crate) async fn set_autocommit(&mut self, on: bool) -> Result<(), Failure> {
        self.command(if on { "SET autocommit=1" } else { "SET autocommit=0" }).await?;
        self.autocommit = on;
        Ok(())
    }

    /// COM_RESET_CONNECTION, or COM_CHANGE_USER to the same user: both give a session as new.
    pub(crate) async fn reset(&mut self, change_user: bool) -> Result<(), Failure> {
        let opts = ChangeUserOpts::default();
        let Some(conn) = self.conn.as_mut() else {
            return Ok(());
        };
        let name = if change_user { "COM_CHANGE_USER" } else { "COM_RESET_CONNECTION" };
        let work =
            async { if change_user { conn.change_user(opts).await } else { conn.reset().await.map(drop) } };
        let result = match timeout(self.statement_timeout, work).await {
            Ok(result) => result.map_err(|error| Failure::from_driver(error, name)),
            Err(_) => Err(Failure::new(Fault::Lost, "no answer in time", name)),
        };
        self.autocommit = true;
        self.open = false;
        if result.is_err() {
            self.drop_connection();
        }
        result
    }

    /// Says goodbye (COM_QUIT) and leaves no connection.
    pub(crate) async fn disconnect(&mut self) {
        if let Some(conn) = self.conn.take() {
            // The server sees the end of the connection either way.
            let _ = timeout(self.statement_timeout, conn.disconnect()).await;
        }
        self.open = false;
    }

    fn drop_connection(&mut self) {
        self.conn = None;
        self.open = false;
    }
}
