//! Which encoding of a stream a subscriber gets: by what it asked for and what its path carries. It is arithmetic: what is measured
//! goes in, the choice comes out; who switches, and when, is elsewhere.

use media::Time;

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

/// What is measured of one encoding.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Layer {
    /// Bit/s, over the last two seconds.
    pub rate_bps: u64,
    /// Of the last key frame; 0 while unknown.
    pub height: u32,
    /// Packets come.
    pub flows: bool,
    /// They have for two seconds: it may be switched to.
    pub live: bool,
}

/// All encodings, by index.
pub type Layers = [Layer; LAYERS_MAX];

/// What a subscriber asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LayerRequest {
    /// This encoding, while it flows.
    pub layer: Option<u8>,
    /// No picture higher than this, where there is one.
    pub height_max: Option<u32>,
    /// No more than this, where there is so little.
    pub rate_bps_max: Option<u64>,
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
    /// Why no better one.
    pub reason: LayerReason,
}

/// One subscriber's chooser.
#[derive(Clone, Debug)]
pub struct Allocator {
    /// As chosen last.
    layer: Option<u8>,
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
        let Some(&lowest) = ranked.first() else {
            // Nothing comes: the picture stands, and goes on with what comes first.
            return self.decide(if request.paused { None } else { self.layer }, self.reason);
        };
        if request.paused {
            return self.decide(None, LayerReason::PausedByRequest);
        }
        let wanted = wanted(&ranked, layers, request);
        let fits = |l: &u8, percent: u64| {
            (layer(layers, *l).rate_bps as u128) * u128::from(percent) <= u128::from(budget_bps) * 100
        };
        let Some(best) = wanted.iter().rposition(|l| fits(l, 100)) else {
            let least = layer(layers, lowest).rate_bps;
            // Back from no picture only when it fits with room to spare.
            let goes_on = self.layer.is_some() && least / OVER_SHARE <= budget_bps;
            if self.layer != Some(lowest) || !goes_on {
                self.forced = Some(now);
            }
            let (layer, reason) = match goes_on {
                true => (Some(lowest), LayerReason::Estimate),
                false => (None, LayerReason::PausedByEstimate),
            };
            return self.decide(layer, reason);
        };
        let at = current.and_then(|c| wanted.iter().position(|l| *l == c));
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
            Some(at) if !moved && !changed => at,
            at => {
                let held = self.forced.is_some_and(|forced| now.since(forced) < HOLD_US);
                if !held {
                    self.considered = Some((budget_bps, now));
                }
                let roomy = wanted.iter().rposition(|l| fits(l, UP_PERCENT));
                match at {
                    Some(at) if held => at,
                    Some(at) => roomy.map_or(at, |roomy| roomy.max(at)),
                    None if above || self.layer.is_some() => best,
                    // From no picture to a picture: held as any step up.
                    None if held => return self.decide(None, LayerReason::PausedByEstimate),
                    None => match roomy {
                        Some(roomy) => roomy,
                        None => return self.decide(None, LayerReason::PausedByEstimate),
                    },
                }
            }
        };
        let reason = self.why(chosen, &wanted, &ranked, layers, fits);
        self.decide(wanted.get(chosen).copied(), reason)
    }

    fn why(
        &self,
        chosen: usize,
        wanted: &[u8],
        ranked: &[u8],
        layers: &Layers,
        fits: impl Fn(&u8, u64) -> bool,
    ) -> LayerReason {
        match wanted.get(chosen.saturating_add(1)) {
            Some(next) if fits(next, UP_PERCENT) => LayerReason::Hold,
            Some(_) => LayerReason::Estimate,
            None if wanted.len() < ranked.len() => LayerReason::Request,
            // One that had a picture and has stopped.
            None if layers.iter().any(|l| !l.flows && l.height > 0) => LayerReason::Starved,
            None if ranked.len() > 1 => LayerReason::Best,
            None => LayerReason::Only,
        }
    }

    fn decide(&mut self, layer: Option<u8>, reason: LayerReason) -> Choice {
        (self.layer, self.reason) = (layer, reason);
        Choice { layer, reason }
    }
}

/// The part of `ranked`, lowest first, that the request allows; never none.
fn wanted(ranked: &[u8], layers: &Layers, request: &LayerRequest) -> Vec<u8> {
    if let Some(asked) = request.layer.filter(|l| ranked.contains(l)) {
        return vec![asked];
    }
    let allowed = |l: &u8| {
        let Layer { height, rate_bps, .. } = layer(layers, *l);
        request.height_max.is_none_or(|max| height <= max)
            && request.rate_bps_max.is_none_or(|max| rate_bps <= max)
    };
    let wanted: Vec<u8> = ranked.iter().copied().filter(allowed).collect();
    if wanted.is_empty() { ranked.first().copied().into_iter().collect() } else { wanted }
}

fn layer(layers: &Layers, index: u8) -> Layer {
    layers.get(usize::from(index)).copied().unwrap_or_default()
}
