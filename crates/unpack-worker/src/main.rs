//! `berth-unpack`: see the library's documentation.
//!
//! Apart from the daemon, so that it is small and linked statically: it comes into being once for
//! each layer.

use std::process::ExitCode;

fn main() -> ExitCode {
    if berth_unpack_worker::is_asked_for() {
        return berth_unpack_worker::serve();
    }
    eprintln!("berth-unpack: berthd runs this program for each layer of an image that it unpacks");
    ExitCode::from(2)
}
