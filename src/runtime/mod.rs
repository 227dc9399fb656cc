//! What meets the world at run time: for now the clock.

pub mod clock;
