//! Asking for a password, unseen.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};

use anyhow::{Context, bail};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// A new password: asked for twice on the terminal, or the first line of standard input if that is none.
pub(crate) fn new_password() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        let password = line.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            bail!("a password is expected on standard input; --no-password makes an account without one");
        }
        return Ok(password.to_owned());
    }
    let terminal = File::options().read(true).write(true).open("/dev/tty").context("there is no terminal")?;
    let password = ask(&terminal, "New password: ")?;
    if password.is_empty() {
        bail!("the password is empty; --no-password makes an account without one");
    }
    if ask(&terminal, "Once more: ")? != password {
        bail!("the passwords differ; nothing was changed");
    }
    Ok(password)
}

fn ask(mut terminal: &File, words: &str) -> io::Result<String> {
    terminal.write_all(words.as_bytes())?;
    let before = tcgetattr(terminal)?;
    let mut unseen = before.clone();
    unseen.local_modes.remove(LocalModes::ECHO);
    unseen.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(terminal, OptionalActions::Flush, &unseen)?;
    let mut line = String::new();
    let read = BufReader::new(terminal).read_line(&mut line);
    tcsetattr(terminal, OptionalActions::Flush, &before)?;
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
