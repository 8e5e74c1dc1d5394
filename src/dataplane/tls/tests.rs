//! Handshakes over loopback: both sides of this room, and clients of every kind.
