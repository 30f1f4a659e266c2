//! FLV, just enough to look at what a node sends and to play a clip to it.
use std::path::Path;

/// Tag and RTMP message type of sound.
pub const AUDIO: u8 = 8;
/// Tag and RTMP message type of pictures.
pub const VIDEO: u8 = 9;
/// Tag and RTMP message type of metadata (AMF0).
pub const SCRIPT: u8 = 18;

/// One FLV tag, or one RTMP message: the same content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    pub kind: u8,
    /// Milliseconds.
    pub time: u32,
    pub body: Vec<u8>,
}

impl Tag {
    /// An H.264 or AAC sequence header: settings, not a frame.
    pub fn is_header(&self) -> bool {
        matches!(self.kind, AUDIO | VIDEO) && self.body.get(1) == Some(&0)
    }

    /// A picture that needs no other.
    pub fn is_key_frame(&self) -> bool {
        self.kind == VIDEO && self.body.first().is_some_and(|byte| byte >> 4 == 1) && !self.is_header()
    }

    /// Appends the FLV bytes of this tag.
    pub fn write(&self, out: &mut Vec<u8>) {
        let size = self.body.len() as u32;
        out.push(self.kind);
        out.extend_from_slice(&size.to_be_bytes()[1..]);
        out.extend_from_slice(&self.time.to_be_bytes()[1..]);
        out.push((self.time >> 24) as u8);
        out.extend_from_slice(&[0, 0, 0]);
        out.extend_from_slice(&self.body);
        out.extend_from_slice(&(size + 11).to_be_bytes());
    }
}

/// A parsed file or stream.
#[derive(Debug, Clone)]
pub struct Flv {
    /// Header flags: 4 audio, 1 video.
    pub flags: u8,
    pub tags: Vec<Tag>,
}

/// Parses as many whole tags as there are.
///
/// # Errors
/// When it is not FLV.
pub fn parse(bytes: &[u8]) -> Result<Flv, String> {
    let head = bytes.get(..13).ok_or_else(|| format!("{} bytes are no FLV header", bytes.len()))?;
    if !head.starts_with(b"FLV\x01") || head[5..9] != [0, 0, 0, 9] {
        return Err(format!("not an FLV header: {head:?}"));
    }
    let mut flv = Flv { flags: head[4], tags: Vec::new() };
    let mut at = 13;
    while let Some(header) = bytes.get(at..at + 11) {
        let size = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let Some(body) = bytes.get(at + 11..at + 11 + size) else { break };
        let time = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
        flv.tags.push(Tag { kind: header[0], time, body: body.to_vec() });
        if let Some(back) = bytes.get(at + 11 + size..at + 15 + size)
            && back != ((size + 11) as u32).to_be_bytes()
        {
            return Err(format!("tag of {size} bytes at {at} is followed by the back pointer {back:?}"));
        }
        at += 15 + size;
    }
    Ok(flv)
}

/// The project's clip, parsed.
pub fn clip() -> Flv {
    let path = crate::clip();
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    parse(&bytes).expect("the clip is FLV")
}

/// Writes tags as a file that ffmpeg reads.
pub fn save(path: &Path, tags: &[Tag]) {
    let bit = |tag: &Tag| match tag.kind {
        AUDIO => 4,
        VIDEO => 1,
        _ => 0,
    };
    let flags = tags.iter().fold(0, |flags, tag| flags | bit(tag));
    let mut out = vec![b'F', b'L', b'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0];
    tags.iter().for_each(|tag| tag.write(&mut out));
    std::fs::write(path, out).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Complaints about times: no track may go back.
pub fn backwards(tags: &[Tag]) -> Vec<String> {
    let mut found = Vec::new();
    for kind in [AUDIO, VIDEO] {
        let times: Vec<u32> = tags.iter().filter(|tag| tag.kind == kind).map(|tag| tag.time).collect();
        let steps = times.windows(2).filter(|it| it[1] < it[0]);
        found.extend(steps.map(|it| format!("type {kind}: {} after {}", it[1], it[0])));
    }
    found
}
