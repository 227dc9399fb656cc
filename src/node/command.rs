//! Is a command line node with a script? Then it joins Node's cluster protocol. PURE.
//!
//! Words are read as Node's own parser reads them (`node_options-inl.h`; tried on Node 18 to 26): options until the first word
//! that is none, `--` ends them, `_` counts as `-` in a name, a value is behind `=` or, for the options in `VALUED`, the next
//! word. What Node does not know is an option of V8, whose value is always behind `=`.
//!
//! Without a script (`-e`, `--test`, `--run`, standard input ...) nothing serves: Node ends, or waits on the channel for ever.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What node is told to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script {
    /// A module may be loaded before it by `--import`. That makes Node load the script by its ESM loader, which refuses
    /// extensions that it does not know: a `.ts` with `-r ts-node/register` would no longer start.
    pub preload: bool,
}

/// Names that take the next word as their value where none is behind `=`: those of Node 16, 18, 20, 22, 24 and 26 together.
///
/// `--experimental-config-file` is not among them: from 24 on the next word is the script, in 22 alone it is not.
const VALUED: [&str; 82] = [
    "allow-fs-read",
    "allow-fs-write",
    "bench-isolation",
    "bench-name-pattern",
    "bench-reporter",
    "bench-reporter-destination",
    "bench-samples",
    "bench-warmup",
    "build-snapshot-config",
    "conditions",
    "cpu-prof-dir",
    "cpu-prof-interval",
    "cpu-prof-name",
    "debug-port",
    "diagnostic-dir",
    "disable-proto",
    "disable-warning",
    "dns-result-order",
    "env-file",
    "env-file-if-exists",
    "es-module-specifier-resolution",
    "experimental-default-type",
    "experimental-loader",
    "experimental-package-map",
    "experimental-policy",
    "experimental-specifier-resolution",
    "experimental-test-isolation",
    "experimental-test-tag-filter",
    "heap-prof-dir",
    "heap-prof-interval",
    "heap-prof-name",
    "heapsnapshot-near-heap-limit",
    "heapsnapshot-signal",
    "icu-data-dir",
    "import",
    "input-type",
    "inspect-port",
    "inspect-publish-uid",
    "loader",
    "localstorage-file",
    "max-http-header-size",
    "max-old-space-size-percentage",
    "network-family-autoselection-attempt-timeout",
    "openssl-config",
    "policy-integrity",
    "redirect-warnings",
    "report-dir",
    "report-directory",
    "report-filename",
    "report-signal",
    "require",
    "secure-heap",
    "secure-heap-min",
    "security-revert",
    "security-reverts",
    "snapshot-blob",
    "test-concurrency",
    "test-coverage-branches",
    "test-coverage-exclude",
    "test-coverage-functions",
    "test-coverage-include",
    "test-coverage-lines",
    "test-global-setup",
    "test-isolation",
    "test-name-pattern",
    "test-random-seed",
    "test-reporter",
    "test-reporter-destination",
    "test-rerun-failures",
    "test-shard",
    "test-skip-pattern",
    "test-timeout",
    "title",
    "tls-cipher-list",
    "tls-keylog",
    "trace-event-categories",
    "trace-event-file-pattern",
    "trace-require-module",
    "unhandled-rejections",
    "use-largepages",
    "v8-pool-size",
    "watch-kill-signal",
];

/// Names with which node does something else than run a script in this process.
const OTHERWISE: [&str; 16] = [
    "bench",
    "build-sea",
    "build-snapshot",
    "check",
    "completion-bash",
    "eval",
    "experimental-sea-config",
    "help",
    "print",
    "prof-process",
    "run",
    "test",
    "v8-options",
    "version",
    "watch",
    "watch-path",
];

/// `None` where the words are not node, or where node gets no script.
pub fn runs_script(words: &[OsString]) -> Option<Script> {
    let (program, arguments) = words.split_first()?;
    let name = Path::new(program).file_name()?;
    if name != "node" && name != "nodejs" {
        return None;
    }
    let script = script(arguments)?;
    Some(Script { preload: is_known_to_esm(Path::new(script)) })
}

/// The first word that is no option and no value of one, if it is a script.
fn script(arguments: &[OsString]) -> Option<&OsStr> {
    let mut words = arguments.iter();
    let first = loop {
        let word = words.next()?;
        match meaning(&word.to_string_lossy()) {
            Means::Argument => break word,
            Means::EndOfOptions => break words.next()?,
            Means::Flag => {}
            // Node refuses a value that looks like an option.
            Means::Valued => drop(words.next().filter(|value| !value.to_string_lossy().starts_with('-'))?),
            Means::Otherwise => return None,
        }
    };
    // `-` and the empty word stand for standard input, also behind `--`.
    (!first.is_empty() && first != "-" && first != "inspect").then_some(first)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    Argument,
    EndOfOptions,
    Flag,
    /// Takes the next word.
    Valued,
    Otherwise,
}

fn meaning(word: &str) -> Means {
    if let Some(long) = word.strip_prefix("--") {
        return if long.is_empty() { Means::EndOfOptions } else { meaning_of_long(long) };
    }
    match word {
        // `-i` with a script runs the script.
        "-e" | "-p" | "-pe" | "-c" | "-v" | "-h" => Means::Otherwise,
        "-r" | "-C" => Means::Valued,
        "-" => Means::Argument,
        _ if word.starts_with('-') => Means::Flag,
        _ => Means::Argument,
    }
}

fn meaning_of_long(long: &str) -> Means {
    let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
    let name = name.replace('_', "-");
    if OTHERWISE.contains(&name.as_str()) {
        Means::Otherwise
    } else if value.is_none() && VALUED.contains(&name.as_str()) {
        Means::Valued
    } else {
        Means::Flag
    }
}

/// No extension is a folder, a name that Node completes, or a script that begins with `#!`.
fn is_known_to_esm(script: &Path) -> bool {
    script.extension().is_none_or(|extension| extension == "js" || extension == "cjs" || extension == "mjs")
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> Option<Script> {
        runs_script(&line.split(' ').map(|word| word.replace("''", "").into()).collect::<Vec<OsString>>())
    }

    #[test]
    fn node_by_any_path_with_a_script_joins() {
        for line in [
            "node server.js",
            "nodejs server.js",
            "/usr/local/bin/node server.js",
            "./node server.cjs --test -e 1",
            "node server.mjs -",
            "node server",
            "node .",
            "node ../dist/",
            "node /app/.hidden",
            "node debug",
            "node ./inspect",
            "node -- app.js",
            "node -- -x.js",
            "node -i app.js",
        ] {
            assert_eq!(read(line), Some(Script { preload: true }), "{line}");
        }
        for line in
            ["npm start", "env node app.js", "node20 app.js", "node.js app.js", "node/app app.js", "deno app.js", "NODE a.js"]
        {
            assert_eq!(read(line), None, "{line}");
        }
        assert_eq!(runs_script(&[]), None);
        assert_eq!(runs_script(&["".into(), "app.js".into()]), None);
    }

    #[test]
    fn options_are_passed_over_with_their_values() {
        for options in [
            "--inspect",
            "--inspect=0",
            "--inspect-brk=0.0.0.0:9229",
            "--inspect-port 0",
            "--debug-port 0",
            "-r ./pre.js",
            "--require ./pre.js",
            "--require=./pre.js",
            "-r a -r b",
            r"-r \-x.js",
            "--import ./pre.js",
            "--loader ./l.js",
            "--experimental-loader=l.js",
            "-C production",
            "--conditions production",
            "--env-file e.env",
            "--env_file e.env",
            "--env-file-if-exists e.env",
            "--env-file=e.env",
            "--title x",
            "--title ''",
            "--icu-data-dir /x",
            "--input-type module",
            "--disable-warning DEP0001",
            "--openssl-config c",
            "--redirect-warnings f",
            "--trace-event-categories v8",
            "--trace-events-enabled",
            "--dns-result-order ipv4first",
            "--unhandled-rejections strict",
            "--stack-trace-limit=5",
            "--stack_trace_limit=5",
            "--max-old-space-size=5",
            "--max-old-space-size-percentage 50",
            "--max-http-header-size 9000",
            "--report-directory /tmp",
            "--experimental-default-config-file",
            "--experimental-config-file=c.json",
            "--permission --allow-fs-read *",
            "--v8-pool-size 1",
            "--use-largepages off",
            "--no-warnings",
            "--no_warnings",
            "--no-test",
            "--test-only",
            "--expose-gc --enable-source-maps",
            "--heapsnapshot-signal SIGUSR2",
        ] {
            // The script that would be found if a value were taken for it has another extension.
            assert_eq!(read(&format!("node {options} app.ts")), Some(Script { preload: false }), "{options}");
            assert_eq!(read(&format!("node {options} -- app.js")), Some(Script { preload: true }), "{options}");
            assert_eq!(read(&format!("node {options}")), None, "{options}");
        }
    }

    #[test]
    fn without_a_script_nothing_joins() {
        let other = ["-", "''", "inspect", "-- -", "-- inspect", "-- ''", "-e 1", "-p 1", "-pe 1", "--print 1", "-c", "--check"];
        let more = ["--eval 1", "--eval=1", "-v", "--version", "-h", "--help", "--v8-options", "--run x", "--run=x", "--test"];
        let rest = ["--watch", "--watch-path .", "--watch-path=.", "--watch_path=.", "--build-snapshot", "--prof-process"];
        let broken = ["--title", "-r", "--title --inspect", "-r -x.js", "--completion-bash", "--experimental-sea-config c.json"];
        for options in other.iter().chain(&more).chain(&rest).chain(&broken) {
            let line = format!("node --inspect {options}");
            assert_eq!(read(&line), None, "{line}");
            assert_eq!(read(&format!("{line} app.js")), None, "{line} app.js");
        }
        for line in ["node", "nodejs", "node --", "node -i", "node --inspect", "node --title x"] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn only_extensions_that_the_esm_loader_knows_are_preloaded() {
        for script in ["app.ts", "app.mts", "app.JS", "app.json", "app.", "app.txt", "dist.d/app.tsx", "app.node", "app.js.map"] {
            assert_eq!(read(&format!("node -r ts-node/register {script}")), Some(Script { preload: false }), "{script}");
        }
        for script in ["a.b.js", "dist.ts/app", "x.cjs", "x.mjs", ".js", "..", "file:///app.js"] {
            assert_eq!(read(&format!("node {script}")), Some(Script { preload: true }), "{script}");
        }
    }

    #[test]
    fn the_lists_are_sorted_and_apart() {
        assert!(VALUED.is_sorted() && OTHERWISE.is_sorted());
        assert!(!VALUED.iter().any(|name| OTHERWISE.contains(name)));
    }

    fn word() -> impl Strategy<Value = OsString> {
        let known =
            proptest::sample::select(&["node", "--", "-", "-r", "--title", "-e", "app.js", "inspect", "--import", "", "--x=y"]);
        let odd = proptest::collection::vec(any::<u8>(), 0..20).prop_map(OsString::from_vec);
        prop_oneof![known.prop_map(OsString::from), odd, "-{0,3}[a-zA-Z_=.-]{0,9}".prop_map(OsString::from)]
    }

    proptest! {
        #[test]
        fn no_words_make_it_panic(words in proptest::collection::vec(word(), 0..12)) {
            let _ = runs_script(&words);
        }

        #[test]
        fn what_follows_the_script_changes_nothing(rest in proptest::collection::vec(word(), 0..9)) {
            let mut words: Vec<OsString> = vec!["node".into(), "--inspect".into(), "app.ts".into()];
            words.extend(rest);
            prop_assert_eq!(runs_script(&words), Some(Script { preload: false }));
        }
    }
}
