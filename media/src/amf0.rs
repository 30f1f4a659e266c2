//! AMF0, the encoding of RTMP commands and of FLV script data (Action Message Format -- AMF 0, Adobe 2007).
//!
//! Values come from strangers: nesting, the number of values and every length are bounded, and a declared count
//! never allocates anything by itself.

use bytes::Bytes;

/// Deepest nesting of objects and arrays that is read. Real commands and metadata nest two or three deep; the reader
/// recurses, so this bounds its stack.
pub const DEPTH_MAX: usize = 16;

/// Most values read from one message, properties included. The largest metadata seen in the field has under a hundred;
/// with 56 bytes for a property this keeps the decoded form of a message under 60 KiB beside its text.
pub const VALUES_MAX: usize = 1024;

/// Longest text that the short form holds (AMF0 1.3.1: a 16-bit length).
const SHORT_LEN_MAX: usize = 0xFFFF;

// AMF0 section 2.1, type markers.
const NUMBER: u8 = 0x00;
const BOOLEAN: u8 = 0x01;
const STRING: u8 = 0x02;
const OBJECT: u8 = 0x03;
const NULL: u8 = 0x05;
const UNDEFINED: u8 = 0x06;
const REFERENCE: u8 = 0x07;
const ECMA_ARRAY: u8 = 0x08;
const OBJECT_END: u8 = 0x09;
const STRICT_ARRAY: u8 = 0x0A;
const DATE: u8 = 0x0B;
const LONG_STRING: u8 = 0x0C;
const UNSUPPORTED: u8 = 0x0D;
const XML_DOCUMENT: u8 = 0x0F;
const TYPED_OBJECT: u8 = 0x10;

/// One AMF0 value. Text that is not UTF-8 is read with replacement characters, as encoders that write a local code
/// page into their metadata are common.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// A double.
    Number(f64),
    /// A boolean.
    Boolean(bool),
    /// Text of at most 65535 bytes; longer text is written as [`Value::LongString`].
    String(String),
    /// Named properties in wire order.
    Object(Vec<(String, Value)>),
    /// Null.
    Null,
    /// Undefined.
    Undefined,
    /// Index into the objects sent before; kept as it came, never followed.
    Reference(u16),
    /// Named properties with an approximate count before them.
    EcmaArray(Vec<(String, Value)>),
    /// Values without names.
    StrictArray(Vec<Value>),
    /// Milliseconds since 1970 and a time zone that must be 0.
    Date {
        /// Milliseconds since 1970-01-01 UTC.
        unix_ms: f64,
        /// Reserved (AMF0 2.13: "should be set to 0x0000").
        zone: i16,
    },
    /// Text with a 32-bit length.
    LongString(String),
    /// A type that the sender could not encode.
    Unsupported,
    /// XML as text.
    XmlDocument(String),
    /// An object with a class name.
    TypedObject {
        /// Class name.
        class: String,
        /// Its properties.
        properties: Vec<(String, Value)>,
    },
}

impl Value {
    /// The text of a string, long or short.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) | Value::LongString(text) => Some(text),
            _ => None,
        }
    }

    /// The number of a number.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The properties of an object, typed object or ECMA array.
    pub fn properties(&self) -> Option<&[(String, Value)]> {
        match self {
            Value::Object(list) | Value::EcmaArray(list) | Value::TypedObject { properties: list, .. } => {
                Some(list)
            }
            _ => None,
        }
    }

    /// The first property named `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.properties()?.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Number(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Boolean(flag)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

/// Why bytes are not AMF0. The fault is the sender's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The bytes end inside a value.
    #[error("AMF0 value is cut short")]
    Truncated,
    /// More than [`DEPTH_MAX`] levels.
    #[error("AMF0 value nests deeper than {DEPTH_MAX}")]
    Depth,
    /// More than [`VALUES_MAX`] values.
    #[error("AMF0 message has more than {VALUES_MAX} values")]
    Count,
    /// A type marker that AMF0 does not have, or one that may not start a value (AMF3 included).
    #[error("AMF0 type marker {0:#04x} is not supported")]
    Marker(u8),
}

/// Reads values one after the other.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    values_left: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, values_left: VALUES_MAX }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next value, `None` at the end of the bytes.
    pub fn read(&mut self) -> Result<Option<Value>, Error> {
        if self.rest.is_empty() { Ok(None) } else { self.value(0).map(Some) }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        self.values_left = self.values_left.checked_sub(1).ok_or(Error::Count)?;
        let marker = self.u8()?;
        if depth >= DEPTH_MAX && matches!(marker, OBJECT | ECMA_ARRAY | STRICT_ARRAY | TYPED_OBJECT) {
            return Err(Error::Depth);
        }
        let below = depth.saturating_add(1);
        Ok(match marker {
            NUMBER => Value::Number(self.f64()?),
            BOOLEAN => Value::Boolean(self.u8()? != 0),
            STRING => Value::String(self.short_text()?),
            OBJECT => Value::Object(self.properties(below, None)?),
            NULL => Value::Null,
            UNDEFINED => Value::Undefined,
            REFERENCE => Value::Reference(self.u16()?),
            ECMA_ARRAY => {
                let count = self.u32()?;
                Value::EcmaArray(self.properties(below, Some(count))?)
            }
            STRICT_ARRAY => {
                let count = self.u32()?;
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(below)?);
                }
                Value::StrictArray(list)
            }
            DATE => Value::Date { unix_ms: self.f64()?, zone: self.u16()?.cast_signed() },
            LONG_STRING => Value::LongString(self.long_text()?),
            UNSUPPORTED => Value::Unsupported,
            XML_DOCUMENT => Value::XmlDocument(self.long_text()?),
            TYPED_OBJECT => {
                Value::TypedObject { class: self.short_text()?, properties: self.properties(below, None)? }
            }
            other => return Err(Error::Marker(other)),
        })
    }

    /// Properties up to the object end. The count of an ECMA array is only a hint (AMF0 2.10), except that some
    /// encoders leave the end marker out when the array closes the message: then the count says that all was read.
    fn properties(&mut self, depth: usize, declared: Option<u32>) -> Result<Vec<(String, Value)>, Error> {
        let mut list = Vec::new();
        loop {
            if self.rest.is_empty() && declared.is_some_and(|count| usize::try_from(count) == Ok(list.len()))
            {
                return Ok(list);
            }
            let key = self.short_text()?;
            // AMF0 2.5: an empty name followed by the object end marker closes the object.
            if key.is_empty() && self.rest.first() == Some(&OBJECT_END) {
                self.u8()?;
                return Ok(list);
            }
            list.push((key, self.value(depth)?));
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Error> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    fn f64(&mut self) -> Result<f64, Error> {
        self.array().map(f64::from_be_bytes)
    }

    fn short_text(&mut self) -> Result<String, Error> {
        let len = self.u16()?;
        self.take(usize::from(len)).map(text)
    }

    fn long_text(&mut self) -> Result<String, Error> {
        let len = usize::try_from(self.u32()?).map_err(|_| Error::Truncated)?;
        self.take(len).map(text)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads every value of a message.
pub fn decode(bytes: &[u8]) -> Result<Vec<Value>, Error> {
    let mut reader = Reader::new(bytes);
    let mut list = Vec::new();
    while let Some(value) = reader.read()? {
        list.push(value);
    }
    Ok(list)
}

/// Writes the values of a message.
pub fn encode(values: &[Value]) -> Bytes {
    let mut out = Vec::with_capacity(256);
    for value in values {
        write(value, &mut out);
    }
    out.into()
}

/// Appends one value. Text too long for its form takes the long one; a property name too long is cut.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Number(number) => {
            out.push(NUMBER);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Boolean(flag) => out.extend_from_slice(&[BOOLEAN, u8::from(*flag)]),
        Value::String(text) if text.len() <= SHORT_LEN_MAX => {
            out.push(STRING);
            write_short(text, out);
        }
        Value::String(text) | Value::LongString(text) => write_long(LONG_STRING, text, out),
        Value::Object(list) => {
            out.push(OBJECT);
            write_properties(list, out);
        }
        Value::Null => out.push(NULL),
        Value::Undefined => out.push(UNDEFINED),
        Value::Reference(index) => {
            out.push(REFERENCE);
            out.extend_from_slice(&index.to_be_bytes());
        }
        Value::EcmaArray(list) => {
            out.push(ECMA_ARRAY);
            out.extend_from_slice(&count(list.len()).to_be_bytes());
            write_properties(list, out);
        }
        Value::StrictArray(list) => {
            out.push(STRICT_ARRAY);
            out.extend_from_slice(&count(list.len()).to_be_bytes());
            for value in list {
                write(value, out);
            }
        }
        Value::Date { unix_ms, zone } => {
            out.push(DATE);
            out.extend_from_slice(&unix_ms.to_be_bytes());
            out.extend_from_slice(&zone.to_be_bytes());
        }
        Value::Unsupported => out.push(UNSUPPORTED),
        Value::XmlDocument(text) => write_long(XML_DOCUMENT, text, out),
        Value::TypedObject { class, properties } => {
            out.push(TYPED_OBJECT);
            write_short(class, out);
            write_properties(properties, out);
        }
    }
}

fn write_properties(list: &[(String, Value)], out: &mut Vec<u8>) {
    for (key, value) in list {
        write_short(key, out);
        write(value, out);
    }
    out.extend_from_slice(&[0, 0, OBJECT_END]);
}

fn write_short(text: &str, out: &mut Vec<u8>) {
    let cut = text.get(..text.floor_char_boundary(SHORT_LEN_MAX)).unwrap_or(text);
    out.extend_from_slice(&u16::try_from(cut.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(cut.as_bytes());
}

fn write_long(marker: u8, text: &str, out: &mut Vec<u8>) {
    out.push(marker);
    out.extend_from_slice(&count(text.len()).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A length on the wire. Nothing this process writes comes near 4 GiB: it was bounded when it was read or built.
fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_bytes() {
        // "connect", 1.0, {"app": "live"}
        let wire = b"\x02\x00\x07connect\x00\x3f\xf0\0\0\0\0\0\0\x03\x00\x03app\x02\x00\x04live\0\0\x09";
        let values = vec![
            Value::from("connect"),
            Value::from(1.0),
            Value::Object(vec![("app".to_owned(), Value::from("live"))]),
        ];
        assert_eq!(decode(wire).unwrap(), values);
        assert_eq!(encode(&values), wire.as_slice());
        assert_eq!(values[2].get("app").and_then(Value::as_str), Some("live"));
    }

    #[test]
    fn ecma_array_without_its_end() {
        let whole = encode(&[Value::EcmaArray(vec![("a".to_owned(), Value::Null)])]);
        let cut = &whole[..whole.len() - 3];
        assert_eq!(decode(cut).unwrap(), decode(&whole).unwrap());
        // The same for an object, or before the last property, is an error.
        assert_eq!(decode(&cut[..cut.len() - 1]), Err(Error::Truncated));
        let whole = encode(&[Value::Object(vec![("a".to_owned(), Value::Null)])]);
        assert_eq!(decode(&whole[..whole.len() - 3]), Err(Error::Truncated));
    }

    #[test]
    fn depth_bombs_are_refused() {
        for level in
            [&[STRICT_ARRAY, 0, 0, 0, 1][..], &[OBJECT, 0, 1, b'a'], &[ECMA_ARRAY, 0, 0, 0, 1, 0, 1, b'a']]
        {
            assert_eq!(decode(&level.repeat(100_000)), Err(Error::Depth));
            let mut deepest = level.repeat(DEPTH_MAX);
            deepest.push(NULL);
            assert_ne!(decode(&deepest), Err(Error::Depth));
        }
    }

    #[test]
    fn declared_counts_allocate_nothing() {
        assert_eq!(decode(&[STRICT_ARRAY, 0xFF, 0xFF, 0xFF, 0xFF]), Err(Error::Truncated));
        assert_eq!(decode(&[LONG_STRING, 0xFF, 0xFF, 0xFF, 0xFF, b'x']), Err(Error::Truncated));
        let mut nulls = vec![STRICT_ARRAY, 0xFF, 0xFF, 0xFF, 0xFF];
        nulls.resize(1_000_000, NULL);
        assert_eq!(decode(&nulls), Err(Error::Count));
        assert_eq!(decode(&vec![NULL; VALUES_MAX + 1]), Err(Error::Count));
    }

    #[test]
    fn amf3_is_refused() {
        assert_eq!(decode(&[0x11, 1]), Err(Error::Marker(0x11)));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            (-1e300..1e300f64).prop_map(Value::Number),
            any::<bool>().prop_map(Value::Boolean),
            "[ -~\u{e9}]{0,12}".prop_map(Value::String),
            "[ -~]{0,12}".prop_map(Value::LongString),
            "[ -~]{0,12}".prop_map(Value::XmlDocument),
            any::<u16>().prop_map(Value::Reference),
            (any::<i16>(), 0.0..1e13f64).prop_map(|(zone, unix_ms)| Value::Date { unix_ms, zone }),
            Just(Value::Null),
            Just(Value::Undefined),
            Just(Value::Unsupported),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            let properties = || prop::collection::vec(("[a-z]{0,6}", inner.clone()), 0..6);
            prop_oneof![
                properties().prop_map(Value::Object),
                properties().prop_map(Value::EcmaArray),
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::StrictArray),
                ("[a-z]{0,6}", properties())
                    .prop_map(|(class, properties)| Value::TypedObject { class, properties }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in prop::collection::vec(any_value(), 0..5)) {
            prop_assert_eq!(decode(&encode(&values)).unwrap(), values);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![0u8..18, any::<u8>()], 0..300)) {
            if let Ok(values) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&values)).map(|again| again.len()), Ok(values.len()));
            }
        }
    }
}
