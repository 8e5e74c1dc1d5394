//! Frames and blocks, good and bad, in one piece and byte by byte.

use super::{Frames, Offence};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `:method: GET`, `:scheme: http`, `:path: /` and a literal.
const HEAD: &[u8] = b"\x82\x86\x84\x00\x01x\x01y";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// What comes of these frames behind a preface, whole and byte by byte, and how many bytes of them pass.
#[track_caller]
fn check(frames: &[Vec<u8>], expected: Result<(), (usize, Offence)>) {
    let bytes = [PREFACE, &frames.concat()].concat();
    let expected = expected.map_err(|(passed, offence)| {
        let passed: usize = frames[..passed].iter().map(Vec::len).sum();
        (PREFACE.len() + passed, offence)
    });
    assert_eq!(Frames::default().read(&bytes), expected, "whole");
    let mut split = Frames::default();
    let found = bytes.iter().find_map(|byte| split.read(&[*byte]).err());
    assert_eq!(
        found.map(|(_, offence)| offence),
        expected.err().map(|(_, offence)| offence),
        "byte by byte"
    );
}

#[test]
fn what_a_client_may_send_passes() {
    let padded = [&[3][..], HEAD, &[0; 3]].concat();
    let ranked = [&[0; 5][..], HEAD].concat();
    check(
        &[
            frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0, 0, 1]),
            frame(4, 1, 0, &[]),
            frame(1, 4, 1, HEAD),
            frame(0, 0, 1, &[0; 16 << 10]),
            frame(1, 5, 3, HEAD),
            frame(1, 0x0d, 5, &padded),
            frame(1, 0x25, 7, &ranked),
            frame(1, 1, 9, &HEAD[..4]),
            frame(9, 0, 9, &[]),
            frame(9, 4, 9, &HEAD[4..]),
            frame(2, 0, 11, &[0; 5]),
            frame(8, 0, 3, &[0, 0, 0, 1]),
            frame(6, 0, 0, &[0; 8]),
            frame(0xbe, 0xff, 0, b"unknown"),
            frame(1, 5, 1, b"\x00\x01x\x01y"),
            frame(3, 0, 3, &[0; 4]),
            frame(7, 0, 0, &[0; 8]),
        ],
        Ok(()),
    );
}

#[test]
fn lengths_that_a_kind_does_not_have_are_refused() {
    for (kind, flags, stream, length) in [
        (2, 0, 1, 4),
        (3, 0, 1, 5),
        (4, 0, 0, 5),
        (4, 1, 0, 6),
        (6, 0, 0, 7),
        (7, 0, 0, 7),
        (8, 0, 0, 3),
        (0, 0, 1, (16 << 10) + 1),
        (1, 0x0d, 3, 0),
        (1, 0x25, 3, 4),
    ] {
        check(
            &[
                frame(1, 4, 1, HEAD),
                frame(kind, flags, stream, &vec![0; length]),
            ],
            Err((1, Offence::FrameSize)),
        );
    }
}

#[test]
fn frames_and_settings_out_of_place_are_refused() {
    let large = [0, 4, 0x80, 0, 0, 0];
    for (name, frames, offence) in [
        (
            "a window",
            vec![frame(4, 0, 0, &large)],
            Offence::FlowControl,
        ),
        ("a push", vec![frame(5, 0, 1, &[])], Offence::Protocol),
        (
            "a continuation of nothing",
            vec![frame(9, 4, 1, HEAD)],
            Offence::Protocol,
        ),
        (
            "padding without an end",
            vec![frame(1, 0x0d, 1, &[9, 0x82])],
            Offence::Protocol,
        ),
        (
            "data in a block",
            vec![frame(1, 1, 1, HEAD), frame(0, 0, 1, b"x")],
            Offence::Protocol,
        ),
        (
            "another block in a block",
            vec![frame(1, 1, 1, HEAD), frame(9, 4, 3, HEAD)],
            Offence::Protocol,
        ),
        (
            "data behind the end",
            vec![frame(1, 5, 1, HEAD), frame(0, 0, 1, b"x")],
            Offence::StreamClosed,
        ),
        (
            "a head behind the end",
            vec![
                frame(1, 5, 1, HEAD),
                frame(1, 4, 3, HEAD),
                frame(1, 5, 1, HEAD),
            ],
            Offence::StreamClosed,
        ),
        (
            "data behind a reset",
            vec![
                frame(1, 4, 1, HEAD),
                frame(3, 0, 1, &[0; 4]),
                frame(0, 0, 1, b"x"),
            ],
            Offence::StreamClosed,
        ),
    ] {
        let good = frames.len() - 1;
        println!("{name}");
        check(&frames, Err((good, offence)));
    }
}

#[test]
fn streams_are_opened_in_order_and_those_that_are_forgotten_are_left_to_the_codec() {
    check(
        &[frame(1, 5, 5, HEAD), frame(1, 5, 3, HEAD)],
        Err((1, Offence::Protocol)),
    );
    let mut frames: Vec<_> = (0..200).map(|nth| frame(1, 4, nth * 2 + 1, HEAD)).collect();
    frames.push(frame(0, 1, 1, b"x"));
    frames.push(frame(0, 1, 1, b"x"));
    check(&frames, Ok(()));
    frames.push(frame(0, 1, 399, b"x"));
    frames.push(frame(0, 1, 399, b"x"));
    check(&frames, Err((203, Offence::StreamClosed)));
}

#[test]
fn blocks_that_no_encoder_writes_are_refused() {
    for (block, offence) in [
        (&b"\x40"[..], Some(Offence::Compression)),
        (b"\x80", Some(Offence::Compression)),
        (b"\x00\x01", Some(Offence::Compression)),
        (b"\x00\x01x\x7f", Some(Offence::Compression)),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\x01",
            Some(Offence::Compression),
        ),
        (
            b"\x44\x7f\xff\xff\xff\xff\xff\x7f",
            Some(Offence::Compression),
        ),
        (b"\x0f\x0a\x01y", None),
        (b"\x20\x3f\xe1\x1f\x82", None),
        (b"\x44\x00", None),
    ] {
        let expected = offence.map_or(Ok(()), |offence| Err((0, offence)));
        check(&[frame(1, 5, 1, block)], expected);
    }
    let long = [b"\x00\x01x\x7f\x81\x01", &[b'y'; 256][..], b"\x82"].concat();
    check(&[frame(1, 5, 1, &long)], Ok(()));
}

#[test]
fn trailers_have_no_pseudo_fields() {
    let trailers = |block: &[u8]| vec![frame(1, 4, 1, HEAD), frame(1, 5, 1, block)];
    for block in [
        &b"\x82"[..],
        b"\x41\x01y",
        b"\x04\x01y",
        b"\x00\x02:x\x01y",
        b"\x00\x82\xb8\x7f\x01y",
    ] {
        check(&trailers(block), Err((1, Offence::Protocol)));
    }
    for block in [
        &b"\x90"[..],
        b"\x00\x02x:\x01y",
        b"\x20\x90",
        b"\x0f\x01\x01:",
    ] {
        check(&trailers(block), Ok(()));
    }
}
