//! By which way streams come here, and what peers hear of them: one node's view.
//!
//! What happens goes in (`link_up`, `offered`, `wanted`, ...), what is to be done comes out of [`Paths::poll`], which is called until it has nothing more:
//! then the answers of [`Paths::parent`] and the others are of now. Equal inputs give equal outputs.
//!
//! Peers offer streams with the nodes that they came through, the origin first. Of the newest generation a node knows the ways by which it could
//! take the stream, and chooses two:
//!
//! - the **short** one, with the fewest links and then the least cost, which it passes on to its peers: so an offer reaches every node that three links reach;
//! - the one that it **takes** the stream by while somebody wants it: the cheapest, or the short one as soon as a peer takes the stream from here, for that
//!   is what the peer was told.
//!
//! Where somebody watches, at the node or behind it, a third is chosen: the **standby**, which is to hold the stream (it keeps it coming, and sends nothing of it).
//! Who takes a stream only because others hold it here holds it nowhere, so holding goes one node up and no further, and ends with the last viewer.
//!
//! A node is never told of a way that it is on, so it cannot take from whom it gives to; with three links at most and ways in full, nodes do not go on
//! offering each other what is gone.

mod actions;
mod cost;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use media::{Need, NodeId, StreamName, Time};

pub use actions::{Action, Refused, Why};
use cost::Cost;
pub use cost::Figures;
use stream::Stream;

/// Links that a stream may take from its publisher's node to a viewer's: so many nodes are in an offer at most. Three of a hundred milliseconds are what
/// live viewers bear.
pub const HOPS_MAX: usize = 3;
/// Streams that one peer may offer: memory. More are not heard, and counted.
pub const OFFERED_MAX: usize = 10_000;
/// Streams that are gone of which it is remembered how new they were, so that no older ones are taken. The first to go is the first forgotten.
pub const FENCES_MAX: usize = 10_000;
/// A way is left for a cheaper one when that was there for so long: links that come and go move nobody.
pub const CHEAPER_US: i64 = 10_000_000;

/// When a way ends, others through the same peer count less for so long: if it is the peer that is gone, who has them says so by then.
pub const LOST_US: i64 = 1_000_000;

/// A connection to a peer; another one has another number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// A stream that somebody has. `T` is what else is said of it and passed on as it is: form and codecs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer<T> {
    /// Rises with each publisher: the content of one generation is the same everywhere.
    pub generation: u64,
    /// The nodes that it came through, the origin first and who offers it last.
    pub path: Vec<NodeId>,
    /// What that way costs, in microseconds.
    pub cost_us: u64,
    /// What else is said of it.
    pub about: T,
}

/// How new a stream is. Of equal generations, which a directory does not give out, the origin decides, everywhere alike.
type Version = (u64, NodeId);

#[derive(Debug)]
struct Link {
    peer: NodeId,
    cost: Cost,
    drains: bool,
    /// Streams that the peer offers.
    offers: BTreeSet<StreamName>,
}

/// See the module.
#[derive(Debug)]
pub struct Paths<T> {
    me: NodeId,
    links: BTreeMap<LinkId, Link>,
    streams: BTreeMap<StreamName, Stream<T>>,
    /// Streams of which something changed; those that somebody takes come first.
    changed: BTreeSet<(bool, StreamName)>,
    /// Streams to look at again at a time.
    due: BTreeSet<(Time, StreamName)>,
    /// What is to be done of one stream.
    actions: VecDeque<Action<T>>,
    /// Streams of which nothing is left but how new they were, the oldest first.
    gone: VecDeque<StreamName>,
    refused: Refused,
}

impl<T: Clone + PartialEq> Paths<T> {
    /// Of a node that has no links so far.
    pub fn new(me: NodeId) -> Paths<T> {
        Paths {
            me,
            links: BTreeMap::new(),
            streams: BTreeMap::new(),
            changed: BTreeSet::new(),
            due: BTreeSet::new(),
            actions: VecDeque::new(),
            gone: VecDeque::new(),
            refused: Refused::default(),
        }
    }

    /// A peer is there. It is told what there is.
    pub fn link_up(&mut self, link: LinkId, peer: NodeId) {
        self.link_down(link);
        let up = Link { peer, cost: Cost::default(), drains: false, offers: BTreeSet::new() };
        self.links.insert(link, up);
        self.all_changed();
    }

    /// The link is no more, and nothing that came or went by it.
    pub fn link_down(&mut self, link: LinkId) {
        if self.links.remove(&link).is_none() {
            return;
        }
        for (name, stream) in &mut self.streams {
            if stream.forget_link(link) {
                self.changed.insert((!stream.is_taken(), name.clone()));
            }
        }
    }

    /// What was measured of the link, each second.
    pub fn link_figures(&mut self, link: LinkId, figures: Figures) {
        let Some(it) = self.links.get_mut(&link) else { return };
        if it.cost.measured(figures) {
            for name in &it.offers {
                let is_taken = self.streams.get(name).is_some_and(Stream::is_taken);
                self.changed.insert((!is_taken, name.clone()));
            }
        }
    }

    /// The peer stops soon: what has another way takes that.
    pub fn link_drains(&mut self, link: LinkId) {
        if let Some(it) = self.links.get_mut(&link) {
            it.drains = true;
            self.all_changed();
        }
    }

    /// A peer offers a stream, which is instead of what it offered of it before.
    pub fn offered(&mut self, link: LinkId, name: &StreamName, offer: Offer<T>) {
        let Some(it) = self.links.get_mut(&link) else { return };
        let (Some(origin), true) = (offer.path.first(), offer.path.last() == Some(&it.peer)) else {
            self.refused.crooked = self.refused.crooked.saturating_add(1);
            return self.withdrawn(link, name);
        };
        if it.offers.len() >= OFFERED_MAX && !it.offers.contains(name) {
            self.refused.full = self.refused.full.saturating_add(1);
            return;
        }
        let version = (offer.generation, origin.clone());
        let stream = self.streams.entry(name.clone()).or_default();
        let is_older = !stream.fence(version);
        let refused = if is_older {
            Some(&mut self.refused.older)
        } else if offer.path.contains(&self.me) {
            Some(&mut self.refused.looped)
        } else if offer.path.len() > HOPS_MAX {
            Some(&mut self.refused.long)
        } else {
            None
        };
        if let Some(refused) = refused {
            *refused = refused.saturating_add(1);
            return self.withdrawn(link, name);
        }
        stream.offers.insert(link, offer);
        it.offers.insert(name.clone());
        self.has_changed(name);
    }

    /// The peer offers the stream no more, up to that generation.
    pub fn ended(&mut self, link: LinkId, name: &StreamName, generation: u64) {
        let offer = self.streams.get(name).and_then(|stream| stream.offers.get(&link));
        if offer.is_some_and(|offer| offer.generation <= generation) {
            self.withdrawn(link, name);
        }
    }

    fn withdrawn(&mut self, link: LinkId, name: &StreamName) {
        if let Some(stream) = self.streams.get_mut(name) {
            stream.withdraw(link);
        }
        if let Some(link) = self.links.get_mut(&link) {
            link.offers.remove(name);
        }
        self.has_changed(name);
    }

    /// The stream is published at this node, or what is said of it is new. A generation that is older than what was heard of is answered by [`Action::Fenced`].
    pub fn published(&mut self, name: &StreamName, generation: u64, about: T) {
        let stream = self.streams.entry(name.clone()).or_default();
        stream.fence((generation, self.me.clone()));
        stream.published = Some(Offer { generation, path: vec![self.me.clone()], cost_us: 0, about });
        stream.is_fenced = false;
        self.has_changed(name);
    }

    /// The publisher left.
    pub fn left(&mut self, name: &StreamName) {
        if let Some(stream) = self.streams.get_mut(name) {
            (stream.published, stream.is_fenced) = (None, false);
            self.has_changed(name);
        }
    }

    /// This node takes the stream for itself, or no more. What its peers need is known by [`Paths::gives`].
    pub fn wanted(&mut self, name: &StreamName, need: Option<Need>) {
        if (need.is_some() || self.streams.contains_key(name))
            && std::mem::replace(&mut self.streams.entry(name.clone()).or_default().wanted, need) != need
        {
            self.has_changed(name);
        }
    }

    /// A peer subscribes. It may where it was told of that generation, and what it was told still
    /// holds: then the stream is taken as announced, until [`Paths::gives_no_more`] or an [`Action::End`] to that link.
    pub fn gives(&mut self, link: LinkId, name: &StreamName, generation: u64, need: Need) -> bool {
        let Some(stream) = self.streams.get_mut(name) else { return false };
        let may = stream.told.get(&link).is_some_and(|told| told.generation == generation);
        if may && stream.given.insert(link, need) != Some(need) {
            self.has_changed(name);
        }
        may
    }

    /// A peer that takes the stream needs it for something else.
    pub fn needs(&mut self, link: LinkId, name: &StreamName, need: Need) {
        let given = self.streams.get_mut(name).and_then(|stream| stream.given.get_mut(&link));
        if given.is_some_and(|given| std::mem::replace(given, need) != need) {
            self.has_changed(name);
        }
    }

    /// A peer takes the stream no more.
    pub fn gives_no_more(&mut self, link: LinkId, name: &StreamName) {
        if self.streams.get_mut(name).is_some_and(|stream| stream.given.remove(&link).is_some()) {
            self.has_changed(name);
        }
    }

    /// The way that the stream comes by, or would if it were wanted.
    pub fn best(&self, name: &StreamName) -> Option<(LinkId, &Offer<T>)> {
        let stream = self.streams.get(name)?;
        let link = self.parent(name).or_else(|| stream.cheapest(&self.links))?;
        Some((link, stream.offers.get(&link)?))
    }

    /// The link that the stream is taken by.
    pub fn parent(&self, name: &StreamName) -> Option<LinkId> {
        self.streams.get(name)?.parent()
    }

    /// What the stream is taken from its parent for.
    pub fn need(&self, name: &StreamName) -> Need {
        self.streams.get(name).map_or(Need::Spare, Stream::need)
    }

    /// The link that it would be taken by if that one went down: not through the same peer, and of one that stays. There is one while somebody watches.
    pub fn standby(&self, name: &StreamName) -> Option<LinkId> {
        self.streams.get(name)?.standby
    }

    /// What that link offers of it.
    pub fn offer(&self, link: LinkId, name: &StreamName) -> Option<&Offer<T>> {
        self.streams.get(name)?.offers.get(&link)
    }

    /// Streams that come, or could, by that link.
    pub fn offers_of(&self, link: LinkId) -> impl Iterator<Item = &StreamName> {
        self.links.get(&link).into_iter().flat_map(|link| &link.offers)
    }

    /// The newest generation that was heard of, be it here or gone: who publishes without a directory takes a higher one.
    pub fn newest(&self, name: &StreamName) -> Option<u64> {
        self.streams.get(name)?.newest()
    }

    /// Offers that were not heard.
    pub fn refused(&self) -> Refused {
        self.refused
    }

    /// What is to be done next. `now` does not go back.
    pub fn poll(&mut self, now: Time) -> Option<Action<T>> {
        while let Some((at, _)) = self.due.first()
            && *at <= now
            && let Some((_, name)) = self.due.pop_first()
        {
            self.has_changed(&name);
        }
        while self.actions.is_empty() {
            let (_, name) = self.changed.pop_first()?;
            self.settle(name, now);
        }
        self.actions.pop_front()
    }

    /// When there may be something to do, if nothing else happens before.
    pub fn deadline(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    fn has_changed(&mut self, name: &StreamName) {
        let is_taken = self.streams.get(name).is_some_and(Stream::is_taken);
        self.changed.insert((!is_taken, name.clone()));
    }

    fn all_changed(&mut self) {
        self.changed.extend(self.streams.iter().map(|(name, it)| (!it.is_taken(), name.clone())));
    }

    fn settle(&mut self, name: StreamName, now: Time) {
        let Some(stream) = self.streams.get_mut(&name) else { return };
        if let Some(due) = stream.due.take() {
            self.due.remove(&(due, name.clone()));
        }
        for link in stream.drop_older() {
            if let Some(link) = self.links.get_mut(&link) {
                link.offers.remove(&name);
            }
        }
        stream.settle(&name, &self.me, &self.links, now, &mut self.actions);
        if let Some(due) = stream.due {
            self.due.insert((due, name.clone()));
        }
        if stream.is_blank() {
            self.streams.remove(&name);
        } else if stream.is_over() && !std::mem::replace(&mut stream.is_gone, true) {
            self.gone.push_back(name);
        }
        while self.gone.len() > FENCES_MAX
            && let Some(name) = self.gone.pop_front()
            && let Some(stream) = self.streams.get_mut(&name)
        {
            stream.is_gone = false;
            if stream.is_over() {
                self.streams.remove(&name);
            }
        }
    }
}
