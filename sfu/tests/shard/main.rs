//! Whole shards in memory: truly connected WebRTC clients (ICE, DTLS, SRTP), virtual time, links that lose and reorder by a seed.

extern crate millrace_sfu as sfu;

mod camera;
mod congestion;
mod dependency;
mod figures;
mod forwarding;
mod hostile;
mod joining;
mod key_frames;
mod layers;
mod left_out;
mod loss_down;
mod loss_up;
mod moving;
mod pacing;
mod properties;
mod remb;
mod reports;
mod scene;
mod session_end;
mod simulcast;
mod source;
mod source_change;
mod strangers;
mod temporal;
mod wanted;
mod wire;
mod world;
