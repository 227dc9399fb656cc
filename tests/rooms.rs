//! The architecture as a test: which room may use which, and that the core stays pure.
//!
//! It reads the sources. A new room needs a line in [`ROOMS`]; a new dependency is a decision, made here and in ARCHITECTURE.md.

#![expect(clippy::unwrap_used, reason = "a test: what cannot be read fails it")]

use std::fs;
use std::path::{Path, PathBuf};

/// What each room may use of the others, besides itself: a prefix of the path after `crate::`.
const ROOMS: &[(&str, &[&str])] = &[
    ("cluster", &[]),
    // What the core decides on is config's to make; a plan is made of both and of this machine.
    ("config", &["cluster::policy", "cluster::sizing", "cluster::words"]),
    (
        "plan",
        &[
            "cluster::policy",
            "cluster::sizing",
            "cluster::status",
            "cluster::words",
            "config",
            "node::command",
            "share::probe",
            "sys",
        ],
    ),
    // Kernel facilities know the words, never the decisions.
    ("sys", &["cluster::words", "config::User", "runtime::clock"]),
    ("notify", &["cluster::event", "cluster::words", "sys"]),
    ("listen", &["cluster::words", "config", "share", "sys"]),
    ("share", &["cluster::words", "config", "sys"]),
    ("node", &["cluster::words", "share", "sys"]),
    ("control", &["cluster::event", "cluster::words", "sys"]),
    // The side port reads what is published and measures; it never asks the supervisor.
    ("http", &["cluster::journal", "cluster::status", "cluster::words", "runtime::clock", "sys"]),
    // Bytes in, bytes out.
    ("output", &[]),
    // For the tests of any room.
    ("skip", &[]),
    ("telemetry", &["config"]),
    ("exit", &["cluster::words"]),
    ("hints", &["cluster::sizing", "cluster::units"]),
    // Subcommands look at the outside, except for `plan`.
    (
        "cli",
        &[
            "cluster::event",
            "cluster::policy",
            "cluster::status",
            "cluster::units",
            "cluster::words",
            "config",
            "control",
            "exit",
            "hints",
            "http",
            "node",
            "plan",
            "runtime::clock",
            "share::probe",
            "sys",
            "telemetry",
        ],
    ),
    // The only loop: it alone drives the supervisor and carries effects out.
    ("runtime", &[""]),
    // From the command line to the loop: everything that can be a mistake of the user's.
    ("start", &[""]),
    ("main", &[""]),
    ("lib", &[""]),
];

/// What would make the core depend on the machine that it runs on.
const IMPURE: &[&str] = &[
    "Instant",
    "SystemTime",
    "hyper",
    "libc",
    "nix",
    "rand",
    "signal_hook",
    "socket2",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "tokio",
    "tracing",
    "unsafe",
];

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, code_of(&text)));
        }
    }
    found
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The text without its comments.
fn code_of(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first folder or file name below `src`.
fn room_of(path: &Path) -> String {
    let below = path.strip_prefix(src()).unwrap();
    let first = Path::new(below.components().next().unwrap().as_os_str());
    first.file_stem().unwrap().to_string_lossy().into_owned()
}

/// Every path after `crate::`, groups in braces taken apart.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
        let (path, group) = rest.split_at(end);
        match group.strip_prefix('{').and_then(|group| group.split_once('}')) {
            Some((group, _)) => found.extend(group.split(',').map(|name| format!("{path}{}", name.trim()))),
            None => found.push(path.to_owned()),
        }
    }
    found.retain(|path| !path.ends_with("::"));
    found
}

fn is_below(path: &str, prefix: &str) -> bool {
    prefix.is_empty() || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn each_room_uses_only_what_it_may() {
    let mut wrong = Vec::new();
    for (file, code) in sources(&src()) {
        let room = room_of(&file);
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: the room `{room}` is not in the table of this test", file.display()));
            continue;
        };
        let allowed =
            |path: &str| is_below(path, &room) || is_below(path, "skip") || allowed.iter().any(|prefix| is_below(path, prefix));
        wrong.extend(paths(&code).iter().filter(|path| !allowed(path)).map(|path| format!("{}: {path}", file.display())));
    }
    assert!(wrong.is_empty(), "not for these rooms:\n{}", wrong.join("\n"));
}

/// A word of the code, not a part of one: `nix` is not in `unix`.
fn names(code: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| !code[..at].ends_with(is_name) && !code[at + word.len()..].starts_with(is_name))
}

#[test]
fn the_core_is_pure() {
    let core = sources(&src().join("cluster"));
    assert!(core.len() > 10, "the core is where it was");
    for (file, code) in core {
        for word in IMPURE {
            assert!(!names(&code, word), "{}: the core must not know `{word}`", file.display());
        }
    }
}

/// The core's dependencies are std and serde: nothing else is imported.
#[test]
fn the_core_imports_std_and_serde_only() {
    for (file, code) in sources(&src().join("cluster")) {
        for import in code.lines().filter_map(|line| line.trim_start().strip_prefix("use ")) {
            let first = import.split("::").next().unwrap_or_default();
            let known = matches!(first, "std" | "serde" | "super" | "self" | "crate" | "proptest");
            assert!(known, "{}: use {import}", file.display());
        }
    }
}

#[test]
fn no_file_is_longer_than_500_lines_and_each_says_what_it_promises() {
    for (file, _) in sources(&src()) {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        assert!(lines <= 500, "{}: {lines} lines", file.display());
        let opens = text.starts_with("//!") || room_of(&file) == "main";
        assert!(opens, "{}: opens with //!", file.display());
    }
}

#[test]
fn groups_are_taken_apart_and_words_are_whole() {
    assert_eq!(paths("use crate::cluster::{words, event::Event};"), ["cluster::words", "cluster::event::Event"]);
    assert_eq!(paths("let a = crate::sys::reap::next();"), ["sys::reap::next"]);
    assert!(is_below("cluster::words::Pid", "cluster::words") && !is_below("cluster::wordsmith", "cluster::words"));
    assert!(names("use nix::sys;", "nix") && !names("UnixStream::unix", "nix"));
}
