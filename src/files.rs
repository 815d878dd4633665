//! Files of settings that may change while we run, and files that nobody else shall read. I/O.
//!
//! Whatever is read again is read here: what it says decides, not its time or its length. It is read by a
//! task of its own, never by a request; a file that is broken or gone leaves what was known in force, and
//! that is said once.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::offload::elsewhere;

/// Between two looks: a token that is taken out of its file opens nothing a second later.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// More than any of these files needs; what is longer is another file.
const BYTES_MAX: u64 = 1 << 20;
/// Of a file: nobody but its owner.
const OWNER_ONLY: u32 = 0o600;
/// Of a folder: the same.
const OWNER_ONLY_FOLDER: u32 = 0o700;

/// A signal to the process has one meaning for all files.
static NOW: Notify = Notify::const_new();

/// Has all files looked at now, as after SIGHUP.
pub fn look_now() {
    NOW.notify_waiters();
}

/// A file to follow.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// What it is, for people: the flag that names it.
    pub flag: &'static str,
    /// Nobody but its owner shall read it.
    pub secret: bool,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.flag, self.path.display())
    }
}

/// What is said when files have changed.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// They are good.
    pub newer: &'static str,
    /// They are not.
    pub kept: &'static str,
}

/// What files say, and go on to say as they change.
#[derive(Debug)]
pub struct Followed<T> {
    newest: watch::Receiver<Arc<T>>,
    _following: AbortOnDropHandle<()>,
}

/// What tells one state of the files from another.
type Print = [u8; 32];

impl<T: Send + Sync + 'static> Followed<T> {
    /// Reads the files, and follows them from now on. `read` makes a value of their contents; it is told the
    /// value before.
    pub fn new<R>(sources: Vec<Source>, words: Words, read: R) -> Result<Followed<T>>
    where
        R: Fn(Option<&T>, &[Vec<u8>]) -> Result<T> + Send + 'static,
    {
        let contents = read_all(&sources)?;
        let first = Arc::new(read(None, &contents)?);
        sources.iter().for_each(keep_private);
        let seen = print_of(&Ok(contents));
        let (out, newest) = watch::channel(first);
        let following = tokio::spawn(follow(sources, words, read, seen, out));
        Ok(Followed { newest, _following: AbortOnDropHandle::new(following) })
    }
}

impl<T> Followed<T> {
    /// What they last said that was good.
    pub fn now(&self) -> Arc<T> {
        self.newest.borrow().clone()
    }
}

async fn follow<T, R>(sources: Vec<Source>, words: Words, read: R, mut seen: Print, out: watch::Sender<Arc<T>>)
where
    R: Fn(Option<&T>, &[Vec<u8>]) -> Result<T>,
{
    let mut before = seen;
    while !sources.is_empty() {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = NOW.notified() => {}
        }
        let from = sources.clone();
        let contents = elsewhere(move || read_all(&from)).await;
        let now = print_of(&contents);
        if now != seen {
            let former = out.borrow().clone();
            match contents.and_then(|contents| read(Some(&former), &contents)) {
                Ok(newer) => {
                    info!("{}", words.newer);
                    sources.iter().for_each(keep_private);
                    out.send_replace(Arc::new(newer));
                    seen = now;
                }
                // It may be half written, or one of two that belong together: the next look decides.
                Err(why) if now == before => {
                    error!("{why:#}; {}", words.kept);
                    seen = now;
                }
                Err(_) => {}
            }
        }
        before = now;
    }
}

/// What all of them hold. An error names the one that cannot be read.
pub fn read_all(sources: &[Source]) -> Result<Vec<Vec<u8>>> {
    sources.iter().map(|source| read(&source.path).with_context(|| source.to_string())).collect()
}

/// The file's content. It never waits: what is no file (a pipe, a device) is refused.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let without_waiting = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(without_waiting).open(path)?;
    ensure!(file.metadata()?.is_file(), "it is no regular file");
    bounded(file)
}

fn bounded(source: impl std::io::Read) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    source.take(BYTES_MAX + 1).read_to_end(&mut content)?;
    ensure!(content.len() as u64 <= BYTES_MAX, "it is too long: allowed are {BYTES_MAX} bytes");
    Ok(content)
}

/// The text of a file, without the byte order mark that some editors put before it.
pub fn read_text(path: &Path) -> Result<String> {
    text_of(read(path)?)
}

/// The same of what is open already.
pub fn read_whole(source: impl std::io::Read) -> Result<String> {
    text_of(bounded(source)?)
}

fn text_of(bytes: Vec<u8>) -> Result<String> {
    let text = String::from_utf8(bytes).context("it is not UTF-8")?;
    Ok(text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), ToString::to_string))
}

/// The one line of a secret's file, without its end.
pub fn secret_of(bytes: Vec<u8>) -> Result<String> {
    let text = String::from_utf8(bytes).context("it is not UTF-8")?;
    let secret = text.trim_end_matches(['\r', '\n']);
    ensure!(!secret.is_empty(), "it is empty");
    ensure!(!secret.contains(char::is_control), "it has control characters, such as a second line");
    Ok(secret.to_string())
}

fn print_of(contents: &Result<Vec<Vec<u8>>>) -> Print {
    let mut hash = Sha256::new();
    match contents {
        Ok(contents) => contents.iter().for_each(|content| {
            hash.update((content.len() as u64).to_be_bytes());
            hash.update(content);
        }),
        Err(why) => hash.update(format!("{why:#}")),
    }
    hash.finalize().into()
}

// ---------------------------------------------------------------------------------------------
// Who may read

/// Takes a secret from all but its owner where everybody could read it. A group that may is meant to.
pub fn keep_private(source: &Source) {
    let open_to_all = |data: &std::fs::Metadata| data.mode() & 0o007 != 0;
    let Some(data) = std::fs::metadata(&source.path).ok().filter(|data| source.secret && open_to_all(data)) else {
        return;
    };
    let mode = data.mode() & 0o777;
    if narrow(&source.path, &data, OWNER_ONLY).is_ok() {
        warn!("{source} was open to everybody (mode {mode:03o}): it is its owner's alone now (0600)");
    } else {
        warn!("{source} is open to everybody (mode {mode:03o}), and is not ours to change: chmod o-rwx it");
    }
}

fn narrow(path: &Path, data: &std::fs::Metadata, allowed: u32) -> std::io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(data.mode() & 0o777 & allowed))
}

/// Makes a file of ours that nobody else may read, whatever the umask; one that is there is made so.
pub fn private_file(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(OWNER_ONLY).open(path)?;
    let data = file.metadata()?;
    let mode = data.mode() & 0o777;
    if data.is_file() && mode & !OWNER_ONLY != 0 {
        let why = || format!("{} has mode {mode:03o}, so that others read it: chmod 600 it", path.display());
        file.set_permissions(Permissions::from_mode(mode & OWNER_ONLY)).with_context(why)?;
        warn!("{} had mode {mode:03o}: it is its owner's alone now (0600)", path.display());
    }
    Ok(file)
}

/// Makes a folder of ours, and those above it, for nobody else, whatever the umask.
pub fn private_folder(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(OWNER_ONLY_FOLDER).create(path)
}

/// The same; one that is there is made so.
pub fn private_folder_of_ours(path: &Path) -> std::io::Result<()> {
    private_folder(path)?;
    let data = std::fs::metadata(path)?;
    if data.mode() & 0o777 & !OWNER_ONLY_FOLDER == 0 { Ok(()) } else { narrow(path, &data, OWNER_ONLY_FOLDER) }
}

/// Whatever this process and its children make from now on is for nobody else.
pub fn keep_to_ourselves() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear;

    const WORDS: Words = Words { newer: "newer", kept: "kept" };

    fn source(path: &Path) -> Source {
        Source { path: path.to_path_buf(), flag: "--file", secret: true }
    }

    fn follow_text(path: &Path) -> Result<Followed<String>> {
        Followed::new(vec![source(path)], WORDS, |_, contents| {
            let text = String::from_utf8(contents[0].clone())?;
            ensure!(!text.contains("broken"), "it is broken");
            Ok(text)
        })
    }

    async fn becomes(file: &Followed<String>, wanted: &str) {
        let mut newest = file.newest.clone();
        let seen = tokio::time::timeout(Duration::from_secs(10), newest.wait_for(|now| **now == wanted)).await;
        assert!(seen.is_ok(), "{:?} instead of {wanted:?}", file.now());
    }

    /// Looked at twice, so that a broken file has been judged.
    async fn looked_at() {
        tokio::time::sleep(LOOK_EVERY * 4).await;
    }

    #[tokio::test]
    async fn the_content_decides_and_neither_time_nor_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "aaaa").unwrap();
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        let file = follow_text(&path).unwrap();
        for text in ["bbbb", "cccc", "aaaa"] {
            std::fs::write(&path, text).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            becomes(&file, text).await;
        }
    }

    #[tokio::test]
    async fn a_file_that_is_broken_or_gone_or_no_file_or_endless_leaves_the_last_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "good").unwrap();
        let file = follow_text(&path).unwrap();
        for broken in ["broken", "", "\u{0}"] {
            std::fs::write(&path, format!("broken{broken}")).unwrap();
            looked_at().await;
            assert_eq!(*file.now(), "good");
        }
        let replace = |make: &dyn Fn()| {
            let _ = std::fs::remove_file(&path);
            make();
        };
        replace(&|| {});
        looked_at().await;
        replace(&|| std::os::unix::fs::symlink("/dev/zero", &path).unwrap());
        looked_at().await;
        replace(&|| assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success()));
        looked_at().await;
        replace(&|| std::fs::write(&path, vec![b'x'; (BYTES_MAX + 1).try_into().unwrap()]).unwrap());
        looked_at().await;
        assert_eq!(*file.now(), "good");
        replace(&|| std::fs::write(&path, "better").unwrap());
        becomes(&file, "better").await;
    }

    #[tokio::test]
    async fn what_everybody_could_read_is_narrowed_and_a_group_that_may_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (mode, narrowed) in [(0o644, 0o600), (0o640, 0o640), (0o600, 0o600), (0o666, 0o600), (0o404, 0o400)] {
            std::fs::write(&path, "text").unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            follow_text(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, narrowed, "{mode:03o}");
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_is_made_is_for_its_owner_alone_and_what_was_wider_is_narrowed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, folder) = (dir.path().join("file"), dir.path().join("a/b"));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        private_file(&file).unwrap();
        private_folder(&folder).unwrap();
        assert_eq!((mode(&file), mode(&folder), mode(folder.parent().unwrap())), (0o600, 0o700, 0o700));
        std::fs::write(&file, "kept").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
        std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        private_file(&file).unwrap();
        private_folder_of_ours(&folder).unwrap();
        assert_eq!((mode(&file), mode(&folder)), (0o600, 0o700));
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    }

    const BYTES: usize = 1 << 20;

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
        assert!(read(&vec![b' '; BYTES]).is_ok());
        assert!(read(&vec![b' '; BYTES + 1]).unwrap_err().to_string().contains("allowed are 1048576 bytes"));
        assert!(read(b"\xff\xfe").unwrap_err().to_string().contains("UTF-8"));
        assert!(read_text(Path::new("/dev/zero")).is_err());
    }

    #[test]
    fn what_small_files_and_small_values_of_the_store_say_is_read_in_time_that_grows_with_their_length() {
        let file = tempfile::NamedTempFile::new().unwrap();
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
