//! What a machine shall do when it boots from the network.

use crate::image::Image;

/// What a machine shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootDecision {
    /// Start the netboot image.
    Agent {
        /// Kernel arguments, after the consoles' and `BOOTIF`: one line of printable ASCII.
        append: String,
        /// Which kernel and initial RAM disk. One that is named and not there is replaced by the usual
        /// one, with a word about it.
        image: Image,
    },
    /// Go on with its own disk.
    LocalDisk {
        /// Shown on its screen.
        why: String,
    },
    /// Stay where it is, without touching its disk, until a key is pressed there or
    /// it is restarted. For machines whose server already runs elsewhere.
    Hold {
        /// Shown on its screen.
        message: String,
    },
    /// Not ours: it gets no DHCP answer. Should it still ask for a menu (another DHCP server sent
    /// it here), its menu says to boot its own disk.
    Ignore {
        /// For the log, and the screen in that case.
        why: String,
    },
}
