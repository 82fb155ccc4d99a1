//! Snappy's block format, with the size checked before memory is taken.

/// A body that is not snappy, or too large when unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnappyError {
    /// It would unpack to more than is allowed.
    #[error("the body unpacks to {size} bytes, more than {max}")]
    TooLarge {
        /// Declared size, bytes.
        size: usize,
        /// Allowed size, bytes.
        max: usize,
    },
    /// It is not snappy's block format.
    #[error("the body is not snappy (block format): {0}")]
    Corrupt(String),
}

/// No snappy element gives more than 64 bytes for its (at least two) bytes.
const RATIO_MAX: usize = 64;

/// Unpacks `body` into `out` (emptied first), when it declares at most `max` bytes.
///
/// # Errors
/// [`SnappyError`]; memory is taken only for a size that `body` can really hold.
pub fn snappy_decode(body: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), SnappyError> {
    out.clear();
    let corrupt = |error: snap::Error| SnappyError::Corrupt(error.to_string());
    let size = snap::raw::decompress_len(body).map_err(corrupt)?;
    if size > max {
        return Err(SnappyError::TooLarge { size, max });
    }
    if size / RATIO_MAX > body.len() {
        return Err(SnappyError::Corrupt(format!("{} bytes cannot hold the declared {size}", body.len())));
    }
    out.resize(size, 0);
    let written = snap::raw::Decoder::new().decompress(body, out).map_err(corrupt)?;
    out.truncate(written);
    Ok(())
}

/// Packs `body`.
///
/// # Errors
/// [`SnappyError::TooLarge`] beyond snappy's own limit of 4 GiB.
pub fn snappy_encode(body: &[u8]) -> Result<Vec<u8>, SnappyError> {
    let too_large = |_| SnappyError::TooLarge { size: body.len(), max: u32::MAX as usize };
    snap::raw::Encoder::new().compress_vec(body).map_err(too_large)
}

/// As [`snappy_encode`], into `out` (emptied first), for callers that pack often.
///
/// # Errors
/// [`SnappyError::TooLarge`] beyond snappy's own limit of 4 GiB.
pub fn snappy_encode_into(body: &[u8], out: &mut Vec<u8>) -> Result<(), SnappyError> {
    out.clear();
    let too_large = |_| SnappyError::TooLarge { size: body.len(), max: u32::MAX as usize };
    let room = snap::raw::max_compress_len(body.len());
    if room == 0 {
        return Err(SnappyError::TooLarge { size: body.len(), max: u32::MAX as usize });
    }
    out.resize(room, 0);
    let written = snap::raw::Encoder::new().compress(body, out).map_err(too_large)?;
    out.truncate(written);
    Ok(())
}
