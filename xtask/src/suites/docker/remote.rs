//! The API over the network: TLS both ways.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::session::{IMAGE, Session};
use super::{Step, contains, same};
use crate::command::{output, retry, run};

pub const STEPS: &[(&str, Step)] = &[
    ("remote: a client with a certificate is served", known),
    ("remote: nobody else is", others),
];

const SOON: Duration = Duration::from_secs(10);

fn files(session: &Session) -> PathBuf {
    session.place.scratch().join("tls")
}

fn openssl(arguments: &[&str], directory: &Path) -> Result<()> {
    run(Command::new("openssl")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stderr(Stdio::null()))
}

/// An authority, and a certificate of its own for each name.
fn make_certificates(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).context("making a directory for certificates")?;
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    for authority in ["ca", "stranger-ca"] {
        let (kept, made) = (format!("{authority}-key.pem"), format!("{authority}.pem"));
        let subject = format!("/CN={authority}");
        let rest = [
            "-x509", "-days", "2", "-subj", &subject, "-keyout", &kept, "-out", &made,
        ];
        openssl(&[&["req"][..], &key, &rest].concat(), directory)?;
    }
    fs::write(
        directory.join("server.ext"),
        "subjectAltName=IP:127.0.0.1\n",
    )?;
    fs::write(
        directory.join("client.ext"),
        "extendedKeyUsage=clientAuth\n",
    )?;
    for (name, authority, extension) in [
        ("server", "ca", "server.ext"),
        ("client", "ca", "client.ext"),
        ("stranger", "stranger-ca", "client.ext"),
    ] {
        let [kept, asked, made] =
            ["-key.pem", ".csr", ".pem"].map(|ending| format!("{name}{ending}"));
        let subject = format!("/CN={name}");
        let rest = ["-subj", &subject, "-keyout", &kept, "-out", &asked];
        openssl(&[&["req"][..], &key, &rest].concat(), directory)?;
        let (issuer, issuer_key) = (format!("{authority}.pem"), format!("{authority}-key.pem"));
        openssl(
            &[
                "x509",
                "-req",
                "-in",
                &asked,
                "-CA",
                &issuer,
                "-CAkey",
                &issuer_key,
                "-CAcreateserial",
                "-days",
                "2",
                "-extfile",
                extension,
                "-out",
                &made,
            ],
            directory,
        )?;
    }
    Ok(())
}

/// The CLI, to the daemon's port, as whoever has the certificate `name`.
fn docker(session: &Session, name: &str, arguments: &[&str]) -> Result<(bool, String)> {
    let at = |file: &str| files(session).join(file).display().to_string();
    let address = fs::read_to_string(files(session).join("address"))?;
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", "60"])
        .arg(&session.docker.program)
        .args(["--host", &format!("tcp://{address}"), "--tlsverify"])
        .args(["--tlscacert", &at("ca.pem")])
        .args(["--tlscert", &at(&format!("{name}.pem"))])
        .args(["--tlskey", &at(&format!("{name}-key.pem"))])
        .args(arguments)
        .env("DOCKER_CONFIG", &session.docker.config)
        .env_remove("DOCKER_HOST");
    let output = output(&mut command)?;
    let said =
        [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
    Ok((output.status.success(), said.concat()))
}

fn known(session: &mut Session) -> Result<()> {
    session.have_daemon()?;
    let directory = files(session);
    make_certificates(&directory)?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    fs::write(directory.join("address"), address.to_string())?;
    let at = |file: &str| directory.join(file).display().to_string();
    session.place.configure(&format!(
        "[docker.remote]\naddress = \"{address}\"\ntls-cert = {:?}\ntls-key = {:?}\ntls-client-ca = {:?}\n",
        at("server.pem"),
        at("server-key.pem"),
        at("ca.pem"),
    ))?;
    session.restart_daemon()?;
    let served = retry(SOON, || {
        let (served, said) = docker(session, "client", &["version"])?;
        ensure!(served, "{said}");
        Ok(said)
    })?;
    contains("version", &served, "API version")?;
    // Both directions, each closed by itself, over TLS as well.
    let line = [
        "run",
        "--rm",
        IMAGE,
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ];
    let (_, said) = docker(session, "client", &line)?;
    same("streams", said.as_str(), "out\nerr\n")
}

fn others(session: &mut Session) -> Result<()> {
    let (served, said) = docker(session, "stranger", &["version"])?;
    ensure!(!served, "a stranger's certificate was taken: {said}");
    let address = fs::read_to_string(files(session).join("address"))?;
    let authority = files(session).join("ca.pem").display().to_string();
    for (url, more) in [
        (format!("http://{address}/_ping"), &[][..]),
        (
            format!("https://{address}/_ping"),
            &["--cacert", &authority],
        ),
    ] {
        let asked = output(
            Command::new("curl")
                .args(["-sS", "-m", "5", &url])
                .args(more),
        )?;
        let said = String::from_utf8_lossy(&asked.stdout).into_owned();
        ensure!(
            !asked.status.success() && !said.contains("OK"),
            "{url}: {said}"
        );
    }
    session.place.configure("")?;
    session.restart_daemon()
}
