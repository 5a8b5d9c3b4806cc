//! Matching a device's modalias against the patterns of `modules.alias`: the shell patterns of
//! fnmatch(3) without flags (`*`, `?`, `[...]`), which is what modpost writes and kmod uses.

use std::ffi::CString;

/// Whether `text` matches `pattern`.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (Ok(pattern), Ok(text)) = (CString::new(pattern), CString::new(text)) else {
        return false;
    };
    // SAFETY: both end with NUL, and are only read.
    unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), 0) == 0 }
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
}
