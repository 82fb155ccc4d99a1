//! Bodies: read as they arrive, unpacked on the way, never beyond the limit.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;
use http::{Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use zstd::stream::write::Decoder as ZstdDecoder;

use super::FetchError;

/// The largest window of a zstd body, as a power of two: 8 MiB.
///
/// Source: RFC 9659.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Reads the body of `response` into `body` (emptied first), at most `limit` bytes unpacked. Gives how many
/// bytes came, packed as they were.
pub(super) async fn read(
    response: Response<Incoming>,
    limit: u64,
    body: &mut Vec<u8>,
) -> Result<usize, FetchError> {
    body.clear();
    let encoding = response.headers().get(header::CONTENT_ENCODING).cloned();
    let mut incoming = Counted { body: response.into_body(), bytes: 0 };
    let mut bounded = Bounded { body, limit, passed: false };
    match encoding.as_ref().map(|value| value.as_bytes()) {
        None | Some(b"" | b"identity") => {
            while let Some(data) = incoming.next().await? {
                if bounded.write_all(&data).is_err() {
                    return Err(FetchError::BodySize);
                }
            }
        }
        Some(encoding) if encoding.eq_ignore_ascii_case(b"gzip") => {
            let mut unpack = MultiGzDecoder::new(bounded);
            while let Some(data) = incoming.next().await? {
                unpack.write_all(&data).map_err(|e| failed(&unpack, &e))?;
            }
            unpack.try_finish().map_err(|e| failed(&unpack, &e))?;
        }
        Some(encoding) if encoding.eq_ignore_ascii_case(b"zstd") => {
            let unpack = ZstdDecoder::new(bounded).and_then(|mut unpack| {
                unpack.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Ok(unpack)
            });
            let mut unpack = unpack.map_err(|e| FetchError::Encoding(format!("zstd: {e}")))?;
            while let Some(data) = incoming.next().await? {
                unpack.write_all(&data).map_err(|e| zstd_failed(unpack.get_ref(), &e))?;
            }
            unpack.flush().map_err(|e| zstd_failed(unpack.get_ref(), &e))?;
            // What is left to find out is whether the last frame is whole.
            unpack.finish().map_err(|e| FetchError::Encoding(format!("zstd: {e}")))?;
        }
        Some(other) => {
            let name = String::from_utf8_lossy(other).into_owned();
            return Err(FetchError::Encoding(format!("content encoding {name:?} was not asked for")));
        }
    }
    Ok(incoming.bytes)
}

fn failed(unpack: &MultiGzDecoder<Bounded<'_>>, error: &io::Error) -> FetchError {
    if unpack.get_ref().passed {
        FetchError::BodySize
    } else {
        FetchError::Encoding(format!("gzip: {error}"))
    }
}

fn zstd_failed(bounded: &Bounded<'_>, error: &io::Error) -> FetchError {
    if bounded.passed { FetchError::BodySize } else { FetchError::Encoding(format!("zstd: {error}")) }
}

/// A body as it comes.
struct Counted {
    body: Incoming,
    bytes: usize,
}

impl Counted {
    async fn next(&mut self) -> Result<Option<bytes::Bytes>, FetchError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(FetchError::transfer(e)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.bytes += data.len();
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// A buffer that refuses to grow beyond its limit.
struct Bounded<'a> {
    body: &'a mut Vec<u8>,
    limit: u64,
    passed: bool,
}

impl Write for Bounded<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.body.len() as u64 + data.len() as u64 > self.limit {
            self.passed = true;
            return Err(io::Error::other("body size limit exceeded"));
        }
        self.body.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
