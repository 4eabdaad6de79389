#![no_main]

use libfuzzer_sys::fuzz_target;

// The loader turns panics of the tensor library into errors, but libFuzzer's panic hook would end the process
// first. An uncaught panic still ends it.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| ())), |bytes: &[u8]| flamingo_fuzz::weights(bytes));
