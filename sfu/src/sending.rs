//! The send side of a subscriber: what the track has is sent at once or waits in the ring, what was lost waits for its turn, and the pacer
//! says when.

use std::sync::atomic::Ordering;

use media::{Kind, Time};
use metrics::{DropReason, PacketKind, ShardMetrics};
use slab::Slab;

use crate::command::{CloseReason, PeerStats, bump};
use crate::estimate::{Arrival, Estimator, LOSS_MAX};
use crate::forward::{Sent, Way};
use crate::gate::Link;
use crate::pacer::{Pacer, REPAIRS_MAX};
use crate::peer::{Subscribed, Subscriber};
use crate::ring::Ring;
use crate::shard::Egress;
use crate::track::Track;

/// Of a GOP from the ring so much goes at once: what 200 ms of queue in front of 1.2 Mbit/s hold. With more, a narrow link lost half of the key
/// frame, and its repair took longer than sending it slowly.
const FIRST_BYTES: usize = 32 * 1024;
/// A near viewer has twice as much, so that a key frame of ordinary size shows without waiting for feedback.
const FIRST_BYTES_NEAR: usize = 64 * 1024;
/// A handshake is a round trip, and little more: a viewer is near when it took less than this.
const NEAR_US: i64 = 20_000;
/// And so much of what the link is known to take: 50 ms.
const FIRST_PER_S: u64 = 8 * 20;
/// The rest in about this time, where that is no more than this rate: soon enough to be live at once, slow enough for a last mile's queue.
const CATCH_UP_US: u64 = 250_000;
const CATCH_UP_BPS: u64 = 32_000_000;
const CATCH_UP_BPS_MIN: u64 = 1_000_000;
/// A GOP that is larger goes at this multiple of what the source sends, and is at the live point in half its own time. So does the beginning of each
/// GOP, until feedback says what the link takes: then twice what arrives, up to the first queue, and about that from then on.
const CATCH_UP_RATE: u64 = 3;
const CATCH_UP_QUEUE_US: i64 = 60_000;
const CATCH_UP_OPEN: u64 = 200;
const CATCH_UP_STEADY: u64 = 105;
const CATCH_UP_DRAIN: u64 = 80;

/// Under congestion the pacer sends so much of the estimate. What waits on the link takes a percent of it for each so much, so that it drains
/// in about half a second; what waits here, as behind a key frame, adds one: an empty link takes it sooner than it would be too old.
const LIMIT_PERCENT: i64 = 110;
const LIMIT_PERCENT_MIN: i64 = 50;
const LIMIT_PERCENT_MAX: i64 = 150;
const LINK_US_PERCENT: i64 = 5_000;
const HERE_US_PERCENT: i64 = 10_000;
/// The link takes less than the source sends when the estimate is below this share of what would arrive of it, and takes all again above that one.
/// Probes go further.
const SHORT_PERCENT: u64 = 95;
const ENOUGH_PERCENT: u64 = 100;
/// Below this share a queue that grows is answered at once; else when it has grown for so long: a path may also just have become longer.
const FAR_SHORT_PERCENT: u64 = 65;
const GROWS_US: i64 = 1_000_000;
const DEMAND_PERCENT: u64 = 130;
/// An estimate that fell below this share of what the choice of an encoding went by is gone by at once.
const FELL_PERCENT: u64 = 85;
/// Loss that lasts so long is a path that takes less, without a queue.
const LOSSY_US: i64 = 3_000_000;

/// So many packets of one feedback go again unasked; the others wait for their requests. Twice a burst's length; and a queue that overflows is not
/// helped by more.
const LOST_MAX: usize = 16;

/// A viewer without a picture, whose link takes less than a browser sends, is looked after this often: whether a key frame is due.
const HOLDS_US: i64 = 100_000;

/// A catch-up that is under way.
#[derive(Clone, Copy, Debug)]
struct CatchUp {
    /// Its rate, and the most that it may be.
    bps: u64,
    most_bps: u64,
    /// What arrived while a queue was there: what the link takes.
    link_bps: Option<u64>,
}

impl CatchUp {
    /// Goes by what arrived.
    fn follow(&mut self, arrival: Arrival, queue_us: i64) {
        let queued = queue_us > CATCH_UP_QUEUE_US;
        self.link_bps = match self.link_bps {
            _ if queued || arrival.behind => Some(arrival.bps),
            Some(link_bps) => Some(link_bps.max(arrival.bps.min(self.bps))),
            None => None,
        };
        let (bps, percent) = match self.link_bps {
            None => (arrival.bps, CATCH_UP_OPEN),
            Some(link_bps) => (link_bps, if queued { CATCH_UP_DRAIN } else { CATCH_UP_STEADY }),
        };
        self.bps = (bps.saturating_mul(percent) / 100).clamp(CATCH_UP_BPS_MIN, self.most_bps);
    }
}

/// A subscriber's pacer and what it goes by.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) pacer: Pacer,
    catch_up: Option<CatchUp>,
    /// Before there are reports the handshake says what is known of the round trip.
    near: bool,
    /// One for all that goes to the peer: made with transport-wide numbers, or with the first REMB.
    estimator: Option<Box<Estimator>>,
    numbered: bool,
    /// The link takes less than the source sends.
    limited: bool,
    /// What the source sends.
    needs_bps: u64,
    /// Something is left for the next slice, and how long the oldest of it has waited.
    waits: bool,
    waits_us: i64,
    /// Since when the link's queue grows, and more is lost than chance loses.
    grows: Option<Time>,
    lossy: Option<Time>,
}

impl Sending {
    /// `numbered`: packets carry transport-wide numbers.
    pub(crate) fn new(paced: bool, numbered: bool, now: Time) -> Sending {
        Sending {
            pacer: Pacer::new(paced),
            catch_up: None,
            near: false,
            estimator: numbered.then(|| Box::new(Estimator::new(now))),
            numbered,
            limited: false,
            needs_bps: 0,
            waits: false,
            waits_us: 0,
            grows: None,
            lossy: None,
        }
    }

    /// How long the handshake took, in microseconds.
    pub(crate) fn handshake_took(&mut self, us: i64) {
        self.near = us < NEAR_US;
    }

    /// A forwarder begins to send the ring's last GOP.
    pub(crate) fn catch_up(&mut self, ring: &Ring, now: Time) {
        if self.catch_up.is_some() {
            return; // it goes on
        }
        let Some(first) = ring.key().and_then(|key| ring.get(key)) else { return };
        let bits = ring.bytes_from(first.seq) as u64 * 8;
        let soon = (bits * 1_000_000 / CATCH_UP_US).clamp(CATCH_UP_BPS_MIN, CATCH_UP_BPS);
        let took_us = now.since(first.arrival).max(1_000_000) as u64;
        let multiple_bps = bits * 1_000_000 / took_us * CATCH_UP_RATE;
        let most_bps = soon.max(multiple_bps);
        // What the link takes is known from before, if anything came of it.
        let known_bps = self.estimator.as_ref().filter(|it| it.is_heard()).map(|it| it.target_bps());
        let bps = match known_bps {
            _ if !self.numbered => most_bps,
            Some(bps) => bps.max(multiple_bps / CATCH_UP_RATE),
            None if self.near => multiple_bps,
            // Until feedback came what waits on a narrow link grows no more.
            None => CATCH_UP_BPS_MIN,
        };
        let bps = bps.clamp(CATCH_UP_BPS_MIN, most_bps);
        self.catch_up = Some(CatchUp { bps, most_bps, link_bps: None });
        self.limit(now);
        let first_bytes = if self.near { FIRST_BYTES_NEAR } else { FIRST_BYTES };
        self.pacer.grant(match known_bps {
            Some(bps) => first_bytes.min((bps / FIRST_PER_S) as usize),
            None => first_bytes,
        });
    }

    /// A receiver's own estimate.
    pub(crate) fn remb(&mut self, bps: u64, now: Time) {
        if self.pacer.is_on() {
            self.estimator.get_or_insert_with(|| Box::new(Estimator::new(now))).on_remb(bps, now);
            self.judge(now);
        }
    }

    /// How long packets have gone out that nothing answered, in microseconds.
    pub(crate) fn unanswered_us(&self, now: Time) -> i64 {
        let since = self.estimator.as_ref().and_then(|estimator| estimator.unanswered());
        since.map_or(0, |since| now.since(since))
    }

    /// When the estimator wants to be asked again.
    pub(crate) fn next_poll(&self) -> Time {
        self.estimator.as_ref().map_or(Time::MAX, |estimator| estimator.next_poll())
    }

    /// Whether the link takes less than the source sends.
    fn judge(&mut self, now: Time) {
        let Some(estimator) = &self.estimator else { return };
        // What a path loses by chance it does not lack.
        let arrives = 1.0 - estimator.loss().clamp(0.0, 0.5);
        let (target_bps, needs_bps) = (estimator.target_bps(), (self.needs_bps as f64 * arrives) as u64);
        // Until something was seen to be too much, the estimate is a guess: a queue that grows, or loss that lasts. An outage is neither.
        let lossy = estimator.loss() >= LOSS_MAX;
        self.lossy = if lossy { self.lossy.or(Some(now)) } else { None };
        self.grows = if estimator.congested() { self.grows.or(Some(now)) } else { None };
        let lasts = |since: Option<Time>, us: i64| since.is_some_and(|since| now.since(since) >= us);
        let far_short = target_bps < needs_bps * FAR_SHORT_PERCENT / 100;
        let seen = estimator.told_bps().is_some_and(|bps| bps < needs_bps)
            || lasts(self.grows, if far_short { 0 } else { GROWS_US })
            || lasts(self.lossy, LOSSY_US)
            || self.catch_up.is_some_and(|it| it.link_bps.is_some_and(|bps| bps < needs_bps));
        self.limited = match self.limited {
            false => seen && target_bps < needs_bps * SHORT_PERCENT / 100,
            // What waited meanwhile goes under the limit, too.
            true => self.waits || target_bps < needs_bps * ENOUGH_PERCENT / 100,
        };
        if let Some(estimator) = &mut self.estimator {
            estimator.set_paced(self.limited);
        }
        self.limit(now);
    }

    /// What the link takes.
    fn link(&self) -> Link {
        match self.catch_up {
            _ if self.limited => Link::Limited,
            Some(CatchUp { link_bps: Some(_), .. }) => Link::Full,
            _ => Link::Wide,
        }
    }

    fn limit(&mut self, now: Time) {
        let link = self.estimator.as_ref().filter(|_| self.limited).map(|estimator| {
            let (here, link) = (self.waits_us / HERE_US_PERCENT, estimator.queue_us() / LINK_US_PERCENT);
            let percent = (LIMIT_PERCENT + here - link).clamp(LIMIT_PERCENT_MIN, LIMIT_PERCENT_MAX);
            (estimator.target_bps() * percent as u64 / 100).max(1)
        });
        let limit = match (link, self.catch_up) {
            (Some(link), Some(catch_up)) => Some(link.min(catch_up.bps)),
            (link, catch_up) => link.or(catch_up.map(|it| it.bps)),
        };
        self.pacer.limit(limit, now);
    }
}

impl Subscriber {
    /// What a track just got, for the forwarder at `index`: sent, or left for the pacer. Returns whether [`Subscriber::pace`] is due.
    pub(crate) fn fresh<E: Egress>(
        &mut self,
        index: usize,
        ring: &Ring,
        fresh: &[u64],
        way: Way<'_, E>,
    ) -> Result<bool, CloseReason> {
        let forwarder = &mut self.forwarders[index].forwarder;
        let sound = forwarder.media.kind == Kind::Audio;
        if !sound && forwarder.starts_behind(ring, fresh) {
            self.sending.catch_up(ring, way.now);
        }
        let link = self.sending.link();
        let Sending { pacer, estimator, numbered, .. } = &mut self.sending;
        let (estimator, numbered) = (estimator.as_deref_mut(), *numbered);
        let way = &mut Way { estimator, numbered, probe: pacer.probe(), ..way };
        let behind = forwarder.is_behind();
        let selects = forwarder.temporal().is_some();
        let passes =
            sound || (!behind && !selects && pacer.repairs.is_empty() && pacer.pass(fresh.len(), way.now));
        for packet in fresh.iter().filter_map(|seq| ring.get(*seq)) {
            let waited = forwarder.awaits_key_frame();
            let sent = match forwarder.admit(packet) {
                Ok(false) if selects => {
                    pacer.begin(forwarder.interval_us(packet), way.now);
                    continue;
                }
                Ok(false) => continue,
                // Where a key frame's first packet is late, the others are in the ring.
                Ok(true) if !passes || (waited && ring.head() > Some(packet.seq)) => {
                    let interval_us = forwarder.interval_us(packet);
                    if forwarder.wait(packet) {
                        pacer.begin(interval_us, way.now);
                        continue;
                    }
                    forwarder.send(packet, way)
                }
                Ok(true) => forwarder.send(packet, way),
                Err(why) => Err(why),
            };
            match sent {
                Ok(()) => pacer.spend(packet.payload.len()),
                Err(DropReason::CodecNotNegotiated) => {
                    return Err(CloseReason::CodecNotNegotiated(packet.codec));
                }
                Err(reason) => {
                    way.metrics.dropped(reason);
                    forwarder.sent.frames_dropped += u64::from(packet.marker && !sound);
                }
            }
        }
        if !forwarder.is_behind() || pacer.scheduled || !pacer.repairs.is_empty() {
            return Ok(forwarder.is_behind());
        }
        pacer.open(forwarder.waiting(ring), way.now);
        match forwarder.advance(ring, pacer, link, way) {
            Ok(()) => {}
            Err(DropReason::CodecNotNegotiated) => {
                return Err(not_negotiated(ring));
            }
            Err(reason) => way.metrics.dropped(reason),
        }
        Ok(forwarder.waiting(ring) > 0)
    }

    /// The next slice: retransmissions, then video, then what a probe wants beyond that. Returns whether something is left.
    pub(crate) fn pace<E: Egress>(
        &mut self,
        tracks: &mut Slab<Track>,
        stats: &PeerStats,
        way: Way<'_, E>,
    ) -> Result<bool, CloseReason> {
        let now = way.now;
        let link = self.sending.link();
        let Sending { pacer, estimator, numbered, .. } = &mut self.sending;
        let (estimator, numbered) = (estimator.as_deref_mut(), *numbered);
        let way = &mut Way { estimator, numbered, probe: pacer.probe(), ..way };
        let waiting = |s: &Subscribed| s.forwarder.waiting(&tracks[s.track].ring);
        let media: usize = self.forwarders.iter().map(waiting).sum();
        pacer.open(media + pacer.repairs.len(), way.now);
        while pacer.has_room() {
            let Some(repair) = pacer.repairs.pop_front() else { break };
            let subscribed = &mut self.forwarders[usize::from(repair.forwarder)];
            pacer.spend(usize::from(repair.cost));
            let sent = subscribed.forwarder.repair(repair, &tracks[subscribed.track].ring, way);
            if let Err(reason) = sent {
                way.metrics.dropped(reason);
            }
        }
        let mut left = !pacer.repairs.is_empty();
        let (mut catching_up, mut waits_us) = (false, 0);
        for subscribed in &mut self.forwarders {
            let (forwarder, track) = (&mut subscribed.forwarder, &mut tracks[subscribed.track]);
            if !forwarder.is_behind() {
                continue;
            }
            match forwarder.advance(&track.ring, pacer, link, way) {
                Ok(()) => {}
                Err(DropReason::CodecNotNegotiated) => {
                    return Err(not_negotiated(&track.ring));
                }
                Err(reason) => way.metrics.dropped(reason),
            }
            if forwarder.awaits_key_frame() {
                track.key_frames.want();
            }
            left |= forwarder.waiting(&track.ring) > 0;
            catching_up |= forwarder.is_catching_up();
            let waits = forwarder.oldest(&track.ring).map_or(0, |oldest| way.now.since(oldest.arrival));
            stats.queue_us.store(waits, Ordering::Relaxed);
            // What a catch-up sends is old, but has not waited.
            waits_us = waits_us.max(if forwarder.is_catching_up() { 0 } else { waits });
        }
        while pacer.wants_more() {
            let video = self.forwarders.iter_mut().find(|s| s.forwarder.media.kind == Kind::Video);
            match video.map(|s| s.forwarder.probe(&tracks[s.track].ring, self.rtt_us, way)) {
                Some(Ok(bytes)) if bytes > 0 => pacer.probed(bytes),
                _ => pacer.end_probe(),
            }
        }
        (self.sending.waits, self.sending.waits_us) = (left, waits_us);
        left |= self.sending.pacer.probe().is_some();
        if !catching_up && self.sending.catch_up.take().is_some() {
            self.sending.limit(now);
        }
        Ok(left)
    }

    /// Transport-wide feedback. What it says is lost goes again without being asked for, as the request may be lost, too: on paths that lose both
    /// ways, each answer stands on two legs.
    pub(crate) fn feedback(&mut self, fci: &[u8], tracks: &Slab<Track>, now: Time) -> Result<(), DropReason> {
        let Some(estimator) = &mut self.sending.estimator else { return Ok(()) };
        let (mut lost, mut count) = ([(0, Time::ZERO); LOST_MAX], 0);
        let read = estimator.on_feedback(fci, now, |number, sent| {
            if let Some(slot) = lost.get_mut(count) {
                (*slot, count) = ((number, sent), count + 1);
            }
        });
        if let (Some(catch_up), Some(arrival)) = (&mut self.sending.catch_up, estimator.arrival()) {
            catch_up.follow(arrival, estimator.queue_us());
            // What a peer says is believed as far as it is of use.
            let of_use_bps = self.sending.needs_bps / 100 * DEMAND_PERCENT;
            estimator.carries(catch_up.link_bps.unwrap_or(0).min(of_use_bps), now);
        }
        self.sending.judge(now);
        let video = self.forwarders.iter().position(|s| s.forwarder.media.kind == Kind::Video);
        let Some(index) = video.filter(|_| count > 0) else { return read.map_err(malformed) };
        let (subscribed, pacer) = (&mut self.forwarders[index], &mut self.sending.pacer);
        let (forwarder, ring) = (&mut subscribed.forwarder, &tracks[subscribed.track].ring);
        for (number, sent) in lost.into_iter().take(count) {
            if let Ok(repair) = forwarder.repair_for(number, Some(sent), ring, self.rtt_us, now, index as u8)
            {
                // What was asked for goes before this.
                if forwarder.is_over_budget() || pacer.repairs.len() >= REPAIRS_MAX {
                    forwarder.give_up(repair);
                    break;
                }
                pacer.repairs.push_back(repair);
                pacer.begin(0, now);
            }
        }
        read.map_err(malformed)
    }

    /// A NACK: what is worth it waits for its turn. The oldest give way when the budget is short; a picture needs those, so then it is the
    /// forwarder's index that is returned: a key frame is what helps.
    pub(crate) fn nack(
        &mut self,
        ssrc: u32,
        seqs: &[u16],
        tracks: &Slab<Track>,
        metrics: &ShardMetrics,
        stats: &PeerStats,
        now: Time,
    ) -> Option<usize> {
        let index = self.forwarders.iter().position(|s| s.forwarder.ssrc == ssrc)?;
        let mut gave_up = false;
        let (subscribed, pacer) = (&mut self.forwarders[index], &mut self.sending.pacer);
        let forwarder = &mut subscribed.forwarder;
        for &seq in seqs {
            let ring = &tracks[subscribed.track].ring;
            match forwarder.repair_for(seq, None, ring, self.rtt_us, now, index as u8) {
                Ok(repair) => pacer.repairs.push_back(repair),
                Err(reason) => {
                    metrics.dropped(reason);
                    let missed = reason == DropReason::ResendMissing;
                    bump(if missed { &stats.nacks_missed } else { &stats.nacks_refused }, 1);
                }
            }
            while forwarder.is_over_budget() || pacer.repairs.len() > REPAIRS_MAX {
                let oldest = pacer.repairs.iter().position(|r| usize::from(r.forwarder) == index);
                let Some(oldest) = oldest.and_then(|at| pacer.repairs.remove(at)) else { break };
                forwarder.give_up(oldest);
                gave_up = true;
                metrics.dropped(DropReason::ResendRefused);
                bump(&stats.nacks_refused, 1);
            }
        }
        if !pacer.repairs.is_empty() {
            pacer.begin(0, now);
        }
        (gave_up && forwarder.media.kind == Kind::Video).then_some(index)
    }

    /// A report block. Sound is sent in spite of everything, so the loss of pictures is what counts.
    pub(crate) fn report_about(&mut self, ssrc: u32, fraction_lost: u8, now: Time) {
        let about = self.forwarders.iter().find(|s| s.forwarder.ssrc == ssrc);
        let counts =
            about.is_some_and(|s| s.forwarder.media.kind == Kind::Video) || self.forwarders.len() == 1;
        if let Some(estimator) = self.sending.estimator.as_mut().filter(|_| counts && self.rtt_us > 0) {
            estimator.on_report(fraction_lost, self.rtt_us, now);
        }
    }

    /// When [`Subscriber::estimate`] is due after it was done at `now`.
    pub(crate) fn next_estimate(&self, now: Time) -> Time {
        let holds = self.forwarders.iter().any(|s| s.forwarder.holds_for_key_frame());
        self.sending.next_poll().min(if holds { now.plus_us(HOLDS_US) } else { Time::MAX })
    }

    /// Whether the estimate is a good deal below what the choice of an encoding last went by.
    pub(crate) fn estimate_fell(&self) -> bool {
        let bps = self.sending.estimator.as_ref().map(|estimator| estimator.target_bps());
        bps.is_some_and(|bps| bps < self.layers.estimate_bps / 100 * FELL_PERCENT)
    }

    /// What the estimator does by time, and what follows from it. `best_bps` is what the richest encoding of the source takes, where there are
    /// several: it is probed for. Returns whether [`Subscriber::pace`] is due.
    pub(crate) fn estimate(
        &mut self,
        tracks: &mut Slab<Track>,
        best_bps: u64,
        stats: &PeerStats,
        now: Time,
    ) -> bool {
        let sending = &mut self.sending;
        let mut resumes = false;
        if let Some(estimator) = &mut sending.estimator {
            let needs_bps: u64 = self.forwarders.iter().map(|s| tracks[s.track].meter.bps(now)).sum();
            sending.needs_bps = needs_bps.min(self.layers.takes_bps);
            // A catch-up shows what the link takes as well as a probe would.
            let probes = sending.catch_up.is_none();
            estimator.set_demand(if probes {
                sending.needs_bps.max(best_bps) * DEMAND_PERCENT / 100
            } else {
                0
            });
            if let Some(probe) = estimator.poll(now) {
                sending.pacer.start_probe(probe.id, probe.bps, probe.bytes, now);
                resumes = true;
            }
            stats.estimate_bps.store(estimator.target_bps(), Ordering::Relaxed);
            stats.estimate.store(&estimator.figures());
            self.layers.estimate_bps = estimator.target_bps();
            sending.judge(now);
            stats.needs_bps.store(sending.needs_bps, Ordering::Relaxed);
            stats.limited.store(sending.limited, Ordering::Relaxed);
            self.layers.limited = sending.limited;
        }
        for subscribed in self.forwarders.iter_mut().filter(|s| s.forwarder.holds_for_key_frame()) {
            let track = &mut tracks[subscribed.track];
            match (track.answers(), sending.limited) {
                (true, true) => track.key_frames.want_when_limited(now),
                (true, false) => track.key_frames.want(),
                (false, _) => {}
            }
            // An RTMP source cannot be asked: its picture comes back from the ring.
            if !track.answers() && !sending.limited && subscribed.forwarder.rewind(&track.ring) {
                sending.catch_up(&track.ring, now);
                resumes = true;
            }
        }
        resumes
    }

    /// The receiver has no picture: the ring's GOP is shown again where the source cannot be asked, or is far and the key frame young; else the track is
    /// returned whose source is to be asked. Each receiver is heard as often as its throttle allows, and one whose link takes less than a key frame waits.
    pub(crate) fn lost_picture(
        &mut self,
        index: usize,
        tracks: &mut Slab<Track>,
        now: Time,
    ) -> Option<usize> {
        let subscribed = &mut self.forwarders[index];
        if (self.sending.limited && subscribed.forwarder.holds_for_key_frame())
            || !subscribed.throttle.allow(now)
        {
            return None;
        }
        let track = &mut tracks[subscribed.track];
        let shows_again = !track.answers() || track.answers_itself(now);
        if shows_again && subscribed.forwarder.rewind(&track.ring) {
            self.sending.catch_up(&track.ring, now);
            return None;
        }
        track.key_frames.want();
        Some(subscribed.track)
    }

    /// What its forwarders have sent so far, and whether it is the GOP of the ring.
    pub(crate) fn mark(&self) -> (Sent, bool) {
        self.forwarders
            .iter()
            .map(|s| s.forwarder.mark())
            .fold((Sent::default(), false), |a, b| (a.0.plus(b.0), a.1 | b.1))
    }

    /// The same of what was sent after `before`.
    pub(crate) fn since(&self, before: (Sent, bool)) -> (Sent, bool) {
        let now = self.mark();
        (now.0.since(before.0), now.1 | before.1)
    }

    /// Counts what was sent. A GOP of the ring is out of the rhythm of the pictures.
    pub(crate) fn count(
        &mut self,
        (sent, catching_up): (Sent, bool),
        metrics: &ShardMetrics,
        stats: &PeerStats,
        now: Time,
    ) {
        count_out(metrics, stats, sent);
        if catching_up {
            self.gaps.caught_up(now);
            return;
        }
        if sent.frames > 0 {
            self.gaps.of_layers(self.forwarders.iter().find_map(|s| s.forwarder.temporal()));
        }
        if let Some(freeze_us) = self.gaps.sent(sent.frames, now) {
            bump(&stats.freezes, 1);
            bump(&stats.freeze_us, freeze_us as u64);
            metrics.subscriber_freezes.increment();
        }
    }
}

fn malformed(_: rtc::rtcp::Error) -> DropReason {
    DropReason::RtcpMalformed
}

fn not_negotiated(ring: &Ring) -> CloseReason {
    let newest = ring.key().and_then(|key| ring.get(key));
    newest.map_or(CloseReason::Internal, |packet| CloseReason::CodecNotNegotiated(packet.codec))
}

fn count_out(metrics: &ShardMetrics, stats: &PeerStats, sent: Sent) {
    if sent.packets > 0 {
        bump(&stats.packets_out, sent.packets);
        bump(&stats.bytes_out, sent.wire_bytes);
        metrics.sent_n(PacketKind::Rtp, sent.packets as usize, sent.wire_bytes as usize);
    }
    if sent.resent > 0 {
        bump(&stats.resent, sent.resent);
        bump(&stats.resent_bytes, sent.resent_bytes);
        bump(&stats.resent_unasked, sent.resent_unasked);
        metrics.retransmissions_out.add(sent.resent);
        metrics.retransmitted_bytes_out.add(sent.resent_bytes);
    }
    let frames_dropped = sent.frames_left_out + sent.frames_above + sent.frames_dropped;
    if frames_dropped > 0 {
        bump(&stats.frames_dropped, frames_dropped);
        bump(&stats.frames_congested, sent.frames_left_out);
        bump(&stats.frames_above, sent.frames_above);
        metrics.subscriber_frames_dropped.add(frames_dropped);
    }
    if sent.probe_copies > 0 {
        bump(&stats.probe_copies, sent.probe_copies);
        bump(&stats.probe_copy_bytes, sent.probe_copy_bytes);
        metrics.probe_copies_out.add(sent.probe_copies);
    }
    if sent.padding_bytes > 0 {
        bump(&stats.padding_bytes_out, sent.padding_bytes);
    }
}
