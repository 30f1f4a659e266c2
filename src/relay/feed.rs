//! An RTMP publisher's stream for one peer: one more reader of the frame log, whose frames are cut into packets. H.264 is cut as for WebRTC, with its DTS
//! offset beside it; an AAC frame is one packet as it is.

use std::sync::Arc;

use bytes::Bytes;
use media::payload::{self, RtpPayload};
use media::{Frame, Kind, Packet, Temporal, TrackConfig};
use sfu::StreamId;
use tokio::sync::mpsc;

use super::link::FromLink;
use crate::stream::Stream;
use crate::stream::log::Read;

/// A frame in packets.
#[derive(Debug)]
pub struct Cut {
    /// Its track's configuration.
    pub config: Arc<TrackConfig>,
    /// In the feed's own numbers; their time is presentation time, and so is their capture.
    pub packets: Vec<Packet>,
    /// Presentation minus decode time, in ticks.
    pub dts_offset: u32,
    /// It was there before the peer subscribed.
    pub past: bool,
}

/// Runs until it is aborted or the log ends.
pub async fn run(stream: Arc<Stream>, link: usize, id: StreamId, hub: mpsc::Sender<FromLink>) {
    let mut reader = stream.log.prompt_reader();
    let (mut seqs, mut payloads) = ([0, 0], Vec::new());
    loop {
        let past = reader.is_catching_up();
        let Read::Entries(entries) = reader.next().await else { return };
        for entry in entries {
            // Sound that is past would hold the pictures up.
            if past && entry.frame.kind() == Kind::Audio {
                continue;
            }
            let cut = cut(&entry.frame, past, &mut seqs, &mut payloads);
            if hub.send(FromLink::Fed(link, id, cut)).await.is_err() {
                return;
            }
        }
    }
}

fn cut(frame: &Frame, past: bool, seqs: &mut [u64; 2], payloads: &mut Vec<RtpPayload>) -> Cut {
    let codec = frame.config.codec();
    match frame.kind() {
        Kind::Video => payload::h264::packetize(frame, payload::PAYLOAD_LEN_MAX, payloads),
        Kind::Audio => {
            payloads.push(RtpPayload { bytes: frame.data.clone(), marker: true, key_start: true });
        }
    }
    let seq = &mut seqs[frame.kind() as usize];
    let packets = payloads.drain(..).map(|one| {
        *seq += 1;
        Packet {
            seq: *seq,
            timestamp: frame.pts.ticks(codec.clock_hz()),
            arrival: frame.pts,
            capture: frame.pts,
            codec,
            marker: one.marker,
            key_start: one.key_start,
            discardable: frame.discardable,
            temporal: Temporal::default(),
            descriptor: Bytes::new(),
            fresh_source: false,
            payload: one.bytes,
        }
    });
    let dts_offset = media::Time(frame.pts.since(frame.dts)).ticks(codec.clock_hz());
    Cut {
        packets: packets.collect(),
        config: frame.config.clone(),
        dts_offset: u32::try_from(dts_offset).unwrap_or(0),
        past,
    }
}
