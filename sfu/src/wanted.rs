//! Which encodings a publisher is told to send: those that somebody takes, and all below, which are there at once for whom the path of the
//! moment carries less. What is above is paused, if the publisher has a way to hear it, and counts as what it was, so that it can be chosen.

use media::Time;

use crate::allocate::{LAYERS_MAX, Layer, Layers};
use crate::command::{Event, PeerId, SourceId, StreamId};
use crate::peer::Role;
use crate::shard::Shard;
use crate::track::Track;

/// Nobody has taken it, nor one above it, for so long (LiveKit): a viewer that goes to and fro should not pay with an encoder's start.
const LINGER_US: i64 = 5_000_000;
/// An encoding that was asked for again and does not come within this does not count any more. Encoders start in a second or two.
const RESUMES_US: i64 = 5_000_000;

/// By index of the encoding.
pub type Wanted = [bool; LAYERS_MAX];

/// What one publisher was told of its encodings.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Who hears it.
    hears: Option<(PeerId, SourceId)>,
    encodings: [Wish; LAYERS_MAX],
}

#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    /// It is not to be sent.
    paused: bool,
    /// Since when it is live and of no use.
    idle: Option<Time>,
    /// What it was when it was paused, until it is live again, and when that was asked for last.
    was: Option<Layer>,
    resumed: Time,
}

impl Wishes {
    /// Whether a publisher with this source is one that hears of its encodings, or there is none.
    fn is_of(&self, source: SourceId) -> bool {
        self.hears.is_none_or(|(_, hears)| hears == source)
    }

    /// Encodings that do not come because that is what their publisher was told are as they were.
    pub(crate) fn complete(&mut self, layers: &mut Layers, now: Time) {
        for (wish, layer) in self.encodings.iter_mut().zip(layers) {
            let Some(was) = wish.was else { continue };
            if !wish.paused && (layer.live || now.since(wish.resumed) > RESUMES_US) {
                wish.was = None;
            } else if !layer.live {
                *layer = Layer { paused: !layer.flows, ..was };
            }
        }
    }

    /// What the publisher is to be told now, if that is news. `taken`: somebody takes it, or waits for its key frame.
    pub(crate) fn renew(&mut self, layers: &Layers, taken: &Wanted, now: Time) -> Option<(PeerId, Wanted)> {
        let (hears, _) = self.hears?;
        let rank = |i: usize| layers.get(i).map(|layer| (layer.height, layer.rate_bps, i));
        let flows = (0..LAYERS_MAX).filter(|i| layers.get(*i).is_some_and(|layer| layer.flows));
        let least = flows.map(rank).min().flatten();
        let is_taken = |i: &usize| taken.get(*i) == Some(&true);
        let most = (0..LAYERS_MAX).filter(is_taken).map(rank).max().flatten().max(least);
        let mut news = false;
        for (i, (wish, layer)) in self.encodings.iter_mut().zip(layers).enumerate() {
            // What was never seen cannot be chosen while it does not come.
            let of_use = rank(i) <= most || !layer.live;
            wish.idle = if of_use { None } else { wish.idle.or(Some(now)) };
            let paused = wish.idle.is_some_and(|since| now.since(since) >= LINGER_US);
            if paused != wish.paused {
                (wish.paused, news) = (paused, true);
                match paused {
                    true => wish.was = Some(*layer),
                    false => wish.resumed = now,
                }
            }
        }
        news.then(|| (hears, self.encodings.each_ref().map(|wish| !wish.paused)))
    }

    /// How many encodings are paused.
    pub(crate) fn paused(&self) -> usize {
        self.encodings.iter().filter(|wish| wish.paused).count()
    }
}

impl Shard {
    /// A publisher can hear which of its encodings are wanted, or cannot any more: then it sends them all.
    pub(crate) fn hear_wishes(&mut self, id: PeerId, hears: bool, now: Time) {
        let Some(peer) = self.peer_by_id.get(&id).and_then(|slot| self.peers.get(*slot)) else { return };
        let Role::Publish(publisher) = &peer.role else { return };
        let source = publisher.source;
        let tracks = publisher.encodings().filter_map(|encoding| self.tracks.get(encoding.track));
        let streams: Vec<StreamId> = tracks.map(|track: &Track| track.key.stream).collect();
        for stream in streams {
            let Some(set) = self.layers.get_mut(&stream) else { continue };
            let wishes = &mut set.wishes;
            match hears {
                // A newer publisher has the stream.
                _ if wishes.hears.is_some_and(|(_, before)| before > source) => {}
                true if !wishes.is_of(source) => {
                    *wishes = Wishes { hears: Some((id, source)), ..Wishes::default() }
                }
                true => wishes.hears = Some((id, source)),
                false if wishes.hears.is_some_and(|(before, _)| before != id) => {}
                false => {
                    let mut resumes = false;
                    for wish in wishes.encodings.iter_mut().filter(|wish| wish.paused) {
                        (wish.paused, wish.idle, wish.resumed, resumes) = (false, None, now, true);
                    }
                    wishes.hears = None;
                    if resumes {
                        self.events.push(Event::Wanted(id, [true; LAYERS_MAX]));
                    }
                }
            }
        }
    }

    /// A publisher is gone, or another has its stream: what it was told is of no encoding that there is.
    pub(crate) fn forget_wishes(&mut self, stream: StreamId, is_gone: impl Fn(PeerId, SourceId) -> bool) {
        if let Some(set) = self.layers.get_mut(&stream)
            && set.wishes.hears.is_none_or(|(peer, source)| is_gone(peer, source))
        {
            set.wishes = Wishes::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(i64) -> Time = Time::from_ms;

    fn live(height: u32) -> Layer {
        Layer { rate_bps: u64::from(height) * 1_000, height, flows: true, live: true, ..Layer::default() }
    }

    fn gone(height: u32) -> Layer {
        Layer { height, ..Layer::default() }
    }

    fn wishes() -> Wishes {
        Wishes { hears: Some((PeerId(7), SourceId(1))), ..Wishes::default() }
    }

    /// In an order that is not that of quality.
    const NONE: Wanted = [false; LAYERS_MAX];
    const MIDDLE: Wanted = [false, false, true, false];
    const TOP: Wanted = [true, false, false, false];

    fn three() -> Layers {
        [live(720), live(180), live(360), Layer::default()]
    }

    #[test]
    fn what_is_above_all_that_is_taken_is_paused_after_a_while() {
        let mut wishes = wishes();
        assert_eq!(wishes.renew(&three(), &MIDDLE, MS(0)), None);
        assert_eq!(wishes.renew(&three(), &MIDDLE, MS(4_999)), None);
        let told = wishes.renew(&three(), &MIDDLE, MS(5_000));
        assert_eq!(told, Some((PeerId(7), [false, true, true, true])));
        assert_eq!(wishes.renew(&three(), &NONE, MS(9_000)), None);
        let told = wishes.renew(&three(), &NONE, MS(14_000));
        assert_eq!(told, Some((PeerId(7), [false, true, false, true])), "the least there is stays");
        let told = wishes.renew(&three(), &TOP, MS(14_001));
        assert_eq!(told, Some((PeerId(7), [true; 4])), "at once, with all below");
    }

    #[test]
    fn a_paused_one_is_what_it_was_until_it_is_live_again() {
        let mut wishes = wishes();
        wishes.renew(&three(), &MIDDLE, MS(0));
        wishes.renew(&three(), &MIDDLE, MS(5_000));
        let shown = |wishes: &mut Wishes, top: Layer, ms| {
            let mut layers = [top, live(180), live(360), Layer::default()];
            wishes.complete(&mut layers, MS(ms));
            layers
        };
        assert_eq!(shown(&mut wishes, live(720), 5_100)[0], live(720), "not there yet");
        let paused = Layer { paused: true, ..live(720) };
        let layers = shown(&mut wishes, gone(720), 90_000);
        assert_eq!(layers[0], paused);
        assert_eq!(wishes.renew(&layers, &MIDDLE, MS(90_000)), None);
        assert!(wishes.renew(&layers, &TOP, MS(90_020)).is_some());
        assert_eq!(shown(&mut wishes, gone(720), 90_040)[0], paused);
        let young = Layer { rate_bps: 5, live: false, ..live(720) };
        assert_eq!(shown(&mut wishes, young, 91_000)[0], live(720), "it is known");
        let other = Layer { rate_bps: 5, ..live(720) };
        assert_eq!(shown(&mut wishes, other, 93_000)[0], other);
        assert_eq!(shown(&mut wishes, gone(720), 93_500)[0], gone(720), "stopped by itself");
    }

    #[test]
    fn one_that_does_not_come_back_counts_as_stopped() {
        let mut wishes = wishes();
        wishes.renew(&three(), &MIDDLE, MS(0));
        wishes.renew(&three(), &MIDDLE, MS(5_000));
        wishes.renew(&three(), &TOP, MS(10_000));
        let mut layers = [gone(720), live(180), live(360), Layer::default()];
        wishes.complete(&mut layers, MS(15_000));
        assert!(layers[0].flows);
        let mut layers = [gone(720), live(180), live(360), Layer::default()];
        wishes.complete(&mut layers, MS(15_001));
        assert_eq!(layers[0], gone(720));
        assert_eq!(wishes.renew(&layers, &MIDDLE, MS(60_000)), None, "what does not come is not paused");
    }
}
