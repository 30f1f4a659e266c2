//! Sending and receiving allocate nothing once the batches exist. A program of its own, because the allocator
//! counts for the whole process.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait; this one forwards and counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use millrace_udp::{RecvBatch, SendBatch, Socket};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as our caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as our caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn the_steady_state_allocates_nothing() {
    let bind = || Socket::bind("127.0.0.1:0".parse().unwrap(), 4 << 20, 4 << 20).unwrap();
    let (a, b) = (bind(), bind());
    let mut send = SendBatch::new(64 << 10, 64);
    let mut recv = RecvBatch::new(32, 1500);
    let refused = "127.0.0.1:0".parse().unwrap();

    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let mut bytes = 0;
    for _ in 0..50 {
        for len in [1200, 1200, 700] {
            send.reserve(len).unwrap().fill(3);
            send.commit(len, b.local_addr());
        }
        // A refused run: the path that cuts the batch again.
        assert!(send.push(refused, &[0; 9]) && send.push(refused, &[0; 9]));
        assert_eq!(a.send(&mut send).unwrap().datagrams, 3);
        while b.recv(&mut recv).unwrap() > 0 {
            bytes += recv.iter_mut().map(|(_, datagram)| datagram.len()).sum::<usize>();
        }
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(bytes, 50 * 3100);
    assert_eq!(allocations, 0, "allocations in the steady state");
    drop(vec![1_u8; 10]);
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > before, "the allocator does count");
}
