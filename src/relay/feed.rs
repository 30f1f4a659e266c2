//! An RTMP publisher's stream for one peer: one more reader of the frame log, whose frames are cut into packets. H.264 is cut as for WebRTC, with its DTS
//! offset beside it; an AAC frame is cut into pieces as it is, and nearly always is one.

use std::sync::Arc;
use std::time::Duration;

use media::payload::{self, RtpPayload};
use media::{Frame, Kind, Packet, TrackConfig};
use sfu::StreamId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::link::FromLink;
use crate::stream::Stream;
use crate::stream::log::Read;

/// The GOP that is there goes so many times faster than it came, for it is nobody's live picture...
const CATCH_UP: f64 = 2.0;
/// ...and no slower than this, in bit/s.
const CATCH_UP_BPS_MIN: f64 = 4e6;
/// An AAC frame is 6144 bits a channel at most (ISO/IEC 14496-3 section 4.5.3.1), and channels are 48: what is longer is none.
pub const SOUND_LEN_MAX: usize = 768 * 48;

/// A frame in packets.
#[derive(Debug)]
pub struct Cut {
    /// Its track's configuration.
    pub config: Arc<TrackConfig>,
    /// Without numbers; their time is presentation time, and so is their capture.
    pub packets: Vec<Packet>,
    /// Presentation minus decode time, in ticks.
    pub dts_offset: u32,
}

/// Runs until it is aborted or the log ends. What was there before goes at a pace of its own, in its order, sound and picture; what comes
/// meanwhile waits in the log.
pub async fn run(stream: Arc<Stream>, link: usize, id: (StreamId, u64), hub: mpsc::Sender<FromLink>) {
    let mut reader = stream.log.prompt_reader();
    let mut payloads = Vec::new();
    let mut due = Instant::now();
    loop {
        let past = reader.is_catching_up();
        let Read::Entries(entries) = reader.next().await else { return };
        for entry in entries {
            if past {
                tokio::time::sleep_until(due).await;
                let kbps: f64 = stream.log.rates().1.iter().sum();
                let bps = (kbps * 1_000.0 * CATCH_UP).max(CATCH_UP_BPS_MIN);
                due += Duration::from_secs_f64(entry.frame.data.len() as f64 * 8.0 / bps);
            }
            let cut = cut(&entry.frame, &mut payloads);
            if hub.send(FromLink::Fed(link, id, cut)).await.is_err() {
                return;
            }
        }
    }
}

/// A frame's packets; none for what is no frame of its codec.
pub fn cut(frame: &Frame, payloads: &mut Vec<RtpPayload>) -> Cut {
    let codec = frame.config.codec();
    match frame.kind() {
        Kind::Video => payload::h264::packetize(frame, payload::PAYLOAD_LEN_MAX, payloads),
        Kind::Audio if frame.data.len() > SOUND_LEN_MAX => {}
        Kind::Audio => {
            let mut rest = frame.data.clone();
            while !rest.is_empty() {
                let key_start = rest.len() == frame.data.len();
                let bytes = rest.split_to(rest.len().min(payload::PAYLOAD_LEN_MAX));
                payloads.push(RtpPayload { bytes, marker: rest.is_empty(), key_start });
            }
        }
    }
    let packets = payloads.drain(..).map(|one| one.packet(frame, 0, frame.pts));
    let dts_offset = media::Time(frame.pts.since(frame.dts)).ticks(codec.clock_hz());
    Cut {
        packets: packets.collect(),
        config: frame.config.clone(),
        dts_offset: u32::try_from(dts_offset).unwrap_or(0),
    }
}
