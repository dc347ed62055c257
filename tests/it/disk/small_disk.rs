//! A disk of its own for a test, small enough to be filled: a file system in a mount namespace that ends with the test.
//!
//! Needs root, or a kernel that lets anybody make user namespaces; without either the test fails and says so.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Set in the process that is inside.
const INSIDE: &str = "DISK_TEST_INSIDE";

/// Runs `body` in a mount namespace: the test runs itself again there. `name` is the test's whole name.
pub(crate) fn in_namespace(name: &str, body: impl Future<Output = ()>) {
    if is_inside(name) {
        return run_inside(body);
    }
    // Root of a container may lack the right that root of a user namespace has.
    let as_we_are = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    let user: &[&str] = if as_we_are.is_ok_and(|status| status.success()) { &[] } else { &["--map-root-user"] };
    let inside = Command::new("unshare")
        .args(user)
        .arg("--mount")
        .arg(std::env::current_exe().expect("this test"))
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, name)
        .output()
        .expect("unshare is needed: apt-get install util-linux");
    let text = format!("{}{}", String::from_utf8_lossy(&inside.stdout), String::from_utf8_lossy(&inside.stderr));
    assert!(
        inside.status.success(),
        "{text}\n{name} failed in its own mount namespace (if that could not be made: run the tests as root, or allow user \
         namespaces with `sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0`)"
    );
    assert!(text.contains("1 passed"), "{name} is not the name of the test:\n{text}");
}

/// Runs `body` in a process of its own: the test runs itself again. `name` is the test's whole name.
///
/// For judging the age of what another process has stamped: it counts in full from a process's first look at the clock on
/// (see `clock`), and in a process that other tests share that look may have come long before the stamps.
pub(crate) fn in_own_process(name: &str, body: impl Future<Output = ()>) {
    if is_inside(name) {
        return run_inside(body);
    }
    let inside = Command::new(std::env::current_exe().expect("this test"))
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, name)
        .output()
        .expect("this test runs again");
    let text = format!("{}{}", String::from_utf8_lossy(&inside.stdout), String::from_utf8_lossy(&inside.stderr));
    assert!(inside.status.success(), "{text}\n{name} failed in its own process");
    assert!(text.contains("1 passed"), "{name} is not the name of the test:\n{text}");
    println!("{text}");
}

fn is_inside(name: &str) -> bool {
    std::env::var_os(INSIDE).is_some_and(|inside| inside == name)
}

fn run_inside(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(body);
}

/// A mounted file system.
pub(crate) struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// One of this many MiB.
    pub(crate) fn new(mib: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("small-disk-").tempdir().unwrap();
        // For a run by hand, as root, on a real file system.
        if std::env::var("SMALL_DISK").is_ok_and(|kind| kind == "ext4") {
            let image = dir.path().with_extension("image");
            File::create(&image).unwrap().set_len(mib << 20).unwrap();
            run("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
            run("mount", &["-o", "loop", image.to_str().unwrap(), dir.path().to_str().unwrap()]);
            fs::remove_file(image).unwrap();
        } else {
            run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs", dir.path().to_str().unwrap()]);
        }
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    fn other(&self) -> PathBuf {
        self.path().join("somebody-elses-file")
    }

    /// Somebody else takes all room there is.
    pub(crate) fn fill(&self) {
        let mut other = File::options().create(true).append(true).open(self.other()).unwrap();
        for size in [1 << 16, 512, 1] {
            let bytes = vec![b'x'; size];
            while other.write_all(&bytes).and_then(|()| other.sync_data()).is_ok() {}
        }
    }

    /// And gives it back.
    pub(crate) fn free(&self) {
        fs::remove_file(self.other()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a process of a failed test may still have files open there.
        let _ = Command::new("umount").args(["--lazy"]).arg(self.path()).status();
    }
}

fn run(program: &str, args: &[&str]) {
    let ran = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(ran.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}
