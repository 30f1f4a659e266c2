//! The end of a track, from its newest key frame on: what somebody who begins to take it is given first, and what tells from where on somebody who
//! changes its way has to be given it.

use std::collections::BTreeMap;

use ::relay::flow::Flow;
use media::{Kind, Time};

/// Bytes of one track that are kept, shared with whom they went to: 16 s of 8 Mbit/s. What is longer is not kept up to its next key frame.
const BYTES_MAX: usize = 16 << 20;
/// Packets of it.
const PACKETS_MAX: usize = 16_384;
/// What came before the newest key frame is kept so long: who changes its way goes on with that.
const BEFORE_KEY_US: i64 = 2_000_000;
/// A hole that old is one for good: repair has its chance within the budget of the live.
const MISSING_US: i64 = 600_000;
/// Sound is kept so long: GOPs of RTMP are no longer.
const SOUND_US: i64 = 10_000_000;

/// What is kept of a track.
#[derive(Default, Debug)]
pub(super) struct Cache {
    /// With when they came.
    flows: BTreeMap<u64, (Time, Flow)>,
    bytes: usize,
    /// The newest key frame's first number.
    key: Option<u64>,
    newest: Option<u64>,
}

impl Cache {
    /// Keeps what came; by how much it came later than another way, in microseconds: 0 when it is newer than all before.
    pub(super) fn insert(&mut self, flow: &Flow, kind: Kind, now: Time) -> i64 {
        let seq = flow.seq();
        let newer = self.newest.is_none_or(|newest| seq > newest);
        self.newest = self.newest.max(Some(seq));
        if let Some((_, before)) = self.flows.get(&seq) {
            return match (before, flow) {
                (Flow::Packet(before), Flow::Packet(flow)) => {
                    flow.packet.arrival.since(before.packet.arrival)
                }
                _ => i64::MAX,
            };
        }
        if kind == Kind::Video && flow.begins_key_frame() {
            self.key = self.key.max(Some(seq));
        }
        self.bytes += flow.payload_len();
        let came = if let Flow::Packet(out) = flow { out.packet.arrival } else { now };
        self.flows.insert(seq, (came, flow.clone()));
        self.trim(came, kind);
        if newer { 0 } else { i64::MAX }
    }

    /// Sound that is too old goes, and of pictures what is before the key frame, but the latest.
    fn trim(&mut self, newest: Time, kind: Kind) {
        let (key, keep_us) = match kind {
            Kind::Audio => (None, SOUND_US),
            Kind::Video => (Some(self.key.unwrap_or(0)), BEFORE_KEY_US),
        };
        let old = |seq: u64, came: Time| key.is_none_or(|key| seq < key) && newest.since(came) > keep_us;
        while let Some(first) = self.flows.first_entry().filter(|first| old(*first.key(), first.get().0)) {
            self.bytes -= first.remove().1.payload_len();
        }
        if self.bytes > BYTES_MAX || self.flows.len() > PACKETS_MAX {
            (self.flows, self.bytes, self.key) = (BTreeMap::new(), 0, None);
        }
    }

    /// The newest number that came, of what was left out the first.
    pub(super) fn newest(&self) -> Option<u64> {
        self.newest
    }

    /// When the newest key frame came into the cluster.
    pub(super) fn key_ingest(&self) -> Option<Time> {
        match self.flows.get(&self.key?)? {
            (_, Flow::Packet(out)) => Some(out.ingest),
            (_, Flow::LeftOut { .. }) => None,
        }
    }

    /// For who begins: a picture from its key frame on, sound from that time on.
    pub(super) fn begin(&self, kind: Kind, from: Option<Time>) -> Vec<Flow> {
        let young = |flow: &Flow| match flow {
            Flow::Packet(out) => from.is_some_and(|from| out.ingest >= from),
            Flow::LeftOut { .. } => false,
        };
        match (kind, self.key) {
            (Kind::Video, Some(key)) => self.from(key),
            (Kind::Video, None) => Vec::new(),
            (Kind::Audio, _) => {
                let flows = self.flows.values().map(|(_, flow)| flow);
                flows.skip_while(|flow| !young(flow)).cloned().collect()
            }
        }
    }

    /// What is behind this number, if nothing between is missing for being too old.
    pub(super) fn behind(&self, after: u64) -> Option<Vec<Flow>> {
        let (first, _) = self.flows.first_key_value()?;
        let behind = after.saturating_add(1);
        (*first <= behind).then(|| self.from(behind))
    }

    fn from(&self, seq: u64) -> Vec<Flow> {
        self.flows.range(seq..).map(|(_, (_, flow))| flow.clone()).collect()
    }

    /// The number up to which everything is there; what has been missing for long does not come any more.
    pub(super) fn whole_up_to(&self) -> Option<u64> {
        let (_, (newest, _)) = self.flows.last_key_value()?;
        let mut next = *self.flows.first_key_value()?.0;
        for (seq, (came, flow)) in &self.flows {
            if *seq > next && newest.since(*came) < MISSING_US {
                break;
            }
            next = next.max(flow.end());
        }
        next.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::hub::scene::{flow, seqs};
    use bytes::Bytes;
    use media::Codec;

    /// When the word that packets do not come came.
    const AT: Time = Time::from_ms(220);

    fn packet(seq: u64, key_start: bool, len: usize) -> Flow {
        let codec = if len < 50 { Codec::Aac } else { Codec::H264 };
        let mut flow = flow(seq, codec, key_start, Time::from_ms(seq as i64 * 20));
        if let Flow::Packet(out) = &mut flow {
            out.packet.payload = Bytes::from(vec![0; len]);
        }
        flow
    }

    #[test]
    fn a_picture_begins_with_its_newest_key_frame_in_whatever_order_it_came() {
        let mut cache = Cache::default();
        for (seq, key) in [(1, true), (2, false), (5, false), (4, true), (3, false), (6, false)] {
            cache.insert(&packet(seq, key, 100), Kind::Video, AT);
        }
        assert_eq!(seqs(&cache.begin(Kind::Video, None)), [4, 5, 6]);
        assert_eq!(cache.bytes, 600);
        assert_eq!(cache.key_ingest(), Some(Time::from_ms(80)));
        assert_eq!(cache.behind(4).map(|it| seqs(&it)), Some(vec![5, 6]));
        assert_eq!(cache.behind(2).map(|it| seqs(&it)), Some(vec![3, 4, 5, 6]), "what is before it is kept");
        for seq in 105..=205 {
            cache.insert(&packet(seq, false, 100), Kind::Video, AT);
        }
        assert_eq!(cache.behind(2).map(|it| it.len()), None, "for two seconds");
        assert_eq!(seqs(&cache.begin(Kind::Video, None))[..3], [4, 5, 6]);
    }

    #[test]
    fn what_is_whole_ends_before_the_first_hole_and_what_was_left_out_is_none() {
        let mut cache = Cache::default();
        for seq in [1, 2, 3, 8, 9, 11] {
            cache.insert(&packet(seq, seq == 1, 100), Kind::Video, AT);
        }
        assert_eq!(cache.whole_up_to(), Some(3));
        cache.insert(&Flow::LeftOut { seq: 4, count: 4 }, Kind::Video, AT);
        assert_eq!(cache.whole_up_to(), Some(9));
        assert_eq!(cache.insert(&packet(10, false, 100), Kind::Video, AT), i64::MAX, "a hole is closed");
        assert_eq!(cache.insert(&packet(12, false, 100), Kind::Video, AT), 0);
        assert_eq!(cache.whole_up_to(), Some(12));
        let Flow::Packet(mut other) = packet(11, false, 100) else { unreachable!("it is one") };
        other.packet.arrival = other.packet.arrival.plus_us(30_000);
        assert_eq!(cache.insert(&Flow::Packet(other), Kind::Video, AT), 30_000, "by another way");
        assert_eq!(cache.bytes, 800);
        // 13 to 15 do not come.
        for seq in 16..46 {
            cache.insert(&packet(seq, false, 100), Kind::Video, AT);
        }
        assert_eq!(cache.whole_up_to(), Some(12));
        cache.insert(&packet(46, false, 100), Kind::Video, AT);
        assert_eq!(cache.whole_up_to(), Some(46));
    }

    #[test]
    fn sound_begins_with_the_picture_and_is_kept_for_ten_seconds() {
        let mut cache = Cache::default();
        for seq in 1..=1_000 {
            cache.insert(&packet(seq, true, 10), Kind::Audio, AT);
        }
        assert_eq!(cache.flows.len(), 501);
        let begin = cache.begin(Kind::Audio, Some(Time::from_ms(19_000)));
        assert_eq!((begin.len(), begin[0].seq()), (51, 950));
        assert_eq!(cache.begin(Kind::Audio, None).len(), 0);
    }

    #[test]
    fn an_endless_gop_is_not_kept() {
        let mut cache = Cache::default();
        for seq in 1..=20_000 {
            cache.insert(&packet(seq, seq == 1, 2_000), Kind::Video, AT);
            assert!(cache.bytes <= BYTES_MAX);
        }
        assert_eq!(cache.begin(Kind::Video, None).len(), 0);
        cache.insert(&packet(20_001, true, 100), Kind::Video, AT);
        assert_eq!(seqs(&cache.begin(Kind::Video, None)), [20_001]);
    }
    #[test]
    fn what_was_left_out_is_as_old_as_the_word_of_it() {
        let mut cache = Cache::default();
        for seq in 1..=10 {
            cache.insert(&packet(seq, true, 10), Kind::Audio, AT);
        }
        cache.insert(&Flow::LeftOut { seq: 11, count: 3 }, Kind::Audio, AT);
        assert_eq!(cache.behind(0).map(|it| it.len()), Some(11), "it makes nothing old");
        cache.insert(&packet(511, true, 10), Kind::Audio, AT);
        assert_eq!(cache.behind(10).map(|it| seqs(&it)), Some(vec![11, 511]));
        cache.insert(&packet(512, true, 10), Kind::Audio, AT);
        assert_eq!(cache.behind(10).map(|it| it.len()), None, "and is not kept for ever");
        // 4 to 7 do not come, and of 8 and 9 that is known.
        let mut cache = Cache::default();
        for seq in [1, 2, 3] {
            cache.insert(&packet(seq, seq == 1, 100), Kind::Video, AT);
        }
        cache.insert(&Flow::LeftOut { seq: 8, count: 2 }, Kind::Video, AT);
        for seq in 10..41 {
            cache.insert(&packet(seq, false, 100), Kind::Video, AT);
        }
        assert_eq!(cache.whole_up_to(), Some(3));
        cache.insert(&packet(41, false, 100), Kind::Video, AT);
        assert_eq!(cache.whole_up_to(), Some(41));
    }
}
