//! Bytes as the files of a commit.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringfence_sim::fuzz::policy(bytes));
