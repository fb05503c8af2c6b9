//! `usher account ...`: who may log in to the proxies.

use std::path::Path;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use usher_admin::accounts::{hashes_from, hashes_of};
use usher_config::{Require, User};
use usher_directory::Global;
use usher_directory::rows::{self, AccountChange, AccountRow, Hashes};

use crate::cli::{AccountCommand, AccountOptions};
use crate::deployment::Deployment;
use crate::prompt;
use crate::say::{Say, table};

pub(crate) async fn run(deployment: &Deployment, command: AccountCommand, say: &Say) -> anyhow::Result<()> {
    let global = &deployment.global;
    let of_file = |name: &str| deployment.config.users.iter().any(|user| user.name == name);
    match command {
        AccountCommand::Add { name, options } => {
            let hashes =
                password(&options)?.map_or_else(|| prompt::new_password().map(|p| hashes_of(&p)), Ok)?;
            let change = AccountChange { hashes: Some(hashes), ..change(options) };
            let said = change.to_string();
            if !rows::add_account(global, &name, change).await? {
                bail!("there is already an account {name:?}; change it with `usher account set`");
            }
            if of_file(&name) {
                say.remark("it counts before the account of this name in the proxies' configuration file");
            }
            done(global, &name, "account added", &said, say).await
        }
        AccountCommand::Set { name, options } => {
            let hashes = password(&options)?;
            let change = AccountChange { hashes, ..change(options) };
            if change == AccountChange::default() {
                bail!("nothing to change is named; see `usher account set --help`");
            }
            let said = change.to_string();
            match rows::change_account(global, &name, change).await? {
                Some(_) => done(global, &name, "account changed", &said, say).await,
                None => Err(none(&name, of_file(&name))),
            }
        }
        AccountCommand::Drop { name } => {
            if !rows::drop_account(global, &name).await? {
                return Err(none(&name, of_file(&name)));
            }
            if of_file(&name) {
                say.remark("the account of this name in the proxies' configuration file counts again");
            }
            done(global, &name, "account dropped", "", say).await
        }
        AccountCommand::List => list(deployment, say).await,
        AccountCommand::Show { name } => show(deployment, &name, say).await,
    }
}

fn none(name: &str, of_file: bool) -> anyhow::Error {
    match of_file {
        true => anyhow::anyhow!(
            "the account {name:?} stands in the configuration file: change it there, or add it with `usher account \
             add`, which counts before the file"
        ),
        false => anyhow::anyhow!("there is no account {name:?}"),
    }
}

async fn done(global: &Global, name: &str, what: &str, detail: &str, say: &Say) -> anyhow::Result<()> {
    let by = format!("cli {}", std::env::var("USER").unwrap_or_default());
    rows::record(global, by.trim_end(), what, name, detail).await?;
    say.answer(&json!({"account": name, "done": what}), || {
        format!("{what}: {name}; proxies follow within limits.poll_ms")
    });
    Ok(())
}

/// The password that the options give, if they give one.
fn password(options: &AccountOptions) -> anyhow::Result<Option<Hashes>> {
    if options.no_password {
        return Ok(Some(Hashes::default()));
    }
    if options.password {
        return Ok(Some(hashes_of(&prompt::new_password()?)));
    }
    if let Some(file) = &options.password_file {
        return Ok(Some(hashes_of(&password_in(file)?)));
    }
    let Some(hash) = &options.hash else { return Ok(None) };
    let hashes = hashes_from(hash);
    let wanted = "a hash is SHA256(SHA256(password)) in 64 hexadecimal digits, or SHA1(SHA1(password)) in 40";
    Ok(Some(hashes.context(wanted)?))
}

fn password_in(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() {
        bail!("{} is empty; --no-password makes an account without one", file.display());
    }
    Ok(password.to_owned())
}

fn change(options: AccountOptions) -> AccountChange {
    AccountChange {
        hashes: None,
        plugin: options.plugin,
        default_schema: options.default_schema.map(|name| Some(name).filter(|name| !name.is_empty())),
        schemas: options.schemas,
        read_only: options.read_only,
        admin: options.admin,
        require: options.require.as_deref().map(|require| match require {
            "tls" => Require::Tls,
            "x509" => Require::X509,
            _ => Require::None,
        }),
        locked: options.locked,
        connections_max: options.connections_max,
        statements_per_s_max: options.statements_per_s_max,
    }
}

/// An account, and where it stands.
struct Known<'a> {
    user: &'a User,
    locked: bool,
    stored: bool,
}

fn known<'a>(stored: &'a [AccountRow], of_file: &'a [User]) -> Vec<Known<'a>> {
    let file = of_file.iter().filter(|user| stored.iter().all(|row| row.user.name != user.name));
    let file = file.map(|user| Known { user, locked: false, stored: false });
    let mut known: Vec<_> = stored
        .iter()
        .map(|row| Known { user: &row.user, locked: row.locked, stored: true })
        .chain(file)
        .collect();
    known.sort_by(|a, b| a.user.name.cmp(&b.user.name));
    known
}

fn view(known: &Known<'_>) -> Value {
    let user = known.user;
    let has_password = user.sha256_hash.is_some()
        || user.native_hash.is_some()
        || user.password.as_ref().is_some_and(|password| !password.is_empty());
    json!({
        "name": user.name,
        "from": if known.stored { "global" } else { "file" },
        "plugin": user.plugin,
        "password": has_password,
        "schemas": if user.has_all_schemas() { json!("*") } else { json!(user.schemas) },
        "default_schema": user.default_schema,
        "read_only": user.read_only,
        "admin": user.admin,
        "require": user.require,
        "locked": known.locked,
        "connections_max": user.connections_max,
        "statements_per_s_max": user.statements_per_s_max,
    })
}

async fn list(deployment: &Deployment, say: &Say) -> anyhow::Result<()> {
    let (_, stored) = rows::accounts(&deployment.global).await?;
    let known = known(&stored, &deployment.config.users);
    say.answer(&json!({"accounts": known.iter().map(view).collect::<Vec<_>>()}), || {
        let line = |known: &Known<'_>| {
            let user = known.user;
            let schemas = if user.has_all_schemas() { "*".to_owned() } else { user.schemas.join(",") };
            let rights = [("admin", user.admin), ("read-only", user.read_only), ("locked", known.locked)];
            let rights = rights.iter().filter(|(_, is)| *is).map(|(name, _)| *name);
            let from = if known.stored { "global" } else { "file" };
            vec![user.name.clone(), from.to_owned(), schemas, rights.collect::<Vec<_>>().join(",")]
        };
        table(&["ACCOUNT", "FROM", "SCHEMAS", "RIGHTS"], known.iter().map(line))
    });
    Ok(())
}

async fn show(deployment: &Deployment, name: &str, say: &Say) -> anyhow::Result<()> {
    let stored: Vec<_> = rows::account(&deployment.global, name).await?.into_iter().collect();
    let known = known(&stored, &deployment.config.users);
    let Some(found) = known.iter().find(|known| known.user.name == name) else {
        return Err(none(name, false));
    };
    let view = view(found);
    say.answer(&view, || {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let fields = view.as_object().into_iter().flatten();
        table(&["WHAT", "VALUE"], fields.map(|(name, value)| vec![name.clone(), text(value)]))
    });
    Ok(())
}
