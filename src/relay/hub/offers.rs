//! Which streams peers have, and by which way they come here and go on: [`cluster::paths`] decides, here it is done.

use std::collections::BTreeSet;

use ::relay::control::{Form, Message, Right};
use ::relay::hop::IncomingStats;
use cluster::paths::{Action, Figures, LinkId, Offer};
use media::{Codec, Need, NodeId, StreamName};
use sfu::CloseReason;

use super::{Hub, Link};
use crate::relay::{Announced, Derives};

/// What else is said of a stream that is offered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct About {
    pub(super) form: Form,
    /// Of sound and picture, as far as known.
    pub(super) codecs: [Option<Codec>; 2],
    /// Derived sound can be had, too.
    pub(super) derives: bool,
}

/// How the paths name a link.
pub(super) fn link_id(id: usize) -> LinkId {
    LinkId(id as u64)
}

/// What the paths call a link.
pub(super) fn id_of(link: LinkId) -> Option<usize> {
    usize::try_from(link.0).ok()
}

impl Hub {
    pub(super) fn offered(&mut self, id: usize, name: StreamName, offer: Offer<About>) {
        self.paths.offered(link_id(id), &name, offer);
        self.settle([name]);
    }

    pub(super) fn offered_no_more(&mut self, id: usize, name: &StreamName, generation: u64) {
        self.paths.ended(link_id(id), name, generation);
        self.end_claim(id, name, generation);
        self.settle([name.clone()]);
    }

    /// By which link the stream comes, or would, and what was announced there.
    pub(super) fn parent(&self, name: &StreamName) -> Option<(usize, &Offer<About>)> {
        let (link, offer) = self.paths.best(name)?;
        Some((id_of(link)?, offer))
    }

    /// Whether this node converts sound for others: not beside an encoder, whose link is the narrow one.
    pub(super) fn derives(&self) -> bool {
        !self.node.config.cluster.is_uplink
    }

    /// Where sound is converted of a stream that is offered so.
    pub(super) fn derives_of(&self, offer: &Offer<About>) -> Derives {
        match offer.about {
            About { derives: true, .. } => Derives::There,
            About { form, .. } if self.is_of_uplink(form, &offer.path) => Derives::Here,
            About { .. } => Derives::Nowhere,
        }
    }

    /// A stream with that way to this node comes from an uplink of it: there is no other way, so its derived sound has one maker and one numbering.
    fn is_of_uplink(&self, form: Form, path: &[NodeId]) -> bool {
        let [origin] = path else { return false };
        form == Form::Frames && self.node.config.cluster.has_uplink(origin)
    }

    /// This node has the stream, or says more of it.
    pub(super) fn announce(&mut self, name: &StreamName) {
        if let Some(of) = self.published.get(name) {
            let about = About { form: of.form, codecs: of.codecs, derives: self.derives() };
            self.paths.published(name, of.generation, about);
        }
        self.settle([name.clone()]);
    }

    /// A peer may take the stream from here, for that: it was told of that generation.
    pub(super) fn gives(&mut self, id: usize, name: &StreamName, generation: u64, need: Need) -> bool {
        let may = self.paths.gives(link_id(id), name, generation, need);
        if may {
            self.settle([name.clone()]);
        }
        may
    }

    /// Does what follows from what was said, and looks at these streams.
    pub(super) fn settle(&mut self, names: impl IntoIterator<Item = StreamName>) {
        let now = self.now();
        let mut names: BTreeSet<StreamName> = names.into_iter().collect();
        while let Some(action) = self.paths.poll(now) {
            names.extend(self.act(action));
        }
        for name in names {
            self.follow(&name);
        }
        // What is given to nobody any more, or wanted no more, may have changed something.
        let mut names = BTreeSet::new();
        while let Some(action) = self.paths.poll(now) {
            names.extend(self.act(action));
        }
        for name in names {
            self.follow(&name);
        }
    }

    /// The stream that it is about, if how it comes here is to be looked at.
    fn act(&mut self, action: Action<About>) -> Option<StreamName> {
        let link_of = |hub: &Hub, link: LinkId| id_of(link).filter(|id| hub.links.contains_key(id));
        match action {
            Action::Announce { link, stream, offer } => {
                let link = self.links.get(&link_of(self, link)?)?;
                let Offer { generation, path, cost_us, about: About { form, codecs, derives } } = offer;
                // This node is the last of the path.
                let before = path.split_last().map_or(&[][..], |(_, before)| before);
                let derives = derives || self.is_of_uplink(form, before);
                link.say(Message::Announce { stream, generation, form, codecs, path, cost_us, derives });
                None
            }
            Action::End { link, stream, generation } => {
                let id = link_of(self, link)?;
                self.links.get(&id)?.say(Message::End { stream: stream.clone(), generation });
                self.give_link_no_more(id, &stream);
                None
            }
            Action::Switch { stream, from, to, .. } => {
                if from == Some(to) {
                    // The peer had it no more for a moment, and has it again.
                    self.drop_legs(&stream);
                }
                Some(stream)
            }
            Action::Take { stream, .. } | Action::Leave { stream, .. } | Action::Lost { stream } => {
                Some(stream)
            }
            Action::Need { stream, .. } | Action::Hold { stream, .. } | Action::Unhold { stream, .. } => {
                Some(stream)
            }
            Action::Fenced { stream, generation } => {
                if self.node.config.cluster.is_uplink {
                    tracing::warn!(%stream, generation, "another node has a newer publisher: this one's is ended");
                    self.end_clients(Right::Publish, &stream, CloseReason::Replaced);
                } else {
                    tracing::warn!(%stream, generation, "another node has a newer publisher: this one's is watched here alone");
                }
                Some(stream)
            }
        }
    }

    /// The stream here follows the best way.
    fn follow(&mut self, name: &StreamName) {
        let best = self.paths.best(name).map(|(_, offer)| offer.clone());
        let generation = best.as_ref().map(|best| best.generation);
        match best {
            Some(best) => {
                let derives = self.derives_of(&best);
                let Offer { generation, about: About { form, codecs, .. }, path, .. } = best;
                let announced = Announced { generation, path, form, codecs, derives };
                self.handle.announced.insert(name.clone(), announced);
            }
            None => {
                self.handle.announced.remove(name);
            }
        }
        let Some(stream) = self.node.streams.get(name) else { return };
        if let Some((source, _)) = stream.relayed().filter(|(_, has)| generation != Some(*has)) {
            self.end_source(source);
            self.end_feed(stream.id);
            self.layers.remove(&stream.id);
            stream.detach(source);
        }
        self.give_older_no_more(stream.id, generation);
        stream.attach();
        self.follow_parent(name);
        self.tell_needs(name);
        self.follow_standby(Some(name));
    }
}

impl Link {
    /// What was seen of the link in the last second, for what it costs.
    pub(super) fn figures(&self, now: IncomingStats, before: IncomingStats) -> Figures {
        let of = |us: i64| u64::try_from(us).unwrap_or(0);
        let trip = self.up.window.trip();
        let lost = now.lost - before.lost;
        Figures {
            rtt_us: of(trip.smoothed_us),
            queue_us: of(self.up.window.figures().queue_us),
            packets: now.received - before.received + lost,
            lost: now.repaired - before.repaired + lost,
            reordered: now.reordered - before.reordered,
            late_us: of(self.incoming.reorder_us(trip)),
        }
    }
}
