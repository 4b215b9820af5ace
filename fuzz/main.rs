//! The fuzz targets under libFuzzer: `FUZZ_TARGET=name fuzz [libFuzzer's options] [corpus]`.

#![no_main]

#[path = "targets/mod.rs"]
mod targets;

use libfuzzer_sys::fuzz_target;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;

/// Far more than an input of some kilobytes needs, and far less than a count that is believed unchecked asks for.
const ALLOCATION_BYTES_MAX: usize = 1 << 22;

/// The system's allocator, which ends the process where a payload makes its reader ask for too much at once. The limit
/// on resident memory does not see that: what is reserved and not touched is not resident.
struct Bounded;

unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > ALLOCATION_BYTES_MAX {
            eprintln!("an allocation of {} bytes", layout.size());
            std::process::abort();
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

fuzz_target!(|data: &[u8]| {
    static TARGET: OnceLock<targets::Target> = OnceLock::new();
    TARGET.get_or_init(|| targets::named(&std::env::var("FUZZ_TARGET").unwrap_or_default()))(data);
});
