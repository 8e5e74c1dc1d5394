//! What callers of the control socket are answered: readiness and metrics as text, all else as JSON.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::metrics::{self, Scrape};
use super::{Control, Desk};
use crate::controlplane::reload::Ending;
use crate::controlplane::reload::outcome::{Outcome, Verdict};
use crate::controlplane::status::Upgrade;

/// The field by which a caller says whose process it means: the path of its config.
pub const CONFIG: HeaderName = HeaderName::from_static("lockgate-config");

/// How long a caller waits for a reload, and for an upgrade, at most.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(600);

const NO_OUTCOME: &str = "there is no outcome yet: the log will have it";

type Answer = Response<Full<Bytes>>;

/// Answers one request. Nothing of its body is read.
pub(super) async fn answer(
    request: Request<Incoming>,
    desk: Rc<Desk>,
) -> Result<Answer, Infallible> {
    let control = &desk.control;
    let (read, write) = (&[Method::GET, Method::HEAD][..], &[Method::POST][..]);
    let path = request.uri().path();
    let allowed = match path {
        "/-/ready" | "/-/healthy" | "/metrics" => read,
        "/reload" | "/upgrade" => write,
        _ => {
            return Ok(failure(
                StatusCode::NOT_FOUND,
                "there is nothing of this name",
            ));
        }
    };
    if !allowed.contains(request.method()) {
        let mut answer = failure(StatusCode::METHOD_NOT_ALLOWED, "not with this method");
        let names: Vec<_> = allowed.iter().map(Method::as_str).collect();
        if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
            answer.headers_mut().insert(header::ALLOW, names);
        }
        return Ok(answer);
    }
    if let Some(other) = meant_for_another(request.headers(), &control.config) {
        let told = format!("the process here runs {}", other.display());
        return Ok(failure(StatusCode::CONFLICT, &told));
    }
    Ok(match path {
        "/-/healthy" => text(StatusCode::OK, "healthy\n"),
        "/-/ready" => ready(control),
        "/metrics" => metrics(&desk),
        "/reload" => reload(control).await,
        _ => upgrade(control).await,
    })
}

/// Whose process this is, if the caller means another one.
fn meant_for_another(fields: &HeaderMap, config: &Path) -> Option<PathBuf> {
    let meant = fields.get(CONFIG)?.as_bytes();
    let ours = full_path(config);
    (meant != ours.as_os_str().as_encoded_bytes()).then_some(ours)
}

/// A path that is the same for everybody.
pub fn full_path(path: &Path) -> PathBuf {
    let absolute = || std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    fs::canonicalize(path).unwrap_or_else(|_| absolute())
}

fn ready(control: &Control) -> Answer {
    match control.demands.borrow().ending {
        Ending::NotYet => text(StatusCode::OK, "ready\n"),
        Ending::Drain | Ending::Close => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

fn metrics(desk: &Desk) -> Answer {
    let board = &desk.control.board;
    let latest = board.latest();
    let snapshot = desk.snapshots.reader().load();
    let scrape = Scrape {
        figures: &board.figures(),
        pools: &snapshot.pools,
        clients: &snapshot.clients,
        ailing: latest.as_ref().map_or(&[][..], |outcome| &outcome.sites),
    };
    respond(
        StatusCode::OK,
        metrics::MEDIA_TYPE,
        scrape.to_string().into(),
    )
}

async fn reload(control: &Control) -> Answer {
    let mut demand = 0;
    control.demands.send_modify(|demands| {
        demands.reloads += 1;
        demand = demands.reloads;
    });
    let board = Arc::clone(&control.board);
    let wait = move || board.wait_served(demand, RELOAD_TIMEOUT);
    match tokio::task::spawn_blocking(wait).await {
        Ok(Some(outcome)) => reloaded(&outcome),
        Ok(None) if is_going_on(control) => failure(StatusCode::GATEWAY_TIMEOUT, NO_OUTCOME),
        Ok(None) | Err(_) => failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "the process ends, or another one serves in its place by now: ask again",
        ),
    }
}

/// Whether the loop of this process goes on.
fn is_going_on(control: &Control) -> bool {
    control.demands.borrow().ending == Ending::NotYet
        && !matches!(
            control.upgrades.borrow().last,
            Some(Upgrade::HandedOver { .. })
        )
}

fn reloaded(outcome: &Outcome) -> Answer {
    let (status, word, changes, errors) = match &outcome.verdict {
        Verdict::Changed(changes) => (
            StatusCode::OK,
            "changed",
            Some(changes.to_string()),
            &[][..],
        ),
        Verdict::Unchanged => (StatusCode::OK, "unchanged", None, &[][..]),
        Verdict::Rejected(errors) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "refused",
            None,
            errors.as_slice(),
        ),
    };
    let value = json!({
        "outcome": word,
        "version": outcome.version,
        "took_ms": outcome.took.as_secs_f64() * 1000.0,
        "changes": changes,
        "errors": errors,
    });
    data(status, &value)
}

async fn upgrade(control: &Control) -> Answer {
    let mut demand = 0;
    control.demands.send_modify(|demands| {
        demands.upgrades += 1;
        demand = demands.upgrades;
    });
    let mut upgrades = control.upgrades.clone();
    let served = upgrades.wait_for(|upgrades| upgrades.served >= demand);
    let last = match tokio::time::timeout(UPGRADE_TIMEOUT, served).await {
        Ok(Ok(upgrades)) => upgrades.last.clone(),
        Ok(Err(_)) => None,
        Err(_) => return failure(StatusCode::GATEWAY_TIMEOUT, NO_OUTCOME),
    };
    match last {
        Some(Upgrade::HandedOver { pid, version }) => {
            data(StatusCode::OK, &json!({ "pid": pid, "version": version }))
        }
        Some(Upgrade::Failed(reason)) => failure(StatusCode::BAD_GATEWAY, &reason),
        None => failure(StatusCode::SERVICE_UNAVAILABLE, "the process ends"),
    }
}

fn failure(status: StatusCode, message: &str) -> Answer {
    data(status, &json!({ "error": message }))
}

fn data(status: StatusCode, value: &Value) -> Answer {
    respond(status, "application/json", format!("{value}\n").into())
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    respond(
        status,
        "text/plain; charset=utf-8",
        Bytes::from_static(body.as_bytes()),
    )
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let fields = answer.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
