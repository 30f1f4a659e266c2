//! Tracks that go to a peer by a stream: what was there before it came, until it has caught up with what is live, and all of what is recorded.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use ::relay::datagram::Body;
use ::relay::flow::Flow;
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
            if outlet.waits_since(now).is_none() {
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
                self.write(&mut bytes, &flow, send, (budget_ms, ingest), now);
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

    /// A packet, and before it what the track is, where that is news.
    fn write(
        &mut self,
        bytes: &mut Vec<u8>,
        flow: &Flow,
        send: &mut Send,
        (budget_ms, ingest): (u16, Option<Time>),
        now: Time,
    ) {
        if let Flow::Packet(out) = flow {
            if let Some(track) = send.is_news(out)
                && let Err(error) = stream::write_track(bytes, &track)
            {
                tracing::warn!(%error, "relay track left out");
            }
            self.count(send.alias, &out.packet);
        }
        let outbound = send.outbound(flow, budget_ms, ingest, now);
        let body = Body { descriptor: &outbound.descriptor, payload: &outbound.payload };
        stream::write_media(bytes, &outbound.header(now), body);
    }
}
