//! The node against real programs: ffmpeg and ffprobe, Chromium, Firefox. A test whose program is missing skips itself
//! by name. Those with a browser, and those that measure time, run alone (`support::wait`).
mod api;
mod bad_links;
mod browsers;
mod cluster;
mod convert;
mod ffmpeg_only;
mod firefox;
mod flv_player;
mod join;
mod layers;
mod moving;
mod pages;
mod reconnect;
mod relay;
mod skew;
mod temporal;
mod uplink;
