//! What criu's logs say about a failure.

/// Lines that an error quotes.
const QUOTED: usize = 3;

/// Said whatever happened.
const NOISE: [&str; 4] = [
    "exited, status=",
    "RLIMIT_NOFILE",
    "cgroupd: recv req",
    "Restoring FAILED",
];

/// The lines of a log that tell what went wrong, without those that only tell that something did.
pub fn errors(log: &str) -> String {
    let told: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once("Error ").map(|(_, rest)| rest.trim()))
        .filter(|line| !NOISE.iter().any(|noise| line.contains(noise)))
        .take(QUOTED)
        .collect();
    match told.as_slice() {
        [] => "it gave no reason".to_owned(),
        told => told.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_quotes_the_reasons_of_the_log() {
        let log = "Error (criu/util.c:642): exited, status=1\n\
                   Warn  (criu/x.c:1): odd\n\
                   (00.1) Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds\n";
        assert_eq!(
            errors(log),
            "(criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds"
        );
        assert_eq!(errors(""), "it gave no reason");
    }
}
