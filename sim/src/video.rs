//! A model encoder: numbered frames with the structure of real H.264 (or VP8), sizes around a bit rate, and in each frame a tag that says which
//! it is, what it refers to and when it was captured.

use std::sync::{Arc, LazyLock};

use bytes::{BufMut, Bytes, BytesMut};
use link::Random;
use media::payload::{self, RtpPayload};
use media::{Codec, Frame, Time, TrackConfig, VideoConfig};

/// Baseline, 1080p.
const SPS_LARGE: &[u8] = &[
    0x67, 0x42, 0xc0, 0x28, 0xd9, 0x00, 0x78, 0x02, 0x27, 0xe5, 0xc0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04,
    0x00, 0x00, 0x03, 0x00, 0xc8, 0x3c, 0x60, 0xc9, 0x20,
];
const PPS_LARGE: &[u8] = &[0x68, 0xcb, 0x83, 0xcb, 0x20];
/// Main, 176x144.
const SPS_SMALL: &[u8] = &[
    0x67, 0x4d, 0x40, 0x0b, 0xec, 0xc1, 0x62, 0x76, 0x02, 0x20, 0x00, 0x00, 0x03, 0x00, 0x20, 0x00, 0x00,
    0x07, 0x81, 0xe2, 0x85, 0x33, 0x40,
];
const PPS_SMALL: &[u8] = &[0x68, 0xe9, 0x78, 0x19, 0x4b, 0x20];

/// Baseline, 320x180, 640x360 and 1280x720, as simulcast has them.
const SPS_180: &[u8] = &[0x67, 0x42, 0xc0, 0x1f, 0xda, 0x05, 0x06, 0x7e, 0x74];
const SPS_360: &[u8] = &[0x67, 0x42, 0xc0, 0x1f, 0xda, 0x02, 0x80, 0xbf, 0xe5, 0x40];
const SPS_720: &[u8] = &[0x67, 0x42, 0xc0, 0x1f, 0xda, 0x01, 0x40, 0x16, 0xe4];

/// By picture, VP8 aside.
static CONFIGS: LazyLock<[Arc<TrackConfig>; 5]> = LazyLock::new(|| {
    let of_simulcast = [SPS_180, SPS_360, SPS_720].map(|sps| (sps, PPS_LARGE));
    let [low, middle, high] = of_simulcast;
    [(SPS_LARGE, PPS_LARGE), (SPS_SMALL, PPS_SMALL), low, middle, high].map(|(sps, pps)| {
        let config = VideoConfig::from_parameter_sets(Bytes::from_static(sps), Bytes::from_static(pps));
        Arc::new(TrackConfig::H264(config.expect("parameter sets of real encoders")))
    })
});

/// Bytes of a tag, coded so that no start code is emulated: four bits a byte.
const TAG_LEN: usize = 2 * (4 + 4 + 4 + 8);
/// What a tag begins with behind the slice's first bytes.
const TAG_MARK: u8 = 0xA7;

/// Which frame this is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FrameId {
    /// Whose: each encoder has a number of its own.
    pub encoder: u32,
    /// The how-manieth of it.
    pub number: u32,
}

/// What every frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// Which frame.
    pub id: FrameId,
    /// The frame that it refers to; itself for a key frame.
    pub refers_to: u32,
    /// When it was captured.
    pub capture: Time,
}

impl Tag {
    /// Whether it refers to no other.
    pub fn is_key(&self) -> bool {
        self.refers_to == self.id.number
    }

    fn put(&self, out: &mut BytesMut) {
        let words = [self.id.encoder, self.id.number, self.refers_to].map(u32::to_be_bytes);
        let bytes = words.concat().into_iter().chain(self.capture.us().to_be_bytes());
        out.put_u8(TAG_MARK);
        for byte in bytes {
            out.put_slice(&[0x40 | byte >> 4, 0x40 | byte & 15]);
        }
    }

    /// Reads the tag at the start of a frame's first slice.
    pub fn read(codec: Codec, payload: &[u8]) -> Option<Tag> {
        let header_len = match (codec, payload.first()? & 0x1f) {
            (Codec::Vp8, _) => payload::vp8::Descriptor::parse(payload)?.len + 1,
            (_, payload::h264::FU_A) => 3,
            _ => 2,
        };
        let (mark, rest) = payload.get(header_len..)?.split_first()?;
        let coded = rest.get(..TAG_LEN).filter(|_| *mark == TAG_MARK)?;
        let bytes: Vec<u8> = coded.chunks(2).map(|pair| (pair[0] & 15) << 4 | pair[1] & 15).collect();
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let capture = u64::from(word(12)) << 32 | u64::from(word(16));
        Some(Tag {
            id: FrameId { encoder: word(0), number: word(4) },
            refers_to: word(8),
            capture: Time(capture as i64),
        })
    }
}

/// What is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Picture {
    /// H.264 in 1080p.
    Large,
    /// H.264 in 176x144: other parameter sets.
    Small,
    /// H.264 in 320x180.
    P180,
    /// H.264 in 640x360.
    P360,
    /// H.264 in 1280x720.
    P720,
    /// VP8.
    Vp8,
    /// VP8 in three temporal layers.
    Vp8Layers,
}

/// How it is encoded.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Codec and size.
    pub picture: Picture,
    /// The mean over a GOP.
    pub bitrate_bps: u64,
    /// Frames a second.
    pub fps: u32,
    /// A key frame each so many frames; 0: only when asked.
    pub gop: u32,
    /// Every second frame is one that no other refers to, of two thirds of the others' size: as x264 makes them with three B-frames, of which
    /// it refers to one. They are 40 % of the bytes between key frames.
    pub unreferenced: bool,
}

impl Default for Settings {
    /// What a browser sends: 2 Mbit/s, 30 fps, key frames when asked.
    fn default() -> Settings {
        Settings { picture: Picture::Large, bitrate_bps: 2_000_000, fps: 30, gop: 0, unreferenced: false }
    }
}

/// A frame, cut into payloads.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Which, and when.
    pub tag: Tag,
    /// Codec of the payloads.
    pub codec: Codec,
    /// No other frame refers to it.
    pub discardable: bool,
    /// In order.
    pub payloads: Vec<RtpPayload>,
}

/// Makes frames.
#[derive(Debug)]
pub struct Encoder {
    /// May be changed between frames; another picture begins with a key frame.
    pub settings: Settings,
    id: u32,
    next: u32,
    referred: u32,
    picture: Option<Picture>,
    since_key: u32,
    /// Frames of the base layer, and the last of the one above it.
    base_frames: u8,
    middle: u32,
    /// Bytes that key frames took beyond their share: later frames are smaller until they are paid back.
    debt: i64,
    random: Random,
}

impl Encoder {
    /// Number `id` is its frames' for good.
    pub fn new(id: u32, settings: Settings, seed: u64) -> Encoder {
        Encoder {
            settings,
            id,
            next: 0,
            referred: 0,
            picture: None,
            since_key: 0,
            base_frames: 0,
            middle: 0,
            debt: 0,
            random: Random(seed),
        }
    }

    /// From one frame to the next, in microseconds.
    pub fn interval_us(&self) -> i64 {
        1_000_000 / i64::from(self.settings.fps)
    }

    /// The next frame; a key frame when asked for, or when one is due.
    pub fn frame(&mut self, key: bool, capture: Time) -> Encoded {
        let Settings { picture, gop, .. } = self.settings;
        let key = key || self.picture != Some(picture) || (gop > 0 && self.since_key >= gop);
        self.picture = Some(picture);
        self.since_key = if key { 1 } else { self.since_key + 1 };
        let number = self.next;
        self.next += 1;
        let layer = match (picture, (self.since_key - 1) % 4) {
            (Picture::Vp8Layers, at @ 1..) => Some(if at == 2 { Layer::Middle } else { Layer::Upper }),
            _ => None,
        };
        let discardable = match layer {
            Some(layer) => layer == Layer::Upper,
            None => !key && self.settings.unreferenced && self.since_key.is_multiple_of(2),
        };
        // The upper frame behind a middle one refers to it, all others to the base.
        let behind_middle = layer == Some(Layer::Upper) && self.middle > self.referred;
        let refers_to =
            if key { number } else { self.referred.max(if behind_middle { self.middle } else { 0 }) };
        match layer {
            Some(Layer::Middle) => self.middle = number,
            None if !discardable => {
                self.referred = number;
                self.base_frames = self.base_frames.wrapping_add(1);
            }
            _ => {}
        }
        let tag = Tag { id: FrameId { encoder: self.id, number }, refers_to, capture };
        let len = self.len(key) * self.share_percent(key, discardable) / 100;
        self.debt = (self.debt + len as i64 - self.mean() as i64).max(0);
        let payloads = match picture {
            Picture::Vp8 => vp8(&tag, key, len, None),
            Picture::Vp8Layers => {
                let byte = match layer {
                    None => 0,
                    Some(Layer::Middle) => 1 << 6 | 0x20,
                    Some(Layer::Upper) => 2 << 6 | if behind_middle { 0 } else { 0x20 },
                };
                vp8(&tag, key, len, Some((discardable, self.base_frames, byte)))
            }
            _ => h264(&tag, key, discardable, &CONFIGS[picture as usize], len),
        };
        let codec = match picture {
            Picture::Vp8 | Picture::Vp8Layers => Codec::Vp8,
            _ => Codec::H264,
        };
        Encoded { tag, codec, discardable, payloads }
    }

    /// Key frames are 5 to 8 times the mean, others 0.7 to 1.3 times, a quarter less while in debt.
    fn len(&mut self, key: bool) -> usize {
        let mean = self.mean();
        let len = match (key, self.debt > 0) {
            (true, _) => mean * (500 + self.random.below(300)) / 100,
            (false, false) => mean * (70 + self.random.below(61)) / 100,
            (false, true) => mean * (53 + self.random.below(45)) / 100,
        };
        (len as usize).max(100)
    }

    fn mean(&self) -> u64 {
        self.settings.bitrate_bps / 8 / u64::from(self.settings.fps)
    }

    fn share_percent(&self, key: bool, discardable: bool) -> usize {
        match (self.settings.unreferenced && !key, discardable) {
            (false, _) => 100,
            (true, false) => 120,
            (true, true) => 80,
        }
    }
}

fn filled(mut nal: BytesMut, len: usize) -> BytesMut {
    nal.resize(len.max(nal.len()), 0x55);
    nal
}

/// One slice a frame, as browsers make them, cut by the packetizer of the node.
fn h264(tag: &Tag, key: bool, discardable: bool, config: &Arc<TrackConfig>, len: usize) -> Vec<RtpPayload> {
    let mut nal = BytesMut::new();
    // first_mb_in_slice 0; slice types I, P and B
    nal.put_slice(match (key, discardable) {
        (true, _) => &[0x65, 0x88],
        (false, false) => &[0x41, 0x9a],
        (false, true) => &[0x01, 0x9e],
    });
    tag.put(&mut nal);
    let nal = filled(nal, len);
    let mut data = BytesMut::with_capacity(nal.len() + 4);
    data.put_u32(nal.len() as u32);
    data.put_slice(&nal);
    let config = config.clone();
    let frame = Frame { config, dts: tag.capture, pts: tag.capture, key, discardable, data: data.freeze() };
    let mut payloads = Vec::new();
    payload::h264::packetize(&frame, payload::PAYLOAD_LEN_MAX, &mut payloads);
    payloads
}

/// A temporal layer above the base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layer {
    Middle,
    Upper,
}

/// RFC 7741 with the descriptor of one byte, or that of layers: whether another frame refers to it, TL0PICIDX, and the byte of TID and Y.
fn vp8(tag: &Tag, key: bool, len: usize, layers: Option<(bool, u8, u8)>) -> Vec<RtpPayload> {
    let mut frame = BytesMut::new();
    frame.put_u8(u8::from(!key));
    tag.put(&mut frame);
    let frame = filled(frame, len);
    let pieces = frame.chunks(payload::PAYLOAD_LEN_MAX - if layers.is_some() { 6 } else { 1 });
    let last = pieces.len() - 1;
    let payload = |(index, piece): (usize, &[u8])| {
        let first = if index == 0 { 0x10 } else { 0 };
        let descriptor = match layers {
            None => vec![first],
            Some((unreferenced, base_frames, layer)) => {
                let [.., high, low] = tag.id.number.to_be_bytes();
                vec![0x80 | first | u8::from(unreferenced) << 5, 0xe0, high | 0x80, low, base_frames, layer]
            }
        };
        RtpPayload {
            bytes: [&descriptor, piece].concat().into(),
            marker: index == last,
            key_start: key && index == 0,
        }
    };
    pieces.enumerate().map(payload).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_the_node_takes_them_for() {
        use Picture::{Large, P180, P360, P720, Small, Vp8, Vp8Layers};
        for picture in [Large, Small, P180, P360, P720, Vp8, Vp8Layers] {
            let unreferenced = !matches!(picture, Vp8 | Vp8Layers);
            let settings = Settings { picture, unreferenced, ..Settings::default() };
            let mut encoder = Encoder::new(7, settings, 1);
            for number in 0..10_u32 {
                let capture = Time::from_ms(i64::from(number) * 33);
                let frame = encoder.frame(number == 6, capture);
                assert_eq!(frame.tag.is_key(), [0, 6].contains(&number));
                let starts = frame.payloads.iter().filter(|p| payload::key_start(frame.codec, &p.bytes));
                let expect = match (frame.tag.is_key(), picture) {
                    (false, _) => 0,
                    (true, Picture::Vp8 | Picture::Vp8Layers) => 1,
                    (true, _) => 2,
                };
                assert_eq!(starts.count(), expect, "parameter sets and the first slice");
                let height = frame.payloads.iter().find_map(|p| payload::size(frame.codec, &p.bytes));
                let expect = match picture {
                    Large => Some(1_080),
                    Small => Some(144),
                    P180 => Some(180),
                    P360 => Some(360),
                    P720 => Some(720),
                    Vp8 | Vp8Layers => None,
                };
                assert_eq!(height.map(|(_, height)| height), expect.filter(|_| frame.tag.is_key()));
                let slice = frame.payloads.iter().find_map(|p| Tag::read(frame.codec, &p.bytes));
                assert_eq!(slice, Some(frame.tag));
                assert_eq!(frame.payloads.iter().filter(|p| p.marker).count(), 1);
                let discardable = frame.payloads.iter().any(|p| payload::discardable(frame.codec, &p.bytes));
                assert_eq!(discardable, frame.discardable, "{picture:?} {number}");
            }
        }
    }

    #[test]
    fn the_bit_rate_is_held_with_key_frames() {
        let mut encoder = Encoder::new(1, Settings { gop: 120, ..Settings::default() }, 3);
        let bytes: usize = (0..600)
            .flat_map(|n| encoder.frame(false, Time::from_ms(n * 33)).payloads)
            .map(|p| p.bytes.len())
            .sum();
        let rate = bytes * 8 / 20;
        assert!((1_850_000..2_150_000).contains(&rate), "{rate}");
    }
}
