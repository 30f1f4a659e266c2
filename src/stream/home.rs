//! Which shard a new stream and a new viewer go to. The app names the room: who publishes into a room watches the others in it, so that a room
//! on one shard sends nothing to another. Streams and viewers that are not of a small room are spread evenly.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::media_plane::ShardHandle;

/// Streams of one app that share a home. A room of so many is 256 sessions and about a tenth of a core of audio and video; more streams of an
/// app are no room, and go to the shards in turn.
const ROOM_STREAMS: usize = 16;
/// A shard may have so many sessions more than the one with the fewest before what belongs there goes elsewhere.
const LEAD_PEERS: u64 = 50;

/// The homes of all streams.
#[derive(Debug)]
pub struct Homes {
    shards: Vec<ShardHandle>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Streams at home on each shard, by app.
    apps: HashMap<String, Vec<usize>>,
    turn: usize,
}

/// A stream's home, counted while it lives.
#[derive(Debug)]
pub struct Home {
    /// The shard.
    pub shard: ShardHandle,
    app: String,
    homes: Arc<Homes>,
}

impl Homes {
    /// For a node of these shards, at least one.
    pub fn new(shards: Vec<ShardHandle>) -> Arc<Homes> {
        Arc::new(Homes { shards, state: Mutex::default() })
    }

    /// A home for a new stream: with the other streams of its app while they are a room, else the next shard in turn.
    pub fn of_stream(self: &Arc<Homes>, app: &str) -> Home {
        let mut state = self.lock();
        let count = self.shards.len();
        let turn = state.turn;
        let streams = state.apps.entry(app.to_owned()).or_insert_with(|| vec![0; count]);
        let room =
            (0..count).find(|s| (1..ROOM_STREAMS).contains(&streams[*s]) && self.has_room(&self.shards[*s]));
        let next = || {
            let in_turn = |i: usize| (turn + i) % count;
            (0..count).map(in_turn).find(|s| self.has_room(&self.shards[*s])).unwrap_or(in_turn(0))
        };
        let shard = room.unwrap_or_else(next);
        streams[shard] += 1;
        if room.is_none() {
            state.turn = shard + 1;
        }
        Home { shard: self.shards[shard].clone(), app: app.to_owned(), homes: self.clone() }
    }

    /// Where a new viewer goes: to its stream's home, or when that is loaded to the shard with the fewest sessions.
    pub fn of_viewer(&self, home: &ShardHandle) -> ShardHandle {
        if self.has_room(home) {
            return home.clone();
        }
        self.alive().min_by_key(|s| s.metrics.peers.get()).unwrap_or(home).clone()
    }

    fn has_room(&self, shard: &ShardHandle) -> bool {
        let fewest = self.alive().map(|s| s.metrics.peers.get()).min().unwrap_or(0);
        shard.is_alive() && shard.metrics.peers.get() < fewest + LEAD_PEERS
    }

    fn alive(&self) -> impl Iterator<Item = &ShardHandle> {
        self.shards.iter().filter(|s| s.is_alive())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let mut state = self.homes.lock();
        let Some(streams) = state.apps.get_mut(&self.app) else { return };
        streams[self.shard.id] -= 1;
        if streams.iter().all(|count| *count == 0) {
            state.apps.remove(&self.app);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::clock::Clock;
    use crate::media_plane;

    fn homes(shards: usize) -> Arc<Homes> {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (handles, _) =
            media_plane::start((ip, 0).into(), shards, Clock::start(), 1, true, None, &Arc::default())
                .unwrap();
        Homes::new(handles)
    }

    fn ids(homes: &[Home]) -> Vec<usize> {
        homes.iter().map(|home| home.shard.id).collect()
    }

    #[test]
    fn a_room_has_one_home_and_rooms_are_spread() {
        let homes = homes(2);
        let rooms: Vec<Vec<Home>> =
            (0..6).map(|room| (0..4).map(|_| homes.of_stream(&format!("room{room}"))).collect()).collect();
        for (at, room) in rooms.iter().enumerate() {
            assert_eq!(ids(room), [at % 2; 4]);
        }
        // Members come and go; the room stays where it is while one is there.
        let mut room = rooms.into_iter().next().unwrap();
        room.drain(1..);
        assert_eq!(homes.of_stream("room0").shard.id, room[0].shard.id);
        drop(room);
        assert!(homes.lock().apps.is_empty(), "what nobody uses is forgotten");
    }

    #[test]
    fn a_loaded_shard_is_passed_over() {
        let homes = homes(3);
        let home = homes.of_stream("live");
        let sessions = |counts: [u64; 3]| {
            for (shard, count) in homes.shards.iter().zip(counts) {
                shard.metrics.peers.set(count);
            }
        };
        sessions([59, 30, 10]);
        assert_eq!(homes.of_viewer(&home.shard).id, 0);
        sessions([60, 30, 10]);
        assert_eq!(homes.of_viewer(&home.shard).id, 2);
        assert_eq!(ids(&[homes.of_stream("live"), homes.of_stream("live")]), [1, 1]);
        sessions([60, 60, 10]);
        assert_eq!(homes.of_stream("room").shard.id, 2);
    }

    #[test]
    fn many_streams_of_one_app_are_spread() {
        let homes = homes(2);
        let all: Vec<Home> = (0..100).map(|_| homes.of_stream("live")).collect();
        let first = ids(&all).iter().filter(|id| **id == 0).count();
        assert!((45..=55).contains(&first), "{first} of 100 on shard 0");
    }
}
