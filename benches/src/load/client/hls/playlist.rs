//! HLS playlists (RFC 8216), as far as a viewer of a live stream needs them.

use anyhow::{Context, Result, bail, ensure};

/// RFC 8216 section 6.3.3: a client does not begin with a segment that starts less than three target durations from the end.
const BEGIN_TARGETS: i64 = 3;
/// Target durations above this are nonsense: an hour.
const TARGET_S_MAX: f64 = 3_600.0;

/// One of both kinds.
#[derive(Clone, PartialEq, Debug)]
pub enum Playlist {
    /// Lists nothing, and does not say which kind it will be: the stream has just begun.
    Empty,
    /// Lists variants: the first one's URL.
    Master(String),
    /// Lists segments.
    Media(Media),
}

/// A media playlist.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Media {
    /// No segment is longer.
    pub target_us: i64,
    /// In order, the newest last.
    pub segments: Vec<Segment>,
    /// Nothing will follow.
    pub is_ended: bool,
}

/// A segment.
#[derive(Clone, PartialEq, Debug)]
pub struct Segment {
    /// Its media sequence number.
    pub sequence: u64,
    /// How long it is.
    pub duration_us: i64,
    /// Where it is, as written.
    pub url: String,
    /// The file that goes before it (fMP4).
    pub map: Option<String>,
}

impl Playlist {
    /// Parses one.
    pub fn parse(text: &str) -> Result<Playlist> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        ensure!(
            lines.next().is_some_and(|line| line.trim_start_matches('\u{feff}').starts_with("#EXTM3U")),
            "it is no playlist: it does not begin with #EXTM3U"
        );
        let (mut media, mut target, mut sequence) = (Media::default(), None, 0);
        let (mut duration, mut map, mut is_variant) = (None, None, false);
        for line in lines {
            let (tag, value) = line.split_once(':').unwrap_or((line, ""));
            match tag {
                "#EXT-X-STREAM-INF" => is_variant = true,
                "#EXT-X-TARGETDURATION" => target = Some(seconds(value).context("EXT-X-TARGETDURATION")?),
                "#EXT-X-MEDIA-SEQUENCE" => sequence = value.parse().context("EXT-X-MEDIA-SEQUENCE")?,
                "#EXTINF" => {
                    duration = Some(seconds(value.split(',').next().unwrap_or("")).context("EXTINF")?);
                }
                "#EXT-X-MAP" => {
                    map = Some(attribute(value, "URI").context("EXT-X-MAP has no URI")?.to_owned());
                }
                "#EXT-X-KEY" if attribute(value, "METHOD") != Some("NONE") => bail!("it is encrypted"),
                "#EXT-X-BYTERANGE" => bail!("its segments are parts of files (EXT-X-BYTERANGE)"),
                "#EXT-X-ENDLIST" => media.is_ended = true,
                _ if line.starts_with('#') => {}
                _ if is_variant => return Ok(Playlist::Master(line.to_owned())),
                _ => {
                    let duration_us = duration.take().context("a segment has no EXTINF")?;
                    media.segments.push(Segment {
                        sequence,
                        duration_us,
                        url: line.to_owned(),
                        map: map.clone(),
                    });
                    sequence = sequence.checked_add(1).context("EXT-X-MEDIA-SEQUENCE")?;
                }
            }
        }
        let Some(target_us) = target else {
            ensure!(media.segments.is_empty(), "it has no EXT-X-TARGETDURATION");
            return Ok(Playlist::Empty);
        };
        media.target_us = target_us;
        Ok(Playlist::Media(media))
    }
}

impl Media {
    /// The sequence number that a player begins with: the newest that starts three target durations before the end, or the first. That is
    /// where its buffer is; it has the rest as fast as the server gives it. `None` without a segment.
    pub fn begin(&self) -> Option<u64> {
        let mut behind_us = 0;
        let newest_first = self.segments.iter().rev();
        let begin = newest_first.clone().find(|segment| {
            behind_us += segment.duration_us;
            behind_us >= BEGIN_TARGETS * self.target_us
        });
        begin.or(self.segments.first()).map(|segment| segment.sequence)
    }
}

fn seconds(text: &str) -> Result<i64> {
    let seconds: f64 = text.trim().parse()?;
    ensure!((0.0..=TARGET_S_MAX).contains(&seconds), "{seconds} s");
    Ok((seconds * 1e6) as i64)
}

/// RFC 8216 section 4.2: NAME=VALUE, commas between; text is quoted, and may hold commas.
fn attribute<'a>(mut list: &'a str, name: &str) -> Option<&'a str> {
    while let Some((key, rest)) = list.split_once('=') {
        let (value, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.find(',').map_or((rest, ""), |comma| rest.split_at(comma)),
        };
        if key.trim() == name {
            return Some(value);
        }
        list = after.trim_start_matches(',');
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media(text: &str) -> Media {
        match Playlist::parse(text).unwrap() {
            Playlist::Media(media) => media,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_playlist_of_nginx_is_read() {
        let media = media(
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-TARGETDURATION:1\n#EXT-X-DISCONTINUITY\n\
             #EXTINF:1.000,\nbench-7.ts\n#EXTINF:0.967,\r\nbench-8.ts\n#EXTINF:1.0,\nbench-9.ts\n#EXTINF:1.0,\nbench-10.ts\n",
        );
        assert_eq!((media.target_us, media.segments.len(), media.is_ended), (1_000_000, 4, false));
        let segment = &media.segments[1];
        assert_eq!((segment.sequence, segment.duration_us, segment.url.as_str()), (8, 967_000, "bench-8.ts"));
        assert_eq!(media.begin(), Some(7), "8 to 10 are less than 3 s");
    }

    #[test]
    fn fragmented_mp4_masters_and_ends_are_known() {
        let media = media(
            "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MAP:BYTERANGE-NOT=1,URI=\"init,1.mp4\"\n#EXT-X-PART:DURATION=0.2,URI=\"p.mp4\"\n\
             #EXTINF:2,\na.mp4\n#EXTINF:2,\nb.mp4\n#EXT-X-ENDLIST\n",
        );
        assert_eq!(media.segments[1].map.as_deref(), Some("init,1.mp4"));
        assert!(media.is_ended);
        assert_eq!(media.begin(), Some(0), "the first, when there are too few");
        let master = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,URI=\"a.m3u8\"\n#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS=\"avc1,mp4a\"\nhi/v.m3u8\n\
                      #EXT-X-STREAM-INF:BANDWIDTH=2\nlo.m3u8\n";
        assert_eq!(Playlist::parse(master).unwrap(), Playlist::Master("hi/v.m3u8".into()));
        assert_eq!(Media::default().begin(), None);
        assert_eq!(Playlist::parse("#EXTM3U\n#EXT-X-VERSION:7\n").unwrap(), Playlist::Empty);
    }

    #[test]
    fn what_cannot_be_watched_is_told() {
        for (text, part) in [
            ("<html>", "#EXTM3U"),
            ("", "#EXTM3U"),
            ("#EXTM3U\n#EXTINF:1,\na.ts\n", "TARGETDURATION"),
            ("#EXTM3U\n#EXT-X-TARGETDURATION:1\na.ts\n", "no EXTINF"),
            ("#EXTM3U\n#EXT-X-TARGETDURATION:-1\n", "TARGETDURATION"),
            ("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:nan,\na.ts\n", "EXTINF"),
            ("#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n", "encrypted"),
            ("#EXTM3U\n#EXT-X-MAP:BYTERANGE=1\n", "URI"),
            ("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:18446744073709551615\n#EXTINF:1,\na\n", "SEQUENCE"),
        ] {
            let error = format!("{:#}", Playlist::parse(text).unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
