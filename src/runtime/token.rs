//! What a readable descriptor stands for, as one number for the poller.

use crate::cluster::words::Life;
use crate::share::sockets::LaneId;

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
        };
        number << 3 | kind
    }

    pub(super) fn of(number: u64) -> Self {
        let (id, kind) = (number >> 3, number & 7);
        match kind {
            0 => Self::Messages(Life(id)),
            1 => Self::Outcome(Life(id)),
            2 => Self::Calls(Life(id)),
            3 => Self::Lane(LaneId(id)),
            5 => Self::Channel(Life(id)),
            6 => Self::Turns(usize::try_from(id).unwrap_or(usize::MAX)),
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
            let turns = Token::Turns(usize::try_from(id).expect("64 bits"));
            for token in [
                Token::Messages(life),
                Token::Outcome(life),
                Token::Calls(life),
                Token::Lane(LaneId(id)),
                Token::Channel(life),
                turns,
            ] {
                assert_eq!(Token::of(token.number()), token);
            }
        }
    }
}
