//! How the C library's allocator holds on to memory (mallopt(3), malloc_trim(3)).

#![allow(unsafe_code)] // mallopt and malloc_trim

/// Limits the arenas that threads allocate from. Each arena keeps what its threads freed; with one
/// per thread, a daemon's memory is the sum of its threads' worst moments. Call it before threads
/// are started.
pub fn limit_arenas(count: i32) {
    // SAFETY: mallopt takes two integers and touches only the allocator's own settings; a value
    // that it refuses is ignored.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, count);
    }
}

/// Gives memory that is free in the allocator back to the kernel.
pub fn release_free_memory() {
    // SAFETY: malloc_trim takes the allocator's locks itself and may be called by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
