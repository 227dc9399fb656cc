//! Each setting that the pages show is a variable of ours, with a value that it takes.

use std::io;

use clusterinit::cluster::words::Signal;
use clusterinit::config::{Config, PREFIX, VARIABLES};

use super::pages;

/// What workers find, and nobody sets.
const FOR_WORKERS: [&str; 3] = ["WORKER_ID", "WORKER_COUNT", "GENERATION"];

/// Names of others that pages write as settings; what ends in `_` stands for all that begin so. Whoever adds one has made sure that it is not a variable of ours, misspelt.
const FOREIGN: [&str; 22] = [
    "WEB_CONCURRENCY",
    "NODE_",
    "JAVA_",
    "GOMEMLIMIT",
    "GOMAXPROCS",
    "OMP_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
    "DOTNET_",
    "PYTHONUNBUFFERED",
    "PYTHONDONTWRITEBYTECODE",
    "READY",
    "STOPPING",
    "RELOADING",
    "STATUS",
    "WATCHDOG",
    "WATCHDOG_USEC",
    "PORT",
    "MODE",
    "PM2_",
    "LEAK_KIB",
    "KUBERNETES_",
];

fn is_known(name: &str) -> bool {
    VARIABLES.iter().any(|variable| variable.name == name)
}

/// The letters of a name that a text begins with, and the rest.
fn name(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|letter: char| !(letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_'))
            .unwrap_or(text.len()),
    )
}

/// `NAME=value` words of a piece of code.
fn assignments(code: &str) -> impl Iterator<Item = (&str, &str)> {
    code.split_whitespace().filter_map(|word| {
        let (name, rest) = name(word.strip_prefix(PREFIX).unwrap_or(word));
        Some((name, rest.strip_prefix('=')?.trim_matches(['"', '\'', ',', ')', '}']))).filter(|(name, _)| !name.is_empty())
    })
}

fn taken(name: &str, value: &str) -> Result<(), String> {
    let variable = (format!("{PREFIX}{name}").into(), value.into());
    Config::from_env([variable]).map(drop).map_err(|mistakes| mistakes.to_string())
}

/// What no parser can judge: a placeholder, or a name of this machine's users.
fn is_open(name: &str, value: &str) -> bool {
    value.is_empty()
        || value == "N"
        || value.contains("...")
        || name == "USER" && !value.starts_with(|first: char| first.is_ascii_digit())
}

#[test]
fn every_variable_that_a_page_names_exists() -> io::Result<()> {
    for page in pages::all()? {
        for rest in page.text.split(PREFIX).skip(1) {
            let (name, _) = name(rest);
            let exists = name.is_empty() || is_known(name) || FOR_WORKERS.contains(&name);
            assert!(exists, "{}: there is no {PREFIX}{name}", page.path);
        }
    }
    Ok(())
}

#[test]
fn every_setting_that_a_page_shows_is_taken() -> io::Result<()> {
    let (mut checked, mut wrong) = (0, Vec::new());
    for page in pages::guides()? {
        for (name, value) in page.code().into_iter().chain(page.spans()).flat_map(assignments) {
            let is_others = |other: &&str| name == *other || other.ends_with('_') && name.starts_with(other);
            let is_foreign = FOREIGN.iter().any(is_others) && !(is_known(name) && (name, value) != ("READY", "1"));
            // `HUP=reload` is an example of a value.
            if is_foreign || is_open(name, value) || Signal::parse(name).is_some() {
                continue;
            }
            if let Err(mistakes) = taken(name, value) {
                wrong.push(format!("{}: {mistakes}", page.path));
            }
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}; a name of others belongs into FOREIGN");
    assert!(checked > 60, "only {checked} settings were found");
    Ok(())
}

/// `{name: CLUSTERINIT_GRACE, value: 130s}`
#[test]
fn every_setting_of_a_manifest_in_a_page_is_taken() -> io::Result<()> {
    let mut checked = 0;
    for page in pages::guides()? {
        for line in page.code() {
            let Some((_, rest)) = line.split_once(&format!("name: {PREFIX}")) else { continue };
            let (name, rest) = name(rest);
            let Some((_, value)) = rest.split_once("value: ") else { continue };
            let value = value.trim_matches(['}', '"']);
            assert_eq!(taken(name, value), Ok(()), "{}: {line}", page.path);
            checked += 1;
        }
    }
    assert!(checked >= 3, "only {checked} were found");
    Ok(())
}
