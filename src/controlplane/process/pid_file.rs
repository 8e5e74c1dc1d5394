//! The pid file: written when the process serves, taken over by an upgrade, removed by the one it names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

/// The file, for as long as it is ours.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes the number of this process, in place of another one.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(path: &Path) -> io::Result<Self> {
        // Whoever reads it finds one number or the other.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", process::id()));
        fs::write(&beside, format!("{}\n", process::id()))?;
        fs::rename(&beside, path).inspect_err(|_| {
            // It is of no use where it is.
            let _ = fs::remove_file(&beside);
        })?;
        Ok(Self {
            path: path.to_owned(),
        })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let ours = process::id().to_string();
        if fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == ours) {
            // Somebody else may be faster; then it is gone as well.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_this_process_and_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lockgate.pid");
        fs::write(&path, "1\n").unwrap();
        let file = PidFile::write(&path).unwrap();
        let ours = format!("{}\n", process::id());
        assert_eq!(fs::read_to_string(&path).unwrap(), ours);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn that_of_the_next_process_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lockgate.pid");
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert!(PidFile::write(&folder.path().join("none/lockgate.pid")).is_err());
    }
}
