//! Where clients go: URL templates, by presets for this node and for its peers.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::scenario::Protocol;

/// Stands in results where a token was.
pub const HIDDEN: &str = "TOKEN";

/// A server, or two: publishers may go to one and viewers to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Target {
    /// Whose URLs.
    pub preset: Preset,
    /// `HOST` or `HOST` of the templates.
    pub host: String,
    /// The viewers' host, when it is another.
    pub watch_host: Option<String>,
    /// Templates that take the place of the preset's. `{host}`, `{app}` and `{stream}` are filled in.
    pub whip: Option<String>,
    /// See `whip`.
    pub whep: Option<String>,
    /// See `whip`; for publishers.
    pub rtmp: Option<String>,
    /// See `whip`; for players, when it differs from `rtmp`.
    pub rtmp_play: Option<String>,
    /// See `whip`.
    pub flv: Option<String>,
    /// See `whip`.
    pub hls: Option<String>,
    /// Janus' HTTP API.
    pub janus: Option<String>,
    /// Sent as `Authorization: Bearer`, and where a template says `{token}`.
    pub token: Option<String>,
    /// The server's process on this machine, whose CPU, memory and context switches are told.
    pub pid: Option<u32>,
    /// Its Prometheus metrics, read before and after.
    pub metrics: Option<String>,
    /// Start this program (a `millrace`) as the server, on free ports of 127.0.0.1, and end it afterwards.
    pub start: Option<PathBuf>,
    /// Cores the started program is pinned to; it gets as many shards. None: not pinned.
    pub start_cores: Vec<usize>,
}

impl Default for Target {
    fn default() -> Target {
        Target {
            preset: Preset::Millrace,
            host: "127.0.0.1".into(),
            watch_host: None,
            whip: None,
            whep: None,
            rtmp: None,
            rtmp_play: None,
            flv: None,
            hls: None,
            janus: None,
            token: None,
            pid: None,
            metrics: None,
            start: None,
            start_cores: Vec::new(),
        }
    }
}

/// Servers whose URLs are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// This node.
    #[default]
    Millrace,
    /// SRS.
    Srs,
    /// MediaMTX.
    Mediamtx,
    /// LiveKit, which is published to by WHIP.
    Livekit,
    /// nginx with the RTMP module.
    NginxRtmp,
    /// Janus with its streaming plugin.
    Janus,
}

impl Preset {
    /// Default ports and paths, as the servers' own documentation has them: SRS' wiki (HTTP-FLV, HLS, WHIP since 5.0.148), MediaMTX' guide,
    /// LiveKit ingress' configuration (`whip_port: 8080`; the stream key is the bearer token, so one publisher a token), the RTMP module's
    /// wiki (`location /hls` over `hls_path`), Janus' HTTP transport. `None`: the server has no such door.
    fn template(self, protocol: Protocol, playing: bool) -> Option<&'static str> {
        use Protocol::{Flv, Hls, Janus, Rtmp, Whep, Whip};
        Some(match (self, protocol) {
            (Preset::Millrace, Whip) => "http://{host}:8080/whip/{app}/{stream}",
            (Preset::Millrace, Whep) => "http://{host}:8080/whep/{app}/{stream}",
            (Preset::Millrace | Preset::Srs | Preset::NginxRtmp, Rtmp) => "rtmp://{host}:1935/{app}/{stream}",
            (Preset::Millrace, Flv) => "http://{host}:8080/{app}/{stream}.flv",
            (Preset::Srs, Whip) => "http://{host}:1985/rtc/v1/whip/?app={app}&stream={stream}",
            (Preset::Srs, Whep) => "http://{host}:1985/rtc/v1/whep/?app={app}&stream={stream}",
            (Preset::Srs, Flv) => "http://{host}:8080/{app}/{stream}.flv",
            (Preset::Srs, Hls) => "http://{host}:8080/{app}/{stream}.m3u8",
            (Preset::Mediamtx, Whip) => "http://{host}:8889/{app}/{stream}/whip",
            (Preset::Mediamtx, Whep) => "http://{host}:8889/{app}/{stream}/whep",
            (Preset::Mediamtx, Rtmp) => "rtmp://{host}:1935/{app}/{stream}",
            (Preset::Mediamtx, Hls) => "http://{host}:8888/{app}/{stream}/index.m3u8",
            (Preset::Livekit, Whip) => "http://{host}:8080/w",
            (Preset::NginxRtmp, Hls) if playing => "http://{host}:8080/hls/{stream}.m3u8",
            (Preset::Janus, Janus) => "http://{host}:8088/janus",
            _ => return None,
        })
    }
}

/// As much of a URL as clients need.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Url {
    /// `http` or `rtmp`.
    pub scheme: String,
    /// Name and port, as written.
    pub authority: String,
    /// From the slash on, with the query.
    pub path: String,
    /// Where that is.
    pub address: SocketAddr,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.path)
    }
}

impl Url {
    /// Parses a URL and looks its host up.
    ///
    /// # Errors
    /// What is wrong with it; a name that has no address.
    pub fn parse(text: &str) -> Result<Url> {
        let (scheme, rest) =
            text.split_once("://").with_context(|| format!("{text} is no URL: it has no scheme"))?;
        let default_port = match scheme {
            "http" => 80,
            "rtmp" => 1935,
            "https" | "rtmps" => bail!("{text}: TLS is not spoken; put the plain door here"),
            _ => bail!("{text}: the scheme is http or rtmp"),
        };
        let slash = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        ensure!(!authority.is_empty(), "{text} has no host");
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { authority.to_owned() } else { format!("{authority}:{default_port}") };
        let addresses: Vec<SocketAddr> = with_port
            .to_socket_addrs()
            .with_context(|| format!("{text}: cannot find {authority}"))?
            .collect();
        let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        Ok(Url {
            scheme: scheme.to_owned(),
            authority: authority.to_owned(),
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
            address: *address.with_context(|| format!("{text}: {authority} has no address"))?,
        })
    }

    /// Another place on the same server, or anywhere: what a `Location` header or a playlist says.
    pub fn join(&self, reference: &str) -> Result<Url> {
        if reference.contains("://") {
            return Url::parse(reference);
        }
        let path = if reference.starts_with('/') {
            reference.to_owned()
        } else {
            let base = self.path.split('?').next().unwrap_or("/");
            let folder = base.rfind('/').map_or("/", |slash| &base[..=slash]);
            format!("{folder}{reference}")
        };
        Ok(Url { path, ..self.clone() })
    }

    /// Application and stream of an RTMP URL.
    pub fn app_and_stream(&self) -> Result<(&str, &str)> {
        let path = self.path.trim_start_matches('/');
        path.split_once('/')
            .filter(|(app, stream)| !app.is_empty() && !stream.is_empty())
            .with_context(|| format!("{self} names no APP/STREAM"))
    }
}

impl Target {
    /// Takes the token out, also of templates; returns what it was.
    pub fn hide_token(&mut self) -> Option<String> {
        let token = self.token.take().filter(|token| !token.is_empty())?;
        self.token = Some(HIDDEN.into());
        let urls = [&mut self.whip, &mut self.whep, &mut self.rtmp, &mut self.rtmp_play, &mut self.flv];
        let urls = urls.into_iter().chain([&mut self.hls, &mut self.janus, &mut self.metrics]).flatten();
        urls.for_each(|url| *url = url.replace(&token, HIDDEN));
        Some(token)
    }

    /// Where a publisher (`playing` false) or viewer of `stream` (`APP/NAME`) goes.
    ///
    /// # Errors
    /// A server without such a door; a template that makes no URL.
    pub fn url(&self, protocol: Protocol, playing: bool, stream: &str) -> Result<Url> {
        let own = match protocol {
            Protocol::Whip => self.whip.as_ref(),
            Protocol::Whep => self.whep.as_ref(),
            Protocol::Rtmp if playing => self.rtmp_play.as_ref().or(self.rtmp.as_ref()),
            Protocol::Rtmp => self.rtmp.as_ref(),
            Protocol::Flv => self.flv.as_ref(),
            Protocol::Hls => self.hls.as_ref(),
            Protocol::Janus => self.janus.as_ref(),
        };
        let preset = || self.preset.template(protocol, playing).map(str::to_owned);
        let template = own.cloned().or_else(preset).with_context(|| {
            let key = format!("{protocol}").to_lowercase();
            format!("{:?} has no {protocol} door; target.{key} can name one", self.preset)
        })?;
        let host = if playing { self.watch_host.as_ref().unwrap_or(&self.host) } else { &self.host };
        let (app, name) = stream.split_once('/').unwrap_or(("live", stream));
        let text = template
            .replace("{host}", host)
            .replace("{app}", app)
            .replace("{stream}", name)
            .replace("{token}", self.token.as_deref().unwrap_or(""));
        if let Some(open) = text.find('{') {
            bail!("{template}: {} is none of {{host}}, {{app}}, {{stream}}, {{token}}", &text[open..]);
        }
        Url::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_give_urls_and_templates_take_their_place() {
        let mut target = Target { preset: Preset::Srs, ..Target::default() };
        let whep = target.url(Protocol::Whep, true, "live/a").unwrap();
        assert_eq!(whep.to_string(), "http://127.0.0.1:1985/rtc/v1/whep/?app=live&stream=a");
        assert_eq!(whep.address, "127.0.0.1:1985".parse().unwrap());
        target.whep = Some("http://{host}:9/x/{stream}?t={token}".into());
        target.token = Some("T".into());
        target.watch_host = Some("127.0.0.2".into());
        assert_eq!(
            target.url(Protocol::Whep, true, "live/a").unwrap().to_string(),
            "http://127.0.0.2:9/x/a?t=T"
        );
        let nginx = Target { preset: Preset::NginxRtmp, ..Target::default() };
        assert!(nginx.url(Protocol::Whep, true, "live/a").unwrap_err().to_string().contains("no WHEP door"));
        let odd = Target { rtmp: Some("rtmp://{host}/{name}".into()), ..Target::default() };
        assert!(odd.url(Protocol::Rtmp, false, "live/a").unwrap_err().to_string().contains("{name}"));
    }

    #[test]
    fn urls_are_parsed_joined_and_refused() {
        let url = Url::parse("http://127.0.0.1:8080/hls/a.m3u8?x=1").unwrap();
        assert_eq!(url.join("seg-1.ts").unwrap().to_string(), "http://127.0.0.1:8080/hls/seg-1.ts");
        assert_eq!(url.join("/session/1").unwrap().path, "/session/1");
        assert_eq!(url.join("http://127.0.0.1/b").unwrap().address.port(), 80);
        assert_eq!(Url::parse("rtmp://127.0.0.1/live/a").unwrap().app_and_stream().unwrap(), ("live", "a"));
        for bad in ["no", "ftp://a/b", "https://127.0.0.1/x", "http:///x", "http://no.such.host.invalid/"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
        assert!(Url::parse("rtmp://127.0.0.1/live").unwrap().app_and_stream().is_err());
    }
}
