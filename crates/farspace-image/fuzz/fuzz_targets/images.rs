//! Any bytes as images of CRIU. See `src/criu/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| farspace_image::criu::fuzzing::images(bytes));
