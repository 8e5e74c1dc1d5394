//! A backend to try things on, the same that `lockgate demo` starts two of.
//!
//! `cargo run --example backend -- 127.0.0.1:9003 three` listens there and calls itself `three`; without a name it
//! is called by its address. It ends with Ctrl-C.

use std::net::SocketAddr;
use std::process::ExitCode;

use lockgate::demo::Backends;

#[expect(clippy::print_stderr, reason = "a program for people at a terminal")]
fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_default();
    let name = args.next().unwrap_or_else(|| address.clone());
    let Ok(parsed) = address.parse::<SocketAddr>() else {
        eprintln!("usage: cargo run --example backend -- ADDRESS:PORT [NAME]");
        return ExitCode::from(2);
    };
    match Backends::start(&[(&name, parsed)], None) {
        Ok(backends) => {
            eprintln!("backend `{name}` answers at http://{address}");
            backends.join();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
