//! Whose connections are whose, with real processes that hold them.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command};

use nix::unistd::geteuid;

use super::*;
use crate::skip::skipped;

/// A process whose standard input is a connection that nobody else holds.
struct Holder(Child);

impl Holder {
    #[expect(clippy::disallowed_methods, reason = "a test's own child")]
    fn of(connection: TcpStream) -> Self {
        Self(Command::new("sleep").arg("600").stdin(OwnedFd::from(connection)).spawn().expect("sleep"))
    }

    fn pid(&self) -> Pid {
        Pid(i32::try_from(self.0.id()).expect("pids fit"))
    }
}

impl Drop for Holder {
    #[expect(clippy::disallowed_methods, reason = "a test's own child")]
    fn drop(&mut self) {
        self.0.kill().expect("its own child");
        self.0.wait().expect("its own child");
    }
}

/// A listener with two accepted connections in two processes, and one that waits.
struct Scene {
    listener: TcpListener,
    clients: Vec<TcpStream>,
    holders: Vec<Holder>,
}

impl Scene {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound");
        let clients = (0..3).map(|_| TcpStream::connect(address).expect("connected")).collect();
        let holders = (0..2).map(|_| Holder::of(listener.accept().expect("one waits").0)).collect();
        Self { listener, clients, holders }
    }

    fn connections(&self) -> Connections {
        let port = self.listener.local_addr().expect("bound").port();
        Connections::new(&[(inode_of(self.listener.as_raw_fd(), "self"), port)]).expect("sock_diag")
    }
}

fn inode_of(descriptor: RawFd, process: &str) -> u64 {
    let link = std::fs::read_link(format!("/proc/{process}/fd/{descriptor}")).expect("open");
    link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).expect("a socket")
}

fn verdicts(connections: &mut Connections, processes: &[Pid], sockets_of: SocketsOf<'_>) -> Vec<Verdict> {
    connections.begin(processes.iter().copied());
    loop {
        if let Part::Done(verdicts) = connections.look(sockets_of).expect("listed") {
            return verdicts;
        }
    }
}

#[test]
fn each_has_its_own_and_what_waits_is_nobodys() {
    let mut scene = Scene::new();
    let [first, second] = [0, 1].map(|index: usize| scene.holders[index].pid());
    let mut nobody = |_| None;
    let mut connections = scene.connections();
    assert!(matches!(
        verdicts(&mut connections, &[first, second], &mut nobody)[..],
        [Verdict::Idle { .. }, Verdict::Idle { .. }]
    ));
    assert_eq!(verdicts(&mut scene.connections(), &[], &mut nobody), []);
    let (mut of_first, mut of_second) = (scene.connections(), scene.connections());
    assert_eq!(verdicts(&mut of_first, &[first], &mut nobody).len(), 1);
    scene.clients[0].write_all(b"GET").expect("sent");
    // Asked for by name now.
    assert_eq!(verdicts(&mut of_first, &[first], &mut nobody), [Verdict::Busy]);
    assert!(matches!(verdicts(&mut of_second, &[second], &mut nobody)[..], [Verdict::Idle { .. }]));
    drop(scene.holders.remove(0));
    assert_eq!(verdicts(&mut connections, &[first, second], &mut nobody).len(), 1, "gone with its process");
    let (late, _) = scene.listener.accept().expect("one waits");
    let late = Holder::of(late);
    assert_eq!(verdicts(&mut connections, &[second, late.pid()], &mut nobody).len(), 2, "a new one is found");
    assert!(!connections.is_blind());
}

#[test]
#[expect(unsafe_code, reason = "the system call itself, because the library's function changes all threads")]
fn where_nobody_may_look_all_on_the_port_count() {
    if !geteuid().is_root() {
        skipped("only root can become somebody else");
        return;
    }
    let scene = Scene::new();
    let first = scene.holders[0].pid();
    let inode = inode_of(0, &first.to_string());
    let mut connections = scene.connections();
    let as_nobody = std::thread::spawn(move || {
        // SAFETY: takes three numbers, and changes nothing but the credentials of this thread, which ends below.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(changed, 0);
        let alone = verdicts(&mut connections, &[first], &mut |_| None).len();
        let was_blind = connections.is_blind();
        let helped = verdicts(&mut connections, &[first], &mut |_| Some(vec![(0, inode)])).len();
        (alone, was_blind, helped, connections.is_blind())
    });
    assert_eq!(as_nobody.join().expect("no panic"), (2, true, 1, false));
}
