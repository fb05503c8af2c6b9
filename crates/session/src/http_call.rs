//! One HTTP call to another proxy: all that is needed of HTTP/1.1 to speak to usher's own API.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The largest answer taken: some hundred thousand sessions.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Sends one request and returns the body of a 200.
///
/// # Errors
/// In words, for people: what was between the two.
pub(crate) async fn call(
    address: &str,
    token: &str,
    (method, path, body): (&str, &str, &str),
    limit: Duration,
) -> Result<Vec<u8>, String> {
    // The token could not stand in a header otherwise, nor is it one.
    if token.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("http.token has control characters".to_owned());
    }
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    match timeout(limit, exchange(address, request.as_bytes())).await {
        Ok(Ok(answer)) => read(answer),
        Ok(Err(error)) => Err(format!("{address}: {error}")),
        Err(_) => Err(format!("{address} does not answer within {} ms", limit.as_millis())),
    }
}

async fn exchange(address: &str, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    let max = u64::try_from(ANSWER_BYTES_MAX).unwrap_or(u64::MAX);
    stream.take(max).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The body of a 200 that is all there.
fn read(mut answer: Vec<u8>) -> Result<Vec<u8>, String> {
    let unread = || "its answer cannot be read".to_owned();
    let head_len = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(unread)?;
    let head = String::from_utf8_lossy(answer.get(..head_len).unwrap_or_default()).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or_else(unread)?;
    match status {
        "200" => {}
        "401" | "403" => {
            return Err("it refuses the token: http.token has to be the same everywhere".to_owned());
        }
        "404" => return Err("it does not know this call: is it an older version?".to_owned()),
        other => return Err(format!("it answers with status {other}")),
    }
    let mut headers = lines.filter_map(|line| line.split_once(':'));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.and_then(|(_, value)| value.trim().parse().ok()).ok_or_else(unread)?;
    let body = answer.split_off(head_len + 4);
    if body.len() == length { Ok(body) } else { Err("its answer is not all there".to_owned()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_whole_200_or_words() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-type: x\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(read(whole.to_vec()).unwrap(), b"{}");
        assert!(read(whole[..whole.len() - 1].to_vec()).unwrap_err().contains("not all there"));
        assert!(read(b"HTTP/1.1 401 Unauthorized\r\n\r\n".to_vec()).unwrap_err().contains("token"));
        assert!(read(b"HTTP/1.1 500 X\r\n\r\n".to_vec()).unwrap_err().contains("500"));
        for garbage in [&b""[..], b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n{}"] {
            assert!(read(garbage.to_vec()).unwrap_err().contains("cannot be read"));
        }
    }
}
