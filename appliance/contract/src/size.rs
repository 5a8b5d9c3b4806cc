//! Sizes, for people.

use std::fmt;

/// So many bytes, in powers of 1024 as LVM, Xen and QEMU have them: `512 B`, `68.37 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.into_iter().find(|(power, _)| self.0 >> power > 0) {
            Some((power, unit)) => {
                write!(f, "{:.2} {unit}", self.0 as f64 / (1_u64 << power) as f64)
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_the_largest_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1 << 20, "1.00 MiB"),
            (143_374_744 * 512, "68.37 GiB"),
            (1 << 41, "2.00 TiB"),
            (u64::MAX, "16777216.00 TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
