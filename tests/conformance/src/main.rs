//! One suite, both backends.
fn main() {}
