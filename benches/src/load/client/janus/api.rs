//! Janus' HTTP API: JSON requests to `/janus`, `/janus/SESSION` and `/janus/SESSION/HANDLE`, one at a time, and events by long polls.

use anyhow::{Context, Result, bail, ensure};
use media::Time;
use serde_json::{Value, json};

use super::API;
use crate::load::client::Io;
use crate::load::http::Exchange;
use crate::load::plan::Seat;
use crate::load::target::Url;

const PLUGIN: &str = "janus.plugin.streaming";
/// Janus ends a session that it has heard nothing of for 60 s.
const KEEP_ALIVE_MS: i64 = 25_000;
const ANSWER_LEN_MAX: usize = 1 << 20;

/// A request under way.
pub struct Call {
    exchange: Exchange,
    body: Vec<u8>,
}

impl Call {
    fn start(url: &Url, method: &str, body: &str, source: usize, io: &mut Io<'_>) -> Result<Call> {
        let mut exchange = Exchange::start(url, method, &[("Content-Type", "application/json")], body)?;
        io.watch(source, &mut exchange.stream)?;
        Ok(Call { exchange, body: Vec::new() })
    }

    /// Its connection is ready. The answer, once it is whole; an error when Janus refuses.
    pub fn ready(&mut self, io: &mut Io<'_>) -> Result<Option<Value>> {
        let body = &mut self.body;
        self.exchange.ready(&mut io.kit.buffer, usize::MAX, &mut |piece, _| body.extend_from_slice(piece))?;
        let what = self.exchange.what();
        ensure!(body.len() <= ANSWER_LEN_MAX, "{what}: the answer is longer than {ANSWER_LEN_MAX} bytes");
        let response = &self.exchange.response;
        let Some(head) = response.head().filter(|_| response.is_done()) else { return Ok(None) };
        let text = || String::from_utf8_lossy(&self.body).into_owned();
        ensure!(head.status == 200, "{what} was answered {}: {:.200}", head.status, text().trim());
        let answer: Value =
            serde_json::from_str(&text()).with_context(|| format!("{what}: the answer is no JSON"))?;
        check(&answer).with_context(|| what.to_owned())?;
        Ok(Some(answer))
    }
}

/// An error when a message tells of one, Janus' own or the plugin's.
pub fn check(message: &Value) -> Result<()> {
    let own = &message["error"];
    if message["janus"] == "error" {
        bail!("Janus refused: {} ({})", own["reason"].as_str().unwrap_or("no reason"), own["code"]);
    }
    let data = &message["plugindata"]["data"];
    if let Some(why) = data["error"].as_str() {
        bail!("Janus' streaming plugin refused: {why} ({})", data["error_code"]);
    }
    Ok(())
}

/// A session with one handle of the streaming plugin.
pub struct Session {
    url: Url,
    token: Option<String>,
    call: Option<Call>,
    session: Option<u64>,
    handle: Option<u64>,
    /// Sent once there is a handle.
    first: Option<Value>,
    keep_alive_at: Time,
}

impl Session {
    /// Asks for a session, then for a handle, then sends `first` to the plugin.
    pub fn start(seat: &Seat, first: Value, io: &mut Io<'_>) -> Result<Session> {
        let mut session = Session {
            url: seat.url.clone(),
            token: seat.token.clone(),
            call: None,
            session: None,
            handle: None,
            first: Some(first),
            keep_alive_at: Time::MAX,
        };
        session.ask(json!({"janus": "create"}), io)?;
        Ok(session)
    }

    /// The session's or the handle's URL, as far as they are there.
    fn place(&self, with_handle: bool) -> Url {
        let mut url = self.url.clone();
        url.path.truncate(url.path.trim_end_matches('/').len());
        for id in self.session.iter().chain(self.handle.iter().filter(|_| with_handle)) {
            url.path.push_str(&format!("/{id}"));
        }
        url
    }

    fn text(&self, mut request: Value) -> String {
        request["transaction"] = "bench".into();
        if let Some(token) = &self.token {
            request["token"] = token.as_str().into();
        }
        request.to_string()
    }

    fn ask(&mut self, request: Value, io: &mut Io<'_>) -> Result<()> {
        let url = self.place(request["janus"] == "message");
        let text = self.text(request);
        self.keep_alive_at = io.now().plus_ms(KEEP_ALIVE_MS);
        self.call = Some(Call::start(&url, "POST", &text, API, io)?);
        Ok(())
    }

    /// Sends a request to the plugin, with an SDP of ours or without.
    pub fn message(&mut self, body: Value, answer: Option<&str>, io: &mut Io<'_>) -> Result<()> {
        let mut message = json!({"janus": "message", "body": body});
        if let Some(sdp) = answer {
            message["jsep"] = json!({"type": "answer", "sdp": sdp});
        }
        self.ask(message, io)
    }

    /// The connection is ready. What is returned answers a message: the plugin's answer, or an acknowledgement.
    pub fn ready(&mut self, io: &mut Io<'_>) -> Result<Option<Value>> {
        let Some(call) = &mut self.call else { return Ok(None) };
        let Some(answer) = call.ready(io)? else { return Ok(None) };
        self.call = None;
        let id = || answer["data"]["id"].as_u64().context("Janus answered without an id");
        if self.session.is_none() {
            self.session = Some(id()?);
            self.ask(json!({"janus": "attach", "plugin": PLUGIN}), io)?;
        } else if self.handle.is_none() {
            self.handle = Some(id()?);
            let first = self.first.take().unwrap_or(Value::Null);
            self.message(first, None, io)?;
        } else {
            return Ok(Some(answer));
        }
        Ok(None)
    }

    /// Asks for events; the connection is `source` of its client.
    pub fn poll(&self, source: usize, io: &mut Io<'_>) -> Result<Call> {
        let mut url = self.place(false);
        url.path.push_str("?maxev=10");
        if let Some(token) = &self.token {
            url.path.push_str(&format!("&token={token}"));
        }
        Call::start(&url, "GET", "", source, io)
    }

    /// Keeps the session alive.
    pub fn handle_timeout(&mut self, io: &mut Io<'_>) -> Result<()> {
        if io.now() >= self.keep_alive_at && self.handle.is_some() {
            ensure!(self.call.is_none(), "Janus has not answered within {KEEP_ALIVE_MS} ms");
            self.ask(json!({"janus": "keepalive"}), io)?;
        }
        Ok(())
    }

    /// When that is due.
    pub fn due(&self) -> Time {
        self.keep_alive_at
    }

    /// The request that ends the session; with a message to the plugin, that instead: the session dies of silence then.
    pub fn goodbye(&self, message: Option<Value>) -> Option<Exchange> {
        self.session?;
        let (url, request) = match message {
            Some(body) => (self.place(true), json!({"janus": "message", "body": body})),
            None => (self.place(false), json!({"janus": "destroy"})),
        };
        Exchange::start(&url, "POST", &[("Content-Type", "application/json")], &self.text(request)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_in_the_words_of_janus() {
        let refusal = |text: &str| check(&serde_json::from_str(text).unwrap()).unwrap_err().to_string();
        let own = r#"{"janus":"error","error":{"code":458,"reason":"No such session"}}"#;
        assert_eq!(refusal(own), "Janus refused: No such session (458)");
        let plugin = r#"{"janus":"event","plugindata":{"data":{"streaming":"event","error_code":455,"error":"No such mountpoint/stream 7"}}}"#;
        assert!(refusal(plugin).ends_with("No such mountpoint/stream 7 (455)"), "{}", refusal(plugin));
        assert!(check(&json!({"janus": "ack"})).is_ok() && check(&json!([1])).is_ok());
    }
}
