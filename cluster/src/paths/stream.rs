//! The ways of one stream, and which of them counts.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use media::{Need, NodeId, StreamName, Time};

use super::cost::is_better;
use super::{Action, CHEAPER_US, HOPS_MAX, LOST_US, Link, LinkId, Offer, Version, Why};

/// A way that was chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Chosen {
    link: LinkId,
    /// Whose link that is: it may be down.
    peer: NodeId,
    version: Version,
    /// Another is better since.
    better_since: Option<Time>,
    /// It was there no more for a moment: what was sent by it comes no more.
    is_broken: bool,
}

/// A way that could be chosen.
#[derive(Clone, Copy, Debug)]
struct Way<'a, T> {
    link: LinkId,
    peer: &'a NodeId,
    offer: &'a Offer<T>,
    /// What is against it, the worst first: it leads through a peer that takes the stream from here (what that said is old); through a node that was
    /// just lost; a node on it stops. Of the origin neither counts: all ways begin there.
    against: [bool; 3],
    cost_us: u64,
}

/// What is better.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Cost,
    Length,
}

impl<T> Way<'_, T> {
    fn order(&self, other: &Self, by: By) -> Ordering {
        let len = |way: &Self| if by == By::Length { way.offer.path.len() } else { 0 };
        let key = |way: &Self| (way.against, len(way), way.cost_us, way.offer.path.len(), way.link);
        key(self).cmp(&key(other))
    }
}

#[derive(Debug)]
pub(super) struct Stream<T> {
    pub(super) offers: BTreeMap<LinkId, Offer<T>>,
    pub(super) published: Option<Offer<T>>,
    /// It is published here, and another node has a newer publisher: who watches here watches this one, so the newer one does not go through here.
    pub(super) is_fenced: bool,
    /// The newest that was heard of; all offers are of it.
    fence: Option<Version>,
    /// What this node itself takes it for.
    pub(super) wanted: Option<Need>,
    /// Peers that take it from here, or hold it, and what for.
    pub(super) given: BTreeMap<LinkId, Need>,
    /// What peers were told.
    pub(super) told: BTreeMap<LinkId, Offer<T>>,
    short: Option<Chosen>,
    taken: Option<Chosen>,
    /// What the parent was told that it is taken for.
    needed: Need,
    pub(super) standby: Option<LinkId>,
    /// Whom it was taken from when that ended, and until when ways through that node count less.
    lost: Option<(NodeId, Time)>,
    /// When it is to be looked at again.
    pub(super) due: Option<Time>,
    /// It waits to be forgotten.
    pub(super) is_gone: bool,
}

impl<T> Default for Stream<T> {
    fn default() -> Stream<T> {
        Stream {
            offers: BTreeMap::new(),
            published: None,
            is_fenced: false,
            fence: None,
            wanted: None,
            given: BTreeMap::new(),
            told: BTreeMap::new(),
            short: None,
            taken: None,
            needed: Need::Spare,
            standby: None,
            lost: None,
            due: None,
            is_gone: false,
        }
    }
}

fn version_of<T>(offer: &Offer<T>) -> Option<Version> {
    Some((offer.generation, offer.path.first()?.clone()))
}

impl<T> Stream<T> {
    pub(super) fn is_taken(&self) -> bool {
        self.wanted.is_some() || !self.given.is_empty()
    }

    /// Somebody watches, here or behind a peer; else it is for who holds it, or lingers.
    pub(super) fn need(&self) -> Need {
        let all = self.given.values().copied().chain(self.wanted);
        if all.max() == Some(Need::Watched) { Need::Watched } else { Need::Spare }
    }

    pub(super) fn parent(&self) -> Option<LinkId> {
        self.taken.as_ref().map(|taken| taken.link)
    }

    pub(super) fn newest(&self) -> Option<u64> {
        self.fence.as_ref().map(|(generation, _)| *generation)
    }

    /// Nothing is known of it.
    pub(super) fn is_blank(&self) -> bool {
        self.is_over() && self.fence.is_none()
    }

    /// Nothing is left but the fence.
    pub(super) fn is_over(&self) -> bool {
        let is_here = self.published.is_some() || self.is_fenced;
        self.offers.is_empty() && self.told.is_empty() && !is_here && !self.is_taken()
    }

    /// Whether that is as new as anything that was heard of, which it is from now on.
    pub(super) fn fence(&mut self, version: Version) -> bool {
        let is_new = self.fence.as_ref().is_none_or(|fence| version >= *fence);
        if is_new {
            self.fence = Some(version);
        }
        is_new
    }

    /// Offers of generations that are over.
    pub(super) fn drop_older(&mut self) -> Vec<LinkId> {
        let fence = &self.fence;
        let older = self.offers.extract_if(.., |_, offer| version_of(offer) != *fence);
        older.map(|(link, _)| link).collect()
    }

    /// A peer offers it no more, or something else.
    pub(super) fn withdraw(&mut self, link: LinkId) {
        self.offers.remove(&link);
        for chosen in [&mut self.short, &mut self.taken].into_iter().flatten() {
            chosen.is_broken |= chosen.link == link;
        }
    }

    /// Whether that changed anything.
    pub(super) fn forget_link(&mut self, link: LinkId) -> bool {
        let offered = self.offers.remove(&link).is_some();
        let told = self.told.remove(&link).is_some();
        self.given.remove(&link);
        if self.standby == Some(link) {
            // It is what is switched to when another goes down in the same moment.
            self.standby = None;
        }
        offered || told
    }

    /// What it would be taken by.
    pub(super) fn cheapest(&self, links: &BTreeMap<LinkId, Link>) -> Option<LinkId> {
        self.ways(links).into_iter().min_by(|a, b| a.order(b, By::Cost)).map(|way| way.link)
    }

    /// The ways there are.
    fn ways<'a>(&'a self, links: &'a BTreeMap<LinkId, Link>) -> Vec<Way<'a, T>> {
        // Who holds it here takes it by another way: what that said is true.
        let taken = self.given.iter().filter(|(_, need)| **need != Need::Held);
        let takes: Vec<&NodeId> = taken.filter_map(|(id, _)| Some(&links.get(id)?.peer)).collect();
        let drains = |node: &NodeId| links.values().any(|link| link.drains && link.peer == *node);
        let way = |(link, offer): (&LinkId, &'a Offer<T>)| {
            let it = links.get(link)?;
            let takes = offer.path.iter().any(|node| takes.contains(&node));
            let mut passed = offer.path.iter().skip(1);
            let lost = self.lost.as_ref().is_some_and(|(lost, _)| passed.clone().any(|node| node == lost));
            let drains = passed.any(drains);
            let cost_us = offer.cost_us.saturating_add(it.cost.us);
            Some(Way { link: *link, peer: &it.peer, offer, against: [takes, lost, drains], cost_us })
        };
        self.offers.iter().filter_map(way).collect()
    }
}

impl<T: Clone + PartialEq> Stream<T> {
    /// Decides anew; what follows from that is to be done.
    pub(super) fn settle(
        &mut self,
        name: &StreamName,
        me: &NodeId,
        links: &BTreeMap<LinkId, Link>,
        now: Time,
        actions: &mut VecDeque<Action<T>>,
    ) {
        if let Some(old) = self.published.take_if(|here| version_of(here) != self.fence) {
            self.is_fenced = true;
            actions.push_back(Action::Fenced { stream: name.clone(), generation: old.generation });
        }
        self.lost = self.lost.take().filter(|(_, until)| now < *until && !self.offers.is_empty());
        if let Some(peer) = [&self.taken, &self.short].into_iter().flatten().find_map(|it| self.lost_peer(it))
            && !self.offers.is_empty()
        {
            self.lost = Some((peer, now.plus_us(LOST_US)));
        }
        let was_short = self.short.as_ref().map(|short| short.link);
        let (short, why_short) = self.choose(self.short.as_ref(), By::Length, links, now);
        self.short = short;
        // Peers that are on that way hear first that it is none of theirs: they take it from here no more.
        self.tell(name, me, links, actions);
        let was = self.taken.take();
        let (taken, why) = if !self.given.is_empty() {
            let followed = was.as_ref().map(|was| was.link) == was_short;
            (self.short.clone(), if followed { why_short } else { Why::Shorter })
        } else if self.wanted.is_some() {
            self.choose(was.as_ref(), By::Cost, links, now)
        } else {
            (None, Why::Gone)
        };
        self.taken = taken;
        self.go_over(name, was, why, links, actions);
        let chosen = [&self.short, &self.taken];
        let better_since = chosen.into_iter().flatten().filter_map(|it| it.better_since);
        let cheaper = better_since.map(|since| since.plus_us(CHEAPER_US));
        self.due = cheaper.chain(self.lost.as_ref().map(|(_, until)| *until)).min();
    }

    /// Of the ways the best, where the one so far has no right to stay; and why that is left.
    fn choose(
        &self,
        was: Option<&Chosen>,
        by: By,
        links: &BTreeMap<LinkId, Link>,
        now: Time,
    ) -> (Option<Chosen>, Why) {
        let ways = self.ways(links);
        let Some(best) = ways.iter().min_by(|a, b| a.order(b, by)) else { return (None, Why::Gone) };
        let chosen = |way: &Way<T>| {
            let (link, peer, version) = (way.link, way.peer.clone(), version_of(way.offer)?);
            Some(Chosen { link, peer, version, better_since: None, is_broken: false })
        };
        let Some(was) = was.filter(|was| self.is_there(was)) else {
            let failed = was.is_some_and(|was| Some(&was.version) == self.fence.as_ref());
            let standby = ways.iter().find(|way| Some(way.link) == self.standby && failed);
            return (chosen(standby.unwrap_or(best)), Why::Gone);
        };
        let Some(is) = ways.iter().find(|way| way.link == was.link) else {
            return (chosen(best), Why::Gone);
        };
        if best.against < is.against {
            return (chosen(best), Why::Drains);
        }
        if by == By::Length && best.offer.path.len() < is.offer.path.len() {
            return (chosen(best), Why::Shorter);
        }
        if !is_better(best.cost_us, is.cost_us) {
            return (Some(Chosen { better_since: None, ..was.clone() }), Why::Cheaper);
        }
        let since = was.better_since.unwrap_or(now);
        if now.since(since) >= CHEAPER_US {
            return (chosen(best), Why::Cheaper);
        }
        (Some(Chosen { better_since: Some(since), ..was.clone() }), Why::Cheaper)
    }

    /// It is still offered as it was.
    fn is_there(&self, chosen: &Chosen) -> bool {
        let offer = self.offers.get(&chosen.link).filter(|_| !chosen.is_broken);
        offer.is_some_and(|offer| version_of(offer).as_ref() == Some(&chosen.version))
    }

    /// Whose offer that was, if it ended while the stream goes on.
    fn lost_peer(&self, chosen: &Chosen) -> Option<NodeId> {
        let ended = !self.is_there(chosen) && Some(&chosen.version) == self.fence.as_ref();
        ended.then(|| chosen.peer.clone())
    }

    /// From how it was taken to how it is, and the standby with it.
    fn go_over(
        &mut self,
        name: &StreamName,
        was: Option<Chosen>,
        why: Why,
        links: &BTreeMap<LinkId, Link>,
        actions: &mut VecDeque<Action<T>>,
    ) {
        let stream = || name.clone();
        let need = self.need();
        let needs_else = std::mem::replace(&mut self.needed, need) != need;
        match (was, &self.taken) {
            (None, Some(is)) => {
                let (link, generation) = (is.link, is.version.0);
                actions.push_back(Action::Take { stream: stream(), link, generation });
            }
            (Some(was), Some(is)) if was.is_broken || was.link != is.link || was.version != is.version => {
                let comes = self.is_there(&was);
                let why = match why {
                    _ if was.version != is.version => Why::Newer,
                    _ if !comes => Why::Gone,
                    why => why,
                };
                actions.push_back(Action::Switch {
                    stream: stream(),
                    from: Some(was.link).filter(|link| links.contains_key(link)),
                    to: is.link,
                    generation: is.version.0,
                    make_before_break: comes,
                    why,
                });
            }
            (Some(_), None) if self.is_taken() && self.published.is_none() => {
                actions.push_back(Action::Lost { stream: stream() });
            }
            (Some(was), None) => actions.push_back(Action::Leave { stream: stream(), link: was.link }),
            (Some(was), Some(_)) if needs_else => {
                actions.push_back(Action::Need { stream: stream(), link: was.link, need });
            }
            _ => {}
        }
        let standby = self.second(links);
        let held = std::mem::replace(&mut self.standby, standby);
        if held == standby {
            return;
        }
        if let Some(link) = held.filter(|link| Some(*link) != self.parent() && links.contains_key(link)) {
            actions.push_back(Action::Unhold { stream: stream(), link });
        }
        if let Some(link) = standby {
            actions.push_back(Action::Hold { stream: stream(), link });
        }
    }

    /// The best way that does not lead through the peer that it is taken from; the one so far, unless another is better by a fifth. None where nobody watches.
    fn second(&self, links: &BTreeMap<LinkId, Link>) -> Option<LinkId> {
        let parent = self.taken.as_ref().filter(|_| self.need() == Need::Watched)?;
        let through = |way: &Way<T>| way.offer.path.iter().skip(1).any(|node| *node == parent.peer);
        let mut ways = self.ways(links);
        ways.retain(|way| way.against == [false; 3] && way.link != parent.link && !through(way));
        let best = ways.iter().min_by(|a, b| a.order(b, By::Cost))?;
        let held = ways.iter().find(|way| Some(way.link) == self.standby);
        let held = held.filter(|held| !is_better(best.cost_us, held.cost_us));
        Some(held.unwrap_or(best).link)
    }

    /// Peers hear what is new: that it is published here, or the short way. Not those that are on it.
    fn tell(
        &mut self,
        name: &StreamName,
        me: &NodeId,
        links: &BTreeMap<LinkId, Link>,
        actions: &mut VecDeque<Action<T>>,
    ) {
        let onward = || {
            let short = self.short.as_ref().filter(|_| !self.is_fenced)?;
            let (offer, link) = (self.offers.get(&short.link)?, links.get(&short.link)?);
            let path: Vec<NodeId> = offer.path.iter().chain([me]).cloned().collect();
            let cost_us = offer.cost_us.saturating_add(link.cost.us);
            (path.len() <= HOPS_MAX).then(|| Offer { path, cost_us, ..offer.clone() })
        };
        let offer = self.published.clone().or_else(onward);
        for (id, link) in links {
            let told = self.told.get(id);
            match offer.as_ref().filter(|offer| !offer.path.contains(&link.peer)) {
                Some(offer) if told.is_some_and(|told| is_like(told, offer)) => {}
                Some(offer) => {
                    self.told.insert(*id, offer.clone());
                    let (link, stream) = (*id, name.clone());
                    actions.push_back(Action::Announce { link, stream, offer: offer.clone() });
                }
                None => {
                    let Some(told) = self.told.remove(id) else { continue };
                    self.given.remove(id);
                    let (link, stream) = (*id, name.clone());
                    actions.push_back(Action::End { link, stream, generation: told.generation });
                }
            }
        }
    }
}

/// Whether the peer needs not hear of it: a cost that is another by a fifth is news.
fn is_like<T: PartialEq>(told: &Offer<T>, offer: &Offer<T>) -> bool {
    let same = told.generation == offer.generation && told.path == offer.path && told.about == offer.about;
    same && told.cost_us.abs_diff(offer.cost_us) <= told.cost_us / 5
}
