//! STUN messages as ICE uses them (RFC 8489, RFC 8445 section 7): a checked view over received bytes and a
//! writer. Only the Binding method.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 20;
/// Tells one transaction from another; chosen by whoever asks.
pub type TransactionId = [u8; 12];

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const MAGIC_COOKIE_U32: u32 = 0x2112_a442;
/// RFC 8489 section 14.7: the CRC-32 is XOR'd with this, so that it differs from another protocol's CRC.
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// CRC-32 of ITU V.42, a byte at a time: bit by bit it was most of what a stranger's check costs.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would refuse a bad index")]
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802a;

const INTEGRITY_LEN: usize = 20;
/// An attribute of MESSAGE-INTEGRITY's size: type, length, HMAC-SHA1.
const INTEGRITY_ATTRIBUTE_LEN: usize = 24;
const FINGERPRINT_ATTRIBUTE_LEN: usize = 8;

/// What a Binding message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Asks for a response.
    Request,
    /// Asks for nothing (keep-alives).
    Indication,
    /// The answer to a request.
    Success,
    /// The refusal of a request.
    Error,
}

impl Class {
    /// The message type of a Binding message of this class (RFC 8489 section 5: method 1, class bits C1 C0).
    const fn message_type(self) -> u16 {
        match self {
            Class::Request => 0x0001,
            Class::Indication => 0x0011,
            Class::Success => 0x0101,
            Class::Error => 0x0111,
        }
    }
}

/// Why bytes are not a STUN Binding message. The fault is the sender's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StunError {
    /// Shorter than the header.
    #[error("shorter than a STUN header")]
    Short,
    /// No magic cookie, or not the Binding method.
    #[error("not a STUN Binding message")]
    NotBinding,
    /// The header's length is not that of the datagram, or not a multiple of 4.
    #[error("the STUN length is not the datagram's")]
    Length,
    /// An attribute runs past the end or has the wrong size for its type.
    #[error("STUN attribute {0:#06x} does not parse")]
    Attribute(u16),
}

/// A Binding message over the datagram it came in. Parsing it says nothing about who sent it: see
/// [`Message::check_integrity`].
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    class: Class,
    transaction: TransactionId,
    username: Option<&'a str>,
    priority: Option<u32>,
    use_candidate: bool,
    controlling: bool,
    controlled: bool,
    mapped_address: Option<SocketAddr>,
    error_code: Option<u16>,
    integrity: Option<Integrity<'a>>,
    fingerprint_ok: bool,
}

#[derive(Clone, Copy, Debug)]
struct Integrity<'a> {
    /// Where the attribute starts in the message: what it covers ends here.
    offset: usize,
    tag: &'a [u8; INTEGRITY_LEN],
}

impl<'a> Message<'a> {
    /// Checks the shape of a whole datagram. The attributes are bounded by the datagram's length.
    pub fn parse(bytes: &'a [u8]) -> Result<Message<'a>, StunError> {
        let (header, mut rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(StunError::Short)?;
        let [t0, t1, l0, l1, c0, c1, c2, c3, transaction @ ..] = *header;
        let class = match u16::from_be_bytes([t0, t1]) {
            0x0001 => Class::Request,
            0x0011 => Class::Indication,
            0x0101 => Class::Success,
            0x0111 => Class::Error,
            _ => return Err(StunError::NotBinding),
        };
        if [c0, c1, c2, c3] != MAGIC_COOKIE {
            return Err(StunError::NotBinding);
        }
        // RFC 8489 section 5: the length is without the header, and a multiple of 4.
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if length != rest.len() || !length.is_multiple_of(4) {
            return Err(StunError::Length);
        }

        let mut message = Message {
            bytes,
            class,
            transaction,
            username: None,
            priority: None,
            use_candidate: false,
            controlling: false,
            controlled: false,
            mapped_address: None,
            error_code: None,
            integrity: None,
            fingerprint_ok: false,
        };
        while !rest.is_empty() {
            let offset = bytes.len().saturating_sub(rest.len());
            let (head, after) = rest.split_first_chunk::<4>().ok_or(StunError::Attribute(0))?;
            let [k0, k1, n0, n1] = *head;
            let kind = u16::from_be_bytes([k0, k1]);
            let len = usize::from(u16::from_be_bytes([n0, n1]));
            let (value, _) = after.split_at_checked(len).ok_or(StunError::Attribute(kind))?;
            // RFC 8489 section 14: values are padded to a multiple of 4.
            let (_, next) =
                after.split_at_checked(len.next_multiple_of(4)).ok_or(StunError::Attribute(kind))?;
            message.attribute(kind, value, offset, next.is_empty())?;
            rest = next;
        }
        Ok(message)
    }

    fn attribute(&mut self, kind: u16, value: &'a [u8], offset: usize, last: bool) -> Result<(), StunError> {
        let wrong = StunError::Attribute(kind);
        // RFC 8489 section 14.5: "agents MUST ignore all other attributes that follow MESSAGE-INTEGRITY",
        // except FINGERPRINT (and MESSAGE-INTEGRITY-SHA256, which ICE does not use).
        if self.integrity.is_some() && kind != FINGERPRINT {
            return Ok(());
        }
        match kind {
            // Section 14: of an attribute that is there twice only the first counts.
            USERNAME if self.username.is_none() => {
                self.username = Some(std::str::from_utf8(value).map_err(|_| wrong)?);
            }
            MESSAGE_INTEGRITY => {
                let tag = value.try_into().map_err(|_| wrong)?;
                self.integrity = Some(Integrity { offset, tag });
            }
            FINGERPRINT => {
                let value: [u8; 4] = value.try_into().map_err(|_| wrong)?;
                let covered = self.bytes.get(..offset).ok_or(wrong)?;
                // Section 14.7: FINGERPRINT must be the last attribute.
                self.fingerprint_ok = last && u32::from_be_bytes(value) == fingerprint(covered);
            }
            PRIORITY if self.priority.is_none() => {
                self.priority = Some(u32::from_be_bytes(value.try_into().map_err(|_| wrong)?));
            }
            USE_CANDIDATE => self.use_candidate = true,
            ICE_CONTROLLING => self.controlling = true,
            ICE_CONTROLLED => self.controlled = true,
            XOR_MAPPED_ADDRESS if self.mapped_address.is_none() => {
                self.mapped_address = Some(read_address(value, &self.transaction).ok_or(wrong)?);
            }
            ERROR_CODE if self.error_code.is_none() => {
                let [_, _, class, number, ..] = *value else { return Err(wrong) };
                let hundreds = u16::from(class & 7).wrapping_mul(100);
                self.error_code = Some(hundreds.wrapping_add(u16::from(number)));
            }
            _ => {}
        }
        Ok(())
    }

    /// Request, indication, success or error.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The asker's transaction id.
    pub fn transaction(&self) -> &TransactionId {
        &self.transaction
    }

    /// USERNAME: in a check, the ufrag of who is asked, a colon, the ufrag of who asks.
    pub fn username(&self) -> Option<&'a str> {
        self.username
    }

    /// PRIORITY that the asker gives a peer-reflexive candidate.
    pub fn priority(&self) -> Option<u32> {
        self.priority
    }

    /// Whether the asker nominates this pair.
    pub fn use_candidate(&self) -> bool {
        self.use_candidate
    }

    /// Whether the asker says that it is the controlling agent.
    pub fn is_controlling(&self) -> bool {
        self.controlling
    }

    /// Whether the asker says that it is the controlled agent.
    pub fn is_controlled(&self) -> bool {
        self.controlled
    }

    /// XOR-MAPPED-ADDRESS of a response: the address that the request came from.
    pub fn mapped_address(&self) -> Option<SocketAddr> {
        self.mapped_address
    }

    /// The code of an error response, 300 to 699.
    pub fn error_code(&self) -> Option<u16> {
        self.error_code
    }

    /// Whether a MESSAGE-INTEGRITY is there and made with `pwd`, and a FINGERPRINT is there and right.
    /// RFC 8445 section 7.1: ICE checks carry both.
    pub fn check_integrity(&self, pwd: &str) -> bool {
        let Some(Integrity { offset, tag }) = self.integrity else { return false };
        if !self.fingerprint_ok {
            return false;
        }
        match integrity(self.bytes, offset, pwd) {
            Some(made) => verify_slices_are_equal(made.as_ref(), tag).is_ok(),
            None => false,
        }
    }
}

/// The local ufrag that a datagram asks for: the part of USERNAME before the colon. `None` when it is not a
/// STUN Binding message with such a name. Nothing about it is authenticated: it only says whose key to try.
pub fn peek_ufrag(datagram: &[u8]) -> Option<&str> {
    let (local, _) = Message::parse(datagram).ok()?.username()?.split_once(':')?;
    Some(local)
}

/// Writes one Binding message into a buffer, attribute after attribute.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    transaction: TransactionId,
}

impl<'a> Writer<'a> {
    /// Clears `out` and starts a message in it.
    pub fn new(out: &'a mut Vec<u8>, class: Class, transaction: TransactionId) -> Writer<'a> {
        out.clear();
        out.extend_from_slice(&class.message_type().to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&MAGIC_COOKIE);
        out.extend_from_slice(&transaction);
        Writer { out, transaction }
    }

    /// USERNAME: the ufrag of who is asked, then that of who asks.
    pub fn username(self, asked: &str, asks: &str) -> Self {
        let name = format!("{asked}:{asks}");
        self.attribute(USERNAME, name.as_bytes())
    }

    /// PRIORITY of the asker's candidate.
    pub fn priority(self, priority: u32) -> Self {
        self.attribute(PRIORITY, &priority.to_be_bytes())
    }

    /// USE-CANDIDATE: this pair is nominated.
    pub fn use_candidate(self) -> Self {
        self.attribute(USE_CANDIDATE, &[])
    }

    /// ICE-CONTROLLING with the tie-breaker.
    pub fn controlling(self, tie_breaker: u64) -> Self {
        self.attribute(ICE_CONTROLLING, &tie_breaker.to_be_bytes())
    }

    /// ICE-CONTROLLED with the tie-breaker.
    pub fn controlled(self, tie_breaker: u64) -> Self {
        self.attribute(ICE_CONTROLLED, &tie_breaker.to_be_bytes())
    }

    /// XOR-MAPPED-ADDRESS: where the request came from.
    pub fn mapped_address(self, address: SocketAddr) -> Self {
        let port = address.port() ^ 0x2112;
        let mut value = Vec::with_capacity(20);
        match address.ip() {
            IpAddr::V4(ip) => {
                value.extend_from_slice(&[0, 1]);
                value.extend_from_slice(&port.to_be_bytes());
                value.extend_from_slice(&(u32::from(ip) ^ MAGIC_COOKIE_U32).to_be_bytes());
            }
            IpAddr::V6(ip) => {
                value.extend_from_slice(&[0, 2]);
                value.extend_from_slice(&port.to_be_bytes());
                value.extend_from_slice(&(u128::from(ip) ^ mask_v6(&self.transaction)).to_be_bytes());
            }
        }
        self.attribute(XOR_MAPPED_ADDRESS, &value)
    }

    /// ERROR-CODE, 300 to 699, with its reason phrase.
    pub fn error_code(self, code: u16, reason: &str) -> Self {
        // RFC 8489 section 14.8: the hundreds and the rest, each in its own byte; both fit.
        let mut value = vec![0, 0, (code / 100) as u8 & 7, (code % 100) as u8];
        value.extend_from_slice(reason.as_bytes());
        self.attribute(ERROR_CODE, &value)
    }

    /// MESSAGE-INTEGRITY by `pwd`, then FINGERPRINT: the message is whole.
    pub fn finish(self, pwd: &str) {
        let offset = self.out.len();
        let this = self.length_with(INTEGRITY_ATTRIBUTE_LEN);
        match integrity(this.out, offset, pwd) {
            Some(tag) => this.attribute(MESSAGE_INTEGRITY, tag.as_ref()).finish_unauthenticated(),
            // Only a message shorter than its header has none, and `new` wrote the header.
            None => this.finish_unauthenticated(),
        }
    }

    /// FINGERPRINT without MESSAGE-INTEGRITY: what a stranger can send.
    pub fn finish_unauthenticated(self) {
        let this = self.length_with(FINGERPRINT_ATTRIBUTE_LEN);
        let crc = fingerprint(this.out);
        this.attribute(FINGERPRINT, &crc.to_be_bytes());
    }

    /// Sets the header's length to what it is once `more` bytes are added. RFC 8489 section 14.5: the length
    /// covered by an integrity attribute counts that attribute.
    fn length_with(self, more: usize) -> Self {
        let length = self.out.len().saturating_add(more).saturating_sub(HEADER_LEN) as u16;
        if let Some(field) = self.out.get_mut(2..4) {
            field.copy_from_slice(&length.to_be_bytes());
        }
        self
    }

    fn attribute(self, kind: u16, value: &[u8]) -> Self {
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        self.out.extend_from_slice(value);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self
    }
}

/// HMAC-SHA1 by the short-term credential `pwd` over the message up to `offset`, with the header's length as
/// if the message ended after MESSAGE-INTEGRITY (RFC 8489 section 14.5).
fn integrity(message: &[u8], offset: usize, pwd: &str) -> Option<hmac::Tag> {
    let length = offset.checked_add(INTEGRITY_ATTRIBUTE_LEN)?.checked_sub(HEADER_LEN)?;
    let length = u16::try_from(length).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, pwd.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(message.get(..2)?);
    context.update(&length.to_be_bytes());
    context.update(message.get(4..offset)?);
    Some(context.sign())
}

/// FINGERPRINT's value over the bytes before it.
fn fingerprint(covered: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in covered {
        let [low, ..] = crc.to_le_bytes();
        crc = (crc >> 8) ^ CRC_TABLE.get(usize::from(low ^ byte)).copied().unwrap_or(0);
    }
    !crc ^ FINGERPRINT_XOR
}

fn read_address(value: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
    let (head, rest) = value.split_first_chunk::<4>()?;
    let [_, family, p0, p1] = *head;
    let port = u16::from_be_bytes([p0, p1]) ^ 0x2112;
    let ip = match family {
        1 => IpAddr::V4(Ipv4Addr::from(u32::from_be_bytes(rest.try_into().ok()?) ^ MAGIC_COOKIE_U32)),
        2 => IpAddr::V6(Ipv6Addr::from(u128::from_be_bytes(rest.try_into().ok()?) ^ mask_v6(transaction))),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// RFC 8489 section 14.2: IPv6 addresses are XOR'd with the magic cookie and the transaction id.
fn mask_v6(transaction: &TransactionId) -> u128 {
    let low = transaction.iter().fold(0_u128, |mask, byte| (mask << 8) | u128::from(*byte));
    (u128::from(MAGIC_COOKIE_U32) << 96) | low
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
    }

    const RFC_5769_PWD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

    #[test]
    fn rfc_5769_sample_request() {
        let bytes = hex("000100582112a442b7e7a701bc34d686fa87dfae
            802200105354554e207465737420636c69656e74 002400046e0001ff 80290008932ff9b151263b36
            000600096576746a3a68367659202020 000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
            80280004e57a3bcf");
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.class(), Class::Request);
        assert_eq!(message.username(), Some("evtj:h6vY"));
        assert_eq!(message.priority(), Some(0x6e00_01ff));
        assert!(message.is_controlled() && !message.is_controlling() && !message.use_candidate());
        assert!(message.check_integrity(RFC_5769_PWD));
        assert!(!message.check_integrity("VOkJxbRl1RmTxUk/WvJxBT"));
        assert_eq!(peek_ufrag(&bytes), Some("evtj"));
    }

    #[test]
    fn rfc_5769_sample_responses() {
        let v4 = hex("0101003c2112a442b7e7a701bc34d686fa87dfae
            8022000b7465737420766563746f7220 002000080001a147e112a643
            000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004c07d4c96");
        let message = Message::parse(&v4).unwrap();
        assert_eq!(message.class(), Class::Success);
        assert_eq!(message.mapped_address(), Some("192.0.2.1:32853".parse().unwrap()));
        assert!(message.check_integrity(RFC_5769_PWD));

        let v6 = hex("010100482112a442b7e7a701bc34d686fa87dfae
            8022000b7465737420766563746f7220
            002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9
            00080014a382954e4be67bf11784c97c8292c275bfe3ed41 80280004c8fb0b4c");
        let message = Message::parse(&v6).unwrap();
        let address = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        assert_eq!(message.mapped_address(), Some(address));
        assert!(message.check_integrity(RFC_5769_PWD));
    }

    fn check(pwd: &str) -> Vec<u8> {
        let mut out = Vec::new();
        Writer::new(&mut out, Class::Request, [7; 12])
            .username("server", "client")
            .priority(1)
            .controlling(9)
            .use_candidate()
            .finish(pwd);
        out
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = check("pwd");
        assert!(Message::parse(&good).unwrap().check_integrity("pwd"));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let accepted = Message::parse(&bad).is_ok_and(|m| m.check_integrity("pwd"));
            assert!(!accepted, "bit {bit}");
        }
    }

    #[test]
    fn without_integrity_or_fingerprint_nothing_is_authentic() {
        let mut out = Vec::new();
        Writer::new(&mut out, Class::Request, [7; 12]).username("a", "b").finish_unauthenticated();
        assert!(!Message::parse(&out).unwrap().check_integrity(""));
        // The fingerprint cut off and the length set right again.
        let mut out = check("pwd");
        out.truncate(out.len() - 8);
        let length = (out.len() - HEADER_LEN) as u16;
        out[2..4].copy_from_slice(&length.to_be_bytes());
        assert!(!Message::parse(&out).unwrap().check_integrity("pwd"));
    }

    #[test]
    fn attributes_after_integrity_are_ignored() {
        let mut out = Vec::new();
        let writer = Writer::new(&mut out, Class::Request, [7; 12]).username("a", "b");
        writer.finish("pwd");
        out.truncate(out.len() - 8);
        let offset = out.len();
        out.extend_from_slice(&[0, 0x25, 0, 0]); // USE-CANDIDATE
        let length = (out.len() + 8 - HEADER_LEN) as u16;
        out[2..4].copy_from_slice(&length.to_be_bytes());
        let crc = fingerprint(&out);
        out.extend_from_slice(&[0x80, 0x28, 0, 4]);
        out.extend_from_slice(&crc.to_be_bytes());
        let message = Message::parse(&out).unwrap();
        assert!(message.check_integrity("pwd"), "the HMAC ends before byte {offset}");
        assert!(!message.use_candidate());
    }

    #[test]
    fn errors_carry_their_code() {
        let mut out = Vec::new();
        Writer::new(&mut out, Class::Error, [7; 12]).error_code(487, "Role Conflict").finish("pwd");
        let message = Message::parse(&out).unwrap();
        assert_eq!((message.class(), message.error_code()), (Class::Error, Some(487)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            transaction: [u8; 12], v6: bool, ip: u128, port: u16, name in "[a-z]{1,40}", tie: u64,
        ) {
            let ip = if v6 { IpAddr::V6(ip.into()) } else { IpAddr::V4((ip as u32).into()) };
            let address = SocketAddr::new(ip, port);
            let mut out = Vec::new();
            Writer::new(&mut out, Class::Success, transaction)
                .username(&name, "x").controlled(tie).mapped_address(address).finish(&name);
            let message = Message::parse(&out).unwrap();
            prop_assert_eq!(message.transaction(), &transaction);
            prop_assert_eq!(message.mapped_address(), Some(address));
            prop_assert_eq!(peek_ufrag(&out), Some(name.as_str()));
            prop_assert!(message.is_controlled() && message.check_integrity(&name));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, shaped: bool) {
            if shaped && bytes.len() >= HEADER_LEN {
                let length = (bytes.len() - HEADER_LEN) as u16;
                bytes[..2].copy_from_slice(&[0, 1]);
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                bytes[4..8].copy_from_slice(&MAGIC_COOKIE);
            }
            if let Ok(message) = Message::parse(&bytes) {
                prop_assert!(!message.check_integrity("pwd"));
            }
        }
    }
}
