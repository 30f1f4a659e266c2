//! Which streams peers have, and by which way they come here and go on.

use ::relay::control::{Form, Message};
use media::{Codec, NodeId, StreamName, Time};

use super::{Hub, Link};
use crate::relay::Announced;

/// Streams that one peer may announce.
const ANNOUNCED_MAX: usize = 10_000;
/// Links that a stream may take from its publisher's node to a viewer's.
const HOPS_MAX: usize = 3;

/// A stream that is taken comes by a shorter way when that has been there for so long: links that come and go move nobody.
const SHORTER_US: i64 = 10_000_000;

/// By which link a stream comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parent {
    link: usize,
    /// A shorter way has been there since.
    longer_since: Option<Time>,
}

impl Parent {
    fn is_long(&self, now: Time) -> bool {
        self.longer_since.is_some_and(|since| now.since(since) >= SHORTER_US)
    }
}

/// An announcement, of a peer or to one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub(super) generation: u64,
    pub(super) form: Form,
    pub(super) codecs: [Option<Codec>; 2],
    /// The nodes that it passed, the origin first and who announces it last.
    pub(super) path: Vec<NodeId>,
}

impl Hub {
    pub(super) fn offered(&mut self, id: usize, name: StreamName, offer: Offer) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let full = link.offers.len() >= ANNOUNCED_MAX && !link.offers.contains_key(&name);
        let looped = offer.path.contains(&self.me) || offer.path.len() > HOPS_MAX;
        if full || looped || offer.path.last() != Some(&link.up.peer) {
            // What it announced before is not so any more.
            link.offers.remove(&name);
        } else {
            link.offers.insert(name.clone(), offer);
        }
        self.choose(&name);
    }

    pub(super) fn offered_no_more(&mut self, id: usize, name: &StreamName, generation: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.offers.get(name).is_some_and(|offer| offer.generation <= generation) {
            link.offers.remove(name);
            self.choose(name);
        }
    }

    /// By which link the stream comes, and what was announced there.
    pub(super) fn parent(&self, name: &StreamName) -> Option<(usize, &Offer)> {
        let id = self.parents.get(name)?.link;
        Some((id, self.links.get(&id)?.offers.get(name)?))
    }

    /// Of the newest generation the shortest way; one that stops only where there is no other. While the stream is taken the way by which it comes, unless
    /// another has been shorter for long.
    fn best(&self, name: &StreamName) -> Option<(usize, &Offer)> {
        let offers = self.links.iter().filter_map(|(id, link)| Some((*id, link, link.offers.get(name)?)));
        let newest = offers.clone().map(|(_, _, offer)| offer.generation).max()?;
        let stays = |of: &&Parent| !of.is_long(self.now()) && self.is_taken(name);
        let parent = self.parents.get(name).filter(stays).map(|of| of.link);
        let order = |(id, link, offer): &(usize, &Link, &Offer)| {
            (link.drains, Some(*id) != parent, offer.path.len(), *id)
        };
        let newest = offers.filter(|(_, _, offer)| offer.generation == newest);
        newest.min_by_key(order).map(|(id, _, offer)| (id, offer))
    }

    /// Of who offers a stream the newest generation counts; the stream here follows it.
    pub(super) fn choose(&mut self, name: &StreamName) {
        let best = self.best(name).map(|(id, best)| (id, best.clone()));
        let generation = best.as_ref().map(|(_, best)| best.generation);
        match best {
            Some((id, Offer { generation, form, codecs, path })) => {
                if self.parents.get(name).is_none_or(|of| of.link != id) {
                    self.parents.insert(name.clone(), Parent { link: id, longer_since: None });
                }
                let announced = Announced { generation, path, form, codecs };
                self.handle.announced.insert(name.clone(), announced);
            }
            None => {
                self.parents.remove(name);
                self.handle.announced.remove(name);
            }
        }
        if let Some(stream) = self.node.streams.get(name) {
            if let Some((source, _)) = stream.relayed().filter(|(_, has)| generation != Some(*has)) {
                self.end_source(source);
                self.layers.remove(&stream.id);
                stream.detach(source);
            }
            self.give_older_no_more(stream.id, generation);
            stream.attach();
            self.follow_parent(name);
        }
        self.announce(name);
    }

    /// A way that has been longer than another for long is left.
    pub(super) fn shorten(&mut self, now: Time) {
        let links = &self.links;
        let shortest = |name: &StreamName, generation: u64| {
            let offers = links.values().filter(|link| !link.drains).filter_map(|link| link.offers.get(name));
            offers.filter(|offer| offer.generation == generation).map(|offer| offer.path.len()).min()
        };
        let mut long = Vec::new();
        for (name, parent) in &mut self.parents {
            let offer = links.get(&parent.link).and_then(|link| link.offers.get(name));
            let longer = offer.is_some_and(|it| shortest(name, it.generation) < Some(it.path.len()));
            parent.longer_since = parent.longer_since.or(Some(now)).filter(|_| longer);
            if parent.is_long(now) {
                long.push(name.clone());
            }
        }
        for name in long {
            self.choose(&name);
        }
    }

    /// Peers hear what is new of the stream: that it is published here, or the best way by which it comes. Not those that are on that way.
    pub(super) fn announce(&mut self, name: &StreamName) {
        let offer = match self.published.get(name) {
            Some(of) => {
                let (generation, form, codecs) = (of.generation, of.form, of.codecs);
                Some(Offer { generation, form, codecs, path: vec![self.me.clone()] })
            }
            None => self.handle.announced.get(name).filter(|best| best.path.len() < HOPS_MAX).map(|best| {
                let path = best.path.iter().chain([&self.me]).cloned().collect();
                Offer { generation: best.generation, form: best.form, codecs: best.codecs, path }
            }),
        };
        for link in self.links.values_mut() {
            let offer = offer.as_ref().filter(|offer| !offer.path.contains(&link.up.peer));
            if link.told.get(name) == offer {
                continue;
            }
            match (link.told.remove(name), offer.cloned()) {
                (_, Some(offer)) => {
                    let Offer { generation, form, codecs, path } = offer.clone();
                    link.say(Message::Announce { stream: name.clone(), generation, form, codecs, path });
                    link.told.insert(name.clone(), offer);
                }
                (Some(told), None) => {
                    link.say(Message::End { stream: name.clone(), generation: told.generation });
                }
                (None, None) => {}
            }
        }
    }
}
