//! Files from elsewhere, by HTTP: what `ADD` names by its URL.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use berth_names::Digest;
use reqwest::header::LAST_MODIFIED;
use reqwest::redirect::Policy;
use sha2::Digest as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::error::{Error, Result, blocking};
use crate::layer::Attributes;
use crate::tree::{Node, NodeKind, Tree};

/// Bytes of one file.
const LARGEST: u64 = 32 << 30;
const REDIRECTS: usize = 10;
const TO_CONNECT: Duration = Duration::from_secs(30);
/// Without a byte.
const SILENCE: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("berth/", env!("CARGO_PKG_VERSION"));

/// What is fetched, and not read from the context.
pub fn is_one(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// A tree of one file.
#[derive(Debug)]
pub struct Fetched {
    pub name: String,
    pub digest: Digest,
    pub file: File,
    size: u64,
    mtime: u64,
}

/// The name that a file has by its URL.
///
/// # Errors
/// If the URL has none, and the destination is a directory.
pub fn name(url: &str, destination: &str) -> Result<String> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let rest = path.split_once("://").map_or(path, |(_, rest)| rest);
    let last = rest.split_once('/').map_or("", |(_, path)| path);
    let last = last.rsplit('/').next().unwrap_or_default();
    match (last, destination.ends_with('/')) {
        ("" | "." | "..", true) => Err(Error::invalid(format!(
            "{url} has no file's name at its end: name the file in the destination"
        ))),
        ("" | "." | "..", false) => Ok("file".to_owned()),
        (last, _) => Ok(last.to_owned()),
    }
}

/// Fetches a file into `spool`.
///
/// # Errors
/// If the server does not answer with a file, it breaks off, or it is too large.
pub async fn fetch(url: &str, name: String, spool: File) -> Result<Fetched> {
    fetch_within(url, name, spool, LARGEST).await
}

async fn fetch_within(url: &str, name: String, spool: File, largest: u64) -> Result<Fetched> {
    let failed = |source: reqwest::Error| Error::Fetch {
        url: url.to_owned(),
        source: source.without_url(),
    };
    let client = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(Policy::limited(REDIRECTS))
        .https_only(url.starts_with("https://"))
        .connect_timeout(TO_CONNECT)
        .read_timeout(SILENCE)
        .build()
        .map_err(failed)?;
    let answer = client.get(url).send().await.map_err(failed)?;
    let mut answer = answer.error_for_status().map_err(failed)?;
    // What leads to no address of HTTP is not followed, and no file either.
    if !answer.status().is_success() {
        let what = format!("{url} answered {}, and no file", answer.status());
        return Err(Error::invalid(what));
    }
    let changed = answer.headers().get(LAST_MODIFIED);
    let changed =
        changed.and_then(|value| OffsetDateTime::parse(value.to_str().ok()?, &Rfc2822).ok());
    let mtime = changed.and_then(|changed| u64::try_from(changed.unix_timestamp()).ok());
    let (mut file, mut hash, mut size) = (spool, sha2::Sha256::new(), 0_u64);
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        size += piece.len() as u64;
        if size > largest {
            let what = format!("{url} is larger than {largest} bytes");
            return Err(Error::invalid(what));
        }
        (file, hash) = blocking("writing what is fetched", move || {
            hash.update(&piece);
            file.write_all(&piece).map_err(Error::Layer)?;
            Ok((file, hash))
        })
        .await?;
    }
    Ok(Fetched {
        name,
        digest: Digest::from_sha256(hash.finalize().into()),
        file,
        size,
        mtime: mtime.unwrap_or(0),
    })
}

impl Tree for Fetched {
    fn node(&self, path: &str) -> Result<Option<Node>> {
        let (kind, mode) = match path {
            "" => (NodeKind::Directory, 0o755),
            path if path == self.name => (NodeKind::File { size: self.size }, 0o600),
            _ => return Ok(None),
        };
        let attributes = Attributes {
            mode,
            mtime: self.mtime,
            ..Attributes::default()
        };
        Ok(Some(Node { kind, attributes }))
    }

    fn list(&self, _: &str) -> Result<Vec<String>> {
        Ok(vec![self.name.clone()])
    }

    fn open(&self, _: &str) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(Reader {
            file: &self.file,
            offset: 0,
        }))
    }
}

struct Reader<'f> {
    file: &'f File,
    offset: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    /// Answers each request with what `answer` makes of its path, until the process ends.
    fn server(answer: impl Fn(&str, &mut dyn Write) + Send + 'static) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(&stream).lines();
                let first = lines.next().unwrap().unwrap();
                for line in lines {
                    if line.is_ok_and(|line| line.is_empty()) {
                        break;
                    }
                }
                let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                answer(&path, &mut stream);
            }
        });
        format!("http://{address}")
    }

    async fn got(url: String, largest: u64) -> Result<String> {
        berth_registry::choose_crypto();
        let spool = tempfile::tempfile().unwrap();
        let fetched = fetch_within(&url, "f".into(), spool, largest).await?;
        let mut text = String::new();
        fetched
            .open("f")
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(fetched.digest, Digest::sha256_of(text.as_bytes()));
        Ok(text)
    }

    #[tokio::test]
    async fn what_servers_do_has_limits() {
        let base = server(|path, out| {
            let _gone = match path {
                "/file" => write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext"),
                "/once" => write!(
                    out,
                    "HTTP/1.1 302 Found\r\nLocation: /file\r\nContent-Length: 0\r\n\r\n"
                ),
                "/cut" => write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntext"),
                "/file-on-disk" => write!(
                    out,
                    "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n"
                ),
                "/endless" => {
                    let _gone = write!(out, "HTTP/1.1 200 OK\r\n\r\n");
                    while out.write_all(&[b'x'; 4096]).is_ok() {}
                    Ok(())
                }
                round => write!(
                    out,
                    "HTTP/1.1 302 Found\r\nLocation: {round}x\r\nContent-Length: 0\r\n\r\n"
                ),
            };
        });
        for path in ["/file", "/once"] {
            assert_eq!(got(format!("{base}{path}"), 100).await.unwrap(), "text");
        }
        for (path, problem) in [
            ("/cut", "cannot fetch"),
            ("/round", "cannot fetch"),
            ("/file-on-disk", "answered 302"),
        ] {
            let error = got(format!("{base}{path}"), 100).await.unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
        let error = got(format!("{base}/endless"), 100_000).await.unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }

    #[test]
    fn a_file_is_called_as_its_url_ends() {
        let called = |url: &str| name(url, "/d/").ok();
        assert_eq!(called("https://h/a/b.tar?x=/y#z").as_deref(), Some("b.tar"));
        assert_eq!(called("http://h/"), None);
        assert_eq!(called("http://h"), None);
        assert_eq!(called("http://h/a/.."), None);
        assert_eq!(name("http://h/", "/d/file").unwrap(), "file");
        assert!(is_one("http://h/x") && !is_one("h/x") && !is_one("git@h:x"));
    }
}
