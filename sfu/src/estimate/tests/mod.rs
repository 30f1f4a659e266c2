//! The estimator against a model of a link and the receiver that the node itself has.

mod links;
mod world;
