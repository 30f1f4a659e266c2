//! A client's path, and what can be read of a packet on it.

use media::Time;

/// Splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// One direction of a client's path. Chances are per thousand and only for media; ICE, DTLS and RTCP are never lost.
pub struct Link {
    pub delay_us: i64,
    pub jitter_us: u64,
    pub loss: u64,
    pub duplicates: u64,
    /// Bits a second that fit through, and how long what does not waits before it is lost. Control passes.
    pub rate_bps: Option<u64>,
    pub queue_us_max: i64,
    free_at: Time,
    /// Media datagrams for which this says so are lost.
    pub drop: Box<dyn FnMut(&Header) -> bool>,
    random: Random,
}

impl Link {
    pub fn new(seed: u64) -> Link {
        let random = Random(seed);
        Link {
            delay_us: 5_000,
            jitter_us: 0,
            loss: 0,
            duplicates: 0,
            rate_bps: None,
            queue_us_max: 1_000_000,
            free_at: Time::ZERO,
            drop: Box::new(|_| false),
            random,
        }
    }

    /// When copies of the datagram arrive.
    pub fn carry(&mut self, datagram: &[u8], now: Time) -> Vec<Time> {
        let mut delay =
            || self.delay_us + if self.jitter_us > 0 { self.random.below(self.jitter_us) as i64 } else { 0 };
        let Some(header) = Header::of(datagram) else { return vec![now.plus_us(self.delay_us)] };
        let first = now.plus_us(delay());
        let second = now.plus_us(delay());
        if (self.drop)(&header) || self.random.below(1_000) < self.loss {
            return Vec::new();
        }
        if let Some(rate_bps) = self.rate_bps {
            let start = self.free_at.max(now);
            if start.since(now) > self.queue_us_max {
                return Vec::new();
            }
            self.free_at = start.plus_us(datagram.len() as i64 * 8_000_000 / rate_bps as i64);
            return vec![self.free_at.plus_us(self.delay_us)];
        }
        if self.random.below(1_000) < self.duplicates { vec![first, second] } else { vec![first] }
    }
}

/// The fields of an RTP header, protected or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub ssrc: u32,
    pub payload_type: u8,
    pub seq: u16,
    pub timestamp: u32,
    pub marker: bool,
}

impl Header {
    pub fn of(datagram: &[u8]) -> Option<Header> {
        if !matches!(datagram.first(), Some(128..=191)) || matches!(datagram.get(1), Some(192..=223)) {
            return None;
        }
        let h = rtc::rtp::Header::parse_protected(datagram).ok()?;
        let (payload_type, seq) = (h.payload_type, h.sequence_number);
        Some(Header { ssrc: h.ssrc, payload_type, seq, timestamp: h.timestamp, marker: h.marker })
    }
}
