//! Overrides from the environment: `USHER_PROXY_LISTEN` sets `proxy.listen`. Only single values, not lists.

use toml::{Table, Value};

/// The prefix of every variable that is a setting.
const PREFIX: &str = "USHER_";

/// Variables of usher's own that are no settings.
const NOT_SETTINGS: &[&str] = &["USHER_CONFIG", "USHER_LOG", "USHER_MYSQL_ROOT", "USHER_FAIL_POINT"];

/// A variable that names no setting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownVariable(pub(crate) String);

/// Puts each variable's value into the tree.
pub(crate) fn apply(
    tree: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<(), UnknownVariable> {
    for (name, text) in variables {
        let Some(path) = name.strip_prefix(PREFIX).filter(|_| !NOT_SETTINGS.contains(&name.as_str())) else {
            continue;
        };
        let path = path.to_ascii_lowercase();
        let section = SECTIONS.iter().find(|section| {
            path.strip_prefix(**section).is_some_and(|rest| rest.starts_with('_') && rest.len() > 1)
        });
        let Some(section) = section else { return Err(UnknownVariable(name)) };
        let key = &path[section.len() + 1..];
        let table = tree.entry(*section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(table) = table else { return Err(UnknownVariable(name)) };
        table.insert(key.to_owned(), value(key, &text));
    }
    Ok(())
}

/// The tables whose values the environment can set; a longer name before its prefix.
const SECTIONS: &[&str] = &["global", "proxy", "controller", "http", "memcached", "backend_tls", "limits"];

/// The tree is typed later; here a text that reads as a number or a truth value becomes one, except where a text is
/// always meant.
fn value(key: &str, text: &str) -> Value {
    const TEXTS: &[&str] = &["password", "backend_password", "token", "user", "backend_user", "id"];
    if TEXTS.contains(&key) {
        return Value::String(text.to_owned());
    }
    if matches!(key, "servers" | "proxy_protocol_networks") {
        return Value::Array(text.split(',').map(|item| Value::String(item.trim().to_owned())).collect());
    }
    match (text.parse::<i64>(), text.parse::<bool>()) {
        (Ok(number), _) => Value::Integer(number),
        (_, Ok(truth)) => Value::Boolean(truth),
        _ => Value::String(text.to_owned()),
    }
}
