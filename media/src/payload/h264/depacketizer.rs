//! Packets into frames: RFC 6184 section 5.6 to 5.8, or pieces as they cross links between nodes, and what happens when packets are missing.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::{FU_A, STAP_A};
use crate::h264::{self, FRAME_LEN_MAX, SliceStart, avcc_nals, nal, nal_ref_idc, nal_type};
use crate::{Codec, Packet, Time, TrackConfig, VideoConfig};

/// Most parameter sets of a kind that are kept. Encoders have one to three.
const PARAMETER_SETS_MAX: usize = 32;

/// What a frame's pieces may have beside it.
const PARAMETER_SETS_LEN_MAX: usize = 2 * PARAMETER_SETS_MAX * (4 + h264::PARAMETER_SET_LEN_MAX);

/// Room reserved for the first frame, in bytes; later ones start at the size of the one before.
const FRAME_LEN_FIRST: usize = 16 << 10;

/// Why a packet was refused; its frame is given up. The fault is the peer's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The packet is of another codec.
    #[error("RFC 6184: a packet of {0:?}")]
    Codec(Codec),
    /// The payload ends inside a field.
    #[error("RFC 6184: cut inside {0}")]
    Truncated(&'static str),
    /// A payload type that packetization mode 1 does not have (STAP-B, MTAP, FU-B), or a reserved one.
    #[error("RFC 6184: payload of type {0}, which packetization mode 1 does not have")]
    Kind(u8),
    /// A fragment without its beginning, another NAL unit inside a fragmented one, or fragments of different types.
    #[error("RFC 6184: fragments that do not belong together")]
    Fragment,
    /// A parameter set without a valid id, or more of them than anyone needs.
    #[error("RFC 6184: a parameter set without a valid id, or too many")]
    ParameterSet,
    /// The H.264 inside is wrong, or a frame is too long.
    #[error(transparent)]
    H264(#[from] h264::Error),
}

/// One complete frame.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Extended RTP time, as the packets had it: presentation time at 90 kHz.
    pub timestamp: i64,
    /// Capture time of its first packet.
    pub capture: Time,
    /// The configuration from this frame on, when it is the first one or another than before.
    pub config: Option<Arc<TrackConfig>>,
    /// It has an IDR: a decoder can start here.
    pub key: bool,
    /// No other frame refers to it.
    pub discardable: bool,
    /// AVCC with 4-byte lengths, without parameter sets, AUD and filler.
    pub data: Bytes,
}

/// What a [`Depacketizer`] gave out and dropped.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Frames given out.
    pub units: u64,
    /// Frames dropped because packets were missing or wrong.
    pub broken: u64,
    /// Whole frames dropped because what they refer to was not there: the wait for a key frame.
    pub waiting: u64,
    /// Packets before the last one seen: duplicates, or not in order.
    pub late: u64,
}

/// Builds frames from the packets of one track, given in the order of `seq` (see [`Reorder`](crate::payload::Reorder)). What it gives out can be
/// decoded: no frame with a missing packet, and after a loss none until the next IDR, except when only a frame that no other
/// refers to was hurt.
#[derive(Debug)]
pub struct Depacketizer {
    next_seq: Option<u64>,
    frame: Option<Building>,
    ready: VecDeque<Unit>,
    /// References are missing: only an IDR helps.
    waiting: bool,
    /// Packets are missing right before the next frame, maybe its first ones.
    after_gap: bool,
    /// Parameter sets that came since the last frame.
    pending: Sets,
    /// The sets of the configuration last given out.
    active: Sets,
    frame_len_last: usize,
    /// Packets are pieces of frames as they are.
    of_pieces: bool,
    counts: Counts,
}

/// A frame of which packets are still coming.
#[derive(Debug)]
struct Building {
    timestamp: i64,
    capture: Time,
    /// AVCC; the last NAL unit has length 0 while it is fragmented.
    data: BytesMut,
    /// Where the fragmented NAL unit begins, with its length.
    fragment: Option<usize>,
    /// Of pieces: where the NAL unit begins that is to be looked at next.
    seen: usize,
    after_gap: bool,
    broken: bool,
    slices: bool,
    referenced: bool,
}

impl Default for Depacketizer {
    fn default() -> Depacketizer {
        Depacketizer::new()
    }
}

impl Depacketizer {
    /// Starts without a configuration, waiting for a key frame.
    pub fn new() -> Depacketizer {
        Depacketizer {
            next_seq: None,
            frame: None,
            ready: VecDeque::new(),
            waiting: true,
            after_gap: true,
            pending: Sets::default(),
            active: Sets::default(),
            frame_len_last: FRAME_LEN_FIRST,
            of_pieces: false,
            counts: Counts::default(),
        }
    }

    /// The same of packets that [`super::pieces`] made.
    pub fn of_pieces() -> Depacketizer {
        Depacketizer { of_pieces: true, ..Depacketizer::new() }
    }

    /// Takes the next packet and gives the oldest complete frame. A frame ends with the marker or where the timestamp changes;
    /// when both happen at one packet, the second frame comes with the next push, or from [`poll`](Depacketizer::poll).
    ///
    /// An error says that this packet's frame, or the one that it ended, is given up; the next packet may follow as if nothing
    /// had happened.
    pub fn push(&mut self, packet: &Packet) -> Result<Option<Unit>, Error> {
        if packet.codec != Codec::H264 {
            return Err(Error::Codec(packet.codec));
        }
        if packet.fresh_source {
            self.restart();
        } else if let Some(next) = self.next_seq {
            if packet.seq < next {
                self.counts.late = self.counts.late.saturating_add(1);
                return Ok(self.ready.pop_front());
            }
            if packet.seq > next {
                self.gap(packet.timestamp);
            }
        }
        self.next_seq = Some(packet.seq.saturating_add(1));

        let other = self.frame.as_ref().is_some_and(|frame| frame.timestamp != packet.timestamp);
        // Chrome sends empty payloads (padding) between frames: they end none and begin none.
        let empty = packet.payload.is_empty();
        let ended = if other && !empty { self.finish() } else { Ok(()) };
        let taken = if empty { Ok(()) } else { self.take(packet) };
        let marked = if packet.marker && !(other && empty) { self.finish() } else { Ok(()) };
        ended.and(taken).and(marked)?;
        Ok(self.ready.pop_front())
    }

    /// A complete frame that an earlier [`push`](Depacketizer::push) had no room to give.
    pub fn poll(&mut self) -> Option<Unit> {
        self.ready.pop_front()
    }

    /// Takes a parameter set that came another way, such as SDP's `sprop-parameter-sets` (RFC 6184 section 8.1).
    pub fn parameter_set(&mut self, set: &[u8]) -> Result<(), Error> {
        self.pending.put(set)
    }

    /// Whether nothing comes until the source sends a key frame: time for a PLI. True at the start.
    pub const fn needs_key_frame(&self) -> bool {
        self.waiting
    }

    /// What was given out and dropped so far.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Another source: its frames refer to none of the last one's, and its parameter sets are its own.
    fn restart(&mut self) {
        if self.frame.take().is_some_and(|frame| !frame.data.is_empty()) {
            self.counts.broken = self.counts.broken.saturating_add(1);
        }
        self.pending = Sets::default();
        self.active = Sets::default();
        self.waiting = true;
        self.after_gap = true;
    }

    /// Packets are missing before one with `timestamp`.
    fn gap(&mut self, timestamp: i64) {
        match &mut self.frame {
            // All that is missing is of this picture. H.264 section 7.4.1: nal_ref_idc is 0 in all of its slices or in none.
            Some(frame) if frame.timestamp == timestamp => {
                frame.broken = true;
                self.waiting |= !frame.discardable();
            }
            frame => {
                if let Some(frame) = frame {
                    frame.broken = true;
                }
                self.waiting = true;
                self.after_gap = true;
            }
        }
    }

    /// Puts the packet's NAL units into its frame.
    fn take(&mut self, packet: &Packet) -> Result<(), Error> {
        let frame = self.frame.get_or_insert_with(|| Building {
            timestamp: packet.timestamp,
            capture: packet.capture,
            data: BytesMut::with_capacity(self.frame_len_last),
            fragment: None,
            seen: 0,
            after_gap: std::mem::take(&mut self.after_gap),
            broken: false,
            slices: false,
            referenced: false,
        });
        let payload = &packet.payload[..];
        if self.of_pieces {
            return frame.put_piece(payload);
        }
        if frame.broken {
            frame.referenced |= nal_ref_idc(payload) != 0;
            return Ok(());
        }
        let result = match nal_type(payload) {
            1..=23 => frame.put_nal(payload, &mut self.pending),
            STAP_A => frame.put_stap_a(payload, &mut self.pending),
            FU_A => frame.put_fu_a(payload, &mut self.pending),
            kind => Err(Error::Kind(kind)),
        };
        frame.broken |= result.is_err();
        result
    }

    /// The frame is at its end: give it out or drop it.
    fn finish(&mut self) -> Result<(), Error> {
        let Some(mut frame) = self.frame.take() else { return Ok(()) };
        let joined = if self.of_pieces { frame.join(&mut self.pending) } else { Ok(()) };
        frame.broken |= joined.is_err();
        if frame.broken || frame.fragment.is_some() {
            self.waiting |= !frame.discardable();
            self.counts.broken = self.counts.broken.saturating_add(1);
            return joined;
        }
        if !frame.slices {
            return Ok(()); // parameter sets or SEI alone: the frame is yet to come
        }
        let result = self.give(frame);
        if result.is_err() {
            self.waiting = true;
            self.counts.broken = self.counts.broken.saturating_add(1);
        }
        result
    }

    fn give(&mut self, frame: Building) -> Result<(), Error> {
        self.frame_len_last = frame.data.len().max(1024);
        let unit = h264::access_unit_from_avcc(frame.data.freeze(), 4)?;
        let whole = !frame.after_gap || begins_picture(&unit.data);
        if self.waiting && !(unit.key && whole) {
            self.counts.waiting = self.counts.waiting.saturating_add(1);
            return Ok(());
        }
        let sets = self.active.updated_by(&self.pending);
        if sets.sps.is_empty() || sets.pps.is_empty() {
            // nobody can decode it; a PLI brings parameter sets along with the key frame
            self.waiting = true;
            self.counts.waiting = self.counts.waiting.saturating_add(1);
            return Ok(());
        }
        self.pending = Sets::default();
        let config = if sets == self.active {
            None
        } else {
            let config = VideoConfig::from_parameter_set_lists(&sets.sps, &sets.pps)?;
            self.active = sets;
            Some(Arc::new(TrackConfig::H264(config)))
        };
        self.waiting = false;
        self.counts.units = self.counts.units.saturating_add(1);
        self.ready.push_back(Unit {
            timestamp: frame.timestamp,
            capture: frame.capture,
            config,
            key: unit.key,
            discardable: unit.discardable,
            data: unit.data,
        });
        Ok(())
    }
}

/// Whether the first slice is a picture's first (first_mb_in_slice 0).
fn begins_picture(avcc: &[u8]) -> bool {
    let first = avcc_nals(avcc, 4).map_while(Result::ok).find(|nal| nal::is_picture(nal_type(nal)));
    first.and_then(SliceStart::parse).is_some_and(|slice| slice.first_mb == 0)
}

impl Building {
    fn discardable(&self) -> bool {
        self.slices && !self.referenced
    }

    /// Notes what a slice says about the frame, as soon as its header is here.
    fn see(&mut self, header: u8) {
        if nal::is_picture(header & 0x1F) {
            self.slices = true;
            self.referenced |= header & 0x60 != 0;
        }
    }

    fn put_nal(&mut self, nal: &[u8], sets: &mut Sets) -> Result<(), Error> {
        if self.fragment.is_some() {
            return Err(Error::Fragment);
        }
        match nal_type(nal) {
            nal::SPS | nal::PPS => sets.put(nal),
            kind if nal::is_kept(kind) => {
                self.see(nal.first().copied().unwrap_or(0));
                Ok(h264::put_nal(&mut self.data, nal)?)
            }
            _ => Ok(()),
        }
    }

    /// Pieces are put together at the end: which NAL units there are is only seen from the first on.
    fn put_piece(&mut self, piece: &[u8]) -> Result<(), Error> {
        if self.broken {
            return Ok(());
        }
        if self.data.len().saturating_add(piece.len()) > FRAME_LEN_MAX.saturating_add(PARAMETER_SETS_LEN_MAX)
        {
            self.broken = true;
            return Err(h264::Error::FrameLong.into());
        }
        self.data.put_slice(piece);
        while let Some(&[a, b, c, d, header]) = self.data.get(self.seen..).and_then(<[u8]>::first_chunk) {
            self.see(header);
            let len = u32::from_be_bytes([a, b, c, d]) as usize;
            self.seen = self.seen.saturating_add(4).saturating_add(len);
        }
        Ok(())
    }

    /// All pieces came, unless some are missing before the first: then it may be no frame, which is nobody's mistake.
    fn join(&mut self, sets: &mut Sets) -> Result<(), Error> {
        if self.broken {
            return Ok(());
        }
        let pieces = std::mem::take(&mut self.data);
        let Ok(nals) = avcc_nals(&pieces, 4).collect::<Result<Vec<_>, _>>() else {
            self.broken = true;
            return if self.after_gap { Ok(()) } else { Err(Error::Truncated("NAL unit")) };
        };
        self.data.reserve(pieces.len());
        nals.into_iter().filter(|nal| !nal.is_empty()).try_for_each(|nal| self.put_nal(nal, sets))
    }

    fn put_stap_a(&mut self, payload: &[u8], sets: &mut Sets) -> Result<(), Error> {
        let mut rest = payload.get(1..).unwrap_or(&[]);
        while !rest.is_empty() {
            let (len, after) = rest.split_first_chunk::<2>().ok_or(Error::Truncated("STAP-A size"))?;
            let len = usize::from(u16::from_be_bytes(*len));
            let (nal, after) = after.split_at_checked(len).ok_or(Error::Truncated("STAP-A NAL unit"))?;
            rest = after;
            // RFC 6184 section 5.7: an aggregation packet "MUST NOT be nested"; put_nal leaves types from 24 out
            self.put_nal(nal, sets)?;
        }
        Ok(())
    }

    fn put_fu_a(&mut self, payload: &[u8], sets: &mut Sets) -> Result<(), Error> {
        let ([indicator, fu], piece) =
            payload.split_first_chunk::<2>().ok_or(Error::Truncated("FU header"))?;
        let (start, end) = (fu & 0x80 != 0, fu & 0x40 != 0);
        let header = (indicator & 0xE0) | (fu & 0x1F);
        if self.data.len().saturating_add(piece.len()).saturating_add(5) > FRAME_LEN_MAX {
            return Err(h264::Error::FrameLong.into());
        }
        let at = match self.fragment {
            None if start => {
                let at = self.data.len();
                self.see(header);
                self.data.put_u32(0);
                self.data.put_u8(header);
                self.fragment = Some(at);
                at
            }
            Some(at) if !start => at,
            None if self.after_gap && self.data.is_empty() => {
                self.broken = true; // its beginning is lost, which is nobody's mistake
                return Ok(());
            }
            _ => return Err(Error::Fragment),
        };
        let header_at = at.saturating_add(4);
        if self.data.get(header_at) != Some(&header) {
            return Err(Error::Fragment);
        }
        self.data.put_slice(piece);
        if !end {
            return Ok(());
        }
        self.fragment = None;
        if nal::is_kept(fu & 0x1F) {
            let len = u32::try_from(self.data.len().saturating_sub(header_at)).unwrap_or(0);
            if let Some(field) = self.data.get_mut(at..header_at) {
                field.copy_from_slice(&len.to_be_bytes());
            }
            return Ok(());
        }
        // a parameter set too long for one packet, or something that frames do not keep
        let nal = self.data.split_off(at);
        self.put_nal(nal.get(4..).unwrap_or(&[]), sets)
    }
}

/// Parameter sets by kind, one for each id.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Sets {
    sps: Vec<Bytes>,
    pps: Vec<Bytes>,
}

impl Sets {
    /// Adds a set, in the place of the one with its id.
    fn put(&mut self, set: &[u8]) -> Result<(), Error> {
        let id = nal::parameter_set_id(set).ok_or(Error::ParameterSet)?;
        if set.len() > h264::PARAMETER_SET_LEN_MAX {
            return Err(h264::Error::ParameterSetLong(set.len()).into());
        }
        let list = if nal_type(set) == nal::SPS { &mut self.sps } else { &mut self.pps };
        let at = list.iter().position(|old| nal::parameter_set_id(old) == Some(id)).unwrap_or(list.len());
        if at >= PARAMETER_SETS_MAX {
            return Err(Error::ParameterSet);
        }
        match list.get_mut(at) {
            Some(old) if old == set => {}
            Some(old) => *old = Bytes::copy_from_slice(set),
            None => list.push(Bytes::copy_from_slice(set)),
        }
        Ok(())
    }

    /// These sets after `news` came. A new SPS begins anew: sets of a format that is gone must not stay in the configuration.
    fn updated_by(&self, news: &Sets) -> Sets {
        if news.sps.iter().any(|sps| !self.sps.contains(sps)) {
            let pps = if news.pps.is_empty() { &self.pps } else { &news.pps };
            return Sets { sps: news.sps.clone(), pps: pps.clone() };
        }
        let mut sets = self.clone();
        for set in &news.pps {
            // bounded by what both lists had; a set beyond the limit is left out
            let _ = sets.put(set);
        }
        sets
    }
}

#[cfg(test)]
mod tests;
