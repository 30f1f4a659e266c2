//! The stages that a packet, a message or a frame goes through, each as a workload of its own: written once, timed and counted by the
//! benchmark `micro`. Inputs are the same on every run, but for the keys that the handshakes make and the seeds of hash tables.

mod frames;
mod hop;
mod packets;

use rtc::srtp::Profile::{AeadAes128Gcm, AeadAes256Gcm, Aes128CmSha1_80};

/// A stage's work, pass by pass.
pub trait Workload {
    /// Makes what the next pass takes, and lets go of what the last one left. Not measured.
    fn prepare(&mut self);
    /// A pass. Returns how many [`Stage::unit`]s it was.
    fn run(&mut self) -> usize;
}

/// One line of the table.
pub struct Stage {
    /// By what it is found in the table and in the baseline.
    pub name: &'static str,
    /// What is counted: a packet in or out, a message, a look-up.
    pub unit: &'static str,
    /// A stage that this one's work has in it and that is taken off its figure.
    pub minus: Option<&'static str>,
    /// Sets it up.
    pub start: fn() -> Box<dyn Workload>,
}

const fn stage(name: &'static str, unit: &'static str, start: fn() -> Box<dyn Workload>) -> Stage {
    Stage { name, unit, minus: None, start }
}

/// Every stage, in the order of the path.
pub const STAGES: &[Stage] = &[
    stage("demux_stun_stranger", "datagram", packets::demux_stun_stranger),
    stage("demux_rtp_stranger", "datagram", packets::demux_rtp_stranger),
    stage("demux_rtp", "datagram", packets::demux_rtp),
    stage("stun_check", "check", packets::stun_check),
    stage("srtp_unprotect_gcm128", "packet", || packets::unprotect(AeadAes128Gcm)),
    stage("srtp_unprotect_gcm256", "packet", || packets::unprotect(AeadAes256Gcm)),
    stage("srtp_unprotect_cm80", "packet", || packets::unprotect(Aes128CmSha1_80)),
    stage("packet_in", "packet in", packets::packet_in),
    stage("ring_insert", "packet", packets::ring_insert),
    stage("ring_lookup", "look-up", packets::ring_lookup),
    Stage {
        minus: Some("srtp_protect_gcm128"),
        ..stage("rewrite", "packet out", || packets::fan_out(AeadAes128Gcm))
    },
    stage("srtp_protect_gcm128", "packet", || packets::protect(AeadAes128Gcm)),
    stage("srtp_protect_gcm256", "packet", || packets::protect(AeadAes256Gcm)),
    stage("srtp_protect_cm80", "packet", || packets::protect(Aes128CmSha1_80)),
    stage("path_out", "packet out", packets::path_out),
    stage("nack_service", "NACK", packets::nack_service),
    stage("rtmp_chunk_decode", "message", frames::rtmp_chunk_decode),
    stage("flv_demux", "tag", frames::flv_demux),
    stage("h264_packetize", "packet", frames::h264_packetize),
    stage("h264_depacketize", "packet", frames::h264_depacketize),
    stage("rtmp_chunk_encode", "message", frames::rtmp_chunk_encode),
    stage("flv_tag", "tag", frames::flv_tag),
    stage("hop_encode", "packet", hop::encode),
    stage("hop_decode", "packet", hop::decode),
    stage("hop_nack", "NACK", hop::nack),
];

/// The stage of that name.
pub fn stage_named(name: &str) -> Option<&'static Stage> {
    STAGES.iter().find(|stage| stage.name == name)
}

/// What is measured of a pass: a function of its own, because callgrind counts from its entry to its end, and finds it by its name.
#[inline(never)]
pub fn measured_part(workload: &mut dyn Workload) -> usize {
    workload.run()
}

struct Work<S, T, P, R> {
    state: S,
    next: Option<T>,
    prepare: P,
    run: R,
}

/// A workload from what it keeps and its two halves. What a pass left is dropped by the next preparation.
fn work<S: 'static, T: 'static>(
    state: S,
    prepare: impl FnMut(&mut S) -> T + 'static,
    run: impl FnMut(&mut S, &mut T) -> usize + 'static,
) -> Box<dyn Workload> {
    Box::new(Work { state, next: None, prepare, run })
}

impl<S, T, P: FnMut(&mut S) -> T, R: FnMut(&mut S, &mut T) -> usize> Workload for Work<S, T, P, R> {
    fn prepare(&mut self) {
        self.next = None;
        self.next = Some((self.prepare)(&mut self.state));
    }

    fn run(&mut self) -> usize {
        (self.run)(&mut self.state, self.next.as_mut().expect("a pass is prepared"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each workload checks itself that all its packets came through.
    #[test]
    fn every_stage_does_its_work_again_and_again() {
        for stage in STAGES {
            let mut workload = (stage.start)();
            let mut pass = || {
                workload.prepare();
                measured_part(&mut *workload)
            };
            let first = pass();
            assert!(first > 0, "{}", stage.name);
            assert_eq!([pass(), pass()], [first; 2], "{}", stage.name);
        }
    }

    #[test]
    fn names_differ_and_what_is_taken_off_is_there() {
        for (i, stage) in STAGES.iter().enumerate() {
            assert!(STAGES[..i].iter().all(|other| other.name != stage.name), "{}", stage.name);
            let minus = stage.minus.map(|name| stage_named(name).expect(name));
            assert!(minus.is_none_or(|other| other.minus.is_none()), "{}: one step, no chain", stage.name);
        }
    }
}
