//! A program whose calls are followed: a breakpoint at the beginning of each function, which is taken
//! away when it is reached.

use std::collections::HashSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result};

use super::functions::{self, Functions};
use crate::artefacts;

/// `int3`.
const BREAKPOINT: u8 = 0xcc;

/// Places of the two bytes of `e_type` in an ELF header, and the type of what is loaded where it was
/// linked to be (ELF, "ELF Header").
const TYPE: u64 = 16;
const FIXED: [u8; 2] = [2, 0];

pub struct Program {
    name: &'static str,
    /// Device and inode: a process may run it by a path that is nowhere any more.
    file: (u64, u64),
    is_fixed: bool,
    functions: Functions,
    /// What was at each function's beginning, in the order of addresses.
    originals: Vec<(u64, u8)>,
    base: u64,
    /// In the order of the first calls.
    called: Vec<u64>,
    seen: HashSet<u64>,
}

impl Program {
    /// As it is installed in the directory.
    pub fn open(name: &'static str, directory: &Path) -> Result<Self> {
        let installed = directory.join(name);
        let opened = File::open(&installed).and_then(|file| {
            let mut kind = [0; 2];
            file.read_exact_at(&mut kind, TYPE)?;
            Ok((identity(&file.metadata()?), kind))
        });
        let (file, kind) = opened.with_context(|| format!("reading {}", installed.display()))?;
        Ok(Self {
            name,
            file,
            is_fixed: kind == FIXED,
            functions: functions::of(&artefacts::with_names(name))?,
            originals: Vec::new(),
            base: 0,
            called: Vec::new(),
            seen: HashSet::new(),
        })
    }

    /// Whether the process runs it now; not once it has ended.
    pub fn is_of(&self, pid: i32) -> bool {
        fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|it| identity(&it) == self.file)
    }

    /// Puts the breakpoints into a process that runs it.
    pub fn watch(&mut self, pid: i32) -> Result<()> {
        self.base = if self.is_fixed {
            0
        } else {
            self.loaded_at(pid)?
        };
        let memory = memory(pid)?;
        self.originals.clear();
        for &address in self.functions.keys() {
            let mut byte = [0];
            memory
                .read_exact_at(&mut byte, self.base + address)
                .context("reading code")?;
            memory
                .write_all_at(&[BREAKPOINT], self.base + address)
                .context("writing a breakpoint")?;
            self.originals.push((address, byte[0]));
        }
        Ok(())
    }

    /// Takes the breakpoint at `reached` away; false when none of ours is there.
    pub fn is_call(&mut self, pid: i32, reached: u64) -> Result<bool> {
        let address = reached.wrapping_sub(self.base);
        let found = self.originals.binary_search_by_key(&address, |it| it.0);
        let Some((_, original)) = found.ok().and_then(|at| self.originals.get(at).copied()) else {
            return Ok(false);
        };
        // Of this very process: one that was forked has breakpoints of its own.
        memory(pid)?
            .write_all_at(&[original], reached)
            .context("taking a breakpoint away")?;
        if self.seen.insert(address) {
            self.called.push(address);
        }
        Ok(true)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn was_called(&self) -> bool {
        !self.called.is_empty()
    }

    /// Names for the linker.
    pub fn layout(&self) -> String {
        functions::names(&self.functions, &self.called)
    }

    /// Where its file begins in the memory of a process.
    fn loaded_at(&self, pid: i32) -> Result<u64> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("reading maps")?;
        let inode = self.file.1.to_string();
        let first = maps
            .lines()
            .find(|line| line.split_whitespace().nth(4) == Some(&inode));
        let start = first.and_then(|line| line.split('-').next());
        let start = start.context("the program is not in its process's memory")?;
        u64::from_str_radix(start, 16).context("reading an address")
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn memory(pid: i32) -> Result<File> {
    let path = format!("/proc/{pid}/mem");
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.context("opening memory")
}
