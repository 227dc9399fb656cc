//! What workers are told of their share, and what the real runtimes make of it.
//!
//! Each program prints one line about itself and ends: a job of two workers, which share 512 MiB and the CPUs of this machine.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{Launch, Mode, modes, output_of, skipped, tool};

const CAP: u64 = 256 << 20;

/// Prints each variable that is a hint, and nothing else, in one write: two workers share the pipe.
const SHOW: &str = r#"hints='^(NODE_OPTIONS|GOMEMLIMIT|JAVA_TOOL_OPTIONS|DOTNET_|GOMAXPROCS|[A-Z]+_NUM_THREADS|TOKIO_WORKER_THREADS|UV_)'
printf '%s\n' "$(env | grep -E "$hints" | sort | tr '\n' ' ')""#;

/// What each of two workers printed, and what stderr holds.
fn told(mode: Mode, settings: &[(&str, &str)], command: &[&str]) -> (Vec<String>, String) {
    // Once each, also where a slow machine makes a job look like a server that has run for a second.
    let launch = Launch::of(mode, command).set("SHARE", "off").set("RESTART", "never");
    let launch = launch.set("WORKERS", 2).set("WORKER_MEMORY", CAP);
    // The last one of a name counts.
    let launch = settings.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
    let (code, out, err) = launch.start().finish();
    assert_eq!(code, 0, "{err}");
    (out.lines().map(|line| line.trim().to_owned()).collect(), err)
}

/// What both workers printed alike.
fn one(settings: &[(&str, &str)], command: &[&str]) -> String {
    let (lines, err) = told(Mode::Plain, settings, command);
    assert!(lines.len() == 2 && lines[0] == lines[1], "{lines:?}\n{err}");
    lines[0].clone()
}

/// `name` ends in `=`, and what follows is a number of CPUs. Which one depends on the machine.
fn has_number(text: &str, name: &str) -> bool {
    text.split(' ').any(|word| word.strip_prefix(name).is_some_and(|value| value.parse::<u32>().is_ok_and(|cpus| cpus >= 1)))
}

#[test]
fn each_worker_sees_its_share_whatever_the_command() {
    for mode in modes() {
        let (lines, err) = told(mode, &[], &["sh", "-c", SHOW]);
        assert_eq!(lines.len(), 2, "{lines:?}\n{err}");
        for line in lines {
            for part in [
                "NODE_OPTIONS=--max-old-space-size=192",
                "GOMEMLIMIT=201326592",
                "JAVA_TOOL_OPTIONS=-XX:MaxRAM=268435456",
                "DOTNET_GCHeapHardLimit=C000000",
            ] {
                assert!(line.split(' ').any(|word| word == part), "{part}: {line}");
            }
            for name in ["GOMAXPROCS=", "OMP_NUM_THREADS=", "RAYON_NUM_THREADS=", "TOKIO_WORKER_THREADS="] {
                assert!(has_number(&line, name), "{name}: {line}");
            }
            assert!(!line.contains("UV_"), "{line}");
        }
    }
}

#[test]
fn nothing_is_told_to_one_worker_or_where_it_is_not_wanted() {
    for off in [("CLUSTERINIT_WORKERS", "1"), ("CLUSTERINIT_RUNTIME_HINTS", "off")] {
        let (lines, err) = told(Mode::Plain, &[off], &["sh", "-c", SHOW]);
        assert!(!lines.is_empty() && lines.iter().all(String::is_empty), "{off:?}: {lines:?}\n{err}");
    }
    let threads = one(&[("CLUSTERINIT_WORKER_MEMORY", "off")], &["sh", "-c", SHOW]);
    assert!(has_number(&threads, "GOMAXPROCS=") && !threads.contains("GOMEMLIMIT") && !threads.contains("_OPTIONS"), "{threads}");
}

#[test]
fn what_the_user_has_set_is_kept() {
    let set = [("GOMEMLIMIT", "7MiB"), ("OMP_NUM_THREADS", "9"), ("NODE_OPTIONS", "--no-warnings"), ("UV_THREADPOOL_SIZE", "5")];
    let line = one(&set, &["sh", "-c", SHOW]);
    let kept =
        ["GOMEMLIMIT=7MiB ", "OMP_NUM_THREADS=9 ", "NODE_OPTIONS=--no-warnings --max-old-space-size=192", "UV_THREADPOOL_SIZE=5"];
    for part in kept {
        assert!(line.contains(part), "{part}: {line}");
    }
}

/// V8 adds its young generation: 48 MiB at most by default on 64 bits.
#[test]
fn node_limits_its_heap() {
    const LIMIT: &str = "v8.getHeapStatistics().heap_size_limit / 1048576";
    let Some(node) = tool("node") else { return };
    let limit = |settings: &[(&str, &str)], command: &[&str]| one(settings, command).parse::<f64>().expect("a number");
    let direct = limit(&[], &[&node, "-p", LIMIT]);
    assert!((192.0..=240.0).contains(&direct), "{direct}");
    let script = format!("exec {node} -p '{LIMIT}'");
    assert!((limit(&[], &["sh", "-c", &script]) - direct).abs() < 1.0, "a child of a shell");
    let kept = limit(&[("NODE_OPTIONS", "--max-semi-space-size=1 --no-warnings")], &[&node, "-p", LIMIT]);
    assert!((192.0..=196.0).contains(&kept), "the user's options are in force too: {kept}");
    for flag in ["--max-old-space-size=64", "--max_old_space_size=64"] {
        let own = limit(&[], &[&node, flag, "-p", LIMIT]);
        let by_variable = limit(&[("NODE_OPTIONS", flag)], &[&node, "-p", LIMIT]);
        assert!((64.0..=112.0).contains(&own) && (by_variable - own).abs() < 1.0, "{flag}: {own}, {by_variable}");
    }
    let sum = limit(&[], &[&node, "--max-heap-size=100", "-p", LIMIT]);
    assert!((100.0..=104.0).contains(&sum), "{sum}");
}

#[test]
fn go_limits_its_memory_and_its_threads() {
    let Some(program) = go() else { return };
    let line = one(&[], &[&program]);
    let (memory, threads) = line.split_once(' ').expect("two numbers");
    assert_eq!(memory, "201326592");
    let expected = one(&[], &["sh", "-c", "echo $GOMAXPROCS"]);
    assert_eq!(threads, expected);
    assert_eq!(one(&[("GOMEMLIMIT", "off"), ("GOMAXPROCS", "3")], &[&program]), "9223372036854775807 3");
}

/// Built once for all tests.
fn go() -> Option<String> {
    static BUILT: OnceLock<Option<String>> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn build() -> Option<String> {
    let go = tool("go")?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    let (program, fresh) = (folder.join("limits"), folder.join(format!("limits.{}", std::process::id())));
    let mut command = Command::new(go);
    command.args(["build", "-o"]).arg(&fresh).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/hints/limits.go"));
    command.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOCACHE", folder.join("cache")).env("GOPATH", &folder);
    command.env("GOFLAGS", "").env("GOTOOLCHAIN", "local");
    let output = output_of(&mut command);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if errors.contains("SetMemoryLimit") {
        skipped("this go is older than 1.19, which brought GOMEMLIMIT");
        return None;
    }
    assert!(output.status.success(), "go build: {errors}");
    // Another run of these tests may execute the file at this moment.
    fs::rename(&fresh, &program).expect("moved");
    Some(program.to_str().expect("UTF-8").to_owned())
}

/// `MaxRAM` and `MaxHeapSize` of the JVM that a worker becomes, in MiB.
fn java(java: &str, settings: &[(&str, &str)], flags: &str) -> (u64, u64) {
    let script = format!(
        "{java} {flags} -XX:+PrintFlagsFinal -version | awk '$2 ~ /^Max(RAM|HeapSize)$/ {{ print $2, $4 }}' | sort | xargs"
    );
    let line = one(settings, &["sh", "-c", &script]);
    let words: Vec<&str> = line.split(' ').collect();
    assert!(words.len() == 4 && words[0] == "MaxHeapSize" && words[2] == "MaxRAM", "{line}");
    let mib = |word: &str| word.parse::<u64>().expect("a number") >> 20;
    (mib(words[3]), mib(words[1]))
}

/// The JVM takes the share for the machine's memory, and its own or the user's percentage of that for the heap.
#[test]
fn java_takes_its_share_for_the_machine() {
    let Some(program) = tool("java") else { return };
    let (ram, heap) = java(&program, &[], "");
    assert!(ram == 256 && (64..=128).contains(&heap), "{ram} {heap}");
    assert_eq!(java(&program, &[], "-XX:MaxRAMPercentage=75"), (256, 192));
    let by_variable = [("JAVA_TOOL_OPTIONS", "-Da=b -XX:MaxRAMPercentage=50 -XX:MinRAMPercentage=50")];
    let (ram, heap) = java(&program, &by_variable, "");
    assert!(ram == 256 && (120..=128).contains(&heap), "{ram} {heap}");
}

#[test]
fn java_with_a_heap_of_the_users_own_is_left_alone() {
    let Some(program) = tool("java") else { return };
    for (settings, flags) in
        [(&[][..], "-Xmx96m"), (&[("JDK_JAVA_OPTIONS", "-Xmx96m")], ""), (&[("JAVA_TOOL_OPTIONS", "-Xmx96m")], "")]
    {
        let (ram, heap) = java(&program, settings, flags);
        assert!(ram != 256 && heap == 96, "{settings:?} {flags}: {ram} {heap}");
    }
    // A start script may hold the flag where we do not see it: it wins.
    let hidden = format!("{program} -X$(printf mx)96m");
    assert_eq!(java(&hidden, &[], ""), (256, 96));
}

/// Python reads none of them by itself; its numeric libraries read `OMP_NUM_THREADS`.
#[test]
fn python_passes_the_threads_on() {
    let Some(python) = tool("python3") else { return };
    let line = one(&[], &[&python, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]);
    assert!(line.parse::<u32>().is_ok_and(|threads| threads >= 1), "{line}");
}
