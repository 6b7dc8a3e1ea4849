//! The farspace command.
fn main() {}
