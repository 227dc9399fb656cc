//! `SIGNALS` and `STOP_SIGNAL`: which signal does what.

use std::collections::BTreeMap;

use super::SignalAction;
use super::mistakes::quoted;
use super::words::parts;
use crate::cluster::words::Signal;

const ALLOWED: &str = "allowed: pairs such as HUP=reload,WINCH=ignore,INT=QUIT, \
    with stop, now, reload, more, fewer, forward, ignore or a signal on the right";

const ACTIONS: [(&str, SignalAction); 7] = [
    ("stop", SignalAction::Stop),
    ("now", SignalAction::Now),
    ("reload", SignalAction::Reload),
    ("more", SignalAction::More),
    ("fewer", SignalAction::Fewer),
    ("forward", SignalAction::Forward),
    ("ignore", SignalAction::Ignore),
];

/// What is in force where `SIGNALS` says nothing; every other signal is forwarded.
pub(super) fn defaults() -> BTreeMap<Signal, SignalAction> {
    let stop = [Signal::TERM, Signal::INT, Signal::QUIT, RTMIN_3].map(|signal| (signal, SignalAction::Stop));
    let rest = [(USR2, SignalAction::Reload), (TTIN, SignalAction::More), (TTOU, SignalAction::Fewer)];
    stop.into_iter().chain(rest).collect()
}

const USR2: Signal = Signal(12);
const TTIN: Signal = Signal(21);
const TTOU: Signal = Signal(22);
/// What systemd-style containers are stopped with.
const RTMIN_3: Signal = Signal(37);

/// The defaults, overlaid with what the text says.
pub(super) fn parse(text: &str) -> Result<BTreeMap<Signal, SignalAction>, String> {
    let mut said = BTreeMap::new();
    for part in parts(text) {
        let (name, action) = part.split_once('=').ok_or_else(|| format!("{} is no pair; {ALLOWED}", quoted(part)))?;
        let signal = Signal::parse(name).ok_or_else(|| format!("{} is no signal; {ALLOWED}", quoted(name)))?;
        if let Some(why) = uncatchable(signal) {
            return Err(format!("{signal} {why}; allowed: signals that can be caught"));
        }
        if said.insert(signal, parse_action(action)?).is_some() {
            return Err(format!("{signal} stands there twice; allowed: each signal once"));
        }
    }
    let mut all = defaults();
    all.append(&mut said);
    Ok(all)
}

/// A signal that asks a worker to end.
pub(super) fn stop_signal(text: &str) -> Result<Signal, String> {
    const ALLOWED: &str = "allowed: a signal's name or number, such as TERM, QUIT or 37";
    let signal = Signal::parse(text).ok_or_else(|| ALLOWED.to_owned())?;
    match signal.name().as_str() {
        "KILL" => Err(format!("SIGKILL leaves nothing to be graceful about, write CLUSTERINIT_GRACE=0s instead; {ALLOWED}")),
        "STOP" | "CONT" => Err(format!("{signal} ends nothing; {ALLOWED}")),
        _ => Ok(signal),
    }
}

fn parse_action(text: &str) -> Result<SignalAction, String> {
    if let Some((_, action)) = ACTIONS.into_iter().find(|(word, _)| *word == text) {
        return Ok(action);
    }
    // `TERM=STOP` would freeze the workers where `TERM=stop` was meant.
    if text.eq_ignore_ascii_case("stop") {
        return Err(format!(
            "{} may mean two things; allowed: stop to end the cluster, or SIGSTOP to send that signal",
            quoted(text)
        ));
    }
    let signal = Signal::parse(text).ok_or_else(|| format!("{} is no action; {ALLOWED}", quoted(text)))?;
    Ok(SignalAction::Send(signal))
}

/// Why this signal cannot have an action.
fn uncatchable(signal: Signal) -> Option<&'static str> {
    match signal.name().as_str() {
        "KILL" | "STOP" => Some("cannot be caught"),
        "SEGV" | "BUS" | "ILL" | "FPE" | "TRAP" | "SYS" | "ABRT" => Some("means that clusterinit itself has crashed"),
        "CHLD" => Some("reaps"),
        _ if (32..=34).contains(&signal.0) => Some("belongs to the C library"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let defaults = defaults();
        for stop in ["TERM", "INT", "QUIT", "RTMIN+3"] {
            assert_eq!(defaults.get(&Signal::parse(stop).unwrap()), Some(&SignalAction::Stop), "{stop}");
        }
        assert_eq!(defaults.get(&Signal::parse("USR2").unwrap()), Some(&SignalAction::Reload));
        assert_eq!(defaults.get(&Signal::parse("TTIN").unwrap()), Some(&SignalAction::More));
        assert_eq!(defaults.get(&Signal::parse("TTOU").unwrap()), Some(&SignalAction::Fewer));
        assert_eq!(defaults.len(), 7);
    }

    #[test]
    fn what_is_said_overlays_the_defaults() {
        let signals = parse("HUP=reload, WINCH=ignore,INT=QUIT,37=now,SIGUSR1=forward,USR2=SIGSTOP").unwrap();
        let at = |name: &str| signals.get(&Signal::parse(name).unwrap()).copied();
        assert_eq!(at("HUP"), Some(SignalAction::Reload));
        assert_eq!(at("WINCH"), Some(SignalAction::Ignore));
        assert_eq!(at("INT"), Some(SignalAction::Send(Signal::QUIT)));
        assert_eq!(at("37"), Some(SignalAction::Now));
        assert_eq!(at("USR1"), Some(SignalAction::Forward));
        assert_eq!(at("USR2"), Some(SignalAction::Send(Signal(19))));
        assert_eq!(at("TERM"), Some(SignalAction::Stop));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for wrong in ["", "HUP", "HUP=", "=reload", "HUP=Reload", "FOO=reload", "HUP=reload,", "HUP=reload,SIGHUP=stop", "HUP=65"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for never in ["KILL", "STOP", "SEGV", "BUS", "ILL", "FPE", "TRAP", "SYS", "ABRT", "CHLD", "32", "33", "34"] {
            let why = parse(&format!("{never}=ignore")).unwrap_err();
            assert!(why.contains("can be caught"), "{never}: {why}");
        }
        assert!(parse("TERM=STOP").unwrap_err().contains("SIGSTOP"));
    }

    #[test]
    fn a_stop_signal_can_be_answered() {
        for (text, number) in [("TERM", 15), ("SIGQUIT", 3), ("37", 37), ("RTMIN+3", 37), ("winch", 28)] {
            assert_eq!(stop_signal(text), Ok(Signal(number)), "{text}");
        }
        for wrong in ["", "0", "65", "KILL", "9", "STOP", "19", "CONT", "stop now"] {
            assert!(stop_signal(wrong).is_err(), "{wrong}");
        }
        assert!(stop_signal("KILL").unwrap_err().contains("CLUSTERINIT_GRACE=0s"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|([A-Z0-9+]{1,5}=[a-zA-Z]{0,6},?){0,4}") {
            let _ = (parse(&text), stop_signal(&text));
        }
    }
}
