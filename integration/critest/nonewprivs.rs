//! Says as whom it runs: installed setuid root, it tells whether a container
//! may gain privileges.

fn main() {
    let status = std::fs::read_to_string("/proc/self/status").expect("own status");
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("own ids");
    // Real, effective, saved and filesystem uid.
    let effective = ids.split_whitespace().nth(1).expect("effective uid");
    println!("Effective uid: {effective}");
}
