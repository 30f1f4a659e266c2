//! When each peer is due. Who is not due costs nothing, however many there are.

use std::collections::BTreeSet;

use media::Time;

/// The time at which each slot is due: at most one a slot.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(Time, usize)>,
    /// The time in `queue`, by slot; [`Time::MAX`] where there is none.
    due: Vec<Time>,
}

impl Timers {
    /// `slot` is due at `at`, and not at what was set before.
    pub(crate) fn set(&mut self, slot: usize, at: Time) {
        self.clear(slot);
        if at == Time::MAX {
            return;
        }
        if self.due.len() <= slot {
            self.due.resize(slot + 1, Time::MAX);
        }
        self.due[slot] = at;
        self.queue.insert((at, slot));
    }

    /// `slot` is due at `at` or at what was set before, whichever is sooner.
    pub(crate) fn sooner(&mut self, slot: usize, at: Time) {
        if self.due.get(slot).is_none_or(|due| at < *due) {
            self.set(slot, at);
        }
    }

    /// `slot` is not due any more.
    pub(crate) fn clear(&mut self, slot: usize) {
        if let Some(due) = self.due.get_mut(slot) {
            self.queue.remove(&(*due, slot));
            *due = Time::MAX;
        }
    }

    /// The slot that is due first, if one is by `now`; it is not due any more.
    pub(crate) fn pop(&mut self, now: Time) -> Option<usize> {
        let &(at, slot) = self.queue.first()?;
        if at > now {
            return None;
        }
        self.clear(slot);
        Some(slot)
    }

    /// When the first slot is due.
    pub(crate) fn next(&self) -> Time {
        self.queue.first().map_or(Time::MAX, |(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_due_once_at_the_time_that_counts() {
        let mut timers = Timers::default();
        let at = Time::from_ms;
        timers.set(3, at(30));
        timers.set(1, at(10));
        timers.set(2, at(20));
        timers.sooner(2, at(25));
        timers.sooner(3, at(5));
        timers.set(1, at(40));
        assert_eq!(timers.next(), at(5));
        assert_eq!(timers.pop(at(4)), None);
        assert_eq!(timers.pop(at(20)), Some(3));
        assert_eq!(timers.pop(at(20)), Some(2));
        assert_eq!(timers.pop(at(20)), None);
        timers.clear(1);
        assert_eq!((timers.pop(Time::MAX), timers.next()), (None, Time::MAX));
        timers.set(0, Time::MAX);
        assert_eq!(timers.pop(Time::MAX), None, "no deadline is no time to be due at");
    }
}
