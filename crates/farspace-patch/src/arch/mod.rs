//! What depends on the guest's instruction set. Nothing here depends on the host's.

pub mod x86_64;
