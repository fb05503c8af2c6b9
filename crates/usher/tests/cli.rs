//! The command line as scripts see it: exit codes, texts, JSON; without any server.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, text: &str) -> String {
        let path = self.0.join("usher.toml");
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn usher(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    command.args(arguments).env_remove("USHER_CONFIG").stdin(Stdio::null());
    command
}

/// Exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    read(usher(arguments).output().unwrap())
}

fn read(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// A global master that nobody is: connections are refused.
fn nowhere() -> String {
    let port = free_port();
    format!(
        "[global]\nuser = \"a\"\npassword = \"b\"\n[[global.members]]\nname = \"g1\"\nhost = \"127.0.0.1\"\n\
         port = {port}\n"
    )
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["move", "start", "--user", "623", "--to", "s2"],
        &["move", "start", "--user", "623", "--to", "s2", "--locked", "--online"],
        &["move", "status", "x"],
        &["shard", "flip"],
        &["shard", "list", "--colour"],
        &["shard", "list"],
        &["playground", "up", "--server", "oracle"],
    ] {
        let (code, out, error) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {error}");
        assert!(!error.is_empty());
    }
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for command in ["playground", "proxy", "controller", "move", "shard", "check"] {
        assert!(help.contains(command), "{help}");
    }
}

#[test]
fn a_bad_configuration_is_named_and_exit_code_1() {
    let folder = Folder::new("bad");
    let cases = [
        ("[global", "line 1"),
        ("[global]\nuser = \"a\"\npassword = \"b\"\nmembers = []\n", "global.members"),
        (&(nowhere() + "[limits]\nclient_max = 1\n"), "client_max"),
    ];
    for (text, named) in cases {
        let file = folder.file(text);
        for command in [&["shard", "list"][..], &["proxy"], &["controller"]] {
            let (code, _, error) = run(&[command, &["--config", &file]].concat());
            assert_eq!(code, 1, "{error}");
            assert!(error.contains(named) && error.contains("usher: "), "{error}");
        }
    }
    let (code, _, error) = run(&["proxy", "--config", "/nowhere/usher.toml"]);
    assert_eq!(code, 1);
    assert!(error.contains("/nowhere/usher.toml"), "{error}");
}

#[test]
fn what_does_not_exist_yet_says_so() {
    for arguments in [
        &["rebalance", "plan"][..],
        &["rebalance", "run"],
        &["verify"],
        &["top"],
        &["move", "undo", "7"],
        &["table", "set", "app.t"],
    ] {
        let (code, _, error) = run(arguments);
        assert_eq!(code, 1, "{arguments:?}");
        assert!(error.contains("not supported yet"), "{error}");
    }
}

#[test]
fn a_missing_global_master_is_one_clear_error() {
    let folder = Folder::new("away");
    let file = folder.file(&nowhere());
    for arguments in [
        &["shard", "list"][..],
        &["user", "where", "623"],
        &["move", "list"],
        &["schema", "apply"],
        &["shard", "flip", "s1"],
    ] {
        let (code, _, error) = run(&[arguments, &["--config", &file]].concat());
        assert_eq!(code, 1, "{error}");
        assert!(error.contains("the global master is unavailable"), "{error}");
    }
    let (code, _, error) = run(&["--json", "shard", "list", "--config", &file]);
    assert_eq!(code, 1);
    let json: serde_json::Value = serde_json::from_str(&error).unwrap();
    assert!(json["error"]["message"].as_str().unwrap().contains("unavailable"));
    let (code, out, _) = run(&["check", "--config", &file]);
    assert_eq!(code, 2, "critical, as monitoring plugins have it");
    assert!(out.starts_with("USHER CRITICAL - "), "{out}");
    let (code, out, _) = run(&["check", "--config", "/nowhere/usher.toml"]);
    assert_eq!(code, 3);
    assert!(out.starts_with("USHER UNKNOWN - "), "{out}");
}

#[test]
fn a_port_in_use_is_named() {
    let folder = Folder::new("port");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let proxy = format!(
        "[proxy]\nid = \"p\"\nlisten = \"{address}\"\nbackend_user = \"u\"\nbackend_password = \"p\"\n"
    );
    let controller = format!("[controller]\nid = \"c\"\nhttp_listen = \"{address}\"\n");
    for (command, table) in [("proxy", proxy), ("controller", controller)] {
        let file = folder.file(&(nowhere() + &table));
        let (code, _, error) = run(&[command, "--config", &file]);
        assert_eq!(code, 1, "{error}");
        assert!(error.contains(&address) && error.contains("in use"), "{error}");
    }
}

#[test]
fn a_controller_without_its_global_master_says_so_and_stops_when_told() {
    let folder = Folder::new("controller");
    let address = format!("127.0.0.1:{}", free_port());
    let file = folder.file(&format!("{}[controller]\nid = \"c\"\nhttp_listen = \"{address}\"\n", nowhere()));
    let mut child = usher(&["controller", "--config", &file]).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let answer = loop {
        if let Some(answer) = health(&address) {
            break answer;
        }
        assert!(Instant::now() < deadline, "no answer");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("global master"), "{answer}");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it does not stop");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, _, log) = read(child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("sign of life") && log.contains("stopping"), "{log}");
}

fn health(address: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
