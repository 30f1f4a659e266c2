//! What transport/relay reads: datagrams of another node.

use relay::datagram::{Datagram, NACK_NUMBERS_MAX, NACK_RANGES_MAX, PAYLOAD_LEN_MAX, read, write_nack};

use crate::novelty::note;

/// A datagram: what is read is within its bounds, and is read again from what is written of it.
pub fn datagram(data: &[u8]) {
    let read_back = read(data);
    note(&read_back);
    let mut out = Vec::new();
    match &read_back {
        Ok(Datagram::Media(media, payload)) => {
            assert!(payload.len() <= PAYLOAD_LEN_MAX);
            media.write(&mut out);
            out.extend_from_slice(payload);
        }
        Ok(Datagram::Nack(nack)) => {
            let ranges: Vec<(u64, u64)> = nack.ranges().collect();
            let numbers: u64 = ranges.iter().map(|(_, count)| count).sum();
            assert!((1..=NACK_NUMBERS_MAX).contains(&numbers) && ranges.len() <= NACK_RANGES_MAX);
            assert!(ranges.iter().all(|(first, count)| first + count <= nack.highest + 1));
            assert_eq!(write_nack(&mut out, nack.highest, &ranges), ranges.len());
        }
        Err(_) => return,
    }
    let again = read(&out);
    match (&read_back, &again) {
        (Ok(Datagram::Nack(a)), Ok(Datagram::Nack(b))) => assert!(a.ranges().eq(b.ranges())),
        (a, b) => assert_eq!(a, b),
    }
}
