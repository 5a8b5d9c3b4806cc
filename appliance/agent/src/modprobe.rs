//! The kernel's own requests for modules: it runs `/sbin/modprobe -q -- NAME`, which in the image
//! is this program.

use crate::modules::Loader;

/// Loads what the kernel asks for. True if it worked.
pub fn run(arguments: impl Iterator<Item = String>) -> bool {
    let Ok(mut loader) = Loader::of_running_kernel() else {
        return false;
    };
    names(arguments)
        .iter()
        .all(|name| loader.load(name).is_ok())
}

/// The names among the arguments: what does not start with a dash.
fn names(arguments: impl Iterator<Item = String>) -> Vec<String> {
    arguments.filter(|a| !a.starts_with('-')).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_told_from_options() {
        let words = ["-q", "--", "crypto-crc32c"].map(str::to_owned);
        assert_eq!(super::names(words.into_iter()), ["crypto-crc32c"]);
    }
}
