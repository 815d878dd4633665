//! Small files of settings, tokens and secrets: read as a whole, and never more than they may have. I/O.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// The most bytes of such a file: 4,000 tokens.
pub const BYTES_MAX: usize = 1 << 20;

/// The text of a file, without the byte order mark that some editors put before it.
pub fn read_text(path: &Path) -> Result<String> {
    read_all(std::fs::File::open(path)?)
}

/// The same of what is open already.
pub fn read_all(file: impl std::io::Read) -> Result<String> {
    let mut bytes = Vec::new();
    file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() <= BYTES_MAX, "it has more than {BYTES_MAX} bytes, which are allowed");
    let text = String::from_utf8(bytes).context("it is not UTF-8")?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_string(),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_without_its_mark_and_not_beyond_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let read = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            read_text(&file)
        };
        assert_eq!(read(b"\xef\xbb\xbflisten: x\r\n").unwrap(), "listen: x\r\n");
        assert_eq!(read(b"").unwrap(), "");
        assert!(read(&vec![b' '; BYTES_MAX]).is_ok());
        assert!(read(&vec![b' '; BYTES_MAX + 1]).unwrap_err().to_string().contains("more than 1048576 bytes"));
        assert!(read(b"\xff\xfe").unwrap_err().to_string().contains("UTF-8"));
        assert!(read_text(Path::new("/dev/zero")).is_err());
    }
}
