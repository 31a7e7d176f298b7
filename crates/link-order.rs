//! Build script of the programs that are laid out: has the linker put functions in the order of the file
//! that `BERTH_LAYOUT` names, if it names one (`cargo xtask release` makes it). Then relocations are
//! packed, too, which glibc 2.36 and later understand.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=../link-order.rs");
    println!("cargo::rerun-if-env-changed=BERTH_LAYOUT");
    let Ok(layout) = env::var("BERTH_LAYOUT") else {
        return;
    };
    println!("cargo::rerun-if-changed={layout}");
    for argument in [
        &format!("--symbol-ordering-file={layout}"),
        // Functions come and go between two versions.
        "--no-warn-symbol-ordering",
        "-z,pack-relative-relocs",
    ] {
        println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
    }
}
