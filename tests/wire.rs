//! From fork to an answered call, on the real kernel: workers of [`Launch`] under the filter, and each test plays PID 1.

#![expect(clippy::expect_used, clippy::panic, reason = "a test: what fails here fails it")]

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use clusterinit::cluster::words::{ExitStatus, Pid, Signal};
use clusterinit::config::User;
use clusterinit::share::filter;
use clusterinit::sys::descriptor::lift;
use clusterinit::sys::init::Inherited;
use clusterinit::sys::outcome::{self, Outcome, Step};
use clusterinit::sys::process::{self, Handed, Launch, Started, Terms};
use clusterinit::sys::reap;
use clusterinit::sys::seccomp::{Call, Filter, Listener};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// For one thing that must happen.
const DEADLINE: u16 = 10_000; // milliseconds

fn launch(words: &[&str], program: Option<Vec<libc::sock_filter>>, listeners: usize) -> Launch {
    let filter = program.map(|program| Filter { program, no_new_privs: true });
    launch_on(words, Terms { filter, listeners, ..Terms::default() })
}

fn launch_on(words: &[&str], terms: Terms) -> Launch {
    let command: Vec<OsString> = words.iter().map(OsString::from).collect();
    let environment = [("PATH".into(), std::env::var_os("PATH").expect("a PATH"))];
    Launch::new(&command, &environment, Inherited::take(), terms).expect("no NUL in it")
}

fn example(name: &str) -> String {
    let tests = std::env::current_exe().expect("the test's own path");
    let path = tests.parent().and_then(std::path::Path::parent).expect("target/debug/deps").join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples`, or all tests at once", path.display());
    path.to_str().expect("UTF-8").to_owned()
}

/// For `events`, or for the end of what the descriptor stands for.
fn wait_for(descriptor: &OwnedFd, events: PollFlags) {
    let mut asked = [PollFd::new(descriptor.as_fd(), events)];
    assert_eq!(poll(&mut asked, PollTimeout::from(DEADLINE)), Ok(1), "nothing came in time");
}

fn next_outcome(started: &Started) -> Outcome {
    loop {
        wait_for(&started.outcome, PollFlags::POLLIN);
        if let Some(outcome) = outcome::read(&started.outcome) {
            return outcome;
        }
    }
}

/// A worker that runs, and the listener of its calls.
struct Worker {
    pid: Pid,
    listener: Listener,
}

impl Worker {
    fn start(words: &[&str], listeners: &[BorrowedFd<'_>]) -> Self {
        let started = launch(words, Some(filter::program()), listeners.len())
            .start(&[], Handed { listeners, ..Handed::default() })
            .expect("forked");
        let Outcome::Listener(descriptor) = next_outcome(&started) else { panic!("the listener comes first") };
        assert!(matches!(next_outcome(&started), Outcome::Executed));
        Self { pid: started.pid, listener: Listener::new(lift(descriptor)) }
    }

    fn next_call(&self, number: libc::c_long) -> Call {
        loop {
            wait_for(self.listener.descriptor(), PollFlags::POLLIN);
            if let Some(call) = self.listener.receive().expect("the worker is there") {
                assert_eq!((call.number, call.thread), (number, self.pid));
                assert!(self.listener.is_valid(&call));
                return call;
            }
        }
    }

    /// Its exit status. When nobody is left under the filter the listener says so, once and for all.
    fn ends(self) -> u8 {
        let status = reap::wait_for_end(self.pid).expect("our child");
        wait_for(self.listener.descriptor(), PollFlags::empty());
        for _ in 0..2 {
            self.listener.receive().expect_err("nobody is left");
        }
        status.as_code()
    }
}

/// What the worker says to whoever connects. It carries its call out after our answer, so the first attempts may be refused.
fn greeting(address: SocketAddr, worker: &Worker) -> String {
    let mut client = loop {
        match TcpStream::connect(address) {
            Ok(client) => break client,
            Err(_) => assert!(!reap::has_ended(worker.pid), "it ended without having listened"),
        }
    };
    let mut text = String::new();
    client.read_to_string(&mut text).expect("read");
    text
}

/// Some address that nobody has now.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

#[test]
fn the_worker_sees_the_answer_to_its_bind() {
    let worker = Worker::start(&[&example("binds"), "127.0.0.1:0"], &[]);
    let call = worker.next_call(libc::SYS_bind);
    assert_eq!(worker.listener.receive().ok(), Some(None), "no other call");
    worker.listener.answer(&call, Err(Errno::EADDRINUSE));
    worker.listener.answer(&call, Ok(0)); // too late, and no harm
    assert!(!worker.listener.is_valid(&call));
    assert_eq!(i32::from(worker.ends()), libc::EADDRINUSE);
}

#[test]
fn a_call_that_goes_on_does_what_it_always_did() {
    let address = free_address();
    let worker = Worker::start(&[&example("binds"), &address.to_string()], &[]);
    for number in [libc::SYS_bind, libc::SYS_listen] {
        let call = worker.next_call(number);
        worker.listener.go_on(&call);
    }
    assert_eq!(greeting(address, &worker), address.to_string());
    assert_eq!(worker.ends(), 0);
}

#[test]
fn a_socket_of_ours_is_put_over_the_worker_s() {
    let ours = TcpListener::bind("127.0.0.1:0").expect("bound");
    let worker = Worker::start(&[&example("binds"), "127.0.0.1:1"], &[]);
    let call = worker.next_call(libc::SYS_bind);
    let number = i32::try_from(call.arguments[0]).expect("a descriptor");
    worker.listener.put_over(&call, ours.as_fd(), number, true).expect("put there");
    worker.listener.answer(&call, Ok(0));
    let call = worker.next_call(libc::SYS_listen);
    worker.listener.go_on(&call);
    let address = ours.local_addr().expect("bound");
    assert_eq!(greeting(address, &worker), address.to_string());
    assert_eq!(worker.ends(), 0);
}

#[test]
fn what_is_for_a_caller_that_has_gone_is_no_error_but_for_a_socket() {
    let worker = Worker::start(&[&example("binds"), "127.0.0.1:0"], &[]);
    let call = worker.next_call(libc::SYS_bind);
    process::signal(worker.pid, Signal::KILL).expect("signalled");
    assert_eq!(reap::wait_for_end(worker.pid), Some(ExitStatus::Signal { signal: Signal::KILL, core: false }));
    assert!(!worker.listener.is_valid(&call));
    worker.listener.go_on(&call);
    worker.listener.answer(&call, Ok(0));
    let socket = TcpListener::bind("127.0.0.1:0").expect("bound");
    worker.listener.put_over(&call, socket.as_fd(), 3, true).expect_err("nobody has a descriptor 3");
}

#[test]
fn a_worker_without_a_listener_is_a_worker_all_the_same() {
    let no_program = vec![libc::sock_filter { code: 0xffff, jt: 0, jf: 0, k: 0 }];
    let started = launch(&["true"], Some(no_program), 0).start(&[], Handed::default()).expect("forked");
    assert!(matches!(next_outcome(&started), Outcome::NoListener(Errno::EINVAL)));
    assert!(matches!(next_outcome(&started), Outcome::Executed));
    assert_eq!(reap::wait_for_end(started.pid), Some(ExitStatus::Code(0)));
}

#[test]
fn a_command_that_cannot_be_executed_is_said_after_the_listener() {
    for filter in [None, Some(filter::program())] {
        let filtered = filter.is_some();
        let started = launch(&["/nowhere"], filter, 0).start(&[], Handed::default()).expect("forked");
        if filtered {
            assert!(matches!(next_outcome(&started), Outcome::Listener(_)));
        }
        let Outcome::Failed(failed) = next_outcome(&started) else { panic!("it did not become the worker") };
        assert_eq!((failed.step, failed.errno), (Step::Exec, libc::ENOENT));
        assert_eq!(reap::wait_for_end(started.pid), Some(ExitStatus::Code(127)));
    }
}

#[test]
fn a_worker_enters_its_group_first_or_does_not_begin() {
    let (group, entrance) = nix::unistd::pipe().expect("what is written to a group can be read here");
    let user = Some(User { uid: 65_534, gid: 65_534 });
    let enters = |entrance: BorrowedFd<'_>| {
        let launch = launch_on(&["true"], Terms { user, filter: None, ..Terms::default() });
        let started = launch.start(&[], Handed { group: Some(entrance), ..Handed::default() }).expect("forked");
        (next_outcome(&started), reap::wait_for_end(started.pid))
    };
    assert!(matches!(enters(entrance.as_fd()), (Outcome::Executed, Some(ExitStatus::Code(0)))));
    drop(entrance);
    let mut bytes = [0; 8];
    assert_eq!(nix::unistd::read(&group, &mut bytes), Ok(1));
    assert_eq!(bytes.first(), Some(&b'0'));
    let full = OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let (outcome, end) = enters(full.as_fd());
    let Outcome::Failed(failed) = outcome else { panic!("it runs outside: {outcome:?}") };
    assert_eq!((failed.step, failed.errno, end), (Step::Group, libc::ENOSPC, Some(ExitStatus::Code(127))));
}

#[test]
fn each_worker_gets_its_own_sockets_and_never_the_listener_of_its_calls() {
    let script = r#"test "$LISTEN_PID" = $$ || exit 1
        test "$(readlink /proc/$$/fd/3) $(readlink /proc/$$/fd/4)" = "$1 $2" || exit 2
        readlink /proc/$$/fd/* | grep -q seccomp && exit 3
        exit 0"#;
    for _ in 0..2 {
        let sockets = [(), ()].map(|()| lift(TcpListener::bind("127.0.0.1:0").expect("bound").into()));
        let name = |socket: &OwnedFd| {
            std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).expect("open").to_string_lossy().into_owned()
        };
        let [first, second] = sockets.each_ref().map(name);
        let worker = Worker::start(&["sh", "-c", script, "sh", &first, &second], &sockets.each_ref().map(AsFd::as_fd));
        assert_eq!(worker.ends(), 0);
    }
}

/// Root's filter comes before its user: what the worker may do with setuid programs stays as it is.
#[test]
fn a_worker_of_another_user_has_a_listener_without_no_new_privs() {
    let has_sys_admin = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("a /proc");
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("a field").trim();
        u64::from_str_radix(capabilities, 16).expect("hexadecimal") & 1 << 21 != 0
    };
    if !nix::unistd::geteuid().is_root() || !has_sys_admin() {
        let name = "a_worker_of_another_user_has_a_listener_without_no_new_privs";
        writeln!(std::io::stderr(), "SKIPPED {name}: only root with CAP_SYS_ADMIN needs no no_new_privs").expect("stderr");
        assert!(std::env::var_os("CLUSTERINIT_TEST_NO_SKIP").is_none(), "skipping is not allowed");
        return;
    }
    let filter = Some(Filter { program: filter::program(), no_new_privs: false });
    let user = Some(User { uid: 65_534, gid: 65_534 });
    let script = "test $(id -u) = 65534 && grep -q 'NoNewPrivs:.*0' /proc/self/status";
    let started = launch_on(&["sh", "-c", script], Terms { filter, user, ..Terms::default() })
        .start(&[], Handed::default())
        .expect("forked");
    assert!(matches!(next_outcome(&started), Outcome::Listener(_)));
    assert!(matches!(next_outcome(&started), Outcome::Executed));
    assert_eq!(reap::wait_for_end(started.pid), Some(ExitStatus::Code(0)));
}
