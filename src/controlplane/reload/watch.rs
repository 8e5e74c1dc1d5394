//! File changes, settled and deduplicated; the only file that knows notify.
//!
//! Events of the system are hints and nothing more: they may be missing (network file systems, containers), come
//! in swarms (editors), or name something else than what changed (Kubernetes swaps a link called `..data`). So the
//! watcher listens to the files and to the directories of links on the way to them, waits until it is quiet, reads every
//! file that matters and compares digests with what the loop has loaded. It does the same now and then without a hint.
//! What it tells the loop is true: these bytes are not the ones you have seen.
//!
//! A directory is listened to only where it has to be: a log that grows beside the config would tell of each write.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{self, Instant};

use crate::config::include::Pattern;
use crate::controlplane::reload::Event;
use crate::controlplane::reload::files::{self, Fingerprint};

/// Links followed on the way to one file, at most, as the system has it.
const LINK_LIMIT: usize = 40;

/// Settle times in a row for which a busy place may put off a look.
const RESTLESS_LIMIT: u32 = 10;

/// The files that matter, and their state as the loop has seen it.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The config file and everything it names.
    pub paths: BTreeSet<PathBuf>,
    /// What means more files, which may come and go.
    pub patterns: Vec<Pattern>,
    /// What they held when the loop read them.
    pub fingerprint: Fingerprint,
}

/// How patient the watcher is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Quiet time after a hint, so that a file is not read half-written.
    pub settle: Duration,
    /// The time between looks without a hint.
    pub poll: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(200),
            poll: Duration::from_secs(5),
        }
    }
}

/// Watches what the loop tells it to, until either end of the two channels is gone.
///
/// Dropping the future ends the watch; nothing is lost but hints.
pub async fn run(mut watched: watch::Receiver<Watched>, events: mpsc::Sender<Event>, pace: Pace) {
    let (hinter, mut hints) = mpsc::channel(1);
    let mut seen = watched.borrow_and_update().fingerprint;
    let mut places = Places::new(hinter);
    let mut poll = time::interval_at(Instant::now() + pace.poll, pace.poll);
    poll.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        let Watched {
            paths, patterns, ..
        } = watched.borrow().clone();
        places.aim(&paths, &patterns);
        let now = files::look(&paths, &patterns);
        if now != seen {
            seen = now;
            if events.send(Event::FilesChanged).await.is_err() {
                return;
            }
        }
        tokio::select! {
            hint = hints.recv() => match hint {
                Some(hint) => {
                    places.note(hint);
                    settle(&mut hints, &mut places, pace.settle).await;
                }
                // `places` holds a sender: this end does not come before ours.
                None => return,
            },
            told = watched.changed() => match told {
                Ok(()) => seen = watched.borrow_and_update().fingerprint,
                Err(_) => return,
            },
            _ = poll.tick() => places.mend(),
        }
    }
}

/// Waits until no hint came for `quiet`, within reason.
async fn settle(hints: &mut mpsc::Receiver<Hint>, places: &mut Places, quiet: Duration) {
    for _ in 0..RESTLESS_LIMIT {
        match time::timeout(quiet, hints.recv()).await {
            Ok(Some(hint)) => places.note(hint),
            Ok(None) | Err(_) => return,
        }
    }
}

/// What the system's watcher has to say.
#[derive(Clone, Copy, Debug)]
enum Hint {
    /// Something happened in a watched place.
    Stirred,
    /// The watcher cannot be relied on any more.
    Broken,
}

/// The files and directories under watch.
struct Places {
    hinter: mpsc::Sender<Hint>,
    watcher: Option<RecommendedWatcher>,
    under_watch: BTreeMap<PathBuf, Identity>,
    /// Whether a lack of events has been reported already.
    is_blind: bool,
}

/// Device, inode and the time of its last change: the same path may become another file, which may get the inode that has
/// just become free.
type Identity = (u64, u64, i64, i64);

impl Places {
    fn new(hinter: mpsc::Sender<Hint>) -> Self {
        let mut places = Self {
            hinter,
            watcher: None,
            under_watch: BTreeMap::new(),
            is_blind: false,
        };
        places.mend();
        places
    }

    fn note(&mut self, hint: Hint) {
        match hint {
            Hint::Stirred => {}
            Hint::Broken => self.watcher = None,
        }
    }

    /// Makes the system's watcher anew if there is none; the next look aims it.
    fn mend(&mut self) {
        if self.watcher.is_some() {
            return;
        }
        self.under_watch.clear();
        let hinter = self.hinter.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let hint = match event {
                // Reading the files is an event too: answering it would never end.
                Ok(event) if event.kind.is_access() => return,
                Ok(_) => Hint::Stirred,
                Err(_) => Hint::Broken,
            };
            // Full means that a hint is waiting already; gone means that nobody watches any more.
            let _ = hinter.try_send(hint);
        });
        match watcher {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => self.go_blind(&error),
        }
    }

    /// Watches exactly the places where a change of `paths`, or of what `patterns` mean, would show.
    fn aim(&mut self, paths: &BTreeSet<PathBuf>, patterns: &[Pattern]) {
        let mut wanted = BTreeMap::new();
        let searched = files::folders(patterns);
        // A file that is not there yet shows in the folder where it would be.
        let searched = searched.into_iter().map(|folder| folder.join("*"));
        for path in paths.iter().cloned().chain(searched) {
            for place in places_of(&path) {
                if let Ok(found) = fs::metadata(&place) {
                    let changed = (found.ctime(), found.ctime_nsec());
                    wanted.insert(place, (found.dev(), found.ino(), changed.0, changed.1));
                }
            }
        }
        let Some(watcher) = &mut self.watcher else {
            return;
        };
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
            if self.under_watch.contains_key(&path) {
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.under_watch.insert(path, identity)),
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

/// Where a change of what `path` leads to would show: what is there, and the directory of every link on the way.
fn places_of(path: &Path) -> BTreeSet<PathBuf> {
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
        rest = directory.join(target).join(behind);
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn watched_now(paths: BTreeSet<PathBuf>) -> Watched {
        Watched {
            fingerprint: files::look(&paths, &[]),
            paths,
            patterns: Vec::new(),
        }
    }

    /// Runs `act` on a watched `proxy.yaml` and says whether the watcher told of a change. The poll is far away:
    /// what is found is found by events.
    fn check(prepare: impl FnOnce(&Path), act: impl FnOnce(&Path), pace: Pace) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("proxy.yaml");
        prepare(directory.path());
        let state = |path: &PathBuf| {
            let paths = BTreeSet::from([path.clone()]);
            watched_now(paths)
        };
        let (teller, watched) = watch::channel(state(&file));
        let (events, mut told) = mpsc::channel(8);
        runtime.block_on(async {
            let act = async {
                // The watch is set up once the watcher first waits; then the change is made.
                tokio::task::yield_now().await;
                act(directory.path());
                let event = time::timeout(Duration::from_secs(20), told.recv()).await;
                assert!(matches!(event, Ok(Some(Event::FilesChanged))), "{event:?}");
                teller.send(state(&file)).unwrap();
                // Seen is seen: the same bytes are not told of again.
                fs::write(directory.path().join("beside"), "noise").unwrap();
                let again = time::timeout(pace.settle * 5, told.recv()).await;
                assert!(again.is_err(), "{again:?}");
                // And what stands there now is watched as the first was.
                fs::write(&file, "three").unwrap();
                let event = time::timeout(Duration::from_secs(20), told.recv()).await;
                assert!(matches!(event, Ok(Some(Event::FilesChanged))), "{event:?}");
            };
            tokio::select! {
                biased;
                () = run(watched, events, pace) => panic!("the watcher ended"),
                () = act => {}
            }
        });
    }

    const EVENTS: Pace = Pace {
        settle: Duration::from_millis(20),
        poll: Duration::from_secs(3600),
    };

    fn written(directory: &Path) {
        fs::write(directory.join("proxy.yaml"), "one").unwrap();
    }

    #[test]
    fn a_file_renamed_over_is_a_change() {
        check(
            written,
            |directory| {
                fs::write(directory.join(".proxy.yaml.swp"), "two").unwrap();
                fs::rename(
                    directory.join(".proxy.yaml.swp"),
                    directory.join("proxy.yaml"),
                )
                .unwrap();
            },
            EVENTS,
        );
    }

    #[test]
    fn a_file_truncated_and_written_is_a_change() {
        check(
            written,
            |directory| fs::write(directory.join("proxy.yaml"), "two").unwrap(),
            EVENTS,
        );
    }

    #[test]
    fn a_file_deleted_and_written_again_is_a_change() {
        check(
            written,
            |directory| {
                fs::remove_file(directory.join("proxy.yaml")).unwrap();
                fs::write(directory.join("proxy.yaml"), "two").unwrap();
            },
            EVENTS,
        );
    }

    #[test]
    fn a_swap_of_the_data_link_of_kubernetes_is_a_change() {
        check(
            |directory| {
                for (name, text) in [("..1", "one"), ("..2", "two")] {
                    fs::create_dir(directory.join(name)).unwrap();
                    fs::write(directory.join(name).join("proxy.yaml"), text).unwrap();
                }
                symlink("..1", directory.join("..data")).unwrap();
                symlink("..data/proxy.yaml", directory.join("proxy.yaml")).unwrap();
            },
            |directory| {
                symlink("..2", directory.join("..data_tmp")).unwrap();
                fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
            },
            EVENTS,
        );
    }

    #[test]
    fn a_link_of_another_directory_on_the_way_is_watched_too() {
        let elsewhere = tempfile::tempdir().unwrap();
        let elsewhere = elsewhere.path();
        check(
            |directory| {
                fs::write(elsewhere.join("v1"), "one").unwrap();
                fs::write(elsewhere.join("v2"), "two").unwrap();
                symlink("v1", elsewhere.join("current")).unwrap();
                symlink(elsewhere.join("current"), directory.join("proxy.yaml")).unwrap();
            },
            |_| {
                symlink("v2", elsewhere.join("next")).unwrap();
                fs::rename(elsewhere.join("next"), elsewhere.join("current")).unwrap();
            },
            EVENTS,
        );
    }

    #[test]
    fn what_is_written_beside_a_file_is_no_hint() {
        let directory = tempfile::tempdir().unwrap();
        written(directory.path());
        let (hinter, mut hints) = mpsc::channel(1);
        let mut places = Places::new(hinter);
        places.aim(&BTreeSet::from([directory.path().join("proxy.yaml")]), &[]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            fs::write(directory.path().join("access.log"), "a line").unwrap();
            let hint = time::timeout(Duration::from_millis(100), hints.recv()).await;
            assert!(hint.is_err(), "{hint:?}");
            fs::write(directory.path().join("proxy.yaml"), "two").unwrap();
            let hint = time::timeout(Duration::from_secs(20), hints.recv()).await;
            assert!(matches!(hint, Ok(Some(Hint::Stirred))), "{hint:?}");
        });
    }

    #[test]
    fn a_file_that_appears_where_none_was_is_a_change() {
        check(|_| {}, written, EVENTS);
    }

    #[test]
    fn a_directory_that_is_replaced_is_watched_again() {
        check(
            |directory| {
                fs::create_dir(directory.join("sites")).unwrap();
                fs::write(directory.join("sites/proxy.yaml"), "one").unwrap();
                symlink("sites/proxy.yaml", directory.join("proxy.yaml")).unwrap();
            },
            |directory| {
                fs::remove_dir_all(directory.join("sites")).unwrap();
                fs::create_dir(directory.join("sites")).unwrap();
                fs::write(directory.join("sites/proxy.yaml"), "two").unwrap();
            },
            Pace {
                settle: Duration::from_millis(20),
                poll: Duration::from_millis(500),
            },
        );
    }

    #[test]
    fn a_change_between_the_load_and_the_watch_is_not_missed() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        written(directory.path());
        let paths = BTreeSet::from([directory.path().join("proxy.yaml")]);
        let watched = watched_now(paths);
        fs::write(directory.path().join("proxy.yaml"), "two").unwrap();
        let (_teller, watched) = watch::channel(watched);
        let (events, mut told) = mpsc::channel(8);
        runtime.block_on(async {
            tokio::select! {
                () = run(watched, events, EVENTS) => panic!("the watcher ended"),
                event = told.recv() => assert!(matches!(event, Some(Event::FilesChanged))),
            }
        });
    }
}
