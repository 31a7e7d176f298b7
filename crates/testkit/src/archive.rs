//! Archives made byte by byte, honest and otherwise.

/// A header before it is written, and the data behind it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub kind: u8,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u64,
    pub device: (u32, u32),
    pub data: Vec<u8>,
    /// What the header says of the size, if it is not the truth.
    pub size: Option<u64>,
    pub gnu: bool,
}

impl Entry {
    pub fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        Self {
            kind,
            name: name.as_ref().to_vec(),
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            mtime: 1_600_000_000,
            device: (0, 0),
            data: Vec::new(),
            size: None,
            gnu: false,
        }
    }

    pub fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Self {
            data: data.as_ref().to_vec(),
            ..Self::new(b'0', name)
        }
    }

    pub fn dir(name: impl AsRef<[u8]>) -> Self {
        Self::new(b'5', name)
    }

    pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            link: target.as_ref().to_vec(),
            ..Self::new(b'2', name)
        }
    }

    pub fn hard_link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            link: target.as_ref().to_vec(),
            ..Self::new(b'1', name)
        }
    }

    pub fn device(name: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        Self {
            device: (major, minor),
            ..Self::new(b'3', name)
        }
    }

    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub fn owner(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    /// The header block, its checksum in place.
    pub fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        put(&mut block, 0, &self.name[..self.name.len().min(100)]);
        put(&mut block, 100, format!("{:07o}", self.mode).as_bytes());
        put(&mut block, 108, format!("{:07o}", self.uid).as_bytes());
        put(&mut block, 116, format!("{:07o}", self.gid).as_bytes());
        let size = self.size.unwrap_or(self.data.len() as u64);
        put(&mut block, 124, format!("{size:011o}").as_bytes());
        put(&mut block, 136, format!("{:011o}", self.mtime).as_bytes());
        block[156] = self.kind;
        put(&mut block, 157, &self.link[..self.link.len().min(100)]);
        put(
            &mut block,
            257,
            if self.gnu {
                b"ustar  \0"
            } else {
                b"ustar\x0000"
            },
        );
        put(&mut block, 329, format!("{:07o}", self.device.0).as_bytes());
        put(&mut block, 337, format!("{:07o}", self.device.1).as_bytes());
        seal(&mut block);
        block
    }
}

pub fn put(block: &mut [u8; 512], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Writes the checksum.
pub fn seal(block: &mut [u8; 512]) {
    put(block, 148, b"        ");
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    put(block, 148, format!("{sum:06o}\0 ").as_bytes());
}

/// An archive in the making.
#[derive(Debug, Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        entries
            .into_iter()
            .fold(Self::new(), |tar, entry| tar.entry(&entry))
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn data(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Adds an entry; names that do not fit go into long name headers.
    pub fn entry(self, entry: &Entry) -> Self {
        let mut tar = self;
        for (kind, text) in [(b'L', &entry.name), (b'K', &entry.link)] {
            if text.len() > 100 {
                tar = tar.long(kind, text);
            }
        }
        tar.raw(&entry.block()).data(&entry.data)
    }

    pub fn long(self, kind: u8, text: &[u8]) -> Self {
        let data = [text, b"\0"].concat();
        let entry = Entry {
            data,
            gnu: true,
            ..Entry::new(kind, "././@LongLink")
        };
        self.raw(&entry.block()).data(&entry.data)
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'x', records)
    }

    pub fn extended(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let data = records
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        let entry = Entry {
            data,
            ..Entry::new(kind, "PaxHeaders/x")
        };
        self.raw(&entry.block()).data(&entry.data)
    }

    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

/// One PAX record.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
