//! Publishers that mark each picture, and viewers that tell by the marks what they were shown, and when.
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::flv::{self, Tag, VIDEO};
use support::http;
use support::peer::Peer;
use support::place::Place;
use support::rtmp::{Client, Publisher};
use support::sdp::Way;

/// What a supplemental message (H.264 SEI, user data, payload type 5) begins with that is a mark.
const MARK: &[u8; 16] = b"millrace-cluster";

/// A publisher's picture: which publisher's, and its number there, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    pub source: u8,
    pub nth: u32,
}

impl Mark {
    /// Appended to an FLV tag's picture, after all else of it; no byte may look like the start of something (emulation prevention).
    fn write(self, tag: &mut Tag) {
        let mut sei = vec![6, 5, MARK.len() as u8 + 6];
        sei.extend(MARK);
        sei.push(0x80 | self.source);
        sei.extend((0..5).map(|at| 0x80 | (self.nth >> (28 - 7 * at)) as u8 & 0x7f));
        sei.push(0x80);
        tag.body.extend((sei.len() as u32).to_be_bytes());
        tag.body.extend(sei);
    }

    /// Found in an FLV tag, or the last RTP packet of a picture.
    fn read(bytes: &[u8]) -> Option<Mark> {
        let at = bytes.windows(MARK.len()).rposition(|it| it == MARK)? + MARK.len();
        let &[source, ref nth @ ..] = bytes.get(at..at + 6)? else { return None };
        let nth = nth.iter().fold(0, |nth, byte| nth << 7 | u32::from(byte & 0x7f));
        Some(Mark { source: source & 0x7f, nth })
    }
}

/// Publishes the project's clip to the node of a place, each picture marked; why not, when the node refuses.
pub fn publish(at: &Place, node: SocketAddr, name: &str, source: u8) -> Result<Publisher, String> {
    at.within(|| {
        let mut client = Client::connect(node, "live")?;
        client.publish(name)?;
        let mut nth = 0;
        Ok(Publisher::changed(client, flv::clip().tags, move |tag| {
            if tag.kind == VIDEO && !tag.is_header() {
                Mark { source, nth }.write(tag);
                nth += 1;
            }
        }))
    })
}

/// A picture that was shown: when it was whole, and where it stands in the order of the stream (its RTP number, for WebRTC).
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    order: u64,
    mark: Mark,
}

/// Takes its leave when it is dropped, as a page does that is closed.
struct Leaving(Peer);

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = http::request("DELETE", &self.0.session, &[], b"");
    }
}

/// A viewer; dropping it ends it.
pub struct Viewer {
    name: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Viewer {
    /// By RTMP, at a node's place.
    ///
    /// # Panics
    /// When the node refuses.
    #[track_caller]
    pub fn rtmp(at: &Place, node: SocketAddr, stream: &str, name: &str) -> Viewer {
        let mut client = at.within(|| Client::connect(node, "live")).expect("it connects");
        client.play(stream).unwrap_or_else(|why| panic!("{name}: {why}"));
        let mut order = 0;
        Viewer::start(at, name, move |seen| {
            let message = match client.receive(Duration::from_millis(50)) {
                Ok(message) => message,
                Err(why) => return why == RecvTimeoutError::Timeout,
            };
            if let Some(mark) = Mark::read(&message.tag.body).filter(|_| message.tag.kind == VIDEO) {
                order += 1;
                seen.push(Seen { at: message.at, order, mark });
            }
            true
        })
    }

    /// By WebRTC, at a node's place.
    ///
    /// # Panics
    /// When the node refuses.
    #[track_caller]
    pub fn webrtc(at: &Place, url: &str, name: &str) -> Viewer {
        let mut peer = Leaving(at.within(|| Peer::connect(url, Way::Receive)));
        let (mut order, mut begun) = (0_u64, false);
        Viewer::start(at, name, move |seen| {
            peer.0.run(Duration::from_millis(5));
            for packet in std::mem::take(&mut peer.0.rtp) {
                let Some(mark) = Mark::read(&packet) else { continue };
                let number = u16::from_be_bytes([packet[2], packet[3]]);
                if !std::mem::replace(&mut begun, true) {
                    order = 1 << 32 | u64::from(number);
                }
                let own =
                    order.wrapping_add_signed(i64::from(number.wrapping_sub(order as u16).cast_signed()));
                order = order.max(own);
                seen.push(Seen { at: Instant::now(), order: own, mark });
            }
            peer.0.closed.is_none()
        })
    }

    /// `step` takes what came in some milliseconds; false when the node ended it.
    fn start(
        at: &Place,
        name: &str,
        mut step: impl FnMut(&mut Vec<Seen>) -> bool + Send + 'static,
    ) -> Viewer {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let [stop, ended] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (own, stopped, over) = (seen.clone(), stop.clone(), ended.clone());
        let watch = move || {
            let mut came = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let goes_on = step(&mut came);
                own.lock().expect("no panic").append(&mut came);
                if !goes_on {
                    over.store(true, Ordering::Relaxed);
                    return;
                }
            }
        };
        let thread = at.within(|| std::thread::spawn(watch));
        Viewer { name: name.into(), seen, stop, ended, thread: Some(thread) }
    }

    /// Whether the node ended it.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Pictures so far.
    pub fn count(&self) -> usize {
        self.seen.lock().expect("no panic").len()
    }

    /// How long after that it saw the first picture of a publisher; `None` while it has not.
    pub fn begun_after(&self, since: Instant, source: u8) -> Option<Duration> {
        let seen = self.seen.lock().expect("no panic");
        let first = seen.iter().find(|it| it.mark.source == source)?;
        Some(first.at.saturating_duration_since(since))
    }

    /// Of one publisher's.
    pub fn count_of(&self, source: u8) -> usize {
        self.seen.lock().expect("no panic").iter().filter(|it| it.mark.source == source).count()
    }

    /// The longest time without a picture since then, up to now.
    pub fn gap_since(&self, since: Instant) -> Duration {
        let seen = self.seen.lock().expect("no panic");
        let before = seen.iter().rev().map(|it| it.at).find(|at| *at <= since).unwrap_or(since);
        let times = seen.iter().map(|it| it.at).filter(|at| *at > since).chain([Instant::now()]);
        let (mut last, mut gap) = (before, Duration::ZERO);
        for at in times {
            gap = gap.max(at.saturating_duration_since(last));
            last = last.max(at);
        }
        gap
    }

    /// What was shown is one publisher's after the other's, none comes back, no picture twice or before one that is older. How many of the last one's
    /// pictures, from the first that was shown, are missing.
    ///
    /// # Panics
    /// When that is not so.
    #[track_caller]
    pub fn check(&self) -> usize {
        let mut seen = self.seen.lock().expect("no panic").clone();
        seen.sort_by_key(|it| it.order);
        let marks: Vec<Mark> = seen.iter().map(|it| it.mark).collect();
        let mut over: Vec<u8> = Vec::new();
        let mut missing = 0;
        for pair in marks.windows(2) {
            let [before, mark] = [pair[0], pair[1]];
            if before.source == mark.source {
                assert!(mark.nth > before.nth, "{}: {mark:?} after {before:?}", self.name);
                missing += (mark.nth - before.nth - 1) as usize;
            } else {
                over.push(before.source);
                assert!(!over.contains(&mark.source), "{}: {mark:?} again after {before:?}", self.name);
                missing = 0;
            }
        }
        missing
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
