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
    use crate::linear;

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

    #[test]
    fn what_small_files_and_small_values_of_the_store_say_is_read_in_time_that_grows_with_their_length() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = |n: usize| format!("- {{name: n{n}, access: read, hash: 'sha256:{}'}}\n", "0".repeat(64));
        let tokens = |count: usize| "tokens:\n".to_string() + &(0..count).map(token).collect::<String>();
        linear::assert_linear("tokens", 300, tokens, |text| {
            std::fs::write(file.path(), text).unwrap();
            assert!(crate::access::Access::read(Some(file.path())).is_ok());
        });
        let settings = |bytes: usize| "# a\n".repeat(bytes / 4) + "role: '" + &"r".repeat(bytes) + "'\n";
        linear::assert_linear("settings", 10_000, settings, |text| {
            std::fs::write(file.path(), text).unwrap();
            assert!(crate::settings::read_file(file.path()).is_ok());
        });
        let secret = |bytes: usize| "a\n".repeat(bytes / 2);
        linear::assert_linear("a secret", 20_000, secret, |text| {
            assert!(crate::passwords::Secret::parse(text.as_bytes(), 1).is_err());
        });
        let change = r#"{"at": "2026-01-01T00:00:00Z", "by": "\u001b", "what": "x"},"#;
        let request = |bytes: usize| {
            let changes = change.repeat(bytes / change.len());
            format!(r#"{{"at": "2026-01-01T00:00:00Z", "changes": [{}]}}"#, changes.trim_end_matches(','))
        };
        linear::assert_linear("a request", 6000, request, |text| {
            assert!(crate::model::Request::read(text.as_bytes()).is_ok_and(|request| request.changes.len() <= 50));
        });
    }
}
