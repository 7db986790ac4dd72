//! The configured storage nodes: the first is written to, and all are read from.
//!
//! [`open`] builds them, [`look`] asks one what it is, and [`Meter`] meters the first one.

mod build;
mod check;
mod faults;
mod metered;
mod parts;

pub use build::real;
pub(crate) use build::{documents, gateways, none, open};
pub(crate) use check::look_over;
pub use check::{Gives, is_open, look, look_at_gateway};
pub use metered::Meter;
pub use parts::{MoreNode, NodeParts};
