//! Each command line of clusterinit that the pages show is one that it understands.

use std::ffi::OsString;
use std::io;

use clusterinit::cli::args;

use super::pages;

/// The arguments that clusterinit gets in this line, if it is run there.
fn arguments(line: &str) -> Option<Vec<String>> {
    let line = line.split(" # ").next().unwrap_or_default().trim();
    let exec = ["ENTRYPOINT ", "CMD ", "HEALTHCHECK CMD ", "command: ", "exec: {command: "]
        .iter()
        .find_map(|begin| line.strip_prefix(begin));
    if let Some(list) = exec.and_then(|rest| rest.trim_end_matches('}').strip_prefix('[')).and_then(|rest| rest.strip_suffix(']'))
    {
        let words: Vec<String> = list.split(',').map(|word| word.trim().trim_matches('"').to_owned()).collect();
        let (program, rest) = words.split_first()?;
        // Without CMD the rest of the command comes from it.
        let rest: Vec<String> = if rest == ["--"] { vec!["--".to_owned(), "./server".to_owned()] } else { rest.to_vec() };
        return is_ours(program).then_some(rest);
    }
    let words = words(line);
    let begins = |at: usize| words.iter().take(at).all(|word| word.contains('=') || ["$", "exec"].contains(&word.as_str()));
    let at =
        words.iter().enumerate().position(|(at, word)| word.ends_with("/clusterinit") || word == "clusterinit" && begins(at))?;
    // An image, a path of a file, a completion.
    let is_argument = at > 0 && ["-c", "--entrypoint", "COPY", "cp", "ls"].contains(&words.get(at - 1)?.as_str());
    let is_copied = words.iter().any(|word| word.starts_with("--from="));
    (!is_argument && !is_copied).then(|| words.get(at + 1..).unwrap_or_default().to_vec())
}

fn is_ours(word: &str) -> bool {
    word == "clusterinit" || word.ends_with("/clusterinit")
}

/// As a shell would split it, up to what it would take for the next command.
fn words(line: &str) -> Vec<String> {
    let (mut found, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in line.chars() {
        match (letter, quote) {
            ('\'' | '"', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (end, Some(open)) if end == open => quote = None,
            ('&' | '|' | ';' | '<' | '>', None) if word.is_none() => break,
            (' ', None) => found.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    found.extend(word);
    found
}

/// `scale N` and `status [--json]` as somebody would type them.
fn filled_in(words: Vec<String>) -> Vec<OsString> {
    let text = words
        .join(" ")
        .replace("[ARG...]", "")
        .replace("COMMAND ...", "COMMAND")
        .replace("all|SLOT", "all")
        .replace(['[', ']'], "");
    let whole = if words.iter().any(|word| word.contains(['[', '|'])) {
        text.split_whitespace().map(str::to_owned).collect()
    } else {
        words
    };
    let fill = |word: String| match word.as_str() {
        "N" => "2".into(),
        "SLOT" => "0".into(),
        "JSON" => "{}".into(),
        "URL" => "http://127.0.0.1:9180".into(),
        _ => word.into(),
    };
    whole.into_iter().filter(|word| word != "...").map(fill).collect()
}

#[test]
fn a_shown_command_line_is_taken_apart() {
    let shown = |line: &str| arguments(line).map(|words| words.join(" "));
    assert_eq!(shown("A=1 clusterinit -- ./server  # why").as_deref(), Some("-- ./server"));
    assert_eq!(shown("kubectl exec deploy/web -- /clusterinit reload").as_deref(), Some("reload"));
    assert_eq!(shown("clusterinit send all '{\"a\": 1}'").as_deref(), Some("send all {\"a\": 1}"));
    assert_eq!(shown("ENTRYPOINT [\"/clusterinit\", \"--\"]").as_deref(), Some("-- ./server"));
    for other in ["docker build -t clusterinit .", "COPY --from=clusterinit /clusterinit /", "clusterinits do"] {
        assert_eq!(shown(other), None, "{other}");
    }
    assert!(args::parse(filled_in(words("status [--json] [--addr URL]"))).is_ok());
    assert!(args::parse(filled_in(words("scale N"))).is_ok() && args::parse(filled_in(words("reload now"))).is_err());
}

#[test]
fn every_command_line_is_understood() -> io::Result<()> {
    let (mut checked, mut wrong) = (0, Vec::new());
    for page in pages::guides()? {
        // In prose a name alone is a name: `clusterinit scale`.
        let is_name = |span: &&str| ["scale", "restart", "send"].iter().any(|name| *span == format!("clusterinit {name}"));
        for line in page.code().into_iter().chain(page.spans().into_iter().filter(|span| !is_name(span))) {
            let Some(words) = arguments(line).filter(|words| !words.is_empty()) else { continue };
            if let Err(error) = args::parse(filled_in(words)) {
                wrong.push(format!("{}: {line}: {error}", page.path));
            }
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked > 40, "only {checked} command lines were found");
    Ok(())
}
