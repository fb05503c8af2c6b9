//! The application's tables, made through the connection like any migration tool would.

use anyhow::{Context as _, Result};
use mysql_async::{Conn, Error, prelude::Queryable as _};

use crate::target::Target;

const SCHEMA: &str = include_str!("../schema.sql");
const UNKNOWN_DATABASE: u16 = 1049;

/// The statements of `schema.sql`, one by one and without their comments.
fn statements() -> Vec<String> {
    let code = SCHEMA.lines().filter(|line| !line.starts_with("--"));
    let code = code.collect::<Vec<_>>().join("\n");
    code.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()).map(str::to_string).collect()
}

/// Makes the tables that are not there yet and returns how many statements were sent.
///
/// A database that does not exist is created; one that does is used as it is.
///
/// # Errors
/// No connection, or a statement that was refused; the statement is named.
pub async fn apply_schema(target: &Target) -> Result<usize> {
    let mut conn = connect(target).await?;
    let statements = statements();
    for statement in &statements {
        let name: String = statement.chars().take(60).collect();
        conn.query_drop(statement).await.with_context(|| format!("refused: {name}…"))?;
    }
    conn.disconnect().await?;
    Ok(statements.len())
}

async fn connect(target: &Target) -> Result<Conn> {
    match target.connect().await {
        Err(Error::Server(error)) if error.code == UNKNOWN_DATABASE => {
            let mut conn = target.without_database().connect().await?;
            let name = target.database().replace('`', "``");
            conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS `{name}`")).await?;
            conn.disconnect().await?;
            Ok(target.connect().await?)
        }
        other => other.context("cannot connect"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_of_one_user_is_sharded_by_it() {
        let statements = statements();
        assert_eq!(statements.len(), SCHEMA.matches("\nCREATE TABLE ").count());
        let sharded = statements.iter().filter(|text| text.contains("usher:sharded key=user_id")).count();
        assert_eq!(sharded, statements.len() - 3);
    }
}
