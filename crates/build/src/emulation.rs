//! Whether this machine runs programs for another platform: by itself, or by what `binfmt_misc` has
//! registered for them.

use std::fs;
use std::path::Path;

use berth_images::Platform;

/// Where the kernel tells what is registered.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";
/// There on machines of x86-64 that run programs of 32 bits.
const RUNS_386: &str = "/proc/sys/abi/vsyscall32";

/// How ELF files of an architecture begin: 64 bits or 32, the order of bytes, and the machine's
/// number.
struct Kind {
    is_wide: bool,
    is_little: bool,
    machine: u16,
}

/// # Errors
/// With what is missing, and how it is had.
pub fn check(machine: &Platform, wanted: &Platform) -> Result<(), String> {
    if machine.runs(wanted) || is_native(machine, wanted) {
        return Ok(());
    }
    match by_handler(Path::new(REGISTERED), wanted) {
        Handler::Fixed => Ok(()),
        Handler::None => Err(format!(
            "commands for {wanted} are not run by this machine, which is {machine}: binfmt_misc has \
             no handler for them; Debian's qemu-user-static registers one. Or build on \
             --platform=$BUILDPLATFORM, and COPY what is made for {wanted}"
        )),
        Handler::Loose(name) => Err(format!(
            "commands for {wanted} have a handler in binfmt_misc, {name}, that looks for its \
             interpreter in the image: register it with the flag F, as Debian's qemu-user-static \
             does"
        )),
    }
}

fn is_native(machine: &Platform, wanted: &Platform) -> bool {
    let pair = (machine.architecture.as_str(), wanted.architecture.as_str());
    pair == ("amd64", "386") && Path::new(RUNS_386).exists()
}

#[derive(Debug, PartialEq, Eq)]
enum Handler {
    None,
    /// Its interpreter would have to be in the image.
    Loose(String),
    /// Its interpreter was opened when it was registered: flag F.
    Fixed,
}

fn by_handler(registered: &Path, wanted: &Platform) -> Handler {
    let Some(kind) = kind(&wanted.architecture) else {
        return Handler::None;
    };
    let head = head(&kind);
    // Where nothing is mounted, nothing is registered.
    let entries = fs::read_dir(registered).into_iter().flatten().flatten();
    let mut found = Handler::None;
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ["register", "status"].contains(&name.as_str()) {
            continue;
        }
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        match takes(&text, &head) {
            Some(true) => return Handler::Fixed,
            Some(false) => found = Handler::Loose(name),
            None => {}
        }
    }
    found
}

/// Whether an entry takes a file that begins so, and if, whether its interpreter is fixed.
fn takes(entry: &str, head: &[u8]) -> Option<bool> {
    let mut lines = entry.lines();
    if lines.next() != Some("enabled") {
        return None;
    }
    let field = |name: &str| {
        let mut lines = entry.lines();
        lines.find_map(|line| {
            line.strip_prefix(name)
                .map(|rest| rest.trim_start_matches(':').trim())
        })
    };
    let offset: usize = field("offset ")?.parse().ok()?;
    let magic = hex::decode(field("magic ")?).ok()?;
    let mask = match field("mask ") {
        Some(mask) => hex::decode(mask).ok()?,
        None => vec![0xff; magic.len()],
    };
    let found = head.get(offset..offset + magic.len())?;
    let mut bytes = found.iter().zip(&magic).zip(&mask);
    let fits = mask.len() == magic.len() && bytes.all(|((a, b), mask)| a & mask == b & mask);
    fits.then(|| field("flags").unwrap_or_default().contains('F'))
}

fn kind(architecture: &str) -> Option<Kind> {
    let (is_wide, is_little, machine) = match architecture {
        "amd64" => (true, true, 62),
        "386" => (false, true, 3),
        "arm64" => (true, true, 183),
        "arm" => (false, true, 40),
        "riscv64" => (true, true, 243),
        "ppc64le" => (true, true, 21),
        "s390x" => (true, false, 22),
        "loong64" => (true, true, 258),
        "mips64le" => (true, true, 8),
        "mips64" => (true, false, 8),
        _ => return None,
    };
    Some(Kind {
        is_wide,
        is_little,
        machine,
    })
}

/// The first 20 bytes of a program: ident, type (an executable), machine.
fn head(kind: &Kind) -> Vec<u8> {
    let mut head = vec![0x7f, b'E', b'L', b'F'];
    head.extend([1 + u8::from(kind.is_wide), 2 - u8::from(kind.is_little), 1]);
    head.extend([0; 9]);
    for number in [2, kind.machine] {
        head.extend(match kind.is_little {
            true => number.to_le_bytes(),
            false => number.to_be_bytes(),
        });
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Debian's package registers it.
    const ARM64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\n\
        flags: POCF\noffset 0\nmagic 7f454c460201010000000000000000000200b700\n\
        mask ffffffffffffff00fffffffffffffffffeffffff\n";

    fn platform(text: &str) -> Platform {
        Platform::parse(text).unwrap()
    }

    #[test]
    fn a_handler_counts_if_it_is_on_and_brings_its_interpreter() {
        let scratch = tempfile::tempdir().unwrap();
        let found = |wanted: &str| by_handler(scratch.path(), &platform(wanted));
        let write = |text: &str| fs::write(scratch.path().join("qemu-aarch64"), text).unwrap();
        fs::write(scratch.path().join("status"), "enabled\n").unwrap();
        assert_eq!(found("arm64"), Handler::None);
        write(ARM64);
        assert_eq!(found("arm64"), Handler::Fixed);
        assert_eq!(found("s390x"), Handler::None);
        assert_eq!(found("arm"), Handler::None);
        assert_eq!(found("nothing-known"), Handler::None);
        write(&ARM64.replace("POCF", "POC"));
        assert_eq!(found("arm64"), Handler::Loose("qemu-aarch64".to_owned()));
        write(&ARM64.replace("enabled", "disabled"));
        assert_eq!(found("arm64"), Handler::None);
        // By the end of its name, which no program's head is.
        write("enabled\ninterpreter /usr/bin/x\nflags: F\nextension .arm64\n");
        assert_eq!(found("arm64"), Handler::None);
    }

    #[test]
    fn what_the_machine_runs_by_itself_needs_nothing() {
        let machine = Platform::host();
        assert_eq!(check(&machine, &machine), Ok(()));
        let told = check(&platform("amd64"), &platform("nothing-known")).unwrap_err();
        assert!(
            told.contains("qemu-user-static") && told.contains("BUILDPLATFORM"),
            "{told}"
        );
    }
}
