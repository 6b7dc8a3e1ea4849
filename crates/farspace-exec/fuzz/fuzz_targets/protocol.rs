//! What a hostile stub writes into its area while the engine reads. See `src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| farspace_exec::fuzzing::protocol(script));
