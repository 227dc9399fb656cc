//! One request, one answer: from the published snapshot, and for `/workers` from a measurement that is shared.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::error;

use super::metrics::{self, Sources};
use super::page as status_page;
use super::report::Report;
use super::{Asking, INSTANCE_HEADER, Side};
use crate::cluster::status::{Channel, ChannelState, Snapshot, State};
use crate::cluster::words::Time;
use crate::sys::cgroup::whole::Whole;
use crate::sys::measure::{ByLife, Meter};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// An idle event loop answers within a millisecond.
const FIRST_LAG: Duration = Duration::from_millis(30);
const METRICS: HeaderValue = HeaderValue::from_static(metrics::CONTENT_TYPE);
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

pub(super) type Answer = Response<Full<Bytes>>;

/// Answers for all connections.
pub(super) struct Desk {
    pub(super) side: Side,
    instance: HeaderValue,
    meter: Meter,
    container: RefCell<Whole>,
    metrics: RefCell<metrics::Memory>,
}

impl Desk {
    pub(super) fn new(side: Side) -> Self {
        let instance = HeaderValue::from_str(&side.instance).unwrap_or(HeaderValue::from_static("unknown"));
        Self { side, instance, meter: Meter::default(), container: RefCell::default(), metrics: RefCell::default() }
    }

    /// The body of the request is not looked at. For HEAD hyper leaves the body of the answer out.
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Answer {
        let mut answer = if *request.method() == Method::GET || *request.method() == Method::HEAD {
            self.page(request.uri().path(), request.uri().query()).await
        } else {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refusal
        };
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(HeaderName::from_static(INSTANCE_HEADER), self.instance.clone());
        answer
    }

    async fn page(&self, path: &str, query: Option<&str>) -> Answer {
        let snapshot = self.side.snapshot.borrow().clone();
        match path {
            "/" => self.status_page(self.with_lag(snapshot).await.as_ref()).await,
            "/healthz" | "/livez" => ok_unless(unhealthy(&snapshot, self.side.clock.now())),
            "/readyz" => ok_unless(snapshot.unready.clone()),
            "/workers" => self.workers(self.with_lag(snapshot).await.as_ref(), asks_for_events(query)).await,
            "/metrics" => self.metrics(snapshot).await,
            _ => text(StatusCode::NOT_FOUND, "not found; there are /, /healthz, /livez, /readyz, /workers and /metrics"),
        }
    }

    /// Ours, and what the workers' programs say: nobody waits longer than for the slowest of both.
    async fn metrics(&self, snapshot: Arc<Snapshot>) -> Answer {
        let ours = async {
            let snapshot = self.with_lag(snapshot).await;
            let figures = self.figures(&snapshot).await;
            (snapshot, figures)
        };
        let ((snapshot, figures), programs) = tokio::join!(ours, self.programs());
        let (now, facts) = (self.side.clock.now(), &snapshot.facts);
        let sources = [facts.cpu_source.as_deref(), facts.memory_source.as_deref()];
        let container = self.container.borrow_mut().figures(now, sources);
        let from = Sources { snapshot: &snapshot, figures: &figures, container: &container, clock: self.side.clock, now };
        match self.metrics.borrow_mut().text(from) {
            Ok(text) => page(StatusCode::OK, METRICS, (text + &programs).into()),
            Err(error) => {
                error!(%error, "/metrics could not be written");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written; the log says why")
            }
        }
    }

    /// The one answer that the workers themselves are asked for, and the loop with them. Nothing where nobody can be asked, or too many
    /// ask at once.
    async fn programs(&self) -> String {
        let Some(asking) = &self.side.asking else { return String::new() };
        let (reply, answer) = oneshot::channel();
        if asking.try_send(Asking::Metrics(reply)).is_err() {
            return String::new();
        }
        answer.await.unwrap_or_default()
    }

    /// Event-loop lag is measured as long as somebody looks. The first one waits a moment for it; nobody else does.
    async fn with_lag(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        let Some(asking) = &self.side.asking else { return snapshot };
        // Where it does not get through others have looked just now.
        let _ = asking.try_send(Asking::Lag);
        let is_asked = |channel: &Channel| match channel.state {
            ChannelState::Online | ChannelState::Listening => channel.lag.is_some() || channel.unanswered.is_some(),
            ChannelState::Open | ChannelState::Disconnected => true,
        };
        let is_known = |snapshot: &Arc<Snapshot>| snapshot.channels.values().all(is_asked);
        if is_known(&snapshot) {
            return snapshot;
        }
        let answered =
            |snapshot: &Arc<Snapshot>| is_known(snapshot) && snapshot.channels.values().all(|one| one.unanswered.is_none());
        let mut published = self.side.snapshot.clone();
        let in_time = timeout(FIRST_LAG, published.wait_for(answered)).await.is_ok();
        if in_time { published.borrow().clone() } else { self.side.snapshot.borrow().clone() }
    }

    async fn figures(&self, snapshot: &Snapshot) -> Rc<ByLife> {
        let workers: Vec<_> = snapshot.rows.iter().filter_map(|row| row.life.zip(row.pid)).collect();
        self.meter.figures(self.side.clock, &workers, &snapshot.shared.by_life).await
    }

    async fn workers(&self, snapshot: &Snapshot, events: bool) -> Answer {
        match serde_json::to_vec(&self.report(snapshot, events).await) {
            Ok(mut body) => {
                body.push(b'\n');
                page(StatusCode::OK, JSON, body.into())
            }
            Err(error) => unwritable(&error),
        }
    }

    async fn status_page(&self, snapshot: &Snapshot) -> Answer {
        match serde_json::to_value(self.report(snapshot, true).await) {
            Ok(report) => {
                let mut answer = page(StatusCode::OK, HTML, status_page::render(&report).into());
                for (name, value) in [(CONTENT_SECURITY_POLICY, status_page::POLICY), (X_CONTENT_TYPE_OPTIONS, "nosniff")] {
                    answer.headers_mut().insert(name, HeaderValue::from_static(value));
                }
                answer
            }
            Err(error) => unwritable(&error),
        }
    }

    async fn report<'a>(&self, snapshot: &'a Snapshot, events: bool) -> Report<'a> {
        let figures = self.figures(snapshot).await;
        let now = self.side.clock.now();
        let report = Report::new(snapshot, &figures, self.side.pid, now);
        if events { report.with_events(snapshot, now) } else { report }
    }
}

fn asks_for_events(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|term| term == "events=1"))
}

fn unwritable(error: &serde_json::Error) -> Answer {
    error!(%error, "/workers could not be written as JSON");
    text(StatusCode::INTERNAL_SERVER_ERROR, "the report could not be written as JSON; the log says why")
}

/// Why a restart of the container may help. During a stop it would not.
fn unhealthy(snapshot: &Snapshot, now: Time) -> Option<String> {
    let stops = matches!(snapshot.state, State::Draining | State::Stopping);
    let is_late = snapshot.unhealthy_from.is_some_and(|from| from <= now);
    let (ready, wanted) = (snapshot.ready, snapshot.wanted);
    let why = match ready {
        0 => format!("no worker has been ready for CLUSTERINIT_UNHEALTHY_AFTER; {ready} are ready of {wanted}"),
        _ => format!("all {ready} ready workers have left connections waiting for CLUSTERINIT_UNHEALTHY_AFTER"),
    };
    (is_late && !stops).then_some(why)
}

fn ok_unless(reason: Option<String>) -> Answer {
    match reason {
        None => text(StatusCode::OK, "ok"),
        Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, &reason),
    }
}

fn text(status: StatusCode, line: &str) -> Answer {
    page(status, TEXT, format!("{line}\n").into())
}

fn page(status: StatusCode, content: HeaderValue, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, content);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::report::tests::example;

    #[test]
    fn health_fails_from_its_instant_on_and_never_during_a_stop() {
        let from = Time(Duration::from_secs(100));
        let mut snapshot = Snapshot { unhealthy_from: Some(from), ready: 0, ..example() };
        assert_eq!(unhealthy(&snapshot, from - Duration::from_nanos(1)), None);
        assert!(unhealthy(&snapshot, from).is_some_and(|why| why.contains("0 are ready of 2")));
        for state in [State::Draining, State::Stopping] {
            snapshot.state = state;
            assert_eq!(unhealthy(&snapshot, from + Duration::from_secs(1)), None, "{state:?}");
        }
        snapshot.state = State::Starting;
        assert!(unhealthy(&snapshot, from).is_some());
        snapshot.unhealthy_from = None;
        assert_eq!(unhealthy(&snapshot, from), None);
    }
}
