//! The system calls, and every `unsafe` of the crate.
//!
//! The header arrays below hold raw pointers into buffers they do not own. No pointer outlives the call it was
//! written for: [`RecvHeaders::recv`] writes and uses them in one function, [`SendHeaders::prepare`] ties them
//! to the arena's lifetime in [`Prepared`].
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::recv::Slot;
use crate::send::Message;

/// Room for one control message that carries an `int` (GRO) or a `u16` (GSO); both need 24 bytes. Made of
/// `u64` because a `cmsghdr` must be aligned.
type Control = [u64; 4];

const CONTROL_LEN: usize = size_of::<Control>();
const _: () = assert!(CONTROL_LEN >= unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) } as usize);

/// A socket address as the kernel reads and writes it: 28 bytes rather than `sockaddr_storage`'s 128.
#[repr(C)]
#[derive(Clone, Copy)]
union RawAddr {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddr {
    const fn zeroed() -> RawAddr {
        // SAFETY: all zeros is a valid value of both plain C structs.
        unsafe { mem::zeroed() }
    }

    /// Writes `to` in the socket's own family: an IPv6 socket reaches IPv4 by mapped addresses
    /// (RFC 4291 section 2.5.5.2). Returns the address and its length.
    fn encode(to: SocketAddr, socket_is_v6: bool) -> (RawAddr, libc::socklen_t) {
        let mut raw = RawAddr::zeroed();
        let v6 = match to {
            SocketAddr::V4(a) if !socket_is_v6 => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: a.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.ip().octets()) },
                    sin_zero: [0; 8],
                };
                return (raw, size_of::<libc::sockaddr_in>() as libc::socklen_t);
            }
            SocketAddr::V4(a) => SocketAddrV6::new(a.ip().to_ipv6_mapped(), a.port(), 0, 0),
            SocketAddr::V6(a) => a,
        };
        raw.v6 = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: v6.port().to_be(),
            sin6_flowinfo: v6.flowinfo(),
            sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
            sin6_scope_id: v6.scope_id(),
        };
        (raw, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
    }

    /// Reads what the kernel wrote; a mapped IPv4 address comes back as IPv4, so that one peer has one name.
    fn decode(&self, len: libc::socklen_t) -> Option<SocketAddr> {
        let len = len as usize;
        if len < size_of::<libc::sockaddr_in>() {
            return None;
        }
        // SAFETY: both members begin with the family, and every bit pattern is a valid integer.
        let family = libc::c_int::from(unsafe { self.v4.sin_family });
        match family {
            libc::AF_INET => {
                // SAFETY: the kernel wrote at least a sockaddr_in, of plain integers.
                let a = unsafe { self.v4 };
                let ip = Ipv4Addr::from(a.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(a.sin_port))))
            }
            libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: the kernel wrote a whole sockaddr_in6, of plain integers.
                let a = unsafe { self.v6 };
                let ip = Ipv6Addr::from(a.sin6_addr.s6_addr);
                let port = u16::from_be(a.sin6_port);
                Some(match ip.to_ipv4_mapped() {
                    Some(v4) => SocketAddr::V4(SocketAddrV4::new(v4, port)),
                    None => SocketAddr::V6(SocketAddrV6::new(ip, port, a.sin6_flowinfo, a.sin6_scope_id)),
                })
            }
            _ => None,
        }
    }
}

const fn empty_header() -> libc::mmsghdr {
    // SAFETY: mmsghdr is integers and pointers; zeros and nulls are valid and mean "nothing".
    unsafe { mem::zeroed() }
}

const EMPTY_IOVEC: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

/// Header arrays of a receive batch.
pub(crate) struct RecvHeaders {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    addresses: Box<[RawAddr]>,
    controls: Box<[Control]>,
}

// SAFETY: the pointers inside are only read by the system call of `recv`, which has just written them all.
unsafe impl Send for RecvHeaders {}

impl RecvHeaders {
    pub(crate) fn new(slots: usize) -> RecvHeaders {
        RecvHeaders {
            headers: vec![empty_header(); slots].into(),
            vectors: vec![EMPTY_IOVEC; slots].into(),
            addresses: vec![RawAddr::zeroed(); slots].into(),
            controls: vec![Control::default(); slots].into(),
        }
    }

    /// One `recvmmsg` into the slots of `slot_len` bytes that `buffer` consists of; `slots` becomes what
    /// arrived.
    pub(crate) fn recv(
        &mut self,
        fd: BorrowedFd<'_>,
        buffer: &mut [u8],
        slot_len: usize,
        slots: &mut Vec<Slot>,
    ) -> io::Result<()> {
        slots.clear();
        let mut count = 0;
        for (slot, (header, (vector, (address, control)))) in buffer.chunks_exact_mut(slot_len).zip(
            self.headers
                .iter_mut()
                .zip(self.vectors.iter_mut().zip(self.addresses.iter_mut().zip(self.controls.iter_mut()))),
        ) {
            *vector = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
            header.msg_len = 0;
            header.msg_hdr.msg_name = ptr::from_mut(address).cast();
            header.msg_hdr.msg_namelen = size_of::<RawAddr>() as libc::socklen_t;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_LEN as _;
            header.msg_hdr.msg_flags = 0;
            count += 1;
        }
        // SAFETY: the first `count` headers were set above to a slot of `buffer`, an address and a control buffer
        // of their own, with their true lengths; all stay borrowed mutably until the call returns.
        let received = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (header, address) in self.headers.iter().zip(&self.addresses).take(received) {
            let hdr = &header.msg_hdr;
            let len = header.msg_len as usize;
            let whole = hdr.msg_flags & libc::MSG_TRUNC == 0 && len <= slot_len;
            slots.push(Slot {
                from: address.decode(hdr.msg_namelen).filter(|_| whole),
                len: len.min(slot_len),
                segment_len: gro_segment(hdr).unwrap_or(usize::MAX),
            });
        }
        Ok(())
    }
}

/// The size of each datagram in a slot that the kernel coalesced (`UDP_GRO`).
fn gro_segment(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: `header` was filled by recvmmsg, its control pointer and length describe a live, aligned buffer
    // that the kernel wrote whole control messages into; the macros walk it within that length.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(cmsg) = control.as_ref() {
            if cmsg.cmsg_level == libc::SOL_UDP
                && cmsg.cmsg_type == libc::UDP_GRO
                && cmsg.cmsg_len >= libc::CMSG_LEN(size_of::<libc::c_int>() as u32) as _
            {
                let size = libc::CMSG_DATA(cmsg).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(size).ok().filter(|size| *size > 0);
            }
            control = libc::CMSG_NXTHDR(header, cmsg);
        }
        None
    }
}

/// Header arrays of a send batch.
pub(crate) struct SendHeaders {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    addresses: Box<[RawAddr]>,
    controls: Box<[Control]>,
}

// SAFETY: the pointers inside are only read through `Prepared`, whose `prepare` has just written them.
unsafe impl Send for SendHeaders {}

/// Headers that point into an arena, for as long as both are borrowed.
pub(crate) struct Prepared<'a> {
    headers: &'a mut [libc::mmsghdr],
}

impl SendHeaders {
    pub(crate) fn new(messages_max: usize) -> SendHeaders {
        SendHeaders {
            headers: vec![empty_header(); messages_max].into(),
            vectors: vec![EMPTY_IOVEC; messages_max].into(),
            addresses: vec![RawAddr::zeroed(); messages_max].into(),
            controls: vec![Control::default(); messages_max].into(),
        }
    }

    /// Writes a header for each of `messages` (at most as many as there is room for).
    pub(crate) fn prepare<'a>(
        &'a mut self,
        arena: &'a [u8],
        messages: &[Message],
        socket_is_v6: bool,
    ) -> Prepared<'a> {
        let mut count = 0;
        for (message, (header, (vector, (address, control)))) in messages.iter().zip(
            self.headers
                .iter_mut()
                .zip(self.vectors.iter_mut().zip(self.addresses.iter_mut().zip(self.controls.iter_mut()))),
        ) {
            let payload = &arena[message.bytes.clone()];
            // The kernel only reads through this pointer.
            *vector = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
            let (raw, raw_len) = RawAddr::encode(message.to, socket_is_v6);
            *address = raw;
            let hdr = &mut header.msg_hdr;
            hdr.msg_name = ptr::from_mut(address).cast();
            hdr.msg_namelen = raw_len;
            hdr.msg_iov = vector;
            hdr.msg_iovlen = 1;
            hdr.msg_control = ptr::null_mut();
            hdr.msg_controllen = 0;
            hdr.msg_flags = 0;
            if let Some(segment_len) = message.segment_len {
                set_gso_segment(hdr, control, segment_len);
            }
            count += 1;
        }
        Prepared { headers: &mut self.headers[..count] }
    }
}

fn set_gso_segment(header: &mut libc::msghdr, control: &mut Control, segment_len: u16) {
    header.msg_control = control.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE and CMSG_LEN only compute. `control` is aligned and, by the assertion above, long
    // enough for one header and a u16, so CMSG_FIRSTHDR gives its start and CMSG_DATA stays inside it.
    unsafe {
        header.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
        let cmsg = libc::CMSG_FIRSTHDR(header);
        (*cmsg).cmsg_level = libc::SOL_UDP;
        (*cmsg).cmsg_type = libc::UDP_SEGMENT;
        (*cmsg).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
        libc::CMSG_DATA(cmsg).cast::<u16>().write_unaligned(segment_len);
    }
}

impl Prepared<'_> {
    /// How many messages there are; the scripted kernels of the tests ask.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.headers.len()
    }

    /// One `sendmmsg` from message `first` on. Returns how many the kernel took, or the error of the first.
    pub(crate) fn send(&mut self, fd: BorrowedFd<'_>, first: usize) -> io::Result<usize> {
        let headers = &mut self.headers[first..];
        // SAFETY: `prepare` set each header to parts that `self` keeps borrowed, with their true lengths.
        let sent = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

fn set_udp_option(fd: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option's value is an int that lives across the call, and its length is passed.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_UDP,
            option,
            ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the kernel knows `UDP_SEGMENT` (Linux 4.18). An older one would ignore the control message and send
/// the run as one datagram, so this is asked before the first run.
pub(crate) fn gso_is_known(fd: BorrowedFd<'_>) -> bool {
    set_udp_option(fd, libc::UDP_SEGMENT, 0).is_ok()
}

/// Lets the kernel coalesce what arrives (Linux 5.0).
pub(crate) fn enable_gro(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_udp_option(fd, libc::UDP_GRO, 1)
}

/// `CLOCK_MONOTONIC` in microseconds.
pub(crate) fn monotonic_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec of ours. The call cannot fail for this clock and a valid pointer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000).wrapping_add(now.tv_nsec as u64 / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_form() {
        for (text, socket_is_v6) in
            [("10.1.2.3:9", false), ("[2001:db8::1%7]:65535", true), ("[::1]:1", false), ("10.1.2.3:9", true)]
        {
            let address: SocketAddr = text.parse().unwrap();
            let (raw, len) = RawAddr::encode(address, socket_is_v6);
            assert_eq!(raw.decode(len), Some(address), "{text}");
        }
    }

    #[test]
    fn an_ipv6_socket_speaks_of_ipv4_peers_by_mapped_addresses() {
        let (raw, len) = RawAddr::encode("10.1.2.3:9".parse().unwrap(), true);
        assert_eq!(len as usize, size_of::<libc::sockaddr_in6>());
        // SAFETY: encode wrote this member, as its length says.
        assert_eq!(Ipv6Addr::from(unsafe { raw.v6 }.sin6_addr.s6_addr).to_string(), "::ffff:10.1.2.3");
    }

    #[test]
    fn a_short_or_foreign_address_is_none() {
        let (raw, _) = RawAddr::encode("10.1.2.3:9".parse().unwrap(), false);
        assert_eq!(raw.decode(0), None);
        assert_eq!(raw.decode(8), None);
        assert_eq!(RawAddr::zeroed().decode(28), None);
        let (raw, _) = RawAddr::encode("[::1]:9".parse().unwrap(), true);
        assert_eq!(raw.decode(16), None, "an IPv6 address cut to 16 bytes");
    }
}
