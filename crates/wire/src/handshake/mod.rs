//! The packets of the connection phase, for both sides.

mod change_user;
mod greeting;
mod response;
mod switch;

pub use change_user::ChangeUser;
pub use greeting::{Greeting, SALT_LEN, Salt};
pub use response::{ClientHello, ConnectAttributes, HandshakeResponse, SslRequest};
pub use switch::{AuthMoreData, AuthSwitch};
