//! Messages of D-Bus, as far as systemd's manager needs them.
//!
//! The form is the D-Bus specification's, always little-endian: a fixed part,
//! header fields as `a(yv)`, padding to eight bytes, and a body. Every value
//! is aligned to its size from the beginning of the message; the body begins
//! at a multiple of eight, so it can be written on its own.

/// A value of a unit's property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Text(String),
    /// A set of numbers, one bit for each: processors, memory nodes.
    Bytes(Vec<u8>),
    U32s(Vec<u32>),
    Texts(Vec<String>),
}

/// One property of a unit.
pub type Property = (String, Value);

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Bool(_) => "b",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::Text(_) => "s",
            Self::Bytes(_) => "ay",
            Self::U32s(_) => "au",
            Self::Texts(_) => "as",
        }
    }
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Call = 1,
    Return = 2,
    Error = 3,
    Signal = 4,
}

/// Bytes of the fixed part, with the length of the header fields.
pub(super) const FIXED: usize = 16;

/// The longest message that is read; systemd's answers have a few hundred bytes.
const LONGEST: usize = 1 << 20;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Writes values one after another.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        let length = self.bytes.len().next_multiple_of(to);
        self.bytes.resize(length, 0);
    }

    fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// A string or an object path.
    pub(super) fn text(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.bytes.extend(text.as_bytes());
        self.byte(0);
    }

    fn signature(&mut self, signature: &str) {
        // Ours are all short.
        self.byte(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.bytes.extend(signature.as_bytes());
        self.byte(0);
    }

    /// An array whose elements are aligned to `element`: its length leaves out
    /// the padding before the first.
    fn array(&mut self, element: usize, write: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.bytes.len() - 4;
        self.align(element);
        let begin = self.bytes.len();
        write(self);
        let length = length(self.bytes.len() - begin);
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Bool(value) => self.bool(*value),
            Value::I32(value) => self.u32(value.cast_unsigned()),
            Value::U32(value) => self.u32(*value),
            Value::I64(value) => self.u64(value.cast_unsigned()),
            Value::U64(value) => self.u64(*value),
            Value::Text(text) => self.text(text),
            Value::Bytes(bytes) => self.array(1, |out| out.bytes.extend(bytes)),
            Value::U32s(numbers) => {
                self.array(4, |out| numbers.iter().for_each(|number| out.u32(*number)));
            }
            Value::Texts(texts) => {
                self.array(4, |out| texts.iter().for_each(|text| out.text(text)));
            }
        }
    }

    /// `a(sv)`
    pub(super) fn properties(&mut self, properties: &[Property]) {
        self.array(8, |out| {
            for (name, value) in properties {
                out.align(8);
                out.text(name);
                out.variant(value);
            }
        });
    }

    /// `a(sa(sv))`, empty: no units beside the one.
    pub(super) fn no_auxiliary_units(&mut self) {
        self.array(8, |_| {});
    }
}

/// A method of an object of systemd.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method {
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
    pub(super) member: &'static str,
    pub(super) signature: &'static str,
}

/// The whole message of a call.
pub(super) fn call(serial: u32, destination: &str, method: Method, body: Writer) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes.extend([b'l', Kind::Call as u8, 0, 1]);
    out.u32(length(body.bytes.len()));
    out.u32(serial);
    out.array(8, |out| {
        field(out, PATH, "o", |out| out.text(method.path));
        field(out, DESTINATION, "s", |out| out.text(destination));
        field(out, INTERFACE, "s", |out| out.text(method.interface));
        field(out, MEMBER, "s", |out| out.text(method.member));
        if !method.signature.is_empty() {
            field(out, SIGNATURE, "g", |out| out.signature(method.signature));
        }
    });
    out.align(8);
    out.bytes.extend(body.bytes);
    out.bytes
}

fn field(out: &mut Writer, code: u8, signature: &str, value: impl FnOnce(&mut Writer)) {
    out.align(8);
    out.byte(code);
    out.signature(signature);
    value(out);
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A message that came in, as far as it is of interest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// The call that it answers; 0 for a signal.
    pub(super) answers: u32,
    pub(super) member: String,
    pub(super) error: String,
    body: Vec<u8>,
}

/// Bytes that follow the fixed part, by what that says; none if it is no
/// message of the protocol.
pub(super) fn rest(fixed: &[u8; FIXED]) -> Option<usize> {
    if fixed[0] != b'l' || fixed[3] != 1 {
        return None;
    }
    let number = |at: usize| {
        let bytes: [u8; 4] = fixed.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let fields = number(12)?.checked_next_multiple_of(8)?;
    fields
        .checked_add(number(4)?)
        .filter(|rest| *rest <= LONGEST)
}

impl Message {
    /// Reads the fixed part and what followed it.
    pub(super) fn parse(fixed: &[u8; FIXED], rest: Vec<u8>) -> Option<Self> {
        let kind = match fixed[1] {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return None,
        };
        let mut all = fixed.to_vec();
        all.extend(rest);
        let mut reader = Reader {
            bytes: &all,
            at: 12,
        };
        let fields = usize::try_from(reader.u32()?).ok()?;
        let end = reader.at.checked_add(fields)?;
        let mut message = Self {
            kind,
            answers: 0,
            member: String::new(),
            error: String::new(),
            body: Vec::new(),
        };
        while reader.at < end {
            reader.align(8);
            let code = reader.byte()?;
            let signature = reader.signature()?;
            match (code, signature) {
                (REPLY_SERIAL, "u") => message.answers = reader.u32()?,
                (MEMBER, "s") => message.member = reader.text()?,
                (ERROR_NAME, "s") => message.error = reader.text()?,
                (_, "s" | "o") => drop(reader.text()?),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.u32()?),
                _ => return None,
            }
        }
        reader.align(8);
        message.body = all.get(reader.at..)?.to_vec();
        Some(message)
    }

    /// The only or first string of the body: a path, or what an error says.
    pub(super) fn first_text(&self) -> Option<String> {
        Reader::of(&self.body).text()
    }

    /// Job and result of `JobRemoved` (`uoss`).
    pub(super) fn removed_job(&self) -> Option<(String, String)> {
        let mut reader = Reader::of(&self.body);
        reader.u32()?;
        let job = reader.text()?;
        reader.text()?;
        Some((job, reader.text()?))
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        let text = std::str::from_utf8(self.take(length)?).ok()?.to_owned();
        self.byte()?;
        Some(text)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        self.byte()?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PING: Method = Method {
        path: "/a",
        interface: "i.f",
        member: "Ping",
        signature: "sa(sv)",
    };

    fn split(message: &[u8]) -> ([u8; FIXED], Vec<u8>) {
        let (fixed, rest) = message.split_at(FIXED);
        (fixed.try_into().unwrap(), rest.to_vec())
    }

    #[test]
    fn a_call_has_the_bytes_of_the_specification() {
        let mut body = Writer::default();
        body.text("x");
        body.properties(&[("B".to_owned(), Value::Bool(true))]);
        let message = call(7, "d", PING, body);
        let expected: &[u8] = &[
            &b"l\x01\x00\x01"[..],
            &28u32.to_le_bytes(),
            &7u32.to_le_bytes(),
            &75u32.to_le_bytes(),
            b"\x01\x01o\0\x02\0\0\0/a\0\0\0\0\0\0",
            b"\x06\x01s\0\x01\0\0\0d\0\0\0\0\0\0\0",
            b"\x02\x01s\0\x03\0\0\0i.f\0\0\0\0\0",
            b"\x03\x01s\0\x04\0\0\0Ping\0\0\0\0",
            b"\x08\x01g\0\x06sa(sv)\0",
            b"\0\0\0\0",
            b"\x01\0\0\0x\0\0\0",
            &16u32.to_le_bytes(),
            b"\0\0\0\0",
            b"\x01\0\0\0B\0\x01b\0\0\0\0\x01\0\0\0",
        ]
        .concat();
        // The fixed part's lengths are recomputed from what was written.
        assert_eq!(&message[16..], &expected[16..]);
        let (fixed, rest_bytes) = split(&message);
        assert_eq!(rest(&fixed), Some(rest_bytes.len()));
        assert_eq!(Message::parse(&fixed, rest_bytes).unwrap().member, "Ping");
    }

    #[test]
    fn each_value_is_aligned_to_its_size() {
        let mut body = Writer::default();
        body.properties(&[
            ("A".to_owned(), Value::U64(1)),
            ("B".to_owned(), Value::U32s(vec![5])),
            ("C".to_owned(), Value::Bytes(vec![3])),
        ]);
        let expected: &[u8] = &[
            &61u32.to_le_bytes()[..],
            b"\0\0\0\0",
            b"\x01\0\0\0A\0\x01t\0\0\0\0\0\0\0\0",
            &1u64.to_le_bytes(),
            b"\x01\0\0\0B\0\x02au\0\0\0\x04\0\0\0\x05\0\0\0\0\0\0\0",
            b"\x01\0\0\0C\0\x02ay\0\0\0\x01\0\0\0\x03",
        ]
        .concat();
        assert_eq!(body.bytes[4..], expected[4..], "{:?}", body.bytes);
        assert_eq!(body.bytes.len() - 8, usize::from(body.bytes[0]));
    }

    #[test]
    fn the_end_of_a_job_is_read() {
        let mut out = Writer::default();
        out.bytes.extend([b'l', Kind::Signal as u8, 1, 1]);
        let mut body = Writer::default();
        body.u32(9);
        for text in ["/job/9", "a.scope", "done"] {
            body.text(text);
        }
        out.u32(length(body.bytes.len()));
        out.u32(1);
        out.array(8, |out| {
            field(out, PATH, "o", |out| out.text("/m"));
            field(out, MEMBER, "s", |out| out.text("JobRemoved"));
            field(out, SIGNATURE, "g", |out| out.signature("uoss"));
        });
        out.align(8);
        out.bytes.extend(body.bytes);
        let (fixed, tail) = split(&out.bytes);
        assert_eq!(rest(&fixed), Some(tail.len()));
        let message = Message::parse(&fixed, tail).unwrap();
        assert_eq!((message.kind, message.answers), (Kind::Signal, 0));
        let job = message.removed_job().unwrap();
        assert_eq!(job, ("/job/9".to_owned(), "done".to_owned()));
    }

    proptest! {
        #[test]
        fn anything_that_comes_in_is_read_or_refused(
            fixed in any::<[u8; FIXED]>(),
            tail in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut fixed = fixed;
            fixed[0] = b'l';
            fixed[1] %= 6;
            let _ = rest(&fixed);
            if let Some(message) = Message::parse(&fixed, tail) {
                let _ = (message.first_text(), message.removed_job());
            }
        }
    }
}
