//! What a node takes a stream from another for.

/// From the least to the most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Need {
    /// To have it when another way ends: nothing of it is sent, but it is kept coming and ready.
    Held,
    /// It is sent, and nobody watches: for nodes that hold it, or until somebody comes back. Who takes a stream so holds it nowhere.
    Spare,
    /// Somebody watches.
    Watched,
}
