//! Formats end to end, across the crates that write and read them: the project's clip through FLV, RTMP chunks and RTP
//! payloads and back, and browsers' offers to our answers. What one crate alone can show is tested beside its code.
mod clip;
mod flv;
mod relay_control;
mod relay_stream;
mod rtmp;
mod rtp;
mod sdp;
