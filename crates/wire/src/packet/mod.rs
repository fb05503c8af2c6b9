//! The packets that end an answer: OK, ERR and EOF.

mod err;
mod ok;
mod track;

pub use err::ErrPacket;
pub use ok::{EOF_LEN, EofPacket, OkPacket};
pub use track::{Change, Changes, TrackSet, put_change};
