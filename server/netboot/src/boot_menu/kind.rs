//! What a menu tells a machine to do.

use std::fmt;

use crate::image::Image;

/// What a machine was told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MenuKind {
    /// Start the agent.
    Agent {
        /// From this image.
        image: Image,
    },
    /// Go on with its own disk.
    LocalDisk,
    /// Wait.
    Hold,
}

impl fmt::Display for MenuKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MenuKind::Agent {
                image: Image::Usual,
            } => f.write_str("start the agent"),
            MenuKind::Agent {
                image: Image::Named(name),
            } => write!(f, "start the agent (image {name})"),
            MenuKind::Agent {
                image: Image::UsualFor(name),
            } => write!(
                f,
                "start the agent (the usual image: {name} cannot be used)"
            ),
            MenuKind::LocalDisk => f.write_str("boot its own disk"),
            MenuKind::Hold => f.write_str("wait"),
        }
    }
}
