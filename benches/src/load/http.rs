//! As much of an HTTP/1.1 client as a harness needs: one request, one connection, deadlines on all of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_LEN_MAX: usize = 4 << 20;

/// A response: status and body.
#[derive(Debug)]
pub struct Response {
    /// Such as 201.
    pub status: u16,
    /// As text.
    pub body: String,
}

/// Sends a request and reads the answer to its end.
pub fn request(to: SocketAddr, method: &str, path: &str, content_type: &str, body: &str) -> Result<Response> {
    let exchange = || -> Result<Response> {
        let deadline = Instant::now() + TIMEOUT;
        let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {to}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes())?;
        let mut bytes = Vec::new();
        let mut buffer = [0; 16_384];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no answer within {TIMEOUT:?}");
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut buffer)? {
                0 => break,
                count => bytes.extend_from_slice(&buffer[..count]),
            }
            ensure!(bytes.len() <= RESPONSE_LEN_MAX, "the answer is longer than {RESPONSE_LEN_MAX} bytes");
        }
        parse(&bytes)
    };
    exchange().with_context(|| format!("{method} http://{to}{path}"))
}

fn parse(bytes: &[u8]) -> Result<Response> {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("the answer is cut") };
    let status =
        head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status in the answer")?;
    ensure!(!head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "the answer is chunked");
    Ok(Response { status, body: body.to_owned() })
}
