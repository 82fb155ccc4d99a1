//! Whether bytes are what was written. A fuzzer's build (`--cfg fuzzing`) takes them for intact, or
//! no mutation would reach the decoders behind the checks.

/// Whether `crc` is the CRC-32C of `bytes`.
pub(crate) fn is_intact(bytes: &[u8], crc: u32) -> bool {
    agree(crc, crc32c::crc32c(bytes))
}

/// Whether the stored and the computed checksum are the same.
pub(crate) fn agree(stored: u32, computed: u32) -> bool {
    cfg!(fuzzing) || stored == computed
}
