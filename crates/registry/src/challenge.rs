//! `WWW-Authenticate` (RFC 9110, 11.6.1): a header may hold several challenges, and a message
//! several headers.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// One challenge of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Challenge {
    /// Lowercase.
    pub(crate) scheme: String,
    /// Names are lowercase, values unquoted.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Reads all challenges of an answer.
pub(crate) fn all(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    values
        .filter_map(|header| header.to_str().ok())
        .flat_map(parse)
        .collect()
}

/// Reads all challenges of one header. What cannot be understood is passed over.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return challenges;
        }
        let (word, after) = split_while(rest, is_token);
        let next = after.trim_start();
        rest = match (next.strip_prefix('='), challenges.last_mut()) {
            _ if word.is_empty() => skip_item(rest),
            (Some(value), Some(challenge)) => {
                let (value, after) = take_value(value.trim_start());
                challenge
                    .parameters
                    .push((word.to_ascii_lowercase(), value));
                after
            }
            (Some(_), None) => skip_item(rest),
            (None, _) => {
                challenges.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
                skip_token68(next)
            }
        };
    }
}

/// Schemes such as Negotiate carry a bare word instead of parameters.
fn skip_token68(text: &str) -> &str {
    let (_, after) = split_while(text, |b| is_token(b) || b == b'/');
    match after.trim_start_matches('=').trim_start() {
        end if end.is_empty() || end.starts_with(',') => end,
        _ => text,
    }
}

fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, after) = split_while(text, |b| !matches!(b, b',' | b' ' | b'\t'));
        return (value.to_owned(), after);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

fn skip_item(text: &str) -> &str {
    text.find(',').map_or("", |comma| &text[comma..])
}

fn split_while(text: &str, accept: impl Fn(u8) -> bool) -> (&str, &str) {
    // Only ASCII is ever accepted or stopped at, so the cut is at a character boundary unless
    // everything but separators is accepted, where it is at a separator.
    let end = text.bytes().position(|b| !accept(b)).unwrap_or(text.len());
    text.split_at(end)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(header: &str) -> String {
        let show = |c: Challenge| {
            let parameters: Vec<_> = c
                .parameters
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            format!("{}[{}]", c.scheme, parameters.join(";"))
        };
        parse(header)
            .into_iter()
            .map(show)
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let cases = [
            ("", ""),
            ("Basic", "basic[]"),
            (
                "Basic realm=\"Registry Realm\"",
                "basic[realm=Registry Realm]",
            ),
            (
                "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",\
                 scope=\"repository:a/b:pull,push\"",
                "bearer[realm=https://auth.docker.io/token;service=registry.docker.io;\
                 scope=repository:a/b:pull,push]",
            ),
            (
                "BEARER Realm=https://x/t , SERVICE = y",
                "bearer[realm=https://x/t;service=y]",
            ),
            (
                "Basic realm=\"a, Bearer realm=b\", Bearer realm=\"c\"",
                "basic[realm=a, Bearer realm=b] bearer[realm=c]",
            ),
            ("Negotiate, Basic realm=x", "negotiate[] basic[realm=x]"),
            (
                "Negotiate YWJj==, Bearer realm=\"x\"",
                "negotiate[] bearer[realm=x]",
            ),
            (
                r#"Basic realm="say \"hi\"\\", charset="UTF-8""#,
                r#"basic[realm=say "hi"\;charset=UTF-8]"#,
            ),
            (",, Basic realm=x ,,", "basic[realm=x]"),
            // Damaged headers give what can be read and nothing else.
            ("Bearer realm=\"unterminated", "bearer[realm=unterminated]"),
            ("realm=\"x\", Basic", "basic[]"),
            ("\"\", é, Basic realm=é", "basic[realm=é]"),
            ("Bearer realm", "bearer[]"),
            ("====", ""),
        ];
        for (header, expected) in cases {
            assert_eq!(shown(header), expected, "{header:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_fail(header in "\\PC*") {
            parse(&header);
        }

        #[test]
        fn quoted_values_come_back(value in "[ -~]*") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let challenges = parse(&format!("Bearer a=b, realm=\"{quoted}\""));
            proptest::prop_assert_eq!(challenges[0].parameter("realm"), Some(value.as_str()));
        }
    }
}
