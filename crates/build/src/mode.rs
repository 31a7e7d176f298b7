//! `--chmod`: in octal, or by who may do what.

use crate::error::{Error, Result};

/// A mode as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Octal(u32),
    /// `u=rwX,go-w`.
    Symbolic(Vec<Clause>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// Of `0o700`, `0o070` and `0o007`.
    who: u32,
    operator: char,
    /// Of `0o777`.
    bits: u32,
    /// Executable where it is a directory or is already.
    conditional: bool,
}

impl Mode {
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "--chmod={text} is no mode: write it as in 0755 or u=rwX,go=rX"
            ))
        };
        if text.chars().all(|letter| letter.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok();
            return Ok(Self::Octal(
                mode.filter(|mode| *mode <= 0o7777).ok_or_else(wrong)?,
            ));
        }
        let clauses: Option<Vec<Clause>> = text.split(',').map(clause).collect();
        clauses.map(Self::Symbolic).ok_or_else(wrong)
    }

    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(octal) => *octal,
            Self::Symbolic(clauses) => clauses.iter().fold(mode, |mode, clause| {
                let runs = is_directory || mode & 0o111 != 0;
                let execute = if clause.conditional && runs { 0o111 } else { 0 };
                let bits = (clause.bits | execute) & clause.who;
                match clause.operator {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    _ => (mode & !clause.who) | bits,
                }
            }),
        }
    }
}

fn clause(text: &str) -> Option<Clause> {
    let at = text.find(['+', '-', '='])?;
    let (who, rest) = text.split_at(at);
    let mut letters = rest.chars();
    let operator = letters.next()?;
    let mut clause = Clause {
        who: 0,
        operator,
        bits: 0,
        conditional: false,
    };
    for letter in who.chars() {
        clause.who |= match letter {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            'a' => 0o777,
            _ => return None,
        };
    }
    if who.is_empty() {
        clause.who = 0o777;
    }
    for letter in letters {
        match letter {
            'r' => clause.bits |= 0o444,
            'w' => clause.bits |= 0o222,
            'x' => clause.bits |= 0o111,
            'X' => clause.conditional = true,
            _ => return None,
        }
    }
    Some(clause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_numbers_or_words() {
        let mode = |text, from, is_directory| Mode::parse(text).unwrap().apply(from, is_directory);
        assert_eq!(mode("0640", 0o777, false), 0o640);
        assert_eq!(mode("u=rwX,go=rX", 0o600, true), 0o755);
        assert_eq!(mode("u=rwX,go=rX", 0o600, false), 0o644);
        assert_eq!(mode("a+x", 0o600, false), 0o711);
        assert_eq!(mode("go-rwx", 0o4777, false), 0o4700);
        for bad in ["", "8", "99999", "u", "u=q", "z=r"] {
            assert!(Mode::parse(bad).is_err(), "{bad}");
        }
    }
}
