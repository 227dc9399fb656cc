//! The command line and the environment: every mistake is reported at once, with exit 64, before anything is started.

use std::net::TcpListener;

use crate::support::{Cluster, Launch, Mode, free_port};

/// Runs a cluster that must be refused: 64, nothing started. Returns what it said.
fn refused(settings: &[(&str, &str)]) -> String {
    let (code, out, err) = Cluster::start(Mode::Plain, settings, &["echo", "started"]).finish();
    assert_eq!((code, out.as_str()), (64, ""), "{settings:?}\n{err}");
    err
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    Launch::arguments(Mode::Plain, arguments).start().finish()
}

#[test]
fn no_command_is_a_usage_error() {
    for arguments in [&[][..], &["--"]] {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (64, ""), "{arguments:?}: {err}");
        assert!(err.contains("COMMAND"), "{err}");
    }
}

#[test]
fn unknown_options_and_reserved_words_are_usage_errors() {
    for word in ["--frobnicate", "-x", "send", "logs", "events"] {
        let (code, out, err) = run(&[word, "echo", "started"]);
        assert_eq!((code, out.as_str()), (64, ""), "{word}: {err}");
        assert!(err.contains(word), "{err}");
    }
}

#[test]
fn a_command_needs_no_dashes_unless_it_is_a_reserved_word() {
    let (code, out, err) = run(&["echo", "plan"]);
    assert_eq!((code, out.as_str()), (0, "plan\n"), "{err}");
    // After `--` even our own words are commands, here one that does not exist.
    let (code, _, err) = run(&["--", "send"]);
    assert_eq!(code, 127, "{err}");
}

#[test]
fn arguments_of_the_command_are_its_own() {
    let (code, out, err) = run(&["echo", "--help", "--", "-x"]);
    assert_eq!((code, out.as_str()), (0, "--help -- -x\n"), "{err}");
}

#[test]
fn help_and_version_go_to_stdout() {
    let (code, out, err) = run(&["--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for word in ["COMMAND", "plan", "status", "healthcheck", "reload", "stop", "scale", "restart"] {
        assert!(out.contains(word), "{word} is missing in\n{out}");
    }
    let (code, out, err) = run(&["--version"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out.trim_end(), format!("clusterinit {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let mistakes = [
        ("WORKERS", "0"),
        ("GRACE", "8"),
        ("WORKER_MEMORY_MIN", "12Q"),
        ("RESTART", "perhaps"),
        ("HEALTH_ADDR", "nowhere"),
        ("SIGNALS", "FOO=stop"),
        ("START_TIMEOUT", "-1s"),
        ("UNHEALTHY", "1s"),
    ];
    let err = refused(&mistakes);
    for (name, value) in mistakes {
        assert!(err.contains(&format!("CLUSTERINIT_{name}")), "{name} is not named in\n{err}");
        assert!(name == "UNHEALTHY" || err.contains(value), "{value} is not named in\n{err}");
    }
}

#[test]
fn each_variable_refuses_what_it_cannot_mean() {
    let wrong = [
        ("WORKERS", &["-1", "0", "many", "1.5", "99999999999999999999"][..]),
        ("WORKERS_PER_CPU", &["0", "-1", "NaN", "inf", "x"]),
        ("CPU_ROUNDING", &["up"]),
        ("WORKER_MEMORY", &["lots", "-1Mi"]),
        ("WORKER_MEMORY_MIN", &["off", "1.2.3Mi"]),
        ("MEMORY_RESERVE", &["x"]),
        ("MEMORY_SOFT", &["90", "0%", "101%", "x"]),
        ("RUNTIME_HINTS", &["maybe"]),
        ("STOP_SIGNAL", &["0", "65", "TERMINATE"]),
        ("DRAIN_DELAY", &["5", "5 parsecs", "-1s"]),
        ("GRACE", &["8", "s", "1e9999s"]),
        ("STOP_WHEN", &["later"]),
        ("RESTART", &["yes"]),
        ("RESTART_BACKOFF", &["100ms", "100..30", "30s..100ms"]),
        ("START_TIMEOUT", &["60"]),
        ("MIN_READY", &["0", "x"]),
        ("UNHEALTHY_AFTER", &["2", "10s"]),
        ("READY", &["soon"]),
        ("SHARE", &["yes please"]),
        ("SHARE_PORTS", &["70000", "-1,2"]),
        ("PORT_PER_WORKER", &["0", "x"]),
        ("BALANCE", &["fair"]),
        ("LISTEN", &["70000", "1.2.3.4", "unix:"]),
        ("NODE_IPC", &["x"]),
        ("HANG_TIMEOUT", &["10"]),
        ("MAX_LIFETIME", &["1"]),
        ("SIGNALS", &["HUP", "HUP=dance", "KILL=stop", "SEGV=stop"]),
        ("HEALTH_ADDR", &["9180x", "1.2.3.4:99999"]),
        ("OUTPUT", &["json"]),
        ("LOG", &["loud"]),
        ("LOG_FORMAT", &["xml"]),
        ("USER", &["no-such-user-here", "1:x"]),
        ("STRICT", &["x"]),
    ];
    let mut accepted = Vec::new();
    for (name, values) in wrong {
        for value in values {
            let (code, out, err) = Cluster::start(Mode::Plain, &[(name, value)], &["echo", "started"]).finish();
            if (code, out.as_str()) != (64, "") || !err.contains(&format!("CLUSTERINIT_{name}")) || !err.contains(value) {
                accepted.push(format!("{name}={value:?}: {code} {err}"));
            }
        }
    }
    assert!(accepted.is_empty(), "not refused, or not named:\n{}", accepted.join("\n"));
}

#[test]
fn an_unknown_variable_comes_with_the_nearest_known_name() {
    let err = refused(&[("WORKER", "4"), ("STOP_SIGNL", "TERM")]);
    assert!(err.contains("CLUSTERINIT_WORKERS"), "{err}");
    assert!(err.contains("CLUSTERINIT_STOP_SIGNAL"), "{err}");
}

#[test]
fn strict_off_turns_unknown_names_into_warnings() {
    let settings = [("STRICT", "off"), ("WORKER", "4")];
    let (code, out, err) = Cluster::start(Mode::Plain, &settings, &["echo", "started"]).finish();
    assert_eq!((code, out.as_str()), (0, "started\n"), "{err}");
    assert!(err.lines().any(|line| line.contains("unknown") && line.contains("CLUSTERINIT_WORKERS")), "{err}");
}

#[test]
fn service_links_and_our_own_names_for_workers_are_known() {
    let names = [
        ("SERVICE_HOST", "10.0.0.1"),
        ("SERVICE_PORT", "80"),
        ("SERVICE_PORT_HTTP", "80"),
        ("WEB_SERVICE_HOST", "10.0.0.1"),
        ("PORT", "tcp://10.0.0.1:80"),
        ("PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("PORT_80_TCP_ADDR", "10.0.0.1"),
        ("WORKER_ID", "0"),
        ("WORKER_COUNT", "1"),
        ("GENERATION", "1"),
    ];
    // A life's variables without a clusterinit above are no nesting either.
    let (code, out, err) = Cluster::start(Mode::Plain, &names, &["echo", "started"]).finish();
    assert_eq!((code, out.as_str()), (0, "started\n"), "{err}");
}

#[test]
fn a_taken_side_port_is_refused_with_what_to_do() {
    let port = free_port();
    let _holder = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    let address = format!("127.0.0.1:{port}");
    let err = refused(&[("HEALTH_ADDR", &address)]);
    for text in [&address, "CLUSTERINIT_HEALTH_ADDR", "pod"] {
        assert!(err.contains(text), "{text} is missing in\n{err}");
    }
}

#[test]
fn a_taken_listen_address_is_refused() {
    let port = free_port();
    let _holder = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    let address = format!("127.0.0.1:{port}");
    let err = refused(&[("LISTEN", &address)]);
    assert!(err.contains(&address) && err.contains("CLUSTERINIT_LISTEN"), "{err}");
}

#[test]
fn without_a_side_port_everything_else_works() {
    let (code, out, err) = Cluster::start(Mode::Plain, &[("HEALTH_ADDR", "off")], &["echo", "hi"]).finish();
    assert_eq!((code, out.as_str()), (0, "hi\n"), "{err}");
}

#[test]
fn what_is_done_is_not_reported() {
    let settings = [("WORKER_MEMORY", "256Mi"), ("OUTPUT", "prefix"), ("READY", "running")];
    reports(&settings, &[]);
}

#[test]
fn what_needs_port_sharing_is_in_force_with_it_and_reported_without() {
    // `running`: a program that never listens would not get ready where listening is seen.
    let settings = [("SHARE_PORTS", "all,-5701"), ("PORT_PER_WORKER", "9101"), ("HANG_TIMEOUT", "10s"), ("READY", "running")];
    reports(&[&settings[..], &[("SHARE", "on"), ("BALANCE", "sticky")]].concat(), &[]);
    reports(&[&settings[..], &[("SHARE", "off")]].concat(), &["HANG_TIMEOUT", "PORT_PER_WORKER", "SHARE_PORTS"]);
    reports(&[("READY", "listen"), ("SHARE", "off")], &["READY"]);
}

/// Runs a cluster with these settings, and expects that these and no others are said to be not in force.
fn reports(settings: &[(&str, &str)], expected: &[&str]) {
    let cluster = Cluster::start(Mode::Plain, &[settings, &[("WORKERS", "1")]].concat(), &["sleep", "1000"]);
    cluster.ready(1);
    let workers = cluster.workers();
    let lines = workers["not_in_force"].as_array().expect("an array").iter().filter_map(serde_json::Value::as_str);
    let mut names: Vec<&str> = lines.map(|line| line.split('=').next().unwrap_or_default()).collect();
    names.sort_unstable();
    assert_eq!(names, expected, "{}", cluster.story());
    for name in expected {
        assert!(cluster.log_line(&[name]).is_some(), "{name}\n{}", cluster.story());
    }
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn the_log_can_be_json() {
    let cluster = Cluster::start(
        Mode::Plain,
        &[("WORKERS", "1"), ("READY", "running"), ("LOG_FORMAT", "json"), ("LOG", "debug")],
        &["sleep", "1000"],
    );
    cluster.ready(1);
    let (code, _, err) = cluster.stop();
    assert_eq!(code, 0);
    assert!(err.lines().count() >= 2, "{err}");
    for line in err.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["level"].is_string() && event["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn a_good_run_is_silent_but_for_information() {
    let (code, out, err) = Cluster::start(Mode::Plain, &[("LOG", "warn")], &["echo", "hi"]).finish();
    assert_eq!((code, out.as_str(), err.as_str()), (0, "hi\n", ""));
}

#[test]
fn in_kubernetes_the_grace_fits_the_default_termination_period() {
    let plan = |inside: bool| {
        let launch = Launch::arguments(Mode::Plain, &["plan", "--", "true"]);
        let launch = if inside { launch.env("KUBERNETES_SERVICE_HOST", "10.0.0.1") } else { launch };
        let (code, out, err) = launch.start().finish();
        assert_eq!(code, 0, "{err}");
        out.lines().find(|line| line.contains(" GRACE") || line.contains("_GRACE")).unwrap_or_default().to_owned()
    };
    assert!(plan(false).contains("8s"), "{}", plan(false));
    assert!(plan(true).contains("20s") || plan(true).contains("25s"), "{}", plan(true));
}
