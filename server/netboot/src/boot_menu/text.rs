//! Text on a machine's screen, and kernel arguments: nothing in them is ever taken for a command.

/// Characters of a line: a screen has 80 columns.
pub const LINE_WIDTH: usize = 76;
/// Lines of text at most, so that they all stay on the screen.
const LINES_MAX: usize = 15;
/// Bytes of kernel arguments at most: the x86 kernel takes 2047 (`COMMAND_LINE_SIZE`), and
/// loaders add `BOOT_IMAGE`, `initrd` and `BOOTIF`.
const ARGUMENTS_MAX: usize = 1700;

/// Wrapped, and of characters that PXELINUX, GRUB (in single quotes) and iPXE all print as they
/// are: their quotes, variables and operators are replaced.
pub fn lines(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for (at, paragraph) in text.lines().enumerate() {
        if at > 0 {
            lines.push(String::new());
        }
        for word in paragraph.split_whitespace() {
            let mut word: String = word.chars().map(shown).collect();
            word.truncate(LINE_WIDTH);
            match lines.last_mut() {
                Some(line) if line.is_empty() => *line = word,
                Some(line) if line.len() + 1 + word.len() <= LINE_WIDTH => {
                    line.push(' ');
                    line.push_str(&word);
                }
                _ => lines.push(word),
            }
        }
    }
    lines.truncate(LINES_MAX);
    lines
}

fn shown(c: char) -> char {
    match c {
        '\'' | '"' => '`',
        c if c.is_ascii_alphanumeric() || ".,:()/@%+=_-!?*`[]<>".contains(c) => c,
        _ => '?',
    }
}

/// What is wrong with kernel arguments, if anything: all boot loaders must hand them to the kernel as
/// they are, so what is a quote, a variable, an operator or a line break to one of them is refused.
///
/// # Errors
/// A reason that completes "the kernel arguments ...".
pub fn check_arguments(arguments: &str) -> Result<(), String> {
    if arguments.len() > ARGUMENTS_MAX {
        return Err(format!(
            "are {} bytes long, and {ARGUMENTS_MAX} is the most",
            arguments.len()
        ));
    }
    let passed = |c: &char| c.is_ascii_alphanumeric() || " .,:()/@%+=_-!?*[]^~".contains(*c);
    match arguments.chars().find(|c| !passed(c)) {
        None => Ok(()),
        Some(c) => Err(format!(
            "contain the character {}, which boot loaders do not all pass on",
            c.escape_default()
        )),
    }
}
