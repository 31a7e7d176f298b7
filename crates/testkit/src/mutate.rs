//! Inputs that nobody wrote, made from inputs that somebody did: what reads untrusted bytes is shown
//! them, and may refuse them but neither panic nor hang.
//!
//! A run is decided by its seed. As an ordinary test it is short; `BERTH_FUZZ_SECS=60` makes every
//! such test go on for a minute with seeds of its own. An input that fails is kept in the corpus,
//! which is tried first by every later run.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Mutants of an ordinary test.
const ROUNDS: u64 = 3000;
/// Longest mutant in bytes.
const MAX: usize = 64 << 10;
/// At the ends of the ranges that numbers are kept in.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "00",
    "1e9",
    "127",
    "4095",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775808",
    "18446744073709551616",
];

/// What is mutated, and how.
pub struct Mutants {
    corpus: PathBuf,
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

impl Mutants {
    /// From every file in the directory `corpus`, which need not be there.
    pub fn of(corpus: impl AsRef<Path>) -> Self {
        let corpus = corpus.as_ref().to_owned();
        let mut files: Vec<PathBuf> = fs::read_dir(&corpus)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        Self {
            corpus,
            seeds: files
                .iter()
                .filter_map(|file| fs::read(file).ok())
                .collect(),
            words: Vec::new(),
        }
    }

    /// And from these.
    pub fn and<T: Into<Vec<u8>>>(mut self, seeds: impl IntoIterator<Item = T>) -> Self {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// What the format knows, to be put in where it does not belong.
    pub fn words(mut self, words: &[&str]) -> Self {
        self.words
            .extend(words.iter().map(|word| word.as_bytes().to_vec()));
        self
    }

    /// Shows `check` every input. A panic goes on after its input was kept.
    ///
    /// # Panics
    /// As `check` does, and without any seed.
    pub fn show(&self, check: impl Fn(&[u8])) {
        assert!(!self.seeds.is_empty(), "there is nothing to mutate");
        for seed in &self.seeds {
            self.try_one(seed, &check);
        }
        let limit = seconds().map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut rng = Rng::with_seed(limit.map_or(1, |_| fastrand::u64(..)));
        for round in 0.. {
            let enough = match limit {
                Some(limit) => Instant::now() >= limit,
                None => round >= ROUNDS,
            };
            if enough {
                return;
            }
            let mutant = self.mutant(&mut rng);
            self.try_one(&mutant, &check);
        }
    }

    fn try_one(&self, input: &[u8], check: impl Fn(&[u8])) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input))) {
            let name = berth_names::Digest::sha256_of(input).hex()[..16].to_owned();
            let path = self.corpus.join(format!("failed-{name}"));
            let kept = fs::create_dir_all(&self.corpus).and_then(|()| fs::write(&path, input));
            eprintln!("failed with the input in {} ({kept:?})", path.display());
            resume_unwind(panic);
        }
    }

    fn mutant(&self, rng: &mut Rng) -> Vec<u8> {
        let mut input = self.seed(rng).to_vec();
        for _ in 0..rng.usize(1..=4) {
            self.change(rng, &mut input);
        }
        input.truncate(MAX);
        input
    }

    fn seed(&self, rng: &mut Rng) -> &[u8] {
        &self.seeds[rng.usize(..self.seeds.len())]
    }

    fn change(&self, rng: &mut Rng, input: &mut Vec<u8>) {
        if input.is_empty() {
            input.extend_from_slice(self.seed(rng));
            return;
        }
        let at = rng.usize(..input.len());
        let span = at..(at + rng.usize(1..64)).min(input.len());
        match rng.u8(..9) {
            0 => input[at] ^= 1 << rng.u8(..8),
            1 => {
                input[at] = *rng
                    .choice(b"\0\n\r\t \"'{}[],:;/\\.=%#-+\x7f\x80\xff")
                    .unwrap_or(&0)
            }
            2 => drop(input.drain(span)),
            3 => {
                let copy = input[span].to_vec();
                let to = rng.usize(..=input.len());
                input.splice(to..to, copy);
            }
            4 => input.truncate(at),
            5 => {
                let other = self.seed(rng);
                let from = rng.usize(..=other.len());
                let until = (from + rng.usize(..256)).min(other.len());
                input.splice(at..at, other[from..until].iter().copied());
            }
            6 if !self.words.is_empty() => {
                let word = self.words[rng.usize(..self.words.len())].clone();
                input.splice(at..at, word);
            }
            7 => {
                let times = rng.usize(1..2000);
                let byte = input[at];
                input.splice(at..at, std::iter::repeat_n(byte, times));
            }
            _ => renumber(rng, input, at),
        }
    }
}

/// Replaces the next number after `at` by one that is hard to keep.
fn renumber(rng: &mut Rng, input: &mut Vec<u8>, at: usize) {
    let digit = |byte: &u8| byte.is_ascii_digit();
    let Some(start) = input[at..].iter().position(digit).map(|found| at + found) else {
        return;
    };
    let length = input[start..].iter().take_while(|byte| digit(byte)).count();
    let number = NUMBERS[rng.usize(..NUMBERS.len())];
    input.splice(start..start + length, number.bytes());
}

fn seconds() -> Option<u64> {
    std::env::var("BERTH_FUZZ_SECS").ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn many_inputs_are_shown_and_those_of_the_corpus_first() {
        let corpus = std::env::temp_dir().join(format!("berth-mutants-{}", std::process::id()));
        fs::create_dir_all(&corpus).unwrap();
        fs::write(corpus.join("one"), b"{\"size\": 12}").unwrap();
        let mutants = Mutants::of(&corpus).words(&["\"digest\""]);
        let (shown, first) = (Cell::new(0), Cell::new(false));
        mutants.show(|input| {
            first.set(first.get() || (shown.get() == 0 && input == b"{\"size\": 12}"));
            shown.set(shown.get() + 1);
        });
        assert!(first.get() && shown.get() > ROUNDS, "{}", shown.get());
        let failed = catch_unwind(AssertUnwindSafe(|| {
            mutants.show(|input| assert!(!input.contains(&0xff)));
        }));
        assert!(failed.is_err());
        let kept = fs::read_dir(&corpus).unwrap().count();
        fs::remove_dir_all(&corpus).unwrap();
        assert_eq!(kept, 2, "the failing input is kept");
    }
}
