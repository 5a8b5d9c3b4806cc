//! Matching a device's modalias against the patterns of `modules.alias`: the shell patterns of
//! fnmatch(3) without flags (`*`, `?`, `[...]`), which is what modpost writes and kmod uses.

/// Whether `text` matches `pattern`.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last `*` does not match: that star, one byte further.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => match class(&pattern[p..], text[t]) {
                Some((true, length)) => Some(length),
                Some((false, _)) => None,
                // Not closed: an ordinary letter.
                None => (text[t] == b'[').then_some(1),
            },
            Some(letter) => (*letter == text[t]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((star_p, star_t))) => {
                p = star_p + 1;
                t = star_t + 1;
                star = Some((star_p, star_t + 1));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// Whether `letter` is in the bracket expression that `pattern` starts with, and its length.
fn class(pattern: &[u8], letter: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    // A `]` right at the start stands for itself.
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|b| *b == b']')?;
    let mut found = false;
    let mut rest = &pattern[first..end];
    while let [low, tail @ ..] = rest {
        if let [b'-', high, tail @ ..] = tail {
            found |= (*low..=*high).contains(&letter);
            rest = tail;
        } else {
            found |= *low == letter;
            rest = tail;
        }
    }
    Some((found != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn what_devices_and_modules_say() {
        let device = "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00";
        assert!(matches("pci:v00008086d0000100Esv*sd*bc*sc*i*", device));
        assert!(!matches("pci:v00008086d0000100Fsv*sd*bc*sc*i*", device));
        assert!(matches("pci:v*d*sv*sd*bc02sc00i*", device));
        assert!(matches("scsi:t-0x00*", "scsi:t-0x00"));
        assert!(matches("dmi*:[bs]vn[Aa]cme?:*", "dmi:x:svnAcme1:y"));
        assert!(!matches("virtio:d00000001v*", "virtio:d00000002v00001AF4"));
        assert!(matches("acpi*:PNP0700:*", "acpi:PNP0700:"));
    }

    #[test]
    fn corners() {
        assert!(matches("", ""));
        assert!(matches("*", ""));
        assert!(matches("**", "abc"));
        assert!(!matches("", "a"));
        assert!(matches("a*b*c", "a-b-b-c"));
        assert!(!matches("a*b*c", "a-b-b"));
        assert!(matches("[!0-9]x", "ax"));
        assert!(!matches("[!0-9]x", "5x"));
        assert!(matches("[]a]", "]"));
        assert!(matches("[ab", "[ab"));
        assert!(matches("[a-]", "-"));
        // A pattern made to be slow is not.
        assert!(!matches(&"*a".repeat(30), &"a".repeat(29)));
    }
}
