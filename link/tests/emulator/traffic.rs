//! UDP and TCP through an emulator, by ordinary sockets of its namespaces.
use link::emulator::{Emulator, Options, Side};
use link::{Config, Figures};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use support::until;
use support::wait::undisturbed;

/// The IP and UDP headers, which the link sees and a socket does not.
pub const HEADERS: u64 = 28;
/// Longer than any delay and outage here: what has not come by then does not come.
const QUIET: Duration = Duration::from_millis(1_500);

/// An emulator with these for what A and what B sends.
pub fn start(configs: [Config; 2]) -> Emulator {
    Emulator::start(&Options { configs, seed: 11, ..Options::default() }).unwrap()
}

/// A UDP socket at each side, the first connected to the second and the other way round.
pub fn udp(emulator: &Emulator) -> [UdpSocket; 2] {
    let bind =
        |side: Side| emulator.namespace(side).within(move || UdpSocket::bind((side.address(), 0)).unwrap());
    let sockets = Side::BOTH.map(|side| bind(side).unwrap());
    let [a, b] = &sockets;
    a.connect(b.local_addr().unwrap()).unwrap();
    b.connect(a.local_addr().unwrap()).unwrap();
    sockets
}

/// A TCP connection from A to B: the ends at A and at B.
pub fn tcp(emulator: &Emulator) -> [TcpStream; 2] {
    let listen = || TcpListener::bind((Side::B.address(), 0)).unwrap();
    let listener = emulator.namespace(Side::B).within(listen).unwrap();
    let to: SocketAddr = listener.local_addr().unwrap();
    let a = emulator.namespace(Side::A).within(move || TcpStream::connect(to).unwrap()).unwrap();
    [a, listener.accept().unwrap().0]
}

/// A datagram that came: its number, and when.
#[derive(Clone, Copy, Debug)]
pub struct Got {
    pub number: u32,
    pub at: Instant,
}

/// Takes what comes, on a thread of its own, until nothing has come for [`QUIET`].
pub struct Sink(Receiver<Vec<Got>>);

impl Sink {
    pub fn start(socket: &UdpSocket) -> Sink {
        let socket = socket.try_clone().unwrap();
        socket.set_read_timeout(Some(QUIET)).unwrap();
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let (mut got, mut buffer) = (Vec::new(), [0; 2_048]);
            while let Ok(len) = undisturbed(|| socket.recv(&mut buffer)) {
                assert!(len >= 4);
                let number = u32::from_be_bytes(buffer[..4].try_into().unwrap());
                got.push(Got { number, at: Instant::now() });
            }
            let _ = sender.send(got);
        });
        Sink(receiver)
    }

    /// All that came.
    pub fn end(self) -> Vec<Got> {
        self.0.recv_timeout(Duration::from_secs(60)).expect("the sink ends when nothing comes")
    }
}

/// Sends numbered datagrams of `len` bytes, one each `every`; when each was sent.
pub fn send(socket: &UdpSocket, count: u32, len: usize, every: Duration) -> Vec<Instant> {
    let mut packet = vec![0; len];
    let started = Instant::now();
    (0..count)
        .map(|number| {
            // a sender's pace, not a wait for something
            std::thread::sleep((started + every * number).saturating_duration_since(Instant::now()));
            packet[..4].copy_from_slice(&number.to_be_bytes());
            socket.send(&packet).unwrap();
            Instant::now()
        })
        .collect()
}

/// Sends back what comes, until the socket is closed by the test's end.
pub fn echo(socket: &UdpSocket) {
    let socket = socket.try_clone().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok(len) = undisturbed(|| socket.recv(&mut buffer)) {
            let _ = socket.send(&buffer[..len]);
        }
    });
}

/// The time to the echo and back in ms; an error when it was lost.
pub fn ping(socket: &UdpSocket) -> io::Result<f64> {
    socket.set_read_timeout(Some(QUIET)).unwrap();
    let sent = Instant::now();
    socket.send(b"ping").unwrap();
    undisturbed(|| socket.recv(&mut [0; 64])).map(|_| sent.elapsed().as_secs_f64() * 1e3)
}

/// The value below which this share of them is.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}

/// Every packet is accounted for once it has arrived, and the kernel dropped none before the emulator saw it.
#[track_caller]
pub fn assert_accounts(emulator: &Emulator, from: Side) -> Figures {
    let figures = until("nothing is on the way", Duration::from_secs(5), || {
        let figures = emulator.figures(from);
        (figures.link.carried + figures.link.duplicated <= figures.delivered).then_some(figures)
    });
    let link = figures.link;
    assert_eq!(link.packets, link.carried + link.lost + link.queue_full + link.outage, "{figures:?}");
    assert_eq!(link.carried + link.duplicated, figures.delivered, "{figures:?}");
    assert_eq!((figures.missed, figures.refused, figures.overflow), (0, 0, 0), "{figures:?}");
    link
}
