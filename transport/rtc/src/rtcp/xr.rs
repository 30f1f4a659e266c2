//! Extended reports (RFC 3611), of which the two that give a round trip to who only receives: it sends the time
//! (receiver reference time, section 4.4), and the sender's report says which one it saw last and how long ago (DLRR,
//! section 4.5).

use super::build::packet;
use super::{EXTENDED_REPORT, Event};

/// Block types of section 4.
const REFERENCE_TIME: u8 = 4;
const DELAY_SINCE_REFERENCE: u8 = 5;
/// Words of a DLRR sub-block.
const SUB_BLOCK_LEN: usize = 12;

/// Appends a receiver reference time report; `ntp` is the wall clock now, 32.32 fixed point seconds since 1900.
pub fn reference_time(out: &mut Vec<u8>, ssrc: u32, ntp: u64) {
    packet(out, EXTENDED_REPORT, 0, |out| {
        out.extend(ssrc.to_be_bytes());
        out.extend([REFERENCE_TIME, 0, 0, 2]);
        out.extend(ntp.to_be_bytes());
    });
}

/// Appends a DLRR report with one sub-block: `about_ssrc` sent the reference time whose middle 32 bits are `last`, and
/// `delay` passed since it came, in 1/65536 s.
pub fn delay_since_reference(out: &mut Vec<u8>, ssrc: u32, about_ssrc: u32, last: u32, delay: u32) {
    packet(out, EXTENDED_REPORT, 0, |out| {
        out.extend(ssrc.to_be_bytes());
        out.extend([DELAY_SINCE_REFERENCE, 0, 0, 3]);
        out.extend(about_ssrc.to_be_bytes());
        out.extend(last.to_be_bytes());
        out.extend(delay.to_be_bytes());
    });
}

/// Events of an extended report without padding. Blocks of other types are skipped; `None` when one does not fit.
pub(super) fn events(packet: &[u8], f: &mut impl FnMut(Event<'_>)) -> Option<()> {
    let from_ssrc = u32::from_be_bytes(*packet.get(4..)?.first_chunk()?);
    let mut rest = packet.get(8..)?;
    while let Some((&[block_type, _, words0, words1], after)) = rest.split_first_chunk::<4>() {
        let len = usize::from(u16::from_be_bytes([words0, words1])).checked_mul(4)?;
        let (block, after) = after.split_at_checked(len)?;
        match block_type {
            REFERENCE_TIME => {
                let ntp = u64::from_be_bytes(*block.first_chunk().filter(|_| len == 8)?);
                f(Event::ReferenceTime { from_ssrc, ntp });
            }
            DELAY_SINCE_REFERENCE if len.is_multiple_of(SUB_BLOCK_LEN) => {
                for sub_block in block.chunks_exact(SUB_BLOCK_LEN) {
                    let word = |at: usize| {
                        sub_block.get(at..).and_then(<[u8]>::first_chunk).map(|w| u32::from_be_bytes(*w))
                    };
                    f(Event::DelaySinceReference { about_ssrc: word(0)?, last: word(4)?, delay: word(8)? });
                }
            }
            DELAY_SINCE_REFERENCE => return None,
            _ => {}
        }
        rest = after;
    }
    rest.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::super::{Error, ntp_from_unix_us, ntp_middle, parse, rtt_us};
    use super::*;
    use proptest::prelude::*;

    fn all(compound: &[u8]) -> (Vec<String>, Result<(), Error>) {
        let mut all = Vec::new();
        let result = parse(compound, |event| all.push(format!("{event:?}")));
        (all, result)
    }

    #[test]
    fn bytes_of_rfc_3611() {
        let mut out = Vec::new();
        reference_time(&mut out, 0x0101_0101, 0x0203_0405_0607_0809);
        // Section 2: no count, type 207; section 4.4: block type 4, two words.
        assert_eq!(out, [0x80, 207, 0, 4, 1, 1, 1, 1, 4, 0, 0, 2, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(all(&out).0, ["ReferenceTime { from_ssrc: 16843009, ntp: 144964032628459529 }"]);
        let mut out = Vec::new();
        delay_since_reference(&mut out, 1, 2, 3, 4);
        assert_eq!(out, [0x80, 207, 0, 5, 0, 0, 0, 1, 5, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]);
        assert_eq!(all(&out).0, ["DelaySinceReference { about_ssrc: 2, last: 3, delay: 4 }"]);
    }

    #[test]
    fn there_and_back_is_the_round_trip() {
        let sent_us = 1_700_000_000_123_456;
        let (mut out, mut last) = (Vec::new(), 0);
        reference_time(&mut out, 1, ntp_from_unix_us(sent_us));
        parse(&out, |event| {
            if let Event::ReferenceTime { ntp, .. } = event {
                last = ntp_middle(ntp);
            }
        })
        .unwrap();
        // 30 ms there, half a second at the other side, 30 ms back.
        let now = ntp_middle(ntp_from_unix_us(sent_us + 560_000));
        let rtt = rtt_us(now, last, 1 << 15).unwrap();
        assert!((59_950..=60_050).contains(&rtt), "{rtt}");
    }

    #[test]
    fn blocks_of_other_types_and_several_sub_blocks() {
        let blocks = [
            // Loss run lengths (type 1), a statistics summary's header alone (type 6), then two answers.
            &[1, 0, 0, 2, 0, 0, 0, 9, 0, 1, 0, 2][..],
            &[6, 0xe0, 0, 0],
            &[5, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6],
            &[5, 0, 0, 0],
        ]
        .concat();
        let words = ((8 + blocks.len()) / 4 - 1) as u8;
        let report = [&[0x80, 207, 0, words, 0, 0, 0, 7][..], &blocks].concat();
        assert_eq!(
            all(&report),
            (
                vec![
                    "DelaySinceReference { about_ssrc: 1, last: 2, delay: 3 }".to_owned(),
                    "DelaySinceReference { about_ssrc: 4, last: 5, delay: 6 }".to_owned()
                ],
                Ok(())
            )
        );
    }

    #[test]
    fn blocks_that_do_not_fit() {
        let broken = Err(Error::Broken { at: 0, packet_type: 207 });
        let report = |blocks: &[u8]| {
            let words = ((8 + blocks.len()) / 4 - 1) as u8;
            [&[0x80, 207, 0, words, 0, 0, 0, 7][..], blocks].concat()
        };
        for blocks in [
            &[4, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[4, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[4, 0, 0, 1, 0, 0, 0, 0],
            &[4, 0, 0, 0],
            &[5, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0],
            &[5, 0, 0xff, 0xff, 0, 0, 0, 0],
            &[9, 0, 0, 1],
        ] {
            assert_eq!(all(&report(blocks)), (vec![], broken), "{blocks:?}");
        }
        assert_eq!(all(&[0x80, 207, 0, 0]), (vec![], broken), "no source");
        assert_eq!(all(&[0x80, 207, 0, 1, 0, 0, 0, 1]), (vec![], Ok(())), "and no blocks");
        // With padding, the last word is not a block.
        let padded = [0xa0, 207, 0, 5, 0, 0, 0, 7, 4, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 4];
        let expected = vec!["ReferenceTime { from_ssrc: 7, ntp: 4294967298 }".to_owned()];
        assert_eq!(all(&padded), (expected, Ok(())));
    }

    proptest! {
        #[test]
        fn arbitrary_blocks_never_panic(blocks in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut report = vec![0x80, 207, 0, 0, 0, 0, 0, 7];
            report.extend(blocks);
            report.truncate(report.len() / 4 * 4);
            let words = (report.len() / 4 - 1) as u16;
            report[2..4].copy_from_slice(&words.to_be_bytes());
            let mut events = 0;
            let _ = parse(&report, |_| events += 1);
            prop_assert!(events <= report.len() / SUB_BLOCK_LEN);
        }
    }
}
