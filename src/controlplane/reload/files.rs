//! The bytes of the files a config names, as they were at one moment, and a digest that tells moments apart.
//!
//! The loop reads through here what it compiles, the watcher what it compares. Reading blocks: this runs on the
//! control thread, which may be slow and never makes a worker wait.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

/// Bytes of one file, at most: a config that names an endless device is an error, not the end of the memory.
const SIZE_LIMIT: u64 = 64 << 20;

/// What the files held, or why they could not be read.
pub type Files = BTreeMap<PathBuf, io::Result<Vec<u8>>>;

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
pub fn read_one(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path)?
        .take(SIZE_LIMIT + 1)
        .read_to_end(&mut bytes)?;
    if read as u64 > SIZE_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than 64 MiB",
        ));
    }
    Ok(bytes)
}

/// The digest of `files`.
pub fn fingerprint(files: &Files) -> Fingerprint {
    let mut context = digest::Context::new(&digest::SHA256);
    // Every part is preceded by its length, so that no two sets of files run together into one text.
    let mut part = |kind: u8, bytes: &[u8]| {
        context.update(&[kind]);
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    for (path, content) in files {
        part(b'p', path.as_os_str().as_encoded_bytes());
        match content {
            Ok(bytes) => part(b'b', bytes),
            Err(error) => part(b'e', error.kind().to_string().as_bytes()),
        }
    }
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    Fingerprint(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_content_paths_and_failures_apart() {
        let files = |entries: &[(&str, Result<&str, io::ErrorKind>)]| {
            let files = entries
                .iter()
                .map(|(path, content)| {
                    let content = content.map(|text| text.as_bytes().to_vec());
                    (PathBuf::from(path), content.map_err(io::Error::from))
                })
                .collect();
            fingerprint(&files)
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
            assert!(
                seen.iter().skip(index + 1).all(|other| one != other),
                "{index}"
            );
        }
        assert_eq!(files(&[("a", Ok("x"))]), files(&[("a", Ok("x"))]));
    }

    #[test]
    fn an_endless_file_is_an_error() {
        let error = read_one(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
