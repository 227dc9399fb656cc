//! What is printed, whole and by line.

use std::ffi::OsString;
use std::path::PathBuf;

use super::*;
use crate::node::command::Script;
use crate::share::probe::Works;
use crate::sys::cgroup::{CpuLimit, Limits, MemoryLimit};

#[test]
fn a_node_with_a_script_is_told() {
    let preload = |preload| Machine { script: Some(Script { preload }), ..machine() };
    for (words, machine, told) in [
        ("auto", preload(true), "spoken, with a preload"),
        ("auto", preload(false), "without the preload: the script"),
        ("auto,no-preload", preload(true), "without the preload: CLUSTERINIT_NODE_IPC"),
        ("on", machine(), "spoken, with a preload"),
    ] {
        let page = printed(&[("CLUSTERINIT_NODE_IPC", words)], &machine);
        assert!(page.contains("mechanism         node") && page.contains(told), "{words}\n{page}");
    }
    for (words, machine) in [("off", preload(true)), ("auto", machine())] {
        assert!(!printed(&[("CLUSTERINIT_NODE_IPC", words)], &machine).contains("cluster protocol"), "{words}");
    }
}

fn machine() -> Machine {
    Machine {
        limits: Limits {
            cpu: Some(CpuLimit { cpus: 1.5, source: PathBuf::from("/sys/fs/cgroup/cpu.max") }),
            memory: Some(MemoryLimit { bytes: 512 << 20, source: PathBuf::from("/sys/fs/cgroup/memory.max") }),
        },
        affinity: 4,
        stdin_is_terminal: false,
        is_pid1: true,
        command: vec!["./server".into(), "--port".into(), "8080".into()],
        watchdog: None,
        sharing: Ok(Works { needs_no_new_privs: false }),
        privileged_file: None,
        script: None,
        round_robin: false,
        subgroups: Err("cgroups are read-only here".to_owned()),
    }
}

fn printed(given: &[(&str, &str)], machine: &Machine) -> String {
    let environment: Vec<(OsString, OsString)> = given.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let hints = Hints::new(&machine.command, &environment);
    print(&Config::from_env(environment).expect("a good environment"), machine, &hints)
}

fn has_lines(page: &str, lines: &[&str]) {
    for line in lines {
        assert!(page.lines().any(|found| found == *line), "{line}\n{page}");
    }
}

#[test]
fn the_defaults_in_a_container() {
    let expected = "\
command
  run               ./server --port 8080
  as                PID 1 of this namespace

cpu
  limit             1.5 CPUs, from /sys/fs/cgroup/cpu.max
  affinity mask     4 CPUs

workers
  count             2
  decided by        CPU limit
  auto              CPU limit 1.5 x 1 per CPU = 1.5, ceil: 2
                    affinity mask: at most 4
                    memory: (512Mi - 36Mi reserve) / 128Mi per worker allows 3
  start             slot 0 alone, the others when it is ready
  scaling           1 to 8

memory
  limit             512Mi, from /sys/fs/cgroup/memory.max
  reserve           32Mi: 32Mi + 4Mi for each worker above 2, at most a quarter of the limit
  room for          3 workers of 128Mi
  share of a worker (512Mi - 32Mi reserve) / 2 = 240Mi
  enforced by       sampling, while the container is short of memory (no cgroup for each worker: cgroups are read-only here)
  replaced          above its share, before the container is so short that it is killed

runtime hints
  share             for 1 CPU and 240Mi of memory: each of 2 workers
                    NODE_OPTIONS=--max-old-space-size=180
                    GOMEMLIMIT=188743680
                    JAVA_TOOL_OPTIONS=-XX:MaxRAM=251658240
                    DOTNET_GCHeapHardLimit=B400000
                    GOMAXPROCS=1
                    OMP_NUM_THREADS=1
                    RAYON_NUM_THREADS=1
                    TOKIO_WORKER_THREADS=1

port sharing
  mechanism         seccomp
  balance           spread
  no_new_privs      not needed

settings (CLUSTERINIT_...)
  WORKERS           default  2 (auto)
";
    let page = printed(&[], &machine());
    assert!(page.starts_with(expected), "{page}");
    for line in ["  GRACE             default  8s (auto)\n", "  MEMORY_RESERVE    default  32Mi (auto)\n"] {
        assert!(page.contains(line), "{line}{page}");
    }
    assert!(!page.contains("not in force"), "{page}");
}

#[test]
fn every_setting_is_there_with_its_origin() {
    let page = printed(&[("CLUSTERINIT_GRACE", "3s"), ("CLUSTERINIT_OUTPUT", "prefix")], &machine());
    for variable in VARIABLES {
        let line = page.lines().find(|line| line.split_whitespace().next() == Some(variable.name) && line.starts_with("  "));
        let origin = line.and_then(|line| line.split_whitespace().nth(1));
        let expected = if ["GRACE", "OUTPUT"].contains(&variable.name) { "set" } else { "default" };
        assert_eq!(origin, Some(expected), "{}\n{page}", variable.name);
    }
    assert!(page.contains("  GRACE             set      3s\n"), "{page}");
    assert!(page.contains("  OUTPUT            set      prefix\n") && !page.contains("not in force"), "{page}");
    // Of a shell on a terminal not even the prompt would be seen.
    let terminal = Machine { stdin_is_terminal: true, ..machine() };
    let page = printed(&[("CLUSTERINIT_OUTPUT", "prefix")], &terminal);
    assert!(page.contains("  OUTPUT            set      inherit (prefix)\n"), "{page}");
    assert!(page.contains("\nnot in force\n  OUTPUT=prefix: stdin is a terminal"), "{page}");
    let page = printed(&[("CLUSTERINIT_OUTPUT", "prefix"), ("CLUSTERINIT_WORKERS", "2")], &terminal);
    assert!(page.contains("  OUTPUT            set      prefix\n") && !page.contains("not in force"), "{page}");
}

#[test]
fn what_auto_comes_to_is_shown() {
    let given = [
        ("WEB_CONCURRENCY", "6"),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("CLUSTERINIT_LISTEN", "8080,unix:/run/app.sock"),
        ("CLUSTERINIT_SIGNALS", "HUP=QUIT,USR2=ignore"),
    ];
    let page = printed(&given, &machine());
    for line in [
        "  decided by        WEB_CONCURRENCY",
        "                    would be 2",
        "  start             all at once",
        "  WORKERS           default  6, from WEB_CONCURRENCY (auto)",
        "  DRAIN_DELAY       default  5s where something listens (auto)",
        "  GRACE             default  20s (auto)",
        "  BALANCE           default  spread",
        "  mechanism         listen-fds",
        "  listeners         [::]:8080",
        "                    unix:/run/app.sock",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    let signals = "SIGNALS           set      HUP=QUIT, INT=stop, QUIT=stop, USR2=ignore, TERM=stop, TTIN=more, TTOU=fewer, RTMIN+3=stop, others forwarded";
    assert!(page.contains(signals), "{page}");
}

#[test]
fn without_limits_and_at_a_terminal_it_says_so() {
    let bare = Machine { limits: Limits::default(), stdin_is_terminal: true, command: Vec::new(), ..machine() };
    let page = printed(&[], &bare);
    for line in [
        "  limit             none that can be seen here",
        "  decided by        terminal",
        "                    no CPU limit: at most 8",
        "  RESTART           default  never (auto)",
        "  MEMORY_RESERVE    default  auto",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
}

#[test]
fn every_number_about_memory_is_explained() {
    let page = printed(&[("CLUSTERINIT_WORKERS", "3"), ("CLUSTERINIT_MEMORY_RESERVE", "40Mi")], &machine());
    let lines = [
        "  reserve           40Mi, as MEMORY_RESERVE says",
        "  share of a worker (512Mi - 40Mi reserve) / 3 = about 157Mi, 164975957 bytes",
        "                    NODE_OPTIONS=--max-old-space-size=117",
    ];
    has_lines(&page, &lines);
    let given = [("CLUSTERINIT_WORKERS", "4"), ("CLUSTERINIT_WORKER_MEMORY", "200Mi"), ("GOMAXPROCS", "5")];
    let page = printed(&given, &Machine { subgroups: Ok(()), ..machine() });
    let lines = [
        "  room for          2 workers of 200Mi",
        "  cap of a worker   200Mi, as WORKER_MEMORY says",
        "  enforced by       cgroup, at any time",
        "  replaced          at 90 % of the cap: 180Mi, 188743680 bytes",
        "warnings",
    ];
    has_lines(&page, &lines);
    assert!(page.contains("\n  CLUSTERINIT_WORKERS=4 x CLUSTERINIT_WORKER_MEMORY=200Mi + 40Mi reserve is more than"), "{page}");
    assert!(!page.contains("GOMAXPROCS"), "{page}");
}

#[test]
fn what_is_off_is_said_to_be_off() {
    let off = [("CLUSTERINIT_WORKER_MEMORY", "off"), ("CLUSTERINIT_WORKERS", "1")];
    let lines = [
        "  cap of a worker   none: WORKER_MEMORY=off",
        "  enforced by       off: there is no cap",
        "  replaced          never for its memory",
        "  share             none: one worker has all",
    ];
    has_lines(&printed(&off, &machine()), &lines);
    let unlimited = Machine { limits: Limits::default(), ..machine() };
    let page = printed(&[("CLUSTERINIT_WORKERS", "2")], &unlimited);
    has_lines(
        &page,
        &["  share of a worker none: there is no limit to share", "  share             for 2 CPUs: each of 2 workers"],
    );
    assert!(page.contains("GOMAXPROCS=2") && !page.contains("GOMEMLIMIT"), "{page}");
    has_lines(&printed(&[("CLUSTERINIT_MEMORY_SOFT", "off")], &machine()), &["  replaced          never for its memory"]);
}

#[test]
fn a_line_stays_a_line() {
    let hostile = Machine { command: vec!["x\nsettings".into(), "\u{1b}[31m".into()], ..machine() };
    assert!(printed(&[], &hostile).contains("  run               x?settings ?[31m\n"));
}
