//! `clusterinit reload | stop | scale N | restart SLOT`: asks over the control socket and repeats the answer.

use super::{DONE, NO, complain, say};
use crate::cluster::event::Request;
use crate::cluster::words::Signal;
use crate::control;
use crate::sys::init;

pub fn run(request: Request) -> u8 {
    if matches!(request, Request::Stop { .. }) {
        // A stop asks everybody in the container to go, and so us; the answer is on its way.
        init::ignore(Signal::TERM);
        init::ignore(Signal::HUP);
    }
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
