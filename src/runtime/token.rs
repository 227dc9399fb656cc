//! What a readable descriptor stands for, as one number for the poller.

use crate::cluster::words::Life;
use crate::share::sockets::LaneId;

use super::output::Stream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// What a worker says on its `NOTIFY_SOCKET`.
    Messages(Life),
    /// How a worker's start went.
    Outcome(Life),
    /// Calls of a worker's tree that wait for our answer.
    Calls(Life),
    /// An accept queue.
    Lane(LaneId),
    /// A deadline has come.
    Deadline,
    /// What a worker says on its channel.
    Channel(Life),
    /// A listener of ours, in round robin.
    Turns(usize),
    /// What a worker writes.
    Output(Life, Stream),
    /// Our stdout or stderr takes bytes again.
    Outlet(usize),
}

impl Token {
    pub(super) fn number(self) -> u64 {
        let (number, kind) = match self {
            Self::Messages(life) => (life.0, 0),
            Self::Outcome(life) => (life.0, 1),
            Self::Calls(life) => (life.0, 2),
            Self::Lane(lane) => (lane.0, 3),
            Self::Deadline => (0, 4),
            Self::Channel(life) => (life.0, 5),
            Self::Turns(number) => (number as u64, 6),
            Self::Output(life, Stream::Out) => (life.0, 7),
            Self::Output(life, Stream::Err) => (life.0, 8),
            Self::Outlet(number) => (number as u64, 9),
        };
        number << 4 | kind
    }

    pub(super) fn of(number: u64) -> Self {
        let (id, kind) = (number >> 4, number & 15);
        match kind {
            0 => Self::Messages(Life(id)),
            1 => Self::Outcome(Life(id)),
            2 => Self::Calls(Life(id)),
            3 => Self::Lane(LaneId(id)),
            5 => Self::Channel(Life(id)),
            6 => Self::Turns(usize::try_from(id).unwrap_or(usize::MAX)),
            7 => Self::Output(Life(id), Stream::Out),
            8 => Self::Output(Life(id), Stream::Err),
            9 => Self::Outlet(usize::try_from(id).unwrap_or(usize::MAX)),
            _ => Self::Deadline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_poller() {
        assert_eq!(Token::of(Token::Deadline.number()), Token::Deadline);
        for id in [0, 1, 77, u64::from(u32::MAX)] {
            let life = Life(id);
            let number = usize::try_from(id).expect("64 bits");
            for token in [
                Token::Messages(life),
                Token::Outcome(life),
                Token::Calls(life),
                Token::Lane(LaneId(id)),
                Token::Channel(life),
                Token::Turns(number),
                Token::Output(life, Stream::Out),
                Token::Output(life, Stream::Err),
                Token::Outlet(number),
            ] {
                assert_eq!(Token::of(token.number()), token);
            }
        }
    }
}
