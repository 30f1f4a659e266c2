//! A viewer that takes nothing costs a bounded amount, and nobody else notices.
use std::time::Duration;
use support::flv::{Tag, VIDEO};
use support::rtmp::{Client, Publisher};
use support::{Node, flv, unique};

/// The clip with its pictures blown up to some 20 Mbit/s (a message for nobody, a unit of type 6, after each), so that the kernel's
/// buffers do not hide a viewer that does not read. Filler would be taken out.
fn heavy_clip() -> Vec<Tag> {
    let mut tags = flv::clip().tags;
    for tag in tags.iter_mut().filter(|tag| tag.kind == VIDEO && !tag.is_header()) {
        let message = 80_000_u32;
        tag.body.extend_from_slice(&message.to_be_bytes());
        tag.body.push(6);
        tag.body.resize(tag.body.len() + message as usize - 1, 0xff);
    }
    tags
}

#[test]
fn a_viewer_that_reads_nothing_is_bounded_and_others_are_unhurt() {
    let mut node = Node::start_with(&[
        ("stream.viewer_queue_bytes_max", "4194304"),
        ("stream.gop_bytes_max", "8388608"),
    ]);
    let name = unique("slow");
    let _publisher = Publisher::start_tags(node.rtmp, &name, heavy_clip());
    node.wait_live(&name);
    std::thread::sleep(Duration::from_secs(2));
    let before = node.process.memory();
    let stuck: Vec<_> = (0..5)
        .map(|_| {
            // plays, and its socket is never read: the client's own reader thread stops at the first message
            let viewer = support::rtmp::handshake(node.rtmp).expect("a viewer connects");
            StuckViewer::play(viewer, &name)
        })
        .collect();
    let mut good = Client::connect(node.rtmp, "live").expect("a good viewer connects");
    good.play(&name).expect("a good viewer plays");
    let seen = good.collect(Duration::from_secs(8));
    let after = node.process.memory();

    let pictures: Vec<_> = seen.iter().filter(|it| it.tag.kind == VIDEO && !it.tag.is_header()).collect();
    let bytes: usize = pictures.iter().map(|it| it.tag.body.len()).sum();
    assert!(bytes > 220 * 80_000, "a viewer gets all of it: {bytes} bytes");
    assert!(pictures.len() > 220, "the good viewer got {} pictures in 8 s", pictures.len());
    let gap = pictures.windows(2).map(|it| it[1].at - it[0].at).max().expect("pictures");
    assert!(gap < Duration::from_millis(700), "the good viewer had a gap of {gap:?}");
    let grown = after.saturating_sub(before) >> 20;
    // without a bound it is 5 viewers x 8 s x 2.4 MB/s = 96 MB
    assert!(grown < 60, "five stuck viewers made the node grow by {grown} MiB");
    drop(stuck);
    node.assert_well();
}

/// The node lets it go before the kernel would (20 s).
#[test]
fn an_flv_viewer_that_reads_nothing_is_let_go() {
    use std::io::Write;
    let mut node = Node::start();
    let name = unique("stuck");
    let _publisher = Publisher::start_tags(node.rtmp, &name, heavy_clip());
    node.wait_live(&name);
    let mut stuck = std::net::TcpStream::connect(node.http).expect("a viewer connects");
    let request = format!("GET /live/{name}.flv HTTP/1.1\r\nHost: {}\r\n\r\n", node.http);
    stuck.write_all(request.as_bytes()).expect("a request fits the socket");
    let viewers = |count: u64| {
        let stream = node.stream(&name)?;
        (stream["viewers"]["flv"] == count).then_some(())
    };
    support::until("it watches", Duration::from_secs(5), || viewers(1));
    // 10 s after the kernel's buffers are full, which takes some 4 s
    support::until("it is let go", Duration::from_secs(18), || viewers(0));
    drop(stuck);
    node.assert_well();
}

/// A raw connection that has asked to play and reads nothing more.
struct StuckViewer(#[allow(dead_code, reason = "held open")] std::net::TcpStream);

impl StuckViewer {
    fn play(mut stream: std::net::TcpStream, name: &str) -> StuckViewer {
        use serde_json::json;
        use std::io::Write;
        let command = |stream_id: u8, values: &[serde_json::Value]| {
            let body = support::rtmp::amf_encode(values);
            let [_, a, b, c] = (body.len() as u32).to_be_bytes();
            let mut out = vec![3, 0, 0, 0, a, b, c, 20, stream_id, 0, 0, 0];
            for (at, piece) in body.chunks(128).enumerate() {
                if at > 0 {
                    out.push(0xc3);
                }
                out.extend_from_slice(piece);
            }
            out
        };
        let all = [
            command(
                0,
                &[json!("connect"), json!(1.0), json!({"app": "live", "tcUrl": "rtmp://127.0.0.1/live"})],
            ),
            command(0, &[json!("createStream"), json!(2.0), json!(null)]),
            command(1, &[json!("play"), json!(3.0), json!(null), json!(name)]),
        ];
        stream.write_all(&all.concat()).expect("commands fit the socket");
        StuckViewer(stream)
    }
}
