//! What `listen()` can mean: several ports, port 0, IPv6, unix sockets, UDP, exclusive ones, and what is refused.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{WORKERS, is_node, launch, node, pid_of, program, proven, replaced, serves, stops};
use crate::share::{addresses, all_serve, descriptors, local, reload};
use crate::support::{Cluster, Launch, Mode, Stage, free_port, free_ports, modes};

/// All three ways in which one port is served.
const BALANCES: [&str; 3] = ["spread", "queue", "rr"];

fn started(stage: &Stage, mode: Mode, balance: &str, port: u16, text: &str) -> Option<Cluster> {
    let launch = launch(mode, &node()?, &program(stage, text), port).set("BALANCE", balance);
    let cluster = launch.env("STAGE", stage.path("")).start();
    cluster.ready(WORKERS);
    is_node(&cluster);
    Some(cluster)
}

fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

#[test]
fn several_ports() {
    for balance in BALANCES {
        let (stage, port) = (Stage::new(), free_ports(3));
        let text = "server().listen(PORT); server().listen(PORT + 1, '127.0.0.1'); net.createServer((c) => c.resume().end('HTTP/1.1 200 \\r\\n\\r\\n' + me())).listen(PORT + 2);";
        let Some(cluster) = started(&stage, Mode::Plain, balance, port, text) else { return };
        for number in port..port + 3 {
            all_serve(&cluster, local(number), "/", WORKERS);
        }
        let mut shown = addresses(&cluster);
        shown.sort();
        assert_eq!(shown, [format!("127.0.0.1:{}", port + 1), format!("[::]:{port}"), format!("[::]:{}", port + 2)]);
        reload(&cluster, WORKERS);
        for number in port..port + 3 {
            all_serve(&cluster, local(number), "/", WORKERS);
        }
        stops(cluster);
    }
}

#[test]
fn port_0_is_the_same_for_all() {
    for balance in BALANCES {
        let stage = Stage::new();
        let text =
            "for (const n of [1, 2]) { const s = server().listen(0, '127.0.0.1', () => say('port', n, s.address().port, '.')); }";
        let Some(cluster) = started(&stage, Mode::Plain, balance, 0, text) else { return };
        cluster.until("all have told", |cluster| cluster.out().matches("port ").count() == 2 * WORKERS);
        let ports: BTreeSet<u16> =
            cluster.out().lines().filter_map(|line| line.split(' ').nth(2)?.parse().ok()).filter(|port| *port > 0).collect();
        assert_eq!(ports.len(), 2, "two servers, two ports\n{}", cluster.story());
        for port in &ports {
            all_serve(&cluster, local(*port), "/", WORKERS);
        }
        // A successor gets it too.
        proven(&cluster);
        let victim = pid_of(&cluster, 0);
        cluster.signal_inner(victim, Signal::SIGKILL);
        replaced(&cluster, victim);
        for port in ports {
            all_serve(&cluster, local(port), "/", WORKERS);
        }
        stops(cluster);
    }
}

#[test]
fn both_families() {
    for balance in BALANCES {
        let (stage, port) = (Stage::new(), free_ports(2));
        let text = "server().listen(PORT); server().listen(PORT + 1, '::1');";
        let Some(cluster) = started(&stage, Mode::Plain, balance, port, text) else { return };
        for address in [local(port), v6(port), v6(port + 1)] {
            all_serve(&cluster, address, "/", WORKERS);
        }
        stops(cluster);
    }
}

#[test]
fn each_family_by_itself_on_one_port() {
    let (stage, port) = (Stage::new(), free_port());
    let text = "server().listen({ port: PORT, host: '::', ipv6Only: true }); server().listen(PORT, '0.0.0.0');";
    let Some(cluster) = started(&stage, Mode::Plain, "spread", port, text) else { return };
    for address in [local(port), v6(port)] {
        all_serve(&cluster, address, "/", WORKERS);
    }
    stops(cluster);
}

/// The pid that answers on a unix socket.
fn at_path(path: &str) -> Option<String> {
    let mut stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.split_once("\"pid\":")?.1.chars().take_while(char::is_ascii_digit).collect())
}

#[test]
fn a_unix_socket_is_one_for_all_and_removed_at_the_end() {
    for mode in modes() {
        for balance in BALANCES {
            let stage = Stage::new();
            let path = stage.path("server.sock");
            let text = "server().listen(process.env.STAGE + 'server.sock');";
            let Some(cluster) = started(&stage, mode, balance, 0, text) else { return };
            let mut seen = BTreeSet::new();
            cluster.until("both answer", |_| {
                seen.extend(at_path(&path));
                seen.len() == WORKERS
            });
            // Neither the death of a worker nor a rolling restart takes it away.
            proven(&cluster);
            let victim = pid_of(&cluster, 0);
            cluster.signal_inner(victim, Signal::SIGKILL);
            replaced(&cluster, victim);
            reload(&cluster, WORKERS);
            assert!(at_path(&path).is_some(), "{}", cluster.story());
            cluster.signal(Signal::SIGTERM);
            assert_eq!(cluster.wait_exit(), 0, "{}", cluster.story());
            assert!(!Path::new(&path).exists(), "{balance}: the file stays behind");
        }
    }
}

/// As in Node's cluster, it is one socket: who reads first has it.
#[test]
fn udp() {
    for family in ["udp4", "udp6"] {
        let (stage, port) = (Stage::new(), free_port());
        let host = if family == "udp4" { "127.0.0.1" } else { "::1" };
        let text = format!(
            "const s = require('dgram').createSocket('{family}');
            s.on('message', (text, from) => s.send(process.pid + ' ' + text, from.port, from.address));
            s.bind(PORT, '{host}', () => {{ say('bound'); process.send('ready'); }});"
        );
        let Some(cluster) = started(&stage, Mode::Plain, "spread", port, &text) else { return };
        let server: SocketAddr = (host.parse::<std::net::IpAddr>().expect("an address"), port).into();
        let client = UdpSocket::bind((server.ip(), 0)).expect("a socket");
        client.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
        let mut seen = BTreeSet::new();
        cluster.until("both answer", |_| {
            for _ in 0..50 {
                client.send_to(b"hello", server).expect("sent");
            }
            let mut buffer = [0; 100];
            while let Ok((length, _)) = client.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                assert!(text.ends_with(" hello"), "{text}");
                seen.insert(text);
            }
            seen.len() == WORKERS
        });
        stops(cluster);
    }
}

/// Each worker binds by itself, without a word to the primary: that is shared as with any other program.
#[test]
fn exclusive() {
    let (stage, port) = (Stage::new(), free_ports(2));
    let text = "server().listen(PORT); const s = server().listen({ port: PORT + 1, exclusive: true }, () => say('alone'));
        s.on('error', (error) => say(error.code));";
    let Some(cluster) = started(&stage, Mode::Plain, "spread", port, text) else { return };
    all_serve(&cluster, local(port), "/", WORKERS);
    cluster.until("both have tried", |cluster| cluster.out().lines().count() == WORKERS);
    assert_eq!(cluster.out(), "alone\nalone\n", "{}", cluster.story());
    all_serve(&cluster, local(port + 1), "/", WORKERS);
    stops(cluster);
}

#[test]
fn a_second_listen_on_one_port_is_refused() {
    for balance in BALANCES {
        let (stage, port) = (Stage::new(), free_port());
        let text = "server().listen(PORT, () => server().listen(PORT).on('error', (error) => say(error.code)));";
        let Some(cluster) = started(&stage, Mode::Plain, balance, port, text) else { return };
        cluster.until("both were refused", |cluster| cluster.out().matches("EADDRINUSE").count() == WORKERS);
        all_serve(&cluster, local(port), "/", WORKERS);
        stops(cluster);
    }
}

#[test]
fn who_has_closed_may_listen_again() {
    for balance in BALANCES {
        let (stage, port) = (Stage::new(), free_port());
        let text = "const again = (n) => { const s = server().listen(PORT, () => {
            say('listens', n); if (n < 5) s.close(() => setImmediate(again, n + 1)); }); s.on('error', (error) => say(error.code)); }; again(1);";
        let Some(cluster) = started(&stage, Mode::Plain, balance, port, text) else { return };
        cluster.until("all have come to the end", |cluster| cluster.out().matches("listens 5").count() == WORKERS);
        assert!(!cluster.out().contains("EADDRINUSE"), "{}", cluster.story());
        all_serve(&cluster, local(port), "/", WORKERS);
        stops(cluster);
    }
}

#[test]
fn a_port_that_somebody_else_has() {
    for balance in BALANCES {
        let Some(node) = node() else { return };
        let (stage, other) = (Stage::new(), TcpListener::bind("127.0.0.1:0").expect("a port"));
        let port = other.local_addr().expect("bound").port();
        let text = "const attempt = () => server().on('error', (error) => { say(error.code, error.port, '.'); setTimeout(attempt, 100); })
            .listen(PORT, '127.0.0.1'); attempt();";
        let cluster = launch(Mode::Plain, &node, &program(&stage, text), port).set("BALANCE", balance).start();
        cluster.until("both see it", |cluster| cluster.out().matches(&format!("EADDRINUSE {port} .")).count() >= WORKERS);
        cluster.until_log(&["127.0.0.1", &port.to_string()]);
        // As soon as it is free they have it.
        drop(other);
        serves(&cluster, port);
        stops(cluster);
    }
}

#[test]
fn an_address_that_is_not_here() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let text = "server().on('error', (error) => { say(error.code); process.exit(3); }).listen(PORT, '192.0.2.1');";
    let launch = Launch::of(Mode::Plain, &[&node, &program(&stage, text)]).env("PORT", port).set("RESTART", "never");
    let (code, out, err) = launch.set("WORKERS", 1).start().finish();
    assert_eq!((code, out.as_str()), (3, "EADDRNOTAVAIL\n"), "{err}");
}

#[test]
fn fifty_ports_and_none_is_kept_of_the_dead() {
    let (stage, port) = (Stage::new(), free_ports(50));
    let text = "let left = 50; for (let n = 0; n < 50; n++) server().listen(PORT + n, '127.0.0.1', () => --left || say('all'));";
    let Some(cluster) = started(&stage, Mode::Plain, "spread", port, text) else { return };
    cluster.until("both have all", |cluster| cluster.out().matches("all").count() == WORKERS);
    for number in [port, port + 25, port + 49] {
        all_serve(&cluster, local(number), "/", WORKERS);
    }
    // The first rolling restart adds one accept queue for each, which is kept for the next ones.
    reload(&cluster, WORKERS);
    let before = descriptors(&cluster);
    for _ in 0..3 {
        reload(&cluster, WORKERS);
    }
    let after = descriptors(&cluster);
    cluster.until(&format!("descriptors do not pile up: {before}, then {after}"), |cluster| descriptors(cluster) <= before + 2);
    all_serve(&cluster, local(port + 49), "/", WORKERS);
    stops(cluster);
}
