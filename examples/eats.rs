//! A program that takes memory when it is told to: `eats [WORD...]` waits, and begins at USR1.
//!
//! | word | what it does |
//! |---|---|
//! | `holds=MIB` | has so much from its start |
//! | `shares=COUNT` | so many children that share with it what it holds, and only wait |
//! | `slot=N` | USR1 is for the worker in this slot alone |
//! | `takes=MIB` | takes so much and then waits; without it: without end |
//! | `rate=MIB` | so much per second; without it: as fast as it can |
//! | `by=child` | a child does it, not the program itself |
//! | `by=tree` | thirteen processes do, three of them in sessions of their own |
//!
//! It tells `ready` once, and `took N` after each MiB.
//!
//! Shows: what becomes of a worker that allocates, of its tree, and of the others.
#![expect(clippy::disallowed_methods, reason = "an example is a program of its own: it reads its environment and may sleep")]
#![expect(clippy::print_stdout, reason = "its output is what tests wait for")]
#![expect(unsafe_code, reason = "fork(2)")]

use std::env;
use std::error::Error;
use std::thread;
use std::time::Duration;

use nix::unistd::{ForkResult, fork, pause, setsid};
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

const MIB: usize = 1 << 20;
/// Children of each process of a tree.
const TWIGS: u32 = 3;

#[derive(Default)]
struct Task {
    holds: usize,
    shares: u32,
    slot: Option<String>,
    takes: Option<u32>,
    rate: Option<u32>,
    by: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let task = Task::read(env::args().skip(1))?;
    let mut signals = Signals::new([SIGUSR1])?;
    // Not zeroes: zeroed memory is not resident before it is written to.
    let held = vec![1_u8; task.holds * MIB];
    for _ in 0..task.shares {
        if in_child()? {
            wait_for_ever();
        }
    }
    println!("ready");
    let mine = task.slot.is_none() || task.slot == env::var("CLUSTERINIT_WORKER_ID").ok();
    for _ in signals.forever() {
        if mine {
            task.begin()?;
        }
    }
    drop(held);
    Ok(())
}

impl Task {
    fn read(words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut task = Self::default();
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((&word, ""));
            match name {
                "holds" => task.holds = value.parse()?,
                "shares" => task.shares = value.parse()?,
                "slot" => task.slot = Some(value.to_owned()),
                "takes" => task.takes = Some(value.parse()?),
                "rate" => task.rate = Some(value.parse()?),
                "by" => value.clone_into(&mut task.by),
                _ => return Err(format!("what is {word}?").into()),
            }
        }
        Ok(task)
    }

    fn begin(&self) -> nix::Result<()> {
        match self.by.as_str() {
            "child" => {
                if in_child()? {
                    self.take();
                }
            }
            "tree" => {
                for _ in 0..TWIGS {
                    if in_child()? {
                        self.grow()?;
                    }
                }
                self.take();
            }
            _ => self.take(),
        }
        Ok(())
    }

    /// In each child of a tree: more of them, one in a session of its own.
    fn grow(&self) -> nix::Result<()> {
        for twig in 0..TWIGS {
            if in_child()? {
                if twig == 0 {
                    setsid()?;
                }
                self.take();
            }
        }
        self.take()
    }

    /// Never comes back: what was taken is kept.
    fn take(&self) -> ! {
        let pause = self.rate.map(|rate| Duration::from_secs(1) / rate.max(1));
        let mut taken = Vec::new();
        for count in 1..=self.takes.unwrap_or(u32::MAX) {
            taken.push(vec![1_u8; MIB]);
            println!("took {count}");
            if let Some(pause) = pause {
                thread::sleep(pause);
            }
        }
        wait_for_ever()
    }
}

fn wait_for_ever() -> ! {
    loop {
        pause();
    }
}

fn in_child() -> nix::Result<bool> {
    // SAFETY: this program has one thread.
    Ok(matches!(unsafe { fork() }?, ForkResult::Child))
}
