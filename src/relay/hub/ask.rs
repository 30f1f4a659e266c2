//! Uplinks: what their clients may do is asked of the node, with what they gave beside the stream's name, and what it has not allowed does not cross.

use std::collections::{HashMap, HashSet};

use ::relay::control::{Message, Right};
use media::{StreamName, Time};
use metrics::Refusal;
use sfu::CloseReason;
use tokio::sync::oneshot;

use super::offers::link_id;
use super::{Hub, Link};
use crate::auth::Action;
use crate::directory::Held;
use crate::relay::link::{Claimed, FromLink};
use crate::stream::PublishError;
use crate::task;

/// Streams that one uplink may publish, and as many that it may take.
const ALLOWED_MAX: usize = 10_000;
/// Names that are claimed for one uplink at one time: an encoder that is refused comes again.
const CLAIMING_MAX: usize = 64;
/// What was allowed and is not announced for so long is allowed no more, and not claimed: the encoder left before it sent anything, or for good.
const UNUSED_US: i64 = 10_000_000;
/// An encoder goes on for so long while the link is gone: what is published at the node waits so long for it as well (`stream.publisher_grace`). Then it is told.
const PATIENCE_US: i64 = 30_000_000;

/// Who waits for an answer; nobody, when it was asked again for the sake of a new link.
type Waiting = (Right, StreamName, String, Option<oneshot::Sender<Result<(), String>>>);

/// What an uplink has asked.
#[derive(Debug, Default)]
pub(super) struct Asked {
    next: u64,
    waiting: HashMap<u64, Waiting>,
    /// What was allowed, with the query that it was allowed for and its generation: asked again of the next link.
    allowed: HashMap<(Right, StreamName), (String, u64)>,
    /// No link since.
    lost: Option<Time>,
}

/// What a node has allowed an uplink, on one link.
#[derive(Debug, Default)]
pub(super) struct Allowed {
    publish: HashMap<StreamName, Permit>,
    play: HashSet<StreamName>,
    /// Names that the directory is asked for.
    claiming: usize,
}

/// For a stream to be published.
#[derive(Debug)]
struct Permit {
    since: Time,
    /// What the directory has of it: it is this node's there, for uplinks are no nodes.
    claim: Option<Held>,
}

impl Hub {
    fn is_uplink(&self, id: usize) -> bool {
        self.links.get(&id).is_some_and(|link| link.is_uplink)
    }

    /// Whether a peer may do that: nodes may, uplinks what they were allowed.
    pub(super) fn may(&self, id: usize, right: Right, name: &StreamName) -> bool {
        let Some(Link { allowed, .. }) = self.links.get(&id) else { return false };
        let is_allowed = match right {
            Right::Publish => allowed.publish.contains_key(name),
            Right::Play => allowed.play.contains(name),
        };
        is_allowed || !self.is_uplink(id)
    }

    /// An uplink asks. What it asks for again, on a new link, follows at once: so it may from now on, and no more where the directory says so.
    pub(super) fn asked(&mut self, from: usize, id: u64, right: Right, name: StreamName, query: &str) {
        let verdict = self.verdict(from, right, &name, query).and_then(|()| self.allow(from, right, &name));
        match verdict {
            Ok(()) if right == Right::Publish && self.node.directory.get().is_some() => {
                self.claim(from, id, name);
            }
            Ok(()) => self.answer(from, id, 0, String::new()),
            Err((refusal, why)) => {
                self.node.metrics.refused.of(refusal).add(1);
                self.answer(from, id, 0, why);
            }
        }
    }

    fn answer(&self, to: usize, id: u64, generation: u64, refused: String) {
        if let Some(link) = self.links.get(&to) {
            link.say(Message::Answer { id, generation, refused });
        }
    }

    fn allow(&mut self, from: usize, right: Right, name: &StreamName) -> Result<(), (Refusal, String)> {
        let now = self.now();
        let Some(Link { allowed, .. }) = self.links.get_mut(&from) else { return Ok(()) };
        let is_full = match right {
            Right::Publish if allowed.claiming >= CLAIMING_MAX => true,
            Right::Publish => allowed.publish.len() >= ALLOWED_MAX && !allowed.publish.contains_key(name),
            Right::Play => allowed.play.len() >= ALLOWED_MAX && !allowed.play.contains(name),
        };
        if is_full {
            return Err((Refusal::TooMany, "the uplink has too many streams".into()));
        }
        match right {
            // What was claimed for an earlier publisher of it is given back.
            Right::Publish => drop(allowed.publish.insert(name.clone(), Permit { since: now, claim: None })),
            Right::Play => drop(allowed.play.insert(name.clone())),
        }
        Ok(())
    }

    /// Asks the directory for the name.
    fn claim(&mut self, from: usize, ask: u64, name: StreamName) {
        let Some(link) = self.links.get_mut(&from) else { return };
        link.allowed.claiming += 1;
        let (node, to_me) = (self.node.clone(), self.to_me.clone());
        task::spawn(self.node.metrics.clone(), async move {
            let claim = node.claim(&name).await.map_err(|error| error.to_string());
            let _ = to_me.send(FromLink::Claimed(from, Claimed { ask, name, claim })).await;
        });
    }

    /// The directory has said.
    pub(super) fn claimed(&mut self, from: usize, Claimed { ask, name, claim }: Claimed) {
        let now = self.now();
        let Some(Link { allowed, .. }) = self.links.get_mut(&from) else { return };
        allowed.claiming = allowed.claiming.saturating_sub(1);
        match claim {
            Ok(claim) => {
                let generation = claim.as_ref().map_or(0, |claim| claim.generation);
                allowed.publish.insert(name, Permit { since: now, claim });
                self.answer(from, ask, generation, String::new());
            }
            Err(why) => {
                allowed.publish.remove(&name);
                self.offered_no_more(from, &name, u64::MAX);
                self.node.metrics.refused.of(Refusal::NameTaken).add(1);
                self.answer(from, ask, 0, why);
            }
        }
    }

    /// An uplink does not publish it any more, up to that generation.
    pub(super) fn end_claim(&mut self, from: usize, name: &StreamName, generation: u64) {
        let permit = self.links.get_mut(&from).and_then(|link| link.allowed.publish.get_mut(name));
        if let Some(permit) = permit {
            permit.claim.take_if(|claim| claim.generation <= generation);
        }
    }

    /// What uplinks may publish and do not is allowed no more.
    pub(super) fn end_unused(&mut self, now: Time) {
        for (id, Link { allowed, .. }) in &mut self.links {
            let is_there = |name: &StreamName| self.paths.offer(link_id(*id), name).is_some();
            allowed.publish.retain(|name, permit| now.since(permit.since) < UNUSED_US || is_there(name));
        }
    }

    /// With which generation this uplink's node has claimed it.
    pub(super) fn claimed_there(&self, name: &StreamName) -> Option<u64> {
        let (_, generation) = self.asks.allowed.get(&(Right::Publish, name.clone()))?;
        Some(*generation).filter(|generation| *generation > 0)
    }

    /// Whoever publishes it here, or plays it, is sent away.
    pub(super) fn end_clients(&self, right: Right, name: &StreamName, why: CloseReason) {
        let publishes = right == Right::Publish;
        self.node
            .clients
            .end_all(why, |client| client.kind.publishes() == publishes && client.stream == *name);
    }

    fn verdict(
        &self,
        from: usize,
        right: Right,
        name: &StreamName,
        query: &str,
    ) -> Result<(), (Refusal, String)> {
        if !self.is_uplink(from) {
            return Err((Refusal::Unauthorized, "no uplink of this node".into()));
        }
        if *self.node.draining.borrow() {
            return Err((Refusal::Draining, "the node is stopping".into()));
        }
        let action = match right {
            Right::Publish => Action::Publish,
            Right::Play => Action::Play,
        };
        self.node.admit(action, query, None).map_err(|denied| (Refusal::Unauthorized, denied.to_string()))?;
        let publisher = self.node.streams.get(name).and_then(|stream| stream.publisher());
        let is_here = publisher.is_some_and(|of| of.relayed.is_none());
        // Its own, that it asks for again, is not in its way.
        let comes = self.parent(name).filter(|(id, _)| *id != from);
        let at = comes.and_then(|(_, offer)| offer.path.first());
        let taken = match at {
            Some(at) => Some(PublishError::Elsewhere(name.clone(), at.clone())),
            None => is_here.then(|| PublishError::Busy(name.clone())),
        };
        if let Some(why) = taken.filter(|_| right == Right::Publish) {
            return Err((Refusal::NameTaken, why.to_string()));
        }
        Ok(())
    }

    /// A client of this uplink wants something.
    pub(super) fn ask(
        &mut self,
        right: Right,
        name: StreamName,
        query: String,
        answer: oneshot::Sender<Result<(), String>>,
    ) {
        if self.links.is_empty() {
            let _ = answer.send(Err(self.handle.why_down()));
            return;
        }
        self.send_ask((right, name, query, Some(answer)));
    }

    fn send_ask(&mut self, waiting: Waiting) {
        let id = self.asks.next;
        self.asks.next += 1;
        let (right, stream, query, _) = &waiting;
        // An uplink has one peer.
        for link in self.links.values() {
            link.say(Message::Ask { id, right: *right, stream: stream.clone(), query: query.clone() });
        }
        self.asks.waiting.insert(id, waiting);
    }

    pub(super) fn answered(&mut self, id: u64, generation: u64, refused: String) {
        let Some((right, name, query, waiting)) = self.asks.waiting.remove(&id) else { return };
        let key = (right, name);
        let verdict = if refused.is_empty() { Ok(()) } else { Err(refused) };
        match (&verdict, waiting) {
            (Ok(()), Some(waiting)) => {
                self.asks.allowed.insert(key, (query, generation));
                let _ = waiting.send(verdict);
            }
            (Err(_), Some(waiting)) => {
                let _ = waiting.send(verdict);
            }
            (Ok(()), None) => {}
            (Err(why), None) => {
                tracing::warn!(stream = %key.1, why, "the node does not take it any more");
                self.asks.allowed.remove(&key);
                self.end_clients(right, &key.1, CloseReason::Kicked);
            }
        }
    }

    /// A new link: the node has forgotten what it allowed.
    pub(super) fn ask_again(&mut self, now: Time) {
        if let Some(lost) = self.asks.lost.take() {
            let ms = now.since(lost) / 1_000;
            tracing::warn!(
                ms,
                streams = self.published.len(),
                "the link to the node is back; streams go on from their last key frames, what was before is dropped"
            );
        }
        let (published, streams) = (&self.published, &self.node.streams);
        self.asks.allowed.retain(|(right, name), _| match right {
            Right::Publish => published.contains_key(name),
            Right::Play => streams.get(name).is_some_and(|stream| stream.viewers() != [0; 3]),
        });
        let again: Vec<_> = self.asks.allowed.clone().into_iter().collect();
        for ((right, name), (query, _)) in again {
            self.send_ask((right, name, query, None));
        }
    }

    /// The link is gone.
    pub(super) fn lost(&mut self, now: Time) {
        if !self.node.config.cluster.is_uplink || !self.links.is_empty() {
            return;
        }
        self.asks.lost.get_or_insert(now);
        let why = self.handle.why_down();
        for (_, _, _, waiting) in self.asks.waiting.drain().map(|(_, waiting)| waiting) {
            if let Some(waiting) = waiting {
                let _ = waiting.send(Err(why.clone()));
            }
        }
    }

    /// Encoders that sent for nobody long enough are told.
    pub(super) fn give_up(&mut self, now: Time) {
        if self.asks.lost.is_some_and(|lost| now.since(lost) >= PATIENCE_US) && !self.published.is_empty() {
            tracing::warn!(
                why = self.handle.why_down(),
                "the link has been gone for 30 s: publishers are ended"
            );
            self.node.clients.end_all(CloseReason::Kicked, |client| client.kind.publishes());
        }
    }
}
