//! Prepared statements: the COM_STMT_PREPARE_OK packet, the parameters of COM_STMT_EXECUTE, query attributes.

mod bind;
mod execute;
mod param;
mod prepare;

pub use bind::{Attributes, BindBlock, Bound, Params};
pub use execute::{Execute, LongData, PARAMETER_COUNT_AVAILABLE, write_execute};
pub use param::{Param, ParamType};
pub use prepare::PrepareOk;
