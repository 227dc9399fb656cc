//! `clusterinit reload | stop | scale N | restart SLOT`: asks over the control socket and repeats the answer.

use super::{DONE, NO, complain, say};
use crate::cluster::event::Request;
use crate::control;

pub fn run(request: Request) -> u8 {
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
