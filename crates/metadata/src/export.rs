//! Every record as text: what the store writes for itself every few minutes, and what an operator
//! reads, keeps and puts back.
//!
//! ```text
//! {"berth-metadata":1,"schema":1,"sequence":S}
//! {"table":"pods","key":"…","value":{…}}            a readable record
//! {"table":"pods","key":"…","raw":"<hex>"}          one that is not JSON, as it was found
//! {"records":N,"sequence":E,"sha256":"<hex>"}       of all bytes above this line
//! ```
//!
//! Writers are not held up: the records are those of some moments between the groups S and E. With
//! the journal's groups above S applied to it, the whole is exact again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::engine::{Engine, io as failed};
use crate::schema::{SET_ASIDE, STORE, TABLES};
use crate::value::{SideFiles, Unreadable};

const FORMAT: u32 = 1;
const PAGE: usize = 256;
/// No record of ours is longer, written as text.
const LINE_LIMIT: u64 = 256 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    #[serde(rename = "berth-metadata")]
    format: u32,
    schema: u32,
    sequence: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    records: u64,
    sequence: u64,
    sha256: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    table: String,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
}

/// A record of an export.
pub(crate) struct Record {
    pub table: usize,
    pub key: Vec<u8>,
    pub content: Content,
}

pub(crate) enum Content {
    Json(Vec<u8>),
    /// A stored value that could not be read.
    Raw(Vec<u8>),
}

/// What an export says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub schema: u32,
    /// The last group that it holds whole.
    pub sequence: u64,
    /// The last group that it may hold something of.
    pub until: u64,
    /// Records by table.
    pub records: BTreeMap<String, u64>,
}

impl Summary {
    pub fn total(&self) -> u64 {
        self.records.values().sum()
    }
}

/// Writes an export. `sequence` is asked before and after.
pub(crate) fn write(
    engine: &Engine,
    side_files: &SideFiles,
    schema: u32,
    sequence: impl Fn() -> u64,
    out: impl Write,
) -> Result<Summary, Error> {
    let mut out = Summing::new(BufWriter::new(out));
    let mut summary = Summary {
        schema,
        sequence: sequence(),
        until: 0,
        records: BTreeMap::new(),
    };
    let head = Head {
        format: FORMAT,
        schema,
        sequence: summary.sequence,
    };
    out.line(&head)?;
    for (table, name) in TABLES.iter().enumerate() {
        if table == STORE {
            continue;
        }
        let count = write_table(engine, side_files, table, &mut out)?;
        if count > 0 {
            summary.records.insert((*name).to_owned(), count);
        }
    }
    summary.until = sequence();
    let tail = Tail {
        records: summary.total(),
        sequence: summary.until,
        sha256: out.sum(),
    };
    out.line(&tail)?;
    out.finish()?;
    Ok(summary)
}

fn write_table(
    engine: &Engine,
    side_files: &SideFiles,
    table: usize,
    out: &mut Summing<impl Write>,
) -> Result<u64, Error> {
    let mut count = 0;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = engine.page(table, after.as_deref(), PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(count);
        };
        after = Some(last.clone());
        for (key, raw) in page {
            if let Some(line) = line(engine, side_files, table, key, raw)? {
                out.line(&line)?;
                count += 1;
            }
        }
    }
}

/// A record as a line; none if it was removed meanwhile.
fn line(
    engine: &Engine,
    side_files: &SideFiles,
    table: usize,
    key: Vec<u8>,
    mut raw: Vec<u8>,
) -> Result<Option<Line>, Error> {
    let name = TABLES[table].to_owned();
    let as_found = |key: Vec<u8>, raw: Vec<u8>| Line {
        table: name.clone(),
        key: hex::encode(key),
        value: None,
        raw: Some(hex::encode(raw)),
    };
    if table == SET_ASIDE {
        return Ok(Some(as_found(key, raw)));
    }
    loop {
        let json = match side_files.read(&raw) {
            Ok(json) => json,
            Err(Unreadable::Io(error)) => return Err(error),
            // A commit may have replaced the record, and removed its file.
            Err(Unreadable::Bad(_)) => match engine.get(table, &key)? {
                None => return Ok(None),
                Some(now) if now != raw => {
                    raw = now;
                    continue;
                }
                Some(_) => return Ok(Some(as_found(key, raw))),
            },
        };
        let value = serde_json::from_slice(&json).ok();
        return Ok(Some(match (value, String::from_utf8(key)) {
            (Some(value), Ok(key)) => Line {
                table: name,
                key,
                value: Some(value),
                raw: None,
            },
            (None, Ok(key)) => as_found(key.into_bytes(), raw),
            (_, Err(key)) => as_found(key.into_bytes(), raw),
        }));
    }
}

/// Checks a whole export and hands on its records; `take` sees nothing of one that is damaged.
pub(crate) fn read(
    path: &Path,
    mut take: impl FnMut(Record) -> Result<(), Error>,
) -> Result<Summary, Error> {
    let summary = verify(path)?;
    each(path, |line| {
        let record = record(line).ok_or_else(|| damaged(path, "a record is malformed"))?;
        take(record)
    })?;
    Ok(summary)
}

/// Reads an export to its end and compares its sum.
pub fn verify(path: &Path) -> Result<Summary, Error> {
    let mut records = BTreeMap::<String, u64>::new();
    let (head, tail, sum) = each(path, |line| {
        *records.entry(line.table).or_default() += 1;
        Ok(())
    })?;
    if tail.sha256 != sum {
        return Err(damaged(path, "its checksum is wrong"));
    }
    let summary = Summary {
        schema: head.schema,
        sequence: head.sequence,
        until: tail.sequence,
        records,
    };
    if summary.total() != tail.records {
        return Err(damaged(path, "records are missing"));
    }
    Ok(summary)
}

fn each(
    path: &Path,
    mut take: impl FnMut(Line) -> Result<(), Error>,
) -> Result<(Head, Tail, String), Error> {
    let file = File::open(path).map_err(failed("open", path))?;
    let mut lines = BufReader::new(file);
    let mut hash = Sha256::new();
    let first = next_line(&mut lines, path)?.ok_or_else(|| damaged(path, "it is empty"))?;
    let head: Head =
        serde_json::from_slice(&first).map_err(|_| damaged(path, "it does not begin as one"))?;
    if head.format != FORMAT {
        return Err(damaged(path, "its format is of another version"));
    }
    hash.update(&first);
    while let Some(bytes) = next_line(&mut lines, path)? {
        if let Ok(line) = serde_json::from_slice::<Line>(&bytes) {
            hash.update(&bytes);
            take(line)?;
            continue;
        }
        let tail: Tail =
            serde_json::from_slice(&bytes).map_err(|_| damaged(path, "a line is malformed"))?;
        if next_line(&mut lines, path)?.is_some() {
            return Err(damaged(path, "there is more behind its end"));
        }
        return Ok((head, tail, hex::encode(hash.finalize())));
    }
    Err(damaged(path, "it is cut short"))
}

fn next_line(lines: &mut impl BufRead, path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let mut line = Vec::new();
    let mut bounded = io::Read::take(&mut *lines, LINE_LIMIT);
    bounded
        .read_until(b'\n', &mut line)
        .map_err(failed("read", path))?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(damaged(path, "it is cut short")),
    }
}

fn record(line: Line) -> Option<Record> {
    let table = TABLES.iter().position(|name| *name == line.table)?;
    if table == STORE {
        return None;
    }
    match (line.value, line.raw) {
        (Some(value), None) => Some(Record {
            table,
            key: line.key.into_bytes(),
            content: Content::Json(serde_json::to_vec(&value).ok()?),
        }),
        (None, Some(raw)) => Some(Record {
            table,
            key: hex::decode(line.key).ok()?,
            content: Content::Raw(hex::decode(raw).ok()?),
        }),
        _ => None,
    }
}

fn damaged(path: &Path, detail: &'static str) -> Error {
    Error::BadExport {
        path: path.to_owned(),
        detail,
    }
}

/// Hashes what passes.
struct Summing<W: Write> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Summing<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            hash: Sha256::new(),
        }
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), Error> {
        let written = serde_json::to_vec(line)
            .map_err(io::Error::from)
            .and_then(|mut bytes| {
                bytes.push(b'\n');
                self.hash.update(&bytes);
                self.out.write_all(&bytes)
            });
        written.map_err(|source| Error::WriteExport { source })
    }

    fn sum(&self) -> String {
        hex::encode(self.hash.clone().finalize())
    }

    fn finish(mut self) -> Result<(), Error> {
        self.out
            .flush()
            .map_err(|source| Error::WriteExport { source })
    }
}
