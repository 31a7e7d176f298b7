use super::command::{Limit, fits};
use super::*;
use std::process::{Command as Now, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

#[test]
fn repositories_are_told_from_files() {
    let parse = |source: &str| Repository::parse(source).unwrap();
    let whole = |url: &str, reference: &str, directory: &str| {
        Some(Repository {
            url: url.into(),
            reference: reference.into(),
            directory: directory.into(),
        })
    };
    let https = "https://h/x/y.git";
    assert_eq!(parse(https), whole(https, "HEAD", ""));
    assert_eq!(parse(&format!("{https}#v1:a/b")), whole(https, "v1", "a/b"));
    assert_eq!(parse(&format!("{https}#:a")), whole(https, "HEAD", "a"));
    assert_eq!(parse("git://h/y#b"), whole("git://h/y", "b", ""));
    for file in [
        "https://h/x.tar",
        "x.git",
        "/a/b.git",
        "file:///x.git",
        "https://h/x#y.git",
    ] {
        assert_eq!(parse(file), None, "{file}");
    }
    for refused in [
        "git@h:x/y.git",
        "ssh://h/x.git",
        "https://h/x.git#--upload-pack=x",
        "https://h/x.git#a b",
        "https://h/x.git#a..b",
    ] {
        assert!(Repository::parse(refused).is_err(), "{refused}");
    }
}

#[test]
fn a_branch_comes_before_a_tag_and_a_tag_is_its_commit() {
    let (a, b, c) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
    let tags = format!("{a}\trefs/tags/v1\n{b}\trefs/tags/v1^{{}}\n");
    assert_eq!(chosen(&tags, "v1"), Some(b));
    assert_eq!(
        chosen(&format!("{tags}{c}\trefs/heads/v1\n"), "v1"),
        Some(c.clone())
    );
    assert_eq!(chosen(&format!("{c}\tHEAD\n"), "HEAD"), Some(c));
    assert_eq!(chosen("--x\tHEAD\nodd", "HEAD"), None);
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Now::new("git")
        .args([
            "-c",
            "user.name=n",
            "-c",
            "user.email=e@e",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_COMMITTER_DATE", "1700000000 +0000")
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A git daemon on a port of its own, which ends with this.
struct Served {
    child: std::process::Child,
    url: String,
    commit: String,
    _scratch: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        // It serves by children of its own.
        let group = Pid::from_raw(self.child.id() as i32).unwrap();
        let _gone = kill_process_group(group, Signal::KILL);
        let _gone = self.child.wait();
    }
}

fn served() -> Option<Served> {
    use std::os::unix::process::CommandExt;
    let scratch = tempfile::tempdir().unwrap();
    let work = scratch.path().join("work.git");
    fs::create_dir_all(work.join("sub")).unwrap();
    if Now::new("git").arg("--version").output().is_err() {
        println!("skipped: git is not installed");
        return None;
    }
    git(&work, &["init", "-q"]);
    fs::write(work.join("sub/file"), "first\n").unwrap();
    std::os::unix::fs::symlink("/etc", work.join("out")).unwrap();
    git(&work, &["add", "."]);
    git(&work, &["commit", "-q", "-m", "one"]);
    git(&work, &["tag", "-a", "-m", "t", "v1"]);
    let commit = git(&work, &["rev-parse", "HEAD"]);
    fs::write(work.join("sub/file"), "second\n").unwrap();
    fs::write(work.join("large"), vec![7; 300_000]).unwrap();
    git(&work, &["add", "."]);
    git(&work, &["commit", "-q", "-m", "two"]);
    let port = {
        let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        taken.local_addr().unwrap().port()
    };
    let child = Now::new("git")
        .args([
            "daemon",
            "--listen=127.0.0.1",
            "--export-all",
            "--reuseaddr",
        ])
        .arg(format!("--port={port}"))
        .arg(format!("--base-path={}", scratch.path().display()))
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(Served {
        child,
        url: format!("git://127.0.0.1:{port}/work.git"),
        commit,
        _scratch: scratch,
    })
}

fn read(tree: &Checkout, path: &str) -> String {
    let mut text = String::new();
    tree.open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn a_repository_is_fetched_as_it_was_at_a_commit() {
    let Some(served) = served() else { return };
    let root = tempfile::tempdir().unwrap();
    let cancel = CancellationToken::new();
    let at = |fragment: &str| Repository::parse(&format!("{}#{fragment}", served.url));
    let tag = at("v1").unwrap().unwrap();
    let commit = tag.commit(root.path(), &cancel).await.unwrap();
    assert_eq!(commit, served.commit);
    let tree = tag
        .check_out(&commit, false, root.path(), &cancel)
        .await
        .unwrap();
    assert_eq!(read(&tree, "sub/file"), "first\n");
    assert_eq!(tree.list("").unwrap(), ["out", "sub"]);
    assert_eq!(
        tree.node("sub/file").unwrap().unwrap().attributes.mtime,
        1_700_000_000
    );
    drop(tree);
    // A commit alone, of which a directory.
    let old = at(&format!("{}:sub", served.commit)).unwrap().unwrap();
    let tree = old
        .check_out(&served.commit, true, root.path(), &cancel)
        .await
        .unwrap();
    assert_eq!(tree.list("").unwrap(), [".git", "file"]);
    drop(tree);
    let newest = at("main").unwrap().unwrap();
    let commit = newest.commit(root.path(), &cancel).await.unwrap();
    let tree = newest
        .check_out(&commit, false, root.path(), &cancel)
        .await
        .unwrap();
    assert_eq!(read(&tree, "sub/file"), "second\n");
    drop(tree);
    // A link of the repository's leads nowhere here.
    let out = at("main:out").unwrap().unwrap();
    let error = out
        .check_out(&commit, false, root.path(), &cancel)
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("is no directory"), "{error}");
    let none = at("none")
        .unwrap()
        .unwrap()
        .commit(root.path(), &cancel)
        .await;
    assert!(none.unwrap_err().to_string().contains(&served.url));
    assert_eq!(
        fs::read_dir(root.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn what_takes_too_much_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir(scratch.path().join("d")).unwrap();
    fs::write(scratch.path().join("d/f"), vec![1; 100_000]).unwrap();
    let fits = |bytes, entries| fits(scratch.path(), &mut Limit { bytes, entries });
    assert!(fits(1 << 20, 2));
    assert!(!fits(50_000, 100) && !fits(1 << 20, 1));
}

#[tokio::test]
async fn a_cancelled_fetch_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    // Takes connections, and says nothing.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("git://{}/x.git", silent.local_addr().unwrap());
    let repository = Repository::parse(&url).unwrap().unwrap();
    let cancel = CancellationToken::new();
    let stop = async {
        let _ = silent.accept();
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(repository.commit(root.path(), &cancel), stop);
    assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}
