//! Each of the ways in which files change, done for real, and found by events alone and by looks alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::*;

/// What is found is found by events: a look without one is far away.
const EVENTS: Pace = Pace {
    settle: Duration::from_millis(20),
    poll: Duration::from_secs(3600),
    hints: true,
};

/// What is found is found by looks, as on a network share.
const LOOKS: Pace = Pace {
    settle: Duration::from_millis(5),
    poll: Duration::from_millis(20),
    hints: false,
};

/// The files of the cases: `proxy.yaml`, and the sites beside it. Nothing of them has the folder itself watched, where all
/// kinds of things happen.
fn watched(folder: &Path) -> Watched {
    let paths = BTreeSet::from([folder.join("proxy.yaml")]);
    let patterns = vec![
        Pattern::new(folder, "sites/*.yaml"),
        Pattern::new(folder, "sites/more/*/site.yaml"),
    ];
    Watched {
        fingerprint: files::look(&paths, &patterns),
        paths,
        patterns,
    }
}

/// Something done in a folder.
type Act = fn(&Path);

/// Does each of `acts` in a folder that is watched: each is told of once it is done, by events and by looks.
#[track_caller]
fn check(prepare: Act, acts: &[Act]) {
    for pace in [EVENTS, LOOKS] {
        check_at(pace, prepare, acts);
    }
}

#[track_caller]
fn check_at(pace: Pace, prepare: Act, acts: &[Act]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("sites")).unwrap();
    write(folder, "sites/a.yaml", "a");
    prepare(folder);
    let (teller, told) = watch::channel(watched(folder));
    let (events, mut changes) = mpsc::channel(8);
    runtime.block_on(async {
        let acting = async {
            // The watch is set up once the watcher first waits; then the change is made.
            tokio::task::yield_now().await;
            for (number, act) in acts.iter().enumerate() {
                act(folder);
                let done = watched(folder);
                // The loop looks at what it is told of, and a look may have come before the end of it all.
                loop {
                    let event = time::timeout(Duration::from_secs(20), changes.recv()).await;
                    let is_told = matches!(event, Ok(Some(Event::FilesChanged)));
                    assert!(is_told, "change {number} at {pace:?}: {event:?}");
                    let seen = watched(folder);
                    let is_done = seen.fingerprint == done.fingerprint;
                    teller.send(seen).unwrap();
                    if is_done {
                        break;
                    }
                }
                // The watcher looks at what it is told, and its last hints pass: the next change has to bring its own.
                time::sleep(pace.settle * 3).await;
            }
            // Seen is seen: the same bytes are not told of again.
            write(folder, "beside", "noise");
            let again = time::timeout(pace.settle * 5, changes.recv()).await;
            assert!(again.is_err(), "{again:?} at {pace:?}");
        };
        tokio::select! {
            biased;
            () = run(told, events, pace) => panic!("the watcher ended"),
            () = acting => {}
        }
    });
}

fn write(folder: &Path, file: &str, text: &str) {
    fs::write(folder.join(file), text).unwrap();
}

fn rename(folder: &Path, from: &str, to: &str) {
    fs::rename(folder.join(from), folder.join(to)).unwrap();
}

/// Runs a command of the system in a folder.
fn shell(folder: &Path, command: &str) {
    let status = Command::new("sh")
        .args(["-ec", command])
        .current_dir(folder)
        .status();
    assert!(status.unwrap().success(), "{command}");
}

fn written(folder: &Path) {
    write(folder, "proxy.yaml", "one");
}

#[test]
fn a_file_truncated_and_written_is_a_change() {
    check(
        written,
        &[
            |folder| write(folder, "proxy.yaml", "two"),
            |folder| shell(folder, "printf three > proxy.yaml"),
            |folder| shell(folder, "printf four >> proxy.yaml"),
        ],
    );
}

#[test]
fn what_sed_and_cp_and_mv_do_is_a_change() {
    check(
        written,
        &[
            |folder| shell(folder, "sed -i s/one/two/ proxy.yaml"),
            |folder| shell(folder, "printf three > draft; cp draft proxy.yaml"),
            |folder| shell(folder, "printf four > draft; mv draft proxy.yaml"),
            |folder| {
                shell(
                    folder,
                    "printf five > draft; ln -f draft proxy.yaml; rm draft",
                )
            },
            |folder| {
                shell(
                    folder,
                    "printf six > draft; cp --remove-destination draft proxy.yaml",
                )
            },
            |folder| shell(folder, "sed -i s/six/seven/ proxy.yaml"),
        ],
    );
}

#[test]
fn what_an_editor_does_is_a_change() {
    check(
        written,
        &[
            // As vim saves where it may: the old file becomes the backup, a new one is written in its place.
            |folder| {
                write(folder, ".proxy.yaml.swp", "swap");
                rename(folder, "proxy.yaml", "proxy.yaml~");
                write(folder, "proxy.yaml", "two");
                fs::remove_file(folder.join("proxy.yaml~")).unwrap();
                fs::remove_file(folder.join(".proxy.yaml.swp")).unwrap();
            },
            // And where it may not: a copy is the backup.
            |folder| {
                fs::copy(folder.join("proxy.yaml"), folder.join("proxy.yaml~")).unwrap();
                write(folder, "proxy.yaml", "three");
                fs::remove_file(folder.join("proxy.yaml~")).unwrap();
            },
            // As most others do: a draft beside it is renamed over it.
            |folder| {
                write(folder, "proxy.yaml.tmp", "four");
                rename(folder, "proxy.yaml.tmp", "proxy.yaml");
            },
            |folder| {
                fs::remove_file(folder.join("proxy.yaml")).unwrap();
                write(folder, "proxy.yaml", "five");
            },
        ],
    );
}

#[test]
fn a_file_that_is_removed_and_comes_back_is_two_changes() {
    check(
        written,
        &[
            |folder| fs::remove_file(folder.join("proxy.yaml")).unwrap(),
            written,
        ],
    );
    check(
        |_| {},
        &[written, |folder| write(folder, "proxy.yaml", "two")],
    );
}

/// What Kubernetes mounts: files are links into a folder of the version, by way of a link `..data`.
fn mounted(folder: &Path, version: &str, text: &str) {
    fs::create_dir_all(folder.join(version)).unwrap();
    write(folder, &format!("{version}/proxy.yaml"), text);
    symlink(version, folder.join("..data_tmp")).unwrap();
    rename(folder, "..data_tmp", "..data");
}

#[test]
fn a_swap_of_the_data_link_of_kubernetes_is_a_change() {
    check(
        |folder| {
            mounted(folder, "..1", "one");
            symlink("..data/proxy.yaml", folder.join("proxy.yaml")).unwrap();
        },
        &[
            |folder| {
                mounted(folder, "..2", "two");
                fs::remove_dir_all(folder.join("..1")).unwrap();
            },
            |folder| {
                mounted(folder, "..3", "three");
                fs::remove_dir_all(folder.join("..2")).unwrap();
            },
        ],
    );
}

#[test]
fn a_folder_of_sites_that_kubernetes_mounts_is_watched() {
    fn swap(folder: &Path, version: &str, text: &str) {
        let sites = folder.join("sites");
        fs::create_dir(sites.join(version)).unwrap();
        write(&sites, &format!("{version}/k.yaml"), text);
        symlink(version, sites.join("..data_tmp")).unwrap();
        rename(&sites, "..data_tmp", "..data");
    }
    check(
        |folder| {
            written(folder);
            swap(folder, "..1", "one");
            symlink("..data/k.yaml", folder.join("sites/k.yaml")).unwrap();
        },
        &[
            |folder| swap(folder, "..2", "two"),
            |folder| swap(folder, "..3", "three"),
        ],
    );
}

#[test]
fn a_link_that_moves_on_the_way_is_a_change() {
    check(
        |folder| {
            for version in ["v1", "v2", "v3"] {
                fs::create_dir_all(folder.join("releases").join(version)).unwrap();
                write(folder, &format!("releases/{version}/proxy.yaml"), version);
            }
            symlink("releases/v1", folder.join("current")).unwrap();
            symlink("current", folder.join("live")).unwrap();
            symlink("live/proxy.yaml", folder.join("proxy.yaml")).unwrap();
        },
        &[
            // The link in the middle, by another link renamed over it.
            |folder| shell(folder, "ln -s releases/v2 next; mv -T next current"),
            // Taken off and made anew.
            |folder| shell(folder, "ln -sfn releases/v3 current"),
            // The first one leaves out the others.
            |folder| shell(folder, "ln -sf releases/v1/proxy.yaml proxy.yaml"),
            // And behind all of them the file itself.
            |folder| write(folder, "releases/v1/proxy.yaml", "v4"),
        ],
    );
}

#[test]
fn a_chain_of_links_through_folders_is_followed_to_its_end() {
    check(
        |folder| {
            for place in ["one", "two", "three"] {
                fs::create_dir(folder.join(place)).unwrap();
            }
            write(folder, "three/v1", "v1");
            write(folder, "three/v2", "v2");
            symlink("../three/v1", folder.join("two/link")).unwrap();
            symlink("../two/link", folder.join("one/link")).unwrap();
            symlink("one/link", folder.join("proxy.yaml")).unwrap();
        },
        &[
            |folder| {
                shell(
                    folder,
                    "ln -s ../three/v2 two/next; mv -T two/next two/link",
                )
            },
            |folder| write(folder, "three/v2", "v3"),
            |folder| {
                shell(
                    folder,
                    "ln -s ../three/v1 one/next; mv -T one/next one/link",
                )
            },
            |folder| write(folder, "three/v1", "v4"),
        ],
    );
}

#[test]
fn a_link_into_another_folder_is_followed() {
    check(
        |folder| {
            fs::create_dir(folder.join("elsewhere")).unwrap();
            write(folder, "elsewhere/v1", "one");
            write(folder, "elsewhere/v2", "two");
            symlink("v1", folder.join("elsewhere/current")).unwrap();
            symlink(folder.join("elsewhere/current"), folder.join("proxy.yaml")).unwrap();
        },
        &[|folder| {
            symlink("v2", folder.join("elsewhere/next")).unwrap();
            rename(folder, "elsewhere/next", "elsewhere/current");
        }],
    );
}

#[test]
fn a_site_that_is_a_link_to_elsewhere_is_followed() {
    check(
        |folder| {
            written(folder);
            fs::create_dir(folder.join("elsewhere")).unwrap();
            write(folder, "elsewhere/v1", "one");
            symlink("../elsewhere/v1", folder.join("sites/l.yaml")).unwrap();
        },
        &[
            |folder| write(folder, "elsewhere/v1", "two"),
            |folder| shell(folder, "printf three > draft; mv draft elsewhere/v1"),
            |folder| write(folder, "elsewhere/v1", "four"),
        ],
    );
}

#[test]
fn a_file_in_the_place_of_one_that_lives_on_is_watched() {
    check(
        |folder| {
            written(folder);
            // The old file has another name, so that its end is no event.
            fs::hard_link(folder.join("proxy.yaml"), folder.join("kept")).unwrap();
        },
        &[
            |folder| shell(folder, "printf two > draft; mv draft proxy.yaml"),
            |folder| write(folder, "proxy.yaml", "three"),
        ],
    );
}

#[test]
fn a_folder_that_is_removed_and_comes_back_is_watched_again() {
    check(
        |folder| {
            fs::create_dir(folder.join("conf")).unwrap();
            write(folder, "conf/proxy.yaml", "one");
            symlink("conf/proxy.yaml", folder.join("proxy.yaml")).unwrap();
        },
        &[
            |folder| fs::remove_dir_all(folder.join("conf")).unwrap(),
            |folder| {
                fs::create_dir(folder.join("conf")).unwrap();
                write(folder, "conf/proxy.yaml", "two");
            },
            |folder| write(folder, "conf/proxy.yaml", "three"),
            // At once, so that there was no moment without it for the watcher.
            |folder| {
                fs::remove_dir_all(folder.join("conf")).unwrap();
                fs::create_dir(folder.join("conf")).unwrap();
                write(folder, "conf/proxy.yaml", "four");
            },
            |folder| write(folder, "conf/proxy.yaml", "five"),
            |folder| {
                shell(
                    folder,
                    "cp -r conf conf.new; printf six > conf.new/proxy.yaml; mv conf conf.old; mv conf.new conf",
                )
            },
            |folder| write(folder, "conf/proxy.yaml", "seven"),
        ],
    );
}

#[test]
fn a_folder_in_the_place_of_another_is_a_change() {
    const PREPARE: Act = |folder| {
        fs::create_dir(folder.join("conf")).unwrap();
        write(folder, "conf/proxy.yaml", "one");
        symlink("conf/proxy.yaml", folder.join("proxy.yaml")).unwrap();
    };
    const SWAP: &str = "cp -r conf new; printf two > new/proxy.yaml; mv conf old; mv new conf";
    // No event of a file tells that its folder was moved: it is found by the next look.
    let sooner = Pace {
        poll: Duration::from_millis(500),
        ..EVENTS
    };
    for pace in [sooner, LOOKS] {
        let acts: [Act; 2] = [
            |folder| shell(folder, SWAP),
            |folder| write(folder, "conf/proxy.yaml", "three"),
        ];
        check_at(pace, PREPARE, &acts);
    }
    // That of a pattern is listened to itself.
    check(
        written,
        &[
            |folder| {
                shell(
                    folder,
                    "cp -r sites new; printf b > new/b.yaml; mv sites old; mv new sites",
                )
            },
            |folder| write(folder, "sites/b.yaml", "c"),
        ],
    );
}

#[test]
fn what_is_written_beside_a_file_is_no_hint() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    written(folder);
    // One by a link, too: what stands beside the link is a hint then, since the link may be swapped.
    fs::create_dir(folder.join("links")).unwrap();
    let link = folder.join("links/key.pem");
    symlink("../proxy.yaml", &link).unwrap();
    let (bell, mut hints) = mpsc::channel(1);
    let mut places = Places::new(bell, true);
    places.aim(&BTreeSet::from([folder.join("proxy.yaml"), link]), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        write(folder, "access.log", "a line");
        let hint = time::timeout(Duration::from_millis(100), hints.recv()).await;
        assert!(hint.is_err(), "{hint:?}");
        write(folder, "proxy.yaml", "two");
        let hint = time::timeout(Duration::from_secs(20), hints.recv()).await;
        assert!(hint.is_ok(), "{hint:?}");
    });
}

#[test]
fn sites_that_come_and_go_are_changes() {
    check(
        written,
        &[
            |folder| write(folder, "sites/b.yaml", "b"),
            |folder| write(folder, "sites/a.yaml", "other"),
            |folder| fs::remove_file(folder.join("sites/a.yaml")).unwrap(),
            |folder| rename(folder, "sites/b.yaml", "sites/c.yaml"),
            |folder| fs::remove_dir_all(folder.join("sites")).unwrap(),
            |folder| {
                fs::create_dir(folder.join("sites")).unwrap();
                write(folder, "sites/c.yaml", "c");
            },
            |folder| write(folder, "sites/c.yaml", "d"),
            // Folders that a pattern has a star for: the one above is not even there yet.
            |folder| {
                fs::create_dir_all(folder.join("sites/more/x")).unwrap();
                write(folder, "sites/more/x/site.yaml", "x");
            },
            |folder| write(folder, "sites/more/x/site.yaml", "other"),
            |folder| shell(folder, "cp -r sites/more/x sites/more/y"),
            |folder| write(folder, "sites/more/y/site.yaml", "y"),
            |folder| fs::remove_dir_all(folder.join("sites/more/x")).unwrap(),
        ],
    );
}

#[test]
fn a_change_between_the_load_and_the_watch_is_not_missed() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("sites")).unwrap();
    written(folder);
    let (_teller, told) = watch::channel(watched(folder));
    write(folder, "proxy.yaml", "two");
    let (events, mut changes) = mpsc::channel(8);
    runtime.block_on(async {
        tokio::select! {
            () = run(told, events, EVENTS) => panic!("the watcher ended"),
            event = changes.recv() => assert!(matches!(event, Some(Event::FilesChanged))),
        }
    });
}

/// Time stands still but for what waits, which moves it.
fn in_no_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(test);
}

#[test]
fn a_file_that_is_found_by_a_look_is_told_of_when_nobody_writes_it_any_more() {
    const PIECES: usize = 100;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("sites")).unwrap();
    written(folder);
    let (_teller, told) = watch::channel(watched(folder));
    let (events, mut changes) = mpsc::channel(8);
    let pace = Pace {
        settle: Duration::from_millis(200),
        poll: Duration::from_secs(5),
        hints: false,
    };
    in_no_time(async {
        let writing = async {
            let mut text = String::new();
            for _ in 0..PIECES {
                text.push_str("piece\n");
                write(folder, "proxy.yaml", &text);
                // All pieces together take less than the watcher is patient, and more than its quiet.
                time::sleep(pace.settle * RESTLESS_LIMIT / 2 / PIECES as u32).await;
                assert!(changes.try_recv().is_err(), "told of in the middle");
            }
            let whole = Instant::now();
            assert!(changes.recv().await.is_some());
            assert!(whole.elapsed() <= pace.poll + pace.settle * 2);
        };
        // They begin when a look is due, so that it meets the first of them.
        let writing = async {
            time::sleep(pace.poll - pace.settle / 2).await;
            writing.await;
        };
        tokio::select! {
            () = run(told, events, pace) => panic!("the watcher ended"),
            () = writing => {}
        }
    });
}

#[test]
fn hints_put_a_look_off_until_they_end_or_patience_does() {
    let quiet = Duration::from_millis(200);
    // So many hints, so far apart, and how long they put a look off.
    let check = |count: u32, apart: Duration, expected: Duration| {
        let (bell, mut hints) = mpsc::channel(1);
        in_no_time(async {
            let begun = Instant::now();
            let ringing = async {
                for _ in 0..count {
                    time::sleep(apart).await;
                    // Full is as good as rung.
                    let _ = bell.try_send(());
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = settle(&mut hints, quiet) => {}
                () = ringing => {}
            }
            assert_eq!(begun.elapsed(), expected, "{count} hints, {apart:?} apart");
        });
    };
    check(0, quiet, quiet);
    check(5, quiet / 2, quiet * 5 / 2 + quiet);
    // A swarm in no time is one hint.
    check(
        1000,
        Duration::from_millis(1),
        Duration::from_millis(1000) + quiet,
    );
    check(100_000, Duration::from_millis(1), quiet * RESTLESS_LIMIT);
}
