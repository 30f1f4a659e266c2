//! Whatever codec a browser publishes is watched at another node, byte for byte, with what says its layers.
use std::time::Duration;
use support::cluster::Cluster;
use support::peer::{Peer, payload};
use support::sdp::{self, Way};
use support::{http, unique, until};

const LIMIT: Duration = Duration::from_secs(15);
const DEPENDENCY: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
/// Its id in offers.
const DEPENDENCY_ID: u8 = 12;
/// Of a key frame: three temporal layers, templates from 60 on of layers 0, 0, 1, 2, 2, and a size. The frame number is in the second and third byte.
const STRUCTURE: [u8; 20] = [
    0xfc, 0x00, 0x07, 0x87, 0x82, 0x14, 0xea, 0xa8, 0x60, 0x41, 0x4d, 0x14, 0x10, 0x20, 0x84, 0x27, 0x02,
    0x7f, 0x01, 0x67,
];

fn offer(way: Way, codec: &str) -> String {
    let mut offer =
        sdp::offer(way).replace("96 97 102 103", "96").replace("VP8/90000", &format!("{codec}/90000"));
    offer = offer
        .split_inclusive("\r\n")
        .filter(|line| ![":97 ", ":102 ", ":103 "].iter().any(|it| line.contains(it)))
        .collect();
    offer + &format!("a=extmap-allow-mixed\r\na=extmap:{DEPENDENCY_ID} {DEPENDENCY}\r\n")
}

/// One packet as the browser makes it.
#[derive(Clone, PartialEq, Debug)]
struct Piece {
    descriptor: Vec<u8>,
    marker: bool,
    payload: Vec<u8>,
}

/// The packets of picture `nth`, the `since`th since the key frame.
fn picture(codec: &str, nth: u16, since: u16) -> Vec<Piece> {
    let (key, [high, low]) = (since == 0, nth.to_be_bytes());
    let tid = [0, 2, 1, 2][usize::from(since % 4)];
    let heads: Vec<Vec<u8>> = match codec {
        // RFC 7741: a picture id, TL0PICIDX and three temporal layers.
        "VP8" => {
            let head = [0x90, 0xe0, high | 0x80, low, (since / 4) as u8, tid << 6];
            let frame: &[u8] =
                if key { &[0x50, 0, 0, 0x9d, 1, 0x2a, 0x40, 1, 0xf0, 0] } else { &[0x51, 0, 0] };
            vec![[&head, frame].concat()]
        }
        // RFC 9628: two spatial layers of three temporal ones, each in a packet: I P L F B E V Z, picture id, TID U SID D, TL0PICIDX.
        "VP9" => [0, 1]
            .map(|sid| {
                let first = 0xac | if key { 0 } else { 0x40 };
                vec![first, high | 0x80, low, tid << 5 | sid << 1 | sid, (since / 4) as u8]
            })
            .into(),
        // Z Y W W N: two packets; a descriptor says the layers.
        "AV1" => vec![vec![if key { 0x18 } else { 0x10 }, 0x30], vec![0x90]],
        // RFC 7798: VPS and IDR, or a trailing picture, each one slice.
        "H265" if key => vec![vec![0x40, 1, 0x0c], vec![0x26, 1, 0x80]],
        _ => vec![vec![0x02, 1, 0x80]],
    };
    let last = heads.len() - 1;
    let piece = |(index, head): (usize, Vec<u8>)| {
        let ends = u8::from(index == 0) << 7 | u8::from(index == last) << 6;
        let mut descriptor = vec![ends | if key { 60 } else { 61 + tid }, high, low];
        if key && index == 0 {
            descriptor.extend(&STRUCTURE[3..]);
        }
        descriptor.truncate(if codec == "AV1" { 64 } else { 0 });
        let payload = [&head[..], &[index as u8, high, low], &[0x55; 300]].concat();
        Piece { descriptor, marker: index == last, payload }
    };
    heads.into_iter().enumerate().map(piece).collect()
}

struct Stream {
    codec: &'static str,
    publisher: Peer,
    viewer: Peer,
    answered: usize,
    since: u16,
    sent: Vec<Piece>,
    sounds: Vec<Vec<u8>>,
}

impl Stream {
    /// A picture and a packet of sound.
    fn step(&mut self, nth: u16) {
        let key = nth == 0 || self.publisher.asked > self.answered;
        self.answered = self.publisher.asked;
        self.since = if key { 0 } else { self.since + 1 };
        for piece in picture(self.codec, nth, self.since) {
            let element = (!piece.descriptor.is_empty()).then_some((DEPENDENCY_ID, &piece.descriptor[..]));
            let packet =
                self.publisher.piece((u32::from(nth) * 3_000, piece.marker), element, &piece.payload);
            self.publisher.send(&packet);
            self.sent.push(piece);
        }
        let sound = [&[0xfc][..], self.codec.as_bytes(), &nth.to_be_bytes()].concat();
        let packet = self.publisher.sound(&sound);
        self.publisher.send(&packet);
        self.sounds.push(sound);
        self.publisher.run(Duration::from_millis(3));
        self.viewer.run(Duration::from_millis(5));
    }

    fn seen(&self) -> Vec<Piece> {
        let pictures = self.viewer.rtp.iter().filter(|packet| packet[1] & 0x7f == 96);
        let piece = |packet: &Vec<u8>| {
            let header = rtc::rtp::Header::parse(packet).expect("the node sends RTP");
            Piece {
                descriptor: header.extension(DEPENDENCY_ID).unwrap_or_default().to_vec(),
                marker: packet[1] & 0x80 != 0,
                payload: payload(packet).to_vec(),
            }
        };
        pictures.map(piece).collect()
    }

    fn choose(&self, wish: &str) {
        let (url, json) = (self.viewer.session.clone() + "/layer", [("Content-Type", "application/json")]);
        let chosen = http::request("POST", &url, &json, wish.as_bytes()).expect("an answer");
        assert_eq!(chosen.status, 200, "{}", chosen.text());
    }

    /// The temporal layer of a packet.
    fn layer(&self, piece: &Piece) -> u8 {
        match self.codec {
            "VP8" => piece.payload[5] >> 6,
            "VP9" => piece.payload[3] >> 5,
            _ => (piece.descriptor[0] & 0x3f).saturating_sub(61),
        }
    }

    /// What came is what was published, from a key frame on, with none left out.
    #[track_caller]
    fn assert_untouched(&self) {
        let seen = self.seen();
        let from = self.sent.iter().position(|piece| *piece == seen[0]);
        let from = from.unwrap_or_else(|| panic!("{}: {:?} was not published", self.codec, seen[0]));
        for (nth, (seen, sent)) in seen.iter().zip(&self.sent[from..]).enumerate() {
            assert_eq!(seen, sent, "packet {nth} of {}", self.codec);
        }
        let heard: Vec<&[u8]> =
            self.viewer.rtp.iter().filter(|packet| packet[1] & 0x7f == 111).map(|it| payload(it)).collect();
        let from = self.sounds.iter().position(|it| it == heard[0]).expect("the first was published");
        assert!(
            heard.len() > 25 && heard.iter().zip(&self.sounds[from..]).all(|(heard, sent)| heard == sent)
        );
    }
}

#[test]
fn each_codec_of_browsers_crosses_byte_for_byte() {
    let cluster = Cluster::of(&["a", "b"]);
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    until("the link is up", LIMIT, || b.log().contains("relay link up peer=a").then_some(()));
    let mut streams = ["VP8", "VP9", "AV1", "H265"].map(|codec| {
        let name = unique(codec);
        let publisher = Peer::connect_to(&a.whip_url(&name), &offer(Way::Send, codec));
        let viewer = Peer::connect_to(&b.whep_url(&name), &offer(Way::Receive, codec));
        Stream { codec, publisher, viewer, answered: 0, since: 0, sent: Vec::new(), sounds: Vec::new() }
    });
    let mut nth = 0;
    until("sixty packets of each arrive", LIMIT, || {
        streams.iter_mut().for_each(|stream| stream.step(nth));
        nth += 1;
        streams.iter().all(|stream| stream.seen().len() >= 60).then_some(())
    });
    for stream in &streams {
        stream.assert_untouched();
        println!("{}: {} packets", stream.codec, stream.seen().len());
    }
    // The layers that they say can be chosen there.
    for stream in &streams[..3] {
        stream.choose("{\"temporalLayerId\": 0}");
    }
    until("the base layers alone come", LIMIT, || {
        streams.iter_mut().for_each(|stream| stream.step(nth));
        nth += 1;
        let base =
            |stream: &Stream| stream.seen().iter().rev().take(12).all(|piece| stream.layer(piece) == 0);
        streams[..3].iter().all(base).then_some(())
    });
    a.assert_well();
    b.assert_well();
}
