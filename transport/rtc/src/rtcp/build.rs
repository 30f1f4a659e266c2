//! RTCP packets, appended to a buffer; several in a row make a compound.

use super::{
    BYE, FORMAT_FIR, FORMAT_NACK, FORMAT_PLI, FORMAT_REMB, NACK_SEQS_MAX, PAYLOAD_FEEDBACK, RECEIVER_REPORT,
    REMB_MAGIC, SENDER_REPORT, TRANSPORT_FEEDBACK,
};

/// Source description (RFC 3550 section 6.5).
const SDES: u8 = 202;
/// SDES item type of the canonical name.
const SDES_CNAME: u8 = 1;
/// The five-bit count field.
const BLOCKS_MAX: usize = 31;
/// Sources a REMB names; the count is a byte, and no session of ours has more than a few.
const REMB_SSRCS_MAX: usize = 16;

/// What a sender report says of its source (RFC 3550 section 6.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SenderInfo {
    /// The source.
    pub ssrc: u32,
    /// Wall clock, 32.32 fixed point seconds since 1900.
    pub ntp: u64,
    /// The same moment in the source's RTP clock.
    pub rtp: u32,
    /// Packets sent so far, modulo 2^32.
    pub packets: u32,
    /// Payload bytes sent so far, modulo 2^32.
    pub octets: u32,
}

/// One report block (RFC 3550 section 6.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ReportBlock {
    /// The source reported about.
    pub ssrc: u32,
    /// Share lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Lost so far; clamped to 24 bits signed.
    pub cumulative_lost: i32,
    /// Extended highest sequence number received.
    pub highest_seq: u32,
    /// Interarrival jitter in ticks of the source's clock.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time, 0 before the first.
    pub lsr: u32,
    /// Delay since that sender report, in 1/65536 s.
    pub dlsr: u32,
}

/// Appends a sender report, and an SDES with the canonical name unless `cname` is empty (RFC 3550 section 6.1 wants one in
/// every compound that is not reduced-size). Blocks beyond 31 go into receiver reports after it.
pub fn sender_report(out: &mut Vec<u8>, info: &SenderInfo, blocks: &[ReportBlock], cname: &str) {
    let (first, more) = blocks.split_at_checked(BLOCKS_MAX).unwrap_or((blocks, &[]));
    packet(out, SENDER_REPORT, first.len(), |out| {
        out.extend(info.ssrc.to_be_bytes());
        out.extend(info.ntp.to_be_bytes());
        out.extend(info.rtp.to_be_bytes());
        out.extend(info.packets.to_be_bytes());
        out.extend(info.octets.to_be_bytes());
        report_blocks(out, first);
    });
    if !more.is_empty() {
        receiver_report(out, info.ssrc, more, "");
    }
    sdes_cname(out, info.ssrc, cname);
}

/// Appends a receiver report and, unless `cname` is empty, an SDES. No blocks make the empty report that begins a
/// compound of a peer that has received nothing.
pub fn receiver_report(out: &mut Vec<u8>, ssrc: u32, blocks: &[ReportBlock], cname: &str) {
    let mut rest = blocks;
    loop {
        let (now, later) = rest.split_at_checked(BLOCKS_MAX).unwrap_or((rest, &[]));
        packet(out, RECEIVER_REPORT, now.len(), |out| {
            out.extend(ssrc.to_be_bytes());
            report_blocks(out, now);
        });
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    sdes_cname(out, ssrc, cname);
}

/// Appends a generic NACK (RFC 4585 section 6.2.1). `seqs` in sending order, wrap included; those beyond
/// [`NACK_SEQS_MAX`] are left out. Nothing is appended for no numbers.
pub fn nack(out: &mut Vec<u8>, sender_ssrc: u32, media_ssrc: u32, seqs: &[u16]) {
    let mut rest = seqs.iter().copied().take(NACK_SEQS_MAX).peekable();
    if rest.peek().is_none() {
        return;
    }
    feedback(out, TRANSPORT_FEEDBACK, FORMAT_NACK, sender_ssrc, media_ssrc, |out| {
        while let Some(pid) = rest.next() {
            // "Bit i of the BLP is set when packet number PID + i + 1 has been lost."
            let mut blp = 0_u16;
            while let Some(bit) = rest.peek().map(|seq| seq.wrapping_sub(pid).wrapping_sub(1)) {
                match 1_u16.checked_shl(u32::from(bit)) {
                    Some(mask) => blp |= mask,
                    // The same number again: a bit of 65535.
                    None if bit == u16::MAX => {}
                    None => break,
                }
                rest.next();
            }
            out.extend(pid.to_be_bytes());
            out.extend(blp.to_be_bytes());
        }
    });
}

/// Appends a picture loss indication (RFC 4585 section 6.3.1).
pub fn pli(out: &mut Vec<u8>, sender_ssrc: u32, media_ssrc: u32) {
    feedback(out, PAYLOAD_FEEDBACK, FORMAT_PLI, sender_ssrc, media_ssrc, |_| {});
}

/// Appends a full intra request (RFC 5104 section 4.3.1). `seq` goes up by one for each new request.
pub fn fir(out: &mut Vec<u8>, sender_ssrc: u32, media_ssrc: u32, seq: u8) {
    // Section 4.3.1.2: the media SSRC of the header is 0, the entry names the source.
    feedback(out, PAYLOAD_FEEDBACK, FORMAT_FIR, sender_ssrc, 0, |out| {
        out.extend(media_ssrc.to_be_bytes());
        out.extend([seq, 0, 0, 0]);
    });
}

/// Appends a REMB (draft-alvestrand-rmcat-remb-03) for at most 16 sources. The 18-bit mantissa cuts the rate down by at
/// most 1/2^17.
pub fn remb(out: &mut Vec<u8>, sender_ssrc: u32, bitrate_bps: u64, ssrcs: &[u32]) {
    let ssrcs = ssrcs.get(..REMB_SSRCS_MAX).unwrap_or(ssrcs);
    let exponent = 64_u32.saturating_sub(bitrate_bps.leading_zeros()).saturating_sub(18);
    let mantissa = bitrate_bps.checked_shr(exponent).unwrap_or(0) as u32 & 0x3_ffff;
    let [_, coded0, coded1, coded2] = (exponent << 18 | mantissa).to_be_bytes();
    feedback(out, PAYLOAD_FEEDBACK, FORMAT_REMB, sender_ssrc, 0, |out| {
        out.extend(REMB_MAGIC);
        out.extend([ssrcs.len() as u8, coded0, coded1, coded2]);
        ssrcs.iter().for_each(|ssrc| out.extend(ssrc.to_be_bytes()));
    });
}

/// Appends a goodbye (RFC 3550 section 6.6) of at most 31 sources.
pub fn bye(out: &mut Vec<u8>, ssrcs: &[u32]) {
    let ssrcs = ssrcs.get(..BLOCKS_MAX).unwrap_or(ssrcs);
    packet(out, BYE, ssrcs.len(), |out| ssrcs.iter().for_each(|ssrc| out.extend(ssrc.to_be_bytes())));
}

fn report_blocks(out: &mut Vec<u8>, blocks: &[ReportBlock]) {
    for block in blocks {
        let [_, lost0, lost1, lost2] = block.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff).to_be_bytes();
        out.extend(block.ssrc.to_be_bytes());
        out.extend([block.fraction_lost, lost0, lost1, lost2]);
        out.extend(block.highest_seq.to_be_bytes());
        out.extend(block.jitter.to_be_bytes());
        out.extend(block.lsr.to_be_bytes());
        out.extend(block.dlsr.to_be_bytes());
    }
}

fn sdes_cname(out: &mut Vec<u8>, ssrc: u32, cname: &str) {
    if cname.is_empty() {
        return;
    }
    let name = cname.as_bytes();
    let name = name.get(..255).unwrap_or(name);
    packet(out, SDES, 1, |out| {
        out.extend(ssrc.to_be_bytes());
        out.extend([SDES_CNAME, name.len() as u8]);
        out.extend(name);
        // RFC 3550 section 6.5: the list of items ends with a null; `packet` fills up to the word.
        out.push(0);
    });
}

/// A feedback packet (RFC 4585 section 6.1).
pub(super) fn feedback(
    out: &mut Vec<u8>,
    packet_type: u8,
    format: u8,
    sender_ssrc: u32,
    media_ssrc: u32,
    fci: impl FnOnce(&mut Vec<u8>),
) {
    packet(out, packet_type, usize::from(format), |out| {
        out.extend(sender_ssrc.to_be_bytes());
        out.extend(media_ssrc.to_be_bytes());
        fci(out);
    });
}

/// A packet: header, body, zeros up to the word boundary, and then the length, once it is known.
pub(super) fn packet(out: &mut Vec<u8>, packet_type: u8, count: usize, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0x80 | count as u8 & 0x1f, packet_type, 0, 0]);
    body(out);
    let len = out.len().saturating_sub(start).next_multiple_of(4);
    out.resize(start.saturating_add(len), 0);
    let words = (len / 4).saturating_sub(1) as u16;
    if let Some(field) = out.get_mut(start..).and_then(|packet| packet.get_mut(2..4)) {
        field.copy_from_slice(&words.to_be_bytes());
    }
}
