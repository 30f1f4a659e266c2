//! What is to be done, and what was refused.

use media::{Need, StreamName};

use super::{LinkId, Offer};

/// What the node is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action<T> {
    /// Tell the peer of a stream, instead of what it was told of it before.
    Announce {
        /// The peer.
        link: LinkId,
        /// The stream.
        stream: StreamName,
        /// How it may have it.
        offer: Offer<T>,
    },
    /// Tell the peer that it may have the stream no more. It is sent nothing more of it, either.
    End {
        /// The peer.
        link: LinkId,
        /// The stream.
        stream: StreamName,
        /// What it was told of.
        generation: u64,
    },
    /// Take the stream, which is taken by no link so far.
    Take {
        /// The stream.
        stream: StreamName,
        /// By which.
        link: LinkId,
        /// Of which generation.
        generation: u64,
    },
    /// Take it by another link, or in another generation.
    Switch {
        /// The stream.
        stream: StreamName,
        /// The link so far; `None`: it is down.
        from: Option<LinkId>,
        /// The link from now on.
        to: LinkId,
        /// Of which generation.
        generation: u64,
        /// It still comes by the one before: that is left when the other has caught up.
        make_before_break: bool,
        /// What for.
        why: Why,
    },
    /// Take it no more: nobody wants it, or it is published here.
    Leave {
        /// The stream.
        stream: StreamName,
        /// The link so far.
        link: LinkId,
    },
    /// It is wanted, and there is no way that it could come by any more.
    Lost {
        /// The stream.
        stream: StreamName,
    },
    /// What it is taken for is something else now.
    Need {
        /// The stream.
        stream: StreamName,
        /// The link it is taken by.
        link: LinkId,
        /// What for.
        need: Need,
    },
    /// Be ready to take it by that link, too. A switch to it ends that.
    Hold {
        /// The stream.
        stream: StreamName,
        /// Which link.
        link: LinkId,
    },
    /// That no more. Not said where the link is down.
    Unhold {
        /// The stream.
        stream: StreamName,
        /// Which link.
        link: LinkId,
    },
    /// What is published here is older than what is published elsewhere: it is announced to nobody any more.
    Fenced {
        /// The stream.
        stream: StreamName,
        /// The one here.
        generation: u64,
    },
}

/// Why a stream is taken by another way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Why {
    /// The link is down, or the peer has the stream no more.
    Gone,
    /// There is a newer generation.
    Newer,
    /// The peer, or a node behind it, stops.
    Drains,
    /// It is better by a fifth, and was for ten seconds.
    Cheaper,
    /// Peers take the stream from here, and were told of this way.
    Shorter,
}

/// Offers that were not heard, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Refused {
    /// The way does not end with the peer.
    pub crooked: u64,
    /// It leads through this node.
    pub looped: u64,
    /// Of more than [`super::HOPS_MAX`] links.
    pub long: u64,
    /// Of a generation that is over.
    pub older: u64,
    /// The peer offers [`super::OFFERED_MAX`] streams already.
    pub full: u64,
}
