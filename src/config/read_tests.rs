//! Whole environments: defaults, all mistakes at once, unknown names, and whatever bytes there are.

use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cluster::words::Signal;
use crate::config::{ListenAddress, PREFIX, SharePorts, VARIABLES};

fn read(vars: &[(&str, &str)]) -> Result<Config, Mistakes> {
    Config::from_env(vars.iter().map(|(name, value)| (name.into(), value.into())))
}

fn lines(vars: &[(&str, &str)]) -> Vec<String> {
    read(vars).unwrap_err().lines().map(str::to_owned).collect()
}

fn only_line(vars: &[(&str, &str)]) -> String {
    let lines = lines(vars);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].clone()
}

#[test]
fn an_empty_environment_is_the_default() {
    assert_eq!(read(&[]), Ok(Config::default()));
    assert_eq!(read(&[("PATH", "/bin"), ("CLUSTERINIT", "x"), ("clusterinit_workers", "x")]), Ok(Config::default()));
}

#[test]
fn every_default_of_the_table_can_be_set_and_changes_nothing() {
    for variable in VARIABLES.iter().filter(|variable| variable.name != "SIGNALS") {
        let config = read(&[(&format!("{PREFIX}{}", variable.name), variable.default)]);
        let mut config = config.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(config.given.remove(variable.name).as_deref(), Some(variable.default));
        assert_eq!(config, Config::default(), "{}", variable.name);
    }
}

/// Also that each name is tied to its own field: a wrong tie would leave the value unread.
#[test]
fn every_variable_refuses_nonsense_by_its_own_name_and_all_at_once() {
    let names: Vec<String> = VARIABLES.iter().map(|variable| format!("{PREFIX}{}", variable.name)).collect();
    for name in &names {
        for nonsense in ["", "non sense", "-1", "\u{7f}", "AUTO"] {
            let line = only_line(&[(name, nonsense)]);
            assert!(line.starts_with(&format!("{name}={nonsense:?}: ")), "{line}");
            assert!(line.contains("allowed: "), "{line}");
        }
    }
    let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "non sense")).collect();
    let mistakes = read(&all).unwrap_err();
    assert_eq!(mistakes.lines().count(), VARIABLES.len());
    let text = mistakes.to_string();
    assert!(text.lines().zip(&names).all(|(line, name)| line.starts_with(&format!("{name}="))), "{text}");
}

#[test]
fn values_reach_their_fields() {
    let config = read(&[
        ("CLUSTERINIT_WORKERS", "4"),
        ("CLUSTERINIT_WORKER_MEMORY", "512Mi"),
        ("CLUSTERINIT_MEMORY_SOFT", "off"),
        ("CLUSTERINIT_GRACE", "0s"),
        ("CLUSTERINIT_DRAIN_DELAY", "1s"),
        ("CLUSTERINIT_READY", "exec"),
        ("CLUSTERINIT_RESTART", "on-failure"),
        ("CLUSTERINIT_SHARE_PORTS", "all,-5701"),
        ("CLUSTERINIT_LISTEN", "web=8080,unix:/run/app.sock"),
        ("CLUSTERINIT_SIGNALS", "TERM=now"),
        ("CLUSTERINIT_HEALTH_ADDR", "off"),
        ("CLUSTERINIT_USER", "65532:7"),
        ("CLUSTERINIT_LOG", "clusterinit=debug,hyper=warn"),
    ]);
    let config = config.unwrap();
    assert_eq!(config.workers, Workers::Count(4));
    assert_eq!(config.worker_memory, WorkerMemory::Cap(512 << 20));
    assert_eq!(config.memory_soft, None);
    assert_eq!((config.grace, config.drain_delay), (Some(Duration::ZERO), Some(Duration::from_secs(1))));
    assert_eq!((config.ready, config.restart), (Ready::Running, Restart::OnFailure));
    assert_eq!(config.share_ports, SharePorts::AllBut(vec![5701]));
    assert_eq!(config.listen[0].name, "web");
    assert_eq!(config.listen[1].address, ListenAddress::Unix("/run/app.sock".into()));
    assert_eq!(config.signals.get(&Signal::TERM), Some(&super::super::SignalAction::Now));
    assert_eq!(config.health_addr, None);
    assert_eq!(config.user, Some(super::super::User { uid: 65532, gid: 7 }));
    assert_eq!(config.given.len(), 13);
}

#[test]
fn a_duration_without_unit_says_so() {
    let line = only_line(&[("CLUSTERINIT_GRACE", "8")]);
    assert!(line.starts_with("CLUSTERINIT_GRACE=\"8\": a number without a unit; allowed: "), "{line}");
}

#[test]
fn impossible_combinations_are_mistakes() {
    let line = only_line(&[("CLUSTERINIT_MIN_READY", "3"), ("CLUSTERINIT_WORKERS", "2")]);
    assert!(line.starts_with("CLUSTERINIT_MIN_READY=\"3\": "), "{line}");
    let line = only_line(&[("CLUSTERINIT_MIN_READY", "3"), ("WEB_CONCURRENCY", "2")]);
    assert!(line.contains("WEB_CONCURRENCY=2"), "{line}");
    let line = only_line(&[("CLUSTERINIT_UNHEALTHY_AFTER", "30s")]);
    assert!(line.starts_with("CLUSTERINIT_UNHEALTHY_AFTER=\"30s\": ") && line.contains("30s, the longest"), "{line}");
    let line = only_line(&[("CLUSTERINIT_RESTART_BACKOFF", "1s..2m")]);
    assert!(line.starts_with("CLUSTERINIT_RESTART_BACKOFF=\"1s..2m\": "), "{line}");
    let line = only_line(&[("CLUSTERINIT_PORT_PER_WORKER", "65535"), ("CLUSTERINIT_WORKERS", "2")]);
    assert!(line.starts_with("CLUSTERINIT_PORT_PER_WORKER=\"65535\": "), "{line}");
    assert!(read(&[("CLUSTERINIT_MIN_READY", "3")]).is_ok());
    assert!(read(&[("CLUSTERINIT_RESTART_BACKOFF", "1s..2m"), ("CLUSTERINIT_UNHEALTHY_AFTER", "3m")]).is_ok());
}

#[test]
fn a_wrong_value_is_not_held_against_another() {
    let lines = lines(&[("CLUSTERINIT_RESTART_BACKOFF", "nothing"), ("CLUSTERINIT_UNHEALTHY_AFTER", "10s")]);
    assert!(lines.len() == 1 && lines[0].starts_with("CLUSTERINIT_RESTART_BACKOFF="), "{lines:?}");
}

#[test]
fn unknown_names_are_mistakes_unless_not_strict() {
    let unknown = [("CLUSTERINIT_WROKERS", "secret"), ("CLUSTERINIT_workers", "2"), ("CLUSTERINIT_", "")];
    let strict = lines(&unknown);
    assert_eq!(strict.len(), 3, "{strict:?}");
    assert!(strict[2].starts_with("CLUSTERINIT_workers: unknown variable; did you mean CLUSTERINIT_WORKERS?"), "{strict:?}");
    assert!(strict.iter().all(|line| !line.contains("secret")), "{strict:?}");

    let lenient = read(&[unknown.as_slice(), &[("CLUSTERINIT_STRICT", "off")]].concat()).unwrap();
    assert_eq!(lenient.warnings.len(), 3);
    assert_eq!(lenient.workers, Workers::Auto);
    assert!(lenient.warnings[1].starts_with("CLUSTERINIT_WROKERS: "), "{:?}", lenient.warnings);
}

#[test]
fn service_links_and_our_own_names_are_ignored() {
    let config = read(&[
        ("CLUSTERINIT_SERVICE_HOST", "10.0.0.1"),
        ("CLUSTERINIT_PORT", "tcp://10.0.0.1:80"),
        ("CLUSTERINIT_PORT_80_TCP_PROTO", "tcp"),
        ("CLUSTERINIT_WORKER_ID", "3"),
        ("CLUSTERINIT_WORKER_COUNT", "4"),
        ("CLUSTERINIT_GENERATION", "1"),
    ]);
    assert_eq!(config, Ok(Config::default()));
    assert!(only_line(&[("CLUSTERINIT_PORT_PER_WORKER", "x")]).starts_with("CLUSTERINIT_PORT_PER_WORKER="));
}

#[test]
fn web_concurrency_counts_where_workers_is_unset() {
    assert_eq!(read(&[("WEB_CONCURRENCY", " 3 ")]).unwrap().workers, Workers::WebConcurrency(3));
    let both = read(&[("WEB_CONCURRENCY", "x"), ("CLUSTERINIT_WORKERS", "auto")]).unwrap();
    assert_eq!((both.workers, both.warnings.len()), (Workers::Auto, 0));
    for odd in ["0", "-1", "two", "1.5", "99999"] {
        let config = read(&[("WEB_CONCURRENCY", odd)]).unwrap();
        assert_eq!(config.workers, Workers::Auto);
        assert!(config.warnings[0].contains(&format!("WEB_CONCURRENCY={odd:?}")), "{:?}", config.warnings);
    }
    assert_eq!(read(&[("WEB_CONCURRENCY", "")]), Ok(Config::default()));
}

#[test]
fn kubernetes_is_seen() {
    assert!(read(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]).unwrap().kubernetes);
    assert!(!read(&[("KUBERNETES_SERVICE_HOST", "")]).unwrap().kubernetes);
}

#[test]
fn the_first_of_two_counts_as_for_getenv() {
    let config = read(&[("CLUSTERINIT_WORKERS", "2"), ("CLUSTERINIT_WORKERS", "x")]).unwrap();
    assert_eq!(config.workers, Workers::Count(2));
}

#[test]
fn bytes_that_are_no_text_are_a_mistake_for_our_variables_only() {
    let bytes = || OsString::from_vec(vec![b'8', 0xff]);
    let theirs = [("OTHER".into(), bytes()), (bytes(), bytes()), ("CLUSTERINIT_X_SERVICE_HOST".into(), bytes())];
    assert_eq!(Config::from_env(theirs), Ok(Config::default()));
    let ours = Config::from_env([("CLUSTERINIT_GRACE".into(), bytes())]).unwrap_err().to_string();
    assert!(ours.starts_with("CLUSTERINIT_GRACE=\"8\u{fffd}\": "), "{ours}");
    assert_eq!(Config::from_env([("WEB_CONCURRENCY".into(), bytes())]).unwrap().warnings.len(), 1);
}

fn bytes() -> impl Strategy<Value = OsString> {
    prop::collection::vec(1..=u8::MAX, 0..30).prop_map(OsString::from_vec)
}

fn name() -> impl Strategy<Value = OsString> {
    let known = prop::sample::select(VARIABLES).prop_map(|variable| format!("{PREFIX}{}", variable.name).into());
    let near = "CLUSTERINIT_[A-Za-z_]{0,12}".prop_map(OsString::from);
    let odd = bytes().prop_map(|end| {
        let mut name = OsString::from(PREFIX);
        name.push(end);
        name
    });
    let theirs = prop::sample::select(vec!["WEB_CONCURRENCY", "KUBERNETES_SERVICE_HOST", "PATH"]).prop_map(OsString::from);
    prop_oneof![8 => known, 1 => near, 1 => odd, 1 => theirs]
}

fn value() -> impl Strategy<Value = OsString> {
    let words =
        prop::sample::select(vec!["auto", "on", "off", "none", "1", "8s", "1Mi", "50%", "8080,8081", "HUP=stop", "/x", "info"]);
    prop_oneof![2 => words.prop_map(OsString::from), 1 => bytes(), 1 => "\\PC{0,20}".prop_map(OsString::from)]
}

proptest! {
    #[test]
    fn no_environment_makes_it_panic_and_each_mistake_names_its_variable(
        vars in prop::collection::vec((name(), value()), 0..12),
    ) {
        let shown = |name: &OsString| name.to_string_lossy().chars().flat_map(char::escape_debug).collect();
        let names: Vec<String> = vars.iter().map(|(name, _)| shown(name)).collect();
        if let Err(mistakes) = Config::from_env(vars) {
            prop_assert!(!mistakes.is_empty());
            prop_assert_eq!(mistakes.to_string().lines().count(), mistakes.lines().count());
            for line in mistakes.lines() {
                let named = names.iter().any(|name| {
                    line.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('=') || rest.starts_with(": "))
                });
                prop_assert!(named, "{line}");
            }
        }
    }
}
