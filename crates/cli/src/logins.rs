//! Logins to registries, where Docker's clients keep them: `~/.docker/config.json`, and the
//! credential helpers that it names. What is not understood of the file stays as it is.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value, json};

use crate::contexts::home;
use crate::error::{Error, Result};

/// Under which logins to Docker Hub are kept.
pub const HUB: &str = "https://index.docker.io/v1/";

/// What a helper says where it has nothing.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// No `Debug`: it holds secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: String,
    /// In place of a password.
    pub identity_token: String,
}

impl Login {
    /// As the API takes it in `X-Registry-Auth`.
    pub fn header(&self, server: &str) -> String {
        URL_SAFE.encode(self.json(server).to_string())
    }

    pub fn json(&self, server: &str) -> Value {
        let mut login = json!({ "serveraddress": server });
        if self.identity_token.is_empty() {
            login["username"] = json!(self.user);
            login["password"] = json!(self.password);
        } else {
            login["identitytoken"] = json!(self.identity_token);
        }
        login
    }
}

/// Where Docker's client was told to have its configuration.
static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// From now on.
pub fn live_in(directory: &Path) {
    let _earlier = CHOSEN.set(directory.to_owned());
}

/// Docker's configuration.
pub fn directory() -> PathBuf {
    let variable = || std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let chosen = CHOSEN.get().cloned().or_else(variable);
    chosen.unwrap_or_else(|| home().join(".docker"))
}

#[derive(Debug)]
pub struct Logins {
    path: PathBuf,
    config: Map<String, Value>,
}

impl Logins {
    pub fn open() -> Result<Self> {
        Self::at(directory())
    }

    fn at(directory: PathBuf) -> Result<Self> {
        let path = directory.join("config.json");
        let config = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| Error::BadFile {
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(source) => return Err(Error::file("reading", path)(source)),
        };
        Ok(Self { path, config })
    }

    /// Something else that the file may say, as a text; empty where it does not.
    pub fn setting(&self, key: &str) -> &str {
        let found = self.config.get(key).and_then(Value::as_str);
        found.unwrap_or_default()
    }

    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    pub fn get(&self, server: &str) -> Result<Option<Login>> {
        match self.helper(server) {
            Some(helper) => get_from(&helper, server),
            None => Ok(self.stored(server)),
        }
    }

    /// For `X-Registry-Auth` of a request about this image; empty where there is no login.
    pub fn header_for(&self, image: &str) -> Result<String> {
        let server = server_of(image);
        let login = self.get(&server)?;
        Ok(login.map_or(String::new(), |login| login.header(&server)))
    }

    /// Every login, for `X-Registry-Config` of a build; empty where there is none. A helper that
    /// fails leaves its registry out: the build may not need it.
    pub fn all_header(&self) -> String {
        let names = |field: &str| {
            let found = self.config.get(field).and_then(Value::as_object);
            found.map_or_else(Vec::new, |found| found.keys().cloned().collect())
        };
        let mut all = Map::new();
        for name in [names("auths"), names("credHelpers")].concat() {
            if let Ok(Some(login)) = self.get(&name) {
                let json = login.json(&name);
                all.insert(name, json);
            }
        }
        match all.is_empty() {
            true => String::new(),
            false => URL_SAFE.encode(Value::Object(all).to_string()),
        }
    }

    pub fn put(&mut self, server: &str, login: &Login) -> Result<()> {
        if let Some(helper) = self.helper(server) {
            let (user, secret) = match login.identity_token.as_str() {
                "" => (login.user.as_str(), login.password.as_str()),
                token => ("<token>", token),
            };
            let input = json!({"ServerURL": server, "Username": user, "Secret": secret});
            run(&helper, "store", &input.to_string())?;
            // As a mark that there is one.
            self.with_auths(|auths| auths.insert(server.to_owned(), json!({})));
            return self.store();
        }
        let mut entry = Map::new();
        let pair = format!("{}:{}", login.user, login.password);
        entry.insert("auth".into(), STANDARD.encode(pair).into());
        if !login.identity_token.is_empty() {
            entry.insert("identitytoken".into(), json!(login.identity_token));
        }
        self.with_auths(|auths| auths.insert(server.to_owned(), Value::Object(entry)));
        self.store()
    }

    /// Whether there was one.
    pub fn remove(&mut self, server: &str) -> Result<bool> {
        if let Some(helper) = self.helper(server) {
            let had = get_from(&helper, server)?.is_some();
            if had {
                run(&helper, "erase", server)?;
            }
        }
        let had = self.with_auths(|auths| auths.remove(server).is_some());
        if had {
            self.store()?;
        }
        Ok(had)
    }

    /// Whether passwords are kept in the file itself.
    pub fn is_plain(&self, server: &str) -> bool {
        self.helper(server).is_none()
    }

    fn helper(&self, server: &str) -> Option<String> {
        let own = self
            .config
            .get("credHelpers")
            .and_then(|all| all.get(server));
        let helper = own.or_else(|| self.config.get("credsStore"))?.as_str()?;
        (!helper.is_empty()).then(|| format!("docker-credential-{helper}"))
    }

    fn stored(&self, server: &str) -> Option<Login> {
        let auths = self.config.get("auths")?.as_object()?;
        // Older clients kept the scheme.
        let entry = auths.get(server).or_else(|| {
            let mut others = auths.iter();
            others
                .find(|(key, _)| host_of(key) == host_of(server))
                .map(|(_, entry)| entry)
        })?;
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        let mut login = Login {
            user: text("username").to_owned(),
            password: text("password").to_owned(),
            identity_token: text("identitytoken").to_owned(),
        };
        if let Ok(pair) = STANDARD.decode(text("auth"))
            && let Ok(pair) = String::from_utf8(pair)
            && let Some((user, password)) = pair.split_once(':')
        {
            user.clone_into(&mut login.user);
            password
                .trim_end_matches('\0')
                .clone_into(&mut login.password);
        }
        (login != Login::default()).then_some(login)
    }

    /// Changes the logins that the file holds itself.
    fn with_auths<T>(&mut self, change: impl FnOnce(&mut Map<String, Value>) -> T) -> T {
        let held = self.config.remove("auths");
        let mut auths = match held {
            Some(Value::Object(auths)) => auths,
            _ => Map::new(),
        };
        let outcome = change(&mut auths);
        self.config.insert("auths".to_owned(), Value::Object(auths));
        outcome
    }

    /// For its owner alone, as a whole or not at all.
    fn store(&self) -> Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory).map_err(Error::file("making", directory))?;
        }
        let text = serde_json::to_vec_pretty(&self.config).map_err(Error::Answer)?;
        let fresh = self.path.with_extension("json.new");
        let _left = fs::remove_file(&fresh);
        let write = || -> std::io::Result<()> {
            let mut options = fs::OpenOptions::new();
            let mut file = options
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)
        };
        write().map_err(Error::file("writing", &self.path))
    }
}

fn host_of(server: &str) -> &str {
    let bare = server
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    bare.split('/').next().unwrap_or(bare)
}

/// The registry of an image's name. Without a host it is Docker Hub.
pub fn server_of(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => server(host),
        _ => HUB.to_owned(),
    }
}

/// As `login` and `logout` name it.
pub fn server(given: &str) -> String {
    let host = host_of(given);
    match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    }
}

fn get_from(helper: &str, server: &str) -> Result<Option<Login>> {
    let said = match run(helper, "get", server) {
        Err(Error::Helper { reason, .. }) if reason.contains(NOT_FOUND) => return Ok(None),
        said => said?,
    };
    let answer: Value = serde_json::from_str(&said).map_err(|_| Error::Helper {
        program: helper.to_owned(),
        reason: "its answer is no JSON".to_owned(),
    })?;
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    let (user, secret) = (text("Username"), text("Secret"));
    Ok(Some(match user.as_str() {
        "<token>" => Login {
            identity_token: secret,
            ..Login::default()
        },
        _ => Login {
            user,
            password: secret,
            identity_token: String::new(),
        },
    }))
}

/// Docker's protocol for helpers: the action is the argument, the rest goes in and comes out.
fn run(helper: &str, action: &str, input: &str) -> Result<String> {
    let failed = |reason: String| Error::Helper {
        program: helper.to_owned(),
        reason,
    };
    let mut child = Command::new(helper)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read ends with what it has to say.
        let _unread = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(failed(said)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn login() -> Login {
        Login {
            user: "crew".into(),
            password: "pass:word".into(),
            identity_token: String::new(),
        }
    }

    #[test]
    fn a_login_is_kept_for_its_owner_alone_and_the_rest_of_the_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        fs::write(&file, r#"{"HttpHeaders":{"a":"b"}}"#).unwrap();
        let mut logins = Logins::at(directory.path().into()).unwrap();
        logins.put("r:5000", &login()).unwrap();

        let mut again = Logins::at(directory.path().into()).unwrap();
        assert!(again.get("r:5000").unwrap() == Some(login()));
        assert!(again.get("other").unwrap().is_none());
        assert_eq!(again.config["HttpHeaders"]["a"], "b");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(again.remove("r:5000").unwrap());
        assert!(!again.remove("r:5000").unwrap());
    }

    #[test]
    fn images_are_of_the_registry_that_their_name_begins_with() {
        for (image, expected) in [
            ("busybox", HUB),
            ("crew/app:1", HUB),
            ("docker.io/crew/app", HUB),
            ("localhost/app", "localhost"),
            ("r:5000/app", "r:5000"),
            ("r.example/a/b@sha256:ab", "r.example"),
        ] {
            assert_eq!(server_of(image), expected, "{image}");
        }
        assert_eq!(server("https://r.example/v2/"), "r.example");
        assert_eq!(server(""), HUB);
    }

    #[test]
    fn logins_of_older_clients_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let auth = STANDARD.encode("crew:pass:word");
        let text = json!({"auths": {"https://r.example/v1/": {"auth": auth}}});
        fs::write(directory.path().join("config.json"), text.to_string()).unwrap();
        let logins = Logins::at(directory.path().into()).unwrap();
        assert!(logins.get("r.example").unwrap() == Some(login()));
    }
}
