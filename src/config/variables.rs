//! The one table of variables: what `--help` and `plan` print, what is a known name, and what README.md is compared with.

/// What all our variables begin with.
pub const PREFIX: &str = "CLUSTERINIT_";

/// One variable of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Without [`PREFIX`].
    pub name: &'static str,
    /// As a value that could be set, but for `SIGNALS`.
    pub default: &'static str,
    /// One line, short enough for `--help` in 80 columns.
    pub meaning: &'static str,
}

/// Every variable, in the order in which people look for them.
pub const VARIABLES: &[Variable] = &[
    variable("WORKERS", "auto", "worker count, or auto: by the CPU limit"),
    variable("WORKERS_PER_CPU", "1", "factor for WORKERS=auto, a decimal"),
    variable("CPU_ROUNDING", "ceil", "ceil, floor, nearest"),
    variable("WORKER_MEMORY", "auto", "hard cap of one worker's tree: a size, auto, off"),
    variable("WORKER_MEMORY_MIN", "128Mi", "WORKERS=auto starts no worker for less"),
    variable("MEMORY_RESERVE", "auto", "kept for what is no worker's: a size, auto"),
    variable("MEMORY_SOFT", "90%", "share of the cap that replaces gracefully, off"),
    variable("RUNTIME_HINTS", "on", "tell known runtimes their share: on, off"),
    variable("STOP_SIGNAL", "TERM", "name or number of the stop signal"),
    variable("DRAIN_DELAY", "auto", "how long a stop waits first: 0s, Kubernetes 5s"),
    variable("GRACE", "auto", "how long it may take then: 8s, Kubernetes 20s"),
    variable("STOP_WHEN", "quiet", "when the stop signal is sent: quiet, now"),
    variable("RESTART", "auto", "auto, always, on-failure, never"),
    variable("RESTART_BACKOFF", "100ms..30s", "first and longest delay of failing starts"),
    variable("START_TIMEOUT", "60s", "how long a worker may take to get ready"),
    variable("MIN_READY", "1", "workers that must be ready for /readyz"),
    variable("UNHEALTHY_AFTER", "2m", "no worker ready this long: /healthz fails"),
    variable("READY", "auto", "auto, listen, notify, running (or exec)"),
    variable("SHARE", "auto", "port sharing: auto, on, off"),
    variable("SHARE_PORTS", "all", "ports that are shared: 8080,8443 or all,-5701"),
    variable("PORT_PER_WORKER", "none", "ports that become port + slot in each worker"),
    variable("BALANCE", "spread", "spread, queue, sticky"),
    variable("LISTEN", "none", "sockets to hand on: 8080, [::]:80, unix:/run/sock"),
    variable("NODE_IPC", "auto", "Node's cluster protocol: auto, on, off"),
    variable("HANG_TIMEOUT", "off", "replace a worker that hangs this long"),
    variable("MAX_LIFETIME", "off", "replace a worker that is older than this"),
    variable("SIGNALS", "see signals", "what signals do: HUP=reload,INT=QUIT,USR1=ignore"),
    variable("HEALTH_ADDR", "[::]:9180", "the side port: an address, a port, off"),
    variable("OUTPUT", "inherit", "the workers' output: inherit, prefix"),
    variable("LOG", "info", "error, warn, info, debug, trace, off, or a filter"),
    variable("LOG_FORMAT", "text", "text, json"),
    variable("USER", "none", "uid[:gid] or name that workers run as"),
    variable("TERMINATION_LOG", "/dev/termination-log", "where an abnormal end is explained"),
    variable("STRICT", "on", "off: unknown CLUSTERINIT_ names only warn"),
];

/// Names that we set for workers: known, and without effect when they are met.
pub(super) const SET_FOR_WORKERS: &[&str] = &["WORKER_ID", "WORKER_COUNT", "GENERATION"];

const fn variable(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, meaning }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and defaults of the rows of a Markdown table whose header begins with `| variable |`.
    fn documented(markdown: &str) -> Vec<(String, String)> {
        let table = markdown.lines().skip_while(|line| !line.starts_with("| variable |"));
        table.take_while(|line| line.starts_with('|')).filter_map(row).collect()
    }

    /// A row that begins with "| `NAME` |".
    fn row(line: &str) -> Option<(String, String)> {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (default, _meaning) = rest.split_once(" |")?;
        Some((name.to_owned(), default.trim().trim_matches('`').to_owned()))
    }

    #[test]
    fn the_rows_of_a_documentation_table_are_read() {
        let sample = "# title\n| `TERM` | stop | no variable |\n\ntext\n\n| variable | default | meaning |\n|---|---|---|\n\
                      | `WORKERS` | `auto` | count, or `auto` |\n| `LISTEN` | none | addresses |\n\
                      | `RESTART_BACKOFF` | `100ms..30s` | delays |\n\n| `USR2` | reload | no variable |\n";
        let pair = |name: &str, default: &str| (name.to_owned(), default.to_owned());
        assert_eq!(documented(sample), [pair("WORKERS", "auto"), pair("LISTEN", "none"), pair("RESTART_BACKOFF", "100ms..30s")]);
        for (name, default) in documented(sample) {
            assert!(VARIABLES.iter().any(|known| known.name == name && known.default == default), "{name}");
        }
    }

    #[test]
    fn the_readme_has_every_variable_with_its_default() {
        let documented = documented(include_str!("../../README.md"));
        let known: Vec<(String, String)> =
            VARIABLES.iter().map(|known| (known.name.to_owned(), known.default.to_owned())).collect();
        assert_eq!(documented, known);
    }

    #[test]
    fn names_are_unique_and_upper_case() {
        for (at, one) in VARIABLES.iter().enumerate() {
            assert!(one.name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{}", one.name);
            assert!(VARIABLES[..at].iter().all(|other| other.name != one.name), "{} twice", one.name);
            assert!(!SET_FOR_WORKERS.contains(&one.name));
        }
    }
}
