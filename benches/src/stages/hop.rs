//! The stages of the relay's wire format.

use std::hint::black_box;

use relay::datagram::{Body, Datagram, Flags, Media, Part, read, write_nack};

use super::{Workload, work};

const PACKETS: usize = 200;
/// What the packetizer makes.
const BODY: Body<'static> = Body { descriptor: &[], payload: &[0x5a; 1_100] };

fn media(number: u64) -> Media {
    Media {
        part: Part::Whole,
        flags: if number.is_multiple_of(8) { Flags::END_OF_FRAME } else { Flags::default() },
        link_seq: 70_000 + number,
        track: 3,
        sent: number as u16,
        age_ms: 37,
        budget_ms: 400,
        seq: number as u32,
        timestamp: number as u32 / 8 * 3_000,
        dts_offset: 0,
        temporal: Default::default(),
        left_out: false,
        more: false,
    }
}

/// Header and payload into the buffer that goes to QUIC.
pub(super) fn encode() -> Box<dyn Workload> {
    work(
        (Vec::with_capacity(1_200), 0),
        |_| (),
        |(out, number), ()| {
            for _ in 0..PACKETS {
                *number += 1;
                out.clear();
                media(*number).write(BODY, out);
                black_box(&*out);
            }
            PACKETS
        },
    )
}

/// And back.
pub(super) fn decode() -> Box<dyn Workload> {
    let datagrams: Vec<Vec<u8>> = (0..PACKETS as u64)
        .map(|number| {
            let mut out = Vec::new();
            media(number).write(BODY, &mut out);
            out
        })
        .collect();
    work(
        datagrams,
        |_| (),
        |datagrams, ()| {
            for datagram in datagrams.iter() {
                let _ = black_box(read(black_box(datagram)));
            }
            PACKETS
        },
    )
}

/// A NACK of five ranges: written, read and walked.
pub(super) fn nack() -> Box<dyn Workload> {
    let ranges: [(u64, u64); 5] = std::array::from_fn(|i| (70_000 + i as u64 * 20, 1 + i as u64 % 3));
    work(
        Vec::with_capacity(64),
        |_| (),
        move |out, ()| {
            for _ in 0..PACKETS {
                out.clear();
                write_nack(out, 70_100, &ranges);
                if let Ok(Datagram::Nack(nack)) = read(black_box(out)) {
                    black_box(nack.ranges().map(|(_, count)| count).sum::<u64>());
                }
            }
            PACKETS
        },
    )
}
