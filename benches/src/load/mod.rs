//! The load harness: a coordinator that plans a scenario, workers that drive its clients, and what came of it.

pub mod bare;
mod beep;
mod client;
mod clip;
mod clock;
pub mod compare;
mod engine;
mod histogram;
pub mod hop;
pub mod html;
mod http;
pub mod outcome;
pub mod peers;
mod plan;
mod plot;
mod process;
pub mod progress;
pub mod run;
pub mod scenario;
pub mod search;
mod stamp;
mod tally;
pub mod target;
pub mod text;
pub mod worker;
mod workers;
