//! What `millrace check` says about settings that are right.

use std::io::{self, Write};

use super::rules::is_public;
use super::{Config, duration};

impl Config {
    /// Writes what the node would do: where it listens, who may do what, and what one should know.
    pub fn check(&self, out: &mut impl Write) -> io::Result<()> {
        let shards = self.shards();
        let rtmp = if self.rtmp.enabled { self.rtmp.listen.to_string() } else { "off".into() };
        let udp = match self.webrtc.base_port {
            0 => format!("{}, {shards} ports the system chooses", self.webrtc.listen_ip),
            base => format!("{}, ports {base} to {}", self.webrtc.listen_ip, usize::from(base) + shards - 1),
        };
        let candidates = match self.node.public_ips.as_slice() {
            [] => "the bound address, or that of the default route".into(),
            ips => ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let who = |tokens: usize| match tokens {
            0 => "anybody".into(),
            1 => "holders of 1 token".into(),
            n => format!("holders of {n} tokens"),
        };
        writeln!(out, "node        {} with {shards} shards", self.node.name)?;
        writeln!(out, "RTMP        {rtmp}")?;
        writeln!(out, "HTTP        {}", self.http.listen)?;
        writeln!(out, "WebRTC      UDP {udp}")?;
        writeln!(out, "candidates  {candidates}")?;
        writeln!(out, "operations  {}", self.ops.listen)?;
        writeln!(out, "publish     {}", who(self.auth.publish.len()))?;
        writeln!(out, "play        {}", who(self.auth.play.len()))?;
        let api = match self.auth.api.len() {
            0 if !self.auth.is_open() => "nobody (auth.api is empty)".into(),
            tokens => who(tokens),
        };
        writeln!(out, "API         {api}")?;
        writeln!(
            out,
            "grace       {} for a publisher to come back",
            duration::text(self.stream.publisher_grace)
        )?;
        for warning in self.warnings() {
            writeln!(out, "note        {warning}")?;
        }
        Ok(())
    }

    /// What is allowed and yet worth knowing, a sentence each; for the log at start, too.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let public = self.public_listeners();
        if public.is_empty() {
            warnings.push(
                "only this machine can reach the node; see docs/CONFIG.md, \"On a public address\"".into(),
            );
        } else if self.auth.publish.is_empty() {
            warnings.push("anybody who can reach the node can publish (node.allow_open)".into());
        }
        if is_public(self.ops.listen.ip()) {
            warnings.push(format!("ops.listen is {}: metrics ask nobody for a token", self.ops.listen));
        }
        let mixed =
            public.iter().any(|(key, _)| *key != "webrtc.listen_ip") && !is_public(self.webrtc.listen_ip);
        if mixed {
            warnings.push("webrtc.listen_ip is loopback: WebRTC reaches nobody but this machine".into());
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Token;

    fn summary(config: &Config) -> String {
        let mut out = Vec::new();
        config.check(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_summary_tells_addresses_and_never_tokens() {
        let mut config = Config::default();
        config.node.shards = 4;
        let text = summary(&config);
        for line in [
            "node        millrace with 4 shards",
            "RTMP        127.0.0.1:1935",
            "WebRTC      UDP 127.0.0.1, ports 8000 to 8003",
            "publish     anybody",
            "grace       30s for a publisher to come back",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        config.auth.publish = vec![Token::new("s3cr3t")];
        config.rtmp.enabled = false;
        let text = summary(&config);
        assert!(text.contains("holders of 1 token\n") && text.contains("RTMP        off\n"));
        assert!(!text.contains("s3cr3t"));
    }

    #[test]
    fn warnings_tell_what_is_open() {
        let mut config = Config::default();
        assert_eq!(config.warnings().len(), 1, "loopback only");
        config.node.allow_open = true;
        config.http.listen.set_ip("0.0.0.0".parse().unwrap());
        config.ops.listen.set_ip("0.0.0.0".parse().unwrap());
        assert_eq!(config.warnings().len(), 3, "{:?}", config.warnings());
        config.webrtc.listen_ip = "0.0.0.0".parse().unwrap();
        config.auth.publish = vec![Token::new("t")];
        config.ops.listen.set_ip("127.0.0.1".parse().unwrap());
        assert_eq!(config.warnings(), [""; 0]);
    }
}
