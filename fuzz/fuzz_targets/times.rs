#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flamingo_fuzz::times(bytes));
