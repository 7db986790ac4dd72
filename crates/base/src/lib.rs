//! What every part of pxfs speaks of: small values, time as an argument, files that are whole or not there, and
//! text that others have written. It depends on no other part.

pub mod clock;
pub mod durable;
pub mod text;
pub mod types;
