//! The congestion controller of a link: `relay::hop::LiveWindow`, as quinn asks for it.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use ::relay::hop::{Demand, LiveWindow, RoundTrip, Seen};
use media::Time;
use quinn::congestion::{Controller, ControllerFactory};

use crate::clock::Clock;

/// Shared by the connection, which feeds it, and the link, which says what it needs.
#[derive(Clone, Debug, Default)]
pub struct Window(Arc<Mutex<State>>);

/// What is measured of a window.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Bytes that may be in flight.
    pub bytes: u64,
    /// What waits on the path, in microseconds.
    pub queue_us: i64,
}

#[derive(Debug, Default)]
struct State {
    window: LiveWindow,
    trip: RoundTrip,
}

impl Window {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What is subscribed changed.
    pub fn set_demand(&self, demand: Demand) {
        self.lock().window.set_demand(demand);
    }

    /// The window, and what waits on the path.
    pub fn figures(&self) -> Figures {
        let state = self.lock();
        Figures { bytes: state.window.window(), queue_us: state.window.queue_us() }
    }

    /// Bytes of datagrams that QUIC is to hold, of so many at most.
    pub fn held(&self, most: usize) -> usize {
        self.lock().window.held(most)
    }

    /// What the link's streams are to know of it.
    pub fn seen(&self) -> Seen {
        let State { window, trip } = &*self.lock();
        Seen {
            trip: *trip,
            path_us: window.queue_now_us(),
            loss_percent: window.loss_percent(),
            beyond: window.beyond(),
            ..Seen::default()
        }
    }

    /// The link's round trip.
    pub fn trip(&self) -> RoundTrip {
        self.lock().trip
    }
}

/// Makes one for the connection.
#[derive(Clone, Debug)]
pub struct Factory {
    /// The window.
    pub window: Window,
    /// The node's.
    pub clock: Clock,
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, _now: Instant, _mtu: u16) -> Box<dyn Controller> {
        Box::new((*self).clone())
    }
}

impl Factory {
    fn time(&self, at: Instant) -> Time {
        let since = at.saturating_duration_since(self.clock.base()).as_micros();
        Time(i64::try_from(since).unwrap_or(i64::MAX))
    }
}

impl Controller for Factory {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _: bool, rtt: &quinn_proto::RttEstimator) {
        let us = |d: std::time::Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        let (trip_us, now) = (us(now.saturating_duration_since(sent)), self.time(now));
        let mut state = self.window.lock();
        state.window.on_ack(bytes, trip_us, now);
        // QUIC's least is of the whole connection: a path that became longer would stay short.
        let least_us = state.window.least_us();
        state.trip.measured(trip_us, least_us, us(rtt.get()));
    }

    fn on_congestion_event(&mut self, now: Instant, _sent: Instant, _persistent: bool, lost_bytes: u64) {
        let now = self.time(now);
        let window = &mut self.window.lock().window;
        match lost_bytes {
            0 => window.on_congestion_mark(now),
            bytes => window.on_loss(bytes, now),
        }
    }

    fn on_mtu_update(&mut self, _mtu: u16) {}

    fn window(&self) -> u64 {
        self.window.lock().window.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        LiveWindow::new().window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
