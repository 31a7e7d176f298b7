//! The same promises against the machine's own hierarchies. Needs root.

use crate::cgroup::{Cgroup, HierarchyPath};
use crate::device_program::DeviceInsn;
use crate::devices::DevicePrograms;
use crate::error::Error;
use crate::host::CgroupHost;
use crate::layout::{Controller, Layout};
use crate::path::CgroupPath;
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxHugepageLimitBuilder,
    LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A cgroup that is removed with what is in it, however a test ends.
struct Scratch {
    host: CgroupHost,
    parent: CgroupPath,
    cgroup: Cgroup,
    children: Vec<Child>,
}

impl Scratch {
    /// `None`, with the reason printed, where cgroups cannot be made.
    fn new() -> Option<Self> {
        Self::on(CgroupHost::detect())
    }

    /// The same through the unified tree alone, as a v2 host has it, with the
    /// controllers that are there.
    fn unified() -> Option<Self> {
        let host = CgroupHost::detect().ok();
        let tree = host
            .iter()
            .flat_map(CgroupHost::hierarchies)
            .find(|h| h.is_unified());
        let Some(tree) = tree else {
            eprintln!("skipped: needs a unified tree");
            return None;
        };
        Self::on(CgroupHost::detect_at(&tree.mount_point))
    }

    fn each() -> impl Iterator<Item = Self> {
        [Self::new(), Self::unified()].into_iter().flatten()
    }

    fn on(host: crate::error::Result<CgroupHost>) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root: makes cgroups");
            return None;
        }
        let host = match host {
            Ok(host) => host,
            Err(error) => {
                eprintln!("skipped: needs cgroups: {error}");
                return None;
            }
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let parent = format!("/berth-test-{}-{number}", std::process::id());
        let parent = CgroupPath::parse(&parent).unwrap();
        let cgroup = host.create(&parent.join("c").unwrap()).unwrap();
        assert!(cgroup.created());
        Some(Self {
            host,
            parent,
            cgroup,
            children: Vec::new(),
        })
    }

    /// Starts a shell that runs `script` once it is in the cgroup. The test
    /// process has threads, so the shell is moved from outside, the slow way.
    fn start(&mut self, script: &str) -> i32 {
        self.start_where(script, |_| true)
    }

    fn start_where(&mut self, script: &str, wanted: impl Fn(&HierarchyPath) -> bool) -> i32 {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read gate; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        for view in self.cgroup.paths().iter().filter(|view| wanted(view)) {
            std::fs::write(view.directory.join("cgroup.procs"), pid.to_string()).unwrap();
        }
        let mut gate = child.stdin.take().unwrap();
        gate.write_all(b"\n").unwrap();
        self.children.push(child);
        pid
    }

    fn reap(&mut self) {
        for child in &mut self.children {
            let _ = child.wait();
        }
        self.children.clear();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.cgroup.kill_all(9);
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = self.cgroup.remove();
        if let Ok(parent) = self.host.open(&self.parent) {
            let _ = parent.remove();
        }
    }
}

fn resources(build: impl FnOnce(LinuxResourcesBuilder) -> LinuxResourcesBuilder) -> LinuxResources {
    build(LinuxResourcesBuilder::default()).build().unwrap()
}

fn read(cgroup: &Cgroup, v1: Controller, names: (&str, &str)) -> String {
    let (directory, name) = match cgroup.home(v1).unwrap() {
        crate::cgroup::Home::V1(directory) => (directory, names.0),
        crate::cgroup::Home::V2(directory) => (directory, names.1),
    };
    directory.read(name).unwrap().trim().to_owned()
}

/// cgroup-v2.rst, "Threads": what a threaded subtree makes of the cgroups in it.
#[test]
fn a_cgroup_in_a_threaded_subtree_is_refused_and_nothing_stays_behind() {
    let Some(scratch) = Scratch::unified() else {
        return;
    };
    let tree = scratch.host.hierarchies().iter().find(|h| h.is_unified());
    let parent = scratch.parent.below(&tree.unwrap().mount_point);
    let domain = parent.join("domain");
    let threads = domain.join("threads");
    std::fs::create_dir_all(&threads).unwrap();
    std::fs::write(threads.join("cgroup.type"), "threaded").unwrap();
    let kind = |directory: &std::path::Path| {
        let text = std::fs::read_to_string(directory.join("cgroup.type")).unwrap();
        text.trim().to_owned()
    };
    let passed_on = |directory: &std::path::Path| {
        std::fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap()
    };
    assert_eq!(
        (kind(&domain).as_str(), kind(&threads).as_str()),
        ("domain threaded", "threaded")
    );
    let create = |below: &str| {
        let path = CgroupPath::parse(&format!("{}/{below}", scratch.parent)).unwrap();
        scratch.host.create(&path)
    };
    for (below, above) in [
        ("domain/new", &domain),
        ("domain/new/deep/er", &domain),
        ("domain/threads", &domain),
        ("domain/threads/new", &threads),
    ] {
        let before = [passed_on(&parent), passed_on(&domain), passed_on(&threads)];
        let error = create(below).unwrap_err();
        assert!(
            matches!(&error, Error::Threaded { above: found, .. } if found == above),
            "{error}"
        );
        assert!(
            error.to_string().contains("can hold no container"),
            "{error}"
        );
        assert_eq!(error.blame(), crate::error::Blame::Request);
        assert!(
            !domain.join("new").exists() && !threads.join("new").exists(),
            "{below}"
        );
        let after = [passed_on(&parent), passed_on(&domain), passed_on(&threads)];
        assert_eq!(before, after, "{below}");
    }
    assert_eq!(kind(&threads), "threaded");
    // Beside it there is no such thing.
    let other = create("other").unwrap();
    assert!(other.created());
    other.remove().unwrap();
    std::fs::remove_dir(&threads).unwrap();
    // Without threads in it, it is what it was.
    assert_eq!(kind(&domain), "domain");
    create("domain/new").unwrap().remove().unwrap();
    std::fs::remove_dir(&domain).unwrap();
}

#[test]
fn a_cgroup_is_made_everywhere_found_again_and_removed_with_its_parents_left() {
    for scratch in Scratch::each() {
        let again = scratch.host.create(scratch.cgroup.path()).unwrap();
        assert!(!again.created());
        for view in again.paths() {
            assert!(view.directory.is_dir(), "{view:?}");
        }
        scratch.host.open(scratch.cgroup.path()).unwrap();
        again.remove().unwrap();
        again.remove().unwrap();
        assert!(
            scratch
                .host
                .open(scratch.cgroup.path())
                .unwrap_err()
                .is_not_found()
        );
        assert!(scratch.host.open(&scratch.parent).unwrap().exists());
    }
}

#[test]
fn values_reach_the_kernel_and_change_on_update() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    let cgroup = &scratch.cgroup;
    let cpus = "0".to_owned();
    let mib = 1i64 << 20;
    for (memory, shares, quota) in [
        (64 * mib, 512, 50_000),
        (96 * mib, 1024, 20_000),
        (32 * mib, 2, -1),
    ] {
        let resources = resources(|r| {
            r.memory(
                LinuxMemoryBuilder::default()
                    .limit(memory)
                    .swap(memory)
                    .build()
                    .unwrap(),
            )
            .cpu(
                LinuxCpuBuilder::default()
                    .shares(shares as u64)
                    .quota(quota)
                    .period(100_000u64)
                    .cpus(cpus.clone())
                    .build()
                    .unwrap(),
            )
            .pids(LinuxPidsBuilder::default().limit(77i64).build().unwrap())
        });
        cgroup.apply(&resources).unwrap();
        let names = ("memory.limit_in_bytes", "memory.max");
        assert_eq!(read(cgroup, Controller::Memory, names), memory.to_string());
        let names = ("cpuset.cpus", "cpuset.cpus");
        assert_eq!(read(cgroup, Controller::Cpuset, names), cpus);
        assert_eq!(
            read(cgroup, Controller::Pids, ("pids.max", "pids.max")),
            "77"
        );
        if scratch.host.layout() != Layout::V2 {
            let names = ("cpu.cfs_quota_us", "");
            assert_eq!(read(cgroup, Controller::Cpu, names), quota.to_string());
        }
        let stats = cgroup.stats().unwrap();
        assert_eq!(stats.memory.limit, Some(memory as u64));
        assert_eq!(stats.memory.swap_limit.unwrap_or(0), 0);
        assert_eq!(stats.pids.limit, Some(77));
    }
}

#[test]
fn hugepages_are_limited_on_the_side_that_has_them() {
    for scratch in Scratch::each() {
        if scratch.cgroup.home(Controller::Hugetlb).is_none() {
            eprintln!("skipped: needs the hugetlb controller");
            continue;
        }
        let limit = LinuxHugepageLimitBuilder::default()
            .page_size("2MB")
            .limit(4i64 << 20);
        let resources = resources(|r| r.hugepage_limits(vec![limit.build().unwrap()]));
        scratch.cgroup.apply(&resources).unwrap();
        let stats = scratch.cgroup.hugepage_stats().unwrap();
        let two = stats.iter().find(|s| s.page_size == "2MB").unwrap();
        assert_eq!((two.usage, two.limit), (0, Some(4 << 20)));
    }
}

#[test]
fn device_rules_are_taken_by_v1() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    let Some(directory) = scratch.cgroup.v1(Controller::Devices) else {
        eprintln!("skipped: needs the v1 devices hierarchy");
        return;
    };
    let rules = vec![
        LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .build()
            .unwrap(),
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(LinuxDeviceType::C)
            .major(1i64)
            .minor(3i64)
            .access("rw")
            .build()
            .unwrap(),
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .access("m")
            .build()
            .unwrap(),
    ];
    scratch
        .cgroup
        .apply(&resources(|r| r.devices(rules)))
        .unwrap();
    let list = directory.read("devices.list").unwrap();
    let mut lines: Vec<_> = list.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["b *:* m", "c *:* m", "c 1:3 rw"]);
}

#[test]
fn processes_are_listed_frozen_thawed_and_killed_in_nested_cgroups_too() {
    for mut scratch in Scratch::each() {
        let pid = scratch.start("exec sleep 1000");
        let nested = scratch
            .host
            .create(&scratch.cgroup.path().join("nested").unwrap())
            .unwrap();
        let inner = scratch.start("exec sleep 1000");
        for view in nested.paths() {
            std::fs::write(view.directory.join("cgroup.procs"), inner.to_string()).unwrap();
        }
        let pids = scratch.cgroup.pids().unwrap();
        assert!(pids.contains(&pid) && pids.contains(&inner), "{pids:?}");
        assert!(!nested.pids().unwrap().contains(&pid));
        assert!(!scratch.cgroup.is_frozen().unwrap());
        scratch.cgroup.freeze().unwrap();
        assert!(scratch.cgroup.is_frozen().unwrap());
        scratch.cgroup.thaw().unwrap();
        assert!(!scratch.cgroup.is_frozen().unwrap());
        // A stopped cgroup dies as well.
        scratch.cgroup.freeze().unwrap();
        scratch.cgroup.kill_all(9).unwrap();
        scratch.reap();
        assert!(scratch.cgroup.pids().unwrap().is_empty());
        scratch.cgroup.remove().unwrap();
        assert!(!nested.exists());
        scratch.cgroup.kill_all(9).unwrap();
        assert!(matches!(scratch.cgroup.pids(), Err(Error::NotFound { .. })));
    }
}

#[test]
fn a_fork_bomb_is_killed_on_v1_alone() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    if scratch.host.layout() == Layout::V2 {
        eprintln!("skipped: needs v1 hierarchies");
        return;
    }
    let limit = LinuxPidsBuilder::default().limit(64i64).build().unwrap();
    scratch.cgroup.apply(&resources(|r| r.pids(limit))).unwrap();
    // Not in the unified tree, so that `cgroup.kill` does not see it.
    let script = "while :; do sh -c 'sleep 0.05' & sleep 0.01; done";
    scratch.start_where(script, |view| !view.unified);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!scratch.cgroup.pids().unwrap().is_empty());
    scratch.cgroup.kill_all(9).unwrap();
    scratch.reap();
    scratch.cgroup.remove().unwrap();
}

#[test]
fn other_signals_reach_the_processes() {
    for mut scratch in Scratch::each() {
        scratch.start("exec sleep 1000");
        scratch.cgroup.kill_all(15).unwrap();
        let status = scratch.children[0].wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(15)
        );
        for invalid in [0, -1, 4000] {
            assert!(matches!(
                scratch.cgroup.kill_all(invalid),
                Err(Error::InvalidResource { .. })
            ));
        }
    }
}

#[test]
fn a_memory_limit_below_the_usage_is_refused_with_file_and_value() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let marker = tempfile::NamedTempFile::new().unwrap();
    // Holds 40 MiB of its own.
    let script = format!(
        "exec perl -e '$x = \"a\" x (40<<20); open(F, \">\", \"{}\"); \
         print F \"full\"; close(F); sleep 1000'",
        marker.path().display()
    );
    scratch.start(&script);
    let start = Instant::now();
    while std::fs::read(marker.path()).unwrap().is_empty() {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "the process never filled its memory"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let limit = 4i64 << 20;
    let memory = LinuxMemoryBuilder::default().limit(limit).build().unwrap();
    let error = scratch
        .cgroup
        .apply(&resources(|r| r.memory(memory)))
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&limit.to_string()) && text.contains("memory."),
        "{text}"
    );
    assert!(
        matches!(error, Error::LimitBelowUsage { usage, .. } if usage > 40 << 20),
        "{text}"
    );
    let stats = scratch.cgroup.stats().unwrap();
    assert!(stats.memory.rss >= 40 << 20);
    assert!(stats.memory.working_set <= stats.memory.usage);
    assert!(stats.memory.page_faults > 0);
    assert!(stats.cpu.usage_ns > 0);
    assert!(stats.pids.current >= 1);
}

#[test]
fn samples_from_files_that_are_kept_open_are_fresh() {
    for mut scratch in Scratch::each() {
        scratch.cgroup.keep_stats_open();
        let idle = scratch.cgroup.stats().unwrap();
        scratch.start("i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; exec sleep 1000");
        let start = Instant::now();
        while scratch.cgroup.stats().unwrap().cpu.usage_ns <= idle.cpu.usage_ns + 10_000_000 {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "no processor time is counted"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        scratch.cgroup.kill_all(9).unwrap();
        scratch.reap();
        scratch.cgroup.remove().unwrap();
        assert!(scratch.cgroup.stats().unwrap_err().is_not_found());
    }
}

#[test]
fn an_oom_kill_is_counted() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let limit = 16i64 << 20;
    let memory = LinuxMemoryBuilder::default()
        .limit(limit)
        .swap(limit)
        .build()
        .unwrap();
    scratch
        .cgroup
        .apply(&resources(|r| r.memory(memory)))
        .unwrap();
    assert_eq!(scratch.cgroup.oom_kills().unwrap(), 0);
    // Without a limit it ends well, and at once.
    scratch.start("exec perl -e '$x = \"a\" x (200<<20)'");
    let status = scratch.children[0].wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
    assert!(scratch.cgroup.oom_kills().unwrap() >= 1);
}

#[test]
fn removal_waits_for_processes_that_are_about_to_leave() {
    for mut scratch in Scratch::each() {
        scratch.start("exec sleep 0.7");
        let start = Instant::now();
        scratch.cgroup.remove().unwrap();
        assert!(start.elapsed() < Duration::from_secs(4));
        scratch.reap();
    }
}

#[test]
fn join_files_are_those_of_every_hierarchy() {
    for scratch in Scratch::each() {
        let handles = scratch.cgroup.prepare_join().unwrap();
        let v1 = scratch
            .host
            .hierarchies()
            .iter()
            .filter(|h| !h.is_unified())
            .count();
        let failure = |index| crate::join::JoinFailure { index, errno: 0 };
        for index in 0..v1 {
            assert!(handles.path(failure(index)).unwrap().ends_with("tasks"));
        }
        let unified = handles.path(failure(v1));
        match scratch.cgroup.unified_dir() {
            Some(_) => assert!(unified.unwrap().ends_with("cgroup.procs")),
            None => assert!(unified.is_none()),
        }
        assert!(handles.path(failure(v1 + 1)).is_none());
    }
}

#[test]
fn a_thread_of_its_own_joins_by_itself() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    if scratch.host.layout() == Layout::V2 {
        eprintln!("skipped: needs v1 hierarchies");
        return;
    }
    let handles = scratch.cgroup.prepare_join().unwrap();
    // A thread may be moved alone on v1, so this one stands for the child.
    let lines = std::thread::spawn(move || {
        handles.join_self().unwrap();
        std::fs::read_to_string("/proc/thread-self/cgroup").unwrap()
    })
    .join()
    .unwrap();
    let path = scratch.cgroup.path().as_str();
    for line in lines.lines().filter(|line| !line.starts_with("0::")) {
        assert!(line.ends_with(path), "{line} is not in {path}");
    }
}

#[test]
fn a_device_program_is_taken_and_obeyed_by_the_unified_tree() {
    struct Loader;
    impl DevicePrograms for Loader {
        fn attach(&self, cgroup: BorrowedFd<'_>, program: &[DeviceInsn]) -> std::io::Result<()> {
            let program: Vec<_> = program
                .iter()
                .map(|i| berth_kernel::BpfInstruction {
                    code: i.code,
                    registers: i.registers,
                    offset: i.offset,
                    immediate: i.immediate,
                })
                .collect();
            let loaded = berth_kernel::load_device_program(&program)?;
            Ok(berth_kernel::attach_device_program(cgroup, &loaded, None)?)
        }
    }
    let Some(mut scratch) = Scratch::unified() else {
        return;
    };
    let rule = |allow, access: &str| {
        LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .access(access)
    };
    let zero = || {
        rule(true, "r")
            .typ(LinuxDeviceType::C)
            .major(1i64)
            .minor(5i64)
    };
    let null = || {
        rule(true, "rw")
            .typ(LinuxDeviceType::C)
            .major(1i64)
            .minor(3i64)
    };
    let rules = [rule(false, "rwm"), rule(true, "m"), zero(), null()];
    let rules = rules.map(|rule| rule.build().unwrap()).to_vec();
    scratch
        .cgroup
        .apply_with(&resources(|r| r.devices(rules)), &Loader)
        .unwrap();
    for (script, permitted) in [
        ("head -c 1 /dev/zero", true),
        ("echo > /dev/null", true),
        ("echo > /dev/zero", false),
        ("head -c 1 /dev/full", false),
    ] {
        scratch.start(script);
        let status = scratch.children.pop().unwrap().wait().unwrap();
        assert_eq!(status.success(), permitted, "{script}");
    }
}
