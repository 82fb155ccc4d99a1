//! Mutations for when no fuzzer is at hand: small, seeded, the same every time.

/// A stream of mutations.
#[derive(Debug, Clone)]
pub struct Chaos(u64);

/// Bytes that mean something to many parsers.
const TELLING: &[u8] = b"\0\x01\x7f\x80\xff\n\r\t \"'`\\{}()[],:;=~!#%<>+-.0129eEinfNa_|*?^$";

impl Chaos {
    /// A stream; equal seeds give equal streams.
    pub fn new(seed: u64) -> Chaos {
        Chaos(seed | 1)
    }

    /// A number below `bound`, which is not 0. Source: xorshift64*, Vigna 2016.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    /// Changes `bytes` in one to four places: flips, cuts, doublings, telling bytes, huge lengths.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(8) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = TELLING[self.below(TELLING.len())],
                2 => bytes.insert(at, TELLING[self.below(TELLING.len())]),
                3 => bytes.truncate(at),
                4 => {
                    let end = (at + 1 + self.below(16)).min(bytes.len());
                    bytes.drain(at.min(end)..end);
                }
                5 => {
                    let end = (at + 1 + self.below(64)).min(bytes.len());
                    let piece = bytes[at.min(end)..end].to_vec();
                    let to = self.below(bytes.len() + 1);
                    bytes.splice(to..to, piece);
                }
                6 => {
                    let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
                    let end = (at + 1).min(bytes.len());
                    bytes.splice(at..end, huge);
                }
                _ if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1),
                _ => bytes.push(0),
            }
        }
    }
}
