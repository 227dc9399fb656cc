//! The manual page and the completions, from the help text, the table of variables and the default actions of signals. PURE.

use std::fmt::Write;

use clusterinit::cli::args;
use clusterinit::config::{Config, PREFIX, SignalAction, VARIABLES};

/// Of the manual page; a release changes it.
const DATE: &str = "2026-11-30";

/// Path in the project, and content.
pub(crate) fn all() -> [(&'static str, String); 4] {
    let commands = commands();
    [
        ("man/clusterinit.1", manual(&commands)),
        ("completions/clusterinit.bash", bash(&commands)),
        ("completions/_clusterinit", zsh(&commands)),
        ("completions/clusterinit.fish", fish(&commands)),
    ]
}

/// A line of the help text, `clusterinit WORDS   meaning`.
struct Command {
    words: String,
    meaning: String,
}

impl Command {
    /// `plan`; `None` for the one that runs a command, and for bare options.
    fn name(&self) -> Option<&str> {
        self.words.split(' ').next().filter(|word| word.starts_with(|first: char| first.is_ascii_lowercase()))
    }

    /// `--json`, and whether a value follows.
    fn options(&self) -> impl Iterator<Item = (&str, bool)> {
        self.words.split('[').filter_map(|part| {
            let option = part.trim_end().strip_suffix(']')?;
            let (name, value) = option.split_once(' ').map_or((option, false), |(name, _)| (name, true));
            (name.len() > 2 && name.starts_with("--")).then_some((name, value))
        })
    }
}

/// What the help text lists, up to the environment.
fn commands() -> Vec<Command> {
    let help = args::help();
    let mut found: Vec<Command> = Vec::new();
    for line in help.lines().take_while(|line| !line.starts_with("Environment")) {
        let indented = line.starts_with("  ");
        match line.trim_start().strip_prefix("clusterinit ") {
            Some(rest) if indented => {
                let (words, meaning) = rest.split_once("   ").unwrap_or((rest, ""));
                found.push(Command { words: words.trim().to_owned(), meaning: meaning.trim().to_owned() });
            }
            _ if line.starts_with("      ") => {
                if let Some(last) = found.last_mut() {
                    line.trim().clone_into(&mut last.meaning);
                }
            }
            _ => {}
        }
    }
    found
}

// === the manual page (man 7 man) ===

fn manual(commands: &[Command]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".\\\" Written by `cargo run --example manual`, not by hand.\n.TH CLUSTERINIT 1 \"{DATE}\" \"clusterinit {version}\"\n"
    );
    page.push_str(".SH NAME\nclusterinit \\- PID 1 that turns one container into a cluster of workers\n.SH SYNOPSIS\n");
    for command in commands {
        put(&mut page, &format!(".B clusterinit\n{}\n.br\n", roff(&command.words)));
    }
    page.truncate(page.len() - ".br\n".len());
    page.push_str(ABOUT);
    page.push_str(".SH COMMANDS\n");
    for command in commands.iter().filter(|command| !command.meaning.is_empty()) {
        put(&mut page, &format!(".TP\n.B {}\n{}.\n", roff(&command.words), roff(&capital(&command.meaning))));
    }
    page.push_str(
        ".SH ENVIRONMENT\nDurations have a unit (500ms, 8s, 2m),\nsizes are Kubernetes quantities (256Mi, 1G, plain bytes).\n",
    );
    for variable in VARIABLES {
        let (name, default, meaning) = (roff(variable.name), roff(variable.default), roff(&capital(variable.meaning)));
        put(&mut page, &format!(".TP\n.B {PREFIX}{name}\n{meaning}.\nDefault: {default}.\n"));
    }
    page.push_str(".SH SIGNALS\n");
    for (action, what) in ACTIONS {
        let signals = Config::default().signals;
        let names: Vec<String> = signals.iter().filter(|(_, found)| **found == action).map(|(one, _)| one.name()).collect();
        put(&mut page, &format!(".TP\n.B {}\n{what}\n", roff(&names.join(", "))));
    }
    page.push_str(REST);
    page
}

const ACTIONS: [(SignalAction, &str); 4] = [
    (SignalAction::Stop, "Stop.\nA second INT or QUIT, half a second after the first or later, kills at once."),
    (SignalAction::Reload, "Rolling restart."),
    (SignalAction::More, "One worker more."),
    (SignalAction::Fewer, "One worker fewer."),
];

const ABOUT: &str = "\
.SH DESCRIPTION
clusterinit runs COMMAND as many times as the CPU quota of the container pays
for.
The copies (workers) share the TCP ports that they listen on,
though they were not written for that.
Those that end, leak or hang are replaced; orphans are reaped;
a stop ends all processes in bounded time.
.PP
Unless CLUSTERINIT_WORKERS says otherwise, COMMAND is run once where standard
input is a terminal, where ports cannot be shared,
and for programs that use all CPUs by themselves (java, dotnet, Erlang).
.B clusterinit plan
says what is done, and why.
.PP
Everything is set by the environment.
All mistakes in it are reported at once, and nothing is started then.
";

const REST: &str = "\
.TP
others
Forwarded to the workers that catch or ignore them;
HUP is a rolling restart if none does.
.SH EXIT STATUS
.TP
.B 0
After a stop: every worker ended with 0, by the stop signal,
or with 128 + its number; or a job ended with 0.
.TP
.B 137
After a stop: a worker had to be killed.
.TP
.B 64
Usage or configuration.
.TP
.B 70
An internal error.
.TP
.B 126, 127
COMMAND cannot be executed; is not found.
.TP
others
A worker's own; 128 + n for signal n.
.SH FILES
.TP
.I /dev/termination\\-log
If it exists, the reason of an abnormal end is written there.
.SH NOTES
The side port (9180) answers GET of /healthz, /livez, /readyz, /workers and
/metrics.
Workers find their number in CLUSTERINIT_WORKER_ID;
they say that they are ready by
.BR sd_notify (3)
or by listening.
.SH EXAMPLES
.EX
clusterinit plan \\-\\- ./server
CLUSTERINIT_WORKERS=4 clusterinit \\-\\- ./server
CLUSTERINIT_READY=running clusterinit \\-\\- python3 consumer.py
.EE
.SH SEE ALSO
.BR sd_notify (3),
.BR seccomp_unotify (2),
.BR cgroups (7)
";

/// Text that means nothing to troff.
fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq")
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn put(page: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = page.write_str(text);
}

// === completions ===

const HEAD: &str = "written by `cargo run --example manual`, not by hand";

/// Names of subcommands and options that stand first.
fn first(commands: &[Command]) -> Vec<(&str, &str)> {
    let named = commands.iter().filter_map(|command| Some((command.name()?, command.meaning.as_str())));
    named.chain([("--help", "the help text"), ("--version", "the version")]).collect()
}

fn bash(commands: &[Command]) -> String {
    let words: Vec<&str> = first(commands).into_iter().map(|(word, _)| word).collect();
    let mut cases = String::new();
    for command in commands {
        let options: Vec<&str> = command.options().map(|(option, _)| option).collect();
        if let Some(name) = command.name().filter(|_| !options.is_empty()) {
            put(&mut cases, &format!("      {name}) words='{}' ;;\n", options.join(" ")));
        }
    }
    format!(
        "# bash completion of clusterinit; {HEAD}.\n_clusterinit() {{\n  local words=\n  if ((COMP_CWORD == 1)); then\n    words='{}'\n  \
         else\n    case ${{COMP_WORDS[1]}} in\n{cases}      send) ((COMP_CWORD == 2)) && words=all ;;\n    esac\n  fi\n  mapfile -t COMPREPLY < \
         <(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\")\n}}\ncomplete -o default -F _clusterinit clusterinit\n",
        words.join(" ")
    )
}

fn zsh(commands: &[Command]) -> String {
    let mut words = String::new();
    for (word, meaning) in first(commands) {
        put(&mut words, &format!("    '{word}:{}'\n", meaning.replace('\'', "'\\''").replace(':', "\\:")));
    }
    let mut cases = String::new();
    for command in commands {
        let options = command
            .options()
            .fold(String::new(), |all, (option, value)| all + " '" + option + if value { "=:URL:" } else { "" } + "'");
        if let Some(name) = command.name().filter(|_| !options.is_empty()) {
            put(&mut cases, &format!("    {name}) _arguments -s{options} ;;\n"));
        }
    }
    format!(
        "#compdef clusterinit\n# zsh completion of clusterinit; {HEAD}.\nlocal -a words_first\nif ((CURRENT == 2)); then\n  words_first=(\n{words}  \
         )\n  _describe command words_first\n  _command_names -e\nelse\n  local name=$words[2]\n  shift words\n  ((CURRENT--))\n  case $name in\n{cases}    \
         send) ((CURRENT == 2)) && compadd all ;;\n    *) _normal ;;\n  esac\nfi\n"
    )
}

fn fish(commands: &[Command]) -> String {
    let mut text = format!("# fish completion of clusterinit; {HEAD}.\n");
    for (word, meaning) in first(commands) {
        let word = word.strip_prefix("--").map_or_else(|| format!("-a {word}"), |option| format!("-l {option}"));
        let meaning = meaning.replace('\'', "\\'");
        put(&mut text, &format!("complete -c clusterinit -n __fish_is_first_arg {word} -d '{meaning}'\n"));
    }
    for command in commands {
        for (option, value) in command.options() {
            let (Some(name), option) = (command.name(), option.trim_start_matches('-')) else { continue };
            let takes = if value { " -x" } else { "" };
            put(&mut text, &format!("complete -c clusterinit -n '__fish_seen_subcommand_from {name}' -l {option}{takes}\n"));
        }
    }
    put(&mut text, "complete -c clusterinit -n '__fish_seen_subcommand_from send' -a all\n");
    text
}
