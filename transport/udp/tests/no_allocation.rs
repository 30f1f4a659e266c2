//! Sending and receiving allocate nothing once the batches exist. A program of its own, because the allocator
//! is the whole process's; it counts the test's thread, as the harness's allocates when it likes.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait; this one forwards and counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use millrace_udp::{RecvBatch, SendBatch, Socket};

thread_local! {
    // Nothing is made for it, and nothing dropped: it may be used in the allocator.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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

    let before = ALLOCATIONS.get();
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
    let allocations = ALLOCATIONS.get() - before;
    assert_eq!(bytes, 50 * 3100);
    assert_eq!(allocations, 0, "allocations in the steady state");
    drop(vec![1_u8; 10]);
    assert!(ALLOCATIONS.get() > before, "the allocator does count");
}
