//! Sending a batch to the end, whatever the kernel says on the way.

use std::io::{self, ErrorKind};

use crate::send::SendBatch;
use crate::sys::Prepared;

/// Refusals in a row after which GSO is given up. One may be a single path's fault: Linux before 6.14 says
/// EINVAL also when a segment exceeds the path MTU, which one peer (or a forged ICMP) can bring about.
const GSO_REFUSALS_MAX: u32 = 8;

/// What became of a batch: each datagram is in one of `datagrams`, `dropped_full` and `dropped_error`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sent {
    /// Datagrams the kernel took.
    pub datagrams: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Kernel messages they were: `datagrams / messages` is the mean length of a run.
    pub messages: usize,
    /// Datagrams dropped because the socket's or the device's buffer was full.
    pub dropped_full: usize,
    /// Datagrams the kernel refused one by one (no route, too long, bad address).
    pub dropped_error: usize,
}

/// Whether runs go as GSO messages, and what has been held against it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gso {
    pub(crate) on: bool,
    refusals: u32,
}

impl Gso {
    pub(crate) fn new(on: bool) -> Gso {
        Gso { on, refusals: 0 }
    }

    /// Notes a run that was refused; gives GSO up for good where that is what was refused.
    fn refused(&mut self, error: &io::Error) {
        match error.raw_os_error() {
            // The device cannot checksum segments, or the route is encrypted by the kernel.
            Some(libc::EIO) => self.on = false,
            Some(libc::EINVAL) => {
                self.refusals += 1;
                self.on &= self.refusals < GSO_REFUSALS_MAX;
            }
            // No route, or a segment longer than the path's MTU: nothing to do with GSO.
            _ => {}
        }
    }
}

/// What a failed send means for the batch.
enum Failure {
    /// Try again at once.
    Interrupted,
    /// The socket's buffer is full: nothing that follows fits either.
    Full,
    /// The device's queue or the kernel's memory is full: this message is lost.
    DeviceFull,
    /// This destination, length or run was refused.
    Refused,
    /// The socket is unusable.
    Fatal,
}

impl Failure {
    fn of(error: &io::Error) -> Failure {
        match error.raw_os_error() {
            Some(libc::EINTR) => Failure::Interrupted,
            Some(libc::EAGAIN) => Failure::Full,
            Some(libc::ENOBUFS | libc::ENOMEM) => Failure::DeviceFull,
            Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT) | None => Failure::Fatal,
            Some(_) => Failure::Refused,
        }
    }
}

/// Sends `batch`. `kernel` is the system call: it sends the prepared messages from the given one on and says how
/// many were taken, or why the first of them was not.
pub(crate) fn flush(
    batch: &mut SendBatch,
    gso: &mut Gso,
    socket_is_v6: bool,
    mut kernel: impl FnMut(&mut Prepared<'_>, usize) -> io::Result<usize>,
) -> io::Result<Sent> {
    let mut sent = Sent::default();
    // The first datagram not yet dealt with, and up to where runs are sent one by one.
    let (mut next, mut plain_until) = (0, 0);
    // Each turn ends the batch, or makes one refused run plain, which can happen once a run.
    'cut: while next < batch.datagrams.len() {
        batch.cut(next, if gso.on { plain_until } else { usize::MAX });
        let mut prepared = batch.headers.prepare(&batch.arena, &batch.messages, socket_is_v6);
        let mut first = 0;
        while let Some(message) = batch.messages.get(first) {
            let error = match kernel(&mut prepared, first) {
                Ok(0) => return Err(io::Error::new(ErrorKind::WriteZero, "sendmmsg took no message")),
                Ok(count) => {
                    for message in batch.messages.iter().skip(first).take(count) {
                        sent.datagrams += message.datagrams;
                        sent.bytes += message.bytes.len();
                        sent.messages += 1;
                        next += message.datagrams;
                        if message.segment_len.is_some() {
                            gso.refusals = 0;
                        }
                    }
                    first += count;
                    continue;
                }
                Err(error) => error,
            };
            match Failure::of(&error) {
                Failure::Interrupted => continue,
                Failure::Fatal => return Err(error),
                Failure::Full => {
                    sent.dropped_full += batch.datagrams.len() - next;
                    return Ok(sent);
                }
                Failure::Refused if message.segment_len.is_some() => {
                    gso.refused(&error);
                    plain_until = next + message.datagrams;
                    continue 'cut;
                }
                Failure::Refused => sent.dropped_error += message.datagrams,
                Failure::DeviceFull => sent.dropped_full += message.datagrams,
            }
            next += message.datagrams;
            first += 1;
        }
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    //! A kernel by script, for what the loopback device never does.
    use super::*;
    use std::net::SocketAddr;

    fn batch(datagrams: &[(u16, usize)]) -> SendBatch {
        let mut batch = SendBatch::new(1 << 20, 1000);
        for (port, len) in datagrams {
            assert!(batch.push(SocketAddr::from(([127, 0, 0, 1], *port)), &vec![0; *len]));
        }
        batch
    }

    fn os<T>(code: i32) -> io::Result<T> {
        Err(io::Error::from_raw_os_error(code))
    }

    fn all(prepared: &Prepared<'_>, first: usize) -> io::Result<usize> {
        Ok(prepared.len() - first)
    }

    #[test]
    fn a_full_buffer_drops_the_rest_and_counts_it() {
        let mut batch = batch(&[(1, 9), (2, 9), (2, 9), (2, 4), (3, 9), (3, 9)]);
        let sent = flush(&mut batch, &mut Gso::new(true), false, |prepared, first| {
            assert_eq!(prepared.len(), 3);
            if first == 0 { Ok(2) } else { os(libc::EAGAIN) }
        });
        let want = Sent { datagrams: 4, bytes: 31, messages: 2, dropped_full: 2, dropped_error: 0 };
        assert_eq!(sent.unwrap(), want);
    }

    #[test]
    fn partial_results_interruptions_and_refusals_go_on_where_they_stopped() {
        let mut batch = batch(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)]);
        let mut script = vec![
            (4, os(libc::ENOBUFS)),
            (4, os(libc::EINTR)),
            (3, Ok(1)),
            (2, os(libc::ECONNREFUSED)),
            (0, Ok(2)),
        ];
        let sent = flush(&mut batch, &mut Gso::new(true), false, |prepared, first| match script.pop() {
            Some((at, result)) => {
                assert_eq!(first, at);
                result
            }
            None => all(prepared, first),
        })
        .unwrap();
        let want =
            Sent { datagrams: 4, bytes: 1 + 2 + 4 + 6, messages: 4, dropped_full: 1, dropped_error: 1 };
        assert_eq!(sent, want);
    }

    #[test]
    fn a_device_without_gso_gets_the_run_one_by_one_and_never_a_run_again() {
        let datagrams = [(1, 9), (2, 9), (2, 9), (2, 4), (3, 9), (3, 9)];
        let mut gso = Gso::new(true);
        let mut seen = Vec::new();
        let sent = flush(&mut batch(&datagrams), &mut gso, false, |prepared, first| {
            seen.push((prepared.len(), first));
            match (prepared.len(), first) {
                (3, 0) => Ok(1),
                (3, 1) => os(libc::EIO),
                _ => all(prepared, first),
            }
        })
        .unwrap();
        assert_eq!(seen, [(3, 0), (3, 1), (5, 0)]);
        assert_eq!((sent.datagrams, sent.messages, sent.bytes), (6, 6, 49));
        assert!(!gso.on);
        let sent = flush(&mut batch(&datagrams), &mut gso, false, |p, first| all(p, first)).unwrap();
        assert_eq!(sent.messages, 6);
    }

    #[test]
    fn gso_is_given_up_after_refusals_in_a_row_but_not_for_one_bad_path() {
        let run = [(1, 9), (1, 9)];
        let refuse = |prepared: &mut Prepared<'_>, first| {
            if prepared.len() == 1 { os(libc::EINVAL) } else { all(prepared, first) }
        };
        let mut gso = Gso::new(true);
        for _ in 0..3 {
            for _ in 1..GSO_REFUSALS_MAX {
                let sent = flush(&mut batch(&run), &mut gso, false, refuse).unwrap();
                assert_eq!((sent.datagrams, sent.messages), (2, 2), "sent one by one instead");
            }
            assert!(gso.on);
            flush(&mut batch(&run), &mut gso, false, |p, first| all(p, first)).unwrap();
        }
        for _ in 0..GSO_REFUSALS_MAX {
            assert!(gso.on);
            flush(&mut batch(&run), &mut gso, false, refuse).unwrap();
        }
        assert!(!gso.on);
    }

    #[test]
    fn a_segment_over_the_path_mtu_is_not_held_against_gso() {
        let mut gso = Gso::new(true);
        for _ in 0..100 {
            let sent = flush(&mut batch(&[(1, 9), (1, 9)]), &mut gso, false, |prepared, first| {
                if prepared.len() == 1 { os(libc::EMSGSIZE) } else { all(prepared, first) }
            });
            assert_eq!(sent.unwrap().datagrams, 2);
        }
        assert!(gso.on);
    }

    #[test]
    fn every_run_refused_ends() {
        let datagrams: Vec<(u16, usize)> = (0..600).map(|i| (1 + i / 3, 9)).collect();
        let mut calls = 0;
        let sent = flush(&mut batch(&datagrams), &mut Gso::new(true), false, |_, _| {
            calls += 1;
            os(libc::EHOSTUNREACH)
        })
        .unwrap();
        assert_eq!(sent.dropped_error, 600);
        assert_eq!(calls, 800, "a call for each run of three, then for each datagram of it");
    }

    #[test]
    fn a_dead_socket_is_an_error() {
        let result = flush(&mut batch(&[(1, 1)]), &mut Gso::new(true), false, |_, _| os(libc::EBADF));
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(flush(&mut batch(&[(1, 1)]), &mut Gso::new(true), false, |_, _| Ok(0)).is_err());
    }
}
