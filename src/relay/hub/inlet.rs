//! Tracks that come from a peer by a stream: in order, before the datagrams of the same track, which wait until it is over.

use ::relay::control;
use ::relay::flow::Flow;
use ::relay::hop::Arrived;
use ::relay::stream::Record;

use super::Hub;
use super::give::Begins;
use super::take::{Batch, Lie};
use crate::relay::streams::Came;

/// A track's stream.
#[derive(Debug)]
pub(super) struct Inlet {
    /// Which of the connection's: the latest counts, and one before it is over.
    stream: u64,
    is_open: bool,
    /// It has caught up with what is live.
    is_live: bool,
    /// What the control stream said that the track is, behind what is on the way here.
    track: Option<control::Track>,
}

impl Inlet {
    /// What the control stream says is for what comes behind this stream; what may be said now.
    pub(super) fn hold_track(&mut self, track: control::Track) -> Option<control::Track> {
        if !self.is_open {
            return Some(track);
        }
        self.track = Some(track);
        None
    }

    fn begins(&self) -> Begins {
        if self.is_live { Begins::Live } else { Begins::Past }
    }
}

impl Hub {
    /// Something of a stream came.
    pub(super) fn streamed(&mut self, id: usize, came: Came) -> Result<(), Lie> {
        let Came { alias, stream, records, ends } = came;
        let Some(taken) = self.links.get_mut(&id).and_then(|link| link.takes.get_mut(&alias)) else {
            return Ok(());
        };
        match &taken.inlet {
            Some(inlet) if inlet.stream > stream || (inlet.stream == stream && !inlet.is_open) => {
                return Ok(());
            }
            Some(inlet) if inlet.stream == stream => {}
            _ => {
                taken.inlet = Some(Inlet { stream, is_open: true, is_live: false, track: None });
                taken.reader.hold();
            }
        }
        let mut flows = Vec::new();
        for record in records {
            match record {
                Record::Begins(_) => {}
                Record::Track(track) => {
                    self.pass(id, alias, std::mem::take(&mut flows));
                    self.told_in_order(id, track)?;
                }
                Record::Live => {
                    self.pass(id, alias, std::mem::take(&mut flows));
                    if let Some(inlet) = self.inlet(id, alias) {
                        inlet.is_live = true;
                    }
                }
                Record::Media(media, descriptor, payload) => {
                    let now = self.now();
                    let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
                    let half_trip_us = link.up.window.trip().smoothed_us / 2;
                    let age_us = i64::from(media.age_ms).saturating_mul(1_000).saturating_add(half_trip_us);
                    link.metrics.age.observe(age_us.unsigned_abs());
                    let arrived = Arrived { media, age_us, descriptor, payload };
                    flows.extend(link.read(alias, arrived, now)?);
                }
            }
        }
        self.pass(id, alias, flows);
        if ends {
            self.end_inlet(id, alias)?;
        }
        Ok(())
    }

    fn inlet(&mut self, id: usize, alias: u64) -> Option<&mut Inlet> {
        self.links.get_mut(&id)?.takes.get_mut(&alias)?.inlet.as_mut()
    }

    fn pass(&mut self, id: usize, alias: u64, flows: Vec<Flow>) {
        let begins = self.inlet(id, alias).map_or(Begins::Live, |inlet| inlet.begins());
        self.deliver(Batch::from([((id, alias), flows)]), begins);
    }

    /// The datagrams that waited follow.
    fn end_inlet(&mut self, id: usize, alias: u64) -> Result<(), Lie> {
        let Some(inlet) = self.inlet(id, alias) else { return Ok(()) };
        inlet.is_open = false;
        if let Some(track) = inlet.track.take() {
            self.told_in_order(id, track)?;
        }
        self.release_held(id, alias)
    }
}
