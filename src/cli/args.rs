//! The command line, understood: what was asked for, or one clear sentence.
//!
//! A first word that is none of ours and does not begin with `-` is the command to run, and everything behind it belongs to that
//! command (`clusterinit ./server --help` asks the server). Behind `--` everything is the command, whatever its name.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;

use lexopt::{Arg, Parser};
use thiserror::Error;

use crate::cluster::event::Request;
use crate::cluster::words::Slot;
use crate::config::{MOST_WORKERS, VARIABLES};
use crate::control::{Demand, Whom};
use crate::node::message;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run this command as a cluster; never empty.
    Run(Vec<OsString>),
    /// Tell what would be done, for this command if there is one.
    Plan(Vec<OsString>),
    Status {
        json: bool,
        watch: bool,
        addr: Option<String>,
    },
    Healthcheck {
        ready: bool,
        addr: Option<String>,
    },
    /// Ask the running clusterinit for something. A stop leaves open whether a worker listens: the asked one knows.
    Control(Demand),
    Help,
    Version,
}

/// Why a command line means nothing: exit 64.
#[derive(Debug, Error)]
pub enum UsageError {
    #[error("no command; write clusterinit COMMAND [ARG...]")]
    NoCommand,
    #[error("{word} is reserved; to run a program of that name write clusterinit -- {word} ...")]
    Reserved { word: &'static str },
    #[error("unknown option {option:?}; to run a program of that name write clusterinit -- {option:?} ...")]
    UnknownOption { option: String },
    #[error("{command}: {why}; see clusterinit --help")]
    Option { command: &'static str, why: String },
    #[error("{command} takes {takes}{given}; to run a program of that name write clusterinit -- {command} ...")]
    Arguments { command: &'static str, takes: &'static str, given: String },
}

/// From the arguments without our own name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let Some((first, rest)) = args.split_first() else { return Err(UsageError::NoCommand) };
    match first.to_str() {
        Some("--") if rest.is_empty() => Err(UsageError::NoCommand),
        Some("--") => Ok(Command::Run(rest.to_vec())),
        Some("-h" | "--help") => Ok(Command::Help),
        Some("-V" | "--version") => Ok(Command::Version),
        Some("plan") => plan(rest),
        Some("status") => status(rest),
        Some("healthcheck") => healthcheck(rest),
        Some("reload") => control("reload", "no arguments", rest, |args| args.is_empty().then_some(Request::Reload)),
        Some("stop") => control("stop", "no arguments", rest, |args| {
            args.is_empty().then_some(Request::Stop { interrupt: false, listening: false })
        }),
        Some("scale") => control("scale", "a number of workers from 1 to 4096", rest, |args| {
            number(args).filter(|number| (1..=MOST_WORKERS).contains(number)).map(Request::Scale)
        }),
        Some("restart") => control("restart", "the number of a slot", rest, |args| {
            number(args).filter(|number| *number < MOST_WORKERS).map(|number| Request::Restart(Slot(number)))
        }),
        Some("send") => send(rest),
        Some("logs") => Err(UsageError::Reserved { word: "logs" }),
        Some("events") => Err(UsageError::Reserved { word: "events" }),
        _ if first.as_encoded_bytes().starts_with(b"-") => {
            Err(UsageError::UnknownOption { option: first.to_string_lossy().into_owned() })
        }
        _ => Ok(Command::Run(args)),
    }
}

/// `send all|SLOT JSON`
fn send(args: &[OsString]) -> Result<Command, UsageError> {
    let words: Option<Vec<&str>> = args.iter().map(|word| word.to_str()).collect();
    match words.as_deref() {
        Some(["-h" | "--help"]) => Ok(Command::Help),
        Some([whom, json]) if message::from_person(json).is_some() => match Whom::parse(whom) {
            Some(whom) => Ok(Command::Control(Demand::Send(whom, (*json).to_owned()))),
            None => Err(wrong_send(&format!(", not {whom:?}"))),
        },
        Some([_, json]) => Err(wrong_send(&format!(", and {json:?} is no JSON, or a message that Node takes for its own"))),
        _ => Err(wrong_send("")),
    }
}

fn wrong_send(given: &str) -> UsageError {
    UsageError::Arguments {
        command: "send",
        takes: "all or the number of a slot, and a message in JSON",
        given: given.to_owned(),
    }
}

/// `plan`, `plan COMMAND ...` or `plan -- COMMAND ...`.
fn plan(args: &[OsString]) -> Result<Command, UsageError> {
    let Some((first, rest)) = args.split_first() else { return Ok(Command::Plan(Vec::new())) };
    match first.to_str() {
        Some("--") => Ok(Command::Plan(rest.to_vec())),
        Some("-h" | "--help") => Ok(Command::Help),
        _ if first.as_encoded_bytes().starts_with(b"-") => {
            let given = format!(", not {:?}", first.to_string_lossy());
            Err(UsageError::Arguments { command: "plan", takes: "-- COMMAND [ARG...]", given })
        }
        _ => Ok(Command::Plan(args.to_vec())),
    }
}

fn status(args: &[OsString]) -> Result<Command, UsageError> {
    let options = Options::read(args, &["json", "watch"]);
    let options = options.map_err(|error| wrong_option("status", &error))?;
    if options.help {
        return Ok(Command::Help);
    }
    Ok(Command::Status { json: options.has("json"), watch: options.has("watch"), addr: options.addr })
}

fn healthcheck(args: &[OsString]) -> Result<Command, UsageError> {
    let options = Options::read(args, &["ready"]);
    let options = options.map_err(|error| wrong_option("healthcheck", &error))?;
    if options.help {
        return Ok(Command::Help);
    }
    Ok(Command::Healthcheck { ready: options.has("ready"), addr: options.addr })
}

/// The options of the commands that ask the side port.
#[derive(Default)]
struct Options {
    given: Vec<String>,
    addr: Option<String>,
    help: bool,
}

impl Options {
    fn read(args: &[OsString], flags: &[&str]) -> Result<Self, lexopt::Error> {
        let mut options = Self::default();
        let mut parser = Parser::from_args(args);
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Long("addr") => options.addr = Some(parser.value()?.into_string()?),
                Arg::Long("help") | Arg::Short('h') => options.help = true,
                Arg::Long(flag) if flags.contains(&flag) => options.given.push(flag.to_owned()),
                other => return Err(other.unexpected()),
            }
        }
        Ok(options)
    }

    fn has(&self, flag: &str) -> bool {
        self.given.iter().any(|given| given == flag)
    }
}

/// On one line, whatever bytes the option has.
fn wrong_option(command: &'static str, error: &lexopt::Error) -> UsageError {
    let why = error.to_string().replace(char::is_control, "?");
    UsageError::Option { command, why }
}

fn control(
    command: &'static str,
    takes: &'static str,
    args: &[OsString],
    request: impl FnOnce(&[OsString]) -> Option<Request>,
) -> Result<Command, UsageError> {
    if args.first().is_some_and(|first| first == "--help" || first == "-h") {
        return Ok(Command::Help);
    }
    request(args).map(|request| Command::Control(Demand::Cluster(request))).ok_or_else(|| {
        let given = args.join(OsStr::new(" "));
        let given = if given.is_empty() { String::new() } else { format!(", not {:?}", given.to_string_lossy()) };
        UsageError::Arguments { command, takes, given }
    })
}

/// The one argument, if it is a number without a sign.
fn number(args: &[OsString]) -> Option<u32> {
    let [only] = args else { return None };
    let text = only.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// What `--help` prints, in 80 columns.
pub fn help() -> String {
    let mut text = String::from(USAGE);
    for variable in VARIABLES {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<17} {:<10} {}", variable.name, variable.default, variable.meaning);
    }
    text.push_str(UNITS);
    text
}

/// What `--version` prints.
pub fn version() -> String {
    format!("clusterinit {}\n", env!("CARGO_PKG_VERSION"))
}

const USAGE: &str = "\
clusterinit: PID 1 that turns one container into a cluster of workers

  clusterinit [--] COMMAND [ARG...]   run COMMAND as a cluster
  clusterinit plan [-- COMMAND ...]   tell what would be done here, and why
  clusterinit status [--json] [--watch] [--addr URL]
                                      a table of the workers
  clusterinit healthcheck [--ready] [--addr URL]
                                      exit 0 if healthy, 1 if not
  clusterinit --help | --version

From inside the container, as the same user or root:
  clusterinit reload                  rolling restart
  clusterinit stop                    graceful stop
  clusterinit scale N                 run N workers
  clusterinit restart SLOT            replace the worker of one slot
  clusterinit send all|SLOT JSON      a message for Node programs

-- is needed only where COMMAND begins with - or is one of plan, status,
healthcheck, reload, stop, scale, restart, send, logs, events.

Environment (each name begins with CLUSTERINIT_), default, meaning:
";

const UNITS: &str = "
Durations have a unit (500ms, 8s, 2m), sizes are Kubernetes quantities (256Mi,
1G, plain bytes). Without WORKERS, a number in WEB_CONCURRENCY is the worker
count. Signals: TERM, INT, QUIT, 37 stop; USR2 reloads; TTIN and TTOU are one
worker more and fewer; the others are forwarded.
Exit status: 64 usage or configuration, 126 and 127 COMMAND cannot be executed,
137 a worker had to be killed, else the workers' own.
";

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn understood(line: &str) -> Command {
        parse(words(line)).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn refused(line: &str) -> String {
        parse(words(line)).unwrap_err().to_string()
    }

    #[test]
    fn everything_behind_the_command_belongs_to_it() {
        for line in ["./server", "./server --help", "./server -- plan --json", "sh -c exit", "helper status"] {
            assert_eq!(understood(line), Command::Run(words(line)));
            assert_eq!(understood(&format!("-- {line}")), Command::Run(words(line)));
        }
    }

    #[test]
    fn our_own_words_need_two_dashes_to_be_run() {
        let ours = [
            "plan",
            "status",
            "healthcheck",
            "reload",
            "stop",
            "scale",
            "restart",
            "send",
            "logs",
            "events",
            "--help",
            "-x",
            "--",
        ];
        for word in ours {
            assert_eq!(understood(&format!("-- {word} -v")), Command::Run(words(&format!("{word} -v"))));
            assert!(!matches!(parse(words(word)), Ok(Command::Run(_))), "{word}");
        }
        for word in ["send", "logs", "events"] {
            assert!(refused(word).contains(&format!("write clusterinit -- {word} ...")));
        }
        assert!(refused("-x").contains("clusterinit -- \"-x\""));
        assert!(refused("--workers=4").contains("unknown option \"--workers=4\""));
    }

    #[test]
    fn nothing_to_run_is_refused() {
        for nothing in ["", "--"] {
            assert!(refused(nothing).starts_with("no command"), "{nothing}");
        }
    }

    #[test]
    fn plan_takes_a_command_or_none() {
        assert_eq!(understood("plan"), Command::Plan(vec![]));
        assert_eq!(understood("plan --"), Command::Plan(vec![]));
        assert_eq!(understood("plan -- status -x"), Command::Plan(words("status -x")));
        assert_eq!(understood("plan ./server --help"), Command::Plan(words("./server --help")));
        assert!(refused("plan --json").contains("plan takes -- COMMAND"));
    }

    #[test]
    fn status_and_healthcheck_have_options() {
        let addr = || Some("http://127.0.0.1:9180".to_owned());
        assert_eq!(understood("status"), Command::Status { json: false, watch: false, addr: None });
        assert_eq!(
            understood("status --json --addr http://127.0.0.1:9180 --watch"),
            Command::Status { json: true, watch: true, addr: addr() }
        );
        assert_eq!(understood("healthcheck"), Command::Healthcheck { ready: false, addr: None });
        assert_eq!(
            understood("healthcheck --addr=http://127.0.0.1:9180 --ready"),
            Command::Healthcheck { ready: true, addr: addr() }
        );
        for wrong in ["status --ready", "status now", "status --addr", "status --json=1", "healthcheck --json", "healthcheck -x"]
        {
            assert!(refused(wrong).contains("see clusterinit --help"), "{wrong}");
        }
    }

    #[test]
    fn requests_take_exactly_their_arguments() {
        let asks = |request| Command::Control(Demand::Cluster(request));
        assert_eq!(understood("reload"), asks(Request::Reload));
        assert_eq!(understood("stop"), asks(Request::Stop { interrupt: false, listening: false }));
        assert_eq!(understood("scale 4"), asks(Request::Scale(4)));
        assert_eq!(understood("restart 0"), asks(Request::Restart(Slot(0))));
        for wrong in [
            "reload now",
            "stop -x",
            "scale",
            "scale 0",
            "scale -1",
            "scale +1",
            "scale 4097",
            "scale 1 2",
            "restart",
            "restart x",
            "restart 4096",
        ] {
            assert!(refused(wrong).contains(" takes "), "{wrong}");
        }
        assert!(refused("scale many").contains("not \"many\""));
    }

    #[test]
    fn help_and_version_are_found_where_people_type_them() {
        for line in ["--help", "-h", "--help me", "plan --help", "status --help", "healthcheck -h", "scale --help", "stop -h"] {
            assert_eq!(understood(line), Command::Help, "{line}");
        }
        assert_eq!((understood("--version"), understood("-V")), (Command::Version, Command::Version));
        assert!(version().starts_with("clusterinit 0"));
    }

    #[test]
    fn help_names_every_variable_in_80_columns() {
        let help = help();
        for line in help.lines() {
            assert!(line.len() <= 80, "{} columns: {line}", line.len());
        }
        for variable in VARIABLES {
            assert!(help.contains(&format!("\n  {} ", variable.name)), "{}", variable.name);
        }
    }

    #[test]
    fn arguments_may_be_any_bytes() {
        let odd = OsString::from_vec(vec![b'/', 0xff]);
        assert_eq!(parse([odd.clone()]).unwrap(), Command::Run(vec![odd.clone()]));
        assert!(parse(["status".into(), odd.clone()]).is_err());
        assert!(parse(["status".into(), "--addr".into(), odd.clone()]).is_err());
        assert!(parse(["scale".into(), odd]).is_err());
        assert!(parse([OsString::from_vec(vec![b'-', 0xff])]).is_err());
    }

    proptest! {
        #[test]
        fn no_arguments_make_it_panic(args in prop::collection::vec(prop_oneof![
            prop::collection::vec(1..=u8::MAX, 0..9),
            "plan|status|healthcheck|scale|restart|stop|--|--addr|--json|-h|[0-9]{1,11}|--?[a-z\n]{1,3}".prop_map(String::into_bytes),
        ], 0..5)) {
            if let Err(error) = parse(args.into_iter().map(OsString::from_vec)) {
                prop_assert_eq!(error.to_string().lines().count(), 1, "{}", error);
            }
        }
    }
}
