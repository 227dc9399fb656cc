//! `clusterinit reload | stop | scale N | restart SLOT | send all|SLOT JSON`: asks over the control socket and repeats the answer.

use super::{DONE, NO, complain, say};
use crate::cluster::event::Request;
use crate::cluster::words::Signal;
use crate::control::{self, Demand};
use crate::sys::init;

pub fn run(demand: &Demand) -> u8 {
    if matches!(demand, Demand::Cluster(Request::Stop { .. })) {
        // A stop asks everybody in the container to go, and so us; the answer is on its way.
        init::ignore(Signal::TERM);
        init::ignore(Signal::HUP);
    }
    match control::ask(demand) {
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
