//! Frames of a stream for peers: one more reader of the frame log, whose frames are cut into packets, once for all. H.264 is cut as for WebRTC, with its DTS
//! offset beside it; an AAC frame is cut into pieces as it is, and nearly always is one; an Opus packet is one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::relay::datagram;
use bytes::Bytes;
use media::payload::{self, RtpPayload};
use media::{Codec, Frame, Kind, Packet, Time, TrackConfig};
use sfu::StreamId;
use tokio::sync::mpsc;

use super::Handle;
use super::link::FromLink;
use crate::stream::Stream;
use crate::stream::log::{Entry, Read, Takes};

/// An AAC frame is 6144 bits a channel at most (ISO/IEC 14496-3 section 4.5.3.1), and channels are 48: what is longer is none.
pub const SOUND_LEN_MAX: usize = 768 * 48;

/// Frames for peers.
#[derive(Debug)]
pub struct Fed {
    /// They were there before the feed began.
    pub past: bool,
    /// In order.
    pub cuts: Vec<Cut>,
    /// The publisher says something else of the stream since.
    pub has_metadata: bool,
}

/// A frame in packets.
#[derive(Debug)]
pub struct Cut {
    /// Its track's configuration.
    pub config: Arc<TrackConfig>,
    /// Without numbers; their time is presentation time.
    pub packets: Vec<Packet>,
    /// Presentation minus decode time, in ticks.
    pub dts_offset: u32,
}

/// The payload of a packet that is one datagram of so many bytes; without a link, of any path.
pub fn piece_bytes(datagram_bytes: Option<usize>) -> usize {
    let fits = datagram_bytes.map_or(0, |bytes| bytes.saturating_sub(datagram::HEADER_LEN_USUAL));
    fits.clamp(payload::PAYLOAD_LEN_MAX, datagram::PAYLOAD_LEN_MAX)
}

/// Runs until it is aborted or the log ends: the GOP that is there, and what comes.
pub async fn run(
    stream: Arc<Stream>,
    takes: Takes,
    id: (StreamId, u64),
    hub: mpsc::Sender<FromLink>,
    relay: Arc<Handle>,
) {
    let mut reader = stream.log.prompt_reader(takes);
    let mut payloads = Vec::new();
    // Capture minus decode time of the first frame: one line for sound and pictures, so that they stay together.
    let mut base_us = None;
    // Nothing, whatever is there by now: who began to take the stream before that was told of nothing.
    let mut published = Bytes::new();
    loop {
        let past = reader.is_catching_up();
        let Read::Entries(entries) = reader.next().await else { return };
        let piece_bytes = relay.piece_bytes.load(Ordering::Relaxed);
        // What is made of a stream that comes has its times, as its other tracks have.
        let back_us = if stream.relayed().is_some() { stream.log.offset_us() } else { 0 };
        let mut cut = |entry: &Arc<Entry>| {
            let base_us = *base_us.get_or_insert(entry.captured.since(entry.frame.dts));
            let capture = entry.frame.pts.plus_us(base_us);
            if back_us == 0 {
                return cut(&entry.frame, capture, piece_bytes, &mut payloads);
            }
            let (dts, pts) = (entry.frame.dts.plus_us(-back_us), entry.frame.pts.plus_us(-back_us));
            cut(&Frame { dts, pts, ..entry.frame.clone() }, capture, piece_bytes, &mut payloads)
        };
        let cuts = entries.iter().map(&mut cut).collect();
        let has_metadata = entries.last().is_some_and(|last| !last.is_published_with(&published));
        if let Some(last) = entries.last().filter(|_| has_metadata) {
            published = last.published.clone();
        }
        if hub.send(FromLink::Fed(id, Fed { past, cuts, has_metadata })).await.is_err() {
            return;
        }
    }
}

/// A frame's packets, captured then, of at most so many bytes of payload; none for what is no frame of its codec.
pub fn cut(frame: &Frame, capture: Time, piece_bytes: usize, payloads: &mut Vec<RtpPayload>) -> Cut {
    let codec = frame.config.codec();
    match frame.kind() {
        Kind::Video => payload::h264::pieces(frame, piece_bytes, datagram::FIRST_LESS, payloads),
        Kind::Audio if frame.data.len() > SOUND_LEN_MAX => {}
        Kind::Audio if codec == Codec::Opus => {
            payloads.push(RtpPayload { bytes: frame.data.clone(), marker: false, key_start: true });
        }
        Kind::Audio => {
            let mut rest = frame.data.clone();
            while !rest.is_empty() {
                let key_start = rest.len() == frame.data.len();
                let bytes = rest.split_to(rest.len().min(piece_bytes));
                payloads.push(RtpPayload { bytes, marker: rest.is_empty(), key_start });
            }
        }
    }
    let packets = payloads.drain(..).map(|one| one.packet(frame, 0, capture));
    let dts_offset = Time(frame.pts.since(frame.dts)).ticks(codec.clock_hz());
    Cut {
        packets: packets.collect(),
        config: frame.config.clone(),
        dts_offset: u32::try_from(dts_offset).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_to_what_the_paths_take() {
        assert_eq!(piece_bytes(None), payload::PAYLOAD_LEN_MAX);
        assert_eq!(piece_bytes(Some(1_130)), 1_104);
        assert_eq!(piece_bytes(Some(1_418)), 1_392);
        assert_eq!(piece_bytes(Some(9_000)), datagram::PAYLOAD_LEN_MAX);
        assert_eq!(piece_bytes(Some(700)), payload::PAYLOAD_LEN_MAX, "such a path takes packets in halves");
    }
}
