//! The bytes of the files a config names, as they were at one moment, the files that its patterns mean, and a digest
//! that tells moments apart.
//!
//! The loop reads through here what it compiles, the watcher what it compares. Reading blocks: this runs on the
//! control thread, which may be slow and never makes a worker wait.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use crate::base::secret::SecretBytes;
use crate::config::include::{self, Pattern};

/// Bytes of one file, at most: a config that names an endless device is an error, not the end of the memory.
const SIZE_LIMIT: u64 = 64 << 20;

/// Bytes that are read of a file at a time.
const PIECE: usize = 16 << 10;

/// Files that the patterns of a config may mean.
const FOUND_LIMIT: usize = 10_000;

pub use crate::controlplane::compile::Files;

/// A digest of one file: of its content, or of why it cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print([u8; 32]);

/// A digest of files by path, content and kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// Reads files; one that cannot be read is a value too.
pub fn read<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Files {
    paths
        .into_iter()
        .map(|path| (path.clone(), read_one(path)))
        .collect()
}

/// Reads one file.
///
/// # Errors
/// Those of the system, and [`io::ErrorKind::FileTooLarge`] beyond 64 MiB.
pub fn read_one(path: &Path) -> io::Result<SecretBytes> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len().min(SIZE_LIMIT);
    let mut bytes = SecretBytes::with_capacity(usize::try_from(size).unwrap_or_default());
    let mut piece = Zeroizing::new([0; PIECE]);
    loop {
        let read = match file.read(&mut *piece) {
            Ok(0) => return Ok(bytes),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        bytes.extend(piece.get(..read).unwrap_or_default());
        if bytes.len() as u64 > SIZE_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "larger than 64 MiB",
            ));
        }
    }
}

/// The files that patterns mean.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order of the patterns, those of one pattern by name, each once.
    pub files: Vec<PathBuf>,
    /// The folders that could not be read, each with the number of its pattern.
    pub unread: Vec<(usize, PathBuf, io::Error)>,
}

/// Finds the files that `patterns` mean.
///
/// A pattern without `*` means its file, whether it is there or not. Of the others the folder in front must be there:
/// that it has gone is no reason to take its files for removed.
pub fn find(patterns: &[Pattern]) -> Found {
    let mut found = Found::default();
    let mut seen = HashSet::new();
    for (number, pattern) in patterns.iter().enumerate() {
        let mut files = Vec::new();
        if let Err((folder, error)) = walk(pattern.front(), pattern.parts(), &mut files) {
            found.unread.push((number, folder, error));
        }
        files.sort_unstable();
        files.retain(|file| seen.insert(file.clone()));
        found.files.append(&mut files);
    }
    found
}

/// The folders in which `patterns` look for files; one that is just a path looks for none.
pub fn folders(patterns: &[Pattern]) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    for pattern in patterns {
        if !pattern.parts().is_empty() {
            search(pattern.front(), pattern.parts(), &mut folders);
        }
    }
    folders
}

fn search(folder: &Path, parts: &[String], folders: &mut BTreeSet<PathBuf>) {
    folders.insert(folder.to_owned());
    let Some((part, deeper @ [_, ..])) = parts.split_first() else {
        return;
    };
    // What cannot be read has nothing to show.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let fits = name.to_str().is_some_and(|name| include::fits(part, name));
        if fits && entry.path().is_dir() {
            search(&entry.path(), deeper, folders);
        }
    }
}

/// Notes the files below `folder` whose names fit the `parts`, one for each folder on the way.
fn walk(
    folder: &Path,
    parts: &[String],
    files: &mut Vec<PathBuf>,
) -> Result<(), (PathBuf, io::Error)> {
    let unread = |error| (folder.to_owned(), error);
    let Some((part, deeper)) = parts.split_first() else {
        files.push(folder.to_owned());
        return Ok(());
    };
    for entry in fs::read_dir(folder).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| include::fits(part, name)) {
            continue;
        }
        let path = entry.path();
        // A link that leads nowhere is a file that cannot be read: a site that is broken, not one that is gone.
        let metadata = fs::metadata(&path);
        let is_file = metadata.as_ref().map_or(true, fs::Metadata::is_file);
        let is_folder = metadata.is_ok_and(|metadata| metadata.is_dir());
        match deeper {
            [] if is_file && files.len() == FOUND_LIMIT => {
                let message = format!("more than {FOUND_LIMIT} files");
                return Err(unread(io::Error::new(io::ErrorKind::FileTooLarge, message)));
            }
            [] if is_file => files.push(path),
            [] => {}
            _ if is_folder => walk(&path, deeper, files)?,
            _ => {}
        }
    }
    Ok(())
}

/// Whether both hold the same files with the same contents, or the same reasons why not.
pub fn are_same(one: &Files, other: &Files) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| {
            one.0 == other.0
                && match (one.1, other.1) {
                    (Ok(one), Ok(other)) => one == other,
                    (Err(one), Err(other)) => one.kind() == other.kind(),
                    (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
                }
        })
}

/// The digest of a file.
pub fn print(content: &io::Result<SecretBytes>) -> Print {
    match content {
        Ok(bytes) => print_of(b"b", bytes),
        Err(error) => print_failure(error),
    }
}

/// The digest of a file or folder that cannot be read.
pub fn print_failure(error: &io::Error) -> Print {
    print_of(b"e", error.kind().to_string().as_bytes())
}

fn print_of(kind: &[u8], bytes: &[u8]) -> Print {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(kind);
    context.update(bytes);
    Print(finish(context))
}

/// The digest of files.
pub fn fingerprint(prints: &BTreeMap<PathBuf, Print>) -> Fingerprint {
    let mut context = digest::Context::new(&digest::SHA256);
    for (path, Print(print)) in prints {
        // Preceded by its length, so that no two paths run together into one.
        let path = path.as_os_str().as_encoded_bytes();
        context.update(&(path.len() as u64).to_be_bytes());
        context.update(path);
        context.update(print);
    }
    Fingerprint(finish(context))
}

/// The digest of `paths`, and of the files that `patterns` mean, as they are now. Holds one of them at a time.
pub fn look(paths: &BTreeSet<PathBuf>, patterns: &[Pattern]) -> Fingerprint {
    let mut prints = BTreeMap::new();
    let found = find(patterns);
    for (_, folder, error) in found.unread {
        prints.insert(folder, print_failure(&error));
    }
    for path in paths.iter().chain(&found.files) {
        prints
            .entry(path.clone())
            .or_insert_with(|| print(&read_one(path)));
    }
    fingerprint(&prints)
}

fn finish(context: digest::Context) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_content_paths_and_failures_apart() {
        let files = |entries: &[(&str, Result<&str, io::ErrorKind>)]| {
            let files: Files = entries
                .iter()
                .map(|(path, content)| {
                    let content = content.map(|text| text.as_bytes().to_vec().into());
                    (PathBuf::from(path), content.map_err(io::Error::from))
                })
                .collect();
            let prints = files
                .iter()
                .map(|(path, content)| (path.clone(), print(content)));
            (fingerprint(&prints.collect()), files)
        };
        let seen = [
            files(&[]),
            files(&[("a", Ok("x"))]),
            files(&[("a", Ok("y"))]),
            files(&[("b", Ok("x"))]),
            files(&[("a", Ok("x")), ("b", Ok(""))]),
            files(&[("a", Err(io::ErrorKind::NotFound))]),
            files(&[("a", Err(io::ErrorKind::PermissionDenied))]),
        ];
        for (index, one) in seen.iter().enumerate() {
            assert!(are_same(&one.1, &one.1));
            for other in seen.iter().skip(index + 1) {
                assert!(one.0 != other.0 && !are_same(&one.1, &other.1), "{index}");
            }
        }
        assert_eq!(files(&[("a", Ok("x"))]).0, files(&[("a", Ok("x"))]).0);
    }

    #[test]
    fn patterns_find_files_in_their_order_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for file in [
            "b.yaml",
            "a.yaml",
            ".c.yaml",
            "d.yml",
            "x/site.yaml",
            "y/site.yaml",
            "y/no",
        ] {
            let file = folder.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        fs::create_dir(folder.join("folder.yaml")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.join("link.yaml")).unwrap();
        let check = |patterns: &[&str], files: &[&str]| {
            let patterns: Vec<_> = patterns
                .iter()
                .map(|text| Pattern::new(folder, text))
                .collect();
            let found = find(&patterns);
            let files: Vec<_> = files.iter().map(|file| folder.join(file)).collect();
            assert_eq!(found.files, files, "{patterns:?}");
            found
                .unread
                .into_iter()
                .map(|(number, path, _)| (number, path))
                .collect::<Vec<_>>()
        };
        assert!(check(&["*.yaml"], &["a.yaml", "b.yaml", "link.yaml"]).is_empty());
        assert!(
            check(
                &["*/site.yaml", "d.yml"],
                &["x/site.yaml", "y/site.yaml", "d.yml"]
            )
            .is_empty()
        );
        assert!(check(&["b.yaml", "*.yaml"], &["b.yaml", "a.yaml", "link.yaml"]).is_empty());
        assert!(check(&["gone.yaml"], &["gone.yaml"]).is_empty());
        assert_eq!(
            check(&["d.yml", "gone/*"], &["d.yml"]),
            [(1, folder.join("gone"))]
        );
    }

    #[test]
    fn an_endless_file_is_an_error() {
        let error = read_one(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
