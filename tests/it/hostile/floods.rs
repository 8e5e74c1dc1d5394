//! Floods over HTTP/2: each ends, nothing of it reaches the endpoint, and whoever has reasons to send the like is served.
//! RFC 9113 §10.5.

use std::io::Write;
use std::ops::RangeInclusive;
use std::thread;

use super::frames::{
    CONTINUATION, DATA, END_STREAM, GOAWAY, HEADERS, Outcome, PING, PRIORITY, Peer, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, frame, headers,
};
use super::{Stage, ending};
use crate::harness::wire::Transport;
use crate::harness::{expect, play};

const ENHANCE_YOUR_CALM: u32 = 11;

/// A request for a path.
fn ask(stream: u32, flags: u8, method: &str, path: &str) -> Vec<u8> {
    let fields = [
        (":method", method),
        (":scheme", "http"),
        (":authority", "app.test"),
        (":path", path),
    ];
    let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    headers(stream, flags, &block(&fields))
}

/// Sends these frames without end, and reads what comes meanwhile: the code of the last GOAWAY.
fn flood(peer: &mut Peer, frames: &[u8]) -> Option<u32> {
    let many = frames.repeat(1000);
    let Transport::Tcp(stream) = peer.client.wire.stream() else {
        unreachable!("the client speaks in the clear")
    };
    let mut writer = stream.try_clone().unwrap();
    let writes = thread::spawn(move || {
        for round in 0..2000 {
            if writer.write_all(&many).is_err() {
                return round;
            }
        }
        panic!("nobody minds two million frames");
    });
    let mut code = None;
    while let Some((kind, _, _, payload)) = peer.read() {
        if kind == GOAWAY {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
    writes.join().unwrap();
    code
}

/// A flood of frames behind `start`.
fn ends(start: &[u8], frames: &[u8], records: &[(u16, &str)], begun: &[&str]) {
    let stage = Stage::new("");
    let mut honest = stage.proxy.client();
    assert_eq!(honest.get("/own").status(), 200);
    let mut peer = Peer::connect(stage.proxy.address());
    peer.client.send(start);
    assert_eq!(flood(&mut peer, frames), Some(ENHANCE_YOUR_CALM));
    assert_eq!(honest.get("/own").status(), 200);
    stage.origin.saw(&[], begun);
    drop((honest, peer));
    let mut told: Vec<_> = stage.proxy.stop();
    told.retain(|record| record["path"] != "/own");
    let told: Vec<_> = told.iter().map(ending).collect();
    // The codec may end the connection before it hands a request over.
    let is_early = begun.len() > told.len() && told.is_empty();
    assert!(is_early || told == records, "{told:?}, not {records:?}");
    stage.origin.is_sound();
}

#[test]
fn a_flood_of_frames_that_carry_nothing_ends_its_connection() {
    play(|| {
        let bare = [(499, "control_flood")];
        let window = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes());
        let setting = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
        ends(&[], &frame(PING, 0, 0, &[0; 8]), &bare, &[]);
        ends(&[], &setting, &bare, &[]);
        ends(&[], &frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 15]), &bare, &[]);
        ends(&[], &window, &bare, &[]);
        ends(&[], &frame(0xbe, 0, 0, &[]), &bare, &[]);
        let post = ask(1, 0, "POST", "/stall");
        // Here the codec is stricter.
        ends(&post, &frame(DATA, 0, 1, &[]), &bare, &["POST /stall"]);
    });
}

#[test]
fn settings_that_are_never_acknowledged_are_no_harm() {
    play(|| {
        let mut stage = Stage::new("");
        let mut peer = Peer::connect(stage.proxy.address());
        // The peer of this kit acknowledges nothing, and is answered all the same.
        for stream in (1..41).step_by(2) {
            peer.client.send(ask(stream, END_STREAM, "GET", "/own"));
            assert_eq!(peer.outcome(stream), Outcome::Status(200));
            stage.records.push(("own", 200, ""));
        }
        drop(peer);
        stage.end();
    });
}

#[test]
fn whoever_takes_a_byte_at_a_time_or_sends_one_is_served() {
    play(|| {
        let stage = Stage::new("");
        let mut peer = Peer::connect(stage.proxy.address());
        // An upload of bytes, with a window opened and a ping now and then.
        let mut bytes = ask(1, 0, "POST", "/good");
        for nth in 0..30_000 {
            bytes.extend(frame(DATA, 0, 1, b"x"));
            if nth % 100 == 0 {
                bytes.extend(frame(PING, 0, 0, &[0; 8]));
                bytes.extend(frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()));
            }
        }
        bytes.extend(frame(DATA, END_STREAM, 1, b"x"));
        peer.client.send(&bytes);
        assert_eq!(peer.outcome(1), Outcome::Status(200));
        drop(peer);
        let records = stage.proxy.stop();
        assert_eq!(ending(&records[0]), (200, ""));
        assert_eq!(records[0]["bytes_in"], 30_001);
    });
}

/// Requests on a connection that holds them as long as the case lasts, with windows that are shut: so many of them reach the
/// endpoint.
fn held(more: &[(&'static str, String)], path: &'static str, reach: RangeInclusive<usize>) {
    let stage = Stage::new("");
    let mut honest = stage.proxy.client();
    let mut peer = Peer::connect(stage.proxy.address());
    peer.client.send(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    for stream in (1..129).step_by(2) {
        let mut fields = vec![
            (":method", "GET".to_owned()),
            (":scheme", "http".to_owned()),
            (":authority", "app.test".to_owned()),
            (":path", path.to_owned()),
        ];
        fields.extend_from_slice(more);
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        peer.client
            .send(headers(stream, END_STREAM, &block(&fields)));
    }
    expect::eventually("they are there", || {
        let seen = stage.origin.seen.lock().unwrap();
        (seen.requests.len() >= *reach.start()).then_some(())
    });
    assert_eq!(honest.get("/own").status(), 200);
    let seen = stage.origin.seen.lock().unwrap().requests.len();
    assert!(reach.contains(&seen), "the endpoint saw {seen} requests");
    drop((peer, honest));
    stage.origin.is_sound();
}

#[test]
fn headers_and_windows_that_are_held_leave_room_for_others() {
    play(|| {
        held(&[], "/endless", 64..=64);
        // A connection holds 512 KiB of headers.
        held(&[("x", "y".repeat(30_000))], "/stall", 16..=20);
        let many = (0..120).map(|_| ("x", "y".repeat(200)));
        held(&many.collect::<Vec<_>>(), "/stall", 16..=20);
        let crumbs = (0..120).map(|_| ("cookie", "c=1".to_owned()));
        held(&crumbs.collect::<Vec<_>>(), "/stall", 64..=64);
    });
}

#[test]
fn a_client_that_has_us_reset_its_streams_reaches_nobody() {
    play(|| {
        let nothing = |stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
        let beyond = |stream| frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
        let behind = |stream| frame(DATA, 0, stream, b"x");
        let own = |stream: u32| {
            let depends = [&stream.to_be_bytes()[..], &[15]].concat();
            frame(PRIORITY, 0, stream, &depends)
        };
        let reset = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        let again = |stream| frame(HEADERS, 4, stream, &[0x82]);
        let ways: [&dyn Fn(u32) -> Vec<u8>; 6] = [&nothing, &beyond, &behind, &own, &reset, &again];
        for way in ways {
            let stage = Stage::new("");
            let mut peer = Peer::connect(stage.proxy.address());
            let mut bytes = Vec::new();
            for stream in (1..6001).step_by(2) {
                bytes.extend(ask(stream, END_STREAM, "GET", "/stall"));
                bytes.extend(way(stream));
            }
            peer.client.send(&bytes);
            while peer.read().is_some() {}
            let seen = stage.origin.seen.lock().unwrap().requests.len();
            // One at most that comes at the end of what is read at a time, before the frame that ends it.
            assert!(seen <= 8, "the endpoint saw {seen} requests");
            stage.origin.is_sound();
        }
    });
}

#[test]
fn a_header_that_does_not_end_is_not_waited_for() {
    play(|| {
        for piece in [&b""[..], &[0, 1, b'a', 1, b'b'].repeat(3000)] {
            let stage = Stage::new("");
            let mut peer = Peer::connect(stage.proxy.address());
            let mut half = ask(1, END_STREAM, "GET", "/good");
            half[4] &= !4;
            peer.client.send(half);
            let more = frame(CONTINUATION, 0, 1, piece);
            let sent = (0..10_000).take_while(|_| peer.client.send(&more)).count();
            // Small ones may be on their way before the last word comes.
            let mut is_told = false;
            while let Some((kind, ..)) = peer.read() {
                is_told |= kind == GOAWAY;
            }
            assert!(is_told || sent < 10_000, "nobody minds");
            stage.origin.saw(&[], &[]);
            drop(peer);
            stage.origin.is_sound();
        }
    });
}
