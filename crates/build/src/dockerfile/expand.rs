//! Variables in words, and the quotes and escapes around them, as shells know them and BuildKit
//! takes them over: `$x`, `${x}`, `${x:-y}`, `${x-y}`, `${x:+y}`, `${x+y}`, `${x:?y}`, `${x?y}`,
//! `${x#p}`, `${x##p}`, `${x%p}`, `${x%%p}`, `${x/p/r}`, `${x//p/r}`.

use super::glob::Glob;
use super::syntax_error::Problem;

/// How deep `${a:-${b:-…}}` may go.
const DEEPEST: usize = 32;

/// Expands words with the variables that `lookup` knows.
pub struct Expander<'a> {
    pub escape: char,
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
}

/// What becomes of quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Removed,
    Kept,
}

impl Expander<'_> {
    /// One word in, one out; quotes are removed.
    pub fn word(&self, text: &str) -> Result<String, Problem> {
        self.run(text, Quotes::Removed).map(|run| run.text)
    }

    /// The same, cut at white space that is not quoted, also where a variable brought it.
    pub fn words(&self, text: &str) -> Result<Vec<String>, Problem> {
        let mut run = self.run(text, Quotes::Removed)?;
        run.end_word();
        Ok(run.words)
    }

    /// Variables alone: for a here-document, where quotes are letters like others.
    pub fn document(&self, text: &str) -> Result<String, Problem> {
        self.run(text, Quotes::Kept).map(|run| run.text)
    }

    fn run(&self, text: &str, quotes: Quotes) -> Result<Run<'_>, Problem> {
        let mut run = Run {
            expander: self,
            letters: text.chars().collect(),
            at: 0,
            depth: 0,
            text: String::new(),
            words: Vec::new(),
            word: None,
            quotes,
        };
        run.until(None)?;
        Ok(run)
    }
}

struct Run<'a> {
    expander: &'a Expander<'a>,
    letters: Vec<char>,
    at: usize,
    depth: usize,
    text: String,
    words: Vec<String>,
    word: Option<String>,
    quotes: Quotes,
}

impl Run<'_> {
    fn peek(&self) -> Option<char> {
        self.letters.get(self.at).copied()
    }

    fn take(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.at += 1;
        Some(letter)
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    /// A letter that is quoted, or is no white space.
    fn put(&mut self, letter: char) {
        self.text.push(letter);
        self.word.get_or_insert_default().push(letter);
    }

    fn put_open(&mut self, letter: char) {
        if letter.is_whitespace() {
            self.text.push(letter);
            self.end_word();
        } else {
            self.put(letter);
        }
    }

    fn until(&mut self, stop: Option<char>) -> Result<(), Problem> {
        let escape = self.expander.escape;
        while let Some(letter) = self.peek() {
            if Some(letter) == stop {
                return Ok(());
            }
            match letter {
                '\'' if self.quotes == Quotes::Removed => self.single()?,
                '"' if self.quotes == Quotes::Removed => self.double()?,
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|letter| self.put_open(letter));
                }
                _ if letter == escape => {
                    self.at += 1;
                    match (self.take(), self.quotes) {
                        (Some(next), Quotes::Removed) => self.put(next),
                        (Some(next), Quotes::Kept) => {
                            if next != '$' && next != escape {
                                self.put(escape);
                            }
                            self.put(next);
                        }
                        (None, Quotes::Removed) => {}
                        (None, Quotes::Kept) => self.put(escape),
                    }
                }
                _ => {
                    self.at += 1;
                    self.put_open(letter);
                }
            }
        }
        Ok(())
    }

    fn single(&mut self) -> Result<(), Problem> {
        let begin = self.at;
        self.at += 1;
        self.word.get_or_insert_default();
        loop {
            match self.take() {
                Some('\'') => return Ok(()),
                Some(letter) => self.put(letter),
                None => return Err(unended(begin, '\'')),
            }
        }
    }

    fn double(&mut self) -> Result<(), Problem> {
        let begin = self.at;
        self.at += 1;
        self.word.get_or_insert_default();
        let escape = self.expander.escape;
        loop {
            match self.peek() {
                Some('"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some('$') => {
                    let value = self.dollar()?;
                    value.chars().for_each(|letter| self.put(letter));
                }
                Some(letter) if letter == escape => {
                    self.at += 1;
                    match self.take() {
                        Some(next) => {
                            if next != '"' && next != '$' && next != escape {
                                self.put(escape);
                            }
                            self.put(next);
                        }
                        None => return Err(unended(begin, '"')),
                    }
                }
                Some(letter) => {
                    self.at += 1;
                    self.put(letter);
                }
                None => return Err(unended(begin, '"')),
            }
        }
    }

    /// What stands for `$…`.
    fn dollar(&mut self) -> Result<String, Problem> {
        let begin = self.at;
        self.at += 1;
        if self.peek() == Some('{') {
            self.at += 1;
            return self.braces(begin);
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok((self.expander.lookup)(&name).unwrap_or_default())
    }

    fn name(&mut self) -> String {
        match self.peek() {
            Some(special @ ('0'..='9' | '@' | '*' | '#' | '?' | '-' | '!')) => {
                self.at += 1;
                special.to_string()
            }
            _ => {
                let mut name = String::new();
                while let Some(letter) = self.peek() {
                    if !letter.is_ascii_alphanumeric() && letter != '_' {
                        break;
                    }
                    name.push(letter);
                    self.at += 1;
                }
                name
            }
        }
    }

    fn braces(&mut self, begin: usize) -> Result<String, Problem> {
        let name = self.name();
        if name.is_empty() {
            return Err(Problem::new(begin, "${ is not followed by a name")
                .advise("write ${NAME}, or \\$ for a dollar sign"));
        }
        let value = (self.expander.lookup)(&name);
        let Some(modifier) = self.take() else {
            return Err(unclosed(begin));
        };
        let (colon, modifier) = match modifier {
            '}' => return Ok(value.unwrap_or_default()),
            ':' => (true, self.take().ok_or_else(|| unclosed(begin))?),
            other => (false, other),
        };
        let set = value
            .as_ref()
            .is_some_and(|value| !colon || !value.is_empty());
        match modifier {
            '-' | '+' | '?' => {
                let word = self.argument(begin, '}')?;
                match modifier {
                    '-' if set => Ok(value.unwrap_or_default()),
                    '-' => Ok(word),
                    '+' if set => Ok(word),
                    '+' => Ok(String::new()),
                    _ if set => Ok(value.unwrap_or_default()),
                    _ => {
                        let said = if word.is_empty() {
                            "it is not set"
                        } else {
                            &word
                        };
                        Err(Problem::new(begin, format!("{name}: {said}"))
                            .advise(format!("give it with --build-arg {name}=…")))
                    }
                }
            }
            '#' | '%' if !colon => {
                let longest = self.peek() == Some(modifier);
                if longest {
                    self.at += 1;
                }
                let glob = Glob::new(&self.pattern(begin, &['}'])?);
                let value = value.unwrap_or_default();
                Ok(match modifier {
                    '#' => glob.without_prefix(&value, longest).to_owned(),
                    _ => glob.without_suffix(&value, longest).to_owned(),
                })
            }
            '/' if !colon => {
                let all = self.peek() == Some('/');
                if all {
                    self.at += 1;
                }
                let glob = Glob::new(&self.pattern(begin, &['/', '}'])?);
                let with = match self.letters.get(self.at - 1) {
                    Some('/') => self.argument(begin, '}')?,
                    _ => String::new(),
                };
                Ok(glob.replace(&value.unwrap_or_default(), &with, all))
            }
            other => Err(Problem::new(
                begin,
                format!(
                    "${{{name}{}{other}…}} is not known",
                    if colon { ":" } else { "" }
                ),
            )
            .advise("there are :- - :+ + :? ? # ## % %% / and //")),
        }
    }

    /// The word behind an operator, expanded in its turn, up to and with `end`.
    fn argument(&mut self, begin: usize, end: char) -> Result<String, Problem> {
        if self.depth == DEEPEST {
            return Err(Problem::new(begin, "variables are nested too deep"));
        }
        let mut inner = Run {
            expander: self.expander,
            letters: std::mem::take(&mut self.letters),
            at: self.at,
            depth: self.depth + 1,
            text: String::new(),
            words: Vec::new(),
            word: None,
            quotes: self.quotes,
        };
        let outcome = inner.until(Some(end));
        self.letters = inner.letters;
        self.at = inner.at;
        outcome?;
        match self.take() {
            Some(_) => Ok(inner.text),
            None => Err(unclosed(begin)),
        }
    }

    /// A pattern up to and with one of `ends`: variables are expanded, and an escape keeps the
    /// next letter from being special.
    fn pattern(&mut self, begin: usize, ends: &[char]) -> Result<String, Problem> {
        let mut pattern = String::new();
        loop {
            match self.peek() {
                None => return Err(unclosed(begin)),
                Some('$') => pattern.push_str(&self.dollar()?),
                Some(letter) => {
                    self.at += 1;
                    if ends.contains(&letter) {
                        return Ok(pattern);
                    }
                    if letter == self.expander.escape {
                        let next = self.take().ok_or_else(|| unclosed(begin))?;
                        // What ends the pattern loses its escape here; the rest is for the glob.
                        if !ends.contains(&next) {
                            pattern.push('\\');
                        }
                        pattern.push(next);
                    } else {
                        pattern.push(letter);
                    }
                }
            }
        }
    }
}

fn unended(at: usize, quote: char) -> Problem {
    Problem::new(at, format!("the quote {quote} does not end")).advise(format!(
        "close it with {quote}, or write \\{quote} for the letter itself"
    ))
}

fn unclosed(at: usize) -> Problem {
    Problem::new(at, "${ does not end").advise("close it with }")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "x" => Some("value"),
            "empty" => Some(""),
            "path" => Some("/usr/local/lib.tar.gz"),
            "two" => Some("a b"),
            _ => None,
        }
        .map(str::to_owned)
    }

    fn expander() -> Expander<'static> {
        Expander {
            escape: '\\',
            lookup: &lookup,
        }
    }

    #[test]
    fn variables_become_their_values() {
        for (text, expected) in [
            ("a$x", "avalue"),
            ("a${x}b", "avalueb"),
            ("$x$x", "valuevalue"),
            ("$none", ""),
            ("$", "$"),
            ("a$ b", "a$ b"),
            ("$1x", "x"),
            ("\\$x", "$x"),
            ("'$x'", "$x"),
            ("\"$x\"", "value"),
            ("\"\\$x \\a \\\\ \\\"\"", "$x \\a \\ \""),
            ("a\\ b", "a b"),
            ("a'b'\"c\"", "abc"),
            ("end\\", "end"),
            ("${x:-d}", "value"),
            ("${empty:-d}", "d"),
            ("${empty-d}", ""),
            ("${none-d}", "d"),
            ("${none:-a ${x} 'q'}", "a value q"),
            ("${none:-${none:-deep}}", "deep"),
            ("${x:+there}", "there"),
            ("${empty:+there}", ""),
            ("${empty+there}", "there"),
            ("${none+there}", ""),
            ("${x:?msg}", "value"),
            ("${path#*/}", "usr/local/lib.tar.gz"),
            ("${path##*/}", "lib.tar.gz"),
            ("${path%.*}", "/usr/local/lib.tar"),
            ("${path%%.*}", "/usr/local/lib"),
            ("${path%.t?r.gz}", "/usr/local/lib"),
            ("${path#nothing}", "/usr/local/lib.tar.gz"),
            ("${path/l/L}", "/usr/Local/lib.tar.gz"),
            ("${path//l/L}", "/usr/LocaL/Lib.tar.gz"),
            ("${path//\\//_}", "_usr_local_lib.tar.gz"),
            ("${path/usr*}", "/"),
            ("${x//*/$two}", "a b"),
            ("${x#v${none}a}", "lue"),
        ] {
            assert_eq!(expander().word(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        for (text, at, part) in [
            ("ab'c", 2, "does not end"),
            ("a\"c", 1, "does not end"),
            ("a\"c\\", 1, "does not end"),
            ("${x", 0, "does not end"),
            ("${", 0, "not followed by a name"),
            ("${}", 0, "not followed by a name"),
            ("a${x:=1}", 1, "is not known"),
            ("${x^^}", 0, "is not known"),
            ("${none:?give it}", 0, "none: give it"),
            ("${none?}", 0, "none: it is not set"),
            ("${x:-a", 0, "does not end"),
            ("${x#a", 0, "does not end"),
            ("${x/a/b", 0, "does not end"),
        ] {
            let problem = expander().word(text).unwrap_err();
            assert_eq!(problem.at, at, "{text:?}: {problem:?}");
            assert!(problem.what.contains(part), "{text:?}: {problem:?}");
        }
        let deep = "${n:-".repeat(40) + &"}".repeat(40);
        assert!(expander().word(&deep).is_err());
    }

    #[test]
    fn words_are_cut_where_nothing_is_quoted() {
        let words = |text| expander().words(text).unwrap();
        assert_eq!(words("80 $two \"$two\" ''"), ["80", "a", "b", "a b", ""]);
        assert_eq!(words("$none"), Vec::<String>::new());
    }

    #[test]
    fn a_document_keeps_its_quotes() {
        let text = "it's \"$x\" \\$x \\n $none\n";
        assert_eq!(
            expander().document(text).unwrap(),
            "it's \"value\" $x \\n \n"
        );
    }
}
