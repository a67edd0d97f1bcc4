//! Counting the bits of a bitmap with the processor's own instruction, where it has one.

use std::sync::OnceLock;

type Count = fn(&[u64]) -> u32;

/// Bits that are set. At most 2^32 - 1 of them.
pub fn count_ones(words: &[u64]) -> u32 {
    static COUNT: OnceLock<Count> = OnceLock::new();
    COUNT.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("popcnt") {
            // SAFETY: the feature was just detected.
            return |words| unsafe { popcnt(words) };
        }
        portable
    })(words)
}

#[inline(always)]
fn portable(words: &[u64]) -> u32 {
    words.iter().map(|word| word.count_ones()).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "popcnt")]
fn popcnt(words: &[u64]) -> u32 {
    portable(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bodies_count_alike() {
        for len in 0..70u64 {
            let words: Vec<u64> = (0..len).map(|i| i.wrapping_mul(!0 / 77 + len)).collect();
            assert_eq!(count_ones(&words), portable(&words));
        }
        assert_eq!(count_ones(&[u64::MAX; 1024]), 65_536);
    }
}
