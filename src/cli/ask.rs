//! `clusterinit reload | stop | scale N | restart SLOT`: asks over the control socket and repeats the answer.

use thiserror::Error;

use super::{DONE, NO, USAGE, complain, say};
use crate::control;

#[derive(Debug, Error)]
#[error("cannot ask for \"{0}\": write reload, stop, scale N, or restart SLOT")]
struct Unknown(String);

/// `words` begin with the subcommand itself.
pub fn run(words: &[String]) -> u8 {
    let line = words.join(" ");
    let Some(request) = control::parse(&line) else {
        complain(&Unknown(line));
        return USAGE;
    };
    match control::ask(request) {
        Ok(answer) => {
            say(&format!("{answer}\n"));
            DONE
        }
        Err(error) => {
            complain(&error);
            NO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_does_not_exist_is_a_usage_error() {
        for words in [&["scale"][..], &["scale", "many"], &["restart", "-1"], &["stop", "now"], &[]] {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            assert_eq!(run(&words), USAGE, "{words:?}");
        }
    }
}
