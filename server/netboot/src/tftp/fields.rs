//! The texts of a request.

/// Those that are left, each up to its NUL.
pub(super) struct Fields<'d>(pub &'d [u8]);

impl<'d> Iterator for Fields<'d> {
    type Item = &'d [u8];

    fn next(&mut self) -> Option<&'d [u8]> {
        let end = self.0.iter().position(|&byte| byte == 0)?;
        let (field, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Some(field)
    }
}
