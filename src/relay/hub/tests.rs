use super::scene::{Scene, id};
use super::*;

#[tokio::test]
async fn an_uplink_may_be_silent_for_longer() {
    let mut scene = Scene::new().await;
    let (uplink, node) = (scene.a, scene.b);
    scene.hub.links.get_mut(&uplink).expect("it is up").is_uplink = true;
    for (silent_us, gone, left) in [(400_000, node, Some(uplink)), (1_600_000, uplink, None)] {
        // What QUIC itself still says is no silence.
        for _ in 0..1_000 {
            let now = scene.hub.now();
            for link in scene.hub.links.values_mut() {
                link.holds = 1;
                let came = link.up.connection.stats().udp_rx.datagrams;
                link.heard = (came, now.plus_us(-silent_us));
            }
            scene.hub.looked = now;
            scene.hub.look(now);
            if !scene.hub.links.contains_key(&gone) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let links: Vec<usize> = scene.hub.links.keys().copied().collect();
        assert_eq!(links, Vec::from_iter(left), "{silent_us} us");
    }
}

#[tokio::test]
async fn a_link_that_comes_up_while_the_node_stops_is_told() {
    let mut scene = Scene::new().await;
    let connection = scene.hub.links[&scene.a].up.connection.clone();
    let drains = |said: &mut mpsc::Receiver<Message>| {
        let mut all = std::iter::from_fn(|| said.try_recv().ok());
        all.any(|message| matches!(message, Message::Drain { .. }))
    };
    for is_draining in [false, true] {
        scene.hub.node.draining.send_replace(is_draining);
        let (control, mut said) = mpsc::channel(64);
        let up = Up { peer: id("late"), connection: connection.clone(), window: Default::default(), control };
        scene.hub.up(up);
        assert_eq!(drains(&mut said), is_draining);
    }
}
