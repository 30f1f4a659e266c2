//! Tracks that go to a peer by a stream: what was there before it came, until it has caught up with what is live, and all of what is recorded.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use ::relay::datagram::Body;
use ::relay::flow::{Flow, Out};
use ::relay::hop::Seen;
use ::relay::stream;
use bytes::Bytes;
use media::{Kind, Time};
use metrics::{NodeMetrics, RelayDrop};
use quinn::Connection;
use sfu::TrackKey;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::AbortHandle;

use super::give::Send;
use super::{FULL_RETRY, Hub, Link};
use crate::relay::streams::{self, PIECES_MAX, Piece};
use crate::task;

/// What waits for a stream waits so long at most, and is so much: it stands before what is live. More means that the stream ends, and the track begins anew
/// at a key frame.
const BEHIND_US_MAX: i64 = 10_000_000;
const BEHIND_BYTES_MAX: usize = 16 << 20;
const FULL_RETRY_US: i64 = FULL_RETRY.as_micros() as i64;

/// A track's way by a stream.
#[derive(Debug)]
pub(super) struct Outlet {
    /// What has not gone, and since when it waits.
    waits: VecDeque<(Time, Flow)>,
    bytes: usize,
    pieces: mpsc::Sender<Piece>,
    /// What writes it, until that was told all.
    task: Option<AbortHandle>,
    has_begun: bool,
    /// What is news is behind what waits.
    has_news: bool,
    /// The peer was told that what comes is news.
    is_live: bool,
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// How far a stream came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Went {
    /// All went.
    All,
    /// And the stream is over.
    Over,
    /// The link's streams have had their share for now.
    Share,
    /// QUIC takes no more now.
    Full,
    /// Too much waits, or for too long.
    Behind,
}

impl Outlet {
    /// Sound goes before pictures, and both behind control.
    pub(super) fn open(connection: &Connection, kind: Kind, metrics: &Arc<NodeMetrics>) -> Outlet {
        let (pieces, of_hub) = mpsc::channel(PIECES_MAX);
        let priority = if kind == Kind::Audio { -1 } else { -2 };
        let work = streams::write(connection.clone(), priority, of_hub);
        let task = task::spawn(metrics.clone(), work).abort_handle();
        Outlet {
            waits: VecDeque::new(),
            bytes: 0,
            pieces,
            task: Some(task),
            has_begun: false,
            has_news: false,
            is_live: false,
        }
    }

    /// Packets wait for their turn.
    pub(super) fn wait(&mut self, flows: &[Flow], are_news: bool, now: Time) {
        self.has_news |= are_news;
        self.bytes += flows.iter().map(Flow::payload_len).sum::<usize>();
        self.waits.extend(flows.iter().map(|flow| (now, flow.clone())));
    }

    /// Since when something waits: packets, or the word that they have caught up.
    fn waits_since(&self, now: Time) -> Option<Time> {
        let since = self.waits.front().map(|(since, _)| *since);
        since.or_else(|| (self.has_news && !self.is_live).then_some(now))
    }

    /// The first packet that waits.
    fn packet(&self) -> Option<&Out> {
        self.waits.iter().find_map(|(_, flow)| if let Flow::Packet(out) = flow { Some(out) } else { None })
    }

    fn is_behind(&self, now: Time) -> bool {
        let since = self.waits.front().map_or(now, |(since, _)| *since);
        self.bytes > BEHIND_BYTES_MAX || now.since(since) > BEHIND_US_MAX
    }
}

impl Hub {
    /// What may go by streams goes; when the next of it may.
    pub(super) fn release(&mut self, now: Time) -> Option<Time> {
        let mut turns: Vec<(bool, Time, TrackKey, usize)> = Vec::new();
        for key in self.waiting.drain() {
            for send in self.given.get(&key).into_iter().flat_map(|given| &given.to) {
                let since = send.outlet.as_ref().and_then(|outlet| outlet.waits_since(now));
                turns.extend(since.map(|since| (key.kind == Kind::Video, since, key, send.link)));
            }
        }
        // Sound first, then what has waited longest.
        turns.sort_unstable_by_key(|(is_picture, since, ..)| (*is_picture, *since));
        let links: HashSet<usize> = turns.iter().map(|(.., id)| *id).collect();
        for id in links {
            if let Some(link) = self.links.get_mut(&id) {
                link.see_spare(now);
            }
        }
        let (mut next, mut anew) = (None, Vec::new());
        for (.., key, id) in turns {
            let (Some(given), Some(link)) = (self.given.get_mut(&key), self.links.get_mut(&id)) else {
                continue;
            };
            let budget_ms = given.upstream.budget_ms(key);
            let Some(send) = given.to.iter_mut().find(|send| send.link == id) else { continue };
            let Some(mut outlet) = send.outlet.take() else { continue };
            let again = match link.release(&mut outlet, send, budget_ms, now) {
                Went::All => None,
                Went::Over => continue,
                Went::Behind => {
                    link.metrics.drops.of(RelayDrop::Behind).add(outlet.waits.len() as u64);
                    (send.fresh, send.after, send.told) = (true, None, None);
                    anew.push(key);
                    continue;
                }
                Went::Share => Some(link.spare.opens()),
                Went::Full => Some(now.plus_us(FULL_RETRY_US)),
            };
            send.outlet = Some(outlet);
            if again.is_some() {
                self.waiting.insert(key);
                next = next.into_iter().chain(again).min();
            }
        }
        for key in anew {
            self.ask_upstream(key);
        }
        next
    }
}

impl Link {
    /// How the link is, for how fast streams may go.
    fn see_spare(&mut self, now: Time) {
        let live_us = self.outgoing.queue_us(now);
        let seen = Seen { live_us, needed: self.streamed.1, ..self.up.window.seen() };
        self.spare.update(seen, now);
    }

    fn release(&mut self, outlet: &mut Outlet, send: &mut Send, budget_ms: u16, now: Time) -> Went {
        loop {
            if outlet.is_behind(now) {
                return Went::Behind;
            }
            // The word that packets do not come means nothing before that of what the track is, and that comes with a packet.
            let is_mute = send.told.is_none() && !outlet.waits.is_empty() && outlet.packet().is_none();
            if outlet.waits_since(now).is_none() || is_mute {
                return Went::All;
            }
            if !self.spare.is_open() {
                return Went::Share;
            }
            let place = match outlet.pieces.try_reserve() {
                Ok(place) => place,
                Err(TrySendError::Full(())) => return Went::Full,
                Err(TrySendError::Closed(())) => return Went::Behind,
            };
            let mut bytes = Vec::new();
            if !std::mem::replace(&mut outlet.has_begun, true) {
                stream::write_head(&mut bytes, send.alias);
            }
            if let Some((_, flow)) = outlet.waits.pop_front() {
                outlet.bytes -= flow.payload_len();
                // What waited here for somebody to take it is not late for that.
                let ingest = (!outlet.is_live).then_some(now);
                let of = match &flow {
                    Flow::Packet(out) => Some(out),
                    Flow::LeftOut { .. } => outlet.packet().filter(|_| send.told.is_none()),
                };
                self.write(&mut bytes, &flow, of, send, (budget_ms, ingest), now);
            } else if send.reliable {
                outlet.is_live = true;
                stream::write_live(&mut bytes);
            } else {
                outlet.task = None;
                place.send(Piece::End);
                return Went::Over;
            }
            self.spare.went(bytes.len());
            self.stream_bytes.0 += bytes.len() as u64;
            place.send(Piece::Bytes(Bytes::from(bytes)));
        }
    }

    /// A packet or the word that there are none, and before it what the track is, where that is news by this packet.
    fn write(
        &mut self,
        bytes: &mut Vec<u8>,
        flow: &Flow,
        of: Option<&Out>,
        send: &mut Send,
        (budget_ms, ingest): (u16, Option<Time>),
        now: Time,
    ) {
        if let Some(track) = of.and_then(|out| send.is_news(out))
            && stream::write_track(bytes, &track).is_err()
        {
            // Of a track that fits no message nothing can be read.
            send.told = None;
            return self.metrics.drops.of(RelayDrop::Untold).increment();
        }
        if let Flow::Packet(out) = flow {
            self.count(send.alias, &out.packet);
        }
        let outbound = send.outbound(flow, budget_ms, ingest, now);
        let body = Body { descriptor: &outbound.descriptor, payload: &outbound.payload };
        stream::write_media(bytes, &outbound.header(now), body);
    }
}

#[cfg(test)]
mod tests {
    use ::relay::stream::{Reader, Record};
    use media::{Codec, Need};

    use super::*;
    use crate::relay::hub::scene::{Scene, flow};

    /// What a stream says of these flows, which come one after the other: of packets and words their numbers, of tracks the first's, of which it is told.
    async fn written(runs: &[Vec<Flow>]) -> Vec<Vec<(&'static str, u64)>> {
        let mut scene = Scene::new().await;
        let now = scene.hub.now();
        let (pieces, mut of_hub) = mpsc::channel(PIECES_MAX);
        let mut outlet = Outlet {
            waits: VecDeque::new(),
            bytes: 0,
            pieces,
            task: None,
            has_begun: false,
            has_news: false,
            is_live: false,
        };
        let mut send = Send::new((scene.a, 3), Need::Watched, true, None);
        let link = scene.hub.links.get_mut(&scene.a).expect("it is up");
        link.see_spare(now);
        let mut reader = Reader::new();
        let mut read = |run: &Vec<Flow>| {
            outlet.wait(run, false, now);
            assert_eq!(link.release(&mut outlet, &mut send, 400, now), Went::All);
            while let Ok(Piece::Bytes(bytes)) = of_hub.try_recv() {
                reader.push(&bytes);
            }
            let said = std::iter::from_fn(|| reader.take().expect("it is ours")).map(|record| match record {
                Record::Begins(alias) => ("begins", alias),
                Record::Track(track) => ("track", track.seq),
                Record::Live => ("live", 0),
                Record::Media(media, ..) if media.left_out => ("left out", media.seq.into()),
                Record::Media(media, ..) => ("packet", media.seq.into()),
            });
            said.collect()
        };
        runs.iter().map(&mut read).collect()
    }

    #[tokio::test]
    async fn what_does_not_come_is_said_behind_what_the_track_is() {
        let picture = |seq| flow(seq, Codec::H264, true, Time::ZERO);
        let word = |seq| Flow::LeftOut { seq, count: 2 };
        let said = written(&[vec![word(4)], vec![word(6), picture(8)], vec![word(9), picture(11)]]).await;
        let first = [("begins", 3), ("track", 8), ("left out", 4), ("left out", 6), ("packet", 8)];
        assert_eq!(said, [&[][..], &first, &[("left out", 9), ("packet", 11)]]);
    }

    #[tokio::test]
    async fn a_track_that_fits_no_message_is_followed_by_nothing() {
        let sound = |seq, len| match flow(seq, Codec::Aac, true, Time::ZERO) {
            Flow::Packet(out) => Flow::Packet(Out { config: Bytes::from(vec![0; len]), ..out }),
            word => word,
        };
        let said =
            written(&[vec![sound(1, 1 << 16), sound(2, 1 << 16)], vec![sound(3, 2), sound(4, 2)]]).await;
        assert_eq!(said, [&[("begins", 3)][..], &[("track", 3), ("packet", 3), ("packet", 4)]]);
    }
}
