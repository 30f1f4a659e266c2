//! As much of an HTTP/1.1 client as a harness needs: one request a connection, its answer read as it comes. [`Exchange`] is for the event
//! loop, [`request`] waits.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use benches::receive;
use bytes::{Buf, Bytes};
use mio::net::TcpStream;

use super::target::Url;

/// Connecting and a whole small answer.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Bodies that are kept whole: SDP, playlists, metrics.
const BODY_LEN_MAX: usize = 16 << 20;
const HEAD_LEN_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 64;

/// Status and what headers are of interest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// Such as 201.
    pub status: u16,
    /// `Location`.
    pub location: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Body {
    Head,
    Length(u64),
    UntilClose,
    /// Bytes left of a chunk, and whether its line is still to come.
    ChunkLine,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    Done,
}

/// Reads one response from the bytes of a connection.
#[derive(Debug)]
pub struct Response {
    body: Body,
    held: Vec<u8>,
    head: Head,
}

impl Default for Response {
    fn default() -> Response {
        Response { body: Body::Head, held: Vec::new(), head: Head::default() }
    }
}

impl Response {
    /// The head, once it came.
    pub fn head(&self) -> Option<&Head> {
        (self.body != Body::Head).then_some(&self.head)
    }

    /// Whether the answer is whole.
    pub fn is_done(&self) -> bool {
        self.body == Body::Done
    }

    /// The connection is closed: the end of an answer without a length, else an error.
    pub fn closed(&mut self) -> Result<()> {
        ensure!(
            matches!(self.body, Body::UntilClose | Body::Done),
            "the server closed the connection within its answer"
        );
        self.body = Body::Done;
        Ok(())
    }

    /// Takes bytes; pieces of the body go to `data`.
    pub fn push(&mut self, bytes: &[u8], data: &mut dyn FnMut(&[u8])) -> Result<()> {
        if self.held.is_empty() {
            return self.take(bytes, data);
        }
        let mut joined = std::mem::take(&mut self.held);
        joined.extend_from_slice(bytes);
        self.take(&joined, data)
    }

    fn take(&mut self, mut bytes: &[u8], data: &mut dyn FnMut(&[u8])) -> Result<()> {
        while !bytes.is_empty() {
            match self.body {
                Body::Head => match self.parse_head(bytes)? {
                    Some(len) => bytes = &bytes[len..],
                    None => {
                        ensure!(
                            bytes.len() <= HEAD_LEN_MAX,
                            "the answer's head is longer than {HEAD_LEN_MAX} bytes"
                        );
                        self.held = bytes.to_vec();
                        return Ok(());
                    }
                },
                Body::Length(left) => {
                    let take = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    data(&bytes[..take]);
                    bytes = &bytes[take..];
                    let left = left - take as u64;
                    self.body = if left == 0 { Body::Done } else { Body::Length(left) };
                }
                Body::UntilClose => {
                    data(bytes);
                    return Ok(());
                }
                Body::Chunk(left) => {
                    let take = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    data(&bytes[..take]);
                    bytes = &bytes[take..];
                    let left = left - take as u64;
                    self.body = if left == 0 { Body::ChunkEnd } else { Body::Chunk(left) };
                }
                // RFC 9112 section 7.1: size in hexadecimal, extensions, CRLF; data, CRLF; trailers up to an empty line.
                Body::ChunkLine | Body::ChunkEnd | Body::Trailer => {
                    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                        ensure!(
                            bytes.len() <= HEAD_LEN_MAX,
                            "a chunk's line is longer than {HEAD_LEN_MAX} bytes"
                        );
                        self.held = bytes.to_vec();
                        return Ok(());
                    };
                    let line = String::from_utf8_lossy(&bytes[..end]).trim().to_owned();
                    bytes = &bytes[end + 1..];
                    self.body = match self.body {
                        Body::ChunkEnd => Body::ChunkLine,
                        Body::Trailer if line.is_empty() => Body::Done,
                        Body::Trailer => Body::Trailer,
                        _ => match u64::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16) {
                            Ok(0) => Body::Trailer,
                            Ok(len) => Body::Chunk(len),
                            Err(_) => bail!("a chunk's length is {line:?}"),
                        },
                    };
                }
                // One request a connection: whatever follows has no meaning.
                Body::Done => return Ok(()),
            }
        }
        Ok(())
    }

    fn parse_head(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(len) = response.parse(bytes).context("the answer is no HTTP")? else {
            return Ok(None);
        };
        let value = |name: &str| {
            let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            header.map(|header| String::from_utf8_lossy(header.value).into_owned())
        };
        self.head = Head { status: response.code.unwrap_or(0), location: value("location") };
        self.body = if matches!(self.head.status, 204 | 304) {
            Body::Done
        } else if value("transfer-encoding")
            .is_some_and(|coding| coding.to_ascii_lowercase().contains("chunked"))
        {
            Body::ChunkLine
        } else {
            match value("content-length") {
                Some(text) => match text.trim().parse().context("Content-Length")? {
                    0 => Body::Done,
                    length => Body::Length(length),
                },
                None => Body::UntilClose,
            }
        };
        Ok(Some(len))
    }
}

fn request_bytes(url: &Url, method: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text =
        format!("{method} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", url.path, url.authority);
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if method != "GET" {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    (text + "\r\n" + body).into_bytes()
}

/// One request under way in an event loop.
pub struct Exchange {
    /// For the event loop.
    pub stream: TcpStream,
    unsent: Vec<u8>,
    sent: usize,
    /// What came of the answer.
    pub response: Response,
    what: String,
}

impl Exchange {
    /// Starts to connect.
    pub fn start(url: &Url, method: &str, headers: &[(&str, &str)], body: &str) -> Result<Exchange> {
        let what = format!("{method} {url}");
        let stream = TcpStream::connect(url.address).with_context(|| format!("{what}: cannot connect"))?;
        receive::enable_times(&stream)?;
        let unsent = request_bytes(url, method, headers, body);
        Ok(Exchange { stream, unsent, sent: 0, response: Response::default(), what })
    }

    /// The method and URL, for messages.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The connection is ready: writes what is left, reads what came. Each piece of the body goes to `data` with the kernel's time of
    /// arrival. With `read_max` no more than about so many bytes are read; returns whether more may wait.
    pub fn ready(
        &mut self,
        buffer: &mut [u8],
        read_max: usize,
        data: &mut dyn FnMut(&[u8], Option<u64>),
    ) -> Result<bool> {
        self.go(buffer, read_max, data).with_context(|| self.what.clone())
    }

    fn go(
        &mut self,
        buffer: &mut [u8],
        read_max: usize,
        data: &mut dyn FnMut(&[u8], Option<u64>),
    ) -> Result<bool> {
        while self.sent < self.unsent.len() {
            match self.stream.write(&self.unsent[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_not_now(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        let mut taken = 0;
        while taken < read_max {
            let room = buffer.len().min(read_max - taken);
            match receive::recv_stream(&self.stream, &mut buffer[..room]) {
                Ok((0, _)) => {
                    self.response.closed()?;
                    return Ok(false);
                }
                Ok((count, at)) => {
                    taken += count;
                    self.response.push(&buffer[..count], &mut |piece| data(piece, at))?;
                    if self.response.is_done() {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_not_now(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// Writes what waits, then what `more` gives while it gives something; what the socket does not take is kept.
pub fn write_waiting(
    stream: &mut TcpStream,
    unsent: &mut Bytes,
    mut more: impl FnMut() -> Bytes,
) -> io::Result<()> {
    loop {
        if unsent.is_empty() {
            *unsent = more();
        }
        if unsent.is_empty() {
            return Ok(());
        }
        match stream.write(unsent) {
            Ok(count) => unsent.advance(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_not_now(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Whether to wait for the socket; a connection that is not through yet says NotConnected.
pub fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

/// A whole answer.
#[derive(Debug)]
pub struct Whole {
    /// Its head.
    pub head: Head,
    /// As text.
    pub body: String,
}

/// Sends a request and waits for the whole answer.
pub fn request(url: &Url, method: &str, headers: &[(&str, &str)], body: &str) -> Result<Whole> {
    let exchange = || -> Result<Whole> {
        let deadline = Instant::now() + TIMEOUT;
        let mut stream = std::net::TcpStream::connect_timeout(&url.address, TIMEOUT)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(&request_bytes(url, method, headers, body))?;
        let (mut response, mut body) = (Response::default(), Vec::new());
        let mut buffer = [0; 16_384];
        while !response.is_done() {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no answer within {TIMEOUT:?}");
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut buffer) {
                // A read with a time-out is not restarted after a signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
                Ok(0) => response.closed()?,
                Ok(count) => response.push(&buffer[..count], &mut |piece| body.extend_from_slice(piece))?,
            }
            ensure!(body.len() <= BODY_LEN_MAX, "the answer is longer than {BODY_LEN_MAX} bytes");
        }
        Ok(Whole { head: response.head.clone(), body: String::from_utf8_lossy(&body).into_owned() })
    };
    exchange().with_context(|| format!("{method} {url}"))
}

/// An address as a URL.
pub fn url_of(address: SocketAddr, path: &str) -> Url {
    Url { scheme: "http".into(), authority: address.to_string(), path: path.into(), address }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body, however the bytes are cut; `None` when it is an error or not whole.
    fn read(answer: &str, cut: usize) -> Option<(u16, String)> {
        let (mut response, mut body) = (Response::default(), Vec::new());
        for piece in answer.as_bytes().chunks(cut) {
            response.push(piece, &mut |bytes| body.extend_from_slice(bytes)).ok()?;
        }
        if !response.is_done() {
            response.closed().ok()?;
        }
        Some((response.head.status, String::from_utf8(body).ok()?))
    }

    #[test]
    fn bodies_are_read_however_they_are_framed_and_cut() {
        let length = "HTTP/1.1 201 Created\r\nLocation: /session/1\r\ncontent-length: 5\r\n\r\nhello";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nA: b\r\n\r\n";
        let until_close = "HTTP/1.0 200 OK\r\n\r\nhello";
        for cut in [1, 2, 7, 1_000] {
            assert_eq!(read(length, cut), Some((201, "hello".into())), "{cut}");
            assert_eq!(read(chunked, cut), Some((200, "hello".into())), "{cut}");
            assert_eq!(read(until_close, cut), Some((200, "hello".into())), "{cut}");
            assert_eq!(read("HTTP/1.1 204 No Content\r\n\r\n", cut), Some((204, String::new())), "{cut}");
        }
        let mut response = Response::default();
        response.push(length.as_bytes(), &mut |_| ()).unwrap();
        assert_eq!(response.head().and_then(|head| head.location.as_deref()), Some("/session/1"));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for bad in [
            "RTMP/1.0 hello\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
            "HTTP/1.1 200",
        ] {
            assert_eq!(read(bad, 3), None, "{bad}");
        }
    }
}
