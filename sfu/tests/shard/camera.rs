//! What publishers send: frames of a codec, cut into packets, each payload unlike all others.

use std::sync::Arc;

use bytes::Bytes;
use media::{Codec, Kind, Packet, Temporal, Time};
use rtc::sdp::{NegotiatedCodec, NegotiatedMedia};

/// One RTP packet before protection. `seq` does not wrap: its upper bits are the rollover counter.
#[derive(Clone, Debug)]
pub struct Rtp {
    pub ssrc: u32,
    pub payload_type: u8,
    pub seq: u64,
    pub timestamp: u32,
    pub marker: bool,
    /// A header extension that says the encoding.
    pub rid: Option<(u8, &'static str)>,
    /// Its dependency descriptor.
    pub descriptor: Option<(u8, Vec<u8>)>,
    pub payload: Vec<u8>,
}

/// A camera: numbers, time and frames.
#[derive(Clone, Debug)]
pub struct Video {
    pub codec: Codec,
    pub ssrc: u32,
    pub payload_type: u8,
    pub seq: u64,
    pub timestamp: u32,
    pub packets_per_frame: usize,
    /// Key frames of VP8 say it, and every packet its picture id; 0: they do not.
    pub height: u16,
    /// The next frame's picture id.
    pub picture_id: u16,
    /// Frames are of three temporal layers, where VP8 says its picture ids.
    pub layered: bool,
    /// Frames since the key frame, and of the base layer.
    pub since_key: u64,
    pub tl0: u8,
    pub rid: Option<(u8, &'static str)>,
}

/// 30 frames a second at 90 kHz.
pub const FRAME_TICKS: u32 = 3_000;
pub const FRAME_MS: i64 = 33;

impl Video {
    pub fn vp8(ssrc: u32, seq: u64) -> Video {
        let (payload_type, timestamp, packets_per_frame) = (96, 1_000, 3);
        Video {
            codec: Codec::Vp8,
            ssrc,
            payload_type,
            seq,
            timestamp,
            packets_per_frame,
            height: 0,
            picture_id: 0,
            layered: false,
            since_key: 0,
            tl0: 0,
            rid: None,
        }
    }

    pub fn h264(ssrc: u32, seq: u64) -> Video {
        Video { codec: Codec::H264, payload_type: 102, ..Video::vp8(ssrc, seq) }
    }

    /// Layer of the next frame, and whether it refers to the base layer only: as libvpx orders three layers.
    pub fn temporal(&self) -> (u8, bool) {
        match (self.layered, self.since_key % 8) {
            (false, _) => (0, true),
            (true, 0 | 4) => (0, false),
            (true, n @ (2 | 6)) => (1, n == 2),
            (true, n) => (2, n == 1),
        }
    }

    /// The next frame's packets. A key frame of H.264 begins with its parameter sets in a packet of their own.
    pub fn frame(&mut self, key: bool) -> Vec<Rtp> {
        let mut heads = Vec::new();
        self.since_key = if key { 0 } else { self.since_key + 1 };
        let (tid, sync) = self.temporal();
        self.tl0 =
            if self.layered { self.tl0.wrapping_add(u8::from(tid == 0)) } else { self.picture_id as u8 };
        if key && self.codec == Codec::H264 {
            heads.push(vec![0x78, 0, 4, 0x67, 0x42, 0xe0, 0x1f, 0, 2, 0x68, 0xce]);
        }
        for index in 0..self.packets_per_frame {
            heads.push(match (self.codec, key, index) {
                (Codec::Vp8, key, index) if self.height > 0 => {
                    let [low, high] = self.height.to_le_bytes();
                    let [id_high, id_low] = self.picture_id.to_be_bytes();
                    // Nothing refers to frames of the uppermost layer.
                    let first = if index == 0 { 0x90 } else { 0x80 } | if tid == 2 { 0x20 } else { 0 };
                    let layer = tid << 6 | if sync { 0x20 } else { 0 };
                    let mut head = vec![first, 0xe0, id_high | 0x80, id_low, self.tl0, layer];
                    match (key, index) {
                        (true, 0) => head.extend([0, 0, 0, 0x9d, 0x01, 0x2a, 0x40, 0x01, low, high]),
                        (false, 0) => head.push(1),
                        _ => {}
                    }
                    head
                }
                // I P L F B E V Z, picture id, TID U SID D, TL0PICIDX.
                (Codec::Vp9, key, index) => {
                    let [id_high, id_low] = self.picture_id.to_be_bytes();
                    let begins = if index == 0 { 0x08 } else { 0 } | if key { 0 } else { 0x40 };
                    vec![0xa0 | begins, id_high | 0x80, id_low, tid << 5, self.tl0]
                }
                // Z Y W W N: an OBU begins, a coded video sequence begins, an OBU goes on.
                (Codec::Av1, key, 0) => vec![if key { 0x18 } else { 0x10 }, 0x30],
                (Codec::Av1, ..) => vec![0x90],
                (Codec::Vp8, true, 0) => vec![0x10, 0x00],
                (Codec::Vp8, false, 0) => vec![0x10, 0x01],
                (Codec::Vp8, ..) => vec![0x00],
                // FU-A: first slice bit set; a single frame may have one packet only
                (_, _, index) => {
                    let start = if index == 0 { 0x80 } else { 0 };
                    vec![0x7c, start | if key { 5 } else { 1 }, if index == 0 { 0x9a } else { 0x11 }]
                }
            });
        }
        let count = heads.len();
        let timestamp = self.timestamp;
        self.timestamp = self.timestamp.wrapping_add(FRAME_TICKS);
        let packets = heads.into_iter().enumerate().map(|(index, mut payload)| {
            payload.extend(self.ssrc.to_be_bytes());
            payload.extend((self.seq + index as u64).to_be_bytes());
            let told = payload.len();
            payload.resize(told + 200, index as u8);
            payload[told..told + 4].copy_from_slice(&timestamp.to_be_bytes());
            Rtp {
                ssrc: self.ssrc,
                payload_type: self.payload_type,
                seq: self.seq + index as u64,
                timestamp,
                marker: index + 1 == count,
                rid: self.rid,
                descriptor: None,
                payload,
            }
        });
        let packets = packets.collect();
        self.picture_id = self.picture_id.wrapping_add(1) & 0x7fff;
        self.seq += count as u64;
        packets
    }
}

/// A microphone: 20 ms of Opus a packet.
#[derive(Clone, Debug)]
pub struct Audio {
    pub ssrc: u32,
    pub seq: u64,
    pub timestamp: u32,
}

impl Audio {
    pub fn packet(&mut self) -> Rtp {
        let mut payload = vec![0xfc];
        payload.extend(self.seq.to_be_bytes());
        let packet = Rtp {
            ssrc: self.ssrc,
            payload_type: 111,
            seq: self.seq,
            timestamp: self.timestamp,
            marker: false,
            rid: None,
            descriptor: None,
            payload,
        };
        self.seq += 1;
        self.timestamp = self.timestamp.wrapping_add(960);
        packet
    }
}

/// A frame as the control plane's packetizer mails it; `time` is its presentation time and, moved by `skew_us`, its capture time.
pub fn external(frame: Vec<Rtp>, codec: Codec, time: Time, skew_us: i64) -> Arc<[Packet]> {
    let packets = frame.into_iter().map(|p| Packet {
        seq: p.seq,
        timestamp: time.ticks(codec.clock_hz()),
        arrival: time,
        capture: time.plus_us(skew_us),
        codec,
        marker: p.marker,
        key_start: codec.kind() == Kind::Audio || media::payload::key_start(codec, &p.payload),
        discardable: false,
        temporal: Temporal::default(),
        descriptor: Bytes::new(),
        fresh_source: false,
        payload: Bytes::from(p.payload),
    });
    packets.collect()
}

/// What SDP agreed on: VP8 as 96, H.264 as 102, Opus as 111, RTX of VP8 as 97 and of H.264 as 103.
pub fn negotiated(video: &[Codec], rtx: bool) -> Vec<NegotiatedMedia> {
    let codec = |codec: Codec, pt: u8, rtx_pt: Option<u8>| NegotiatedCodec {
        pt,
        codec,
        fmtp: String::new(),
        profile_level_id: None,
        packetization_mode: u8::from(codec == Codec::H264),
        rtx_pt,
        nack: true,
        pli: true,
        fir: true,
    };
    let section = |index: usize, kind: Kind, codecs: Vec<NegotiatedCodec>| NegotiatedMedia {
        index,
        mid: index.to_string(),
        kind,
        codecs,
        mid_ext_id: None,
        twcc_ext_id: None,
        remb: false,
        abs_send_time_ext_id: None,
        dependency_ext_id: None,
        rids: Vec::new(),
        rid_ext_id: None,
        repaired_rid_ext_id: None,
        ssrcs: Vec::new(),
        rtx_of: Vec::new(),
        rtcp_rsize: true,
    };
    let video = video.iter().map(|c| match c {
        Codec::H264 => codec(*c, 102, rtx.then_some(103)),
        _ => codec(*c, 96, rtx.then_some(97)),
    });
    vec![
        section(0, Kind::Audio, vec![codec(Codec::Opus, 111, None)]),
        section(1, Kind::Video, video.collect()),
    ]
}
