//! RTCP (RFC 3550 section 6, RFC 3611, RFC 4585, RFC 5104, RFC 5506): compounds in, as small events; packets out, appended to a
//! buffer.
//!
//! Parsing rests on `rtcp-types`, behind a guard of our own: the compound is cut here, so that packets of no interest
//! (SDES, APP) cost nothing, and padding is removed here, because the crate takes it for feedback entries.

mod build;
mod ntp;
pub mod twcc;
mod xr;

pub use build::{ReportBlock, SenderInfo, bye, fir, nack, pli, receiver_report, remb, sender_report};
pub use ntp::{ntp_from_unix_us, ntp_middle, rtt_us, unix_us_from_ntp};
pub use xr::{delay_since_reference, reference_time};

use rtcp_types::prelude::{FciParser, RtcpPacketParser, RtcpPacketParserExt};
use rtcp_types::{Bye, Fir, Nack, PayloadFeedback, ReceiverReport, SenderReport, TransportFeedback};

/// The sequence numbers one compound may ask for again, and one NACK we send. It is above what a window of 1 s at 500
/// packets/s holds; the rest of a longer request is dropped, the receiver asks again or asks for a key frame.
pub const NACK_SEQS_MAX: usize = 512;

/// Packet types of RFC 3550 section 12.1, RFC 4585 section 6.1 and RFC 3611 section 2.
const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const BYE: u8 = 203;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const EXTENDED_REPORT: u8 = 207;
/// Feedback formats: RFC 4585 section 6, RFC 5104 section 4.3.1, draft-holmer-rmcat-transport-wide-cc-extensions-01
/// section 3.1, draft-alvestrand-rmcat-remb-03 section 2.2.
const FORMAT_NACK: u8 = 1;
const FORMAT_TWCC: u8 = 15;
const FORMAT_PLI: u8 = 1;
const FORMAT_FIR: u8 = 4;
const FORMAT_REMB: u8 = 15;
/// What the FCI of a REMB begins with.
const REMB_MAGIC: [u8; 4] = *b"REMB";
/// Header, sender SSRC and media SSRC of a feedback packet.
const FEEDBACK_HEADER_LEN: usize = 12;

/// Why bytes are no RTCP compound. The fault is the peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// A packet's length field points past the end, or fewer than four bytes are left.
    #[error("RTCP packet at byte {at} is longer than the compound")]
    Truncated {
        /// Where the packet begins.
        at: usize,
    },
    /// The padding bit is set and the count does not fit.
    #[error("RTCP packet at byte {at}: padding does not fit")]
    Padding {
        /// Where the packet begins.
        at: usize,
    },
    /// A packet does not follow its own format.
    #[error("RTCP packet at byte {at}, type {packet_type}: broken")]
    Broken {
        /// Where the packet begins.
        at: usize,
        /// RTCP packet type.
        packet_type: u8,
    },
    /// A transport-wide feedback is broken or describes too many packets.
    #[error("transport-wide feedback: {0}")]
    Twcc(&'static str),
}

/// One thing a compound says. It borrows the compound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// RFC 3550 section 6.4.1: what a source has sent, and the pair of clocks.
    SenderReport {
        /// The source.
        ssrc: u32,
        /// Wall clock, 32.32 fixed point seconds since 1900.
        ntp: u64,
        /// The same moment in the source's RTP clock.
        rtp: u32,
        /// Packets sent so far, modulo 2^32.
        packets: u32,
        /// Payload bytes sent so far, modulo 2^32.
        octets: u32,
    },
    /// A report block: how a receiver gets one of our sources.
    Report {
        /// Who reports.
        from_ssrc: u32,
        /// Whom it reports about.
        about_ssrc: u32,
        /// Share lost since the last report, in 1/256.
        fraction_lost: u8,
        /// Lost so far; duplicates make it negative.
        cumulative_lost: i32,
        /// Extended highest sequence number received.
        highest_seq: u32,
        /// Interarrival jitter in ticks of the source's clock.
        jitter: u32,
        /// Middle 32 bits of the last sender report's NTP time, 0 before the first.
        lsr: u32,
        /// Delay since that sender report, in 1/65536 s.
        dlsr: u32,
    },
    /// RFC 4585 section 6.2.1: packets to send again.
    Nack {
        /// The source.
        ssrc: u32,
        /// Sequence numbers asked for; at most [`NACK_SEQS_MAX`] in a compound.
        seqs: &'a [u16],
    },
    /// RFC 4585 section 6.3.1: a picture was lost.
    Pli {
        /// The source.
        ssrc: u32,
    },
    /// RFC 5104 section 4.3.1: a key frame is wanted.
    Fir {
        /// The source.
        ssrc: u32,
        /// Command number: a repeated one is the same request.
        seq: u8,
    },
    /// draft-alvestrand-rmcat-remb-03: what the receiver believes it can take.
    Remb {
        /// All its sources together, bit/s.
        bitrate_bps: u64,
        /// How many sources it names.
        ssrc_count: u8,
    },
    /// draft-holmer-rmcat-transport-wide-cc-extensions-01: arrival times, for [`twcc::decode`].
    Twcc {
        /// Feedback control information.
        fci: &'a [u8],
    },
    /// RFC 3611 section 4.4: the clock of one who only receives, who wants its round trip.
    ReferenceTime {
        /// Who says so.
        from_ssrc: u32,
        /// Its wall clock, 32.32 fixed point seconds since 1900.
        ntp: u64,
    },
    /// RFC 3611 section 4.5: the answer to a reference time of ours. For [`rtt_us`].
    DelaySinceReference {
        /// Whose reference time it was.
        about_ssrc: u32,
        /// Middle 32 bits of it.
        last: u32,
        /// Delay since it came, in 1/65536 s.
        delay: u32,
    },
    /// RFC 3550 section 6.6: a source leaves.
    Bye {
        /// The source.
        ssrc: u32,
    },
}

/// Reads a compound, also a reduced-size one (RFC 5506), and gives each event to `f` in order. Packets of other types
/// and formats are skipped. On an error the events before the broken packet have been given.
pub fn parse(compound: &[u8], mut f: impl FnMut(Event<'_>)) -> Result<(), Error> {
    let mut nacks = [0_u16; NACK_SEQS_MAX];
    let mut nacks_free = nacks.as_mut_slice();
    let mut rest = compound;
    loop {
        let at = compound.len().saturating_sub(rest.len());
        let &[first, packet_type, words0, words1] = rest.first_chunk::<4>().ok_or(Error::Truncated { at })?;
        let len = usize::from(u16::from_be_bytes([words0, words1])).saturating_add(1).saturating_mul(4);
        let (packet, after) = rest.split_at_checked(len).ok_or(Error::Truncated { at })?;
        let broken = Error::Broken { at, packet_type };
        if first >> 6 != 2 {
            return Err(broken);
        }
        let is_twcc = packet_type == TRANSPORT_FEEDBACK && first & 0x1f == FORMAT_TWCC;
        let unpadded_len = if first & 0x20 == 0 {
            len
        } else {
            let count = usize::from(packet.last().copied().unwrap_or(0));
            // RFC 3550 section 6.4.1: the count includes itself and is a multiple of four. Not of a transport-wide feedback, whose deltas end at any
            // byte: Chromium fills that up to the next word.
            let fits = |count: usize| count > 0 && (count.is_multiple_of(4) || is_twcc);
            match len.checked_sub(count) {
                Some(unpadded) if unpadded >= 4 && fits(count) => unpadded,
                _ => return Err(Error::Padding { at }),
            }
        };
        let body = packet.get(..unpadded_len).unwrap_or_default();
        match packet_type {
            SENDER_REPORT => sender_report_events(packet, &mut f).ok_or(broken)?,
            RECEIVER_REPORT => receiver_report_events(packet, &mut f).ok_or(broken)?,
            BYE => {
                let bye = <Bye<'_> as RtcpPacketParser>::parse(packet).map_err(|_| broken)?;
                bye.ssrcs().for_each(|ssrc| f(Event::Bye { ssrc }));
            }
            EXTENDED_REPORT => xr::events(body, &mut f).ok_or(broken)?,
            TRANSPORT_FEEDBACK if is_twcc => {
                f(Event::Twcc { fci: body.get(FEEDBACK_HEADER_LEN..).ok_or(broken)? })
            }
            TRANSPORT_FEEDBACK => {
                let feedback =
                    <TransportFeedback<'_> as RtcpPacketParser>::parse(packet).map_err(|_| broken)?;
                let fci = body.get(FEEDBACK_HEADER_LEN..).ok_or(broken)?;
                if feedback.count() == FORMAT_NACK {
                    let nack = <Nack<'_> as FciParser>::parse(fci).map_err(|_| broken)?;
                    let mut count = 0_usize;
                    for (slot, seq) in nacks_free.iter_mut().zip(nack.entries()) {
                        *slot = seq;
                        count = count.saturating_add(1);
                    }
                    let free = std::mem::take(&mut nacks_free);
                    let (seqs, free) = free.split_at_mut_checked(count).unwrap_or_default();
                    if !seqs.is_empty() {
                        f(Event::Nack { ssrc: feedback.media_ssrc(), seqs });
                    }
                    nacks_free = free;
                }
            }
            PAYLOAD_FEEDBACK => {
                let feedback =
                    <PayloadFeedback<'_> as RtcpPacketParser>::parse(packet).map_err(|_| broken)?;
                let fci = body.get(FEEDBACK_HEADER_LEN..).ok_or(broken)?;
                match feedback.count() {
                    FORMAT_PLI => f(Event::Pli { ssrc: feedback.media_ssrc() }),
                    FORMAT_FIR => {
                        // RFC 5104 section 4.3.1.2: the media SSRC field is unused, each entry names its own.
                        let fir = <Fir<'_> as FciParser>::parse(fci).map_err(|_| broken)?;
                        fir.entries()
                            .for_each(|entry| f(Event::Fir { ssrc: entry.ssrc(), seq: entry.sequence() }));
                    }
                    // Format 15 is "application layer feedback", so a foreign magic is not an error.
                    FORMAT_REMB => f_remb(fci, &mut f),
                    _ => {}
                }
            }
            _ => {}
        }
        rest = after;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

fn sender_report_events(packet: &[u8], f: &mut impl FnMut(Event<'_>)) -> Option<()> {
    let report = <SenderReport<'_> as RtcpPacketParser>::parse(packet).ok()?;
    f(Event::SenderReport {
        ssrc: report.ssrc(),
        ntp: report.ntp_timestamp(),
        rtp: report.rtp_timestamp(),
        packets: report.packet_count(),
        octets: report.octet_count(),
    });
    report.report_blocks().for_each(|block| f(report_event(report.ssrc(), &block)));
    Some(())
}

fn receiver_report_events(packet: &[u8], f: &mut impl FnMut(Event<'_>)) -> Option<()> {
    let report = <ReceiverReport<'_> as RtcpPacketParser>::parse(packet).ok()?;
    report.report_blocks().for_each(|block| f(report_event(report.ssrc(), &block)));
    Some(())
}

fn report_event(from_ssrc: u32, block: &rtcp_types::ReportBlock<'_>) -> Event<'static> {
    Event::Report {
        from_ssrc,
        about_ssrc: block.ssrc(),
        fraction_lost: block.fraction_lost(),
        // RFC 3550 section 6.4.1: a signed number of 24 bits.
        cumulative_lost: (block.cumulative_lost() << 8) as i32 >> 8,
        highest_seq: block.extended_sequence_number(),
        jitter: block.interarrival_jitter(),
        lsr: block.last_sender_report_timestamp(),
        dlsr: block.delay_since_last_sender_report_timestamp(),
    }
}

fn f_remb(fci: &[u8], f: &mut impl FnMut(Event<'_>)) {
    let Some((&magic, rest)) = fci.split_first_chunk::<4>() else { return };
    let Some(&[ssrc_count, coded0, coded1, coded2]) = rest.first_chunk::<4>() else { return };
    if magic != REMB_MAGIC {
        return;
    }
    // draft-alvestrand-rmcat-remb-03 section 2.2: 6 bits of exponent, 18 of mantissa.
    let coded = u32::from_be_bytes([0, coded0, coded1, coded2]);
    let (exponent, mantissa) = (coded >> 18, u64::from(coded & 0x3_ffff));
    let bitrate_bps = match mantissa.checked_shl(exponent) {
        Some(shifted) if shifted.checked_shr(exponent) == Some(mantissa) => shifted,
        _ => u64::MAX,
    };
    f(Event::Remb { bitrate_bps, ssrc_count });
}

#[cfg(test)]
mod tests;
