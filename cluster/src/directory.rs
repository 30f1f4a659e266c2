//! Which node has which stream, as the directory's records say, and what a node may make of it.
//!
//! Nodes have a record each that lives by heartbeat; a claim says which node has a stream, and counts only while the record of that start of the node
//! lives. A claim is written by compare-and-set, so of two nodes one wins; its generation is higher than any that is known for the stream, and what has a
//! lower one is refused everywhere. Text of the directory is checked here, and never trusted for who somebody is: certificates say that.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use media::{NodeId, StreamName, Time};
use serde::{Deserialize, Serialize};

/// A node of which nothing was heard for so long is gone: three heartbeats.
pub const LEASE_US: i64 = 6_000_000;
/// A node's record is written so often.
pub const HEARTBEAT_US: i64 = 2_000_000;
/// A node whose lease ended so long ago is forgotten. Until then others have links with it all the same: it may be the directory that it does not reach.
pub const FORGET_US: i64 = 600_000_000;
/// Bytes of a record.
pub const RECORD_LEN_MAX: usize = 4 << 10;
/// Nodes that are known. More is no cluster of this design; others are not heard.
pub const NODES_MAX: usize = 4_096;
/// Claims that are known.
pub const CLAIMS_MAX: usize = 1_000_000;
/// Generations are below this: microseconds of 285 years.
pub const GENERATION_MAX: u64 = 1 << 53;

/// A node's record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id.
    pub id: String,
    /// Of this start of it: a random number.
    pub boot: u64,
    /// Where its relay is reached.
    pub relay: SocketAddr,
    /// Where it stands, as its settings say.
    #[serde(default)]
    pub region: String,
    /// What it does.
    #[serde(default)]
    pub load: Load,
    /// Of the program.
    #[serde(default)]
    pub version: String,
}

/// What a node does.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Publishers connected to it.
    #[serde(default)]
    pub publishers: u32,
    /// Viewers connected to it.
    #[serde(default)]
    pub viewers: u32,
    /// It stops: nothing new is to go there.
    #[serde(default)]
    pub draining: bool,
}

/// Who has a stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// The node; empty: nobody any more.
    pub node: String,
    /// Of which start of it.
    pub boot: u64,
    /// What its packets and announcements have: of two, the higher is the newer.
    pub generation: u64,
}

/// Why a record is none. Whoever wrote it has access to the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// More bytes than any has.
    #[error("a directory record of more than {RECORD_LEN_MAX} bytes")]
    Long,
    /// No JSON with the fields of one.
    #[error("a directory record without the fields of one")]
    Fields,
    /// A name that is no node's, or another one's than its key.
    #[error("a directory record with a name that is none, or not its key's")]
    Name,
    /// More nodes than any cluster has.
    #[error("more than {NODES_MAX} nodes in the directory")]
    Many,
    /// A generation out of bounds.
    #[error("a directory record with a generation out of bounds")]
    Generation,
}

impl NodeRecord {
    /// Reads the record of that key.
    pub fn read(key: &str, bytes: &[u8]) -> Result<NodeRecord, Error> {
        let record: NodeRecord = read(bytes)?;
        let fits = NodeId::new(&record.id).is_some() && record.id == key && record.region.len() <= 64;
        if fits { Ok(record) } else { Err(Error::Name) }
    }

    /// Its bytes.
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Claim {
    /// What is left of a claim that is given back: how new its publisher was. The next one is newer, whatever its node's clock says, and an older one that is
    /// still there elsewhere hears that it is.
    pub fn given_back(generation: u64) -> Claim {
        Claim { node: String::new(), boot: 0, generation }
    }

    /// Whether it is given back.
    pub fn is_given_back(&self) -> bool {
        self.node.is_empty()
    }

    /// Reads a claim.
    pub fn read(bytes: &[u8]) -> Result<Claim, Error> {
        let claim: Claim = read(bytes)?;
        if !claim.is_given_back() && NodeId::new(&claim.node).is_none() {
            return Err(Error::Name);
        }
        if claim.generation >= GENERATION_MAX { Err(Error::Generation) } else { Ok(claim) }
    }

    /// Its bytes.
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn read<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, Error> {
    if bytes.len() > RECORD_LEN_MAX {
        return Err(Error::Long);
    }
    serde_json::from_slice(bytes).map_err(|_| Error::Fields)
}

/// A stream's key: letters, digits, `-`, `_` and `/` stand for themselves, all else is `=` and two hexadecimal digits. Keys of NATS may have no dot at an end.
pub fn key_of(stream: &StreamName) -> String {
    let mut key = String::new();
    for byte in stream.as_str().bytes() {
        match byte {
            b'-' | b'_' | b'/' => key.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => key.push(byte.into()),
            _ => key.push_str(&format!("={byte:02x}")),
        }
    }
    key
}

/// The stream of a key; `None` where it is none's.
pub fn stream_of(key: &str) -> Option<StreamName> {
    let (mut text, mut rest) = (String::new(), key);
    while let Some((plain, coded)) = rest.split_once('=') {
        text.push_str(plain);
        let byte = u8::from_str_radix(coded.get(..2)?, 16).ok()?;
        text.push(char::from(byte));
        rest = coded.get(2..)?;
    }
    text.push_str(rest);
    StreamName::parse(&text).ok().filter(|stream| key_of(stream) == key)
}

/// What a publisher's node may do with a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Claim it: with the claim's revision that is there now, if any.
    Free {
        /// Of the record that is to be replaced; `None`: there is none.
        revision: Option<u64>,
        /// For the claim.
        generation: u64,
    },
    /// It has a publisher there.
    Taken(NodeId),
}

/// What is known of the cluster.
#[derive(Default, Debug)]
pub struct Table {
    nodes: BTreeMap<NodeId, (NodeRecord, Time)>,
    claims: HashMap<StreamName, (Claim, u64)>,
    /// Records that were no such, or did not fit.
    refused: u64,
}

impl Table {
    /// A node's record came: what it says.
    pub fn node(&mut self, key: &str, bytes: &[u8], now: Time) -> Result<&NodeRecord, Error> {
        let record =
            NodeRecord::read(key, bytes).inspect_err(|_| self.refused = self.refused.saturating_add(1))?;
        let id = NodeId::new(&record.id).ok_or(Error::Name)?;
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&id) {
            self.refused = self.refused.saturating_add(1);
            return Err(Error::Many);
        }
        Ok(&self.nodes.entry(id).insert_entry((record, now)).into_mut().0)
    }

    /// A node's record is no more.
    pub fn node_gone(&mut self, key: &str) {
        if let Some(id) = NodeId::new(key) {
            self.nodes.remove(&id);
        }
    }

    /// A claim came, or one was given back, which nobody needs to know of.
    pub fn claim(&mut self, key: &str, bytes: &[u8], revision: u64) -> Result<StreamName, Error> {
        let read = || Ok((stream_of(key).ok_or(Error::Name)?, Claim::read(bytes)?));
        let (stream, claim) = read().inspect_err(|_| self.refused = self.refused.saturating_add(1))?;
        if claim.is_given_back() {
            self.claims.remove(&stream);
        } else if self.claims.len() < CLAIMS_MAX || self.claims.contains_key(&stream) {
            self.claims.insert(stream.clone(), (claim, revision));
        }
        Ok(stream)
    }

    /// A claim is no more.
    pub fn claim_gone(&mut self, key: &str) {
        if let Some(stream) = stream_of(key) {
            self.claims.remove(&stream);
        }
    }

    /// A claim as it is there.
    pub fn claim_of(&self, stream: &StreamName) -> Option<&(Claim, u64)> {
        self.claims.get(stream)
    }

    /// Nodes whose lease runs.
    pub fn living(&self, now: Time) -> impl Iterator<Item = (&NodeId, &NodeRecord)> {
        let lives = move |at: &Time| now.since(*at) < LEASE_US;
        self.nodes.iter().filter(move |(_, (_, at))| lives(at)).map(|(id, (record, _))| (id, record))
    }

    /// Who has a stream: its node lives, in the start that claimed it.
    pub fn holder(&self, stream: &StreamName, now: Time) -> Option<(NodeId, &Claim)> {
        let (claim, _) = self.claims.get(stream)?;
        self.counts(claim, now).map(|id| (id, claim))
    }

    /// The node whose claim that is, if it lives in the start that made it.
    pub fn counts(&self, claim: &Claim, now: Time) -> Option<NodeId> {
        let id = NodeId::new(&claim.node)?;
        let (record, at) = self.nodes.get(&id)?;
        (record.boot == claim.boot && now.since(*at) < LEASE_US).then_some(id)
    }

    /// Whether a publisher at this node may have the stream: it is nobody's, or is taken over. The claim is one that was just read, or the one that is known.
    /// `newest` is the highest generation that was heard of it otherwise.
    pub fn verdict(
        &self,
        me: (&NodeId, u64),
        there: Option<&(Claim, u64)>,
        replace: bool,
        newest: u64,
        now: Time,
    ) -> Verdict {
        let (me, boot) = me;
        if let Some((claim, _)) = there
            && let Some(holder) = self.counts(claim, now)
            && (&holder, claim.boot) != (me, boot)
            && !replace
        {
            return Verdict::Taken(holder);
        }
        let last = there.map_or(0, |(claim, _)| claim.generation).max(newest);
        let generation = last.saturating_add(1);
        Verdict::Free { revision: there.map(|(_, revision)| *revision), generation }
    }

    /// Claims of that start of a node, with their revisions.
    pub fn claims_of(&self, node: &NodeId, boot: u64) -> impl Iterator<Item = (&StreamName, &Claim, u64)> {
        let of = move |claim: &Claim| claim.node == node.as_str() && claim.boot == boot;
        let all = self.claims.iter().filter(move |(_, (claim, _))| of(claim));
        all.map(|(stream, (claim, revision))| (stream, claim, *revision))
    }

    /// A node's record, be its lease over or not.
    pub fn record(&self, id: &NodeId) -> Option<&NodeRecord> {
        self.nodes.get(id).map(|(record, _)| record)
    }

    /// The leases of all that are known begin anew: nobody could be heard.
    pub fn renew(&mut self, now: Time) {
        self.nodes.values_mut().for_each(|(_, at)| *at = now);
    }

    /// Nodes that are long gone are forgotten.
    pub fn prune(&mut self, now: Time) {
        self.nodes.retain(|_, (_, at)| now.since(*at) < FORGET_US);
    }

    /// All claims are told anew.
    pub fn forget_claims(&mut self) {
        self.claims.clear();
    }

    /// All nodes' records, be their leases over or not.
    pub fn records(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values().map(|(record, _)| record)
    }

    /// Records that were no such, so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_given_back_is_nobodys_and_its_generation_is_known() {
        let bytes = Claim::given_back(41).write();
        let claim = Claim::read(&bytes).expect("a claim");
        assert!(claim.is_given_back());
        let mut table = Table::default();
        table.node("a", &record("a", 7), Time::ZERO).unwrap();
        let key = key_of(&stream());
        let held = Claim { node: "a".into(), boot: 7, generation: 40 };
        table.claim(&key, &held.write(), 1).unwrap();
        assert_eq!(table.holder(&stream(), Time::ZERO).map(|(id, _)| id), NodeId::new("a"));
        table.claim(&key, &bytes, 2).unwrap();
        assert!(table.claim_of(&stream()).is_none());
        let b = NodeId::new("b").unwrap();
        let verdict = table.verdict((&b, 1), Some(&(claim, 2)), false, 5, Time::ZERO);
        assert_eq!(verdict, Verdict::Free { revision: Some(2), generation: 42 });
    }

    fn stream() -> StreamName {
        StreamName::parse("live/alice").expect("a name")
    }

    fn record(id: &str, boot: u64) -> Vec<u8> {
        let relay = "10.0.0.1:4443".parse().expect("an address");
        let (region, version) = ("eu".into(), "0.1.0".into());
        NodeRecord { id: id.into(), boot, relay, region, load: Load::default(), version }.write()
    }

    fn claim(node: &str, boot: u64, generation: u64) -> Claim {
        Claim { node: node.into(), boot, generation }
    }

    fn id(text: &str) -> NodeId {
        NodeId::new(text).expect("an id")
    }

    #[test]
    fn a_claim_counts_while_the_start_that_made_it_lives() {
        let mut table = Table::default();
        table.node("a", &record("a", 7), Time::ZERO).unwrap();
        table.claim("live/alice", &claim("a", 7, 5).write(), 3).unwrap();
        let holder = |table: &Table, now: Time| table.holder(&stream(), now).map(|(id, _)| id);
        assert_eq!(holder(&table, Time(LEASE_US - 1)), Some(id("a")));
        assert_eq!(holder(&table, Time(LEASE_US)), None, "nothing was heard");
        table.node("a", &record("a", 8), Time(LEASE_US)).unwrap();
        assert_eq!(holder(&table, Time(LEASE_US)), None, "it is another start");
        table.node("a", &record("a", 7), Time(LEASE_US)).unwrap();
        assert_eq!(holder(&table, Time(LEASE_US)), Some(id("a")));
        table.node_gone("a");
        assert_eq!(holder(&table, Time(LEASE_US)), None);
    }

    #[test]
    fn a_stream_is_free_where_its_holder_is_gone_and_generations_rise() {
        let mut table = Table::default();
        let (b, now) = (id("b"), Time::ZERO);
        let verdict = |table: &Table, replace, newest, now| {
            table.verdict((&b, 1), table.claim_of(&stream()), replace, newest, now)
        };
        assert_eq!(verdict(&table, false, 40, now), Verdict::Free { revision: None, generation: 41 });
        table.node("a", &record("a", 7), now).unwrap();
        table.claim("live/alice", &claim("a", 7, 50).write(), 3).unwrap();
        assert_eq!(verdict(&table, false, 40, now), Verdict::Taken(id("a")));
        assert_eq!(verdict(&table, true, 60, now), Verdict::Free { revision: Some(3), generation: 61 });
        let later = Time(LEASE_US);
        assert_eq!(verdict(&table, false, 40, later), Verdict::Free { revision: Some(3), generation: 51 });
        // Its own, of this start: an encoder that comes back before it was given back.
        table.node("b", &record("b", 1), now).unwrap();
        table.claim("live/alice", &claim("b", 1, 51).write(), 4).unwrap();
        assert_eq!(verdict(&table, false, 0, now), Verdict::Free { revision: Some(4), generation: 52 });
        table.claim("live/alice", &claim("b", 2, 51).write(), 5).unwrap();
        assert_eq!(verdict(&table, false, 0, now), Verdict::Free { revision: Some(5), generation: 52 });
    }

    #[test]
    fn what_is_no_record_is_refused_and_changes_nothing() {
        let mut table = Table::default();
        assert_eq!(
            table.node("b", &record("a", 7), Time::ZERO).err(),
            Some(Error::Name),
            "another one's key"
        );
        assert_eq!(table.node("A", &record("A", 7), Time::ZERO).err(), Some(Error::Name));
        assert_eq!(table.node("a", b"{}", Time::ZERO).err(), Some(Error::Fields));
        assert_eq!(table.node("a", &vec![b' '; RECORD_LEN_MAX + 1], Time::ZERO).err(), Some(Error::Long));
        let claim = claim("a", 7, GENERATION_MAX);
        assert_eq!(table.claim("live/alice", &claim.write(), 1), Err(Error::Generation));
        assert_eq!(table.claim("alice", &Claim { generation: 1, ..claim }.write(), 1), Err(Error::Name));
        assert_eq!((table.living(Time::ZERO).count(), table.refused()), (0, 6));
        assert!(table.claim_of(&stream()).is_none());
    }

    proptest! {
        #[test]
        fn a_key_is_a_streams_and_its_alone(name in "[A-Za-z0-9_~@+=-][A-Za-z0-9._~@+=-]{0,20}") {
            let stream = StreamName::new("live", &name).expect("a name");
            let key = key_of(&stream);
            prop_assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_/=".contains(&b)), "{}", key);
            prop_assert_eq!(stream_of(&key), Some(stream));
        }

        #[test]
        fn no_bytes_are_too_much(bytes in prop::collection::vec(any::<u8>(), 0..200), key in "\\PC{0,30}") {
            let mut table = Table::default();
            let _ = table.node(&key, &bytes, Time::ZERO);
            let _ = table.claim(&key, &bytes, 1);
            let _ = stream_of(&key);
        }
    }
}
