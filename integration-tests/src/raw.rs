//! Clients packet by packet: what no driver would do.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A client of an account without a password, in the database `app`.
pub async fn logged_in(port: u16, user: &str) -> TcpStream {
    logged_in_with(port, user, 0, &[]).await
}

/// The same with further capability flags; `behind` is what CLIENT_ZSTD_COMPRESSION_ALGORITHM appends.
pub async fn logged_in_with(port: u16, user: &str, flags: u32, behind: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    log_in(&mut stream, user, flags, behind).await;
    stream
}

/// Logs in on a stream.
pub async fn log_in(stream: &mut TcpStream, user: &str, flags: u32, behind: &[u8]) {
    packet(stream).await;
    // CLIENT_PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH, CONNECT_WITH_DB, LONG_PASSWORD, TRANSACTIONS.
    let caps: u32 = flags | 0x0008_0000 | 0x8000 | 0x2000 | 0x200 | 0x8 | 0x1;
    let mut hello = caps.to_le_bytes().to_vec();
    hello.extend((16_u32 << 20).to_le_bytes());
    hello.push(45);
    hello.extend([0; 23]);
    hello.extend(user.as_bytes());
    hello.extend(b"\0\0app\0caching_sha2_password\0");
    if flags & 1 << 26 != 0 {
        hello.extend(behind);
    }
    send(stream, 1, &hello).await;
    let mut answer = packet(stream).await;
    if answer.first() == Some(&0xfe) {
        // A server would have another plugin, whose answer is as empty.
        send(stream, 3, &[]).await;
        answer = packet(stream).await;
    }
    assert_eq!(answer.first(), Some(&0), "{}", String::from_utf8_lossy(&answer));
}

/// Sends a packet.
pub async fn send(stream: &mut TcpStream, seq: u8, payload: &[u8]) {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_le_bytes()[..3].to_vec();
    bytes.push(seq);
    bytes.extend(payload);
    stream.write_all(&bytes).await.unwrap();
}

/// Reads a packet's payload.
pub async fn packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.unwrap();
    let mut payload = vec![0; u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize];
    stream.read_exact(&mut payload).await.unwrap();
    payload
}

/// The code of an ERR packet.
pub fn error_code(payload: &[u8]) -> u16 {
    assert_eq!(payload.first(), Some(&0xff), "{payload:?}");
    u16::from_le_bytes([payload[1], payload[2]])
}

/// The cursor of a statement has been opened.
pub const CURSOR_EXISTS: u16 = 0x40;
/// A cursor has no more rows.
pub const LAST_ROW_SENT: u16 = 0x80;

/// Sends a command and reads the first packet of its answer.
pub async fn command(stream: &mut TcpStream, payload: &[u8]) -> Vec<u8> {
    send(stream, 0, payload).await;
    packet(stream).await
}

/// Packets up to an EOF packet, and its status; an ERR packet is its code.
pub async fn up_to_eof(stream: &mut TcpStream) -> Result<(Vec<Vec<u8>>, u16), u16> {
    let mut packets = Vec::new();
    loop {
        let payload = packet(stream).await;
        match payload[..] {
            [0xff, ..] => return Err(error_code(&payload)),
            [0xfe, _, _, low, high] => return Ok((packets, u16::from_le_bytes([low, high]))),
            _ => packets.push(payload),
        }
    }
}

/// COM_STMT_PREPARE of a statement without parameters that has rows; its id.
pub async fn prepare(stream: &mut TcpStream, text: &str) -> u32 {
    let head = command(stream, &[&[0x16], text.as_bytes()].concat()).await;
    assert_eq!(head[0], 0, "{text}: {}", String::from_utf8_lossy(&head));
    assert_eq!(head[7..9], [0, 0], "no parameters");
    up_to_eof(stream).await.unwrap();
    u32::from_le_bytes(head[1..5].try_into().unwrap())
}

/// COM_STMT_EXECUTE with these flags; the status behind the definitions, or the error's code.
pub async fn execute(stream: &mut TcpStream, id: u32, flags: u8) -> Result<u16, u16> {
    let head = command(stream, &[&[0x17], &id.to_le_bytes()[..], &[flags, 1, 0, 0, 0]].concat()).await;
    match head[0] {
        0xff => Err(error_code(&head)),
        _ => up_to_eof(stream).await.map(|(_, status)| status),
    }
}

/// COM_STMT_FETCH: how many rows came, and the status behind them, or the error's code.
pub async fn fetch(stream: &mut TcpStream, id: u32, rows: u32) -> Result<(usize, u16), u16> {
    send(stream, 0, &[&[0x1c], &id.to_le_bytes()[..], &rows.to_le_bytes()].concat()).await;
    up_to_eof(stream).await.map(|(rows, status)| (rows.len(), status))
}

/// COM_QUERY of a statement without rows.
pub async fn run(stream: &mut TcpStream, text: &str) {
    let answer = command(stream, &[&[0x03], text.as_bytes()].concat()).await;
    assert_eq!(answer[0], 0, "{text}: {}", String::from_utf8_lossy(&answer));
}
