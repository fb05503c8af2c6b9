//! Reading and checking the tree as a whole, before anything is bound or connected.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use thiserror::Error;
use toml::Table;

use crate::{Config, Proxy, Require, Successor, TlsMode, env};

/// Why a configuration is refused. Each names the file or the setting and what is wrong with it.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The text is no TOML, or has a setting that does not exist or is of the wrong type.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        message: String,
    },
    /// A variable that names no setting.
    #[error("the environment variable {0} names no setting; see docs/configuration.md")]
    Variable(String),
    /// A value that makes no sense.
    #[error("{setting}: {reason}")]
    Value {
        /// The setting's path in the tree.
        setting: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// Reads the file, applies the process's `USHER_...` variables and checks the whole.
///
/// # Errors
/// [`ConfigError`] names the first thing that is wrong.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, path, std::env::vars())
}

/// As [`load`], from a text and given variables; `path` only names the source in messages.
///
/// # Errors
/// [`ConfigError`] names the first thing that is wrong.
pub fn parse(
    text: &str,
    path: &Path,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let syntax = |error: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    };
    // Typed straight from the text first: only so do messages carry line and column.
    let overrides: Vec<_> = variables.collect();
    let mut tree: Table = toml::from_str(text).map_err(syntax)?;
    let before = tree.clone();
    env::apply(&mut tree, overrides.into_iter()).map_err(|unknown| ConfigError::Variable(unknown.0))?;
    let config: Config = if tree == before {
        toml::from_str(text).map_err(syntax)?
    } else {
        tree.try_into().map_err(syntax)?
    };
    check(&config)?;
    Ok(config)
}

fn check(config: &Config) -> Result<(), ConfigError> {
    let wrong = |setting: &str, reason: &str| {
        Err(ConfigError::Value { setting: setting.to_owned(), reason: reason.to_owned() })
    };
    if config.global.members.is_empty() {
        return wrong("global.members", "at least one member is needed, a pair is meant");
    }
    let mut names = HashSet::new();
    if let Some(twice) = config.global.members.iter().find(|member| !names.insert(member.name.as_str())) {
        return wrong("global.members", &format!("the name {:?} stands twice", twice.name));
    }
    if let Some(hint) = &config.global.writer_hint
        && !names.contains(hint.as_str())
    {
        return wrong("global.writer_hint", &format!("no member is called {hint:?}"));
    }
    if let Some(proxy) = &config.proxy {
        if proxy.id.is_empty() || proxy.id.len() > 64 {
            return wrong("proxy.id", "1 to 64 characters are needed");
        }
        if let Some(successor) = &proxy.successor {
            check_successor(proxy, successor)?;
        }
        if proxy.tls_cert.is_some() != proxy.tls_key.is_some() {
            return wrong("proxy.tls_cert", "tls_cert and tls_key go together");
        }
        if proxy.tls_client_ca.is_some() && proxy.tls_cert.is_none() {
            return wrong("proxy.tls_client_ca", "certificates of clients need tls_cert and tls_key");
        }
        if proxy.proxy_protocol_required && proxy.proxy_protocol_networks.is_empty() {
            return wrong("proxy.proxy_protocol_required", "proxy_protocol_networks says of whom");
        }
    }
    if config.backend_tls.mode == TlsMode::Required && config.backend_tls.ca.is_none() {
        return wrong("backend_tls.ca", "mode \"required\" needs the authorities to check against");
    }
    check_users(config)?;
    check_limits(config)
}

fn check_successor(proxy: &Proxy, successor: &Successor) -> Result<(), ConfigError> {
    let wrong = |setting: &str, reason: &str| {
        Err(ConfigError::Value { setting: format!("proxy.successor.{setting}"), reason: reason.to_owned() })
    };
    if successor.id.is_empty() || successor.id.len() > 64 {
        return wrong("id", "1 to 64 characters are needed");
    }
    if successor.id == proxy.id {
        return wrong("id", "has to be another one than proxy.id");
    }
    if successor.backend_user == proxy.backend_user {
        return wrong(
            "backend_user",
            "has to be another account than proxy.backend_user: each is revoked alone",
        );
    }
    if successor.number > 0 && successor.number == proxy.number {
        return wrong("number", "has to be another one than proxy.number");
    }
    Ok(())
}

fn check_users(config: &Config) -> Result<(), ConfigError> {
    let mut names = HashSet::new();
    for user in &config.users {
        let wrong =
            |reason: String| Err(ConfigError::Value { setting: format!("users ({:?})", user.name), reason });
        if !names.insert(user.name.as_str()) {
            return wrong("the name stands twice".to_owned());
        }
        if let Some(proxy) = &config.proxy {
            let lacking = match user.require {
                Require::X509 if proxy.tls_client_ca.is_none() => Some("proxy.tls_client_ca"),
                Require::Tls if proxy.tls_cert.is_none() => Some("proxy.tls_cert"),
                _ => None,
            };
            if let Some(setting) = lacking {
                return wrong(format!("nobody could log in: require needs {setting}"));
            }
        }
        user.check().or_else(wrong)?;
    }
    Ok(())
}

fn check_limits(config: &Config) -> Result<(), ConfigError> {
    let limits = &config.limits;
    let positive: [(&str, u64); 19] = [
        ("logins_max", limits.logins_max as u64),
        ("tls_handshakes_max", limits.tls_handshakes_max as u64),
        ("sources_max", limits.sources_max as u64),
        ("clients_max", limits.clients_max as u64),
        ("backends_per_server_max", limits.backends_per_server_max as u64),
        ("checkout_wait_ms", limits.checkout_wait_ms),
        ("connect_ms", limits.connect_ms),
        ("peer_silent_ms", limits.peer_silent_ms),
        ("server_lost_ms", limits.server_lost_ms),
        ("client_write_ms", limits.client_write_ms),
        ("login_ms", limits.login_ms),
        ("poll_ms", limits.poll_ms),
        ("probe_ms", limits.probe_ms),
        ("patience_ms", limits.patience_ms),
        ("batch_rows_max", limits.batch_rows_max as u64),
        ("batch_bytes_max", limits.batch_bytes_max as u64),
        ("directory_lookups_max", limits.directory_lookups_max as u64),
        ("id_block_min", limits.id_block_min),
        ("peer_ms", limits.peer_ms),
    ];
    for (name, value) in positive {
        if value == 0 {
            return Err(ConfigError::Value {
                setting: format!("limits.{name}"),
                reason: "must be more than 0".to_owned(),
            });
        }
    }
    if limits.id_block_max < limits.id_block_min {
        return Err(ConfigError::Value {
            setting: "limits.id_block_max".to_owned(),
            reason: "must not be less than id_block_min".to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MINIMAL: &str = r#"
[global]
user = "usher_admin"
password = "secret"
[[global.members]]
name = "g1"
host = "127.0.0.1"
port = 3306
"#;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        parse(text, Path::new("usher.toml"), variables).map_err(|error| error.to_string())
    }

    #[test]
    fn a_minimal_file_has_all_defaults() {
        let config = read(MINIMAL, &[]).unwrap();
        assert_eq!(config.limits, crate::Limits::default());
        assert!(config.proxy.is_none());
    }

    #[test]
    fn a_typo_names_line_and_setting() {
        let error = read(&format!("{MINIMAL}\n[limits]\nclient_max = 5\n"), &[]).unwrap_err();
        assert!(error.contains("usher.toml") && error.contains("client_max"), "{error}");
        assert!(error.contains("line 11") && error.contains("clients_max"), "{error}");
    }

    #[test]
    fn variables_override_and_are_checked_too() {
        let config =
            read(MINIMAL, &[("USHER_LIMITS_POLL_MS", "7"), ("USHER_GLOBAL_PASSWORD", "123")]).unwrap();
        assert_eq!(config.limits.poll_ms, 7);
        assert_eq!(config.global.password, "123");
        assert!(read(MINIMAL, &[("USHER_LIMITS_POL_MS", "7")]).unwrap_err().contains("pol_ms"));
        assert!(read(MINIMAL, &[("USHER_NONSENSE", "7")]).unwrap_err().contains("USHER_NONSENSE"));
        assert!(read(MINIMAL, &[("USHER_LIMITS_POLL_MS", "0")]).unwrap_err().contains("limits.poll_ms"));
    }

    fn proxy(extra: &str) -> String {
        let needed = "id = \"px1\"\nlisten = \"127.0.0.1:1\"\nbackend_user = \"u\"\nbackend_password = \"p\"";
        format!("[proxy]\n{needed}\n{extra}\n")
    }

    #[test]
    fn lists_come_from_variables_too() {
        let variables = [("USHER_PROXY_PROXY_PROTOCOL_NETWORKS", "10.0.0.0/8, ::1")];
        let config = read(&format!("{MINIMAL}{}", proxy("")), &variables).unwrap();
        let networks = config.proxy.unwrap().proxy_protocol_networks;
        assert_eq!(networks.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1/128"]);
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        let cases = [
            ("[backend_tls]\nmode = \"required\"", "backend_tls.ca"),
            ("[[users]]\nname = \"a\"\n[[users]]\nname = \"a\"", "twice"),
            ("[[users]]\nname = \"a\"\nplugin = \"dialog\"", "dialog"),
            ("[[users]]\nname = \"a\"\nsha256_hash = \"xyz\"", "64 hexadecimal"),
            ("[[users]]\nname = \"a\"\nadmin = true\nschemas = [\"app\"]", "all schemas"),
            ("[[users]]\nname = \"a\"\nschemas = [\"app\", \"usher\"]", "usher's own"),
            ("[[users]]\nname = \"a\"\nadmin = true\nread_only = true", "exclude each other"),
            ("[limits]\nid_block_max = 1", "id_block_max"),
        ];
        for (extra, expected) in cases {
            let error = read(&format!("{MINIMAL}{extra}\n"), &[]).unwrap_err();
            assert!(error.contains(expected), "{extra}: {error}");
        }
        let cases = [
            ("tls_client_ca = \"ca.pem\"", "proxy.tls_client_ca"),
            ("proxy_protocol_required = true", "proxy_protocol_networks"),
            ("proxy_protocol_networks = [\"10.0.0.0/99\"]", "no network"),
            ("compression = \"lz4\"", "lz4"),
            ("[[users]]\nname = \"a\"\nrequire = \"x509\"", "tls_client_ca"),
        ];
        for (extra, expected) in cases {
            let error = read(&format!("{MINIMAL}{}", proxy(extra)), &[]).unwrap_err();
            assert!(error.contains(expected), "{extra}: {error}");
        }
    }
}
