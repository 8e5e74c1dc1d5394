//! The files and directories under watch; the only file that knows notify.
//!
//! A directory is listened to only where it has to be, for links on the way, for files that are not there yet and for
//! those that a pattern means: a log that grows beside the config would tell of each write.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::ModifyKind;
use notify::{ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::config::include::Pattern;
use crate::controlplane::reload::files;

/// Links followed on the way to one file, at most, as the system has it.
const LINK_LIMIT: usize = 40;

/// What the system's watcher has said since it was last asked.
#[derive(Debug, Default)]
struct Said {
    /// Something went, perhaps what was watched: the watch ended with it, and may have taken that of its successor with it.
    gone: AtomicBool,
    /// It cannot be relied on any more.
    broken: AtomicBool,
}

/// The files and directories under watch.
pub(super) struct Places {
    /// Rung when something happened in one of them.
    bell: mpsc::Sender<()>,
    said: Arc<Said>,
    /// Whether the system is to be asked at all.
    is_listening: bool,
    watcher: Option<RecommendedWatcher>,
    under_watch: BTreeMap<PathBuf, Identity>,
    /// Whether a lack of events has been reported already.
    is_blind: bool,
}

/// Device, inode and the time of its last change: the same path may become another file, which may get the inode that has
/// just become free.
type Identity = (u64, u64, i64, i64);

impl Places {
    pub(super) fn new(bell: mpsc::Sender<()>, is_listening: bool) -> Self {
        let mut places = Self {
            bell,
            said: Arc::default(),
            is_listening,
            watcher: None,
            under_watch: BTreeMap::new(),
            is_blind: false,
        };
        places.mend();
        places
    }

    /// Makes the system's watcher anew if there is none; the next look aims it.
    pub(super) fn mend(&mut self) {
        if self.watcher.is_some() || !self.is_listening {
            return;
        }
        self.under_watch.clear();
        let (bell, said) = (self.bell.clone(), Arc::clone(&self.said));
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            match event {
                // Reading the files is an event too: answering it would never end.
                Ok(event) if event.kind.is_access() => return,
                Ok(event) => match event.kind {
                    EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                        said.gone.store(true, Ordering::Release);
                    }
                    EventKind::Any
                    | EventKind::Access(_)
                    | EventKind::Create(_)
                    | EventKind::Modify(_)
                    | EventKind::Other => {}
                },
                Err(_) => said.broken.store(true, Ordering::Release),
            }
            // Full means that it has been rung already; gone means that nobody watches any more.
            let _ = bell.try_send(());
        });
        match watcher {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => self.go_blind(&error),
        }
    }

    /// Watches exactly the places where a change of `paths`, or of what `patterns` mean, would show.
    pub(super) fn aim(&mut self, paths: &BTreeSet<PathBuf>, patterns: &[Pattern]) {
        if self.said.broken.swap(false, Ordering::Acquire) {
            self.watcher = None;
        }
        let is_anew = self.said.gone.swap(false, Ordering::Acquire);
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let mut wanted = BTreeMap::new();
        for place in places_of(paths, patterns) {
            if let Ok(found) = fs::metadata(&place) {
                let changed = (found.ctime(), found.ctime_nsec());
                wanted.insert(place, (found.dev(), found.ino(), changed.0, changed.1));
            }
        }
        self.under_watch.retain(|path, identity| {
            let keep = wanted.get(path) == Some(identity);
            if !keep {
                // It fails when what was there is gone, and the watch with it.
                let _ = watcher.unwatch(path);
            }
            keep
        });
        let mut failure = None;
        for (path, identity) in wanted {
            if self.under_watch.contains_key(&path) && !is_anew {
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.under_watch.insert(path, identity)),
                // It has gone since, and the way to it was looked at before: its end is an event of that.
                Err(error) if is_absence(&error) => drop(self.under_watch.remove(&path)),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => self.go_blind(&error),
            None => self.is_blind = false,
        }
    }

    fn go_blind(&mut self, error: &notify::Error) {
        if !self.is_blind {
            tracing::warn!(%error, "no events from the file system: changes are found by looking");
        }
        self.is_blind = true;
    }
}

fn is_absence(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => error.kind() == io::ErrorKind::NotFound,
        ErrorKind::Generic(_)
        | ErrorKind::WatchNotFound
        | ErrorKind::InvalidConfig(_)
        | ErrorKind::MaxFilesWatch => false,
    }
}

/// The places where a change of `paths`, or of what `patterns` mean, would show.
fn places_of(paths: &BTreeSet<PathBuf>, patterns: &[Pattern]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let meant = files::find(patterns).files.into_iter();
    let folders = files::folders(patterns);
    // What stands in a folder that is listened to needs nothing of its own, unless it is a link to elsewhere.
    let meant = meant.filter(|path| {
        let is_covered = path.parent().is_some_and(|folder| folders.contains(folder));
        !is_covered || path.is_symlink()
    });
    for path in meant {
        found.extend(way_to(&path));
    }
    for path in paths {
        found.extend(way_to(path));
    }
    for folder in &folders {
        found.extend(way_to(folder));
    }
    found
}

/// Where a change of what `path` leads to would show: what is there, and the directory of every link on the way.
fn way_to(path: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut rest = match std::path::absolute(path) {
        Ok(path) => path,
        Err(_) => path.to_owned(),
    };
    for _ in 0..LINK_LIMIT {
        let Some((link, behind)) = first_link(&rest) else {
            break;
        };
        let Some(directory) = link.parent().map(Path::to_owned) else {
            break;
        };
        let Ok(target) = fs::read_link(&link) else {
            break;
        };
        rest = directory.join(target);
        // Joining nothing would leave a slash at the end, as of a directory: the file would seem not to be there.
        if !behind.as_os_str().is_empty() {
            rest.push(behind);
        }
        found.insert(directory);
    }
    // A file tells of its own writes and of its end. One that is not there yet appears in the nearest directory that is.
    found.extend(
        rest.ancestors()
            .find(|place| place.exists())
            .map(Path::to_owned),
    );
    found
}

/// The first part of an absolute `path` that is a link, and what comes behind it.
fn first_link(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut walked = PathBuf::new();
    let mut components = path.components();
    while let Some(component) = components.next() {
        match component {
            Component::ParentDir => drop(walked.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => {
                walked.push(component);
            }
        }
        if walked.is_symlink() {
            return Some((walked, components.as_path().to_owned()));
        }
    }
    None
}
