//! The tree of one stream at 1,000 nodes with 100 viewers each, in ten regions, and what killing 1 % of the nodes costs.
//!
//! Not a mesh: a node has links to the four gateways of its region and its four nearest neighbours. Gateways have links to each other, and to two of each other region.
//! So a stream goes from its node over a gateway of its region and one of the viewer's to everywhere in three links.

use crate::chance::Chance;
use crate::percentile;
use crate::world::World;

const REGIONS: usize = 10;
const REGION: usize = 100;
const GATEWAYS: usize = 4;
const NODES: usize = REGIONS * REGION;
const VIEWERS: usize = 100;
/// Of the stream: 4 Mbit/s.
const BYTES_A_SECOND: usize = 500_000;

fn pairs() -> Vec<[usize; 2]> {
    let mut pairs = Vec::new();
    for first in (0..NODES).step_by(REGION) {
        for a in 0..REGION {
            pairs.extend((0..GATEWAYS.min(a)).map(|gateway| [first + gateway, first + a]));
            // Along a line: two on either side.
            pairs.extend(
                (a + 1..(a + 3).min(REGION)).filter(|_| a >= GATEWAYS).map(|b| [first + a, first + b]),
            );
        }
        for other in (first + REGION..NODES).step_by(REGION) {
            for gateway in 0..GATEWAYS {
                pairs.push([first + gateway, other + gateway]);
                pairs.push([first + gateway, other + (gateway + 1) % GATEWAYS]);
            }
        }
    }
    pairs
}

#[test]
fn a_thousand_nodes_are_a_tree_and_survive_the_loss_of_ten() {
    let pairs = pairs();
    let mut world = World::joined(Chance::new(1), NODES, 1, &pairs);
    world.is_looked_at = false;
    for (edge, [a, b]) in world.edges.iter_mut().zip(&pairs) {
        let (a_region, b_region) = (a / REGION, b / REGION);
        // Regions stand on a line, 10 ms and more apart; nodes of one are 1 to 8 ms from each other.
        let near_us = 1_000 + (edge.delay_us % 7_000);
        edge.delay_us =
            if a_region == b_region { near_us } else { 10_000 + 7_000 * a_region.abs_diff(b_region) as i64 };
    }
    let origin = 4 * REGION + 50;
    (0..NODES).for_each(|node| world.watch(node, 0, true));
    world.run(2_000_000);
    let said = world.said();
    world.publish(origin, 0);
    world.run(20_000_000);
    assert_eq!(world.unserved(), Vec::<String>::new());
    let announcements = world.said() - said;

    let parents: Vec<Option<usize>> = (0..NODES).map(|node| world.taken_from(node, 0)).collect();
    assert!(parents.iter().enumerate().all(|(node, parent)| parent.is_some() != (node == origin)));
    let mut fan: Vec<i64> = vec![0; NODES];
    parents.iter().flatten().for_each(|parent| fan[*parent] += 1);
    let depth = |node: usize| std::iter::successors(Some(node), |at| parents[*at]).count() - 1;
    let depths: Vec<usize> = (0..NODES).map(depth).collect();
    let deep: Vec<usize> =
        (1..=3).map(|hops| depths.iter().filter(|depth| **depth == hops).count()).collect();
    let crosses =
        |(node, parent): (usize, &Option<usize>)| parent.is_some_and(|it| it / REGION != node / REGION);
    let between = parents.iter().enumerate().filter(|it| crosses(*it)).count();
    let of_origin = fan[origin];
    let busiest = (0..NODES).filter(|node| *node != origin).max_by_key(|node| fan[*node]).unwrap();
    fan.retain(|children| *children > 0);
    fan.sort_unstable();
    let copies: Vec<usize> = world.nodes.iter().map(|node| node.streams[0].sends.len()).collect();
    assert_eq!(copies.iter().sum::<usize>(), NODES - 1, "a copy for each node, on a link of its own");

    println!("| what | value |\n| --- | --- |");
    println!("| nodes, viewers, links | {NODES}, {}, {} |", NODES * VIEWERS, pairs.len());
    println!(
        "| nodes that pass it on; children of one, p95 and max | {}; {}, {} |",
        fan.len(),
        percentile(&fan, 95),
        percentile(&fan, 100)
    );
    println!("| nodes at 1, 2, 3 links | {}, {}, {} |", deep[0], deep[1], deep[2]);
    println!(
        "| links used, of them between regions, of the origin | {}, {between}, {of_origin} |",
        NODES - 1
    );
    println!(
        "| bytes/s on a used link, out of the origin | {BYTES_A_SECOND}, {} |",
        BYTES_A_SECOND * of_origin as usize
    );
    println!("| announcements and ends for it to be everywhere | {announcements} |");
    assert!(depths.iter().all(|depth| *depth <= 3) && percentile(&fan, 100) <= 100 && of_origin <= 10);

    world.packet_us = 20_000;
    world.run(1_000_000);
    // Nine by chance, and the one that most depend on.
    let mut killed = vec![busiest];
    while killed.len() < NODES / 100 {
        let node = world.chance.below(NODES);
        if node != origin && !killed.contains(&node) {
            killed.push(node);
        }
    }
    let hit: Vec<usize> = (0..NODES)
        .filter(|node| !killed.contains(node))
        .filter(|node| std::iter::successors(Some(*node), |at| parents[*at]).any(|at| killed.contains(&at)))
        .collect();
    world.nodes.iter_mut().for_each(|node| node.streams[0].gap_us = 0);
    killed.iter().for_each(|node| world.die(*node));
    world.run(5_000_000);
    assert_eq!(world.unserved(), Vec::<String>::new());
    let mut gaps: Vec<i64> = hit.iter().map(|node| world.nodes[*node].streams[0].gap_us / 1_000).collect();
    gaps.sort_unstable();
    let [p50, p95, max] = [50, 95, 100].map(|percent| percentile(&gaps, percent));
    println!("| killed; nodes behind them | {}; {} |", killed.len(), hit.len());
    println!("| their gap, p50, p95, max | {p50}, {p95}, {max} ms |");
    assert!(p95 <= 1_000 && hit.len() > 10);
    assert_eq!(world.broken(), Vec::<String>::new());
}
