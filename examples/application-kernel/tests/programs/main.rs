//! Programs in the application kernel.

mod busybox;
mod kernel;
mod places;
