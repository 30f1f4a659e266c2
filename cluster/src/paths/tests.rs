use super::*;

const FAST: Figures = Figures { rtt_us: 20_000, queue_us: 0, packets: 0, lost: 0, reordered: 0, late_us: 0 };
const SLOW: Figures = Figures { rtt_us: 100_000, ..FAST };

fn node(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

fn name() -> StreamName {
    StreamName::parse("live/a").unwrap()
}

fn offer(generation: u64, path: &str, cost_us: u64) -> Offer<u8> {
    Offer { generation, path: path.split(' ').map(node).collect(), cost_us, about: 0 }
}

/// Node `me`, joined with `a` by link 1, `b` by link 2 and so on.
fn joined(peers: &str) -> Paths<u8> {
    let mut paths = Paths::new(node("me"));
    for (link, peer) in (1..).zip(peers.split(' ')) {
        paths.link_up(LinkId(link), node(peer));
        paths.link_figures(LinkId(link), FAST);
    }
    paths
}

fn drain(paths: &mut Paths<u8>, at_s: i64) -> Vec<Action<u8>> {
    std::iter::from_fn(|| paths.poll(Time::from_ms(at_s * 1_000))).collect()
}

/// In words, so that a test reads like what happens.
fn words(actions: Vec<Action<u8>>) -> Vec<String> {
    let link = |link: LinkId| link.0;
    let word = |action: Action<u8>| match action {
        Action::Announce { link: to, offer, .. } => {
            let path: Vec<&str> = offer.path.iter().map(NodeId::as_str).collect();
            format!("announce {} {}@{}", link(to), path.join(" "), offer.generation)
        }
        Action::End { link: to, generation, .. } => format!("end {} @{generation}", link(to)),
        Action::Take { link: by, generation, .. } => format!("take {}@{generation}", link(by)),
        Action::Switch { from, to, generation, make_before_break, why, .. } => {
            let from = from.map_or("-".into(), |from| from.0.to_string());
            let how = if make_before_break { " softly" } else { "" };
            format!("switch {from} {}@{generation}{how} {why:?}", link(to))
        }
        Action::Leave { link: by, .. } => format!("leave {}", link(by)),
        Action::Lost { .. } => "lost".into(),
        Action::Need { link: by, need, .. } => format!("need {} {need:?}", link(by)),
        Action::Hold { link: by, .. } => format!("hold {}", link(by)),
        Action::Unhold { link: by, .. } => format!("unhold {}", link(by)),
        Action::Fenced { generation, .. } => format!("fenced {generation}"),
    };
    actions.into_iter().map(word).collect()
}

#[track_caller]
fn does(paths: &mut Paths<u8>, at_s: i64, expected: &[&str]) {
    assert_eq!(words(drain(paths, at_s)), expected);
}

#[test]
fn what_a_peer_offers_goes_on_to_those_that_are_not_on_the_way() {
    let mut paths = joined("a b c");
    paths.offered(LinkId(1), &name(), offer(7, "b a", 10_000));
    does(&mut paths, 0, &["announce 3 b a me@7"]);
    paths.ended(LinkId(1), &name(), 7);
    does(&mut paths, 0, &["end 3 @7"]);
    assert!(paths.best(&name()).is_none());
}

#[test]
fn who_comes_later_is_told_what_there_is() {
    let mut paths = joined("a");
    paths.published(&name(), 3, 0);
    does(&mut paths, 0, &["announce 1 me@3"]);
    paths.link_up(LinkId(9), node("z"));
    does(&mut paths, 0, &["announce 9 me@3"]);
    paths.left(&name());
    does(&mut paths, 0, &["end 1 @3", "end 9 @3"]);
}

#[test]
fn a_way_of_three_links_goes_no_further() {
    let mut paths = joined("a b");
    paths.offered(LinkId(1), &name(), offer(1, "x y a", 0));
    does(&mut paths, 0, &[]);
    paths.wanted(&name(), Some(Need::Watched));
    does(&mut paths, 0, &["take 1@1"]);
    paths.offered(LinkId(1), &name(), offer(1, "x w y a", 0));
    does(&mut paths, 0, &["lost"]);
    assert_eq!(paths.refused(), Refused { long: 1, ..Refused::default() });
}

#[test]
fn a_way_through_here_or_that_does_not_end_with_the_peer_is_none() {
    let mut paths = joined("a b");
    paths.offered(LinkId(1), &name(), offer(1, "me a", 0));
    paths.offered(LinkId(1), &name(), offer(1, "x b", 0));
    paths.offered(LinkId(1), &name(), Offer { path: vec![], ..offer(1, "x", 0) });
    does(&mut paths, 0, &[]);
    assert!(paths.best(&name()).is_none());
    assert_eq!(paths.refused(), Refused { looped: 1, crooked: 2, ..Refused::default() });
    // It is instead of what was offered before, all the same.
    paths.offered(LinkId(1), &name(), offer(2, "o a", 0));
    assert!(paths.best(&name()).is_some());
    paths.offered(LinkId(1), &name(), offer(2, "o me a", 0));
    assert!(paths.best(&name()).is_none());
}

#[test]
fn it_is_taken_while_it_is_wanted() {
    let mut paths = joined("a b");
    paths.wanted(&name(), Some(Need::Watched));
    does(&mut paths, 0, &[]);
    paths.offered(LinkId(1), &name(), offer(5, "a", 0));
    does(&mut paths, 0, &["announce 2 a me@5", "take 1@5"]);
    assert_eq!(paths.parent(&name()), Some(LinkId(1)));
    paths.ended(LinkId(1), &name(), 4);
    does(&mut paths, 0, &[]);
    paths.ended(LinkId(1), &name(), 5);
    does(&mut paths, 0, &["end 2 @5", "lost"]);
    paths.offered(LinkId(1), &name(), offer(6, "a", 0));
    does(&mut paths, 0, &["announce 2 a me@6", "take 1@6"]);
    paths.wanted(&name(), None);
    does(&mut paths, 0, &["leave 1"]);
}

#[test]
fn what_ended_and_began_again_is_taken_again() {
    let mut paths = joined("a b");
    paths.wanted(&name(), Some(Need::Watched));
    paths.offered(LinkId(1), &name(), offer(5, "a", 0));
    does(&mut paths, 0, &["announce 2 a me@5", "take 1@5"]);
    paths.ended(LinkId(1), &name(), 5);
    paths.offered(LinkId(1), &name(), offer(5, "a", 0));
    // The peer sends nothing of it any more.
    does(&mut paths, 0, &["switch 1 1@5 Gone"]);
    does(&mut paths, 20, &[]);
}

#[test]
fn a_newer_generation_replaces_and_an_older_one_is_refused() {
    let mut paths = joined("a b");
    paths.wanted(&name(), Some(Need::Watched));
    paths.offered(LinkId(1), &name(), offer(5, "a", 0));
    does(&mut paths, 0, &["announce 2 a me@5", "take 1@5"]);
    paths.offered(LinkId(2), &name(), offer(6, "b", 90_000));
    does(&mut paths, 0, &["announce 1 b me@6", "end 2 @5", "switch 1 2@6 Newer"]);
    paths.offered(LinkId(1), &name(), offer(5, "a", 0));
    paths.ended(LinkId(2), &name(), 6);
    does(&mut paths, 0, &["end 1 @6", "lost"]);
    // Even now that there is nothing newer any more.
    paths.offered(LinkId(1), &name(), offer(5, "a", 0));
    does(&mut paths, 0, &[]);
    assert_eq!((paths.refused().older, paths.newest(&name())), (2, Some(6)));
}

#[test]
fn of_equal_generations_the_origin_decides() {
    let mut paths = joined("a b");
    paths.wanted(&name(), Some(Need::Watched));
    paths.offered(LinkId(2), &name(), offer(5, "b", 50_000));
    paths.offered(LinkId(1), &name(), offer(5, "a", 0));
    does(&mut paths, 0, &["announce 1 b me@5", "take 2@5"]);
}

#[test]
fn who_publishes_fences_and_is_fenced() {
    let mut paths = joined("a b");
    paths.wanted(&name(), Some(Need::Watched));
    paths.offered(LinkId(1), &name(), offer(5, "a", 0));
    does(&mut paths, 0, &["announce 2 a me@5", "take 1@5"]);
    paths.published(&name(), 6, 0);
    does(&mut paths, 0, &["announce 1 me@6", "announce 2 me@6", "leave 1"]);
    paths.published(&name(), 6, 9);
    assert_eq!(drain(&mut paths, 0).len(), 2, "what is said of it is new");
    paths.offered(LinkId(1), &name(), offer(5, "a", 0));
    does(&mut paths, 0, &[]);
    paths.offered(LinkId(1), &name(), offer(7, "a", 0));
    does(&mut paths, 0, &["fenced 6", "end 1 @6", "end 2 @6", "take 1@7"]);
    paths.published(&name(), 6, 0);
    does(&mut paths, 0, &["fenced 6"]);
}

/// While who watches here watches the older one, nobody is told that the newer can be had from here.
#[test]
fn the_newer_stream_goes_on_from_here_when_the_older_publisher_has_left() {
    let mut paths = joined("a b");
    paths.published(&name(), 6, 0);
    does(&mut paths, 0, &["announce 1 me@6", "announce 2 me@6"]);
    assert!(paths.gives(LinkId(2), &name(), 6, Need::Watched));
    paths.offered(LinkId(1), &name(), offer(7, "a", 0));
    does(&mut paths, 0, &["fenced 6", "end 1 @6", "end 2 @6"]);
    assert!(!paths.gives(LinkId(2), &name(), 7, Need::Watched));
    does(&mut paths, 0, &[]);
    paths.left(&name());
    does(&mut paths, 0, &["announce 2 a me@7"]);
    assert!(paths.gives(LinkId(2), &name(), 7, Need::Watched));
    does(&mut paths, 0, &["take 1@7"]);
}

#[test]
fn a_link_that_goes_down_is_replaced_by_the_one_that_stands_by() {
    let mut paths = joined("a b c");
    paths.wanted(&name(), Some(Need::Watched));
    paths.offered(LinkId(1), &name(), offer(1, "o a", 0));
    paths.offered(LinkId(2), &name(), offer(1, "o a b", 1_000));
    paths.offered(LinkId(3), &name(), offer(1, "o c", 50_000));
    does(&mut paths, 0, &["announce 2 o a me@1", "announce 3 o a me@1", "take 1@1", "hold 3"]);
    assert_eq!(paths.standby(&name()), Some(LinkId(3)));
    paths.link_down(LinkId(1));
    // b is cheaper, but through a.
    does(&mut paths, 0, &["announce 2 o c me@1", "end 3 @1", "switch - 3@1 Gone"]);
    // If a were gone, b would have said so by now.
    does(&mut paths, 1, &["hold 2"]);
    paths.ended(LinkId(3), &name(), 1);
    does(&mut paths, 1, &["end 2 @1", "switch 3 2@1 Gone"]);
    paths.link_down(LinkId(2));
    does(&mut paths, 1, &["lost"]);
}

#[test]
fn who_holds_a_stream_keeps_it_coming_and_has_nobody_hold_it() {
    let mut paths = joined("a b c d");
    paths.offered(LinkId(1), &name(), offer(1, "o a", 0));
    paths.offered(LinkId(2), &name(), offer(1, "o b", 1_000));
    drain(&mut paths, 0);
    assert!(paths.gives(LinkId(3), &name(), 1, Need::Held));
    does(&mut paths, 0, &["take 1@1"]);
    assert_eq!((paths.need(&name()), paths.standby(&name())), (Need::Spare, None));
    // Nor does who gives it to one that holds it.
    assert!(paths.gives(LinkId(4), &name(), 1, Need::Spare));
    does(&mut paths, 0, &[]);
    assert!(paths.gives(LinkId(4), &name(), 1, Need::Watched));
    does(&mut paths, 0, &["need 1 Watched", "hold 2"]);
    paths.gives_no_more(LinkId(4), &name());
    does(&mut paths, 0, &["need 1 Spare", "unhold 2"]);
    paths.wanted(&name(), Some(Need::Watched));
    does(&mut paths, 0, &["need 1 Watched", "hold 2"]);
    paths.wanted(&name(), Some(Need::Spare));
    does(&mut paths, 0, &["need 1 Spare", "unhold 2"]);
    paths.wanted(&name(), None);
    does(&mut paths, 0, &[]);
    paths.gives_no_more(LinkId(3), &name());
    does(&mut paths, 0, &["leave 1"]);
}

#[test]
fn two_may_hold_it_for_each_other() {
    // b takes it by a, and holds it here; the way through b is a standby all the same, for b said the truth of it.
    let mut paths = joined("a b");
    paths.wanted(&name(), Some(Need::Watched));
    paths.offered(LinkId(1), &name(), offer(1, "o a", 0));
    paths.offered(LinkId(2), &name(), offer(1, "o b", 0));
    does(&mut paths, 0, &["announce 2 o a me@1", "take 1@1", "hold 2"]);
    assert!(paths.gives(LinkId(2), &name(), 1, Need::Held));
    does(&mut paths, 0, &[]);
    assert_eq!(paths.standby(&name()), Some(LinkId(2)));
    // What was held there goes by that link from now on, and what b held here is over.
    paths.link_down(LinkId(1));
    does(&mut paths, 0, &["end 2 @1", "switch - 2@1 Gone"]);
    assert!(!paths.gives(LinkId(2), &name(), 1, Need::Watched));
    // Nobody watches: neither keeps it coming for the other.
    let mut paths = joined("a b");
    paths.offered(LinkId(1), &name(), offer(1, "o a", 0));
    paths.offered(LinkId(2), &name(), offer(1, "o b", 0));
    drain(&mut paths, 0);
    assert!(paths.gives(LinkId(2), &name(), 1, Need::Held));
    does(&mut paths, 0, &["take 1@1"]);
}

#[test]
fn who_stops_is_left_softly_and_so_is_a_way_through_it() {
    let mut paths = joined("a b c");
    paths.wanted(&name(), Some(Need::Watched));
    paths.offered(LinkId(1), &name(), offer(1, "a", 0));
    paths.offered(LinkId(2), &name(), offer(1, "a b", 10_000));
    paths.offered(LinkId(3), &name(), offer(1, "a c", 10_000));
    drain(&mut paths, 0);
    paths.link_drains(LinkId(1));
    // No way but through a: it stays.
    does(&mut paths, 0, &[]);
    let mut paths = joined("a b c");
    paths.wanted(&name(), Some(Need::Watched));
    paths.offered(LinkId(1), &name(), offer(1, "o a", 0));
    paths.offered(LinkId(2), &name(), offer(1, "o a b", 10_000));
    paths.offered(LinkId(3), &name(), offer(1, "o x c", 90_000));
    drain(&mut paths, 0);
    paths.link_drains(LinkId(1));
    does(&mut paths, 0, &["end 2 @1", "end 3 @1", "switch 1 3@1 softly Drains"]);
    assert_eq!(paths.standby(&name()), None, "all else stops");
}

#[test]
fn a_cheaper_way_is_taken_after_ten_seconds() {
    let mut paths = joined("a b");
    paths.wanted(&name(), Some(Need::Watched));
    paths.offered(LinkId(1), &name(), offer(1, "o a", 50_000));
    drain(&mut paths, 0);
    paths.offered(LinkId(2), &name(), offer(1, "o b", 40_000));
    does(&mut paths, 0, &["hold 2"]);
    assert_eq!(paths.deadline(), None, "a fifth is not a sixth");
    paths.offered(LinkId(2), &name(), offer(1, "o b", 30_000));
    does(&mut paths, 1, &[]);
    assert_eq!(paths.deadline(), Some(Time::from_ms(11_000)));
    does(&mut paths, 10, &[]);
    // A moment in which it is not starts it anew.
    paths.offered(LinkId(2), &name(), offer(1, "o b", 45_000));
    does(&mut paths, 10, &[]);
    assert_eq!(paths.deadline(), None);
    paths.offered(LinkId(2), &name(), offer(1, "o b", 30_000));
    does(&mut paths, 11, &[]);
    let switch = ["announce 1 o b me@1", "end 2 @1", "switch 1 2@1 softly Cheaper", "hold 1"];
    does(&mut paths, 21, &switch);
    assert_eq!(paths.deadline(), None);
}

#[test]
fn the_shortest_way_is_passed_on_and_the_cheapest_taken_until_a_peer_takes_it() {
    let mut paths = joined("o b c");
    paths.link_figures(LinkId(1), SLOW);
    (0..60).for_each(|_| paths.link_figures(LinkId(1), SLOW));
    paths.wanted(&name(), Some(Need::Watched));
    paths.offered(LinkId(1), &name(), offer(1, "o", 0));
    paths.offered(LinkId(2), &name(), offer(1, "o b", 10_000));
    does(&mut paths, 0, &["announce 2 o me@1", "announce 3 o me@1", "take 2@1", "hold 1"]);
    assert!(!paths.gives(LinkId(3), &name(), 2, Need::Watched), "not what it was told of");
    assert!(!paths.gives(LinkId(1), &name(), 1, Need::Watched), "it is on the way");
    assert!(paths.gives(LinkId(3), &name(), 1, Need::Watched));
    does(&mut paths, 0, &["switch 2 1@1 softly Shorter", "hold 2"]);
    paths.gives_no_more(LinkId(3), &name());
    does(&mut paths, 0, &[]);
    does(&mut paths, 10, &["switch 1 2@1 softly Cheaper", "hold 1"]);
}

#[test]
fn a_peer_that_takes_it_keeps_it_coming_until_it_is_told_that_it_is_over() {
    let mut paths = joined("o c");
    paths.offered(LinkId(1), &name(), offer(1, "o", 0));
    does(&mut paths, 0, &["announce 2 o me@1"]);
    assert!(paths.gives(LinkId(2), &name(), 1, Need::Watched));
    does(&mut paths, 0, &["take 1@1"]);
    // The only way left is through the peer itself.
    paths.offered(LinkId(2), &name(), offer(1, "o c", 0));
    does(&mut paths, 0, &[]);
    paths.link_down(LinkId(1));
    does(&mut paths, 0, &["end 2 @1", "leave 1"]);
    assert!(!paths.gives(LinkId(2), &name(), 1, Need::Watched));
}

#[test]
fn a_cost_is_news_when_it_is_another_by_a_fifth() {
    let mut paths = joined("a b");
    paths.offered(LinkId(1), &name(), offer(1, "a", 100_000));
    assert_eq!(drain(&mut paths, 0).len(), 1);
    paths.offered(LinkId(1), &name(), offer(1, "a", 115_000));
    does(&mut paths, 0, &[]);
    paths.offered(LinkId(1), &name(), offer(1, "a", 140_000));
    does(&mut paths, 0, &["announce 2 a me@1"]);
}

#[test]
fn offers_of_a_peer_and_fences_are_bounded() {
    let mut paths = joined("a");
    let name = |i: usize| StreamName::new("live", &i.to_string()).unwrap();
    for i in 0..OFFERED_MAX + 5 {
        paths.offered(LinkId(1), &name(i), offer(1, "a", 0));
    }
    assert_eq!(paths.refused().full, 5);
    paths.offered(LinkId(1), &name(0), offer(2, "a", 0));
    assert_eq!(paths.newest(&name(0)), Some(2), "one that it offers already");
    drain(&mut paths, 0);
    for i in 0..OFFERED_MAX {
        paths.ended(LinkId(1), &name(i), 2);
    }
    drain(&mut paths, 0);
    for i in 0..10 {
        paths.offered(LinkId(1), &StreamName::new("new", &i.to_string()).unwrap(), offer(1, "me a", 0));
        paths.wanted(&StreamName::new("none", &i.to_string()).unwrap(), Some(Need::Spare));
    }
    drain(&mut paths, 0);
    for i in 0..10 {
        paths.wanted(&StreamName::new("none", &i.to_string()).unwrap(), None);
    }
    drain(&mut paths, 0);
    assert_eq!((paths.streams.len(), paths.gone.len()), (FENCES_MAX, FENCES_MAX));
    assert_eq!((paths.newest(&name(0)), paths.newest(&name(9_999))), (None, Some(1)), "the first to go");
    assert!(paths.due.is_empty() && paths.changed.is_empty());
}

#[test]
fn what_is_watched_is_mended_first() {
    let mut paths = joined("a b");
    let names: Vec<StreamName> = ["live/a", "live/b"].map(|it| StreamName::parse(it).unwrap()).to_vec();
    for name in &names {
        paths.offered(LinkId(1), name, offer(1, "o a", 0));
        paths.offered(LinkId(2), name, offer(1, "o b", 0));
    }
    paths.wanted(&names[1], Some(Need::Watched));
    drain(&mut paths, 0);
    paths.link_down(LinkId(1));
    let first = drain(&mut paths, 0).remove(0);
    assert!(matches!(first, Action::End { stream, .. } if stream == names[1]));
}
