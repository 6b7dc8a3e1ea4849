//! placeholder

pub mod baseline;
pub mod probe;
