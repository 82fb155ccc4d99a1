//! Integers of one width, packed without gaps, low bits first.
//!
//! Packing works value by value. Unpacking is the hot half: sixty-four values of width `W` are exactly
//! `W` words, so a function specialised by width has constant shifts only and no bounds checks.

/// Values unpacked at a time.
pub(super) const GROUP: usize = 64;

/// Bytes of `count` values of `width` bits.
pub(super) fn packed_len(count: usize, width: usize) -> usize {
    (count * width).div_ceil(8)
}

/// Appends `values`, the low `width` (0..=64) bits of each.
pub(super) fn pack(values: &[u64], width: usize, out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    let mask = u64::MAX >> (64 - width);
    let (mut word, mut filled) = (0u64, 0usize);
    for &value in values {
        let value = value & mask;
        word |= value << filled;
        filled += width;
        if filled >= 64 {
            out.extend_from_slice(&word.to_le_bytes());
            filled -= 64;
            word = if filled == 0 { 0 } else { value >> (width - filled) };
        }
    }
    out.extend_from_slice(&word.to_le_bytes()[..filled.div_ceil(8)]);
}

/// Unpacks `out.len()` values of `width` (0..=64) bits from `bytes`, which is
/// [`packed_len`] bytes long.
pub(super) fn unpack(bytes: &[u8], width: usize, out: &mut [u64]) {
    debug_assert_eq!(bytes.len(), packed_len(out.len(), width));
    let unpack = UNPACK[width.min(64)];
    let (groups, tail) = out.as_chunks_mut::<GROUP>();
    let (full, rest) = bytes.split_at(groups.len() * width * (GROUP / 8));
    for (group, packed) in groups.iter_mut().zip(full.chunks_exact((width * (GROUP / 8)).max(1))) {
        unpack(packed, group);
    }
    if width == 0 {
        out.fill(0);
        return;
    }
    if !tail.is_empty() {
        let mut padded = [0u8; GROUP * 8];
        padded[..rest.len()].copy_from_slice(rest);
        let mut group = [0u64; GROUP];
        unpack(&padded[..width * (GROUP / 8)], &mut group);
        tail.copy_from_slice(&group[..tail.len()]);
    }
}

/// Unpacks one group of `W`-bit values; `bytes` holds `W` words.
fn unpack_group<const W: usize>(bytes: &[u8], out: &mut [u64; GROUP]) {
    if W == 0 {
        *out = [0; GROUP];
        return;
    }
    let mut words = [0u64; W];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    let mask = u64::MAX >> (64 - W);
    for (i, value) in out.iter_mut().enumerate() {
        let (at, shift) = (i * W / 64, i * W % 64);
        let mut bits = words[at] >> shift;
        if shift + W > 64 {
            bits |= words[at + 1] << (64 - shift);
        }
        *value = bits & mask;
    }
}

type Unpack = fn(&[u8], &mut [u64; GROUP]);

/// [`unpack_group`] by width.
#[rustfmt::skip]
const UNPACK: [Unpack; 65] = [
    unpack_group::<0>, unpack_group::<1>, unpack_group::<2>, unpack_group::<3>, unpack_group::<4>,
    unpack_group::<5>, unpack_group::<6>, unpack_group::<7>, unpack_group::<8>, unpack_group::<9>,
    unpack_group::<10>, unpack_group::<11>, unpack_group::<12>, unpack_group::<13>, unpack_group::<14>,
    unpack_group::<15>, unpack_group::<16>, unpack_group::<17>, unpack_group::<18>, unpack_group::<19>,
    unpack_group::<20>, unpack_group::<21>, unpack_group::<22>, unpack_group::<23>, unpack_group::<24>,
    unpack_group::<25>, unpack_group::<26>, unpack_group::<27>, unpack_group::<28>, unpack_group::<29>,
    unpack_group::<30>, unpack_group::<31>, unpack_group::<32>, unpack_group::<33>, unpack_group::<34>,
    unpack_group::<35>, unpack_group::<36>, unpack_group::<37>, unpack_group::<38>, unpack_group::<39>,
    unpack_group::<40>, unpack_group::<41>, unpack_group::<42>, unpack_group::<43>, unpack_group::<44>,
    unpack_group::<45>, unpack_group::<46>, unpack_group::<47>, unpack_group::<48>, unpack_group::<49>,
    unpack_group::<50>, unpack_group::<51>, unpack_group::<52>, unpack_group::<53>, unpack_group::<54>,
    unpack_group::<55>, unpack_group::<56>, unpack_group::<57>, unpack_group::<58>, unpack_group::<59>,
    unpack_group::<60>, unpack_group::<61>, unpack_group::<62>, unpack_group::<63>, unpack_group::<64>,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_and_length_comes_back() {
        for width in 0..=64usize {
            for count in [0, 1, 7, 63, 64, 65, 127, 128] {
                let mask = if width == 0 { 0 } else { u64::MAX >> (64 - width) };
                let values: Vec<u64> = (0..count as u64)
                    .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(i as u32) & mask)
                    .collect();
                let mut bytes = Vec::new();
                pack(&values, width, &mut bytes);
                assert_eq!(bytes.len(), packed_len(count, width));
                let mut back = vec![1; count];
                unpack(&bytes, width, &mut back);
                assert_eq!(back, values, "width {width}, count {count}");
            }
        }
    }
}
