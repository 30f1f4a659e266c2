//! A small HTTP/1.1 client: one request a connection, plain and chunked bodies, endless bodies with a time limit.
use crate::wait::nothing_yet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What came back.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// A header by name, in any case; the values of repeated ones joined with commas.
    pub fn header(&self, name: &str) -> Option<String> {
        let named = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let values: Vec<&str> = named.map(|(_, value)| &value[..]).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }
}

/// One request; waits at most 10 s for the whole answer.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Response> {
    exchange(method, url, headers, body, Duration::from_secs(10), false)
}

/// `GET`, for answers that must come.
///
/// # Panics
/// When no answer comes.
#[track_caller]
pub fn get(url: &str) -> Response {
    request("GET", url, &[], b"").unwrap_or_else(|error| panic!("GET {url}: {error}"))
}

/// `GET` of a body without end: what came in `limit`, or until the server ended it.
pub fn get_for(url: &str, limit: Duration) -> io::Result<Response> {
    exchange("GET", url, &[], b"", limit, true)
}

/// `GET` of a body without end, written as it comes, until the server ends it or `into` takes no more.
///
/// # Errors
/// When the server refuses, or ends the connection within a piece.
pub fn follow(url: &str, into: &mut impl Write) -> io::Result<()> {
    let mut reader = ask("GET", url, &[], b"", Duration::from_secs(300))?;
    let response = read_head(&mut reader)?;
    if response.status != 200 {
        return Err(io::Error::other(format!("status {}", response.status)));
    }
    read_body(&mut reader, &response, into)
}

/// One connection for several requests, as browsers and proxies keep it.
pub struct KeptAlive {
    reader: BufReader<Patient>,
    host: String,
}

impl KeptAlive {
    /// Connects to the host of an URL.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(url: &str) -> io::Result<KeptAlive> {
        let rest = url.strip_prefix("http://").expect("an http:// URL");
        let host = rest.split('/').next().unwrap_or(rest).to_string();
        let stream = TcpStream::connect(&host)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let end = Instant::now() + Duration::from_secs(60);
        Ok(KeptAlive { reader: BufReader::new(Patient { stream, end }), host })
    }

    /// The status of the answer; its body is read and left.
    ///
    /// # Errors
    /// When the server has closed the connection.
    pub fn request(&mut self, method: &str, path: &str, kind: &str, body: &str) -> io::Result<u16> {
        let host = &self.host;
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.reader.get_mut().stream.write_all(text.as_bytes())?;
        let response = read_head(&mut self.reader)?;
        read_body(&mut self.reader, &response, &mut io::sink())?;
        Ok(response.status)
    }
}

fn exchange(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    limit: Duration,
    endless: bool,
) -> io::Result<Response> {
    let mut reader = ask(method, url, headers, body, limit)?;
    let mut response = read_head(&mut reader)?;
    let mut came = Vec::new();
    let read = if method == "HEAD" || response.status == 204 {
        Ok(())
    } else {
        read_body(&mut reader, &response, &mut came)
    };
    response.body = came;
    match read {
        Err(error) if !(endless && error.kind() == io::ErrorKind::TimedOut) => Err(error),
        _ => Ok(response),
    }
}

/// Sends a request; the answer is to be read within the limit.
fn ask(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    limit: Duration,
) -> io::Result<BufReader<Patient>> {
    let end = Instant::now() + limit;
    let rest = url.strip_prefix("http://").expect("an http:// URL");
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut head = format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || method == "POST" || method == "PATCH" {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    stream.write_all(head.as_bytes())?;
    // a server may answer (413) and stop reading before it has all of a large body
    let _ = stream.write_all(body);

    Ok(BufReader::new(Patient { stream, end }))
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Response> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|it| it.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("not an HTTP answer: {line:?}")))?;
    let mut response = Response { status, headers: Vec::new(), body: Vec::new() };
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => response.headers.push((name.trim().into(), value.trim().into())),
            None => return Ok(response),
        }
    }
}

fn read_body(reader: &mut impl BufRead, response: &Response, body: &mut impl Write) -> io::Result<()> {
    if response.header("Transfer-Encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16)
                .map_err(|_| io::Error::other(format!("bad chunk size {line:?}")))?;
            copy(reader, body, Some(size))?;
            reader.read_line(&mut line)?;
            if size == 0 {
                return Ok(());
            }
        }
    }
    let length = response.header("Content-Length").and_then(|it| it.parse().ok());
    copy(reader, body, length)
}

/// Copies piece by piece, so that what came before an error is kept.
fn copy(reader: &mut impl Read, body: &mut impl Write, length: Option<usize>) -> io::Result<()> {
    let mut left = length.unwrap_or(usize::MAX);
    let mut piece = [0; 16384];
    while left > 0 {
        let most = left.min(piece.len());
        let count = reader.read(&mut piece[..most])?;
        if count == 0 {
            return if length.is_some() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) };
        }
        body.write_all(&piece[..count])?;
        left -= count;
    }
    Ok(())
}

/// A socket that is asked again until the whole exchange's time is over.
struct Patient {
    stream: TcpStream,
    end: Instant,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if Instant::now() > self.end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match self.stream.read(buffer) {
                Err(error) if nothing_yet(&error) => {}
                done => return done,
            }
        }
    }
}
