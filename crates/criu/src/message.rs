//! The messages of criu's `rpc.proto`, as far as a restore needs them: a handful of fields, written
//! and read by their numbers.

const RESTORE: u64 = 2;
const NOTIFY: u64 = 6;
/// `criu_network_lock_method`: the network is the pod's, and is not locked by criu.
const SKIP: u64 = 3;
/// `criu_cg_mode`: processes stay in the cgroup that criu runs in.
const IGNORE: u64 = 0;
/// `CLONE_NEWNET`.
const NEW_NETWORK: u64 = 0x4000_0000;
/// With all messages of the program and none of each page.
const LOG_LEVEL: u64 = 3;

/// A restore, in the words of `criu_opts`. Numbers of descriptors of the images and of the work
/// directory are those of whoever talks to criu; those of `inherited` are criu's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restore {
    pub images: i32,
    pub work: i32,
    /// Name of the log in the work directory.
    pub log: &'static str,
    /// The container's root: a mount.
    pub root: String,
    /// `mnt[KEY]:PATH` and the like.
    pub external: Vec<String>,
    /// Key and number.
    pub inherited: Vec<(String, i32)>,
    /// Kind of a namespace, and its file.
    pub joined: Vec<(&'static str, String)>,
    /// A terminal without its master gets a new one, which is handed out.
    pub terminal: bool,
    pub shell_job: bool,
    pub tcp_established: bool,
    /// Connections come back closed.
    pub tcp_close: bool,
    pub ext_unix_sk: bool,
    pub file_locks: bool,
    pub auto_dedup: bool,
    /// The network namespace comes back with nothing in it.
    pub empty_network: bool,
    /// Profile of the security module, as `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    pub lsm_mount_context: Option<String>,
}

impl Restore {
    pub(crate) fn request(&self) -> Vec<u8> {
        let mut message = Writer::default();
        message.number(1, RESTORE);
        message.message(2, &self.options());
        message.bytes
    }

    fn options(&self) -> Writer {
        let mut out = Writer::default();
        out.signed(1, self.images);
        out.number(9, LOG_LEVEL);
        out.text(10, self.log);
        out.text(13, &self.root);
        out.signed(17, self.work);
        let switches = [
            (4, self.ext_unix_sk),
            (5, self.tcp_established),
            (6, true), // devices are found wherever they are
            (7, self.shell_job),
            (8, self.file_locks),
            (12, true), // tell each step
            (16, self.auto_dedup),
            (26, true), // the first process becomes criu's sibling
            (29, true), // mounts that share with the host's
            (30, true), // and those that follow the host's
            (50, self.terminal),
            (52, self.tcp_close),
        ];
        for (field, on) in switches {
            if on {
                out.number(field, 1);
            }
        }
        for (key, fd) in &self.inherited {
            let mut inherit = Writer::default();
            inherit.text(1, key);
            inherit.signed(2, *fd);
            out.message(27, &inherit);
        }
        out.number(34, IGNORE);
        for external in &self.external {
            out.text(37, external);
        }
        if self.empty_network {
            out.number(38, NEW_NETWORK);
        }
        for (kind, file) in &self.joined {
            let mut join = Writer::default();
            join.text(1, kind);
            join.text(2, file);
            out.message(39, &join);
        }
        for (field, text) in [(53, &self.lsm_profile), (63, &self.lsm_mount_context)] {
            if let Some(text) = text {
                out.text(field, text);
            }
        }
        out.number(64, SKIP);
        out
    }
}

/// The answer to a notification.
pub(crate) fn acknowledgement(success: bool) -> Vec<u8> {
    let mut message = Writer::default();
    message.number(1, NOTIFY);
    message.number(3, u64::from(success));
    message.bytes
}

/// What criu says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    kind: u64,
    pub success: bool,
    /// The step of a notification.
    pub script: Option<String>,
    /// Of the first process.
    pub pid: Option<i32>,
    pub errno: Option<i32>,
}

impl Response {
    /// `None` where the bytes are no such message.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut response = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, Value::Number(kind)) => response.kind = kind,
                (2, Value::Number(success)) => response.success = success != 0,
                (4, Value::Bytes(restored)) => {
                    for field in Fields(restored) {
                        if let (1, Value::Number(pid)) = field? {
                            response.pid = process(pid);
                        }
                    }
                }
                (5, Value::Bytes(notify)) => {
                    for field in Fields(notify) {
                        match field? {
                            (1, Value::Bytes(script)) => response.script = Some(text(script)),
                            (2, Value::Number(pid)) => response.pid = process(pid),
                            _ => {}
                        }
                    }
                }
                (7, Value::Number(errno)) => response.errno = i32::try_from(errno).ok(),
                _ => {}
            }
        }
        Some(response)
    }

    pub fn is_notification(&self) -> bool {
        self.kind == NOTIFY
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn process(pid: u64) -> Option<i32> {
    i32::try_from(pid).ok().filter(|pid| *pid > 0)
}

/// Fields of a protobuf message, one after the other.
#[derive(Debug, Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    /// Negative numbers are ten bytes long (`int32`).
    fn signed(&mut self, field: u64, value: i32) {
        self.number(field, i64::from(value).cast_unsigned());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    fn text(&mut self, field: u64, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    fn message(&mut self, field: u64, value: &Writer) {
        self.bytes(field, &value.bytes);
    }
}

pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Fields of a message with their numbers; an item is `None` where the bytes break off.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let length = usize::try_from(length).ok()?;
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_by_field_numbers() {
        let restore = Restore {
            images: 300,
            inherited: vec![("k".to_owned(), 5)],
            ..Restore::default()
        };
        let request = restore.request();
        assert_eq!(request[..3], [1 << 3, 2, 2 << 3 | 2]);
        let inherited = [0xda, 0x01, 5, 1 << 3 | 2, 1, b'k', 2 << 3, 5];
        assert!(
            request
                .windows(inherited.len())
                .any(|part| part == inherited)
        );
        assert!(request.windows(3).any(|part| part == [1 << 3, 0xac, 0x02]));
    }

    #[test]
    fn a_notification_names_its_step_and_process() {
        let bytes = [
            &[1 << 3, 6, 2 << 3, 1, 5 << 3 | 2, 7][..],
            &[1 << 3 | 2, 2, b'o', b'k', 2 << 3, 0x90, 0x4e],
        ]
        .concat();
        let response = Response::parse(&bytes).unwrap();
        assert!(response.is_notification() && response.success);
        assert_eq!(response.script.as_deref(), Some("ok"));
        assert_eq!(response.pid, Some(10_000));
    }

    #[test]
    fn what_is_no_message_is_told() {
        for bytes in [
            &[0x80][..],
            &[5 << 3 | 2, 9, 1],
            &[1 << 3 | 3],
            &[5 << 3 | 2, 1, 0x80],
        ] {
            assert_eq!(Response::parse(bytes), None, "{bytes:?}");
        }
    }
}
