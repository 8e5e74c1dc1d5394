//! The `lockgate` program: parses the arguments, runs the command, turns its end into an exit status.

use std::process::ExitCode;

use lockgate::app::command;
use lockgate::cli;
use mimalloc::MiMalloc;

/// Many small allocations of many threads, most of them short-lived: what it is made for.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match cli::parse(cli::arguments()) {
        Ok(invocation) => command::execute(invocation),
        Err(error) => {
            // Help and version go to standard output and end in peace; what cannot be printed cannot be helped.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}
