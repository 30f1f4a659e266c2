//! Reports to and of a subscriber (RFC 3550 section 6).

use std::sync::atomic::Ordering;

use media::Time;
use metrics::ShardMetrics;
use rtc::rtcp;
use rtc::session::Session;

use super::{ANSWERED_US, REPORT_US, Subscriber, push};
use crate::command::PeerStats;
use crate::forward::Forwarder;
use crate::shard::Egress;

impl Subscriber {
    /// How the subscriber gets one of its sources; reports on others are nobody's business.
    pub(crate) fn on_report(&mut self, about_ssrc: u32, fraction_lost: u8, lost: i32, stats: &PeerStats) {
        let Some(subscribed) = self.forwarders.iter_mut().find(|s| s.forwarder.ssrc == about_ssrc) else {
            return;
        };
        (subscribed.fraction_lost, subscribed.lost) = (fraction_lost, lost);
        let worst = self.forwarders.iter().map(|s| s.fraction_lost).max().unwrap_or(0);
        stats.fraction_lost.store(u64::from(worst), Ordering::Relaxed);
        // RFC 3550 6.4.1: duplicates make it negative.
        let lost: u64 = self.forwarders.iter().map(|s| u64::try_from(s.lost).unwrap_or(0)).sum();
        stats.lost.store(lost, Ordering::Relaxed);
    }

    /// Whether no answer to a newer clock of ours came before. An older one's, where reports of one source were lost, tells of the path as it was.
    pub(crate) fn is_newest(&mut self, lsr: u32, now: Time) -> bool {
        let newest = self
            .answered
            .is_none_or(|(before, at)| lsr.wrapping_sub(before) as i32 >= 0 || now.since(at) > ANSWERED_US);
        if newest {
            self.answered = Some((lsr, now));
        }
        newest
    }

    /// The subscriber wants its round trip: it is answered with our next report, and only the last of several.
    pub(crate) fn on_reference_time(&mut self, from_ssrc: u32, ntp: u64, now: Time) {
        self.reference_time = Some((from_ssrc, rtcp::ntp_middle(ntp), now));
    }

    /// When there is a report to send, after that was done. A forwarder's first is due with its first packet.
    pub(crate) fn next_report(&self) -> Time {
        let of = |f: &Forwarder| f.last_report.map_or(Time::MAX, |last| last.plus_us(REPORT_US));
        self.forwarders.iter().map(|s| of(&s.forwarder)).min().unwrap_or(Time::MAX)
    }

    /// When no packet went out since the last time, as where the publisher pauses, an empty report does (RFC 3550 section 6.4.2): what hears nothing for
    /// longer is on a path that is lost.
    pub(crate) fn keep_alive<E: Egress>(
        &mut self,
        session: &mut Session,
        metrics: &ShardMetrics,
        out: &mut E,
    ) {
        let packets = self.forwarders.iter().map(|s| s.forwarder.sent.packets).sum();
        if let Some(first) = self.forwarders.first().filter(|_| packets == self.looked_packets) {
            let mut compound = Vec::with_capacity(64);
            rtcp::receiver_report(&mut compound, first.forwarder.ssrc, &[], &self.cname);
            let _ = session.send_rtcp(&compound, &mut |to, bytes: &[u8]| push(out, metrics, to, bytes));
        }
        self.looked_packets = packets;
    }

    /// A sender report for each forwarder that is due: at once after the first packet, then each second.
    pub(crate) fn report<E: Egress>(
        &mut self,
        session: &mut Session,
        metrics: &ShardMetrics,
        unix_us_at_zero: i64,
        now: Time,
        out: &mut E,
    ) {
        for subscribed in &mut self.forwarders {
            let forwarder = &mut subscribed.forwarder;
            if forwarder.last_report.is_some_and(|last| now.since(last) < REPORT_US) {
                continue;
            }
            let Some(time) = forwarder.sender_time(now) else { continue };
            forwarder.last_report = Some(now);
            let mut compound = Vec::with_capacity(96);
            let ntp = rtcp::ntp_from_unix_us(unix_us_at_zero + time.at.us());
            let info = rtcp::SenderInfo {
                ssrc: forwarder.ssrc,
                ntp,
                rtp: time.rtp,
                packets: forwarder.sent.packets as u32,
                octets: forwarder.sent.payload_bytes as u32,
            };
            rtcp::sender_report(&mut compound, &info, &[], &self.cname);
            if let Some((from, last, at)) = self.reference_time.take() {
                let delay = (now.since(at).max(0) * 65_536 / 1_000_000) as u32;
                rtcp::delay_since_reference(&mut compound, forwarder.ssrc, from, last, delay);
            }
            let _ = session.send_rtcp(&compound, &mut |to, bytes: &[u8]| push(out, metrics, to, bytes));
        }
    }
}
