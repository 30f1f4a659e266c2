//! A frame's next packets say no more than which datagram they go on with: what that one said is kept, and who comes before it waits.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::datagram::{BACK_MAX, Flags, Media, Next, Part};

/// Datagrams that others may go on with. They do within [`BACK_MAX`] numbers, and what is out of order by more than the rest waits to be asked for.
const FIRSTS_MAX: usize = 1_024;
/// Packets that wait for the one they go on with, which was lost: thirty for each, a round trip long. The oldest is given up.
const WAITING_MAX: usize = 1_024;

/// Datagrams that came lately and may be a frame's first, and packets that wait for theirs, by their numbers.
#[derive(Default, Debug)]
pub(super) struct Firsts {
    firsts: BTreeMap<u64, Media>,
    waiting: BTreeMap<u64, (Next, Bytes)>,
}

impl Firsts {
    /// A media datagram came: what waited for it.
    pub(super) fn came(&mut self, media: &Media) -> Vec<(Next, Bytes)> {
        let number = media.link_seq;
        let is_half = matches!(media.part, Part::FirstHalf | Part::SecondHalf);
        if is_half || media.left_out || media.flags.has(Flags::END_OF_FRAME) {
            return Vec::new();
        }
        self.firsts.insert(number, *media);
        if self.firsts.len() > FIRSTS_MAX {
            self.firsts.pop_first();
        }
        let behind = number..=number.saturating_add(BACK_MAX.into());
        let goes_on = |(at, (next, _)): (&u64, &(Next, Bytes))| {
            (at.checked_sub(next.back.into()) == Some(number)).then_some(*at)
        };
        let numbers: Vec<u64> = self.waiting.range(behind).filter_map(goes_on).collect();
        numbers.into_iter().filter_map(|at| self.waiting.remove(&at)).collect()
    }

    /// What a packet is that goes on with a datagram, if that came.
    pub(super) fn media(&self, next: &Next) -> Option<Media> {
        let first = next.link_seq.checked_sub(next.back.into())?;
        self.firsts.get(&first).map(|first| next.media(first))
    }

    /// That has not come. Whether another packet, the oldest, is given up for it.
    pub(super) fn wait(&mut self, next: Next, payload: Bytes) -> bool {
        self.waiting.insert(next.link_seq, (next, payload));
        self.waiting.len() > WAITING_MAX && self.waiting.pop_first().is_some()
    }
}
