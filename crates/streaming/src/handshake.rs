//! From an HTTP request to the protocol that its client wants.

use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::request::Request;
use crate::status::Form;
use crate::websocket::Channels;

pub type Answer = Response<Full<Bytes>>;

const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";

const REMOTE_COMMAND: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
const PORT_FORWARD: [&str; 1] = ["portforward.k8s.io"];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// What the connection will carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `resizes`: a terminal has a stream for its size.
    Spdy {
        form: Form,
        resizes: bool,
    },
    WebSocket(Channels),
    /// SPDY inside WebSocket messages.
    Tunnel,
}

/// The protocol, and the answer that begins it; or the answer that refuses.
pub fn negotiate(request: &Request, headers: &HeaderMap) -> Result<(Protocol, Answer), Answer> {
    let upgrade = text(headers, &UPGRADE).to_ascii_lowercase();
    let connection = text(headers, &CONNECTION).to_ascii_lowercase();
    if !connection.contains("upgrade") {
        return Err(refusal(
            StatusCode::BAD_REQUEST,
            "this is a stream: the request must ask for an upgrade to SPDY/3.1 or to websocket",
        ));
    }
    if upgrade.contains("websocket") {
        return websocket(request, headers);
    }
    if upgrade.contains("spdy/3.1") {
        return spdy(request, headers);
    }
    Err(refusal(
        StatusCode::BAD_REQUEST,
        "the upgrade must be to SPDY/3.1 or to websocket",
    ))
}

fn spdy(request: &Request, headers: &HeaderMap) -> Result<(Protocol, Answer), Answer> {
    let spoken: &[&'static str] = match request {
        Request::PortForward(_) => &PORT_FORWARD,
        Request::Exec(_) | Request::Attach(_) => &REMOTE_COMMAND,
    };
    let wanted = list(headers, &PROTOCOL);
    if wanted.is_empty() {
        return Err(refusal(
            StatusCode::BAD_REQUEST,
            "the header X-Stream-Protocol-Version is missing",
        ));
    }
    let Some(chosen) = first_spoken(&wanted, spoken) else {
        let mut answer = refusal(
            StatusCode::FORBIDDEN,
            "none of the protocols in X-Stream-Protocol-Version is spoken",
        );
        for name in spoken {
            let value = HeaderValue::from_static(name);
            answer.headers_mut().append(ACCEPTED, value);
        }
        return Err(answer);
    };
    let mut answer = switching(SPDY);
    let value = HeaderValue::from_static(chosen);
    answer.headers_mut().insert(PROTOCOL, value);
    let version = REMOTE_COMMAND.iter().position(|name| *name == chosen);
    let protocol = Protocol::Spdy {
        form: if version == Some(0) {
            Form::Json
        } else {
            Form::Text
        },
        resizes: version.is_some_and(|version| version <= 1),
    };
    Ok((protocol, answer))
}

fn websocket(request: &Request, headers: &HeaderMap) -> Result<(Protocol, Answer), Answer> {
    let key = headers.get(SEC_WEBSOCKET_KEY);
    let Some(key) = key.filter(|_| text(headers, &SEC_WEBSOCKET_VERSION) == "13") else {
        return Err(refusal(
            StatusCode::BAD_REQUEST,
            "a websocket needs Sec-WebSocket-Key and Sec-WebSocket-Version: 13",
        ));
    };
    let wanted = list(headers, &SEC_WEBSOCKET_PROTOCOL);
    let spoken: &[&'static str] = match request {
        Request::PortForward(_) => &[TUNNEL, Channels::NAMES[1], Channels::NAMES[2]],
        Request::Exec(_) | Request::Attach(_) => &Channels::NAMES,
    };
    let chosen = first_spoken(&wanted, spoken);
    if chosen.is_none() && !wanted.is_empty() {
        return Err(refusal(
            StatusCode::FORBIDDEN,
            &format!(
                "none of the websocket protocols asked for is spoken; these are: {}",
                spoken.join(", ")
            ),
        ));
    }
    if let (Request::PortForward(forward), true) = (request, chosen != Some(TUNNEL))
        && forward.ports.is_empty()
    {
        return Err(refusal(
            StatusCode::BAD_REQUEST,
            "this websocket protocol needs the ports in the PortForward call",
        ));
    }
    let mut answer = switching("websocket");
    let accept = derive_accept_key(key.as_bytes());
    let headers = answer.headers_mut();
    if let Ok(accept) = HeaderValue::try_from(accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(chosen) = chosen {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
    }
    let protocol = match chosen {
        Some(TUNNEL) => Protocol::Tunnel,
        chosen => Protocol::WebSocket(Channels::named(chosen)),
    };
    Ok((protocol, answer))
}

/// The first that the client wants and we speak.
fn first_spoken(wanted: &[&str], spoken: &[&'static str]) -> Option<&'static str> {
    wanted
        .iter()
        .find_map(|wanted| spoken.iter().find(|name| *name == wanted).copied())
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

/// Values separated by commas or given in many lines.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect()
}

fn switching(to: &'static str) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    answer
}

pub fn refusal(status: StatusCode, message: &str) -> Answer {
    let mut answer = Answer::new(Full::from(format!("{message}\n")));
    *answer.status_mut() = status;
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(CONNECTION, close);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Exec, PortForward};

    fn exec() -> Request {
        Request::Exec(Exec {
            container: "c".into(),
            command: vec!["true".into()],
            streams: Default::default(),
        })
    }

    fn forward(ports: &[u16]) -> Request {
        Request::PortForward(PortForward {
            pod: "p".into(),
            ports: ports.to_vec(),
        })
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn spdy_headers(protocols: &[&str]) -> HeaderMap {
        let mut pairs = vec![("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        pairs.extend(protocols.iter().map(|p| ("x-stream-protocol-version", *p)));
        headers(&pairs)
    }

    fn websocket_headers(protocols: &[&str]) -> HeaderMap {
        let mut pairs = vec![
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        pairs.extend(protocols.iter().map(|p| ("sec-websocket-protocol", *p)));
        headers(&pairs)
    }

    #[test]
    fn the_clients_first_choice_that_is_spoken_is_taken() {
        for (protocols, form, resizes) in [
            (
                &["v9.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"][..],
                Form::Json,
                true,
            ),
            (&["v3.channel.k8s.io, v4.channel.k8s.io"], Form::Text, true),
            (&["v2.channel.k8s.io"], Form::Text, false),
        ] {
            let (protocol, answer) = negotiate(&exec(), &spdy_headers(protocols)).unwrap();
            assert_eq!(protocol, Protocol::Spdy { form, resizes });
            assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
            assert_eq!(answer.headers()["upgrade"], "SPDY/3.1");
        }
    }

    #[test]
    fn a_websocket_is_accepted_as_the_standard_says() {
        let asked = websocket_headers(&["v5.channel.k8s.io"]);
        let (protocol, answer) = negotiate(&exec(), &asked).unwrap();
        assert!(matches!(protocol, Protocol::WebSocket(channels) if channels.closes));
        // The example of RFC 6455, section 1.3.
        assert_eq!(
            answer.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(
            answer.headers()["sec-websocket-protocol"],
            "v5.channel.k8s.io"
        );
        let (_, answer) = negotiate(&exec(), &websocket_headers(&[])).unwrap();
        assert!(!answer.headers().contains_key("sec-websocket-protocol"));
    }

    #[test]
    fn port_forward_is_tunnelled_or_needs_its_ports() {
        let (protocol, _) = negotiate(&forward(&[]), &websocket_headers(&[TUNNEL])).unwrap();
        assert_eq!(protocol, Protocol::Tunnel);
        let channels = websocket_headers(&["v4.channel.k8s.io"]);
        assert!(negotiate(&forward(&[80]), &channels).is_ok());
        let refused = negotiate(&forward(&[]), &channels).unwrap_err();
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn what_is_not_spoken_is_refused_in_words() {
        use StatusCode as Code;
        for (asked, code) in [
            (headers(&[]), Code::BAD_REQUEST),
            (
                headers(&[("connection", "upgrade"), ("upgrade", "h2c")]),
                Code::BAD_REQUEST,
            ),
            (spdy_headers(&[]), Code::BAD_REQUEST),
            (spdy_headers(&["v9.channel.k8s.io"]), Code::FORBIDDEN),
            (websocket_headers(&["chat"]), Code::FORBIDDEN),
            (
                headers(&[("connection", "upgrade"), ("upgrade", "websocket")]),
                Code::BAD_REQUEST,
            ),
        ] {
            let refused = negotiate(&exec(), &asked).unwrap_err();
            assert_eq!(refused.status(), code, "{asked:?}");
        }
        let refused = negotiate(&exec(), &spdy_headers(&["v9.channel.k8s.io"])).unwrap_err();
        let spoken = refused.headers().get_all(ACCEPTED).iter().count();
        assert_eq!(spoken, REMOTE_COMMAND.len());
    }
}
