//! The files of configs that are imported: the one that is named, and those that it includes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::Foreign;
use crate::config::include;
use crate::import::{self, ImportError, Imported};

/// Bytes that a file may have.
const SIZE_LIMIT: u64 = 16 << 20;

/// Files that a part of a pattern may mean.
const FILES_LIMIT: usize = 10_000;

/// Imports a file.
///
/// # Errors
/// It cannot be read, or is no config of its kind.
pub(super) fn import(kind: Foreign, file: &Path) -> Result<Imported, ImportError> {
    let shown = file.display().to_string();
    let text = read(file).map_err(|message| ImportError {
        file: shown.clone(),
        line: 1,
        message,
    })?;
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let include = |pattern: &str| included(&folder, pattern);
    match kind {
        Foreign::Nginx => import::nginx(&shown, &text, &include),
        Foreign::Caddyfile => import::caddyfile(&shown, &text, &include),
    }
}

/// The files that a pattern names. nginx's own folder may be the one above, where the file of a site is imported.
fn included(folder: &Path, pattern: &str) -> Result<Vec<(String, String)>, String> {
    let mut bases = vec![folder.to_path_buf()];
    bases.extend(folder.parent().map(Path::to_path_buf));
    let has_star = pattern.contains('*');
    let mut files = Vec::new();
    for base in bases {
        files = matching(&include::Pattern::new(&base, pattern));
        if !files.is_empty() {
            break;
        }
    }
    if files.is_empty() && !has_star {
        return Err("there is no such file".into());
    }
    let texts = files
        .into_iter()
        .map(|file| Ok((file.display().to_string(), read(&file)?)));
    texts.collect()
}

fn matching(pattern: &include::Pattern) -> Vec<PathBuf> {
    let mut found = vec![pattern.front().to_path_buf()];
    for part in pattern.parts() {
        let mut next = Vec::new();
        for folder in found {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            next.extend(
                names
                    .filter(|name| include::fits(part, name))
                    .map(|name| folder.join(name)),
            );
        }
        next.sort();
        next.truncate(FILES_LIMIT);
        found = next;
    }
    found.retain(|path| path.is_file());
    found
}

fn read(file: &Path) -> Result<String, String> {
    let told = |error: std::io::Error| error.to_string();
    if fs::metadata(file).map_err(told)?.len() > SIZE_LIMIT {
        return Err(format!("it has more than {SIZE_LIMIT} bytes"));
    }
    fs::read_to_string(file).map_err(told)
}
