//! AAC to Opus: the sound of an RTMP publisher for WebRTC viewers, here and at other nodes. It reads the frame log and puts what it makes there, started with
//! the first who takes it and ended with the last.

use std::sync::Arc;

use media::{Codec, Frame, TrackConfig};
use metrics::Conversion;
use sfu::SourceId;

use super::Stream;
use super::conversions::Counted;
use super::log::{Entry, Read, Takes};
use crate::convert::AacToOpus;

/// Runs until it is aborted or the log ends. `publisher` is the fence of whose sound it is.
pub async fn run(stream: Arc<Stream>, publisher: SourceId) {
    let _counted = Counted::new(&stream.shared().metrics, Conversion::AacToOpus);
    let mut reader = stream.log.prompt_reader(Takes::Sound(Codec::Aac));
    let mut converter = Converter::default();
    while let Read::Entries(entries) = reader.next().await {
        for entry in &entries {
            converter.convert(&stream, publisher, entry);
        }
        let dropped = &stream.shared().metrics.conversion_frames_dropped;
        dropped.of(Conversion::AacToOpus).add(reader.take_dropped());
        tokio::task::yield_now().await;
    }
}

#[derive(Default)]
struct Converter {
    /// Of this configuration; none when that cannot be converted, or no more.
    opus: Option<(Arc<TrackConfig>, Option<AacToOpus>)>,
    made: Vec<crate::convert::OpusFrame>,
}

impl Converter {
    fn convert(&mut self, stream: &Stream, publisher: SourceId, entry: &Entry) {
        let (frame, shared) = (&entry.frame, stream.shared());
        if self.opus.as_ref().is_none_or(|(config, _)| !Arc::ptr_eq(config, &frame.config)) {
            let made = AacToOpus::new(frame.config.clone(), shared.convert.opus_bps);
            if let Err(error) = &made {
                tracing::warn!(stream = %stream.name, %error, "WebRTC viewers get no sound: the AAC cannot be converted");
                shared.metrics.conversion_errors.of(Conversion::AacToOpus).add(1);
            }
            self.opus = Some((frame.config.clone(), made.ok()));
        }
        let Some((_, Some(converter))) = &mut self.opus else { return };
        if let Err(error) = converter.push(frame, &mut self.made) {
            tracing::warn!(stream = %stream.name, %error, "WebRTC viewers get no more sound");
            shared.metrics.conversion_errors.of(Conversion::AacToOpus).add(1);
            self.made.clear();
            self.opus = Some((frame.config.clone(), None));
            return;
        }
        let now = shared.clock.now();
        for opus in self.made.drain(..) {
            let (at, config) = (opus.pts, Arc::new(TrackConfig::Opus));
            let frame = Frame { config, dts: at, pts: at, key: true, discardable: false, data: opus.data };
            stream.log.push_made(publisher, frame, now);
            shared.metrics.conversion_frames.of(Conversion::AacToOpus).add(1);
        }
    }
}
