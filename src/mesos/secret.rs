//! The file of the principal's secret. I/O.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use tracing::warn;

use crate::files;
use crate::offload::elsewhere;

/// A file that holds the principal's secret. It is read whenever we subscribe and when the secret is refused, off
/// the threads that lead; one that is broken or gone leaves the former secret in use.
#[derive(Clone)]
pub struct SecretFile {
    path: PathBuf,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// What it last held.
    secret: Option<String>,
    /// Why it cannot be read now, said once.
    told: Option<String>,
}

impl std::fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.fmt(f)
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for SecretFile {
    fn from(path: &P) -> SecretFile {
        SecretFile { path: path.as_ref().to_path_buf(), known: Arc::default() }
    }
}

impl SecretFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds, without the line's end.
    pub(super) async fn read(&self) -> Result<String> {
        let path = self.path.clone();
        let read = elsewhere(move || text_of(&path)).await;
        let mut known = self.known.lock().expect("no holder panics");
        match (read, &known.secret) {
            (Ok(secret), _) => {
                *known = Known { secret: Some(secret.clone()), told: None };
                Ok(secret)
            }
            (Err(why), Some(secret)) => {
                let (secret, why) = (secret.clone(), format!("{why:#}"));
                if known.told.as_ref() != Some(&why) {
                    warn!("{why}; the secret that was known stays in use");
                    known.told = Some(why);
                }
                Ok(secret)
            }
            (Err(why), None) => Err(why),
        }
    }
}

fn text_of(path: &Path) -> Result<String> {
    files::read(path)
        .and_then(files::secret_of)
        .with_context(|| format!("read the Mesos secret from {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_that_cannot_be_read_any_more_stays_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let file = SecretFile::from(&path);
        assert!(file.read().await.unwrap_err().to_string().starts_with("read the Mesos secret from"));
        std::fs::write(&path, "old\r\n").unwrap();
        assert_eq!(file.read().await.unwrap(), "old");
        for broken in ["", "\n", "a\nb\n"] {
            std::fs::write(&path, broken).unwrap();
            assert_eq!(file.read().await.unwrap(), "old", "{broken:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.clone().read().await.unwrap(), "old");
        std::fs::write(&path, "new").unwrap();
        assert_eq!(file.read().await.unwrap(), "new");
    }
}
