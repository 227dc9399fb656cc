//! Against a real side port: whose answer counts, and what it says.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_blocking, spawn_local};

use super::*;
use crate::cli::status;
use crate::cluster::status::Snapshot;
use crate::http::report::tests::example;
use crate::http::{Side, bind, serve};
use crate::runtime::clock::Clock;
use crate::sys::instance::Instance;

fn served(instance: String, snapshot: Snapshot, client: impl FnOnce(SocketAddr) + Send + 'static) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = bind((Ipv4Addr::UNSPECIFIED, 0).into()).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (_publish, snapshot) = watch::channel(Arc::new(snapshot));
    let side = Side { snapshot, clock: Clock::start(), pid: 1, instance, asking: None };
    LocalSet::new().block_on(&runtime, async move {
        spawn_local(serve(listener, side));
        spawn_blocking(move || client(address)).await.expect("the client's part");
    });
}

#[test]
fn our_own_clusterinit_is_believed() {
    let own = Instance::own().expect("/proc is here").to_string();
    let unready = Snapshot { unready: Some("0 of 2".to_owned()), ..example() };
    served(own, unready, |address| {
        assert_eq!(run(Question::Healthy, None, Some(address)), DONE);
        // As if IPv6 had been there: the second address that is tried is the right one.
        assert_eq!(run(Question::Healthy, None, Some((std::net::Ipv6Addr::UNSPECIFIED, address.port()).into())), DONE);
        assert_eq!(run(Question::Ready, None, Some(address)), NO);
        assert_eq!(status::run(status::Options::default(), None, Some(address)), DONE);
        assert_eq!(status::run(status::Options { json: true, watch: false }, None, Some(address)), DONE);
    });
}

#[test]
fn another_containers_is_believed_only_where_it_was_named() {
    served("mnt:1/pid:2".to_owned(), example(), |address| {
        assert_eq!(run(Question::Healthy, None, Some(address)), NO);
        assert_eq!(run(Question::Healthy, Some(&format!("127.0.0.1:{}", address.port())), None), DONE);
        let error = SidePort::find(None, Some(address)).and_then(|side_port| side_port.get("/healthz")).expect_err("another's");
        assert!(matches!(error, SidePortError::Other(_)), "{error}");
    });
}

#[test]
fn an_unhealthy_cluster_is_not_healthy() {
    let own = Instance::own().expect("/proc is here").to_string();
    let unhealthy = Snapshot { unhealthy_from: Some(crate::cluster::words::Time(Duration::ZERO)), ..example() };
    served(own, unhealthy, |address| assert_eq!(run(Question::Healthy, None, Some(address)), NO));
}

#[test]
fn nobody_there_is_not_healthy_and_off_is_a_usage_error() {
    let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    assert_eq!(run(Question::Healthy, None, Some(address)), NO);
    assert_eq!(run(Question::Healthy, None, None), exit::USAGE);
    assert_eq!(run(Question::Healthy, Some("https://x:1"), Some(address)), exit::USAGE);
}

/// Something that takes the connection and says nothing, or says it is something else.
#[test]
fn the_wait_is_bounded_and_a_stranger_is_not_believed() {
    let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = silent.local_addr().expect("bound");
    let clock = Clock::start();
    let error = SidePort::find(None, Some(address)).and_then(|side_port| side_port.get("/healthz")).expect_err("silence");
    assert!(matches!(error, SidePortError::Late), "{error}");
    assert!(clock.now().0 < Duration::from_secs(10));

    let stranger = std::thread::spawn(move || {
        use std::io::{Read, Write};
        // The first one is the connection of above.
        let mut all: Vec<std::net::TcpStream> = (0..2).map(|_| silent.accept().expect("a client").0).collect();
        let mut second = all.remove(1);
        assert!(second.read(&mut [0; 1024]).expect("a request") > 0);
        second.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n").expect("an answer");
    });
    let error =
        SidePort::find(Some(&address.to_string()), None).and_then(|side_port| side_port.get("/healthz")).expect_err("strange");
    assert!(matches!(error, SidePortError::Foreign(_)), "{error}");
    stranger.join().expect("its part");
}
