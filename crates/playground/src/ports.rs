//! Ports on 127.0.0.1, below 32768: above that the system hands them to outgoing connections.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use parking_lot::Mutex;
use rand::Rng;

use crate::error::{Error, Result};

const FIRST: u16 = 10_000;
const END: u16 = 32_768;
/// Tries of a random port before giving up.
const TRIES: usize = 20_000;

/// Whether somebody could listen on the port now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Random ports that this process has handed out: nobody else's, as long as it lives, even while nobody listens there. A
/// server takes a moment to start, and a test stops and starts it again.
static CLAIMED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// Claims a port among all playgrounds of this machine, by a name that is free again when its process ends. `false`:
/// another has claimed it.
fn claim(port: u16) -> bool {
    let name = format!("usher-playground-port-{port}");
    let claimed = SocketAddr::from_abstract_name(name).and_then(|name| UnixListener::bind_addr(&name));
    claimed.map(|claimed| CLAIMED.lock().push(claimed)).is_ok()
}

/// Hands out ports: consecutive ones from a base, or random free ones.
pub(crate) struct Ports {
    next: Option<u16>,
    taken: HashSet<u16>,
}

impl Ports {
    /// `taken` are ports already promised in this playground, whether or not anybody listens there yet.
    pub(crate) fn new(base: Option<u16>, taken: HashSet<u16>) -> Self {
        Self { next: base, taken }
    }

    /// The next port for `name`.
    pub(crate) fn take(&mut self, name: &str) -> Result<u16> {
        let port = match self.next {
            Some(port) => self.take_next(name, port)?,
            None => self.take_random()?,
        };
        self.taken.insert(port);
        Ok(port)
    }

    fn take_next(&mut self, name: &str, mut port: u16) -> Result<u16> {
        while self.taken.contains(&port) && port < END {
            port += 1;
        }
        if port >= END {
            return Err(Error::Option("--port-base leaves too few ports below 32768".into()));
        }
        if !is_free(port) {
            return Err(Error::Port { name: name.to_owned(), port });
        }
        self.next = Some(port + 1);
        Ok(port)
    }

    fn take_random(&mut self) -> Result<u16> {
        random(|port| !self.taken.contains(&port)).ok_or(Error::Ports { wanted: self.taken.len() + 1 })
    }
}

fn random(is_wanted: impl Fn(u16) -> bool) -> Option<u16> {
    let mut rng = rand::rng();
    let mut tries = (0..TRIES).map(|_| rng.random_range(FIRST..END));
    tries.find(|port| is_wanted(*port) && is_free(*port) && claim(*port))
}

/// A free port on 127.0.0.1, below 32768, that no playground takes while this process lives: for what runs beside one.
///
/// # Errors
/// None was found.
pub fn free_port() -> Result<u16> {
    random(|_| true).ok_or(Error::Ports { wanted: 1 })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn random_ports_are_free_low_and_distinct() {
        let mut ports = Ports::new(None, HashSet::new());
        let taken: HashSet<u16> = (0..50).map(|_| ports.take("x").unwrap()).collect();
        assert_eq!(taken.len(), 50);
        assert!(taken.iter().all(|p| (FIRST..END).contains(p)));
        assert!(taken.iter().all(|p| is_free(*p) && !claim(*p)), "nobody else gets them");
    }

    #[test]
    fn consecutive_ports_skip_promised_ones_and_refuse_used_ones() {
        let used = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let base = (FIRST..END - 3).find(|p| (*p..*p + 3).all(is_free)).unwrap();
        let mut ports = Ports::new(Some(base), HashSet::from([base + 1]));
        assert_eq!(ports.take("a").unwrap(), base);
        assert_eq!(ports.take("b").unwrap(), base + 2);
        assert!(used > 0);
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, base)).unwrap();
        let mut ports = Ports::new(Some(base), HashSet::new());
        assert_eq!(ports.take("a").unwrap_err().id(), "playground-port");
        drop(held);
    }
}
