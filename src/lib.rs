//! The Millrace node: sockets, clocks, threads, HTTP, settings. The only place that touches the operating system.

pub mod auth;
pub mod cert;
pub mod clients;
pub mod clock;
pub mod config;
pub mod convert;
pub mod demo;
pub mod directory;
pub mod door;
pub mod http;
pub mod logging;
pub mod media_plane;
pub mod node;
pub mod ops;
pub mod relay;
pub mod rtmp_server;
pub mod serve;
pub mod stream;
pub mod task;
pub mod uplink;
pub mod wishes;
