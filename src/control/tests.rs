//! The control socket for real: in this process, over an abstract name of its own.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use proptest::prelude::*;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_blocking, spawn_local};

use super::client::{ask_one, choose, listening};
use super::*;
use crate::skip::skipped;

const DEADLINE: Duration = Duration::from_secs(10);

fn own_pid() -> Pid {
    Pid(i32::try_from(std::process::id()).expect("pids fit"))
}

/// A server under namespace numbers that no kernel gives, one for each test.
fn served(number: u64, client: impl FnOnce(Instance) -> Result<String, String> + Send + 'static) -> Vec<Asked> {
    let instance = Instance { mnt: number, pid: u64::from(std::process::id()) };
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = runtime.block_on(async { Server::bind(instance) }).expect("the name is free");
    LocalSet::new().block_on(&runtime, async move {
        let (send, mut receive) = mpsc::channel(1);
        let serving = spawn_local(serve(server, send));
        let answering = spawn_local(async move {
            let mut seen = Vec::new();
            while let Some(Asked { demand, by, reply }) = receive.recv().await {
                let answer = match &demand {
                    Demand::Cluster(Request::Scale(0)) => Err("at least\n1 worker".to_owned()),
                    Demand::Cluster(request) => Ok(format!("{request:?}")),
                    Demand::Send(whom, json) => Ok(format!("{whom:?} {}", json.len())),
                };
                let (kept, _) = tokio::sync::oneshot::channel();
                reply.send(answer).expect("the server waits for it");
                seen.push(Asked { demand, by, reply: kept });
            }
            seen
        });
        let result = spawn_blocking(move || client(instance)).await.expect("the client's part");
        assert!(!serving.is_finished(), "the loop never ends");
        serving.abort();
        result.expect("the client's part");
        answering.await.expect("ends with the server")
    })
}

fn connect(instance: Instance) -> UnixStream {
    let name = format!("{}{}", prefix(instance), std::process::id());
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).expect("short")).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

/// The answer to these bytes; the server may close before it has read them all.
fn answer_to(instance: Instance, bytes: &[u8]) -> String {
    let mut stream = connect(instance);
    let _refused_early = stream.write_all(bytes);
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    assert!(ended.as_ref().is_ok() || ended.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset), "closed in time");
    String::from_utf8(answer).expect("text")
}

#[test]
fn a_request_is_handed_on_with_its_author_and_answered() {
    let seen = served(1, |instance| {
        let ask = |line: &str| ask_one(instance, own_pid(), line).map_err(|error| error.to_string());
        assert_eq!(ask("scale 4\n"), Ok("Scale(4)".to_owned()));
        assert_eq!(ask("restart 2\n"), Ok("Restart(Slot(2))".to_owned()));
        assert_eq!(ask("reload\n"), Ok("Reload".to_owned()));
        assert_eq!(ask("scale 0\n"), Err("at least 1 worker".to_owned()));
        ask("stop\n")
    });
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(|asked| asked.by == Peer { pid: own_pid(), uid: geteuid().as_raw() }));
    assert_eq!(seen[4].demand, Demand::Cluster(Request::Stop { interrupt: false, listening: false }));
}

#[test]
fn oversize_and_garbage_are_refused_and_hurt_nobody() {
    let seen = served(2, |instance| {
        for garbage in [
            b"reload" as &[u8],
            b"\n",
            b"RELOAD\n",
            b"scale\n",
            b"scale -1\n",
            b"scale 4 5\n",
            b"scale 99999999999\n",
            b"\xff\xfe\n",
        ] {
            let mut stream = connect(instance);
            stream.write_all(garbage).expect("the server reads");
            stream.shutdown(std::net::Shutdown::Write).expect("connected");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert!(answer.starts_with("refused ") && answer.ends_with('\n'), "{garbage:?}: {answer}");
        }
        let oversize = answer_to(instance, &vec![b'x'; LONGEST_REQUEST]);
        assert!(oversize.starts_with("refused the request is longer"), "{oversize}");
        let flood = answer_to(instance, &vec![b'x'; 100_000]);
        assert!(flood.is_empty() || flood.starts_with("refused "), "{flood}");
        ask_one(instance, own_pid(), "reload\n").map_err(|error| error.to_string())
    });
    assert_eq!(seen.len(), 1, "only the good one was handed on");
}

#[test]
fn who_says_nothing_is_closed_and_keeps_nobody_out() {
    served(3, |instance| {
        // More than there are places: the last ones get theirs when the first ones have used up their time.
        let mut silent: Vec<UnixStream> = (0..20).map(|_| connect(instance)).collect();
        let answer = ask_one(instance, own_pid(), "reload\n").map_err(|error| error.to_string());
        let mut rest = Vec::new();
        silent[0].read_to_end(&mut rest).expect("closed in time");
        assert!(rest.is_empty());
        answer
    });
}

/// As root this asks from a thread that has become somebody else (for the kernel, credentials belong to threads).
#[test]
#[expect(unsafe_code, reason = "the system call itself, because the library's function changes all threads")]
fn another_user_is_refused() {
    if !geteuid().is_root() {
        skipped("only root can become somebody else");
        return;
    }
    let seen = served(4, |instance| {
        let as_nobody = std::thread::spawn(move || {
            // SAFETY: takes three numbers, and changes nothing but the credentials of this thread, which ends below.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(changed, 0);
            answer_to(instance, b"reload\n")
        });
        Ok(as_nobody.join().expect("the other user's part"))
            .inspect(|said| assert!(said.starts_with("refused only root and"), "{said}"))
    });
    assert!(seen.is_empty(), "nothing was handed on");
}

#[test]
fn the_rule_is_the_same_user_or_root_in_our_pid_namespace() {
    let me = geteuid().as_raw();
    assert!(Peer { pid: Pid(7), uid: 0 }.may_ask() && Peer { pid: Pid(7), uid: me }.may_ask());
    assert!(!Peer { pid: Pid(0), uid: 0 }.may_ask() && !Peer { pid: Pid(0), uid: me }.may_ask());
    assert!(!Peer { pid: Pid(7), uid: me + 1 }.may_ask());
}

#[test]
fn a_name_that_somebody_else_holds_is_not_trusted() {
    let instance = Instance { mnt: 5, pid: u64::from(std::process::id()) };
    let named = Pid(own_pid().0 + 1);
    let name = SocketAddr::from_abstract_name(format!("{}{named}", prefix(instance))).expect("short");
    let squatter = UnixListener::bind_addr(&name).expect("the name is free");
    let refused = ask_one(instance, named, "stop\n");
    assert!(matches!(&refused, Err(AskError::Stranger { found, .. }) if found.pid == own_pid()), "{refused:?}");
    let (mut stream, _) = squatter.accept().expect("it connected");
    let mut told = Vec::new();
    stream.read_to_end(&mut told).expect("closed");
    assert!(told.is_empty(), "not a word before the check");
}

#[test]
fn a_server_is_found_by_its_name_and_two_are_not_guessed_between() {
    let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
        ffff0: 00000002 00000000 00010000 0001 01 111 @clusterinit/10/20/7\n\
        ffff1: 00000003 00000000 00000000 0001 03 112 @clusterinit/10/20/9\n\
        ffff2: 00000002 00000000 00010000 0001 01 113 @clusterinit/11/20/1\n\
        ffff3: 00000002 00000000 00010000 0001 01 114 @clusterinit/10/20/x\n\
        ffff4: 00000002 00000000 00010000 0001 01 115 /run/clusterinit/10/20/1\n\
        ffff5: 00000003 00000000 00000000 0001 03 116\n";
    let instance = Instance { mnt: 10, pid: 20 };
    let found = listening(table, &prefix(instance));
    assert_eq!(choose(found.clone()).expect("one"), Pid(7));
    let with_pid_1 = found.iter().copied().chain([Pid(1)]).collect();
    assert_eq!(choose(with_pid_1).expect("pid 1"), Pid(1));
    let two = choose(found.into_iter().chain([Pid(8)]).collect()).expect_err("no guess");
    assert!(two.to_string().ends_with("of 7, 8"), "{two}");
    assert!(matches!(choose(listening(table, "clusterinit/1/2/")), Err(AskError::NotFound)));
}

#[test]
fn a_bound_server_is_in_the_kernels_table() {
    let instance = Instance { mnt: 6, pid: u64::from(std::process::id()) };
    let server = Server::bind(instance).expect("the name is free");
    let look = || listening(&std::fs::read_to_string("/proc/net/unix").expect("Linux"), &prefix(instance));
    assert_eq!(choose(look()).expect("found"), own_pid());
    assert!(Server::bind(instance).is_err(), "a name belongs to one");
    drop(server);
    assert!(look().is_empty(), "nothing is left behind");
}

proptest! {
    #[test]
    fn a_request_reads_back_and_fits(number: u32, which in 0..6, json in "[^\\n\\r]{0,200}") {
        let demand = match which {
            0 => Demand::Cluster(Request::Reload),
            1 => Demand::Cluster(Request::Stop { interrupt: false, listening: false }),
            2 => Demand::Cluster(Request::Scale(number)),
            3 => Demand::Send(Whom::All, json),
            4 => Demand::Send(Whom::Slot(Slot(number)), json),
            _ => Demand::Cluster(Request::Restart(Slot(number))),
        };
        let line = to_line(&demand).expect("a request of the socket");
        prop_assert!(line.len() <= LONGEST_REQUEST);
        prop_assert_eq!(parse(line.strip_suffix('\n').expect("one line")), Some(demand));
    }

    #[test]
    fn any_text_is_a_request_or_not(text in ".{0,80}") {
        if let Some(demand) = parse(&text) {
            prop_assert!(to_line(&demand).is_some());
        }
    }
}
