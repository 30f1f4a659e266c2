//! The load harness: a coordinator that plans a scenario, workers that drive its clients, and what came of it.

mod client;
mod clip;
mod clock;
mod engine;
mod histogram;
mod http;
pub mod outcome;
pub mod peers;
mod plan;
mod process;
pub mod progress;
pub mod run;
pub mod scenario;
mod stamp;
mod tally;
pub mod target;
pub mod text;
pub mod worker;
mod workers;
