//! A WebSocket client that only listens (RFC 6455): what FLV over WebSocket needs.
use crate::wait::nothing_yet;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The payload of all binary messages that come in `limit`, joined.
///
/// # Errors
/// When the upgrade is refused or a frame is malformed.
pub fn get_for(url: &str, limit: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + limit;
    let rest = url.strip_prefix("http://").expect("an http:// URL");
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    let mut piece = [0; 65536];
    while Instant::now() < end {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) if nothing_yet(&error) => {}
            Err(error) => return Err(error),
        }
    }
    let head =
        bytes.windows(4).position(|it| it == b"\r\n\r\n").ok_or_else(|| io::Error::other("no answer"))?;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    // RFC 6455 section 1.3: this key is answered with this value
    let accepted = text.starts_with("http/1.1 101") && text.contains("s3pplmbitxaq9kygzzhzrbk+xoo=");
    if !accepted {
        return Err(io::Error::other(format!("not upgraded: {text}")));
    }
    frames(&bytes[head + 4..])
}

fn frames(mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match second {
            127 => {
                let Some((length, rest)) = rest.split_first_chunk() else { break };
                (u64::from_be_bytes(*length) as usize, rest)
            }
            126 => {
                let Some((length, rest)) = rest.split_first_chunk() else { break };
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            length if *length < 126 => (usize::from(*length), rest),
            // RFC 6455 section 5.1: a server must not mask
            _ => return Err(io::Error::other("a masked frame from a server")),
        };
        let Some(payload) = rest.get(..length) else { break };
        match first & 15 {
            0 | 2 => out.extend_from_slice(payload),
            8 => break,
            9 | 10 => {}
            kind => return Err(io::Error::other(format!("a frame of kind {kind}"))),
        }
        bytes = &rest[length..];
    }
    Ok(out)
}
