//! The tap of a stream with encodings: conversions get the best that is live, in one numbering, as if it were one track.

use media::{Kind, Packet, Time};

use crate::allocate::{LAYERS_MAX, Layers};
use crate::command::{StreamId, TrackKey};
use crate::layers::{best, is_entrance};
use crate::ring::Ring;
use crate::shard::Shard;

/// Numbers left free where the encoding changes: packets that come out of order keep a place of their own.
const GAP: u64 = 64;

/// Which track is given out, and which will be from its next key frame on.
#[derive(Debug)]
pub(crate) struct Tap {
    pub(crate) track: usize,
    pub(crate) next: Option<usize>,
    /// The track's numbers from here on are given out, moved by the deltas.
    floor: u64,
    seq_delta: i64,
    time_delta: i64,
    /// The newest given out: number, time stamp, capture.
    last: Option<(u64, i64, Time)>,
}

impl Tap {
    pub(crate) fn new(track: usize) -> Tap {
        Tap { track, next: None, floor: 0, seq_delta: 0, time_delta: 0, last: None }
    }

    /// What of a track's fresh packets is given out.
    pub(crate) fn take(&mut self, slot: usize, ring: &Ring, fresh: &[u64]) -> Vec<Packet> {
        if self.track == slot {
            return fresh.iter().filter_map(|seq| ring.get(*seq)).filter_map(|p| self.give(p)).collect();
        }
        let entrance = ring
            .key()
            .filter(|key| self.next == Some(slot) && fresh.contains(key))
            .and_then(|key| ring.get(key));
        let Some(first) = entrance.filter(|first| is_entrance(first)) else { return Vec::new() };
        (self.track, self.next, self.floor) = (slot, None, first.seq);
        if let Some((seq, timestamp, capture)) = self.last {
            let passed = Time(first.capture.since(capture)).ticks(first.codec.clock_hz()).max(1);
            self.seq_delta = (seq + GAP) as i64 - first.seq as i64;
            self.time_delta = timestamp + passed - first.timestamp;
        }
        let seq = first.seq;
        ring.from(seq)
            .filter_map(|p| self.give(p).map(|given| Packet { fresh_source: p.seq == seq, ..given }))
            .collect()
    }

    fn give(&mut self, packet: &Packet) -> Option<Packet> {
        if packet.seq < self.floor {
            return None;
        }
        let seq = packet.seq.checked_add_signed(self.seq_delta)?;
        let timestamp = packet.timestamp + self.time_delta;
        if self.last.is_none_or(|(last, ..)| seq > last) {
            self.last = Some((seq, timestamp, packet.capture));
        }
        Some(Packet { seq, timestamp, ..packet.clone() })
    }
}

/// Orders name a stream's first track.
fn is_followed(key: TrackKey) -> bool {
    key.kind == Kind::Video && key.layer == 0
}

impl Shard {
    /// The track that an order to tap one means: of a stream with encodings the best there is.
    pub(crate) fn tap(&mut self, key: TrackKey) -> usize {
        let first = self.track_at_home(key);
        let layers = self.layers.get(&key.stream).filter(|_| is_followed(key)).map(|set| set.layers);
        let Some(layers) = layers else { return first };
        let key = TrackKey { layer: best(&layers, 0), ..key };
        let slot = self.track_at_home(key);
        if let Some(set) = self.layers.get_mut(&key.stream) {
            set.tap = Some(Tap::new(slot));
        }
        slot
    }

    /// The tracks that an order to end a tap means.
    pub(crate) fn untap(&mut self, key: TrackKey) -> Vec<usize> {
        let set = self.layers.get_mut(&key.stream).filter(|_| is_followed(key));
        let tap = set.and_then(|set| set.tap.take());
        let followed = tap.into_iter().flat_map(|tap| [Some(tap.track), tap.next]).flatten();
        let mut tracks: Vec<usize> = followed.chain(self.track_by_key.get(&key).copied()).collect();
        tracks.sort_unstable();
        tracks.dedup();
        tracks
    }

    /// The track that an order about a tapped one means.
    pub(crate) fn tapped_track(&self, key: TrackKey) -> Option<usize> {
        let tap = self.layers.get(&key.stream).filter(|_| is_followed(key)).and_then(|set| set.tap.as_ref());
        tap.map(|tap| tap.track).or_else(|| self.track_by_key.get(&key).copied())
    }

    /// The tap goes to the best encoding there is, at its next key frame.
    pub(crate) fn move_tap(&mut self, stream: StreamId, tracks: &[Option<usize>; LAYERS_MAX]) {
        let Some(set) = self.layers.get_mut(&stream) else { return };
        let layers: Layers = set.layers;
        if set.tap.is_none() {
            // Tapped before there were encodings.
            let first = tracks.first().copied().flatten().filter(|slot| self.tracks[*slot].tapped);
            set.tap = first.map(Tap::new);
        }
        let Some(tap) = &mut set.tap else { return };
        let current = self.tracks.get(tap.track).map_or(0, |track| track.key.layer);
        let target = tracks.get(usize::from(best(&layers, current))).copied().flatten();
        tap.next = target.filter(|target| *target != tap.track);
        let next = tap.next;
        for slot in tracks.iter().flatten() {
            self.tracks[*slot].tapped = *slot == tap.track || Some(*slot) == next;
        }
        if let Some(next) = next {
            self.tracks[next].key_frames.want();
        }
    }
}
