//! Finds the side port and asks it one thing, in 5 s at most.
//!
//! The address comes from the same environment that the supervisor read, so another container of the pod may be the one who answers
//! there: only an answer that names our own namespaces counts. With an explicit `--addr` any clusterinit's does.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::http::INSTANCE_HEADER;
use crate::sys::instance::Instance;

/// For everything: finding the host, connecting, asking, reading.
const PATIENCE: Duration = Duration::from_secs(5);
/// Some 40,000 workers; more is not ours.
const LONGEST_BODY: usize = 16 * 1024 * 1024;

#[derive(Debug, Error)]
pub(super) enum Error {
    #[error("the side port is off (CLUSTERINIT_HEALTH_ADDR=off); name one with --addr")]
    Off,
    #[error("cannot use the address \"{0}\": write host:port or http://host:port")]
    Address(String),
    #[error("cannot tell which container this is")]
    Instance(#[source] io::Error),
    #[error("cannot start")]
    Start(#[source] io::Error),
    #[error("no answer from {0}")]
    Connect(Place, #[source] io::Error),
    #[error("no answer from {0}")]
    Talk(Place, #[source] hyper::Error),
    #[error("no usable answer from {0}")]
    Body(Place, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within 5 s")]
    Late,
    #[error("{0} was answered by something that is no clusterinit")]
    Foreign(Place),
    #[error(
        "{0} was answered by the clusterinit of another container; CLUSTERINIT_HEALTH_ADDR must differ in the containers of a pod"
    )]
    Other(Place),
}

/// Host and port of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    host: String,
    port: u16,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where to ask, and whose answer counts.
#[derive(Debug)]
pub(super) struct SidePort {
    places: Vec<Place>,
    /// `None`: any clusterinit's.
    instance: Option<String>,
    runtime: Runtime,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

impl SidePort {
    /// `given` is `--addr`, `configured` the address in force here.
    pub(super) fn find(given: Option<&str>, configured: Option<SocketAddr>) -> Result<Self, Error> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
        if let Some(text) = given {
            let place = parse(text).ok_or_else(|| Error::Address(text.to_owned()))?;
            return Ok(Self { places: vec![place], instance: None, runtime });
        }
        let places = reachable(configured.ok_or(Error::Off)?);
        let instance = Instance::own().map_err(Error::Instance)?.to_string();
        Ok(Self { places, instance: Some(instance), runtime })
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, Error> {
        self.runtime.block_on(async { timeout(PATIENCE, self.ask_all(path)).await.unwrap_or(Err(Error::Late)) })
    }

    /// Nothing but time.
    pub(super) fn pause(&self, time: Duration) {
        // Made within: outside of a runtime a timer panics.
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// What somebody said tells more than that somewhere else nobody did.
    async fn ask_all(&self, path: &str) -> Result<Answer, Error> {
        let mut failure = Error::Off;
        for place in &self.places {
            match self.ask(place, path).await {
                Ok(answer) => return Ok(answer),
                Err(Error::Connect(..)) if !matches!(failure, Error::Off | Error::Connect(..)) => {}
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn ask(&self, place: &Place, path: &str) -> Result<Answer, Error> {
        let talk = |error| Error::Talk(place.clone(), error);
        let stream =
            TcpStream::connect((place.host.as_str(), place.port)).await.map_err(|error| Error::Connect(place.clone(), error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(talk)?;
        // Its failure is the request's, who reports it.
        let driver = tokio::spawn(async { drop(connection.await) });
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = path.parse().map_err(|_| Error::Address(path.to_owned()))?;
        let host = place.to_string().parse().map_err(|_| Error::Address(place.to_string()))?;
        request.headers_mut().insert(HOST, host);
        let answer = sender.send_request(request).await.map_err(talk)?;
        match (answer.headers().get(INSTANCE_HEADER), &self.instance) {
            (None, _) => return Err(Error::Foreign(place.clone())),
            (Some(theirs), Some(ours)) if theirs.as_bytes() != ours.as_bytes() => return Err(Error::Other(place.clone())),
            _ => {}
        }
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST_BODY).collect().await;
        let body = body.map_err(|error| Error::Body(place.clone(), error))?.to_bytes();
        driver.abort();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

/// Where a listener at this address is reached from inside. `[::]` may be `0.0.0.0` by now, where there is no IPv6.
fn reachable(configured: SocketAddr) -> Vec<Place> {
    let hosts: Vec<IpAddr> = match configured.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
        IpAddr::V4(ip) if ip.is_unspecified() => vec![Ipv4Addr::LOCALHOST.into()],
        ip => vec![ip],
    };
    hosts.into_iter().map(|ip| Place { host: ip.to_string(), port: configured.port() }).collect()
}

fn parse(text: &str) -> Option<Place> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: Uri = with_scheme.parse().ok()?;
    let plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let no_user = !uri.authority()?.as_str().contains('@');
    (plain && no_user && !host.is_empty()).then_some(Place { host, port: uri.port_u16()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_with_or_without_the_scheme() {
        for (text, shown) in [
            ("127.0.0.1:9180", "127.0.0.1:9180"),
            ("http://web.default.svc:80/", "web.default.svc:80"),
            ("http://[::1]:9180", "[::1]:9180"),
            ("[::1]:9180", "[::1]:9180"),
            ("localhost:9180", "localhost:9180"),
        ] {
            assert_eq!(parse(text).map(|place| place.to_string()), Some(shown.to_owned()), "{text}");
        }
        for wrong in
            ["", "9180", "localhost", "https://x:1", "http://x:1/workers", "x:1?y", "http://me:you@x:1", "x:99999", "http://:80"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_wildcard_is_asked_on_loopback() {
        let shown = |text: &str| reachable(text.parse().expect("an address")).iter().map(Place::to_string).collect::<Vec<_>>();
        assert_eq!(shown("[::]:9180"), ["[::1]:9180", "127.0.0.1:9180"]);
        assert_eq!(shown("0.0.0.0:9180"), ["127.0.0.1:9180"]);
        assert_eq!(shown("10.0.0.7:80"), ["10.0.0.7:80"]);
    }
}
