//! One publisher: makes a mount point, then sends the clip to its ports as plain RTP, and sender reports; key frames come when Janus asks.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use media::{Codec, Time};
use rtc::{rtcp, sdp};
use serde_json::{Value, json};

use super::api::Session;
use super::{API, UDP, mount_point};
use crate::load::client::rtp_publish::{KEY_FRAME_MS, Packets, REPORT_MS, sender_reports};
use crate::load::client::rtp_watch::way_to;
use crate::load::client::{Client, Io};
use crate::load::http::Exchange;
use crate::load::plan::Seat;
use crate::load::target::Url;

const SEND_BUFFER: usize = 1 << 18;
const RECV_BUFFER: usize = 1 << 16;

/// Where a mount point takes a track, and its reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ports {
    rtp: SocketAddr,
    rtcp: Option<SocketAddr>,
}

struct Sending {
    socket: udp::Socket,
    packets: Packets,
    /// Video, audio.
    ports: [Ports; 2],
    next_report: Time,
    next_key: Time,
}

/// A publisher.
pub struct Publisher {
    url: Url,
    session: Session,
    sending: Option<Sending>,
    media: usize,
    stream: u32,
    join_deadline: Time,
}

impl Publisher {
    /// Asks for a session, and then for a mount point on ports that Janus chooses.
    pub fn start(seat: &Seat, media: usize, io: &mut Io<'_>) -> Result<Publisher> {
        let mut tracks = Vec::new();
        for (kind, codec, name) in [("video", Codec::H264, "h264"), ("audio", Codec::Opus, "opus")] {
            let mut track = json!({
                "type": kind, "mid": kind, "codec": name, "pt": sdp::client_payload_type(codec), "port": 0, "rtcpport": 0,
            });
            if codec == Codec::H264 {
                track["fmtp"] =
                    "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f".into();
            }
            tracks.push(track);
        }
        let create = json!({
            "request": "create", "type": "rtp", "id": mount_point(seat.stream), "name": format!("bench{}", seat.stream),
            "permanent": false, "media": tracks,
        });
        Ok(Publisher {
            url: seat.url.clone(),
            session: Session::start(seat, create, io)?,
            sending: None,
            media,
            stream: seat.stream,
            join_deadline: io.join_deadline(),
        })
    }

    fn begin(&mut self, created: &Value, io: &mut Io<'_>) -> Result<()> {
        let list = &created["plugindata"]["data"]["stream"]["ports"];
        let ports = |kind| {
            ports_of(list, kind, self.url.address)
                .with_context(|| format!("Janus named no {kind} port: {created}"))
        };
        let ports = [ports("video")?, ports("audio")?];
        let here = SocketAddr::new(way_to(self.url.address)?, 0);
        let mut socket = udp::Socket::bind(here, RECV_BUFFER, SEND_BUFFER)?;
        io.watch_reading(UDP, &mut socket)?;
        let now = io.now();
        let clip = Arc::clone(&io.kit.clips[self.media]);
        // Never 0, and never alike.
        let ssrcs = [1, 2].map(|bit| (io.kit.random() as u32 & !3) | bit);
        let packets = Packets::new(clip, self.stream, ssrcs, now);
        io.meter.connected(now.us().max(0) as u64);
        self.join_deadline = Time::MAX;
        let (next_report, next_key) = (now.plus_ms(20), Time::ZERO);
        self.sending = Some(Sending { socket, packets, ports, next_report, next_key });
        Ok(())
    }
}

/// Finds a track's ports in what `create` was answered.
fn ports_of(list: &Value, kind: &str, server: SocketAddr) -> Option<Ports> {
    let entry = list.as_array()?.iter().find(|entry| entry["type"] == kind)?;
    let port = |key: &str| {
        let port = u16::try_from(entry[key].as_u64()?).ok().filter(|port| *port != 0)?;
        Some(SocketAddr::new(server.ip(), port))
    };
    Some(Ports { rtp: port("port")?, rtcp: port("rtcp_port") })
}

impl Sending {
    fn send(&mut self, io: &mut Io<'_>) -> Result<()> {
        let ports = self.ports;
        self.packets.poll(io, &mut |io, packet| {
            io.kit.out.push(ports[usize::from(!packet.is_video)].rtp, packet.bytes);
        });
        let now = io.now();
        if now >= self.next_report {
            self.next_report = now.plus_ms(REPORT_MS);
            for (line, ports) in self.ports.iter().enumerate() {
                let report = sender_reports(&self.packets, line..line + 1, io);
                if let Some(to) = ports.rtcp.filter(|_| !report.is_empty()) {
                    io.kit.out.push(to, &report);
                }
            }
        }
        if !io.kit.out.is_empty() {
            self.socket.send(&mut io.kit.out)?;
        }
        Ok(())
    }

    /// Janus asks for a key frame when a viewer has joined.
    fn hear(&mut self, io: &mut Io<'_>) -> Result<()> {
        loop {
            let more = match io.kit.receiver.recv(&self.socket) {
                Ok(more) => more,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => true,
                Err(error) => return Err(error.into()),
            };
            let now = io.kit.clock.now();
            let mut key_wanted = false;
            for (datagram, _) in io.kit.receiver.datagrams() {
                let _ = rtcp::parse(datagram, |event| {
                    key_wanted |= matches!(event, rtcp::Event::Pli { .. } | rtcp::Event::Fir { .. });
                });
            }
            if key_wanted && now >= self.next_key {
                self.next_key = now.plus_ms(KEY_FRAME_MS);
                self.packets.skip_to_key_frame();
            }
            if !more {
                return Ok(());
            }
        }
    }
}

impl Client for Publisher {
    fn ready(&mut self, source: usize, io: &mut Io<'_>) -> Result<()> {
        match (source, &mut self.sending) {
            (UDP, Some(sending)) => sending.hear(io),
            (API, Some(_)) => self.session.ready(io).map(drop),
            (API, None) => match self.session.ready(io)? {
                Some(created) => self.begin(&created, io),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn timeout(&mut self, io: &mut Io<'_>) -> Result<()> {
        ensure!(io.now() < self.join_deadline, "no mount point within {} ms", io.kit.join_ms);
        self.session.handle_timeout(io)?;
        self.sending.as_mut().map_or(Ok(()), |sending| sending.send(io))
    }

    fn due(&self) -> Time {
        let sending = self.sending.as_ref().map(|sending| sending.packets.due().min(sending.next_report));
        sending.unwrap_or(Time::MAX).min(self.session.due()).min(self.join_deadline)
    }

    fn leave(&mut self, _io: &mut Io<'_>) -> Option<Exchange> {
        self.sending.as_ref()?;
        self.session.goodbye(Some(json!({"request": "destroy", "id": mount_point(self.stream)})))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_by_kind() {
        let list = json!([
            {"type": "video", "mid": "video", "port": 10_000, "rtcp_port": 10_001},
            {"type": "audio", "mid": "audio", "port": 10_002},
            {"type": "data", "port": 70_000},
        ]);
        let server: SocketAddr = "127.0.0.1:8088".parse().unwrap();
        let video = ports_of(&list, "video", server).unwrap();
        assert_eq!(video.rtp, "127.0.0.1:10000".parse().unwrap());
        assert_eq!(video.rtcp, Some("127.0.0.1:10001".parse().unwrap()));
        assert_eq!(ports_of(&list, "audio", server).unwrap().rtcp, None);
        assert_eq!(ports_of(&list, "data", server), None);
        assert_eq!(ports_of(&Value::Null, "video", server), None);
    }
}
