//! A session's figures in the API, and their totals in /metrics.
use serde_json::Value;
use std::time::Duration;
use support::peer::Peer;
use support::sdp::Way;
use support::{Node, unique, until};

fn rtc(node: &Node, publishes: bool) -> Value {
    let all = node.api("/api/v1/clients/");
    let all = all["clients"].as_array().expect("a list");
    let id = all.iter().find(|it| it["publish"] == publishes).expect("it is listed")["id"].clone();
    node.api(&format!("/api/v1/clients/{}", id.as_str().expect("an id")))["client"]["rtc"].clone()
}

#[test]
fn a_viewers_figures_say_what_became_of_its_nacks() {
    let mut node = Node::start();
    let name = unique("figures");
    let mut publisher = Peer::connect(&node.whip_url(&name), Way::Send);
    let mut viewer = Peer::connect(&node.whep_url(&name), Way::Receive);
    for _ in 0..20 {
        let packet = publisher.sound(b"\xfcsound");
        publisher.send(&packet);
        publisher.run(Duration::from_millis(5));
        viewer.run(Duration::from_millis(5));
    }
    until("sound came", Duration::from_secs(5), || {
        viewer.run(Duration::from_millis(10));
        (viewer.rtp.len() == 20).then_some(())
    });
    let newest = viewer.rtp.last().expect("a packet").clone();
    let number = |packet: &[u8]| u16::from_be_bytes([packet[2], packet[3]]);
    // the newest, and one that was not sent
    for seq in [number(&newest), number(&newest).wrapping_add(500)] {
        let mut nack = vec![0x81, 205, 0, 3, 0, 0, 0, 1];
        nack.extend(&newest[8..12]);
        nack.extend([seq.to_be_bytes(), [0, 0]].concat());
        let sealed = viewer.control(&nack);
        viewer.send(&sealed);
    }
    let figures = until("both were heard", Duration::from_secs(5), || {
        viewer.run(Duration::from_millis(10));
        Some(rtc(&node, false)).filter(|it| it["nacks_in"] == 2)
    });
    assert_eq!(
        (&figures["resent"], &figures["nacks_refused"], &figures["nacks_missed"]),
        (&1.into(), &1.into(), &0.into())
    );
    assert_eq!(figures["resent_bytes"], newest.len(), "{figures:#}");
    assert_eq!(node.metric("millrace_retransmitted_bytes_total"), newest.len() as f64);
    assert!(figures["connected_s"].as_f64().is_some_and(|it| (0.0..60.0).contains(&it)), "{figures:#}");
    // it has sent no report, so nobody knows
    assert_eq!(figures["rtt_ms"], Value::Null, "{figures:#}");
    assert_eq!(
        (&figures["freezes"], &figures["freeze_ms"], &figures["lost"]),
        (&0.into(), &0.into(), &0.into())
    );
    node.assert_well();
}
