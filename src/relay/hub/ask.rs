//! Uplinks: what their clients may do is asked of the node, with what they gave beside the stream's name, and what it has not allowed does not cross.

use std::collections::{HashMap, HashSet};

use ::relay::control::{Message, Right};
use media::{StreamName, Time};
use metrics::Refusal;
use sfu::CloseReason;
use tokio::sync::oneshot;

use super::Hub;
use crate::auth::Action;
use crate::stream::PublishError;

/// Streams that one uplink may publish, and as many that it may take.
const ALLOWED_MAX: usize = 10_000;
/// An encoder goes on for so long while the link is gone: what is published at the node waits so long for it as well (`stream.publisher_grace`). Then it is told.
const PATIENCE_US: i64 = 30_000_000;

/// Who waits for an answer; nobody, when it was asked again for the sake of a new link.
type Waiting = (Right, StreamName, String, Option<oneshot::Sender<Result<(), String>>>);

/// What an uplink has asked.
#[derive(Debug, Default)]
pub(super) struct Asked {
    next: u64,
    waiting: HashMap<u64, Waiting>,
    /// What was allowed, with the query that it was allowed for: asked again of the next link.
    allowed: HashMap<(Right, StreamName), String>,
    /// No link since.
    lost: Option<Time>,
}

/// What a node has allowed on a link: streams, by right.
pub(super) type Allowed = [HashSet<StreamName>; 2];

impl Hub {
    fn is_uplink(&self, id: usize) -> bool {
        let uplinks = &self.node.config.cluster.uplinks;
        self.links.get(&id).is_some_and(|link| uplinks.iter().any(|uplink| uplink == link.up.peer.as_str()))
    }

    /// Whether a peer may do that: nodes may, uplinks what they were allowed.
    pub(super) fn may(&self, id: usize, right: Right, name: &StreamName) -> bool {
        let Some(link) = self.links.get(&id) else { return false };
        link.allowed[right as usize].contains(name) || !self.is_uplink(id)
    }

    /// An uplink asks.
    pub(super) fn asked(&mut self, from: usize, id: u64, right: Right, name: StreamName, query: &str) {
        let verdict = self.verdict(from, right, &name, query);
        if let Err((refusal, _)) = &verdict {
            self.node.metrics.refused.of(*refusal).add(1);
        }
        let Some(link) = self.links.get_mut(&from) else { return };
        let refused = match verdict {
            Ok(()) => {
                let allowed = &mut link.allowed[right as usize];
                if allowed.len() < ALLOWED_MAX || allowed.contains(&name) {
                    allowed.insert(name);
                    String::new()
                } else {
                    "the uplink has too many streams".into()
                }
            }
            Err((_, why)) => why,
        };
        link.say(Message::Answer { id, refused });
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
        // Its own, that it asks for again, is not in its way.
        if right == Right::Publish
            && publisher
                .is_some_and(|of| of.relayed.is_none() || self.parent(name).is_none_or(|(id, _)| id != from))
        {
            return Err((Refusal::NameTaken, PublishError::Busy(name.clone()).to_string()));
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

    pub(super) fn answered(&mut self, id: u64, refused: String) {
        let Some((right, name, query, waiting)) = self.asks.waiting.remove(&id) else { return };
        let key = (right, name);
        let verdict = if refused.is_empty() { Ok(()) } else { Err(refused) };
        match (&verdict, waiting) {
            (Ok(()), Some(waiting)) => {
                self.asks.allowed.insert(key, query);
                let _ = waiting.send(verdict);
            }
            (Err(_), Some(waiting)) => {
                let _ = waiting.send(verdict);
            }
            (Ok(()), None) => {}
            (Err(why), None) => {
                tracing::warn!(stream = %key.1, why, "the node does not take it any more");
                self.asks.allowed.remove(&key);
                self.node.clients.end_all(CloseReason::Kicked, |client| {
                    client.stream == key.1 && client.kind.publishes() == (right == Right::Publish)
                });
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
        for ((right, name), query) in again {
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
