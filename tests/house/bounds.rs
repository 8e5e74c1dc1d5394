//! Invariant I8 by the source: every `loop` has a reason to end or to wait, and every queue a limit that is on the page.
//!
//! A `for` ends by itself and a `while` says what for; a bare `loop` says neither, so each has its reason here, by the
//! file and the number of them. One more, or one less, is looked at by whoever writes it.

use crate::source;

/// Why the loops of a file do not go on for ever without waiting.
pub(crate) const LOOPS: &[(&str, usize, &str)] = &[
    (
        "app/command.rs",
        1,
        "waits for signals, for as long as the process lives",
    ),
    (
        "base/deadline.rs",
        1,
        "waits for the tick, for as long as the worker lives",
    ),
    (
        "base/gather.rs",
        1,
        "a write each, at most two: behind what waited, and of the pieces",
    ),
    (
        "base/stagger.rs",
        1,
        "starts one each, then waits for those: DIALS_LIMIT",
    ),
    (
        "controlplane/admin/mod.rs",
        1,
        "waits for callers: CALLERS_LIMIT",
    ),
    (
        "controlplane/discovery/dns/mod.rs",
        1,
        "waits for lookups: LOOKUP_LIMIT",
    ),
    (
        "controlplane/prober.rs",
        1,
        "waits for checks: CHECKS_AT_A_TIME",
    ),
    (
        "controlplane/process/handover.rs",
        1,
        "reads a line of the other process, up to its limit and within its patience",
    ),
    (
        "controlplane/process/systemd.rs",
        1,
        "waits for the beat of the watchdog",
    ),
    (
        "controlplane/process/upgrade.rs",
        2,
        "waits for demands; for a child that ends, within REAP_TIMEOUT",
    ),
    ("controlplane/reload/ending.rs", 1, "waits for demands"),
    (
        "controlplane/reload/files.rs",
        1,
        "reads a file: SIZE_LIMIT",
    ),
    (
        "controlplane/reload/mod.rs",
        2,
        "waits for events: EVENTS_LIMIT",
    ),
    (
        "controlplane/reload/watch/mod.rs",
        1,
        "waits for changes of files: QUIET and RESTLESS_LIMIT",
    ),
    (
        "dataplane/http/attempts.rs",
        1,
        "waits for the attempt, until its deadline",
    ),
    (
        "dataplane/http/forward.rs",
        1,
        "an attempt each: retry.attempts, STALE_REPEATS, REFUSALS, and one deadline over all",
    ),
    (
        "dataplane/http/framing/head.rs",
        1,
        "a line each of what has been read: limits.header_bytes",
    ),
    (
        "dataplane/http/http1/answer/mod.rs",
        1,
        "gathers frames up to WRITE_BYTES",
    ),
    (
        "dataplane/http/http1/connection/mod.rs",
        4,
        "a step each, or waits for the socket: AHEAD_BYTES",
    ),
    (
        "dataplane/http/serve.rs",
        2,
        "until the watch has nothing to say: each of its verdicts comes once",
    ),
    (
        "dataplane/http/upgrade.rs",
        1,
        "waits for either side of a tunnel: BUFFER",
    ),
    (
        "dataplane/http/waiting.rs",
        1,
        "waits in the queue: queue.wait, and the deadline of the exchange",
    ),
    (
        "dataplane/listener/accept.rs",
        2,
        "waits for clients, and for room: limits.connections",
    ),
    (
        "dataplane/listener/connection.rs",
        1,
        "waits for the first bytes, within timeouts.first_byte",
    ),
    (
        "dataplane/route/edges.rs",
        1,
        "half of the slots are free, at one of which it ends",
    ),
    (
        "dataplane/route/tree.rs",
        1,
        "a segment of the path each: TARGET_BYTES",
    ),
    (
        "dataplane/tls/acceptor.rs",
        1,
        "waits for the hello, within timeouts.handshake",
    ),
    ("dataplane/upstream/client.rs", 1, "waits for the sweep"),
    (
        "dataplane/upstream/http1/chunked.rs",
        1,
        "takes something off what has been read",
    ),
    (
        "dataplane/upstream/http1/decode.rs",
        1,
        "a line each of what has been read: limits.response_header_bytes",
    ),
    (
        "dataplane/upstream/http1/flow.rs",
        1,
        "waits for the endpoint, or takes something off what came",
    ),
    (
        "dataplane/upstream/http1/fuzzing.rs",
        1,
        "a chunk each of what was handed in, for fuzzers alone",
    ),
    (
        "dataplane/upstream/http1/mod.rs",
        3,
        "waits for the endpoint or the socket: INTERIM_LIMIT, QUEUE_LIMIT",
    ),
    (
        "dataplane/upstream/pick/maglev.rs",
        1,
        "a place each of a prime number of them, one of which is free",
    ),
    (
        "dataplane/upstream/shelf.rs",
        2,
        "an idle connection each; waits for a place, within timeouts.connect",
    ),
    (
        "dataplane/upstream/simulation.rs",
        1,
        "an attempt each, for tests alone",
    ),
    ("dataplane/worker.rs", 1, "waits REFRESH"),
    (
        "import/caddy/syntax.rs",
        1,
        "a character each of a file: SIZE_LIMIT",
    ),
    (
        "import/nginx/syntax.rs",
        3,
        "a word or a character each of a file: SIZE_LIMIT",
    ),
    ("telemetry/worker_log.rs", 1, "waits FLUSH_EVERY"),
    ("telemetry/writer.rs", 1, "waits for buffers: QUEUE_LIMIT"),
];

/// What bounds the queues of a file.
pub(crate) const QUEUES: &[(&str, &str)] = &[
    ("controlplane/reload/board.rs", "HISTORY_LIMIT"),
    ("dataplane/http/http1/outbox.rs", "HTTP1_BUFFER"),
    ("dataplane/http/mirror.rs", "BODY_LIMIT"),
    ("dataplane/tls/tickets.rs", "KEPT"),
    ("dataplane/upstream/http1/mod.rs", "QUEUE_LIMIT"),
];

/// Rooms that no stranger's bytes come to, and no loop of which runs while the proxy does.
const ELSEWHERE: &[&str] = &["config/", "demo/", "cli.rs"];

/// What is wrong with a file of `src/`.
pub(crate) fn broken(file: &str, text: &str, limits_page: &str) -> Vec<String> {
    if ELSEWHERE.iter().any(|room| file.starts_with(room)) || file.ends_with("tests.rs") {
        return Vec::new();
    }
    let text = text.split("\nmod tests {").next().unwrap_or(text);
    let tokens = source::tokens(text);
    let mut broken = Vec::new();
    let words = |words: &[&str]| {
        let all = tokens.windows(words.len());
        all.filter(|window| {
            window
                .iter()
                .map(|token| token.text)
                .eq(words.iter().copied())
        })
        .count()
    };
    let loops = words(&["loop", "{"]);
    let known = LOOPS.iter().find(|(known, ..)| *known == file);
    let expected = known.map_or(0, |(_, count, _)| *count);
    if loops != expected {
        broken.push(format!(
            "src/{file}: {loops} loops, and {expected} with a reason in tests/house/bounds.rs"
        ));
    }
    let unbounded = ["unbounded_channel", "UnboundedSender", "unbounded"];
    for token in &tokens {
        if unbounded.contains(&token.text) {
            broken.push(format!(
                "src/{file}:{}: a queue without a limit",
                token.line
            ));
        }
    }
    if words(&["mpsc", "::", "channel", "(", ")"]) + words(&["mpsc", "::", "channel", "::"]) > 0 {
        broken.push(format!("src/{file}: a queue without a limit"));
    }
    if words(&["VecDeque", "<"]) > 0 {
        match QUEUES.iter().find(|(known, _)| *known == file) {
            None => broken.push(format!(
                "src/{file}: its queue has no limit in tests/house/bounds.rs"
            )),
            Some((_, limit)) if !limits_page.contains(&format!("`{limit}`")) => {
                broken.push(format!(
                    "docs/limits.md: `{limit}` of src/{file} is not there"
                ));
            }
            Some(_) => {}
        }
    }
    broken
}
