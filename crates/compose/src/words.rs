//! Lines for a shell, split into words; and how far two words are apart.

/// As the stock client splits `command` and `entrypoint`: quotes and backslashes count, nothing is
/// expanded.
///
/// # Errors
/// Where a quote stays open, or where a shell would see more than one command: nobody wants the rest
/// to be dropped.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                let escaped = match chars.next() {
                    Some('t') => '\t',
                    Some('n') => '\n',
                    Some(other) => other,
                    None => return Err("it ends with a backslash".to_owned()),
                };
                word.get_or_insert_default().push(escaped);
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            (c, None) if c.is_ascii_whitespace() => words.extend(word.take()),
            (';' | '&' | '|' | '<' | '>', None) => {
                return Err(format!(
                    "no shell reads this line, so that {c} means nothing; write sh -c '…', or \
                     quote it"
                ));
            }
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    match quote {
        Some(quote) => Err(format!("a {quote} is not closed")),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

/// Letters to change, add or leave out until both are the same.
pub fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_by_a_shell() {
        for (line, expected) in [
            ("", &[][..]),
            ("  a  b ", &["a", "b"]),
            ("sh -c 'a; b && c'", &["sh", "-c", "a; b && c"]),
            ("a\"b c\"d ''", &["ab cd", ""]),
            (r#"a\ b "c\"d" 'e\f'"#, &["a b", "c\"d", r"e\f"]),
            (r"a\tb", &["a\tb"]),
        ] {
            assert_eq!(split(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for (line, part) in [
            ("a && b", "sh -c"),
            ("a; b", "sh -c"),
            ("a > b", "sh -c"),
            ("a 'b", "' is not closed"),
            ("a\\", "backslash"),
        ] {
            assert!(split(line).unwrap_err().contains(part), "{line}");
        }
    }

    #[test]
    fn distances_are_counted_in_letters() {
        assert_eq!(distance("ports", "port"), 1);
        assert_eq!(distance("image", "imgae"), 2);
        assert_eq!(distance("", "ab"), 2);
    }
}
