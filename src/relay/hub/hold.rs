//! Standbys: the node that a watched stream would come from next holds it meanwhile. It takes what it does not have and keeps the end of it, and sends
//! nothing, so that the stream goes on at once when it is asked for. Here is who asks for that; who is asked does it as for any subscription (`give`).

use ::relay::control::{Message, TrackId};
use media::{Need, StreamName};
use sfu::TrackKey;

use super::Hub;
use super::offers::id_of;

/// Tracks that one peer may have held here: each may bring a copy that nobody watches.
pub(super) const HELD_MAX: usize = 1_000;

impl Hub {
    /// What is taken of these streams is held where they would come from next, and nowhere else; not where it still comes from.
    pub(super) fn follow_standby(&mut self, only: Option<&StreamName>) {
        if !self.node.config.cluster.standby {
            return;
        }
        let mut moved: Vec<(TrackKey, Option<usize>)> = Vec::new();
        for (key, want) in &self.wants {
            if only.is_some_and(|name| want.name != *name) {
                continue;
            }
            let derives = |link| self.paths.offer(link, &want.name).is_some_and(|offer| offer.about.derives);
            let standby = self.paths.standby(&want.name).filter(|link| !key.derived || derives(*link));
            let standby = standby.and_then(id_of).filter(|id| {
                want.idle.is_none() && self.links.contains_key(id) && want.legs().all(|(link, _)| link != *id)
            });
            if want.hold.map(|(link, _)| link) != standby {
                moved.push((*key, standby));
            }
        }
        // The picture first.
        moved.sort_unstable_by_key(|(key, _)| (key.kind == media::Kind::Audio, key.stream, key.layer));
        for (key, standby) in moved {
            self.drop_hold(key);
            self.hold(key, standby);
        }
    }

    fn hold(&mut self, key: TrackKey, standby: Option<usize>) {
        let Some(want) = self.wants.get_mut(&key) else { return };
        let Some((id, link)) = standby.and_then(|id| Some((id, self.links.get_mut(&id)?))) else { return };
        let alias = link.next_alias;
        link.next_alias += 1;
        let (stream, generation) = (want.name.clone(), want.generation);
        let track = TrackId { kind: key.kind, layer: key.layer, derived: key.derived };
        link.say(Message::Subscribe {
            alias,
            stream,
            generation,
            track,
            after: None,
            need: Need::Held,
            reliable: false,
        });
        want.hold = Some((id, alias));
    }

    /// Also said where the track is taken by that link now: if that is refused, nothing is held for nobody.
    pub(super) fn drop_hold(&mut self, key: TrackKey) {
        let Some((link, alias)) = self.wants.get_mut(&key).and_then(|want| want.hold.take()) else { return };
        if let Some(link) = self.links.get(&link) {
            link.say(Message::Unsubscribe { alias });
        }
    }

    /// What has changed without a word of the paths: a way that was left may hold the stream now.
    pub(super) fn look_at_holds(&mut self) {
        self.follow_standby(None);
        self.links.values_mut().for_each(|link| link.holds = 0);
        for (id, _) in self.wants.values().filter_map(|want| want.hold) {
            if let Some(link) = self.links.get_mut(&id) {
                link.holds += 1;
            }
        }
    }

    /// Who takes what is told what it is taken for, where that is something else than before.
    pub(super) fn tell_needs(&mut self, name: &StreamName) {
        let need = self.paths.need(name);
        for (key, want) in self.wants.iter().filter(|(_, want)| want.name == *name) {
            for (id, alias) in want.legs() {
                let Some(link) = self.links.get_mut(&id) else { continue };
                let Some(taken) = link.takes.get_mut(&alias) else { continue };
                if std::mem::replace(&mut taken.need, need) != need {
                    let (stream, generation) = (name.clone(), want.generation);
                    let track = TrackId { kind: key.kind, layer: key.layer, derived: key.derived };
                    link.say(Message::Subscribe {
                        alias,
                        stream,
                        generation,
                        track,
                        after: None,
                        need,
                        reliable: false,
                    });
                }
            }
        }
    }

    /// What this node takes a stream for by itself, as far as peers do not say it.
    pub(super) fn tell_wanted(&mut self, name: &StreamName) {
        let of = self.wants.values().filter(|want| want.name == *name);
        let need = of.map(|want| if want.is_watched() { Need::Watched } else { Need::Spare }).max();
        self.paths.wanted(name, need);
    }
}
