//! Routes and their answers.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, HOST, LOCATION, RANGE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::Shared;
use super::behaviour::{Behaviour, Outage, Seen, spend};
use super::body::{Ending, Scripted};
use super::guard::field;

type Answer = Response<Scripted>;

/// What a path below `/v2/` names.
enum Route<'a> {
    Root,
    Manifest {
        repository: &'a str,
        reference: &'a str,
    },
    Blob {
        repository: &'a str,
        digest: &'a str,
    },
    Upload {
        repository: &'a str,
        id: &'a str,
    },
    Tags {
        repository: &'a str,
    },
}

/// Tags of one page.
const PAGE: usize = 2;

pub(super) async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let seen = Seen {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
    };
    shared.seen.lock().push(seen.clone());
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    if seen.path == "/token" {
        return Ok(token(shared, &seen, &body));
    }
    Ok(match route(&seen.path) {
        Some(route) => registry(shared, &seen, &route, body),
        None => refusal(StatusCode::NOT_FOUND, "UNSUPPORTED", "no such path"),
    })
}

fn route(path: &str) -> Option<Route<'_>> {
    let path = path.strip_prefix("/v2")?.trim_start_matches('/');
    if path.is_empty() {
        return Some(Route::Root);
    }
    if let Some((repository, id)) = path.rsplit_once("/blobs/uploads/") {
        return Some(Route::Upload { repository, id });
    }
    if let Some((repository, digest)) = path.rsplit_once("/blobs/") {
        return Some(Route::Blob { repository, digest });
    }
    if let Some(repository) = path.strip_suffix("/tags/list") {
        return Some(Route::Tags { repository });
    }
    let (repository, reference) = path.rsplit_once("/manifests/")?;
    Some(Route::Manifest {
        repository,
        reference,
    })
}

fn token(shared: &Shared, seen: &Seen, body: &Bytes) -> Answer {
    let mut behaviour = shared.behaviour.lock();
    if let Some(answer) = behaviour.token_outage.as_mut().and_then(outage) {
        return answer;
    }
    let form = String::from_utf8_lossy(body);
    let issued = shared
        .tokens
        .lock()
        .issue(&behaviour.auth, &seen.headers, &seen.query, &form);
    match issued {
        Ok(json) => reply(StatusCode::OK, &[(CONTENT_TYPE, "application/json")], json),
        Err(status) => refusal(status, "UNAUTHORIZED", "no token for you"),
    }
}

fn registry(shared: &Shared, seen: &Seen, route: &Route<'_>, body: Bytes) -> Answer {
    let mut behaviour = shared.behaviour.lock();
    if !matches!(route, Route::Root)
        && let Some(answer) = behaviour.outage.as_mut().and_then(outage)
    {
        return answer;
    }
    let own_url = format!("http://{}", text(&seen.headers, HOST));
    let repository = match route {
        Route::Root => "",
        Route::Manifest { repository, .. }
        | Route::Blob { repository, .. }
        | Route::Tags { repository }
        | Route::Upload { repository, .. } => repository,
    };
    let admitted = shared
        .tokens
        .lock()
        .admit(&behaviour.auth, &seen.headers, repository, &own_url);
    if let Err(challenge) = admitted {
        let mut answer = refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "who are you?");
        header(&mut answer, WWW_AUTHENTICATE, &challenge);
        return answer;
    }
    match (&seen.method, route) {
        (_, Route::Root) => reply(StatusCode::OK, &[], "{}"),
        (&Method::HEAD, _) if behaviour.refuse_head => {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "no HEAD")
        }
        (
            &Method::GET | &Method::HEAD,
            Route::Manifest {
                repository,
                reference,
            },
        ) => manifest(shared, &behaviour, repository, reference),
        (&Method::GET | &Method::HEAD, Route::Blob { digest, .. }) => {
            blob(shared, &mut behaviour, seen, digest)
        }
        (
            &Method::PUT,
            Route::Manifest {
                repository,
                reference,
            },
        ) => {
            let media_type = text(&seen.headers, CONTENT_TYPE);
            let tag = (!reference.contains(':')).then_some(*reference);
            shared
                .storage
                .lock()
                .add_manifest(repository, tag, media_type, body);
            reply(StatusCode::CREATED, &[], "")
        }
        (&Method::GET, Route::Tags { repository }) => tags(shared, seen, repository),
        (_, Route::Upload { repository, id }) => upload(shared, seen, repository, id, &body),
        _ => refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            "no such method",
        ),
    }
}

/// In order, those behind `last`.
fn tags(shared: &Shared, seen: &Seen, repository: &str) -> Answer {
    let last = field(&seen.query, "last").unwrap_or_default();
    let all = shared.storage.lock().tags(repository);
    let rest: Vec<&String> = all.iter().filter(|tag| **tag > last).collect();
    let page = &rest[..rest.len().min(PAGE)];
    let names = serde_json::json!({ "name": repository, "tags": page });
    let mut answer = reply(StatusCode::OK, &[], names.to_string());
    if let Some(last) = page.last().filter(|_| page.len() < rest.len()) {
        let link = format!("</v2/{repository}/tags/list?n={PAGE}&last={last}>; rel=\"next\"");
        header(&mut answer, http::header::LINK, &link);
    }
    answer
}

fn manifest(shared: &Shared, behaviour: &Behaviour, repository: &str, reference: &str) -> Answer {
    let Some(manifest) = shared.storage.lock().manifest(repository, reference) else {
        return refusal(
            StatusCode::NOT_FOUND,
            "MANIFEST_UNKNOWN",
            "manifest unknown",
        );
    };
    let told = behaviour
        .content_digest
        .as_deref()
        .unwrap_or(manifest.digest.as_str());
    let mut answer = reply(
        StatusCode::OK,
        &[(CONTENT_TYPE, &manifest.media_type)],
        manifest.bytes,
    );
    if !told.is_empty() {
        header(
            &mut answer,
            http::HeaderName::from_static("docker-content-digest"),
            told,
        );
    }
    answer
}

fn blob(shared: &Shared, behaviour: &mut Behaviour, seen: &Seen, digest: &str) -> Answer {
    if let Some((status, url)) = &behaviour.redirect_blobs {
        let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::FOUND);
        let location = format!("{url}{}?signature=secret", seen.path);
        return reply(status, &[(LOCATION, &location)], "");
    }
    let Some(bytes) = shared.storage.lock().blob(digest) else {
        return refusal(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown");
    };
    let size = bytes.len() as u64;
    let range = text(&seen.headers, RANGE)
        .strip_prefix("bytes=")
        .and_then(|r| r.strip_suffix('-'));
    let first = match range.and_then(|first| first.parse::<u64>().ok()) {
        Some(first) if !behaviour.ignore_ranges => first,
        _ => 0,
    };
    if first > 0 && first >= size {
        return reply(StatusCode::RANGE_NOT_SATISFIABLE, &[], "");
    }
    let mut body = Scripted::whole(bytes.slice(first as usize..));
    if seen.method == Method::GET
        && let Some(end) = &mut behaviour.break_off
        && spend(&mut end.times)
    {
        body = body.ending(
            end.after,
            if end.stall {
                Ending::Stall
            } else {
                Ending::Close
            },
        );
    }
    let mut answer = Response::new(body.hide_length(behaviour.hide_length));
    header(&mut answer, CONTENT_TYPE, "application/octet-stream");
    if !behaviour.ignore_ranges {
        header(&mut answer, ACCEPT_RANGES, "bytes");
    }
    if first > 0 {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        header(
            &mut answer,
            CONTENT_RANGE,
            &format!("bytes {first}-{}/{size}", size - 1),
        );
    }
    answer
}

fn upload(shared: &Shared, seen: &Seen, repository: &str, id: &str, body: &[u8]) -> Answer {
    let mut storage = shared.storage.lock();
    let id = match (&seen.method, id.parse()) {
        (&Method::POST, _) => storage.begin_upload(),
        (&Method::PATCH | &Method::PUT, Ok(id)) => id,
        _ => {
            return refusal(
                StatusCode::NOT_FOUND,
                "BLOB_UPLOAD_UNKNOWN",
                "no such upload",
            );
        }
    };
    if storage.append(id, body).is_none() {
        return refusal(
            StatusCode::NOT_FOUND,
            "BLOB_UPLOAD_UNKNOWN",
            "no such upload",
        );
    }
    match field(&seen.query, "digest") {
        Some(digest) if storage.finish(id, &digest) => reply(StatusCode::CREATED, &[], ""),
        Some(_) => refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "another digest"),
        None => {
            let location = format!("/v2/{repository}/blobs/uploads/{id}");
            reply(StatusCode::ACCEPTED, &[(LOCATION, &location)], "")
        }
    }
}

fn outage(outage: &mut Outage) -> Option<Answer> {
    if !spend(&mut outage.times) {
        return None;
    }
    let status = StatusCode::from_u16(outage.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut answer = refusal(status, "UNAVAILABLE", "as the test wishes");
    if let Some(wait) = &outage.retry_after {
        header(&mut answer, RETRY_AFTER, wait);
    }
    Some(answer)
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Answer {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
    reply(
        status,
        &[(CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
}

fn reply(
    status: StatusCode,
    headers: &[(http::HeaderName, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let mut answer = Response::new(Scripted::whole(body));
    *answer.status_mut() = status;
    for (name, value) in headers {
        header(&mut answer, name.clone(), value);
    }
    answer
}

/// Sets a header; text that no header may have is left out.
fn header(answer: &mut Answer, name: http::HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        answer.headers_mut().insert(name, value);
    }
}

fn text(headers: &HeaderMap, name: http::HeaderName) -> &str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
