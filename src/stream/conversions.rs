//! Which conversions of a stream run: those whose product somebody takes, here or, of a publisher here, at other nodes. Sound is converted at the
//! publisher's node, once for the cluster, and elsewhere only where that node does not.

use std::sync::Arc;

use media::Kind;
use metrics::{Conversion, NodeMetrics};
use sfu::{SourceId, TrackKey};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::from_relay::Sounds;
use super::{Ingest, State, Stream, Watch, from_relay, to_aac, to_frames, to_opus, to_packets};
use crate::relay::Derives;
use crate::task;

/// What runs of a stream.
#[derive(Debug, Default)]
pub(super) struct Conversions {
    to_packets: Option<Running>,
    to_opus: Option<Running>,
    to_frames: Option<Running>,
    to_aac: Option<Running>,
    pub(super) from_relay: Option<Running>,
    aac_from_relay: Option<Running>,
    /// Which sound comes from the publisher's node with its frames.
    sounds: watch::Sender<Sounds>,
}

/// A task for what comes of a source; it ends with this.
#[derive(Debug)]
pub(super) struct Running {
    source: SourceId,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A conversion that is counted as one that runs.
pub(super) struct Counted {
    metrics: Arc<NodeMetrics>,
    conversion: Conversion,
}

impl Counted {
    pub(super) fn new(metrics: &Arc<NodeMetrics>, conversion: Conversion) -> Counted {
        metrics.conversions.of(conversion).add(1);
        Counted { metrics: metrics.clone(), conversion }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.conversions.of(self.conversion).add(-1);
    }
}

impl Stream {
    /// Other nodes take derived sound that this node makes, or do no more.
    pub fn derive(&self, for_peers: bool) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.for_peers, for_peers) != for_peers {
            self.reconcile(&mut state);
        }
    }

    /// Starts and ends the conversions, so that what runs is what is needed.
    pub(super) fn reconcile(&self, state: &mut State) {
        let Some(me) = self.me.upgrade() else { return };
        let metrics = &self.shared.metrics;
        let web = state.viewers[Watch::Whep as usize] > 0;
        let framed = state.viewers[Watch::Rtmp as usize] + state.viewers[Watch::Flv as usize] > 0;
        let watched = web || framed || state.for_peers;
        state.unwatched = if watched { None } else { state.unwatched.or(Some(self.shared.clock.now())) };
        let source_of =
            |ingest: Ingest| state.publisher.as_ref().filter(|p| p.ingest == ingest).map(|p| p.source);
        let (frames, packets) = (source_of(Ingest::Rtmp), source_of(Ingest::Whip));
        let relayed = state.publisher.as_ref().is_some_and(|p| p.relayed.is_some());
        let comes = relayed && state.derives == Derives::There;
        let opus = frames.filter(|_| web || state.for_peers);
        let aac = packets.filter(|_| framed || state.for_peers);
        let run = &mut state.conversions;

        // Who reloads a page finds the GOP there: it goes on without viewers for a while, as it was.
        let from_relay = frames.filter(|_| relayed && (watched || run.from_relay.is_some()));
        if watched {
            let sounds = Sounds { aac: framed || !comes, opus: web && comes };
            let before = run.sounds.send_replace(sounds);
            if sounds.aac && !before.aac {
                self.log.expect_track(self.shared.clock.now());
            }
        }
        if let Some(relay) = &self.shared.relay {
            let sounds = run.sounds.subscribe();
            settle(&mut run.from_relay, from_relay, |source| {
                task::spawn(metrics.clone(), from_relay::run(me.clone(), relay.clone(), source, sounds))
            });
            settle(&mut run.aac_from_relay, aac.filter(|_| comes), |source| {
                task::spawn(metrics.clone(), from_relay::run_aac(me.clone(), relay.clone(), source))
            });
        }
        settle(&mut run.to_packets, frames.filter(|_| web), |_| {
            let fence = SourceId(self.shared.draw_id());
            task::spawn(metrics.clone(), to_packets::run(me.clone(), fence))
        });
        settle(&mut run.to_frames, packets.filter(|_| framed), |publisher| {
            let fence = SourceId(self.shared.draw_id());
            // Before anybody reads: where an earlier one left off nobody begins.
            self.log.begin_anew(publisher);
            task::spawn(metrics.clone(), to_frames::run(me.clone(), publisher, fence))
        });
        let instead = |conversion| {
            if relayed && state.derives == Derives::Nowhere {
                metrics.conversions_instead.of(conversion).increment();
            }
        };
        settle(&mut run.to_opus, opus.filter(|_| !comes), |publisher| {
            instead(Conversion::AacToOpus);
            task::spawn(metrics.clone(), to_opus::run(me.clone(), publisher))
        });
        settle(&mut run.to_aac, aac.filter(|_| !comes), |publisher| {
            instead(Conversion::OpusToAac);
            let fence = SourceId(self.shared.draw_id());
            task::spawn(metrics.clone(), to_aac::run(me.clone(), publisher, fence))
        });
    }
}

fn settle(
    running: &mut Option<Running>,
    wanted: Option<SourceId>,
    start: impl FnOnce(SourceId) -> tokio::task::JoinHandle<()>,
) {
    if running.as_ref().is_some_and(|r| Some(r.source) != wanted || r.task.is_finished()) {
        *running = None;
    }
    if let (None, Some(source)) = (&running, wanted) {
        *running = Some(Running { source, task: start(source).abort_handle() });
    }
}

/// The derived sound of a stream.
pub(super) fn derived(stream: &Stream) -> TrackKey {
    TrackKey { derived: true, ..TrackKey::new(stream.id, Kind::Audio) }
}
