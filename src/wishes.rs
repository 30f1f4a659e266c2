//! Which of its encodings a publisher is to send, for whoever listens at its session's URL.

use std::sync::{Arc, Mutex, MutexGuard};

use sfu::{Command, LAYERS_MAX, PeerId, Wanted};
use tokio::sync::watch;

use crate::media_plane::{Order, Overloaded, ShardHandle};

/// Listeners of one session: a page has one, and the one it had before it was reconnected may not be given up yet.
const LISTENERS_MAX: usize = 4;

/// A publisher's, of a picture in several encodings. Listeners end when it is dropped.
#[derive(Debug)]
pub struct Wishes {
    /// RIDs, by index of the encoding.
    pub rids: Vec<String>,
    wanted: watch::Sender<Wanted>,
    hearing: Arc<Hearing>,
}

/// Who listens. Its lock is held while the shard is told, so that it hears of the first and the last in their order.
#[derive(Debug)]
struct Hearing {
    peer: PeerId,
    shard: ShardHandle,
    listeners: Mutex<usize>,
}

/// One who listens.
#[derive(Debug)]
pub struct Listener {
    wanted: watch::Receiver<Wanted>,
    hearing: Arc<Hearing>,
}

/// Why somebody may not listen.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Deaf {
    /// Enough do.
    #[error("the session has {LISTENERS_MAX} listeners, which is the most")]
    TooMany,
    /// The shard cannot be told.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
}

impl Wishes {
    /// Of a publisher that sends these encodings; all of them at first.
    pub fn new(rids: Vec<String>, peer: PeerId, shard: ShardHandle) -> Wishes {
        let hearing = Arc::new(Hearing { peer, shard, listeners: Mutex::new(0) });
        Wishes { rids, wanted: watch::Sender::new([true; LAYERS_MAX]), hearing }
    }

    /// The media plane's word.
    pub fn tell(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
    }

    /// From now on there is somebody to hear it.
    pub fn listen(&self) -> Result<Listener, Deaf> {
        let mut listeners = self.hearing.lock();
        if *listeners >= LISTENERS_MAX {
            return Err(Deaf::TooMany);
        }
        if *listeners == 0 {
            self.hearing.order(true)?;
        }
        *listeners += 1;
        let mut wanted = self.wanted.subscribe();
        wanted.mark_changed();
        Ok(Listener { wanted, hearing: self.hearing.clone() })
    }
}

impl Hearing {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.listeners.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn order(&self, hears: bool) -> Result<(), Overloaded> {
        self.shard.order(Order::Shard(Command::HearWishes(self.peer, hears)))
    }
}

impl Listener {
    /// What is wanted now, and then each time that it changes; `None` when the session is over.
    pub async fn next(&mut self) -> Option<Wanted> {
        self.wanted.changed().await.ok()?;
        Some(*self.wanted.borrow_and_update())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self.hearing.lock();
        *listeners = listeners.saturating_sub(1);
        if *listeners == 0 {
            // A shard that is too busy to hear it waits in vain for what nobody will pause, or resume.
            let _ = self.hearing.order(false);
        }
    }
}
