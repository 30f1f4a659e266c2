//! The floor under a WHEP fan-out: the bare system calls for the same datagrams to as many sockets, which are read on another core as
//! viewers' are. What a server takes beyond this is its own.

use std::io::ErrorKind;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use benches::floor::{Floor, thread_cpu_ns};
use benches::receive::{self, Receiver};
use mio::{Events, Interest, Poll, Token};

use super::process;

/// RTP header and SRTP tag around a payload.
const HEADER_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// As the media plane sends.
const BATCH_DATAGRAMS: usize = 512;
const FRAMES_PER_SECOND: u32 = 30;
/// Opus of 96 kbit/s: a packet each 20 ms.
const AUDIO_PACKETS_PER_SECOND: u32 = 50;
const AUDIO_PAYLOAD_LEN: usize = 240;
/// Each frame's stamp goes in a packet of its own.
const STAMP_PAYLOAD_LEN: usize = 68;

/// What a viewer is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Sockets.
    pub viewers: usize,
    /// Video bit rate.
    pub kbps: u32,
    /// Seconds of each measure.
    pub seconds: u64,
    /// The sender's core.
    pub send_core: usize,
    /// The reader's core.
    pub read_core: usize,
}

/// One measure.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// CPU nanoseconds of the sending thread per datagram, kernel included.
    pub ns_per_packet: f64,
    /// CPU of it, in percent of a core.
    pub percent: f64,
    /// Datagrams that were not read, in percent.
    pub lost_percent: f64,
}

/// Measures the send alone, and with AES-128-GCM over each datagram.
pub fn measure(load: Load) -> Result<[Measure; 2]> {
    let sockets: Vec<udp::Socket> = (0..load.viewers)
        .map(|i| {
            let socket = udp::Socket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1 << 18, 1 << 16)
                .with_context(|| format!("socket {i}: raise the limit of open files (ulimit -n)"))?;
            receive::enable_datagrams(&socket)?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    let to: Vec<SocketAddrV4> = sockets
        .iter()
        .map(|socket| match socket.local_addr() {
            SocketAddr::V4(address) => Ok(address),
            SocketAddr::V6(_) => bail!("127.0.0.1 gave an IPv6 address"),
        })
        .collect::<Result<_>>()?;
    let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let reader = {
        let (stop, read) = (Arc::clone(&stop), Arc::clone(&read));
        std::thread::spawn(move || drain(load.read_core, sockets, &stop, &read))
    };
    process::pin_thread(load.send_core)?;
    let result = [false, true].map(|crypto| send(load, &to, crypto, &read));
    stop.store(true, Ordering::Relaxed);
    reader.join().ok().context("the reading thread panicked")??;
    let [bare, sealed] = result;
    Ok([bare?, sealed?])
}

fn drain(core: usize, mut sockets: Vec<udp::Socket>, stop: &AtomicBool, read: &AtomicU64) -> Result<()> {
    process::pin_thread(core)?;
    let mut poll = Poll::new()?;
    for (i, socket) in sockets.iter_mut().enumerate() {
        poll.registry().register(socket, Token(i), Interest::READABLE)?;
    }
    let (mut events, mut receiver) = (Events::with_capacity(1_024), Receiver::new(16));
    while !stop.load(Ordering::Relaxed) {
        match poll.poll(&mut events, Some(Duration::from_millis(100))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            done => done?,
        }
        for event in &events {
            while receiver.recv(&sockets[event.token().0])? {
                read.fetch_add(receiver.datagrams().count() as u64, Ordering::Relaxed);
            }
            read.fetch_add(receiver.datagrams().count() as u64, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Datagrams of one length that go together, `per_second` times.
struct Part {
    floor: Floor,
    len: usize,
    every: Duration,
    due: Instant,
}

fn send(load: Load, to: &[SocketAddrV4], crypto: bool, read: &AtomicU64) -> Result<Measure> {
    let socket = udp::Socket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1 << 18, 8 << 20)?;
    let keys: Vec<LessSafeKey> = (0..to.len())
        .map(|i| {
            let bytes: [u8; 16] = std::array::from_fn(|b| (i * 31 + b * 7) as u8);
            UnboundKey::new(&AES_128_GCM, &bytes).map(LessSafeKey::new)
        })
        .collect::<Result<_, _>>()
        .ok()
        .context("AES-128-GCM keys")?;
    let start = Instant::now();
    let part = |payload_len: usize, run: usize, per_second: u32| {
        let len = HEADER_LEN + payload_len + TAG_LEN;
        let floor = Floor::new(to, len, run, BATCH_DATAGRAMS, run > 1);
        Part { floor, len, every: Duration::from_secs(1) / per_second, due: start }
    };
    // The last packet of a frame is shorter as a rule; a whole one in its place makes the floor no lower.
    let frame_len = load.kbps as usize * 125 / FRAMES_PER_SECOND as usize;
    let packets = frame_len.div_ceil(media::payload::PAYLOAD_LEN_MAX).max(1);
    let mut parts = [
        part(STAMP_PAYLOAD_LEN, 1, FRAMES_PER_SECOND),
        part(frame_len / packets, packets, FRAMES_PER_SECOND),
        part(AUDIO_PAYLOAD_LEN, 1, AUDIO_PACKETS_PER_SECOND),
    ];
    let (read_before, cpu_before) = (read.load(Ordering::Relaxed), thread_cpu_ns());
    let (mut sent, mut nonce) = (0_u64, 0_u64);
    let end = start + Duration::from_secs(load.seconds);
    while let Some(next) = parts.iter_mut().min_by_key(|part| part.due).filter(|part| part.due < end) {
        std::thread::sleep(next.due.saturating_duration_since(Instant::now()));
        let run = next.floor.datagrams() / to.len();
        let len = next.len;
        let mut failed = false;
        next.floor.send(socket.as_fd().as_raw_fd(), |number, bytes| {
            if crypto {
                nonce += 1;
                let mut words = [0; 12];
                words[4..].copy_from_slice(&nonce.to_be_bytes());
                let (header, rest) = bytes.split_at_mut(HEADER_LEN);
                let (payload, tag) = rest.split_at_mut(len - HEADER_LEN - TAG_LEN);
                let key = &keys[number / run];
                let nonce = Nonce::assume_unique_for_key(words);
                match key.seal_in_place_separate_tag(nonce, Aad::from(&*header), payload) {
                    Ok(sealed) => tag.copy_from_slice(sealed.as_ref()),
                    Err(_) => failed = true,
                }
            }
        })?;
        if failed {
            bail!("AES-128-GCM refused a datagram");
        }
        sent += next.floor.datagrams() as u64;
        next.due += next.every;
    }
    let (cpu_ns, elapsed) = (thread_cpu_ns() - cpu_before, start.elapsed());
    // What is on its way arrives.
    std::thread::sleep(Duration::from_millis(200));
    let got = read.load(Ordering::Relaxed) - read_before;
    Ok(Measure {
        ns_per_packet: cpu_ns as f64 / sent.max(1) as f64,
        percent: cpu_ns as f64 / 1e7 / elapsed.as_secs_f64(),
        lost_percent: 100.0 * sent.saturating_sub(got) as f64 / sent.max(1) as f64,
    })
}
