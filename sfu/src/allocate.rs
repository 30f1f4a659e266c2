//! Which encoding of a stream a subscriber gets, and how many of its temporal layers: by what it asked for and what its path carries. It is
//! arithmetic: what is measured goes in, the choice comes out; who switches, and when, is elsewhere.

use media::Time;
use media::payload::TEMPORAL_LAYERS_MAX;

/// Encodings of one stream; what SDP answers.
pub const LAYERS_MAX: usize = rtc::sdp::ENCODINGS_MAX;
/// Up again no sooner after an estimate forced down (mediasoup: 8 to 10 s), or a link at the edge makes pictures flap.
const HOLD_US: i64 = 8_000_000;
/// Up only to what fits with so much to spare, in percent of its rate: the probe of a bit more is then not the next congestion.
const UP_PERCENT: u64 = 110;
/// Up is thought about when the estimate moved by this share, or after this time (Jitsi).
const MOVED_PERCENT: u64 = 15;
const AGAIN_US: i64 = 5_000_000;
/// A picture that nothing else can replace goes on at up to twice the estimate: estimates begin low, and a late picture is more than none.
const OVER_SHARE: u64 = 2;
/// Where there is one encoding, frames are what is given up, and that and its end cost nobody a key frame: it ends sooner, and begins when the
/// estimate is below this share of what is sent, which one step back of an estimator (0.85) from a rate that just fits is not.
const FRAMES_HOLD_US: i64 = 2_000_000;
const FRAMES_KEEP_PERCENT: u64 = 85;
/// Temporal layers that are given up before the picture gets smaller: with one the frame rate halves, with two a large picture moves less well
/// than the next smaller one. Where none is smaller, all above the base are.
const GIVEN_UP_FIRST: u8 = 1;

/// What is measured of one encoding.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Layer {
    /// Bit/s, over the last two seconds.
    pub rate_bps: u64,
    /// Of the last key frame; 0 while unknown.
    pub height: u32,
    /// Packets come, or would (`paused`).
    pub flows: bool,
    /// None come, as nobody takes them and the publisher was told so: it is what it was, and comes when it is chosen.
    pub paused: bool,
    /// They have for two seconds: it may be switched to.
    pub live: bool,
    /// Temporal layers; 0 and 1 are one.
    pub temporal_layers: u8,
    /// Bit/s of the temporal layers up to each.
    pub temporal_bps: [u64; TEMPORAL_LAYERS_MAX],
}

impl Layer {
    /// The uppermost temporal layer.
    pub(crate) fn temporal_top(&self) -> u8 {
        self.temporal_layers.clamp(1, TEMPORAL_LAYERS_MAX as u8) - 1
    }
}

/// All encodings, by index.
pub type Layers = [Layer; LAYERS_MAX];

/// What a subscriber asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LayerRequest {
    /// No encoding better than this one, while it flows.
    pub layer: Option<u8>,
    /// No picture higher than this, where there is one.
    pub height_max: Option<u32>,
    /// No more than this, where there is so little.
    pub rate_bps_max: Option<u64>,
    /// No temporal layer above this one.
    pub temporal_max: Option<u8>,
    /// No picture at all.
    pub paused: bool,
}

/// Why it is the choice.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LayerReason {
    /// The source has one encoding.
    #[default]
    Only,
    /// The best there is.
    Best,
    /// The subscriber asked for no more.
    Request,
    /// The estimate carries no more.
    Estimate,
    /// A better one fits, but not for long yet.
    Hold,
    /// The better ones do not come.
    Starved,
    /// The subscriber wants no picture.
    PausedByRequest,
    /// The estimate carries no picture.
    PausedByEstimate,
}

impl LayerReason {
    const ALL: [LayerReason; 8] = [
        LayerReason::Only,
        LayerReason::Best,
        LayerReason::Request,
        LayerReason::Estimate,
        LayerReason::Hold,
        LayerReason::Starved,
        LayerReason::PausedByRequest,
        LayerReason::PausedByEstimate,
    ];

    /// As the API says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            LayerReason::Only => "only",
            LayerReason::Best => "best",
            LayerReason::Request => "request",
            LayerReason::Estimate => "estimate",
            LayerReason::Hold => "hold",
            LayerReason::Starved => "starved",
            LayerReason::PausedByRequest => "paused_by_request",
            LayerReason::PausedByEstimate => "paused_by_estimate",
        }
    }

    /// From its number in figures.
    pub(crate) fn from_number(number: u8) -> LayerReason {
        LayerReason::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }
}

/// The choice: the encoding, `None` for no picture, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Index of the encoding.
    pub layer: Option<u8>,
    /// The uppermost of its temporal layers; `None` for all.
    pub temporal: Option<u8>,
    /// Why no better one.
    pub reason: LayerReason,
}

/// What a subscriber can get: an encoding, whole or without its upper temporal layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step {
    layer: u8,
    temporal: Option<u8>,
    rate_bps: u64,
}

/// One subscriber's chooser.
#[derive(Clone, Debug)]
pub struct Allocator {
    /// As chosen last.
    layer: Option<u8>,
    temporal: Option<u8>,
    reason: LayerReason,
    request: LayerRequest,
    /// Which layers could be had then.
    usable: [bool; LAYERS_MAX],
    /// The budget and the time when going up was last thought about.
    considered: Option<(u64, Time)>,
    /// When an estimate last forced down.
    forced: Option<Time>,
}

impl Allocator {
    /// For a subscriber that gets `layer` so far.
    pub fn new(layer: Option<u8>) -> Allocator {
        Allocator {
            layer,
            temporal: None,
            reason: LayerReason::Only,
            request: LayerRequest::default(),
            usable: [false; LAYERS_MAX],
            considered: None,
            forced: None,
        }
    }

    /// Chooses. `budget_bps` is for the picture: what the estimate leaves when sound has its part; `u64::MAX` without an estimate.
    pub fn choose(&mut self, now: Time, budget_bps: u64, layers: &Layers, request: &LayerRequest) -> Choice {
        let current = self.layer.filter(|l| layer(layers, *l).flows);
        let any_live = layers.iter().any(|l| l.live);
        // Before the first is live, what flows will do.
        let usable: [bool; LAYERS_MAX] = std::array::from_fn(|i| {
            let l = layers.get(i).copied().unwrap_or_default();
            l.live || (l.flows && (!any_live || current.is_none() || current == Some(i as u8)))
        });
        let changed = usable != self.usable || *request != self.request;
        (self.usable, self.request) = (usable, *request);
        let mut ranked: Vec<u8> =
            (0..LAYERS_MAX as u8).filter(|l| usable.get(usize::from(*l)) == Some(&true)).collect();
        ranked.sort_by_key(|l| (layer(layers, *l).height, layer(layers, *l).rate_bps, *l));
        if request.paused {
            return self.decide(None, LayerReason::PausedByRequest);
        }
        let steps = steps(&ranked, layers, request);
        let Some(&lowest) = steps.first() else {
            // Nothing comes: the picture stands, and goes on with what comes first. Who asked for a pause wants none any more.
            if self.reason == LayerReason::PausedByRequest {
                self.reason = LayerReason::Only;
            }
            return Choice { layer: self.layer, temporal: self.temporal, reason: self.reason };
        };
        let wanted = wanted(&steps, layers, request);
        // There is no smaller picture, ever: it goes on, with fewer frames.
        let alone = is_alone(layers);
        let fits = |step: &Step, percent: u64| {
            u128::from(step.rate_bps) * u128::from(percent) <= u128::from(budget_bps) * 100
        };
        let is_current = |step: &Step| Some(step.layer) == current && step.temporal == self.temporal;
        let (keep, hold_us) = if alone { (FRAMES_KEEP_PERCENT, FRAMES_HOLD_US) } else { (100, HOLD_US) };
        let goes = |step: &Step| fits(step, if is_current(step) { keep } else { 100 });
        let Some(best) = wanted.iter().rposition(goes) else {
            // Back from no picture only when it fits with room to spare.
            let goes_on = alone || (self.layer.is_some() && lowest.rate_bps / OVER_SHARE <= budget_bps);
            if self.layer != Some(lowest.layer) || self.temporal != lowest.temporal || !goes_on {
                self.forced = Some(now);
            }
            return match goes_on {
                true => self.decide(Some(lowest), LayerReason::Estimate),
                false => self.decide(None, LayerReason::PausedByEstimate),
            };
        };
        let at = wanted.iter().position(is_current);
        // Higher than what is wanted now, or not there: no hysteresis keeps it. `None` is below everything.
        let above = current.is_some() && at.is_none();
        let moved = self.considered.is_none_or(|(before, since)| {
            budget_bps.abs_diff(before) as u128 * 100 > before as u128 * u128::from(MOVED_PERCENT)
                || now.since(since) >= AGAIN_US
        });
        let chosen = match at {
            Some(at) if best < at => {
                self.forced = Some(now);
                best
            }
            // A smaller picture may need more than a larger one.
            Some(at) if wanted.get(at).is_some_and(|step| !goes(step)) => best,
            Some(at) if !moved && !changed => at,
            at => {
                let held = self.forced.is_some_and(|forced| now.since(forced) < hold_us);
                if !held {
                    self.considered = Some((budget_bps, now));
                }
                let roomy = wanted.iter().rposition(|step| fits(step, UP_PERCENT));
                match at {
                    Some(at) if held => at,
                    Some(at) => roomy.map_or(at, |roomy| roomy.max(at)),
                    None if above || alone || self.layer.is_some() => best,
                    // From no picture to a picture: held as any step up.
                    None if held => return self.decide(None, LayerReason::PausedByEstimate),
                    None => match roomy {
                        Some(roomy) => roomy,
                        None => return self.decide(None, LayerReason::PausedByEstimate),
                    },
                }
            }
        };
        let reason = match (wanted.get(chosen.saturating_add(1)), wanted.last()) {
            (Some(next), _) if fits(next, UP_PERCENT) => LayerReason::Hold,
            (Some(_), _) => LayerReason::Estimate,
            (None, Some(best)) if best.temporal.is_some() || ranked.last() != Some(&best.layer) => {
                LayerReason::Request
            }
            // One that had a picture and has stopped.
            _ if layers.iter().any(|l| !l.flows && l.height > 0) => LayerReason::Starved,
            _ if ranked.len() > 1 => LayerReason::Best,
            _ => LayerReason::Only,
        };
        self.decide(wanted.get(chosen).copied(), reason)
    }

    /// As chosen last: the encoding, and the uppermost of its temporal layers.
    pub(crate) fn chosen(&self) -> (Option<u8>, Option<u8>) {
        (self.layer, self.temporal)
    }

    fn decide(&mut self, step: Option<Step>, reason: LayerReason) -> Choice {
        let (layer, temporal) = (step.map(|step| step.layer), step.and_then(|step| step.temporal));
        (self.layer, self.temporal, self.reason) = (layer, temporal, reason);
        Choice { layer, temporal, reason }
    }
}

/// Whether it is a stream with one encoding.
pub(crate) fn is_alone(layers: &Layers) -> bool {
    layers.iter().skip(1).all(|l| *l == Layer::default())
}

/// What can be had of `ranked`, an order of encodings with the lowest first, up to the layers that were asked for; in that order.
fn steps(ranked: &[u8], layers: &Layers, request: &LayerRequest) -> Vec<Step> {
    let asked = request.layer.and_then(|asked| ranked.iter().position(|l| *l == asked));
    let ranked = asked.and_then(|at| ranked.get(..=at)).unwrap_or(ranked);
    let steps = ranked.iter().enumerate().flat_map(|(rank, &index)| {
        let of = layer(layers, index);
        let whole = of.temporal_top();
        let top = request.temporal_max.map_or(whole, |max| max.min(whole));
        let least = if rank == 0 { 0 } else { top.saturating_sub(GIVEN_UP_FIRST) };
        (least..=top).map(move |temporal| {
            let part = of.temporal_bps.get(usize::from(temporal)).filter(|_| temporal < whole);
            Step {
                layer: index,
                temporal: (temporal < whole).then_some(temporal),
                rate_bps: part.copied().unwrap_or(of.rate_bps),
            }
        })
    });
    steps.collect()
}

/// The part of `steps` that the request allows; never none.
fn wanted(steps: &[Step], layers: &Layers, request: &LayerRequest) -> Vec<Step> {
    let allowed = |step: &Step| {
        request.height_max.is_none_or(|max| layer(layers, step.layer).height <= max)
            && request.rate_bps_max.is_none_or(|max| step.rate_bps <= max)
    };
    let wanted: Vec<Step> = steps.iter().copied().filter(allowed).collect();
    if wanted.is_empty() { steps.first().copied().into_iter().collect() } else { wanted }
}

fn layer(layers: &Layers, index: u8) -> Layer {
    layers.get(usize::from(index)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(i64) -> Time = Time::from_ms;
    const ANY: LayerRequest =
        LayerRequest { layer: None, height_max: None, rate_bps_max: None, temporal_max: None, paused: false };

    fn live(rate_bps: u64, height: u32) -> Layer {
        Layer { rate_bps, height, flows: true, live: true, ..Layer::default() }
    }

    /// Three temporal layers: 40, 60 and 100 % of the rate.
    fn thirds(layer: Layer) -> Layer {
        let of = |percent: u64| layer.rate_bps * percent / 100;
        Layer { temporal_layers: 3, temporal_bps: [of(40), of(60), of(100), of(100)], ..layer }
    }

    /// In an order that is not that of quality: Firefox pages offer the best first.
    fn three() -> Layers {
        [live(1_500_000, 720), live(150_000, 180), live(500_000, 360), Layer::default()]
    }

    fn choose(
        allocator: &mut Allocator,
        ms: i64,
        budget: u64,
        layers: &Layers,
        request: LayerRequest,
    ) -> (Option<u8>, LayerReason) {
        let Choice { layer, reason, .. } = allocator.choose(MS(ms), budget, layers, &request);
        (layer, reason)
    }

    #[test]
    fn without_an_estimate_the_highest_by_what_is_measured() {
        let mut a = Allocator::new(Some(1));
        assert_eq!(choose(&mut a, 0, u64::MAX, &three(), ANY), (Some(0), LayerReason::Best));
        // Heights that nobody knows: by rate.
        let mut a = Allocator::new(Some(0));
        let unknown = three().map(|l| Layer { height: 0, ..l });
        assert_eq!(choose(&mut a, 0, u64::MAX, &unknown, ANY), (Some(0), LayerReason::Best));
        let mut a = Allocator::new(Some(0));
        let one = [live(1, 1), Layer::default(), Layer::default(), Layer::default()];
        assert_eq!(choose(&mut a, 0, u64::MAX, &one, ANY), (Some(0), LayerReason::Only));
    }

    #[test]
    fn down_at_once_and_up_when_it_fits_with_room_after_the_hold() {
        let mut a = Allocator::new(Some(0));
        let layers = three();
        assert_eq!(choose(&mut a, 0, 2_000_000, &layers, ANY), (Some(0), LayerReason::Best));
        assert_eq!(choose(&mut a, 20, 1_499_999, &layers, ANY), (Some(2), LayerReason::Estimate));
        assert_eq!(choose(&mut a, 7_900, 9_000_000, &layers, ANY), (Some(2), LayerReason::Hold));
        assert_eq!(choose(&mut a, 8_100, 9_000_000, &layers, ANY), (Some(0), LayerReason::Best));
        // Enough for it, but not for it and a tenth.
        assert_eq!(choose(&mut a, 8_200, 600_000, &layers, ANY).0, Some(2));
        assert_eq!(choose(&mut a, 30_000, 1_600_000, &layers, ANY), (Some(2), LayerReason::Estimate));
        assert_eq!(choose(&mut a, 60_000, 1_650_000, &layers, ANY), (Some(0), LayerReason::Best));
    }

    #[test]
    fn up_is_thought_about_when_the_estimate_moved_or_after_a_while() {
        let mut a = Allocator::new(Some(2));
        let layers = three();
        assert_eq!(choose(&mut a, 0, 1_500_000, &layers, ANY).0, Some(2));
        assert_eq!(choose(&mut a, 100, 1_700_000, &layers, ANY).0, Some(2), "13 % more");
        assert_eq!(choose(&mut a, 200, 1_726_000, &layers, ANY).0, Some(0), "15 % more");
        let mut a = Allocator::new(Some(2));
        choose(&mut a, 0, 1_500_000, &layers, ANY);
        assert_eq!(choose(&mut a, 5_000, 1_660_000, &layers, ANY).0, Some(0));
    }

    #[test]
    fn no_picture_is_the_last_resort() {
        let mut a = Allocator::new(Some(0));
        let layers = three();
        assert_eq!(choose(&mut a, 0, 100_000, &layers, ANY), (Some(1), LayerReason::Estimate));
        assert_eq!(choose(&mut a, 100, 74_000, &layers, ANY), (None, LayerReason::PausedByEstimate));
        assert_eq!(choose(&mut a, 200, 140_000, &layers, ANY), (None, LayerReason::PausedByEstimate));
        assert_eq!(choose(&mut a, 300, 500_000, &layers, ANY), (None, LayerReason::PausedByEstimate), "held");
        assert_eq!(choose(&mut a, 8_300, 500_000, &layers, ANY).0, Some(1));
    }

    /// Alone, and as one of several: frames go before the picture gets smaller, but not more than half of them.
    #[test]
    fn temporal_layers() {
        let steps = |layers: &Layers, budgets: &[u64]| -> Vec<(Option<u8>, Option<u8>)> {
            let of = |budget: &u64| {
                let Choice { layer, temporal, .. } =
                    Allocator::new(Some(0)).choose(MS(0), *budget, layers, &ANY);
                (layer, temporal)
            };
            budgets.iter().map(of).collect()
        };
        let alone = [thirds(live(1_000_000, 720)), Layer::default(), Layer::default(), Layer::default()];
        let zero = |temporal| (Some(0), temporal);
        assert_eq!(
            steps(&alone, &[1_000_000, 849_999, 600_000, 599_999, 399_999, 1]),
            [zero(None), zero(Some(1)), zero(Some(1)), zero(Some(0)), zero(Some(0)), zero(Some(0))],
            "it never stops"
        );
        let three = three().map(|l| if l.flows { thirds(l) } else { l });
        assert_eq!(
            steps(
                &three,
                &[1_500_000, 1_499_999, 900_000, 899_999, 499_999, 299_999, 149_999, 89_999, 30_000, 29_999]
            ),
            [
                (Some(0), None),
                (Some(0), Some(1)),
                (Some(0), Some(1)),
                (Some(2), None),
                (Some(2), Some(1)),
                (Some(1), None),
                (Some(1), Some(1)),
                (Some(1), Some(0)),
                (Some(1), Some(0)),
                (None, None)
            ]
        );
        let mut a = Allocator::new(Some(0));
        let asked = |temporal_max| LayerRequest { temporal_max, ..ANY };
        let mut of = |ms, budget, max| a.choose(MS(ms), budget, &alone, &asked(max));
        let choice = |temporal, reason| Choice { layer: Some(0), temporal, reason };
        assert_eq!(of(0, u64::MAX, Some(0)), choice(Some(0), LayerReason::Request));
        assert_eq!(of(20, u64::MAX, Some(1)), choice(Some(1), LayerReason::Request));
        assert_eq!(of(40, u64::MAX, Some(2)), choice(None, LayerReason::Only), "all there are");
        assert_eq!(of(60, 850_000, None), choice(None, LayerReason::Only), "an estimator's step back");
        assert_eq!(of(80, 500_000, None), choice(Some(0), LayerReason::Estimate));
        assert_eq!(of(100, u64::MAX, None), choice(Some(0), LayerReason::Hold));
        assert_eq!(of(2_080, u64::MAX, None), choice(None, LayerReason::Only));
    }

    #[test]
    fn requests() {
        let mut a = Allocator::new(Some(0));
        let layers = three();
        let with = |f: fn(&mut LayerRequest)| {
            let mut request = ANY;
            f(&mut request);
            request
        };
        let mut of = |request| choose(&mut a, 0, u64::MAX, &layers, request);
        assert_eq!(of(with(|r| r.height_max = Some(400))), (Some(2), LayerReason::Request));
        assert_eq!(of(ANY), (Some(0), LayerReason::Best), "no hold after a wish");
        assert_eq!(
            of(with(|r| r.height_max = Some(90))),
            (Some(1), LayerReason::Request),
            "the least there is"
        );
        assert_eq!(of(with(|r| r.rate_bps_max = Some(500_000))), (Some(2), LayerReason::Request));
        assert_eq!(of(with(|r| r.layer = Some(1))), (Some(1), LayerReason::Request));
        assert_eq!(
            of(with(|r| r.layer = Some(3))),
            (Some(0), LayerReason::Best),
            "what does not come is no wish"
        );
        assert_eq!(of(with(|r| r.paused = true)), (None, LayerReason::PausedByRequest));
        assert_eq!(of(ANY), (Some(0), LayerReason::Best));
        // A wish does not lift what the path carries.
        let mut a = Allocator::new(Some(1));
        let asked = with(|r| r.layer = Some(0));
        assert_eq!(choose(&mut a, 0, 600_000, &layers, asked).0, Some(2));
    }

    #[test]
    fn what_stops_is_left_and_what_is_not_live_is_not_taken() {
        let mut a = Allocator::new(Some(0));
        let mut layers = three();
        choose(&mut a, 0, u64::MAX, &layers, ANY);
        layers[0] = Layer { height: 720, ..Layer::default() };
        assert_eq!(choose(&mut a, 20, u64::MAX, &layers, ANY), (Some(2), LayerReason::Starved));
        layers[0] = Layer { live: false, ..live(900_000, 720) };
        assert_eq!(choose(&mut a, 40, u64::MAX, &layers, ANY).0, Some(2));
        layers[0].live = true;
        assert_eq!(choose(&mut a, 60, u64::MAX, &layers, ANY).0, Some(0));
        // Nothing comes any more: it stays where it is.
        assert_eq!(choose(&mut a, 80, u64::MAX, &Layers::default(), ANY).0, Some(0));
        let paused = LayerRequest { paused: true, ..ANY };
        assert_eq!(
            choose(&mut a, 100, u64::MAX, &Layers::default(), paused),
            (None, LayerReason::PausedByRequest)
        );
        assert_eq!(choose(&mut a, 120, u64::MAX, &Layers::default(), ANY).1, LayerReason::Only);
    }

    fn layers() -> impl Strategy<Value = Layers> {
        let layer = (0_u64..3_000_000, 0_u32..1_100, any::<bool>(), any::<bool>(), any::<bool>());
        prop::array::uniform4(layer.prop_map(|(rate_bps, height, flows, live, temporal)| {
            let layer = Layer { rate_bps, height, flows, live: live && flows, ..Layer::default() };
            if temporal { thirds(layer) } else { layer }
        }))
    }

    fn request() -> impl Strategy<Value = LayerRequest> {
        let max = prop::option::weighted(0.3, 0_u64..2_000_000);
        (
            prop::option::weighted(0.2, 0_u8..6),
            prop::option::weighted(0.3, 0_u32..1_100),
            max,
            prop::option::weighted(0.2, 0_u8..5),
            prop::bool::weighted(0.1),
        )
            .prop_map(|(layer, height_max, rate_bps_max, temporal_max, paused)| LayerRequest {
                layer,
                height_max,
                rate_bps_max,
                temporal_max,
                paused,
            })
    }

    proptest! {
        #[test]
        fn never_above_the_budget_while_something_fits(
            steps in prop::collection::vec((0_i64..3_000, 0_u64..4_000_000, layers(), request()), 1..60),
        ) {
            let mut a = Allocator::new(Some(0));
            let mut now = 0;
            for (passed, budget, layers, request) in steps {
                now += passed;
                let before = a.layer;
                let choice = a.choose(MS(now), budget, &layers, &request);
                prop_assert_eq!(choice, Choice { layer: a.layer, temporal: a.temporal, reason: a.reason });
                let Some(chosen) = choice.layer else { continue };
                prop_assert!(!request.paused);
                let flowing: Vec<&Layer> = layers.iter().filter(|l| l.flows).collect();
                if flowing.is_empty() {
                    prop_assert_eq!(choice.layer, before, "nothing to choose from");
                    continue;
                }
                let of = layers[usize::from(chosen)];
                let rate = choice.temporal.map_or(of.rate_bps, |t| of.temporal_bps[usize::from(t)]);
                prop_assert!(choice.temporal.is_none_or(|t| t + 1 < of.temporal_layers), "all of them is none");
                prop_assert!(request.temporal_max.is_none_or(|max| choice.temporal.unwrap_or(of.temporal_top()) <= max));
                prop_assert!(layers[usize::from(chosen)].flows);
                prop_assert!(rate <= budget.saturating_mul(2).saturating_add(1));
                let keeps = is_alone(&layers) && rate * FRAMES_KEEP_PERCENT <= budget.saturating_mul(100);
                if rate > budget && !keeps {
                    let lowest = flowing.iter().filter(|l| l.live).map(|l| (l.height, l.rate_bps)).min();
                    prop_assert!(lowest.is_none_or(|(height, _)| layers[usize::from(chosen)].height <= height), "above the budget, and there is less");
                }
            }
        }

        /// An estimate that swings around a layer's rate makes one change in eight seconds.
        #[test]
        fn an_estimate_at_the_edge_does_not_flap(budgets in prop::collection::vec(1_200_000_u64..1_900_000, 100..400)) {
            let mut a = Allocator::new(Some(0));
            let layers = three();
            let mut ups = Vec::new();
            let mut before = Some(0);
            for (i, budget) in budgets.iter().enumerate() {
                let now = i as i64 * 100;
                let chosen = a.choose(MS(now), *budget, &layers, &ANY).layer;
                prop_assert!(chosen == Some(0) || chosen == Some(2));
                if before == Some(2) && chosen == Some(0) {
                    ups.push(now);
                }
                before = chosen;
            }
            prop_assert!(ups.windows(2).all(|w| w[1] - w[0] >= 8_000), "{:?}", ups);
        }
    }
}
