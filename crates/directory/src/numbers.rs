//! The number of a proxy: connection ids begin with it, so that no two are alike in a deployment.

use std::collections::HashMap;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::{Error, Result};

/// Serializes those who take numbers. First in a transaction: what it reads later is then no older than this.
pub(crate) async fn lock(conn: &mut Conn) -> mysql_async::Result<()> {
    conn.query_drop("SELECT number FROM usher.proxy_numbers WHERE number = 0 FOR UPDATE").await
}

/// Takes a number for the proxy within a transaction that began with [`lock`]: `wanted`, or any if that is 0.
///
/// The outer error is the server's; the inner one says that there is none to be had.
pub(crate) async fn take(conn: &mut Conn, proxy: &str, wanted: u8) -> mysql_async::Result<Result<u8>> {
    let query = "SELECT n.number, n.proxy_id, p.proxy_id IS NOT NULL FROM usher.proxy_numbers n \
                 LEFT JOIN usher.proxies p ON p.proxy_id = n.proxy_id WHERE n.number > 0";
    let rows: Vec<(u8, String, bool)> = conn.query(query).await?;
    let holders = rows.into_iter().map(|(number, proxy_id, there)| (number, Holder { proxy_id, there }));
    let number = match choose(&holders.collect(), proxy, wanted) {
        Ok(number) => number,
        Err(error) => return Ok(Err(error)),
    };
    // Replaces what it had before, and whoever had the number and is gone.
    let replace = "REPLACE INTO usher.proxy_numbers (number, proxy_id) VALUES (?, ?)";
    conn.exec_drop(replace, (number, proxy)).await?;
    Ok(Ok(number))
}

struct Holder {
    proxy_id: String,
    /// It is registered.
    there: bool,
}

fn choose(holders: &HashMap<u8, Holder>, proxy: &str, wanted: u8) -> Result<u8> {
    if wanted > 0 {
        return match holders.get(&wanted).filter(|holder| holder.there && holder.proxy_id != proxy) {
            None => Ok(wanted),
            Some(holder) => Err(Error::Conflict(format!(
                "proxy.number {wanted} is that of proxy {}; leave it out, and one is given",
                holder.proxy_id
            ))),
        };
    }
    let of = |is_meant: &dyn Fn(Option<&Holder>) -> bool| (1..=u8::MAX).find(|n| is_meant(holders.get(n)));
    of(&|holder| holder.is_some_and(|holder| holder.proxy_id == proxy))
        .or_else(|| of(&|holder| holder.is_none()))
        .or_else(|| of(&|holder| holder.is_some_and(|holder| !holder.there)))
        .ok_or_else(|| Error::Conflict("all 255 numbers of proxies are taken".to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn held(list: &[(u8, &str, bool)]) -> HashMap<u8, Holder> {
        let holder =
            |(n, id, there): &(u8, &str, bool)| (*n, Holder { proxy_id: (*id).to_owned(), there: *there });
        list.iter().map(holder).collect()
    }

    #[test]
    fn nobody_has_the_number_of_another() {
        let some = held(&[(1, "px1", true), (2, "px2", false)]);
        assert_eq!(choose(&some, "px1", 0).unwrap(), 1, "its own again");
        assert_eq!(choose(&some, "px3", 0).unwrap(), 3, "a free one");
        assert_eq!(choose(&some, "px3", 2).unwrap(), 2, "its holder is gone");
        assert_eq!(choose(&some, "px1", 1).unwrap(), 1);
        assert!(choose(&some, "px3", 1).unwrap_err().to_string().contains("px1"));
    }

    #[test]
    fn of_those_that_are_gone_numbers_are_taken_last() {
        let mut all: HashMap<_, _> =
            (1..=u8::MAX).map(|n| (n, Holder { proxy_id: format!("p{n}"), there: n != 77 })).collect();
        assert_eq!(choose(&all, "new", 0).unwrap(), 77);
        all.get_mut(&77).unwrap().there = true;
        assert!(choose(&all, "new", 0).is_err());
    }
}
