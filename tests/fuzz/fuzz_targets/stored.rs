#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ilink2mqtt_fuzz::stored::run(data));
