//! `millrace uplink` between ffmpeg and a node: what goes in beside the encoder comes out at the node, and what the node refuses is refused there.
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::cluster::Cluster;
use support::ffmpeg::{self, Source};
use support::process::Process;
use support::rtmp::Client;
use support::{Node, flv, http, need, unique, until};

const ARRIVES: Duration = Duration::from_secs(15);
const TOKENS: [(&str, &str); 3] =
    [("auth.publish", "[\"secret\"]"), ("auth.play", "[\"see\"]"), ("cluster.uplinks", "[\"u\"]")];

/// A node that knows the uplink `u`.
fn cluster() -> Cluster {
    let cluster = Cluster::of(&["a"]);
    cluster.certify("ca", "u", "u");
    cluster
}

#[track_caller]
fn ready(process: &Process) {
    until("the uplink says where to publish", ARRIVES, || {
        process.output().contains("Encoders publish to").then_some(())
    });
}

/// Where datagrams go.
type Give = Box<dyn Fn(&[u8], SocketAddr) + Send>;

/// Datagrams between an uplink and a node, while it is on.
struct Wire {
    on: Arc<AtomicBool>,
    at: SocketAddr,
}

impl Wire {
    fn to(node: SocketAddr) -> Wire {
        let on = Arc::new(AtomicBool::new(true));
        let bind = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
            socket.set_read_timeout(Some(Duration::from_secs(120))).expect("a time-out can be set");
            Arc::new(socket)
        };
        let (near, far) = (bind(), bind());
        let at = near.local_addr().expect("it is bound");
        let back: Arc<std::sync::Mutex<Option<SocketAddr>>> = Arc::default();
        let carry = |from: Arc<UdpSocket>, give: Give| {
            let on = on.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 65_536];
                while let Ok((len, who)) = from.recv_from(&mut bytes) {
                    if on.load(Ordering::Relaxed) {
                        give(&bytes[..len], who);
                    }
                }
            });
        };
        let (out, who) = (far.clone(), back.clone());
        carry(
            near.clone(),
            Box::new(move |bytes, from| {
                *who.lock().expect("no panic") = Some(from);
                let _ = out.send_to(bytes, node);
            }),
        );
        carry(
            far,
            Box::new(move |bytes, _| {
                if let Some(to) = *back.lock().expect("no panic") {
                    let _ = near.send_to(bytes, to);
                }
            }),
        );
        Wire { on, at }
    }

    fn is(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }
}

/// The node, and the uplink behind the wire: its process, and where it listens.
#[track_caller]
fn by_wire(cluster: &Cluster) -> (Node, Wire, Process, SocketAddr) {
    let a = cluster.start_with("a", "a", &TOKENS);
    let wire = Wire::to(([127, 0, 0, 1], cluster.port("a")).into());
    let (process, listen) = cluster.uplink("u", &format!("a={}", wire.at));
    ready(&process);
    (a, wire, process, listen)
}

/// How a refused client was told.
fn refusal(of: SocketAddr, name: &str, play: bool) -> String {
    let mut client = Client::connect(of, "live").expect("it connects");
    let told = if play { client.play(name) } else { client.publish(name) };
    format!("{} {:?}", told.expect_err("it is refused"), client.commands())
}

fn flows(node: &Node, name: &str) {
    until("FLV at the node", ARRIVES, || {
        let url = format!("{}?token=see", node.flv_url(name));
        let response = http::get_for(&url, Duration::from_secs(2)).ok()?;
        flv::parse(&response.body).ok().filter(|it| it.tags.len() > 60)
    });
}

#[test]
fn ffmpeg_publishes_and_plays_through_an_uplink_as_the_node_allows() {
    need!(Ffmpeg);
    let cluster = cluster();
    let mut a = cluster.start_with("a", "a", &TOKENS);
    let (mut process, listen) = cluster.uplink("u", &format!("a=127.0.0.1:{}", cluster.port("a")));
    ready(&process);
    let name = unique("up");
    // The node's own words, for a wrong token and for none.
    for (query, play) in [("?token=wrong", false), ("", false), ("?token=secret", true)] {
        let told = refusal(listen, &format!("{name}{query}"), play);
        assert!(told.contains("not allowed: give the token"), "{query}: {told}");
    }
    let encoder = ffmpeg::push_source(
        &format!("rtmp://{listen}/live/{name}?token=secret"),
        Source { b_frames: 2, ..Source::default() },
    );
    flows(&a, &name);
    for url in [format!("{}?token=see", a.flv_url(&name)), format!("{}?token=see", a.rtmp_url(&name))] {
        let probe = ffmpeg::probe(&url, 4);
        let video = ffmpeg::stream(&probe, "video").expect("a picture");
        assert_eq!((&video["codec_name"], &video["width"]), (&"h264".into(), &640.into()), "{probe:#}");
        assert_eq!(ffmpeg::stream(&probe, "audio").expect("sound")["codec_name"], "aac");
    }
    // The name is taken now, at the node as here.
    let told = refusal(a.rtmp, &format!("{name}?token=secret"), false);
    assert!(told.contains("already has a publisher"), "{told}");
    // What is published at the node is played here, and its name is taken here.
    let other = unique("down");
    let _publisher = ffmpeg::push_clip(&format!("{}?token=secret", a.rtmp_url(&other)));
    until("the node has it", ARRIVES, || {
        let streams = http::get(&a.url("/api/v1/streams/?token=see")).json();
        streams["streams"]
            .as_array()?
            .iter()
            .any(|it| it["name"] == *other && it["publish"]["active"] == true)
            .then_some(())
    });
    let told = refusal(listen, &format!("{other}?token=secret"), false);
    assert!(told.contains("already has a publisher"), "{told}");
    let probe = ffmpeg::probe(&format!("rtmp://{listen}/live/{other}?token=see"), 4);
    assert!(
        ffmpeg::stream(&probe, "video").is_some() && ffmpeg::stream(&probe, "audio").is_some(),
        "{probe:#}"
    );
    drop(encoder);
    a.assert_well();
    assert!(process.stop(Duration::from_secs(15)).is_some_and(|it| it.success()), "{}", process.output());
}

#[test]
fn an_encoder_stays_while_the_link_is_gone_and_its_stream_comes_back() {
    need!(Ffmpeg);
    let cluster = cluster();
    let (mut a, wire, process, listen) = by_wire(&cluster);
    let name = unique("broken");
    let mut encoder =
        ffmpeg::push_source(&format!("rtmp://{listen}/live/{name}?token=secret"), Source::default());
    flows(&a, &name);
    wire.is(false);
    until("both notice", ARRIVES, || {
        let ends = |log: &str| log.contains("relay link ends");
        (ends(&a.log()) && ends(&process.output())).then_some(())
    });
    // An attempt to dial in vain: some seconds. Meanwhile others are told why.
    until("dialling is in vain", ARRIVES, || {
        process.output().contains("nothing answers there").then_some(())
    });
    let told = refusal(listen, &format!("{}?token=secret", unique("while")), false);
    assert!(told.contains("nothing answers there"), "{told}");
    assert_eq!(encoder.ended(), None);
    wire.is(true);
    until("it is back", Duration::from_secs(30), || {
        process.output().contains("the link to the node is back").then_some(())
    });
    flows(&a, &name);
    assert_eq!(encoder.ended(), None, "{}", encoder.output());
    a.assert_well();
}

#[test]
fn a_way_that_stops_for_a_moment_keeps_the_link() {
    need!(Ffmpeg);
    let cluster = cluster();
    let (mut a, wire, process, listen) = by_wire(&cluster);
    let name = unique("moment");
    let _encoder =
        ffmpeg::push_source(&format!("rtmp://{listen}/live/{name}?token=secret"), Source::default());
    flows(&a, &name);
    let mut viewer = Client::connect(a.rtmp, "live").expect("a viewer connects");
    viewer.play(&format!("{name}?token=see")).expect("a viewer plays");
    let mut seen = viewer.collect(Duration::from_secs(1));
    wire.is(false);
    seen.extend(viewer.collect(Duration::from_millis(700)));
    wire.is(true);
    seen.extend(viewer.collect(Duration::from_secs(4)));
    for log in [a.log(), process.output()] {
        assert!(!log.contains("relay link ends"), "{log}");
    }
    seen.retain(|it| it.tag.kind == flv::VIDEO && !it.tag.is_header());
    let gap = seen.windows(2).map(|two| two[1].at - two[0].at).max().expect("pictures");
    println!("no picture for {gap:?}");
    assert!(gap > Duration::from_millis(600), "nothing was stopped: {gap:?}");
    assert!(gap < Duration::from_secs(2), "no picture for {gap:?}");
    a.assert_well();
}

#[test]
fn certificates_that_do_not_fit_are_told_with_what_to_do() {
    let cluster = cluster();
    let _a = cluster.start_with("a", "a", &TOKENS);
    cluster.authority("other");
    cluster.certify("other", "u", "stranger");
    cluster.certify("ca", "unknown", "unknown");
    let to = format!("a=127.0.0.1:{}", cluster.port("a"));
    for (folder, to, words) in [
        ("stranger", to.clone(), vec!["is not one of the authority in", "ca.pem"]),
        ("unknown", to.clone(), vec!["refuses", "\"unknown\" is in its `cluster.uplinks`"]),
        ("u", to.replace("a=", "b="), vec!["is not \"b\"", "cluster.node"]),
        ("u", "a".into(), vec!["--to is ID=HOST:PORT"]),
        ("nowhere", to, vec!["nowhere/node.pem", "millrace cert node"]),
    ] {
        let (mut process, _) = cluster.uplink(folder, &to);
        let status = process.wait(ARRIVES);
        let told = process.output();
        assert!(status.is_some_and(|it| !it.success()), "{folder}: {status:?} {told}");
        for word in words {
            assert!(told.contains(word), "{folder}: no {word:?} in {told}");
        }
    }
}
