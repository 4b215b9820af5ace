//! The server's allocator for all of the module's memory, so that `INFO memory`, `maxmemory` and
//! eviction see what the module uses.
//!
//! The crate's allocator is not used: it has no `realloc` or `calloc` and copies instead.
//! Where no server is there (tests and benches of the engine), the system's allocator serves.

use redis_module::raw;
use std::alloc::{GlobalAlloc, Layout, System};

struct ServerAllocator;

#[global_allocator]
static ALLOCATOR: ServerAllocator = ServerAllocator;

/// The server's malloc aligns to this; nothing in the module asks for more.
const ALIGNMENT_MAX: usize = 16;

/// A size that makes the server's allocator align as `layout` asks.
fn padded(layout: Layout) -> usize {
    layout.size().next_multiple_of(layout.align().min(ALIGNMENT_MAX)).max(1)
}

// SAFETY: each method hands the request to one allocator, chosen by a pointer that is set once,
// before the module allocates at all: a block is freed by the allocator that it came from.
unsafe impl GlobalAlloc for ServerAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the pointer is null or the server's; the layout is the caller's promise.
        match unsafe { raw::RedisModule_Alloc } {
            // SAFETY: any size is allowed.
            Some(alloc) => unsafe { alloc(padded(layout)) }.cast(),
            // SAFETY: the caller's promise, passed on.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the pointer is null or the server's; the layout is the caller's promise.
        match unsafe { raw::RedisModule_Calloc } {
            // SAFETY: any size is allowed.
            Some(calloc) => unsafe { calloc(1, padded(layout)) }.cast(),
            // SAFETY: the caller's promise, passed on.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the pointer is null or the server's; block and layout are the caller's promise.
        match unsafe { raw::RedisModule_Realloc } {
            // SAFETY: the block came from the same allocator.
            Some(realloc) => unsafe { realloc(block.cast(), size.max(1)) }.cast(),
            // SAFETY: the caller's promise, passed on.
            None => unsafe { System.realloc(block, layout, size) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the pointer is null or the server's; block and layout are the caller's promise.
        match unsafe { raw::RedisModule_Free } {
            // SAFETY: the block came from the same allocator.
            Some(free) => unsafe { free(block.cast()) },
            // SAFETY: the caller's promise, passed on.
            None => unsafe { System.dealloc(block, layout) },
        }
    }
}
