//! One WHIP publisher (RFC 9725): offer and answer by HTTP, then the clip as SRTP.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use media::Time;
use rtc::Input;
use rtc::rtcp;
use rtc::rtp::HEADER_LEN_MIN;
use rtc::sdp::Direction;
use rtc::srtp::TAG_LEN_MAX;

use super::rtp_publish::{KEY_FRAME_MS, Packets, REPORT_MS, sender_reports};
use super::rtp_watch::{Transport, pusher};
use super::whep::Signalling;
use super::{Client, Io};
use crate::load::http::Exchange;
use crate::load::plan::Seat;
use crate::load::target::Url;

/// A publisher.
pub struct Publisher {
    signalling: Signalling,
    session: Option<Url>,
    transport: Option<Transport>,
    packets: Option<Packets>,
    media: usize,
    stream: u32,
    ssrcs: [u32; 3],
    next_report: Time,
    next_key: Time,
    join_deadline: Time,
}

impl Publisher {
    /// POSTs the offer.
    pub fn start(seat: &Seat, media: usize, io: &mut Io<'_>) -> Result<Publisher> {
        // Never 0, and never alike: each is drawn with a bit that only it has.
        let ssrcs = [1, 2, 4].map(|bit| (io.kit.random() as u32 & !7) | bit);
        Ok(Publisher {
            signalling: Signalling::start(seat, Direction::SendOnly, ssrcs, io)?,
            session: None,
            transport: None,
            packets: None,
            media,
            stream: seat.stream,
            ssrcs,
            next_report: Time::MAX,
            next_key: Time::ZERO,
            join_deadline: io.join_deadline(),
        })
    }

    fn read(&mut self, io: &mut Io<'_>) -> Result<()> {
        let Some(transport) = &mut self.transport else { return Ok(()) };
        loop {
            let more = match io.kit.receiver.recv(&transport.socket) {
                Ok(more) => more,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => true,
                Err(error) => return Err(error.into()),
            };
            let now = io.kit.clock.now();
            let mut key_wanted = false;
            for (datagram, _) in io.kit.receiver.datagrams() {
                match transport.client.handle_datagram(datagram, now, &mut pusher(&mut io.kit.out)) {
                    Ok(Input::Rtcp(compound)) => {
                        let _ = rtcp::parse(&compound, |event| {
                            key_wanted |= matches!(event, rtcp::Event::Pli { .. } | rtcp::Event::Fir { .. });
                        });
                    }
                    Ok(Input::Closed(reason)) => bail!("the session is over: {reason:?}"),
                    Ok(Input::Connected) => {
                        io.meter.connected(now.us().max(0) as u64);
                        let [audio, video, _] = self.ssrcs;
                        let clip = Arc::clone(&io.kit.clips[self.media]);
                        self.packets = Some(Packets::new(clip, self.stream, [video, audio], now));
                        (self.next_report, self.join_deadline) = (now.plus_ms(20), Time::MAX);
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            if key_wanted && now >= self.next_key {
                self.next_key = now.plus_ms(KEY_FRAME_MS);
                if let Some(packets) = &mut self.packets {
                    packets.skip_to_key_frame();
                }
            }
            transport.flush(io)?;
            if !more {
                return Ok(());
            }
        }
    }

    fn report(&mut self, io: &mut Io<'_>) {
        let (Some(packets), Some(transport)) = (&self.packets, &mut self.transport) else { return };
        let now = io.now();
        self.next_report = now.plus_ms(REPORT_MS);
        let compound = sender_reports(packets, 0..packets.lines.len(), io);
        if !compound.is_empty() {
            let _ = transport.client.send_rtcp(&compound, &mut pusher(&mut io.kit.out));
        }
    }
}

impl Client for Publisher {
    fn ready(&mut self, _source: usize, io: &mut Io<'_>) -> Result<()> {
        if self.transport.is_some() {
            return self.read(io);
        }
        if let Some((mut transport, session)) = self.signalling.ready(io)? {
            transport.handle_timeout(io)?;
            (self.transport, self.session) = (Some(transport), session);
        }
        Ok(())
    }

    fn timeout(&mut self, io: &mut Io<'_>) -> Result<()> {
        ensure!(io.now() < self.join_deadline, "not connected within {} ms", io.kit.join_ms);
        let Some(transport) = &mut self.transport else { return Ok(()) };
        transport.handle_timeout(io)?;
        if let Some(packets) = &mut self.packets {
            let (server, client) = (transport.server, &mut transport.client);
            packets.poll(io, &mut |io, packet| {
                let len = packet.bytes.len();
                if let Some(room) = io.kit.out.reserve(len + TAG_LEN_MAX) {
                    room[..len].copy_from_slice(packet.bytes);
                    if let Ok(len) = client.protect_rtp(room, len, HEADER_LEN_MIN, packet.roc) {
                        io.kit.out.commit(len, server);
                    }
                }
            });
        }
        if io.now() >= self.next_report {
            self.report(io);
        }
        self.transport.as_ref().map_or(Ok(()), |transport| transport.flush(io))
    }

    fn due(&self) -> Time {
        let transport =
            self.transport.as_ref().map_or(Time::MAX, |transport| transport.client.next_timeout());
        let packets = self.packets.as_ref().map_or(Time::MAX, Packets::due);
        transport.min(packets).min(self.next_report).min(self.join_deadline)
    }

    fn leave(&mut self, io: &mut Io<'_>) -> Option<Exchange> {
        if let Some(transport) = &mut self.transport {
            transport.close(io);
        }
        self.session.take().and_then(|session| self.signalling.goodbye(&session))
    }
}
