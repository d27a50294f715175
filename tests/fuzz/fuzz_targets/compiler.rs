//! Bytes as a series of changes to a small world.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringfence_sim::fuzz::compiler(bytes));
