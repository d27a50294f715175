//! How memory is taken from the system, and given back.

/// Has all threads share one arena of the C library's allocator. Work in network namespaces comes and goes with threads of
/// its own, and what an arena has once grown to for one of them is never given back. To be called before any thread is started.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn share_one_arena() {
    // SAFETY: two numbers go in, and nothing that lives anywhere is changed but a setting of the allocator, under its own lock.
    // Refused, it leaves things as they are.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives back what is not needed any more: by itself the allocator keeps whatever lies below something that is. It walks
/// the heap, and is for when nothing else is waiting.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn give_back() {
    // SAFETY: a number goes in, and free memory out, under the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries have one arena.
#[cfg(not(target_env = "gnu"))]
pub fn share_one_arena() {}

/// Other C libraries give back by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
