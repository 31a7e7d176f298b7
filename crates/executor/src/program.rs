//! The program of a process: found by the rules of `PATH`, in the root and
//! as the user that it will run as.

use crate::report::Failure;
use crate::step::Step;
use berth_kernel::{Errno, Execution};
use std::ffi::{CString, NulError};

/// A program and all that exec needs, laid out before the clone.
#[derive(Debug)]
pub(crate) struct ProgramPlan {
    /// As the caller named it.
    pub(crate) name: String,
    candidates: Vec<CString>,
    execution: Execution,
}

impl ProgramPlan {
    /// `arguments` holds at least the program's name. A name without a slash
    /// is looked for in the `PATH` of `environment`.
    pub(crate) fn new(
        name: &str,
        arguments: &[String],
        environment: &[String],
    ) -> Result<Self, NulError> {
        Ok(Self {
            name: name.to_owned(),
            candidates: candidates(name, environment)?,
            execution: Execution::new(arguments, environment)?,
        })
    }

    /// The first candidate that the calling process may execute.
    pub(crate) fn find(&self) -> Result<&CString, Failure> {
        let mut refused = None;
        for candidate in &self.candidates {
            match berth_kernel::executable_at(candidate) {
                Ok(()) => return Ok(candidate),
                Err(Errno::NOENT | Errno::NOTDIR) if !self.name.contains('/') => {}
                Err(errno) => refused = refused.or(Some((candidate, errno))),
            }
        }
        let (subject, errno) = match refused {
            Some((candidate, errno)) => (candidate.to_string_lossy().into_owned(), errno),
            None => (self.name.clone(), Errno::NOENT),
        };
        Err(Failure::of(Step::FindProgram, &subject)(errno))
    }

    /// Replaces the calling process; returns only when that failed.
    pub(crate) fn execute(&self, program: &CString) -> Failure {
        let errno = self.execution.run(program);
        Failure::of(Step::Execute, program.to_string_lossy().as_ref())(errno)
    }
}

fn candidates(name: &str, environment: &[String]) -> Result<Vec<CString>, NulError> {
    if name.contains('/') {
        return Ok(vec![CString::new(name)?]);
    }
    let path = environment
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or_default();
    path.split(':')
        // A relative directory would find what lies in the working directory.
        .filter(|directory| directory.starts_with('/') && !name.is_empty())
        .map(|directory| CString::new(format!("{directory}/{name}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_in_absolute_directories_of_the_last_path() {
        let cases: [(&str, &[&str], &[&str]); 6] = [
            (
                "sh",
                &["PATH=/x", "PATH=/bin:/usr/bin"],
                &["/bin/sh", "/usr/bin/sh"],
            ),
            ("sh", &["PATH=.::bin:/bin"], &["/bin/sh"]),
            ("sh", &["HOME=/"], &[]),
            ("./sh", &["PATH=/bin"], &["./sh"]),
            ("/bin/sh", &[], &["/bin/sh"]),
            ("", &["PATH=/bin"], &[]),
        ];
        for (name, environment, expected) in cases {
            let environment: Vec<String> = environment.iter().map(ToString::to_string).collect();
            let found = candidates(name, &environment).unwrap();
            let found: Vec<_> = found.iter().map(|c| c.to_str().unwrap()).collect();
            assert_eq!(found, expected, "{name} {environment:?}");
        }
    }

    #[test]
    fn a_missing_program_is_told_from_one_that_may_not_run() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("data"), "").unwrap();
        let path = format!("PATH=/nowhere:{}", dir.path().display());
        let find = |name: &str| {
            let plan = ProgramPlan::new(name, &[name.to_owned()], std::slice::from_ref(&path));
            plan.unwrap().find().unwrap_err()
        };
        assert_eq!(
            (find("nothing").errno, find("nothing").subject),
            (Errno::NOENT, "nothing".to_owned())
        );
        assert_eq!(find("data").errno, Errno::ACCESS);
        assert_eq!(find("/nowhere/x").errno, Errno::NOENT);
        assert_eq!(find("/etc").errno, Errno::ISDIR);
    }
}
