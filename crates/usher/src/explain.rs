//! `usher explain`: asks a proxy how it would route a statement.

use std::time::Duration;

use anyhow::Context;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row};
use serde_json::{Map, Value, json};
use usher_config::Config;

use crate::say::{Say, table};

/// The longest it may take.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) async fn run(
    config: &Config,
    statement: &str,
    user: Option<&str>,
    say: &Say,
) -> anyhow::Result<()> {
    let proxy = config.proxy.as_ref().context("the configuration has no [proxy] table")?;
    let account = config
        .users
        .iter()
        .find(|account| user.map_or_else(|| account.password.is_some(), |name| name == account.name))
        .context("the configuration has no such user with a plain password")?;
    let opts = OptsBuilder::default()
        .ip_or_hostname(proxy.listen.ip().to_string())
        .tcp_port(proxy.listen.port())
        .user(Some(&account.name))
        .pass(account.password.as_deref())
        .db_name(account.default_schema.as_deref())
        .prefer_socket(false);
    let ask = async {
        let mut conn = Conn::new(opts).await?;
        let rows: Vec<Row> = conn.query(format!("EXPLAIN ROUTE {statement}")).await?;
        conn.disconnect().await?;
        Ok::<_, mysql_async::Error>(rows)
    };
    let rows = tokio::time::timeout(LIMIT, ask)
        .await
        .with_context(|| format!("the proxy {} has not answered within {} s", proxy.listen, LIMIT.as_secs()))?
        .with_context(|| format!("the proxy {}", proxy.listen))?;
    let head: Vec<String> = rows
        .first()
        .map(|row| row.columns_ref().iter().map(|column| column.name_str().into_owned()).collect())
        .unwrap_or_default();
    let texts: Vec<Vec<String>> =
        rows.iter().map(|row| (0..head.len()).map(|at| text(row, at)).collect()).collect();
    let objects: Vec<Value> = texts
        .iter()
        .map(|row| {
            let fields = head.iter().cloned().zip(row.iter().map(|value| json!(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        })
        .collect();
    say.answer(&json!({"route": objects}), || {
        table(&head.iter().map(String::as_str).collect::<Vec<_>>(), texts)
    });
    Ok(())
}

fn text(row: &Row, at: usize) -> String {
    row.get_opt::<Option<String>, _>(at).and_then(Result::ok).flatten().unwrap_or_default()
}
