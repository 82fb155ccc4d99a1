//! What the C library's allocator keeps of memory that has been freed.
//!
//! Left alone, glibc raises the size from which it maps memory by itself to that of the largest piece ever
//! freed, and keeps what lies below it for later: after one large piece of work a process stays as large as
//! it was then. These calls are all that the standard library lacks against it; elsewhere than on glibc
//! they do nothing.

#![allow(unsafe_code)] // calls into the C library, without pointers

/// Fixes what the allocator adjusts by itself: pieces from 256 KiB on are mapped each by itself and go back
/// to the system when freed; of smaller ones at most 1 MiB stays free at the end of each arena. For the
/// beginning of a program.
///
/// Source: glibc manual, "Malloc Tunable Parameters".
pub fn keep_little() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two numbers, and is made for being called at any time.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
    }
    map_alone(256 << 10);
}

/// Pieces from `bytes` on are mapped each by itself, and go back to the system when freed: fewer holes between pieces
/// that stay, for a mapping more for each that goes. For the beginning of a program.
///
/// Source: glibc manual, "Malloc Tunable Parameters".
pub fn map_alone(bytes: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: as above.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX));
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = bytes;
}

/// Has all threads share `heaps` of the allocator's heaps, where it would give each a heap of its own, with free
/// pieces of its own. For the beginning of a program, before there are threads, and for programs whose
/// threads do not allocate all the time.
///
/// Source: glibc manual, "Malloc Tunable Parameters".
pub fn share_heaps(heaps: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: as above.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, libc::c_int::try_from(heaps).unwrap_or(libc::c_int::MAX));
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = heaps;
}

/// Gives pages without anything in them back to the system, wherever they are; some milliseconds for
/// hundreds of MiB, during which allocations of other threads may wait. For the end of large pieces of work.
///
/// Source: malloc_trim(3).
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes a number, and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    fn resident_bytes() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[test]
    fn holes_go_back() {
        // Small enough to come from the heap, and every thousandth stays.
        let mut pieces: Vec<Option<Box<[u8; 1000]>>> =
            (0..64_000).map(|_| Some(Box::new([1; 1000]))).collect();
        pieces.iter_mut().enumerate().filter(|(at, _)| at % 1000 != 999).for_each(|(_, piece)| *piece = None);
        let before = resident_bytes();
        give_back();
        let after = resident_bytes();
        assert!(after + (40 << 20) < before, "{before} bytes before, {after} after");
        drop(pieces);
    }
}
