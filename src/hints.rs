//! What known runtimes are told of their share: heap and thread sizes, in the variables that they read. PURE.
//!
//! | variable | value | read by |
//! |---|---|---|
//! | `NODE_OPTIONS` | appended: `--max-old-space-size=` 75 % of the memory, in MiB | Node; Buffers are outside of it |
//! | `GOMEMLIMIT` | 75 % of the memory, in bytes | Go 1.19 and later; a soft limit |
//! | `JAVA_TOOL_OPTIONS` | appended: `-XX:MaxRAM=` the memory, in bytes | every JVM since 8, whoever starts it |
//! | `DOTNET_GCHeapHardLimit` | 75 % of the memory, in bytes, **hexadecimal** | .NET 6 and later |
//! | `GOMAXPROCS`, `OMP_NUM_THREADS`, `RAYON_NUM_THREADS`, `TOKIO_WORKER_THREADS` | the CPUs | the runtimes of these names |
//!
//! They go to workers of any command: who starts the runtime may be `npm` or a shell script, and nobody else reads them. What the
//! user has set, in a variable or in the command's words, stays as it is. A worker that is alone has all, and is told nothing.
//!
//! Java: by `JAVA_TOOL_OPTIONS`, because whatever else a JVM is told wins over it, in a start script too, and because
//! `JDK_JAVA_OPTIONS` reaches only the `java` launcher since 9. The price is the same for both: one line on stderr.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::cluster::sizing::Share;

/// What is known of the command and of what the user has set, once. The default tells nothing.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// What is left to tell, with the caller's value where ours is appended to it.
    open: Vec<(Hint, OsString)>,
}

#[derive(Clone, Copy, Debug)]
struct Hint {
    name: &'static str,
    tells: Tells,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tells {
    NodeHeap,
    GoMemory,
    JavaMemory,
    DotnetHeap,
    Threads,
}

const HINTS: [Hint; 8] = [
    Hint { name: "NODE_OPTIONS", tells: Tells::NodeHeap },
    Hint { name: "GOMEMLIMIT", tells: Tells::GoMemory },
    Hint { name: "JAVA_TOOL_OPTIONS", tells: Tells::JavaMemory },
    Hint { name: "DOTNET_GCHeapHardLimit", tells: Tells::DotnetHeap },
    Hint { name: "GOMAXPROCS", tells: Tells::Threads },
    Hint { name: "OMP_NUM_THREADS", tells: Tells::Threads },
    Hint { name: "RAYON_NUM_THREADS", tells: Tells::Threads },
    Hint { name: "TOKIO_WORKER_THREADS", tells: Tells::Threads },
];

/// Below this share a heap limit would only make a runtime collect garbage without end.
const LEAST_SHARE: u64 = 32 << 20;

impl Hints {
    /// `command` with its arguments; `environment` is the caller's.
    pub fn new(command: &[OsString], environment: &[(OsString, OsString)]) -> Self {
        let caller = Caller { command, environment };
        let open = HINTS.into_iter().filter(|hint| !caller.has_said(*hint));
        Self { open: open.map(|hint| (hint, caller.value(hint.name).unwrap_or_default().to_owned())).collect() }
    }

    /// Variables for a worker with this share, one of so many. A name that the caller has set too replaces the caller's value, which
    /// is in it.
    pub fn variables(&self, share: Share, workers: u32) -> Vec<(&'static str, OsString)> {
        self.told(share, workers).map(|(name, before, ours)| (name, join(before, &ours))).collect()
    }

    /// The same for people, `NAME=value`. What the caller has in a variable may be a secret: `...` stands for it.
    pub fn shown(&self, share: Share, workers: u32) -> Vec<String> {
        let dots = |before: &OsStr| if before.is_empty() { "" } else { "... " };
        self.told(share, workers).map(|(name, before, ours)| format!("{name}={}{ours}", dots(before))).collect()
    }

    /// Name, what the caller has there, and what is ours.
    fn told(&self, share: Share, workers: u32) -> impl Iterator<Item = (&'static str, &OsStr, String)> {
        let open = self.open.iter().filter(move |_| workers > 1);
        open.filter_map(move |(hint, before)| Some((hint.name, before.as_os_str(), hint.text(share)?)))
    }
}

impl Hint {
    /// What it says of this share, or nothing.
    fn text(self, share: Share) -> Option<String> {
        let memory = share.memory.filter(|bytes| *bytes >= LEAST_SHARE);
        // The rest is for what is no heap: code, stacks, buffers, the other processes of the tree.
        let heap = memory.map(|bytes| bytes / 4 * 3);
        match self.tells {
            Tells::NodeHeap => heap.map(|bytes| format!("--max-old-space-size={}", bytes >> 20)),
            Tells::GoMemory => heap.map(|bytes| bytes.to_string()),
            Tells::JavaMemory => memory.map(|bytes| format!("-XX:MaxRAM={bytes}")),
            Tells::DotnetHeap => heap.map(|bytes| format!("{bytes:X}")),
            Tells::Threads => Some(share.cpus.max(1).to_string()),
        }
    }
}

/// Options are separated by blanks; an empty variable is no option.
fn join(before: &OsStr, ours: &str) -> OsString {
    let mut joined = before.to_owned();
    if !before.is_empty() {
        joined.push(" ");
    }
    joined.push(ours);
    joined
}

/// What the user has said about a runtime, in so many words.
struct Caller<'a> {
    command: &'a [OsString],
    environment: &'a [(OsString, OsString)],
}

/// V8 takes `-` and `_` for the same. `--max-heap-size` is the sum, so that ours would override it. The semi-space adds to ours.
const NODE_HEAP: [&str; 3] = ["max-old-space-size", "max-heap-size", "huge-max-old-generation-size"];

/// Percentages (`-XX:MaxRAMPercentage`) are not among them: they apply to our `-XX:MaxRAM`.
const JAVA_HEAP: [&str; 12] = [
    "-Xmx",
    "-Xms",
    "-Xmn",
    "-XX:MaxRAM=",
    "-XX:MaxHeapSize=",
    "-XX:MinHeapSize=",
    "-XX:InitialHeapSize=",
    "-XX:SoftMaxHeapSize=",
    "-XX:MaxNewSize=",
    "-XX:NewSize=",
    "-XX:+AggressiveHeap",
    "-XX:ErgoHeapSizeLimit=",
];

impl Caller<'_> {
    fn has_said(&self, hint: Hint) -> bool {
        match hint.tells {
            Tells::NodeHeap => {
                let asks = |text: &OsStr| {
                    let text = text.to_string_lossy().replace('_', "-");
                    NODE_HEAP.iter().any(|flag| text.contains(flag))
                };
                self.command.iter().any(|word| asks(word)) || self.value(hint.name).is_some_and(asks)
            }
            // Any variable: `JAVA_OPTS`, `CATALINA_OPTS`, `KAFKA_HEAP_OPTS` ... each start script has a name of its own.
            Tells::JavaMemory => {
                let words = self.command.iter().chain(self.environment.iter().map(|(_, value)| value));
                words.into_iter().any(|text| JAVA_HEAP.iter().any(|flag| contains(text, flag)))
            }
            // The limit, its percentage, and those of each kind of heap, also with the prefix that was in use before .NET 6.
            Tells::DotnetHeap => self.environment.iter().any(|(name, _)| {
                let name = name.to_string_lossy().to_ascii_lowercase();
                name.starts_with("dotnet_gcheaphardlimit") || name.starts_with("complus_gcheaphardlimit")
            }),
            Tells::GoMemory | Tells::Threads => self.value(hint.name).is_some() || self.value_of_old_name(hint.name).is_some(),
        }
    }

    /// rayon still reads the name that it used before 1.0, after the one of today.
    fn value_of_old_name(&self, name: &str) -> Option<&OsStr> {
        (name == "RAYON_NUM_THREADS").then(|| self.value("RAYON_RS_NUM_CPUS")).flatten()
    }

    fn value(&self, name: &str) -> Option<&OsStr> {
        self.environment.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_os_str())
    }
}

fn contains(text: &OsStr, part: &str) -> bool {
    text.as_bytes().windows(part.len()).any(|window| window == part.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    /// 256 MiB and 2 CPUs.
    const SHARE: Share = Share { memory: Some(256 << 20), cpus: 2 };

    fn told_of(share: Share, workers: u32, words: &[&str], environment: &[(&str, &str)]) -> BTreeMap<&'static str, String> {
        let words: Vec<OsString> = words.iter().map(Into::into).collect();
        let environment: Vec<_> = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let variables = Hints::new(&words, &environment).variables(share, workers);
        variables.into_iter().map(|(name, value)| (name, value.into_string().unwrap())).collect()
    }

    fn told(words: &[&str], environment: &[(&str, &str)]) -> BTreeMap<&'static str, String> {
        told_of(SHARE, 2, words, environment)
    }

    #[test]
    fn a_worker_is_told_its_share_whatever_the_command() {
        let expected = [
            ("NODE_OPTIONS", "--max-old-space-size=192"),
            ("GOMEMLIMIT", "201326592"),
            ("JAVA_TOOL_OPTIONS", "-XX:MaxRAM=268435456"),
            ("DOTNET_GCHeapHardLimit", "C000000"),
            ("GOMAXPROCS", "2"),
            ("OMP_NUM_THREADS", "2"),
            ("RAYON_NUM_THREADS", "2"),
            ("TOKIO_WORKER_THREADS", "2"),
        ];
        let expected: BTreeMap<_, _> = expected.map(|(name, value)| (name, value.to_owned())).into();
        for words in [&["node", "app.js"][..], &["npm", "start"], &["sh", "-c", "exec node app.js"], &[]] {
            assert_eq!(told(words, &[("PATH", "/bin"), ("UV_THREADPOOL_SIZE", "9")]), expected, "{words:?}");
        }
    }

    #[test]
    fn nobody_is_told_where_there_is_nothing_to_share_or_it_is_not_wanted() {
        for workers in [0, 1] {
            assert_eq!(told_of(SHARE, workers, &["node"], &[]), BTreeMap::new());
        }
        assert_eq!(Hints::default().variables(SHARE, 4), Vec::new());
    }

    #[test]
    fn without_a_share_of_memory_or_with_one_that_holds_no_heap_threads_alone_are_told() {
        for memory in [None, Some(0), Some(LEAST_SHARE - 1)] {
            let names: Vec<_> = told_of(Share { memory, cpus: 0 }, 3, &["node"], &[]).into_iter().collect();
            let threads = ["GOMAXPROCS", "OMP_NUM_THREADS", "RAYON_NUM_THREADS", "TOKIO_WORKER_THREADS"];
            assert_eq!(names, threads.map(|name| (name, "1".to_owned())), "{memory:?}");
        }
        assert_eq!(
            told_of(Share { memory: Some(LEAST_SHARE), cpus: 1 }, 3, &["node"], &[])["NODE_OPTIONS"],
            "--max-old-space-size=24"
        );
    }

    #[test]
    fn ours_is_appended_to_what_the_user_has() {
        let environment = [("NODE_OPTIONS", "--enable-source-maps"), ("JAVA_TOOL_OPTIONS", "-XX:MaxRAMPercentage=60")];
        let told = told(&["node"], &environment);
        assert_eq!(told["NODE_OPTIONS"], "--enable-source-maps --max-old-space-size=192");
        assert_eq!(told["JAVA_TOOL_OPTIONS"], "-XX:MaxRAMPercentage=60 -XX:MaxRAM=268435456");
        assert_eq!(join(OsStr::new(""), "x"), "x");
        let shown = Hints::new(&[], &[("NODE_OPTIONS".into(), "--require=/secret.js".into())]).shown(SHARE, 2);
        assert_eq!(shown[..2], ["NODE_OPTIONS=... --max-old-space-size=192", "GOMEMLIMIT=201326592"]);
        assert_eq!(Hints::new(&[], &[]).shown(SHARE, 1), Vec::<String>::new());
    }

    #[test]
    fn what_the_user_has_set_stays() {
        for name in ["GOMEMLIMIT", "GOMAXPROCS", "OMP_NUM_THREADS", "RAYON_NUM_THREADS", "TOKIO_WORKER_THREADS"] {
            for value in ["7", "off", ""] {
                let told = told(&["server"], &[(name, value)]);
                assert!(!told.contains_key(name) && told.len() == 7, "{name}={value}: {told:?}");
            }
        }
        let old = told(&["server"], &[("RAYON_RS_NUM_CPUS", "3")]);
        assert!(!old.contains_key("RAYON_NUM_THREADS") && old.len() == 7, "{old:?}");
    }

    #[test]
    fn a_heap_size_for_node_stays() {
        let flags =
            ["--max-old-space-size=9", "--max_old_space_size=9", "--max-old_space-size 9", "--max-old-space-size-percentage=9"];
        for flag in flags.iter().chain(&["--max-heap-size=9", "--max_heap_size=9", "--huge-max-old-generation-size"]) {
            let cases = [
                told(&["node", flag, "app.js"], &[]),
                told(&["sh", "-c", &format!("exec node {flag} app.js")], &[]),
                told(&["npm", "start"], &[("NODE_OPTIONS", &format!("--inspect {flag}"))]),
            ];
            for told in cases {
                assert!(!told.contains_key("NODE_OPTIONS") && told.len() == 7, "{flag}: {told:?}");
            }
        }
        for flag in ["--max-semi-space-size=32", "--max-http-header-size=9", "--stack-size=9"] {
            assert!(told(&["node", flag], &[]).contains_key("NODE_OPTIONS"), "{flag}");
        }
    }

    #[test]
    fn a_heap_size_for_java_stays_and_a_percentage_is_of_the_share() {
        for flag in [
            "-Xmx64m",
            "-Xms1g",
            "-Xmn9m",
            "-XX:MaxRAM=1g",
            "-XX:MaxHeapSize=9m",
            "-XX:InitialHeapSize=9m",
            "-XX:+AggressiveHeap",
        ] {
            assert!(!told(&["java", flag, "-jar", "a.jar"], &[]).contains_key("JAVA_TOOL_OPTIONS"), "{flag}");
            for name in
                ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "JAVA_OPTS", "CATALINA_OPTS", "KAFKA_HEAP_OPTS"]
            {
                let told = told(&["./start.sh"], &[(name, &format!("-Da=b {flag}"))]);
                assert!(!told.contains_key("JAVA_TOOL_OPTIONS") && told.len() == 7, "{name} {flag}: {told:?}");
            }
        }
        for flag in ["-XX:MaxRAMPercentage=75", "-XX:MinRAMPercentage=75.0", "-XX:MaxMetaspaceSize=64m", "-Xss1m"] {
            assert!(told(&["java", flag], &[("JAVA_OPTS", flag)]).contains_key("JAVA_TOOL_OPTIONS"), "{flag}");
        }
    }

    #[test]
    fn a_heap_size_for_dotnet_stays_by_any_of_its_names() {
        let name = "DOTNET_GCHeapHardLimit";
        for set in [
            name,
            "DOTNET_GCHeapHardLimitPercent",
            "COMPlus_GCHeapHardLimit",
            "DOTNET_GCHeapHardLimitSOH",
            "DOTNET_GCheapHardLimit",
        ] {
            let told = told(&["dotnet"], &[(set, "10")]);
            assert!(!told.contains_key(name) && told.len() == 7, "{set}: {told:?}");
        }
        assert!(told(&["dotnet"], &[("DOTNET_gcServer", "1")]).contains_key(name));
    }

    #[test]
    fn bytes_that_are_no_text_survive() {
        let odd = || OsString::from_vec(b"--require=/\xff/a.js".to_vec());
        let environment = [("NODE_OPTIONS".into(), odd()), (odd(), odd())];
        let told = Hints::new(&[odd()], &environment).variables(SHARE, 2);
        let (_, value) = told.iter().find(|(name, _)| *name == "NODE_OPTIONS").unwrap();
        assert_eq!(value.as_bytes(), b"--require=/\xff/a.js --max-old-space-size=192");
        let java = OsString::from_vec(b"\xff -Xmx1g".to_vec());
        let told = Hints::new(&[], &[("JAVA_OPTS".into(), java)]).variables(SHARE, 2);
        assert!(told.iter().all(|(name, _)| *name != "JAVA_TOOL_OPTIONS"));
    }
}
