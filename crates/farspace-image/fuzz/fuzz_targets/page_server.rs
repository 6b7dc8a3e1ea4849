//! What a hostile client sends to the page server: every message is understood in one way, or refused.
#![no_main]

use farspace_image::page_server::{ADDRESS_END, MESSAGE_LEN, Request};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for message in bytes.as_chunks::<MESSAGE_LEN>().0 {
        let Ok(request) = Request::decode(message) else { continue };
        if let Request::Add(_, run) = request {
            assert!(run.nr_pages > 0 && run.address + run.len_bytes() <= ADDRESS_END);
        }
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
});
